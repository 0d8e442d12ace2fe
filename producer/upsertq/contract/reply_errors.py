"""Owns what an error of the client's library or of the server means: which kind of trouble it is, and what to do.

Nothing here retries or connects.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.sentinel import MasterNotFoundError

from upsertq.contract.keys import PREFIX
from upsertq.contract.protocol import Failed, Redirect, Script, Trouble
from upsertq.contract.slots import COVERAGE


@dataclass(frozen=True, slots=True)
class _Sign:
    """By what one kind of failure is known: its class in a direct reply, its words in the error of a script.

    redis-py takes the first word off a direct reply that has a class; inside a script each server wraps it differently.
    """

    trouble: Trouble
    words: str
    cure: str = ""
    kinds: tuple[type[Exception], ...] = ()
    foreign: bool = False


_LOGIN = "give the right user and password in the URL (redis://USER:PASSWORD@HOST:PORT/0)"
_NO_LOGIN = "the server has no password: leave it out of the URL"
_PROTECTED = "it serves its own machine alone (protected mode): give it a password"
_PERMIT = f"let the user of the URL run this command on the keys {PREFIX}:* (ACL SETUSER)"
_CLUSTER = (
    "it is a node of a Redis Cluster: name it by host and port, without a database, and let its user run CLUSTER SLOTS"
)
_TYPE = "a key of this name holds something else: choose another queue name, or another database"
_COMMAND = "upsertq needs Redis from 6.2 on or Valkey itself, and no proxy that lacks commands"
_NO_SENTINEL = "it is no Sentinel: name the port of one, or the server itself as redis://HOST:PORT/0"
_REPLICA = "it is a replica: does the URL name the primary?"
_TLS = (
    "check the certificates (--redis-ca-file, --redis-cert-file, --redis-key-file; in the query of a URL ssl_ca_certs, "
    "ssl_certfile, ssl_keyfile)"
)
_NO_WORDS = r"(?!)"
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)  # where an answer has not the form it expects
_LOGINS = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.AuthenticationWrongNumberOfArgsError,
)
_SLOTS = (exceptions.AskError, exceptions.ClusterCrossSlotError)  # MOVED is a kind of ASK
_LINE = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)

# In this order: a class stands before those that it derives from.
_REFUSED, _NOT_READY, _FULL, _AWAY = Trouble.REFUSED, Trouble.NOT_READY, Trouble.FULL, Trouble.AWAY
_SIGNS: Final = (
    _Sign(_REFUSED, r"without any password|no password is set", _NO_LOGIN),
    _Sign(_REFUSED, r"\bDENIED\b", _PROTECTED),
    _Sign(_REFUSED, r"\bNOPERM\b|ACL failure|can't run this command", _PERMIT, kinds=(exceptions.NoPermissionError,)),
    _Sign(_REFUSED, r"\b(NOAUTH|WRONGPASS)\b", _LOGIN, kinds=_LOGINS),
    _Sign(_REFUSED, r"\b(MOVED|ASK|CROSSSLOT)\b|in a cluster node|cluster mode|same slot", _CLUSTER, kinds=_SLOTS),
    _Sign(_REFUSED, r"\bWRONGTYPE\b", _TYPE),
    _Sign(_REFUSED, r"unknown command '?`?SENTINEL", _NO_SENTINEL),
    _Sign(_REFUSED, r"(?i:unknown (sub)?command|unsupported command)|\bNOPROTO\b", _COMMAND),
    _Sign(_REFUSED, r"DB index|invalid DB", "name a database that it has, like redis://HOST:PORT/0"),
    _Sign(Trouble.NO_SCRIPT, r"\bNOSCRIPT\b", kinds=(exceptions.NoScriptError,)),
    _Sign(_FULL, r"\bOOM\b", kinds=(exceptions.OutOfMemoryError,)),
    _Sign(_FULL, r"\bMISCONF\b", "make room on the server's disk"),
    _Sign(_NOT_READY, r"\bREADONLY\b", _REPLICA, kinds=(exceptions.ReadOnlyError,)),
    _Sign(_NOT_READY, r"\bMASTERDOWN\b", _REPLICA, kinds=(exceptions.MasterDownError,)),
    _Sign(_NOT_READY, r"\bCLUSTERDOWN\b", COVERAGE, kinds=(exceptions.ClusterDownError,)),
    _Sign(_NOT_READY, r"\bTRYAGAIN\b", kinds=(exceptions.TryAgainError,)),
    _Sign(_NOT_READY, r"\bLOADING\b", "is it still loading its data?", kinds=(exceptions.BusyLoadingError,)),
    _Sign(_NOT_READY, r"\bNOREPLICAS\b", "are its replicas connected (min-replicas-to-write)?"),
    _Sign(_NOT_READY, r"\b(BUSY|UNKILLABLE)\b", "a script runs on it: SCRIPT KILL ends it"),
    _Sign(_NOT_READY, r"max (number of clients|concurrent connections)", "raise its limit (maxclients)"),
    _Sign(_NOT_READY, r"\bUNBLOCKED\b"),  # the server became a replica under a blocked read
    _Sign(_NOT_READY, r"no upstream host|upstream (failure|reset)"),  # of a proxy
    _Sign(_AWAY, r"\[(SSL|X509)\b", _TLS, foreign=True),
    _Sign(_AWAY, _NO_WORDS, kinds=(exceptions.InvalidResponse, *_UNREADABLE), foreign=True),
    _Sign(_AWAY, _NO_WORDS, kinds=_LINE),
)
MAPPED: Final = (exceptions.RedisError, *_UNREADABLE)
"""What redis-py raises besides `OSError`."""
_IN_SCRIPT: Final = re.compile(r"\b(?:f_)?([0-9a-f]{40})\b.*user_script:([0-9]{1,6})")
_COMMANDS: Final = re.compile(r"\bp?call\('([A-Z]+)'")
_LONGEST: Final = 300
"""Characters of an error of the server that are kept: it may hold whatever a stranger sent."""


def failed(error: Exception) -> Failed:
    """What a command failed by, as a value; its text is one printable line of bounded length."""
    message = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))[:_LONGEST]
    message = message.rstrip(".") or type(error).__name__
    if isinstance(error, (MasterNotFoundError, AsyncMasterNotFoundError)):
        message = message.partition(" : ")[0]  # what follows shows each client with all that it was made with
    to = None
    if isinstance(error, exceptions.AskError):
        to = Redirect(error.slot_id, error.host, error.port, once=not isinstance(error, exceptions.MovedError))
    for sign in _SIGNS:
        if isinstance(error, sign.kinds) or re.search(sign.words, message):
            return Failed(sign.trouble, message + _command_of(message, sign), sign.cure, sign.foreign, to)
    return Failed(Trouble.REFUSED, message)


def passes(replies: Sequence[Any]) -> bool:
    """Whether one of the replies is a failure that passes."""
    return any(isinstance(reply, Failed) and reply.passes for reply in replies)


def kept_out(failure: Failed) -> bool:
    """Whether the server does not let us in: then it says nothing of itself."""
    return failure.cure in {_LOGIN, _NO_LOGIN, _PROTECTED}


def _command_of(message: str, sign: _Sign) -> str:
    """The commands in the line of a script in which a permission is missing: the server names the line alone."""
    found = _IN_SCRIPT.search(message) if sign.cure == _PERMIT else None
    line = Script.line(found[1], int(found[2])) if found else ""
    commands = dict.fromkeys(_COMMANDS.findall(line))
    return f" (command: {', '.join(commands)})" if commands else ""
