"""Enqueuing on every server: each record is counted once, limits hold, and a queue that is not ours is left alone."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from buried import pending
from upsertq.client import enqueue
from upsertq.client.enqueue import Enqueuer, Limits
from upsertq.client.pack import Packer
from upsertq.contract import books, queue
from upsertq.contract.errors import (
    QueueFull,
    ServerRefused,
    TooManyDead,
)
from upsertq.contract.keys import QueueKeys, shard_of
from upsertq.contract.protocol import Patience
from upsertq.contract.record import make_record
from upsertq.contract.server import AsyncServer
from upsertq.contract.wire import ENTRY_RECORDS, decode

if TYPE_CHECKING:
    from conftest import Backend
    from upsertq.contract.books import Books
    from upsertq.contract.protocol import Conversation
    from upsertq.contract.server import Server
    from upsertq.contract.wire import Entry

KEYS = QueueKeys("q")
SHARDS = 4
NO_LIMIT = Limits(None, None)
LIFE_MS = 60_000


def no_patience() -> Patience:
    """Return a patience that is over at once."""
    return Patience(0, lambda: 0.0, random.Random(1))


def find() -> Any:
    """Return the conversation that finds the queue."""
    return queue.find_queue(KEYS, no_patience())


class Shop:
    """A producer in the small: a packer and an enqueuer on one server."""

    def __init__(
        self,
        server: Server,
        *,
        limits: Limits = NO_LIMIT,
        ledger: str = "t",
        shards: int = SHARDS,
        max_dead: int | None = None,
    ) -> None:
        self.server = server
        self.shape = server.hold(queue.open_queue(KEYS, shards, 0, no_patience()))
        self.packer = Packer(shards)
        self.enqueuer = Enqueuer(KEYS, self.shape, limits, ledger, LIFE_MS, max_dead)
        self.next = 0

    def pack(self, count: int, *, namespace: str = "", run: str = "", first: int | None = None) -> None:
        """Pack `count` records whose ids are their ordinals."""
        self.next = self.next if first is None else first
        for _ in range(count):
            record = make_record(f"id{self.next}", [1.0, float(self.next)], namespace=namespace)
            self.packer.add(record, run=run, ordinal=self.next, at=7)
            self.next += 1
        self.packer.close_all(7)

    def send(self) -> None:
        """Enqueue all that is packed."""
        self.server.hold(self.enqueuer.enqueue(self.packer, no_patience))

    def books(self, run: str = "") -> Books:
        """Return the queue's or the run's books."""
        return self.server.hold(books.read(KEYS, self.shape.shards, run, no_patience()))


def entries_of(backend: Backend, shard: int) -> list[Entry]:
    """Return the entries of a shard, decoded, in their order over all lanes."""
    return [decode(fields) for _, fields in pending(backend.sync, KEYS.shard(shard))]


def ids_of(backend: Backend, shards: int = SHARDS) -> list[str]:
    """Return the ids of all records in the queue, shard by shard in their order."""
    return [record_id for k in range(shards) for entry in entries_of(backend, k) for record_id in entry.ids]


def test_books_count_what_the_streams_hold(backend: Backend, server: Server) -> None:
    """Records and bytes of every shard and run are those of its entries."""
    shop = Shop(server)
    shop.pack(90, run="a")
    shop.pack(50, namespace="n", run="b")
    shop.pack(10)
    shop.send()
    assert sorted(ids_of(backend)) == sorted(f"id{i}" for i in range(150))
    for shard, kept in enumerate(server.hold(books.read_shards(KEYS, SHARDS, "", no_patience()))):
        entries = entries_of(backend, shard)
        assert kept.enqueued == kept.pending == sum(len(entry.ids) for entry in entries)
        assert kept.bytes == sum(entry.size for entry in entries)
        assert all(shard_of(entry.namespace, i, SHARDS) == shard for entry in entries for i in entry.ids)
    assert (shop.books("a").pending, shop.books("b").enqueued, shop.books().drift) == (90, 50, 0)
    runs = [entry for k in range(SHARDS) for entry in entries_of(backend, k) if entry.run == "b"]
    assert shop.books("b").bytes == sum(entry.size for entry in runs)
    assert {entry.at for k in range(SHARDS) for entry in entries_of(backend, k)} == {7}


def test_the_same_call_twice_counts_once(backend: Backend, server: Server) -> None:
    """A call whose answer was lost is sent again and changes nothing."""
    first, again = Shop(server), Shop(server)
    for shop in (first, again):
        shop.pack(120, run="r")
        shop.send()
        assert shop.packer.records == 0
    assert sorted(ids_of(backend)) == sorted(f"id{i}" for i in range(120))
    assert first.books() == first.books("r")
    assert first.books().enqueued == 120


def test_another_token_is_another_producer(backend: Backend, server: Server) -> None:
    """Only the same ledger makes two calls one."""
    for ledger in ("t", "u"):
        shop = Shop(server, ledger=ledger)
        shop.pack(30)
        shop.send()
    assert len(ids_of(backend)) == 60


def test_a_successor_continues(backend: Backend, server: Server) -> None:
    """A process that repeats its predecessor's work under its token adds only what was missing, in order."""
    died = Shop(server)
    died.pack(100)
    died.send()
    successor = Shop(server)
    successor.pack(100)
    successor.pack(40)
    successor.send()
    assert sorted(ids_of(backend)) == sorted(f"id{i}" for i in range(140))
    for shard in range(SHARDS):
        numbers = [int(record_id[2:]) for entry in entries_of(backend, shard) for record_id in entry.ids]
        assert numbers == sorted(numbers)


def test_a_successor_that_packs_otherwise_loses_nothing(backend: Backend, server: Server) -> None:
    """An entry of which only a part was enqueued before is enqueued whole: better twice than never."""
    died = Shop(server, shards=1)
    died.pack(10)
    died.send()
    successor = Shop(server, shards=1)
    successor.pack(20, first=0)
    successor.send()
    assert set(ids_of(backend, 1)) == {f"id{i}" for i in range(20)}
    assert successor.books().pending == len(ids_of(backend, 1)) == 30


def test_namespaces_have_their_own_place_in_the_ledger(backend: Backend, server: Server) -> None:
    """Entries of several namespaces leave a shard out of the order of their ordinals, and none is taken for known."""
    shop = Shop(server, shards=1)
    for number in range(60):
        record = make_record(f"id{number}", [1.0], namespace=f"n{number % 3}")
        shop.packer.add(record, run="", ordinal=number, at=0)
    shop.packer.close_all(0)
    shop.packer.ready[0].rotate(1)
    shop.send()
    assert sorted(ids_of(backend, 1)) == sorted(f"id{i}" for i in range(60))


def test_the_ledger_expires(backend: Backend, server: Server) -> None:
    """The ledger lives as long as was asked for, so that producers leave nothing behind."""
    shop = Shop(server, shards=1)
    shop.pack(1)
    shop.send()
    life: Any = backend.sync.pttl(KEYS.shard(0).ledger("t"))
    assert 0 < life <= LIFE_MS


@pytest.mark.parametrize("limits", [Limits(records=4 * 150, bytes=None), Limits(None, bytes=4 * 2_500)], ids=str)
def test_a_limit_stops_the_producer_and_keeps_the_rest(backend: Backend, server: Server, limits: Limits) -> None:
    """At the limit `QueueFull` is raised; what is not enqueued is still there, and goes on once there is room."""
    shop = Shop(server, limits=limits)
    shop.pack(1000)
    with pytest.raises(QueueFull, match="stayed there for 0 s"):
        shop.send()
    held = shop.books()
    if limits.records is not None:
        assert held.pending <= limits.records
    else:
        assert limits.bytes is not None
        assert held.bytes <= limits.bytes
    assert held.pending > 0
    assert held.pending + shop.packer.records == 1000
    _raise_limit(shop)
    shop.send()
    assert sorted(ids_of(backend)) == sorted(f"id{i}" for i in range(1000))
    assert shop.books().pending == 1000


def _raise_limit(shop: Shop) -> None:
    shop.enqueuer = Enqueuer(KEYS, shop.shape, NO_LIMIT, "t", LIFE_MS)


def test_an_empty_shard_takes_an_entry_whatever_the_limit(backend: Backend, server: Server) -> None:
    """A limit smaller than an entry cannot stop a queue for ever."""
    shop = Shop(server, limits=Limits(records=1, bytes=1), shards=1)
    shop.pack(2 * ENTRY_RECORDS)
    with pytest.raises(QueueFull):
        shop.send()
    assert shop.books().pending == ENTRY_RECORDS
    assert len(entries_of(backend, 0)) == 1


def test_known_entries_pass_a_full_queue(backend: Backend, server: Server) -> None:
    """Repeating what is enqueued already is no question of room."""
    limits = Limits(records=25, bytes=None)
    shop = Shop(server, limits=limits, shards=1)
    shop.pack(25)
    shop.send()
    again = Shop(server, limits=limits, shards=1)
    again.pack(25)
    again.send()
    assert len(ids_of(backend, 1)) == 25


def bury(backend: Backend, *dead: int) -> None:
    """Let the books of the shards say that so many records are dead."""
    for shard, count in enumerate(dead):
        backend.sync.hset(KEYS.shard(shard).books, "dead", count)


def test_too_many_dead_letters_refuse_and_keep_everything(backend: Backend, server: Server) -> None:
    """At the limit nothing is written and nothing is lost; once a letter is gone the same records go on."""
    shop = Shop(server, max_dead=5)
    bury(backend, 3, 0, 0, 2)
    shop.pack(200, run="r")
    before: Any = backend.sync.dbsize()
    with pytest.raises(TooManyDead, match=r"queue 'q' has 5 dead letters and the limit is 5") as raised:
        shop.send()
    assert (raised.value.queue, raised.value.dead, raised.value.limit) == ("q", 5, 5)
    assert (backend.sync.dbsize(), shop.packer.records, shop.books().enqueued) == (before, 200, 0)
    bury(backend, 3, 0, 0, 1)
    shop.send()
    assert sorted(ids_of(backend)) == sorted(f"id{i}" for i in range(200))
    assert (shop.books("r").enqueued, shop.packer.records) == (200, 0)


def test_the_limit_of_dead_letters_is_of_the_whole_queue(backend: Backend, server: Server) -> None:
    """All letters in one shard count as much as letters everywhere, also for records of another shard."""
    Shop(server)
    bury(backend, 0, 9)
    for limit, refused in ((9, True), (10, False)):
        shop = Shop(server, max_dead=limit)
        shop.pack(1)
        assert next(iter(shop.packer.ready)) != 1
        if refused:
            with pytest.raises(TooManyDead):
                shop.send()
        else:
            shop.send()
    assert len(ids_of(backend)) == 1


def test_letters_that_come_meanwhile_refuse_the_next_round(backend: Backend, server: Server) -> None:
    """A long enqueue is refused soon after the limit is reached: what it enqueued before stays, the rest is kept."""
    shop = Shop(server, shards=1, max_dead=1)
    shop.pack(ENTRY_RECORDS * enqueue.CALL_ENTRIES + 1_000)

    def while_one_dies() -> Conversation[None]:
        enqueuing = shop.enqueuer.enqueue(shop.packer, no_patience)
        replies: Any = None
        while True:
            replies = yield enqueuing.send(replies)
            if shop.books().enqueued:
                bury(backend, 1)

    with pytest.raises(TooManyDead):
        server.hold(while_one_dies())
    assert shop.books().enqueued == len(ids_of(backend, 1)) == ENTRY_RECORDS * enqueue.CALL_ENTRIES
    assert shop.packer.records == 1_000


def test_without_a_limit_dead_letters_refuse_nothing(backend: Backend, server: Server) -> None:
    """By default, and below the limit, records are enqueued whatever died, and no books are asked."""
    shop = Shop(server)
    bury(backend, 1_000_000)
    shop.pack(10)
    asked: Any = next(shop.enqueuer.enqueue(shop.packer, no_patience))
    assert "HMGET" not in {command[0] for command in asked.commands}
    shop.send()
    assert len(ids_of(backend)) == 10


@pytest.mark.parametrize("which", ["stream", "books", "ledger", "run", "lanes", "bell"])
def test_a_key_of_a_foreign_type_changes_nothing(backend: Backend, server: Server, which: str) -> None:
    """When one of the keys is not ours the call fails before anything is written, and the records are kept."""
    shop = Shop(server, shards=1)
    shard = KEYS.shard(0)
    name = {
        "stream": shard.stream(""),
        "books": shard.books,
        "ledger": shard.ledger("t"),
        "run": shard.run("r"),
        "lanes": shard.lanes,
        "bell": shard.bell,
    }[which]
    kept: Any = backend.sync.hgetall(shard.books)
    backend.sync.delete(name)
    backend.sync.set(name, "foreign")
    before = everything(backend)
    shop.pack(30, run="r")
    with pytest.raises(ServerRefused, match=r"is no (stream|hash|set)"):
        shop.send()
    assert everything(backend) == before
    assert shop.packer.records == 30
    backend.sync.delete(name)
    backend.sync.hset(shard.books, mapping=kept)
    shop.send()
    assert shop.books().enqueued == shop.books("r").enqueued == len(ids_of(backend, 1)) == 30


def everything(backend: Backend) -> dict[bytes, Any]:
    """Return every key of the server as DUMP has it."""
    keys: Any = backend.sync.keys()
    return {key: backend.sync.dump(key) for key in keys}


async def test_asyncio_does_the_same(backend: Backend, server: Server) -> None:
    """The asynchronous driver holds the same conversation with the same result."""
    there = AsyncServer(backend.make_async())
    shop = Shop(server)
    shop.pack(70, run="r")
    await there.hold(shop.enqueuer.enqueue(shop.packer, no_patience))
    found = await there.hold(books.read(KEYS, SHARDS, "r", no_patience(), shop.shape.incarnation))
    assert found == shop.books("r")
    assert found.pending == 70
