"""SIGKILL in the middle of a replay or a discard: every letter stays in exactly one place, and the books balance."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest

import buried
from processes import books, call, document, kill, start
from upsertq.contract.keys import QueueKeys
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from servers import RealServer

KEYS = QueueKeys("q")
COUNT = 16_000
NAMES = [f"i{i}" for i in range(COUNT)]


def ids_in(client: redis.Redis, key: str) -> Counter[str]:
    """Every id of the streams of all shards, with how often it is there."""
    found: Counter[str] = Counter()
    for shard in range(2):
        own = KEYS.shard(shard)
        letters: Any = client.xrange(own.dead) if key == "dead" else buried.pending(client, own)
        for _, fields in letters:
            found.update(orjson.loads(fields[b"ids"]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("command", "counter"), [("replay", "pending"), ("discard", "discarded")])
def test_a_killed_command_is_done_in_part(redis_server: RealServer, tmp_path: Path, command: str, counter: str) -> None:
    """Killed twice in mid-work, each letter is dead or moved, once; a third call does what is left."""
    url = redis_server.url
    with redis_server.client() as client:
        buried.bury_many(client, NAMES)

        def left() -> int:
            return sum(client.xlen(KEYS.shard(shard).dead) for shard in range(2))

        for goal in (COUNT - 2_000, COUNT - 6_000):
            process = start("dead", command, "--queue", "q", "--yes", url=url, log=tmp_path / "log")
            wait_until(lambda goal=goal: left() < goal, 60, "the command works")  # type: ignore[misc]
            kill(process)
            found = books(url, "q")
            assert 0 < found["dead"] == left() < COUNT, "the kill came too late to mean anything"
            assert found[counter] == COUNT - found["dead"]
            dead, pending = ids_in(client, "dead"), ids_in(client, "stream")
            assert max((dead + pending).values()) == 1
            if command == "replay":
                assert (dead + pending).keys() == set(NAMES)
            call("audit", "--queue", "q", url=url)
        before = left()
        told = document("dead", command, "--queue", "q", "--yes", url=url)
        assert (told["selected"], told["gone"], left()) == (before, 0, 0)
        assert books(url, "q", "r")[counter] == COUNT
        assert command != "replay" or ids_in(client, "stream") == Counter(NAMES)
        call("audit", "--queue", "q", url=url)
