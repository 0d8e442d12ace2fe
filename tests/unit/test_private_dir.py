"""Directories of private data are made for their owner alone, and refused where another user could have laid them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from upsertq.contract.errors import ServerUnavailable
from upsertq.embedded.guardian import Home, hold, open_log, try_hold, write_fresh
from upsertq.embedded.private_dir import make_private
from upsertq.embedded.sharing import embedded_server

if TYPE_CHECKING:
    from pathlib import Path

STRANGER = os.geteuid() + 4_321


def mode(path: Path) -> int:
    """The permissions of a path."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be another user, to whom nothing here belongs, as root is to everybody."""
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_it_and_the_parents_that_are_made_are_private(tmp_path: Path, umask: int) -> None:
    """Whatever the umask; parents that are there stay as they are."""
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    before = os.umask(umask)
    try:
        make_private(there / "a" / "b" / "c")
    finally:
        os.umask(before)
    assert [mode(path) for path in (there, there / "a", there / "a/b", there / "a/b/c")] == [0o755, *[0o700] * 3]


def test_one_that_is_there_becomes_private(tmp_path: Path) -> None:
    """Its owner may have made it by hand."""
    tmp_path.chmod(0o777)
    make_private(tmp_path)
    assert mode(tmp_path) == 0o700


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_is_refused(tmp_path: Path, dangling: bool) -> None:  # noqa: FBT001
    """It is neither followed nor changed, also where it leads to nothing."""
    target = tmp_path / "elsewhere"
    if not dangling:
        target.mkdir()
        target.chmod(0o755)
    (tmp_path / "state").symlink_to(target)
    with pytest.raises(OSError, match="state is a link: name the directory itself"):
        make_private(tmp_path / "state")
    assert dangling != target.exists()
    assert dangling or mode(target) == 0o755


def test_a_file_is_refused(tmp_path: Path) -> None:
    """In its place or above it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file is no directory"):
        make_private(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_private(tmp_path / "file" / "state")


@pytest.mark.usefixtures("somebody_else")
def test_one_of_another_user_is_refused(tmp_path: Path) -> None:
    """Root is no exception: what it would keep there the owner could read and exchange."""
    tmp_path.chmod(0o755)
    with pytest.raises(OSError, match=f"belongs to another user \\(number {tmp_path.stat().st_uid}\\)"):
        make_private(tmp_path)
    assert mode(tmp_path) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_a_parent_that_is_another_users_link_is_refused(tmp_path: Path) -> None:
    """The link's owner decides where it leads; one of our own or of the system's is as good as its target."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    make_private(tmp_path / "link" / "state")
    assert mode(tmp_path / "real" / "state") == 0o700
    os.chown(tmp_path / "link", STRANGER, -1, follow_symlinks=False)
    with pytest.raises(OSError, match=f"link is a link of another user \\(number {STRANGER}\\)"):
        make_private(tmp_path / "link" / "state")


@pytest.mark.parametrize("name", ["", "redis", "redis/data"])
def test_the_embedded_server_refuses_a_link(tmp_path: Path, name: str) -> None:
    """For its state directory and for each directory in it: one line, and nothing is written where the link leads."""
    target, linked = tmp_path / "target", tmp_path / "state" / name
    target.mkdir()
    linked.parent.mkdir(parents=True, exist_ok=True)
    linked.symlink_to(target)
    with pytest.raises(ServerUnavailable, match=r"cannot use .* is a link: .*--redis-url or another directory"):
        embedded_server(tmp_path / "state").__enter__()
    assert not list(target.iterdir())


@pytest.mark.usefixtures("somebody_else")
def test_the_embedded_server_refuses_a_foreign_directory(tmp_path: Path) -> None:
    """One line that says whose it is."""
    with pytest.raises(ServerUnavailable, match=r"cannot use .* belongs to another user .*UPSERTQ_STATE_DIR"):
        embedded_server(tmp_path).__enter__()


def test_no_file_of_the_embedded_server_follows_a_link(tmp_path: Path) -> None:
    """Locks and the log refuse it, whatever is written anew replaces it."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    home = Home(tmp_path)
    for path in (home.lock("users"), home.log, home.config):
        path.symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        hold(home.lock("users"))
    with pytest.raises(OSError, match="symbolic links"):
        try_hold(home.lock("users"))
    with pytest.raises(OSError, match="symbolic links"):
        open_log(home)
    write_fresh(home.config, "new")
    assert (home.config.read_text(), precious.read_text()) == ("new", "precious")
    assert stat.S_IMODE(home.config.lstat().st_mode) == 0o600
