"""Owns how a conversation with the server is written down once and held by blocking and by asyncio code alike.

A conversation is a generator: it yields the commands it wants sent, or a pause, and is given the replies. Whatever can
go wrong with a command comes back as a value. This module decides; the two drivers in `upsertq.contract.server` do.
"""

import math
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, TypeAlias, TypeVar

from upsertq.contract.errors import QueueDamaged, QueueFull, ServerRefused, ServerUnavailable

T = TypeVar("T")
Argument: TypeAlias = str | bytes | int
Command: TypeAlias = Sequence[Argument]


Hash: TypeAlias = Mapping[bytes, bytes] | Sequence[bytes]
"""The reply to HGETALL: a mapping, or in a pipeline a flat list."""


def pairs(reply: Hash) -> Mapping[bytes, bytes]:
    """A hash by field, in whichever form the client left it."""
    return reply if isinstance(reply, Mapping) else dict(zip(reply[::2], reply[1::2], strict=True))


def named(reply: Hash) -> dict[str, bytes]:
    """The same with its fields as text."""
    return {name.decode("utf-8", "backslashreplace"): value for name, value in pairs(reply).items()}


@dataclass(frozen=True, slots=True)
class Ask:
    """Send these commands in one round trip; the replies come back in their order.

    In a cluster each goes to the node that has its keys, or all of them to `node`, where one is named; see `Nodes`.
    """

    commands: Sequence[Command]
    node: str = ""


@dataclass(frozen=True, slots=True)
class Nodes:
    """Find out which servers hold the keys; the reply is their names for `Ask`: an empty one, if it is no cluster."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let this many seconds pass; `why` is for a person who watches.

    `until_ready` says that the server is away, not ready or full: the driver tells so in the log, once.
    """

    seconds: float
    why: str = ""
    until_ready: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """Find out what else answers at the server's address; the reply is one text, empty where that is not known."""


@dataclass(frozen=True, slots=True)
class Warn:
    """Tell this to an operator, once in the life of the connection; the reply is empty."""

    text: str


class Trouble(Enum):
    """What kind of failure a reply is. All but the last two pass by themselves, or by what an operator does."""

    AWAY = "away"
    """No answer: the connection failed, so the command may or may not have been carried out."""
    NOT_READY = "not ready"
    """The server is loading, busy, failing over or read-only: nothing was done."""
    FULL = "full"
    """The server is out of memory or cannot write to its disk: nothing was done."""
    NO_SCRIPT = "no script"
    """The script is not known to the server: nothing was done."""
    REFUSED = "refused"
    """Any other error: nothing was done."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A node of a cluster says that another one has the keys of a slot; `once` while the slot is being moved there."""

    slot: int
    host: str
    port: int
    once: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A reply that is an error.

    `cure` says what to do about it, where that is known; `foreign` that what answers does not speak as a Redis server.
    """

    trouble: Trouble
    message: str
    cure: str = ""
    foreign: bool = False
    to: Redirect | None = None

    @property
    def passes(self) -> bool:
        """Whether waiting may help."""
        return self.trouble not in {Trouble.REFUSED, Trouble.NO_SCRIPT}


DAMAGED: Final = "DAMAGED "
"""What a script's complaint of a key begins with, see `scripts/checks.lua`."""
WRONG_TYPE: Final = "WRONGTYPE"
RENAME: Final = "another program wrote it: RENAME it out of the way, or choose another queue name"


Effect: TypeAlias = Ask | Nodes | Pause | Probe | Warn
Conversation: TypeAlias = Generator[Effect, list[Any], T]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script that the server runs as one transition; its file's header lists KEYS, ARGV and what it returns."""

    name: str
    text: str
    digest: str

    @classmethod
    def load(cls, package: str, name: str) -> "Script":
        """The script in the file `name`.lua beside the modules of `package`, behind the checks that all share."""
        checks, own = (
            files(where).joinpath("scripts", f"{script}.lua").read_text(encoding="ascii")
            for where, script in (("upsertq.contract", "checks"), (package, name))
        )
        text = checks + own
        script = cls(name, text, sha1(text.encode()).hexdigest())  # noqa: S324 - the server names scripts by SHA-1
        _LOADED[script.digest] = script
        return script

    @staticmethod
    def line(digest: str, number: int) -> str:
        """A line of the script with this digest, from 1; empty where there is none."""
        lines = _LOADED[digest].text.splitlines() if digest in _LOADED else []
        return "".join(lines[number - 1 : number])

    def command(self, keys: Sequence[str], arguments: Sequence[Argument]) -> list[Argument]:
        """The command that runs it by its digest."""
        return ["EVALSHA", self.digest, len(keys), *keys, *arguments]


_LOADED: Final[dict[str, Script]] = {}


def run_scripts(
    script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]], besides: Sequence[Command] = ()
) -> Conversation[list[Any]]:
    """Run `script` once for each (keys, arguments) in one round trip, or two where the server does not know it yet.

    The replies to the commands `besides`, which go with it, follow those of the calls.
    """
    replies: list[Any] = yield Ask([*(script.command(keys, arguments) for keys, arguments in calls), *besides])
    unknown = [i for i, reply in enumerate(replies) if is_trouble(reply, Trouble.NO_SCRIPT)]
    if unknown:
        again = yield Ask([["EVAL", script.text, len(calls[i][0]), *calls[i][0], *calls[i][1]] for i in unknown])
        for i, reply in zip(unknown, again, strict=True):
            replies[i] = reply
    return replies


def ask_script(
    script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
) -> Callable[[], Conversation[list[Any]]]:
    """The conversation of `run_scripts`, for `persistently`."""
    return lambda: run_scripts(script, calls)


def is_trouble(reply: object, *troubles: Trouble) -> bool:
    """Whether a reply is a failure of one of these kinds."""
    return isinstance(reply, Failed) and reply.trouble in troubles


class Patience:
    """How long, and in what steps, a conversation keeps trying while the server is away or full.

    The steps grow from 0.05 s to 2 s and are jittered over their upper half. `clock` and `rng` are given, so that tests
    need no time. With a server that does not answer at all, as at a wrong address, it lasts `silent` seconds at most.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float], rng: random.Random, *, silent: float = math.inf
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._begun = clock()
        self._step = 0.05
        self._silent = min(silent, seconds)
        self.seconds = seconds

    def limit(self, *, answered: bool) -> float:
        """For how many seconds it bears with a server that answers, or does not."""
        return self.seconds if answered else self._silent

    def pause(self, *, answered: bool = True) -> Pause | None:
        """The next pause, or `None` when the time is over."""
        left = self._begun + self.limit(answered=answered) - self._clock()
        if left <= 0:
            return None
        wanted = self._step * self._rng.uniform(0.5, 1.0)
        self._step = min(self._step * 1.6, 2.0)
        return Pause(min(wanted, left))


def persistently(ask: Callable[[], Conversation[list[Any]]], patience: Patience, what: str) -> Conversation[list[Any]]:
    """Hold the conversation that `ask` begins again and again until no reply is a failure.

    Only for commands that may be carried out twice. `what` names the purpose in errors.

    Raises:
        ServerUnavailable: the server stayed away for longer than `patience`.
        QueueFull: it stayed out of memory for longer than `patience`.
        ServerRefused: it refused; at once, for waiting does not help.
    """
    while True:
        replies = yield from ask()
        failure = worst(replies)
        if failure is None:
            return replies
        yield from bear(failure, patience, what)


def bear(failure: Failed, patience: Patience, what: str) -> Conversation[None]:
    """Pause after a failure that may pass; raises as `persistently` where it does not, or the patience is over."""
    if not failure.passes:
        raise refused(failure, what)
    pause = patience.pause(answered=failure.trouble is not Trouble.AWAY)
    if pause is None:
        raise giving_up(failure, what, patience)
    yield Pause(pause.seconds, f"cannot {what}: {failure.message}", until_ready=True)


def refused(failure: Failed, what: str) -> ServerRefused:
    """The error to raise for a failure that does not pass; `QueueDamaged` where a key holds what is not ours."""
    _, damaged, where = failure.message.partition(DAMAGED)
    if damaged:
        return QueueDamaged(f"cannot {what}: the queue is damaged: {where}")
    cure = f"; {failure.cure}" if failure.cure else ""
    return ServerRefused(f"cannot {what}: the server refuses: {failure.message}{cure}")


def giving_up(failure: Failed, what: str, patience: Patience) -> Exception:
    """The error to raise when `patience` is over and `failure` is still there."""
    if failure.trouble is Trouble.FULL:
        cure = failure.cure or "drain the queue or add memory"
        return QueueFull(f"cannot {what}: {failure.message}; nothing was lost: {cure}, then retry")
    seconds = patience.limit(answered=failure.trouble is not Trouble.AWAY)
    waited = f" (tried for {seconds:g} s)" if seconds > 0 else ""
    return unavailable(failure, what, f"{waited}; {failure.cure or 'is the server running and the URL right?'}")


def unavailable(failure: Failed, what: str, end: str = "") -> ServerUnavailable:
    """The error to raise for a failure that passes, where it is not waited for here; `end` in place of the cure."""
    end = end or (f"; {failure.cure}" if failure.cure else "")
    return ServerUnavailable(f"cannot {what}: {failure.message}{end}")


def worst(replies: Sequence[Any]) -> Failed | None:
    """The gravest failure among the replies, `None` when there is none."""
    failures = [reply for reply in replies if isinstance(reply, Failed)]
    order = [Trouble.REFUSED, Trouble.NO_SCRIPT, Trouble.AWAY, Trouble.NOT_READY, Trouble.FULL]
    return min(failures, key=lambda failure: order.index(failure.trouble), default=None)


def ask_all(commands: Sequence[Command], node: str = "") -> Callable[[], Conversation[list[Any]]]:
    """A conversation of one round trip, for `persistently`."""

    def once() -> Conversation[list[Any]]:
        replies = yield Ask(commands, node)
        return [_naming(reply, command) for reply, command in zip(replies, commands, strict=True)]

    return once


def _naming(reply: Any, command: Command) -> Any:
    """The reply; where it says that a key is of a foreign type, with the key's name, which the server leaves out."""
    if isinstance(reply, Failed) and WRONG_TYPE in reply.message and command[0] != "XREAD" and len(command) > 1:
        return Failed(reply.trouble, f"{DAMAGED}{command[1]!s} is of another type than upsertq makes it: {RENAME}")
    return reply
