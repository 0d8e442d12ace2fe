"""An append-only file that a crash cut off anywhere loses the transaction that is not whole, and nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsertq.embedded.torn import cut_torn_transaction

COMMANDS = st.lists(
    st.binary(max_size=12) | st.sampled_from([b"MULTI", b"\r\n$5\r\nMULTI\r\n"]), min_size=2, max_size=4
)
GROUPS = st.lists(st.tuples(st.booleans(), st.lists(COMMANDS, min_size=1, max_size=3)), max_size=5)
MANIFEST = "file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i\nfile a.2.incr.aof seq 2 type i\n"


def written(*words: bytes) -> bytes:
    """Return a command as a server appends it."""
    return b"*%d\r\n%s" % (len(words), b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))


def in_file(directory: Path, content: bytes, *, parts: bool) -> Path:
    """Write what is appended to, as servers before Redis 7 or since; return its path."""
    if not parts:
        path = directory / "appendonly.aof"
    else:
        path = directory / "appendonlydir" / "a.2.incr.aof"
        path.parent.mkdir()
        (path.parent / "appendonly.aof.manifest").write_text(MANIFEST)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("parts", [False, True])
@given(groups=GROUPS, data=st.data())
def test_what_is_not_whole_is_cut(
    *, parts: bool, groups: list[tuple[bool, list[list[bytes]]]], data: st.DataObject
) -> None:
    """A single command that is cut off is left to the server, which mends it well."""
    content, edges = b"", []
    for together, commands in groups:
        begun = len(content)
        group = b"".join(written(b"SET", *words) for words in commands)
        content += written(b"MULTI") + group + written(b"EXEC") if together else group
        edges.append((begun, len(content), together))
    cut_at = data.draw(st.integers(0, len(content)))
    torn = [begun for begun, end, together in edges if together and begun + len(written(b"MULTI")) <= cut_at < end]
    expected = torn[0] if torn else cut_at
    with tempfile.TemporaryDirectory() as name:
        path = in_file(Path(name), content[:cut_at], parts=parts)
        assert cut_torn_transaction(Path(name)) == cut_at - expected
        assert path.read_bytes() == content[:expected]
        assert cut_torn_transaction(Path(name)) == 0


@given(st.binary(max_size=60), st.sampled_from([b"", b"REDIS0011", written(b"MULTI"), written(b"SET", b"a", b"b")]))
def test_what_is_no_command_is_left_alone(junk: bytes, before: bytes) -> None:
    """A damaged file is for the server to judge: only an end that is missing is taken for torn."""
    content = before + b"x" + junk + b"\r\n" + b" " * 64
    with tempfile.TemporaryDirectory() as name:
        path = in_file(Path(name), content, parts=False)
        assert cut_torn_transaction(Path(name)) == 0
        assert path.read_bytes() == content


def test_nothing_there(tmp_path: Path) -> None:
    """A directory without such a file, or with an empty one, needs no mending."""
    assert cut_torn_transaction(tmp_path) == 0
    in_file(tmp_path, b"", parts=True)
    assert cut_torn_transaction(tmp_path) == 0
