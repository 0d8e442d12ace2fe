"""Text is read in bounded lines, whatever the compression, and damage is told from an end."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from upsertq.contract.errors import SourceError
from upsertq.sources import text
from upsertq.sources.text import Bytes, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def plain(content: bytes) -> bytes:
    """No compression."""
    return content


def zst(content: bytes) -> bytes:
    """Zstandard with the content's checksum."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


@given(st.binary(max_size=200), st.integers(1, 40), st.sampled_from([plain, gzip.compress, zst]))
def test_lines_are_what_stands_between_newlines(content: bytes, block: int, squeeze: Callable[[bytes], bytes]) -> None:
    """However the stream is cut into blocks, its lines are the same."""
    if squeeze is plain and content[:2] in {b"\x1f\x8b", b"\x28\xb5"}:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK", block)
        lines = list(Bytes(io.BytesIO(squeeze(content))).lines())
    wanted = content.split(b"\n")
    assert lines == (wanted[:-1] if wanted[-1] == b"" else wanted)


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 12), st.integers(1, 9))
def test_a_line_above_the_limit_is_told_and_passed_over(lengths: list[int], limit: int, block: int) -> None:
    """A long line becomes `None` and harms no other."""
    content = b"\n".join(b"x" * length for length in lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK", min(block, limit))
        patch.setattr(text, "MAX_LINE", limit)
        lines = list(Bytes(io.BytesIO(content)).lines())
    wanted = [None if length > limit else b"x" * length for length in lengths]
    assert lines == (wanted[:-1] if wanted and wanted[-1] == b"" else wanted)


@pytest.mark.parametrize("squeeze", [gzip.compress, zst])
@pytest.mark.parametrize("damage", ["cut off", "changed"])
def test_a_damaged_stream_is_no_end(tmp_path: Path, squeeze: Callable[[bytes], bytes], damage: str) -> None:
    """A compressed file that is cut off or changed raises one error that names it."""
    whole = bytearray(squeeze(b"".join(b"line %d\n" % k for k in range(10_000))))
    if damage == "cut off":
        del whole[-20:]
    else:
        whole[len(whole) // 2] ^= 0xFF
        whole[len(whole) // 2 + 7] ^= 0xFF
    path = tmp_path / "a.jsonl.x"
    path.write_bytes(whole)
    with pytest.raises(SourceError, match=r"a\.jsonl\.x is damaged"), opened(str(path), path.name) as content:
        list(content.lines())


@pytest.mark.slow
@pytest.mark.parametrize("squeeze", [gzip.compress, zst])
def test_a_bomb_does_not_fill_the_memory(squeeze: Callable[[bytes], bytes]) -> None:
    """300 MB of zeros in one line, from a few kilobytes, are read within a sixth of that."""
    bomb = squeeze(bytes(300_000_000))
    tracemalloc.start()
    try:
        assert list(Bytes(io.BytesIO(bomb)).lines()) == [None]
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_what_was_consumed_is_counted_in_bytes_of_the_file(tmp_path: Path) -> None:
    """Progress through a compressed file is told by what is read of the file itself."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x\n" * 1_000_000))
    with opened(str(path), "a.gz") as content:
        for _ in content.lines():
            pass
        assert content.consumed == path.stat().st_size


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error names the file and says why."""
    with pytest.raises(SourceError, match="none cannot be read: No such file"), opened(str(tmp_path / "none"), "none"):
        pass
