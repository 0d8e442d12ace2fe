"""Owns how the worker's scripts and commands are sent, and what their replies mean: lost, damaged, away or sound."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from upsertq.contract.books import check_reopened
from upsertq.contract.errors import QueueDamaged, QueueLost
from upsertq.contract.keys import QueueKeys
from upsertq.contract.protocol import (
    DAMAGED,
    Argument,
    Failed,
    Script,
    ask_all,
    refused,
    run_scripts,
    unavailable,
    worst,
)
from upsertq.contract.queue import QueueShape
from upsertq.contract.server import AsyncServer
from upsertq_worker.queue.protocols import ShardsDamaged

LOST: Final = -1
"""What a script answers first where the shard is of no creation, or of another one."""

Call = tuple[list[str], list[Argument]]
"""Keys and arguments of a script."""


class Calls:
    """Calls to the server of one queue."""

    def __init__(self, server: AsyncServer, shape: QueueShape) -> None:
        self._server = server
        self._shape = shape
        self.keys = QueueKeys(shape.name)
        self.meta: list[Argument] = ["HGET", self.keys.meta, "incarnation"]
        """The command whose reply `check_meta` takes."""

    async def ask(self, *commands: Sequence[Argument]) -> list[Any]:
        """The replies, in which a failure is a value."""
        return await self._server.hold(ask_all(commands)())

    async def by_shard(self, commands: Mapping[int, Sequence[Argument]]) -> dict[int, Any]:
        """The reply about each shard; those whose node gives no answer are left out, where others do."""
        return _answered(dict(zip(commands, await self.ask(*commands.values()), strict=True)))

    async def sure(self, what: str, *commands: Sequence[Argument]) -> list[Any]:
        """The replies, none of which is a failure; raises as `sound`."""
        return sound(await self.ask(*commands), what)

    async def run(
        self, script: Script, calls: Mapping[int, Call], what: str, *, partly: bool = False
    ) -> tuple[dict[int, str], dict[int, list[Any]]]:
        """What is wrong with damaged shards, and what a script replies to a call about each of the others.

        With `partly`, shards whose node gives no answer are left out, where others do.

        Raises:
            QueueLost: a shard is gone, or of another creation.
            ServerUnavailable: the server is away; each call may be repeated.
            ServerRefused: it will not do it.
        """
        replies = dict(zip(calls, await self._server.hold(run_scripts(script, list(calls.values()))), strict=True))
        faults = {shard: fault for shard, reply in replies.items() if (fault := fault_of(reply))}
        for shard in faults:
            del replies[shard]
        if partly:
            replies = _answered(replies)
        sound(list(replies.values()), what)
        lost = [shard for shard, reply in replies.items() if isinstance(reply, list) and reply and reply[0] == LOST]
        if lost:
            check_reopened(self.keys, [replies[shard][1] for shard in lost], self._shape.incarnation)
            raise self.lost(*lost)
        return faults, {shard: reply if isinstance(reply, list) else [reply] for shard, reply in replies.items()}

    async def run_one(self, script: Script, call: Call, what: str) -> list[Any]:
        """What a script replies that is about no shard, but begins as those of shards do; raises as `run`."""
        (reply,) = await self._server.hold(run_scripts(script, [call]))
        if fault := fault_of(reply):
            raise QueueDamaged(f"cannot {what}: the queue is damaged: {fault}")
        sound([reply], what)
        if reply[0] == LOST:
            self.check_meta(reply[1])
        return list(reply)

    def check_meta(self, held: bytes | None) -> None:
        """Raise `QueueLost` where the queue is not there any more, though its shards may be."""
        if held != self._shape.incarnation.encode():
            why = f"the key '{self.keys.meta}' is gone, or is of another creation of the queue"
            raise QueueLost(self._shape.name, why)

    def lost(self, *shards: int) -> QueueLost:
        """The error for shards that are gone, or of another creation."""
        several = len(shards) > 1
        which = f"shard{'s' * several} {', '.join(map(str, shards))} {'are' if several else 'is'}"
        return QueueLost(self._shape.name, f"{which} gone, or of another creation of the queue")


def fault_of(reply: Any) -> str:
    """What is damaged, where that is the reply."""
    return reply.message.partition(DAMAGED)[2] if isinstance(reply, Failed) else ""


def sound_shards(faults: Mapping[int, str]) -> None:
    """Raise `ShardsDamaged` where there is a fault."""
    if damaged := {shard: fault for shard, fault in faults.items() if fault}:
        raise ShardsDamaged(damaged)


def sound(replies: list[Any], what: str) -> list[Any]:
    """The replies; raises `ServerUnavailable` or `ServerRefused` where one is a failure to do `what`."""
    failure = worst(replies)
    if failure is None:
        return replies
    if failure.passes:
        raise unavailable(failure, what)
    raise refused(failure, what)


def text_of(value: bytes) -> str:
    """What the server wrote, for a person or a comparison."""
    return value.decode("utf-8", "backslashreplace")


def name_of(value: bytes) -> str:
    """A namespace as it is written in keys, whatever it is made of."""
    return value.decode("utf-8", "surrogateescape")


def key_of(name: str) -> bytes:
    """A key with a namespace in it as the server has it, whatever that is made of."""
    return name.encode("utf-8", "surrogateescape")


def _answered(replies: Mapping[int, Any]) -> dict[int, Any]:
    """The replies but for those that are failures that pass; all of them where each is one: the server is away."""
    there = {shard: reply for shard, reply in replies.items() if not (isinstance(reply, Failed) and reply.passes)}
    return there or dict(replies)
