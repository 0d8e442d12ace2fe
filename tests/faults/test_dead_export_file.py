"""`upsertq dead export` makes a private file of its own, whole or not at all, and touches nothing else."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

import buried
from processes import COMMAND, call, complaint, environment
from terminals import a_device

if TYPE_CHECKING:
    from pathlib import Path

    from servers import RealServer


@pytest.fixture
def url(redis_server: RealServer) -> str:
    """Provide a server with 500 dead letters in queue `q`."""
    with redis_server.client() as client:
        buried.bury_many(client, (f"d{k}" for k in range(500)))
    return redis_server.url


def export(url: str, target: Path, limit: int | None = None) -> tuple[int, str]:
    """Run the export, where asked with a limit on the size of files; its exit code and what it said on stderr."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [*COMMAND, "dead", "export", str(target), "--queue", "q"],
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=limited,
    )
    return done.returncode, done.stderr


def test_the_file_is_private_and_whole(url: str, tmp_path: Path) -> None:
    """It replaces a file, whatever its permissions were, and leaves nothing beside it."""
    target = tmp_path / "out.jsonl"
    target.write_text("before")
    target.chmod(0o644)
    call("dead", "export", target, "--queue", "q", url=url)
    assert len(target.read_bytes().splitlines()) == 500
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_devices_are_refused(url: str) -> None:
    """In one line."""
    with a_device() as device:
        assert f"{device} is a device" in complaint("dead", "export", device, "--queue", "q", url=url, expect=1)


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_special_files_are_refused(url: str, tmp_path: Path, kind: str) -> None:
    """In one line; what a link leads to is neither replaced nor written to."""
    target, other = tmp_path / "out.jsonl", tmp_path / "other"
    other.write_text("precious")
    if kind == "link":
        target.symlink_to(other)
    else:
        os.mkfifo(target)
    before = target.lstat()
    said = complaint("dead", "export", target, "--queue", "q", url=url, expect=1)
    assert f"{target} is a " in said
    assert target.lstat().st_ino == before.st_ino
    assert other.read_text() == "precious"


def test_a_full_disk_is_one_line_and_leaves_what_was(url: str, tmp_path: Path) -> None:
    """No part of an export is taken for the whole."""
    target = tmp_path / "out.jsonl"
    target.write_text("before")
    code, said = export(url, target, limit=20_000)
    assert (code, said.count("\n")) == (1, 1), said
    assert f"{target} cannot be written: File too large" in said
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert export(url, target)[0] == 0
