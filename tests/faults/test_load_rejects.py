"""A file of rejects destroys no input, keeps what was rejected however the load ends, and never fills a disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from processes import COMMAND, call, complaint, environment
from queued import books_of, command, upsertq
from terminals import a_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import RealServer

GOOD = b'{"id": "a", "values": [1, 2]}\n'
BAD = b'{"id": "", "values": [1, 2]}\n'
TWO = GOOD + BAD


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def named(path: Path) -> list[str]:
    """The input's own name."""
    return [str(path), "--rejects", str(path)]


def hard_link(path: Path) -> list[str]:
    """Another name of the same file."""
    path.with_name("hard.jsonl").hardlink_to(path)
    return [str(path), "--rejects", str(path.with_name("hard.jsonl"))]


def linked_input(path: Path) -> list[str]:
    """The input is named by a link."""
    path.with_name("soft.jsonl").symlink_to(path)
    return [str(path.with_name("soft.jsonl")), "--rejects", str(path)]


def linked_rejects(path: Path) -> list[str]:
    """The file of rejects is a link to the input."""
    path.with_name("soft.jsonl").symlink_to(path)
    return [str(path), "--rejects", str(path.with_name("soft.jsonl"))]


def linked_folder(path: Path) -> list[str]:
    """The same folder by a link."""
    path.parent.with_name("folder").symlink_to(path.parent)
    return [str(path), "--rejects", str(path.parent.with_name("folder") / path.name)]


def other_case(path: Path) -> list[str]:
    """The same name in capitals, where the file system knows no difference."""
    other = path.with_name(path.name.upper())
    if not other.exists():
        pytest.skip("this file system knows capitals")
    return [str(path), "--rejects", str(other)]


def redirected(path: Path) -> list[str]:
    """`-` with the input as stdin."""
    return ["-", "--rejects", str(path)]


def device(path: Path) -> list[str]:
    """/dev/stdin."""
    return ["/dev/stdin", "--format", "jsonl", "--rejects", str(path)]


def descriptor(path: Path) -> list[str]:
    """/proc/self/fd/0, or its like."""
    name = "/proc/self/fd/0" if Path("/proc/self/fd").exists() else "/dev/fd/0"
    return [name, "--format", "jsonl", "--rejects", str(path)]


def second(path: Path) -> list[str]:
    """One input of several."""
    path.with_name("b.jsonl").write_bytes(GOOD)
    return [str(path.with_name("b.jsonl")), str(path), "--rejects", str(path)]


@pytest.mark.parametrize(
    "arguments",
    [named, hard_link, linked_input, linked_rejects, linked_folder, other_case, redirected, device, descriptor, second],
)
def test_an_input_is_never_the_file_of_rejects(
    redis_server: RealServer, tmp_path: Path, arguments: Callable[[Path], list[str]]
) -> None:
    """By whatever name it goes: exit code 2, the input is as it was, and nothing is enqueued."""
    path = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir()
    path.write_bytes(TWO)
    with path.open("rb") as content:
        ended = subprocess.run(
            command("load", *arguments(path), "--redis-url", redis_server.url),
            stdin=content,
            capture_output=True,
            check=False,
            timeout=60,
        )
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"is what is loaded" in ended.stderr
    assert ended.stderr.count(b"\n") == 1
    assert path.read_bytes() == TWO
    assert books_of(redis_server).enqueued == 0


@pytest.mark.parametrize("given", [True, False])
def test_a_file_of_ids_is_never_the_file_of_rejects(redis_server: RealServer, tmp_path: Path, given: bool) -> None:  # noqa: FBT001
    """Neither one that was named, nor one that was found beside its matrix."""
    np.save(tmp_path / "m.npy", np.ones((2, 2), np.float32))
    ids = tmp_path / "m.ids.txt"
    ids.write_text("a\nb\n")
    options = ["--ids", str(ids)] if given else []
    said = complaint("load", tmp_path / "m.npy", *options, "--rejects", ids, url=redis_server.url, expect=2)
    assert "m.ids.txt' is what is loaded" in said
    assert ids.read_text() == "a\nb\n"


def test_a_pipe_that_reads_the_file_is_read_to_its_end(redis_server: RealServer, tmp_path: Path) -> None:
    """`cat F | upsertq load - --rejects F` cannot be known for what it is, and still loads all of F."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(TWO * 500)
    line = f"cat {path} | {' '.join(COMMAND)} load - --rejects {path} --json"
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=environment(redis_server.url), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)
    assert (told["loaded"], told["rejected"]) == (500, 500)
    assert len(path.read_bytes().splitlines()) == 500


def test_the_file_of_rejects_is_private_and_alone(redis_server: RealServer, tmp_path: Path) -> None:
    """0600, whatever stood there; nothing is left beside it; a load without rejects leaves an empty file."""
    path, rejects = tmp_path / "in.jsonl", tmp_path / "bad.jsonl"
    path.write_bytes(TWO)
    rejects.write_text("of another load\n")
    rejects.chmod(0o666)
    call("load", path, "--rejects", rejects, url=redis_server.url, expect=3)
    assert json.loads(rejects.read_bytes())["_reject"]["line"] == 2
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    path.write_bytes(GOOD)
    call("load", path, "--rejects", rejects, url=redis_server.url)
    assert rejects.read_bytes() == b""
    assert names(tmp_path) == ["bad.jsonl", "in.jsonl"]


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_special_files_are_refused(redis_server: RealServer, tmp_path: Path, kind: str) -> None:
    """Before anything is enqueued, in one line, and without waiting for a reader of a pipe."""
    path, rejects = tmp_path / "in.jsonl", tmp_path / "bad.jsonl"
    path.write_bytes(TWO)
    if kind == "fifo":
        os.mkfifo(rejects)
    elif kind == "link":
        rejects.symlink_to(tmp_path / "elsewhere")
    else:
        rejects.mkdir()
    said = complaint("load", path, "--rejects", rejects, url=redis_server.url, expect=2 if kind == "folder" else 1)
    assert str(rejects) in said
    assert books_of(redis_server).enqueued == 0
    assert not (tmp_path / "elsewhere").exists()


def test_devices_are_refused(redis_server: RealServer, tmp_path: Path) -> None:
    """Before anything is enqueued."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(TWO)
    with a_device() as device:
        said = complaint("load", path, "--rejects", device, url=redis_server.url, expect=1)
    assert f"{device} is a device" in said
    assert books_of(redis_server).enqueued == 0


def test_a_load_that_stops_early_keeps_its_rejects(redis_server: RealServer, tmp_path: Path) -> None:
    """A damaged file ends the load: what was rejected until then is there; with nothing rejected the old file stays."""
    rejects = tmp_path / "bad.jsonl"
    rejects.write_text("of another load\n")
    damaged, good = tmp_path / "b.csv", tmp_path / "a.jsonl"
    damaged.write_bytes(b'id,values\na,"[1,2]"\n' + b"b,\xff\xfe\n" * 9)
    good.write_bytes(GOOD)
    said = complaint("load", good, damaged, "--rejects", rejects, url=redis_server.url, expect=1)
    assert "is damaged" in said or "UTF-8" in said
    assert rejects.read_text() == "of another load\n"
    good.write_bytes(TWO)
    complaint("load", good, damaged, "--rejects", rejects, url=redis_server.url, expect=1)
    assert json.loads(rejects.read_text())["_reject"]["line"] == 2
    assert names(tmp_path) == ["a.jsonl", "b.csv", "bad.jsonl"]


def test_max_rejects_stops_the_load(redis_server: RealServer, tmp_path: Path) -> None:
    """A wrong column does not fill the disk: the load stops, keeps what fits in whole lines, and can be resumed."""
    path, rejects = tmp_path / "a.jsonl", tmp_path / "bad.jsonl"
    path.write_bytes(GOOD + BAD * 5_000)
    arguments = ["load", str(path), "--rejects", str(rejects), "--run", "r"]
    said = complaint(*arguments, "--max-rejects", "10000", url=redis_server.url, expect=1)
    assert f"{rejects} would pass 10,000 bytes with {path} line " in said
    assert "--max-rejects" in said
    assert "--resume" in said
    assert 9_000 < rejects.stat().st_size <= 10_000
    assert all(json.loads(line)["_reject"] for line in rejects.read_bytes().splitlines())
    call(*arguments, "--resume", url=redis_server.url, expect=3)
    assert len(rejects.read_bytes().splitlines()) == 5_000
    assert books_of(redis_server).enqueued == 1


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where one may be mounted."""
    path.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_ends_the_load_with_one_line(redis_server: RealServer, tmp_path: Path) -> None:
    """Exit code 1, one line, no traceback; the lines that fit are kept, and --resume goes on elsewhere."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + BAD * 5_000)
    with small_disk(tmp_path / "disk") as disk:
        arguments = ["load", str(path), "--run", "r"]
        ended = upsertq(*arguments, "--rejects", disk / "bad.jsonl", "--redis-url", redis_server.url)
        assert ended.code == 1
        assert ended.err.count("\n") == 1, ended.err
        assert f"{disk / 'bad.jsonl'} cannot be written: No space left on device; " in ended.err
        assert "--resume" in ended.err
        kept = (disk / "bad.jsonl").read_bytes()
        assert kept.count(b"\n") == len([json.loads(line) for line in kept.splitlines()]) > 100
        assert names(disk) == ["bad.jsonl"]
    call(*arguments, "--resume", "--rejects", tmp_path / "bad.jsonl", url=redis_server.url, expect=3)
    assert len((tmp_path / "bad.jsonl").read_bytes().splitlines()) == 5_000
    assert books_of(redis_server).enqueued == 1


def test_a_limit_on_files_is_a_full_disk(redis_server: RealServer, tmp_path: Path) -> None:
    """The operating system's limit (ulimit -f) is one line too."""
    path, rejects = tmp_path / "a.jsonl", tmp_path / "bad.jsonl"
    path.write_bytes(GOOD + BAD * 5_000)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    ended = subprocess.run(
        command("load", path, "--rejects", rejects, "--redis-url", redis_server.url),
        capture_output=True,
        check=False,
        timeout=60,
        preexec_fn=limit,
    )
    assert ended.returncode == 1
    assert ended.stderr.count(b"\n") == 1, ended.stderr
    assert b"bad.jsonl cannot be written: File too large; " in ended.stderr
    assert 19_000 < rejects.stat().st_size <= 20_000
    assert rejects.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("depth", [300, 900])
def test_rejects_hold_what_is_nested_too_deeply(redis_server: RealServer, tmp_path: Path, depth: int) -> None:
    """A record that nests beyond what JSON's writer takes is set aside like any other, and without --rejects told."""
    path, rejects = tmp_path / "a.jsonl", tmp_path / "bad.jsonl"
    deep: Any = b'{"id": "d", "values": [1, 2], "metadata": {"x": ' + b"[" * depth + b"]" * depth + b"}}\n"
    path.write_bytes(GOOD + deep)
    call("load", path, "--rejects", rejects, url=redis_server.url, expect=3)
    assert json.loads(rejects.read_bytes())["_reject"]["line"] == 2
    assert "line 2" in complaint("load", path, url=redis_server.url, expect=1)


@pytest.mark.parametrize(
    "fields",
    [
        r'"id": "a\ud800"',
        r'"id": "a", "namespace": "\udfff"',
        r'"id": "a", "metadata": {"\ud800": 1}',
        r'"id": "a", "metadata": {"x": ["\ud800"]}',
        '"id": "a", "metadata": {"x": NaN, "y": 1}',
        '"id": "a", "metadata": {"x": -1e999}',
    ],
)
def test_what_is_rejected_is_rejected_again(redis_server: RealServer, tmp_path: Path, fields: str) -> None:
    """Until it is corrected: with another letter, or without the field, another record would land."""
    path, rejects, again = tmp_path / "a.jsonl", tmp_path / "bad.jsonl", tmp_path / "again.jsonl"
    path.write_text(f'{{{fields}, "values": [1, 2]}}\n')
    call("load", path, "--rejects", rejects, url=redis_server.url, expect=3)
    call("load", rejects, "--rejects", again, url=redis_server.url, expect=3)
    assert json.loads(again.read_bytes())["_reject"]["field"] == json.loads(rejects.read_bytes())["_reject"]["field"]


def test_a_name_that_is_no_text_loads(redis_server: RealServer, tmp_path: Path) -> None:
    """A file whose name is no UTF-8, and holds an escape sequence, loads, is resumed, and is named in escapes."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\x1b[31m.jsonl"))
    try:
        path.write_bytes(TWO)
    except OSError:
        pytest.skip("this file system has no such names")
    rejects = tmp_path / "bad.jsonl"
    said = complaint("load", path, url=redis_server.url, expect=1)
    assert r"a\udcff\u001b[31m.jsonl line 2" in said
    call("load", path, "--resume", "--rejects", rejects, url=redis_server.url, expect=3)
    assert json.loads(rejects.read_bytes())["_reject"]["line"] == 2
