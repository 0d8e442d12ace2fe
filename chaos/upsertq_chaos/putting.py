"""Owns one producer of a chaos run, a process of its own: puts batch after batch and notes what is confirmed."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from upsertq.client.enqueue import Limits
from upsertq.client.producer import Producer
from upsertq.contract.errors import WorldError
from upsertq_chaos.cast import BATCH_SECONDS, DIMENSION, Share
from upsertq_chaos.checking import Put

BACKLOG = 20_000
RETRY_SECONDS = 0.2
LAST_SECONDS = 20.0
"""How long a producer that was told to stop bears with a full queue or an absent server."""


def main(arguments: list[str]) -> int:
    """Put batches until SIGTERM; `arguments`: one JSON document with url, queue, notes, start, until and share."""
    given = json.loads(arguments[0])
    stopped: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(time.time()))
    share, notes = Share(*given["share"]), Path(given["notes"])
    producer = Producer(given["queue"], url=sys.stdin.readline().strip(), limits=Limits(records=BACKLOG), timeout=5.0)
    batch = next_batch(notes)
    with notes.open("ab", buffering=0) as file:
        while not stopped and time.time() < given["until"]:
            _wait_for(given["start"] + batch * BATCH_SECONDS, stopped)
            _put(producer, share, batch, file, stopped)
            batch += 1
    return 0


def _wait_for(due: float, stopped: list[float]) -> None:
    while not stopped and (left := due - time.time()) > 0:
        time.sleep(min(left, RETRY_SECONDS))


def _put(producer: Producer, share: Share, batch: int, file: BinaryIO, stopped: list[float]) -> None:
    """Put one batch and flush it; a full queue or an absent server is borne with, unless it is time to stop."""
    ids = share.ids(batch)
    # a line before and a line after: SIGKILL between the two leaves a batch that may or may not be there
    file.write(b'\n{"tried":%d}\n' % batch)
    matrix = np.full((len(ids), DIMENSION), 1.0 + batch, dtype=np.float32)
    metadata: list[Any] = [{"version": batch}] * len(ids)
    put = partial(producer.put_many, ids, matrix, metadata=metadata, namespace=share.namespace)
    if _persist(put, stopped) and _persist(producer.flush, stopped):
        file.write(json.dumps({"confirmed": batch, "at": time.time()}).encode() + b"\n")


def _persist(act: Callable[[], object], stopped: list[float]) -> bool:
    """Do it until it works; `False` where it did not for too long since the signal to stop."""
    while not stopped or time.time() < stopped[0] + LAST_SECONDS:
        try:
            act()
        except WorldError:
            time.sleep(RETRY_SECONDS)
        else:
            return True
    return False


def next_batch(notes: Path) -> int:
    """The batch after the last that was tried."""
    return max((note["tried"] for note in _lines(notes) if "tried" in note), default=-1) + 1


def read_notes(notes: Path, share: Share, put: Put) -> None:
    """Add to `put` what one producer noted in all its lives."""
    for note in _lines(notes):
        if (batch := note.get("tried")) is not None:
            put.note_tried(share.ids(batch), batch)
        else:
            batch = note["confirmed"]
            put.note_confirmed(share.ids(batch), batch)
            put.confirmed_at[share.producer, batch] = note["at"]


def _lines(notes: Path) -> Iterator[dict[str, Any]]:
    if not notes.exists():
        return
    with notes.open("rb") as file:
        for line in file:
            try:
                note = json.loads(line)
            except ValueError:
                continue  # an empty line, or one that SIGKILL cut
            yield note


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
