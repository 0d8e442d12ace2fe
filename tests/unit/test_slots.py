"""How the commands of one `Ask` are spread over a cluster's nodes, and what becomes of nodes that say: not here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from redis.crc import key_slot

from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import Ask, Failed, Redirect, Trouble
from upsertq.contract.slots import HOPS, POLL_SECONDS, Slots, routed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upsertq.contract.address import Node

KEYS: Final = QueueKeys("q")
A, B, C = (("10.0.0.1", port) for port in (7001, 7002, 7003))
TOLD: Final = [
    [0, 5460, [b"10.0.0.1", 7001, b"id1"], [b"10.0.0.4", 7004, b"id4"]],
    [5461, 10922, [b"", 7002, b"id2"]],
    [10923, 16383, [b"?", 7003, b"id3"]],
]


def slots() -> Slots:
    """Three primaries, of which two do not know how they are reached."""
    made = Slots()
    assert made.learn(TOLD, "10.0.0.1")
    return made


def node_of(key: str) -> Node:
    """The primary of a key."""
    return (A, B, C)[min(key_slot(key.encode()) // 5461, 2)]


def shard_on(node: Node, but: int = -1) -> int:
    """A shard whose keys are on this node."""
    return next(k for k in range(100) if node_of(KEYS.shard(k).books) == node and k != but)


Sent = list[Any]


def carried_out(ask: Ask, known: Slots, answer: Callable[[Node, Sequence[Any]], Any]) -> tuple[list[Any], Sent]:
    """The replies, and what was sent or waited in between; each node gives one answer to each command."""
    route, sent = routed(ask, known), Sent()
    try:
        effect: Any = next(route)
        while True:
            sent.append(effect)
            if isinstance(effect, float):
                effect = route.send({})
            else:
                effect = route.send({node: [answer(node, one) for one in some] for node, some in effect.items()})
    except StopIteration as stop:
        return stop.value, sent


def moved(to: Node, slot: int, *, once: bool = False) -> Failed:
    """What a node says that does not have the keys."""
    return Failed(Trouble.REFUSED, "1 host:1", to=Redirect(slot, *to, once))


def test_each_command_goes_to_its_node_and_the_replies_keep_their_order() -> None:
    """In one step, the nodes side by side."""
    shards = [shard_on(node) for node in (C, A, B, A)]
    commands = [["HGET", KEYS.shard(k).books, str(at)] for at, k in enumerate(shards)]
    replies, sent = carried_out(Ask(commands), slots(), lambda node, one: (node, one[2]))
    assert replies == [(C, "0"), (A, "1"), (B, "2"), (A, "3")]
    assert [dict(step) for step in sent] == [{C: commands[:1], A: [commands[1], commands[3]], B: [commands[2]]}]


@pytest.mark.parametrize(
    "command",
    [
        ["EVALSHA", "0" * 40, 2, KEYS.shard(5).lease, KEYS.shard(5).books, "x"],
        ["EVAL", "return 1", 1, KEYS.shard(5).lease],
        ["XREAD", "COUNT", 5, "STREAMS", KEYS.shard(5).stream("n"), KEYS.shard(5).bell, "0", "0"],
        ["SCAN", "0", "MATCH", f"{KEYS.shard(5).stream('')}*", "COUNT", 5],
        ["XRANGE", KEYS.shard(5).dead, "-", "+"],
        ["HGETALL", KEYS.shard(5).books.encode()],
    ],
    ids=lambda command: command[0],
)
def test_where_a_commands_keys_stand(command: list[Any]) -> None:
    """It goes to the node that has them."""
    replies, _ = carried_out(Ask([command]), slots(), lambda node, _: node)
    assert replies == [node_of(KEYS.shard(5).books)]


def test_what_names_no_key_goes_with_what_does() -> None:
    """So that the time of a heartbeat and that of its reader are of one clock; alone it goes to the first primary."""
    both, _ = carried_out(Ask([["TIME"], ["HGETALL", KEYS.workers]]), slots(), lambda node, _: node)
    assert both == [node_of(KEYS.workers)] * 2
    assert carried_out(Ask([["TIME"]]), slots(), lambda node, _: node)[0] == [A]
    assert carried_out(Ask([["INFO"]], "10.0.0.1:7003"), slots(), lambda node, _: node)[0] == [C]


def test_moved_is_followed_and_remembered() -> None:
    """Only what was refused is sent again, and the map is asked for anew."""
    known, shard = slots(), shard_on(A)
    slot = key_slot(KEYS.shard(shard).books.encode())
    commands = [["HGET", KEYS.shard(shard).books, "x"], ["HGET", KEYS.shard(shard_on(C)).books, "x"]]
    answer: Callable[[Node, Any], Any] = lambda node, _: moved(B, slot) if node == A else node  # noqa: E731
    replies, sent = carried_out(Ask(commands), known, answer)
    assert replies == [B, C]
    assert dict(sent[1]) == {B: commands[:1]}
    assert known.owner(slot) == B
    assert known.stale


def test_ask_is_followed_once() -> None:
    """With ASKING before it; the map stays as it is."""
    known, shard = slots(), shard_on(A)
    slot, command = key_slot(KEYS.shard(shard).books.encode()), ["HGET", KEYS.shard(shard).books, "x"]
    answer: Callable[[Node, Any], Any] = lambda node, _: moved(("", 7002), slot, once=True) if node == A else node  # noqa: E731
    replies, sent = carried_out(Ask([command]), known, answer)
    assert replies == [("10.0.0.1", 7002)]
    assert dict(sent[1]) == {("10.0.0.1", 7002): [["ASKING"], command]}
    assert known.owner(slot) == A


def test_commands_on_a_slot_that_is_moved_keep_their_order() -> None:
    """One of them would be carried out before the other: none is sent on, and others are not concerned."""
    shard, other = shard_on(A), shard_on(C)
    keys = KEYS.shard(shard)
    slot = key_slot(keys.books.encode())
    commands = [["XREVRANGE", keys.bell, "+", "-"], ["SMEMBERS", keys.lanes], ["HGET", KEYS.shard(other).books, "x"]]

    def answer(_: Node, command: Any) -> Any:
        return moved(B, slot, once=True) if command[1] == keys.bell else "done"

    replies, sent = carried_out(Ask(commands), slots(), answer)
    assert [reply.trouble for reply in replies[:2]] == [Trouble.AWAY] * 2
    assert "TRYAGAIN" in replies[0].message
    assert replies[2] == "done"
    assert len(sent) == 1


def test_nodes_that_send_it_round_in_circles() -> None:
    """It ends, and passes."""
    shard = shard_on(A)
    slot, command = key_slot(KEYS.shard(shard).books.encode()), ["HGET", KEYS.shard(shard).books, "x"]
    replies, sent = carried_out(Ask([command]), slots(), lambda node, _: moved(B if node == A else A, slot))
    assert replies[0].trouble is Trouble.NOT_READY
    assert len(sent) == HOPS


def test_a_slot_that_no_node_serves() -> None:
    """Nothing is sent for it, and the failure passes."""
    known = Slots()
    assert known.learn(TOLD[:1], "h")
    replies, sent = carried_out(Ask([["HGET", KEYS.shard(shard_on(C)).books, "x"]]), known, lambda *_: "x")
    assert replies[0].trouble is Trouble.NOT_READY
    assert "--cluster check" in replies[0].cure
    assert sent == []


def reading(*shards: int) -> list[Any]:
    """A read of the bells of some shards that waits for 0.2 s."""
    return [
        "XREAD",
        "COUNT",
        5,
        "BLOCK",
        200,
        "STREAMS",
        *(KEYS.shard(k).bell for k in shards),
        *(["0-0"] * len(shards)),
    ]


def test_a_read_of_several_slots() -> None:
    """One a slot, none of which blocks; the first reply with something in it ends the wait."""
    shards = [shard_on(A), shard_on(A, shard_on(A)), shard_on(C)]
    rounds = iter([[], [], ["x"], [], [], []])
    replies, sent = carried_out(Ask([reading(*shards)]), slots(), lambda *_: next(rounds))
    assert replies == [["x"]]
    first = dict(sent[0])
    assert first[A] == [["XREAD", "COUNT", 5, "STREAMS", KEYS.shard(k).bell, "0-0"] for k in shards[:2]]
    assert len(first[C]) == 1
    assert sent == [first]


def test_a_read_that_finds_nothing_waits() -> None:
    """About as long as one that blocks."""
    replies, sent = carried_out(Ask([reading(shard_on(A), shard_on(C))]), slots(), lambda *_: [])
    assert replies == [[]]
    pauses = [step for step in sent if isinstance(step, float)]
    assert set(pauses) == {POLL_SECONDS}
    assert 0.15 <= sum(pauses) <= 0.2


def test_a_read_of_which_a_part_fails() -> None:
    """It failed: what the others found is read again."""
    away = Failed(Trouble.AWAY, "gone")
    known = slots()
    shards = shard_on(A), shard_on(C)
    replies, _ = carried_out(Ask([reading(*shards)]), known, lambda node, _: away if node == C else ["x"])
    assert replies == [away]
    assert known.stale
    assert known.sources[-1] == C


def test_a_read_of_one_slot_blocks() -> None:
    """It goes out as it is."""
    _, sent = carried_out(Ask([reading(7)]), slots(), lambda *_: [])
    assert [list(step.values()) for step in sent] == [[[reading(7)]]]


@pytest.mark.parametrize(
    "told", [None, [], b"x", 7, [1], [[0, 1]], [[0, "x", [b"h", 1]]], [[0, 1, [b"h", b"x"]]], [[0, 1, 2]]]
)
def test_an_answer_that_tells_nothing(told: object) -> None:
    """What was known before stays."""
    known = slots()
    assert not known.learn(told, "h")
    assert known.primaries == [A, B, C]
