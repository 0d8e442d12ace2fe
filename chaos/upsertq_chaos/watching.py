"""Owns the watcher of a chaos run: a thread that looks at the queue's streams again and again, and writes nothing."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

from upsertq.contract.circumstances import Circumstances
from upsertq.contract.errors import WorldError
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Ask, Conversation, Failed, Hash, pairs
from upsertq.contract.queue import find_queue
from upsertq.contract.server import Server
from upsertq.contract.wire import decode
from upsertq_chaos.cast import producer_of
from upsertq_chaos.gathering import reached
from upsertq_chaos.settled import Batch, Look, Looks

LOOK_SECONDS: Final = 0.5
"""Between two looks: the less, the sooner a version is known to be settled."""
END_SECONDS: Final = 30.0
"""Longer than the server is given for an answer."""


class Watch:
    """Looks at every shard's stream until it is ended; a server that is away for a while is borne with."""

    def __init__(self, url: str, name: str) -> None:
        self.looks = Looks()
        self._url, self._keys = url, QueueKeys(name)
        self._shards = 0
        self._ended = Event()
        self._thread = Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join(END_SECONDS)

    def mishaps(self) -> list[str]:
        """Why its looks prove nothing, if so; to be asked before the end."""
        if not self._thread.is_alive():
            return ["the watcher of the streams ended by itself"]
        return [] if len(self.looks) else ["the watcher never saw the streams"]

    def _run(self) -> None:
        with reached(self._url) as server:
            while not self._ended.wait(LOOK_SECONDS):
                try:
                    looks = self._look(server)
                except WorldError:  # the server is away, or there is no queue yet
                    continue
                for look in looks:
                    self.looks.note(look)

    def _look(self, server: Server) -> list[Look]:
        if not self._shards:
            patience = Circumstances(time.monotonic, time.time).patience(0)
            self._shards = server.hold(find_queue(self._keys, patience)).shards
        return server.hold(look_at(self._keys, self._shards, time.time))


@contextmanager
def watched(url: str, name: str) -> Iterator[Watch]:
    """A watcher of the queue `name` for the length of a block."""
    watch = Watch(url, name)
    watch.start()
    try:
        yield watch
    finally:
        watch.end()


def look_at(keys: QueueKeys, shards: int, wall: Callable[[], float]) -> Conversation[list[Look]]:
    """One look at every shard; a shard that gives no answer is left out."""
    before = wall()
    lanes = yield Ask([["SMEMBERS", keys.shard(shard).lanes] for shard in range(shards)])
    streams = [
        (shard, keys.shard(shard).stream(name.decode()))
        for shard, names in enumerate(lanes)
        if not isinstance(names, Failed)
        for name in names
    ]
    replies = (yield Ask([["XRANGE", stream, "-", "+"] for _, stream in streams])) if streams else []
    after = wall()
    found = {shard: set[Batch]() for shard, names in enumerate(lanes) if not isinstance(names, Failed)}
    for (shard, _), reply in zip(streams, replies, strict=True):
        if isinstance(reply, Failed):
            found.pop(shard, None)
        elif shard in found:
            found[shard] |= {batch for _, fields in reply for batch in _batches(fields)}
    return [Look(shard, before, after, batches) for shard, batches in found.items()]


def _batches(fields: Hash) -> set[Batch]:
    entry = decode(pairs(fields))
    return {
        (producer_of(name), metadata["version"])
        for name, metadata in zip(entry.ids, json.loads(entry.metadata), strict=True)
    }
