"""The shard of a record never changes: two versions of one id, written years apart, meet in one stream."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from upsertq.contract.keys import MAX_SHARDS, shard_of

GOLDEN = [
    ("", "a", 2070692657),
    ("", "doc-1#chunk-0", 2387773769),
    ("tenant-7", "doc-1#chunk-0", 2220278707),
    ("n", "x" * 512, 877821715),
    ("", '"quoted"\\', 3802032227),
    ("~" * 512, "0", 2364074906),
    ("", "\x7f", 2170781266),
]


@pytest.mark.parametrize(("namespace", "record_id", "crc"), GOLDEN)
@pytest.mark.parametrize("shards", [1, 2, 7, 8, 64, MAX_SHARDS])
def test_golden_values(namespace: str, record_id: str, crc: int, shards: int) -> None:
    """The shard is the CRC-32 of namespace, NUL and id, modulo the number of shards; these values hold for ever."""
    assert shard_of(namespace, record_id, shards) == crc % shards


def test_the_same_in_another_process() -> None:
    """No seed of the process takes part, as it would with `hash`."""
    program = "from upsertq.contract.keys import shard_of; print([shard_of('n', f'id{i}', 8) for i in range(50)])"
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert answers == {f"{[shard_of('n', f'id{i}', 8) for i in range(50)]}\n"}


def test_shards_are_even() -> None:
    """Ordinary ids spread over the shards within a tenth of the mean."""
    spread = Counter(shard_of("", f"doc-{i // 10}#chunk-{i % 10}", 8) for i in range(40_000))
    assert len(spread) == 8
    assert max(spread.values()) < 1.1 * 40_000 / 8
    assert min(spread.values()) > 0.9 * 40_000 / 8
