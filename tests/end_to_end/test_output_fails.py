"""What a command does when its output cannot be written: a full disk is one line, a reader that has gone is none."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import buried
import forked
from processes import COMMAND, call, environment
from upsertq import Producer, Server

if TYPE_CHECKING:
    import redis

    from servers import RealServer

FULL = Path("/dev/full")
REAL = [["--help"], ["status"], ["status", "--json"]]
"""Run by an interpreter of their own: whatever is left to write is written when it ends."""
COMMANDS = [
    *REAL,
    ["status", "--watch", "--json", "--interval", "0.1"],
    ["dead", "list"],
    ["dead", "list", "--json"],
    ["dead", "export", "-"],
    ["dead", "replay", "--dry-run"],
    ["audit", "--json"],
    ["pause", "--reason", "x"],
    ["resume"],
    ["wait", "--json", "--timeout", "0"],
]


@pytest.fixture
def url(redis_server: RealServer, client: redis.Redis) -> str:
    """Provide the address of a server with 300 dead letters."""
    server = Server(client)
    with Producer("default", url=server, shards=2) as producer:
        producer.put_many([f"x{i}" for i in range(300)], np.ones((300, 4)))
    buried.settle(server, client, lambda _: buried.refused("no"), queue="default")
    return redis_server.url


def run(arguments: list[str], url: str, out: int = subprocess.PIPE) -> tuple[int, str | None, str]:
    """Run a command with its stdout going to a descriptor: its exit code, output, and what it complained of."""
    done = subprocess.run(
        arguments,
        env=environment(url),
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def written_to(out: int, arguments: list[str], url: str) -> tuple[int, str]:
    """Run a command with its stdout going to a descriptor: its exit code, and what it complained of."""
    if arguments in REAL:
        code, _, told = run([*COMMAND, *arguments], url, out)
        return code, told
    with tempfile.TemporaryFile() as errors, Path(os.devnull).open("rb") as null:
        code = forked.start(arguments, environment(url), null.fileno(), out, errors.fileno()).wait(60)
        errors.seek(0)
        return code, errors.read().decode()


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(url: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the command, and however Python buffers: exit code 1 and one line that says why."""
    if unbuffered:
        monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    for arguments in REAL if unbuffered else COMMANDS:
        with FULL.open("wb") as full:
            code, told = written_to(full.fileno(), arguments, url)
        assert (code, told.count("\n")) == (1, 1), (arguments, told)
        assert told.startswith("upsertq: cannot write to stdout: No space left on device"), arguments


def test_a_reader_that_has_gone_ends_it_quietly(url: str) -> None:
    """A closed pipe, as `| head` leaves it: exit code 1, and not a word."""
    for arguments in COMMANDS:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            assert written_to(writer, arguments, url) == (1, ""), arguments
        finally:
            os.close(writer)


def test_head_gets_its_lines(url: str) -> None:
    """What was read before the reader went is whole."""
    command = f"{' '.join(COMMAND)} dead list --json | head -n 2"
    _, out, told = run(["bash", "-c", command], url)
    assert out is not None
    assert out.splitlines()[0] == "["
    assert '"id":"x' in out.splitlines()[1]
    assert told == ""


def test_a_log_that_cannot_be_written_changes_no_exit_code(url: str) -> None:
    """What stderr does not take is dropped: the exit code still tells."""
    for out in ([], ["2>&-"], ["2>/dev/full"]) if FULL.exists() else ([], ["2>&-"]):
        command = " ".join([*COMMAND, "status", "--nonsense", *out])
        assert run(["bash", "-c", command], url)[0] == 2, out
    assert call("status", url=url).returncode == 0
