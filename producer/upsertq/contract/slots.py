"""Owns which node of a cluster has which slot, and how the commands of one `Ask` are spread over nodes.

That is a conversation of its own: it yields what to send to which node, or a pause, and is given the replies.
"""

from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from upsertq.contract.address import Node
from upsertq.contract.protocol import Argument, Ask, Command, Failed, Redirect, Trouble, is_trouble

TOPOLOGY: Final = ("CLUSTER", "SLOTS")
"""The command whose reply `Slots.learn` takes."""
HOPS: Final = 5
"""How often a command is sent on to another node."""
POLL_SECONDS: Final = 0.05
"""Between two reads of several slots in place of one that blocks, at least."""
SLOT_SECONDS: Final = 0.001
"""The same for each slot that is read."""
COVERAGE: Final = "are all slots of the cluster served (redis-cli --cluster check HOST:PORT)?"
_KEYLESS: Final = frozenset({"CLUSTER", "DBSIZE", "INFO", "PING", "TIME"})

Parts: TypeAlias = Mapping[Node, Sequence[Command]]
Answers: TypeAlias = Mapping[Node, Sequence[Any]]
Route: TypeAlias = Generator[Parts | float, Answers, list[Any]]


class Slots:
    """What is known of a cluster: the primary of each slot. `stale` says that it should be asked for again."""

    def __init__(self) -> None:
        self._owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._nodes: list[Node] = []
        self.away: set[Node] = set()
        """Nodes that gave no answer when they were asked last."""
        self.stale = True

    @property
    def primaries(self) -> list[Node]:
        """The nodes that have slots, by their first one."""
        return list(dict.fromkeys(owner for owner in self._owners if owner is not None))

    @property
    def sources(self) -> list[Node]:
        """Every node that is known, those first that may answer: any of them can tell which node has what."""
        return sorted(self._nodes, key=lambda node: node in self.away)

    def owner(self, slot: int | None) -> Node | None:
        """The primary of a slot, of the first one for `None`; `None` where the slot has none."""
        if slot is None:
            return next((owner for owner in self._owners if owner is not None), None)
        return self._owners[slot]

    def learn(self, told: object, host: str) -> bool:
        """Take in the reply to `TOPOLOGY` of the node at `host`; returns whether it said anything."""
        owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        nodes: dict[Node, None] = {}
        try:
            for first, last, *some in told if isinstance(told, list) else ():
                of_range = [_node_of(one, host) for one in some]
                nodes |= dict.fromkeys(of_range)
                owners[first : last + 1] = of_range[:1] * (last + 1 - first)
        except (TypeError, ValueError, LookupError, AttributeError):
            return False
        if not nodes:
            return False
        self._owners, self._nodes = owners, list(nodes)
        self.stale = False
        return True

    def move(self, slot: int, to: Node) -> None:
        """A node says that another one has the slot."""
        self._owners[slot] = to
        self.stale = True

    def note(self, node: Node, replies: Sequence[Any]) -> None:
        """Note by the replies of a node whether it is away, and whether slots may have another primary."""
        if any(is_trouble(reply, Trouble.AWAY) for reply in replies):
            self.away.add(node)
        else:
            self.away.discard(node)
        if any(is_trouble(reply, Trouble.AWAY, Trouble.NOT_READY) for reply in replies):
            self.stale = True


def routed(ask: Ask, slots: Slots) -> Route:
    """Carry out one `Ask` on a cluster; returns the replies in the order of its commands.

    A read of streams in several slots becomes one read a slot; if it would block, these are repeated until it is over,
    for one connection can block for one slot only.
    """
    pieces: list[Command] = []
    ends: list[int] = []
    wait = 0.0
    for command in ask.commands:
        reads, blocks = _reads(command)
        pieces += reads
        ends.append(len(pieces))
        wait = blocks if len(ask.commands) == 1 else 0.0
    pause = max(POLL_SECONDS, SLOT_SECONDS * len(pieces))
    while True:
        replies = yield from _sent(pieces, ask.node, slots)
        whole = [_merged(replies[first:last]) for first, last in zip([0, *ends], ends, strict=False)]
        wait -= pause
        if wait < 0 or any(whole):
            return whole
        yield pause


def _sent(pieces: Sequence[Command], to: str, slots: Slots) -> Route:
    """Send each command to the node that has its slot, on to where that says it is, and again."""
    of_slots = [_slot_of(piece) for piece in pieces]
    first = next((slot for slot in of_slots if slot is not None), None)
    replies: list[Any] = [None] * len(pieces)
    todo: dict[int, tuple[Node, bool]] = {}
    for i, slot in enumerate(of_slots):
        owner = _named(to) if to else slots.owner(first if slot is None else slot)
        if owner is None:
            replies[i] = _unserved(slot)
        else:
            todo[i] = owner, False
    for _ in range(HOPS):
        if not todo:
            break
        answers = yield _parts(pieces, todo)
        redirected: dict[int, tuple[Node, bool]] = {}
        for node, indices in _by_node(todo).items():
            slots.note(node, answers[node])
            for i, reply in zip(indices, _without_asking(answers[node], indices, todo), strict=True):
                replies[i] = reply
                if isinstance(reply, Failed) and reply.to is not None:
                    redirected[i] = _follow(reply.to, node, slots)
        todo = _in_order(redirected, of_slots, replies)
    for i in todo:
        replies[i] = _moving(of_slots[i], Trouble.NOT_READY)
    return replies


def _in_order(
    redirected: dict[int, tuple[Node, bool]], of_slots: Sequence[int | None], replies: list[Any]
) -> dict[int, tuple[Node, bool]]:
    """What is to be sent on. Of several commands on a slot that is being moved none is: they could change places."""
    asked = {of_slots[i] for i, (_, once) in redirected.items() if once}
    for slot in asked:
        concerned = [i for i, of in enumerate(of_slots) if of == slot]
        if len(concerned) > 1:
            for i in concerned:
                replies[i] = _moving(slot, Trouble.AWAY)  # some of them were carried out, perhaps
                redirected.pop(i, None)
    return redirected


def _follow(to: Redirect, node: Node, slots: Slots) -> tuple[Node, bool]:
    there = (node[0] if to.host in {"", "?"} else to.host, to.port)
    if not to.once:
        slots.move(to.slot, there)
    return there, to.once


def _by_node(todo: Mapping[int, tuple[Node, bool]]) -> dict[Node, list[int]]:
    found: dict[Node, list[int]] = defaultdict(list)
    for i, (node, _) in todo.items():
        found[node].append(i)
    return found


def _parts(pieces: Sequence[Command], todo: Mapping[int, tuple[Node, bool]]) -> dict[Node, list[Command]]:
    parts: dict[Node, list[Command]] = defaultdict(list)
    for i, (node, once) in todo.items():
        parts[node] += [["ASKING"], pieces[i]] if once else [pieces[i]]
    return parts


def _without_asking(answers: Sequence[Any], indices: Sequence[int], todo: Mapping[int, tuple[Node, bool]]) -> list[Any]:
    left = iter(answers)
    found = []
    for i in indices:
        if todo[i][1]:
            next(left)
        found.append(next(left))
    return found


def _slot_of(command: Command) -> int | None:
    """The slot of a command's keys, which are all in one; `None` where it has none."""
    name = command[0]
    if name in _KEYLESS:
        return None
    key: Argument = command[1]
    if name in {"EVALSHA", "EVAL"}:
        key = command[3]
    elif name == "XREAD":
        key = command[_keys_at(command)]
    elif name == "SCAN":
        key = command[3]  # the pattern: one with a hash tag finds keys of its slot alone
        if _glob_in_tag(str(key)):
            return None
    return key_slot(_as_bytes(key))


def _glob_in_tag(pattern: str) -> bool:
    tag = pattern.partition("{")[2].partition("}")[0]
    return not tag or any(char in tag for char in "*?[")


def _reads(command: Command) -> tuple[list[Command], float]:
    """The command; one that reads streams in several slots as one a slot, and the seconds for which it would block."""
    if command[0] != "XREAD":
        return [command], 0.0
    at = _keys_at(command)
    keys, places = command[at : at + (len(command) - at) // 2], command[at + (len(command) - at) // 2 :]
    of_slots: dict[int, list[tuple[Argument, Argument]]] = defaultdict(list)
    for key, place in zip(keys, places, strict=True):
        of_slots[key_slot(_as_bytes(key))].append((key, place))
    if len(of_slots) == 1:
        return [command], 0.0
    head, wait = list(command[:at]), 0.0
    if "BLOCK" in head:
        block = head.index("BLOCK")
        wait = int(head[block + 1]) / 1000
        del head[block : block + 2]
    return [[*head, *(k for k, _ in some), *(p for _, p in some)] for some in of_slots.values()], wait


def _keys_at(command: Command) -> int:
    return list(command).index("STREAMS") + 1


def _as_bytes(key: Argument) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogateescape")


def _merged(replies: Sequence[Any]) -> Any:
    """The reply of a read out of those of its parts: what one of them fails by, else all that they found."""
    if len(replies) == 1:
        return replies[0]
    failed = [reply for reply in replies if isinstance(reply, Failed)]
    return failed[0] if failed else [found for reply in replies for found in reply or ()]


def _named(name: str) -> Node:
    host, _, port = name.rpartition(":")
    return host, int(port)


def _node_of(told: Sequence[Any], host: str) -> Node:
    name = told[0].decode("ascii") if told[0] else ""
    return (host if name in {"", "?"} else name), int(told[1])


def _unserved(slot: int | None) -> Failed:
    which = "no slot is" if slot is None else f"slot {slot} is not"
    return Failed(Trouble.NOT_READY, f"CLUSTERDOWN {which} served by any node", COVERAGE)


def _moving(slot: int | None, trouble: Trouble) -> Failed:
    return Failed(trouble, f"TRYAGAIN slot {slot} is being moved to another node")
