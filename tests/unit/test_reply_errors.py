"""Every state of a server that passes is told from one that does not, in a direct reply and inside a script alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import fakeredis
import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from upsertq.contract.protocol import Failed, Trouble, ask_all
from upsertq.contract.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

PASSING: Final = {
    "NOREPLICAS Not enough good replicas to write.": Trouble.NOT_READY,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": Trouble.NOT_READY,
    "CLUSTERDOWN The cluster is down": Trouble.NOT_READY,
    "CLUSTERDOWN Hash slot not served": Trouble.NOT_READY,
    "TRYAGAIN Multiple keys request during rehashing of slot": Trouble.NOT_READY,
    "LOADING Redis is loading the dataset in memory": Trouble.NOT_READY,
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": Trouble.NOT_READY,
    "UNKILLABLE Sorry the script already executed write commands against the dataset.": Trouble.NOT_READY,
    "READONLY You can't write against a read only replica.": Trouble.NOT_READY,
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)": Trouble.NOT_READY,
    "ERR max number of clients reached": Trouble.NOT_READY,
    "ERR max number of clients + cluster connections reached": Trouble.NOT_READY,
    "OOM command not allowed when used memory > 'maxmemory'.": Trouble.FULL,
    "MISCONF Errors writing to the AOF file: No space left on device": Trouble.FULL,
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist on disk.": Trouble.FULL,
}
LASTING: Final = {
    "NOAUTH Authentication required.": "user and password",
    "WRONGPASS invalid username-password pair or user is disabled.": "user and password",
    "ERR invalid password": "user and password",
    "NOPERM User etl has no permissions to run the 'evalsha' command": "ACL SETUSER",
    "DENIED Redis is running in protected mode because protected mode is enabled": "password",
    "WRONGTYPE Operation against a key holding the wrong kind of value": "another queue name",
    "ERR unknown command 'EVALSHA', with args beginning with: 'a'": "Redis from 6.2",
    "ERR DB index is out of range": "redis://HOST:PORT/0",
    "MOVED 14347 127.0.0.1:6422": "Redis Cluster",
    "ASK 14347 127.0.0.1:6422": "Redis Cluster",
    "CROSSSLOT Keys in request don't hash to the same slot": "Redis Cluster",
    "ERR SELECT is not allowed in cluster mode": "Redis Cluster",
}
SHELLS: Final[dict[str, Callable[[str], str]]] = {
    "direct": lambda text: text,
    "redis 7": lambda text: f"{text} script: 6f09e268b8880d9788bd543a46a67bdea88ca76f, on @user_script:1.",
    "redis 6.2": lambda text: f"ERR Error running script (call to f_6f09): @user_script:1: @user_script: 1: -{text}",
}


def answered(raw: str) -> Failed:
    """What becomes of an error as it comes over the wire: redis-py makes an exception of it first."""

    def answer(*_: object, **__: object) -> Any:
        raise BaseParser.parse_error(raw)  # type: ignore[no-untyped-call]

    client = fakeredis.FakeRedis(protocol=2)
    client.execute_command = answer  # type: ignore[method-assign]
    (reply,) = Server(client).hold(ask_all([["PING"]])())
    assert isinstance(reply, Failed)
    return reply


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("text", PASSING)
def test_what_passes_is_waited_for(text: str, shell: str) -> None:
    """By its class in a direct reply, by its word inside a script."""
    if shell != "direct" and text.startswith("ERR"):
        pytest.skip("it comes for a connection, never inside a script")
    found = answered(SHELLS[shell](text))
    assert found.trouble is PASSING[text], found
    assert found.passes
    assert not found.foreign


@pytest.mark.parametrize("text", LASTING)
def test_what_lasts_names_its_cure(text: str) -> None:
    """It is refused, and one clause says what to do."""
    found = answered(text)
    assert found.trouble is Trouble.REFUSED, found
    assert LASTING[text] in found.cure


def test_every_error_class_of_the_client_is_known() -> None:
    """A class that redis-py adds is either refused on purpose or has a place in the table."""
    refused = {exceptions.ResponseError, exceptions.ExecAbortError, exceptions.ModuleError}
    for word, kind in BaseParser.EXCEPTION_CLASSES.items():
        if not isinstance(kind, type) or kind in refused:
            continue
        text = "1 127.0.0.1:1" if issubclass(kind, exceptions.AskError) else "text"
        found = answered(f"{word} {text}")
        assert found.cure or found.trouble is not Trouble.REFUSED, (word, found)


def test_a_strangers_text_is_bounded_and_printable() -> None:
    """An error of the server may hold anything, and goes to a terminal."""
    found = answered("ERR \x1b[2J" + "x" * 100_000)
    assert len(found.message) <= 300
    assert found.message.isprintable()
