"""One primary of a cluster is away and no replica takes over: a worker lets go of its shards, and drains the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

from clusters import RealCluster, slot_of_shard
from conftest import first_kind
from processes import books, call, emulated, start
from upsertq import Producer
from upsertq.contract.keys import shard_of
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

Q: Final = ("--queue", "q")
WORK: Final = ("work", *Q, "--lease", "4", "--quarantine", "0.5", "--linger", "0.02")
SHARDS: Final = 8
COUNT: Final = 400
NEVER: Final = ("--cluster-node-timeout", "600000")
"""The nodes do not find out that one of them is away."""


@pytest.mark.slow
def test_the_shards_of_the_other_primaries_are_drained(tmp_path: Path) -> None:
    """And those of the one that was away once it is back, by the same worker; every version is applied in order."""
    log, ids = tmp_path / "worker.log", [f"id{i}" for i in range(COUNT)]
    with RealCluster(first_kind(), tmp_path, arguments=NEVER) as cluster, emulated() as index:
        away, url = cluster.primaries[0], cluster.nodes[1].url
        owners = [cluster.owner(slot_of_shard("q", shard)) for shard in range(SHARDS)]
        assert 0 < owners.count(away) < SHARDS
        healthy = [name for name in ids if owners[shard_of("", name, SHARDS)] is not away]
        with Producer("q", url=url, shards=SHARDS, timeout=60) as producer:
            producer.put_many(ids, np.full((COUNT, 2), 1, np.float32))
            producer.flush()
            worker = start(*WORK, "--index-host", index.url, url=url, log=log)
            assert producer.wait(timeout=60).pending == 0
            away.kill()
            producer.put_many(healthy, np.full((len(healthy), 2), 2, np.float32))
            assert producer.flush() == len(healthy)
            wait_until(lambda: newest(index.values(healthy)) == {2.0}, 60, "what the others have is in the index")
            assert not away.alive
            away.start()
            rest = sorted({*ids} - {*healthy})
            producer.put_many(rest, np.full((len(rest), 2), 2, np.float32))
            assert producer.wait(timeout=60).pending == 0
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()
        assert newest(index.values(ids)) == {2.0}
        call("audit", *Q, url=url)
        assert books(url, "q")["enqueued"] == 2 * COUNT
    assert "Traceback" not in log.read_text()


def newest(values: dict[str, bytes]) -> set[float]:
    """The first number of each vector."""
    return {float(np.frombuffer(value, "<f4")[0]) for value in values.values()}
