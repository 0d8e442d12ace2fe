"""Owns how a conversation is interrupted at a step of it: killed, deafened, or overtaken by something else.

A step is one round trip. What was sent by then is carried out, as with a process that is killed.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from upsertq import Server
from upsertq.contract.protocol import Ask, Failed, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from upsertq.contract.protocol import Conversation, Effect


def no_sleep(_: float) -> None:
    """Take no time."""


class Halted:
    """A conversation that was halted after so many round trips, as a process that is stopped, or killed."""

    def __init__(self, server: Server, conversation: Conversation[Any], steps: int) -> None:
        self._server = server
        self._conversation = conversation
        self._next: Effect | None = None
        self.ended = False
        """Whether it came to its end, or to an error, before."""
        self.error: Exception | None = None
        with self._ending():
            self._next = next(conversation)
            while steps:
                steps -= isinstance(self._next, Ask)
                self._next = conversation.send(server._perform(self._next, no_sleep))

    def go_on(self) -> Exception | None:
        """Let it go on to its end; returns its error."""
        with self._ending():
            while self._next is not None and not self.ended:
                self._next = self._conversation.send(self._server._perform(self._next, no_sleep))
        return self.error

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except StopIteration:
            self.ended = True
        except Exception as error:  # noqa: BLE001 - it is what the test asks for
            self.ended, self.error = True, error


class Beset(Server):
    """A server on which, at the step number `at`, the answer is lost, or `act` comes before it."""

    def __init__(self, client: redis.Redis, at: int, act: Callable[[], object] | None = None) -> None:
        super().__init__(client)
        self._at = at
        self._act = act
        self.steps = 0

    def _ask(self, commands: Any, node: str = "") -> list[Any]:
        mine = self.steps == self._at
        self.steps += 1
        if mine and self._act is not None:
            self._act()
        replies = super()._ask(commands, node)
        if mine and self._act is None:
            return [Failed(Trouble.AWAY, "the answer is lost")] * len(commands)
        return replies


def snapshot(client: redis.Redis) -> dict[bytes, bytes]:
    """All that is on the server."""
    names: Any = client.keys("*")
    return {name: client.dump(name) for name in names}  # type: ignore[misc]
