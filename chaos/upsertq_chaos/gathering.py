"""Owns how the evidence of a chaos run is gathered once all is quiet; it judges nothing."""

import json
import random
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from itertools import groupby
from typing import Final

from upsertq.contract import queue
from upsertq.contract.books import Books, read
from upsertq.contract.circumstances import Circumstances
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Patience
from upsertq.contract.server import Server
from upsertq.dead import finding as dead
from upsertq_chaos.cast import Cast, namespace_of
from upsertq_chaos.checking import Applied, Evidence, Put
from upsertq_chaos.putting import read_notes
from upsertq_chaos.running import Index, Stage
from upsertq_chaos.settled import Looks, Settled

PAGE: Final = 100
SAMPLE: Final = 5_000
"""Ids that are fetched from the index, to see that it answers as its journal says."""
PATIENCE_SECONDS: Final = 30.0


@contextmanager
def reached(url: str) -> Iterator[Server]:
    """A connection to the server."""
    server = Server.at(url)
    try:
        yield server
    finally:
        server.close()


def gather(stage: Stage, index: Index, url: str, looks: Looks, replayed: AbstractSet[str]) -> Evidence:
    """Everything that the verdict rests on; the queue is drained and no worker runs any more.

    `replayed`: the ids of the dead letters that were replayed.
    """
    put = read_put(stage, stage.cast)
    code, report = stage.call("audit", "--json")
    drifts = tuple(str(drift) for drift in json.loads(report)["drifts"]) if report else ()
    if code and not drifts:
        stage.tally.mishaps.append(f"upsertq audit ended with code {code}")
    with reached(url) as server:
        letters = read_dead(server, stage.queue)
        books = read_books(server, stage.queue)
        shards = server.hold(queue.find_queue(QueueKeys(stage.queue), _patience())).shards
    applied = read_journal(index, Applied(Settled(looks, shards, put.confirmed_at), replayed))
    return Evidence(
        put=put,
        applied=applied,
        books=books,
        audit=drifts,
        dead=dict(letters),
        dead_letters=len(letters),
        overlaps=index.ask("/_emulator/counters")["overlaps"],
        unlike=tuple(unlike(index, applied, random.Random(stage.cast.seed))),
        mishaps=tuple(stage.tally.mishaps),
    )


def read_journal(index: Index, applied: Applied) -> Applied:
    """The journal of the index, folded into `applied`."""
    for entry in index.journal():
        applied.note(entry["id"], entry["version"], entry["at"])
    return applied


def read_put(stage: Stage, cast: Cast) -> Put:
    """What all producers noted."""
    put = Put()
    for number in range(cast.producers):
        read_notes(stage.notes(number), cast.share(number), put)
    return put


def read_dead(server: Server, name: str) -> list[tuple[str, str]]:
    """Id and reason of every dead letter."""
    keys = QueueKeys(name)
    shape = server.hold(queue.find_queue(keys, _patience()))
    return [(head.id, head.verdict.reason.value) for head in dead.walk(server.hold, keys, shape.shards, _patience)]


def read_books(server: Server, name: str) -> Books:
    """The books of the queue."""
    keys = QueueKeys(name)
    shape = server.hold(queue.find_queue(keys, _patience()))
    return server.hold(read(keys, shape.shards, "", _patience()))


def unlike(index: Index, applied: Applied, rng: random.Random) -> Iterator[str]:
    """Those of a sample of ids, all hot ones among them, whose record in the index is not the journal's last."""
    names = [name for name in applied.last if name.startswith("hot")]
    cold = [name for name in applied.last if not name.startswith("hot")]
    names += rng.sample(cold, min(SAMPLE, len(cold)))
    for namespace, group in groupby(sorted(names, key=namespace_of), key=namespace_of):
        every = list(group)
        for first in range(0, len(every), PAGE):
            page = every[first : first + PAGE]
            asked = [*(("ids", name) for name in page), ("namespace", namespace)]
            found = index.ask("/vectors/fetch", asked)["vectors"]
            for name in page:
                record, version = found.get(name), applied.last[name]
                if not record or record["metadata"]["version"] != version or record["values"][0] != 1.0 + version:
                    yield name


def _patience() -> Patience:
    return Circumstances(time.monotonic, time.time).patience(PATIENCE_SECONDS)
