"""A file that a command writes takes its place at the end, belongs to its owner alone, and replaces nothing special."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from terminals import a_device
from upsertq.client.new_file import NewFile
from upsertq.contract.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN_UMASK = 0o000


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_it_takes_its_place_at_the_end(tmp_path: Path) -> None:
    """Until then what was there stays; afterwards it is whole, private, and the only file."""
    target = tmp_path / "a.jsonl"
    target.write_bytes(b"before")
    target.chmod(0o666)
    before = os.umask(OPEN_UMASK)
    try:
        with NewFile(target) as file:
            file.write(b"one\n")
            file.write(b"two\n")
            assert file.size == 8
            assert target.read_bytes() == b"before"
            file.keep()
            file.keep()
    finally:
        os.umask(before)
    assert target.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert names(tmp_path) == ["a.jsonl"]


def test_what_is_not_kept_leaves_nothing(tmp_path: Path) -> None:
    """The end of the block without `keep` leaves what was there, and nothing beside it."""
    target = tmp_path / "a.jsonl"
    target.write_bytes(b"before")
    with NewFile(target) as file:
        file.write(b"one\n")
        assert len(names(tmp_path)) == 2
    assert target.read_bytes() == b"before"
    assert names(tmp_path) == ["a.jsonl"]


def link(path: Path) -> None:
    """A link to a file that may be written."""
    path.with_name("other").write_bytes(b"precious")
    path.symlink_to("other")


def dangling(path: Path) -> None:
    """A link to nothing."""
    path.symlink_to("nothing")


def bound(path: Path) -> None:
    """A socket."""
    short = Path(os.path.relpath(path))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(short))


@pytest.mark.parametrize(
    ("make", "name"),
    [(link, "a link"), (dangling, "a link"), (os.mkfifo, "a pipe"), (bound, "a socket"), (Path.mkdir, "a folder")],
)
def test_what_is_special_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], name: str
) -> None:
    """Links, pipes, sockets and folders are neither replaced nor followed nor waited for."""
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "a.jsonl"
    make(target)
    before = target.lstat(), names(tmp_path)
    with pytest.raises(SourceError, match=rf"a\.jsonl is {name} and is not written to or replaced"):
        NewFile(target)
    assert (target.lstat(), names(tmp_path)) == before
    if make is link:
        assert target.read_bytes() == b"precious"


def test_what_becomes_special_meanwhile_is_refused(tmp_path: Path) -> None:
    """A link that is laid while the file is written is not replaced; the content stays beside it, and is named."""
    target = tmp_path / "a.jsonl"
    with NewFile(target) as file:
        file.write(b"one\n")
        link(target)
        with pytest.raises(SourceError, match=r"is a link .*; what was written is in .*a\.jsonl\..*\.part") as caught:
            file.keep()
    assert (tmp_path / "other").read_bytes() == b"precious"
    assert Path(str(caught.value).rsplit(" in ", 1)[1]).read_bytes() == b"one\n"


def test_devices_are_refused() -> None:
    """A device is not written to, and above all not replaced by a file."""
    with a_device() as device, pytest.raises(SourceError, match=f"{device} is a device"):
        NewFile(device)


def test_the_null_device_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/dev/null` is the way to say that nothing is to be kept; it stays what it is (here another device plays it)."""
    with a_device() as device:
        monkeypatch.setattr(os, "devnull", str(device))
        with NewFile(device) as file:
            file.write(b"one\n")
            file.keep()
        assert stat.S_ISCHR(device.lstat().st_mode)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "none/a.jsonl"])
def test_a_name_that_cannot_be_is_one_line(tmp_path: Path, name: str) -> None:
    """The operating system's refusal names the file."""
    with pytest.raises(SourceError, match="cannot be written: ") as caught:
        NewFile(tmp_path / name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a\x1b[31m\n", "é" * 127])
def test_any_other_name_is_a_name(tmp_path: Path, name: str) -> None:
    """However odd, or as long as a name may be."""
    with NewFile(tmp_path / name) as file:
        file.keep()
    assert names(tmp_path) == [name]


def test_a_full_disk_keeps_the_lines_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only a part is written, the lines that are whole stay, and no other."""
    target = tmp_path / "a.jsonl"
    room = [10]
    write = os.write

    def filling(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        done = write(descriptor, bytes(data)[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr("upsertq.client.new_file.os.write", filling)
    with NewFile(target) as file:
        file.write(b"one\n")
        with pytest.raises(SourceError, match=r"a\.jsonl cannot be written: No space left on device"):
            file.write(b"two\nthree\n")
        assert file.size == 8
        file.keep()
    assert target.read_bytes() == b"one\ntwo\n"
