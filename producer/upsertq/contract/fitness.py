"""Owns whether a server, or each of a cluster, is fit to keep a queue: evicts nothing and survives its own death.

It asks by INFO alone. A server that does not allow it (managed services, access lists) is taken as it is.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from upsertq.contract.errors import ServerUnfit
from upsertq.contract.protocol import Ask, Conversation, Failed, Nodes, Patience, Probe, Trouble, Warn, bear, is_trouble

_WORD: Final = re.compile(r"[\w.+-]{1,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server tells of itself; `None` and empty texts where it does not.

    Attributes:
        told: whether it told anything.
        product: `redis` or `valkey`, as far as is known.
        version: its version.
        mode: `standalone`, `cluster` or `sentinel`.
        role: `master`, or `slave` for a replica.
        policy: what it does when its memory is full (`maxmemory-policy`).
        maxmemory: the limit of its memory in bytes, 0 for none.
        append_only: whether it keeps an append-only file.
        replicas: how many replicas are connected to it.
        primaries: of the cluster that is used; 0 where it is used as one server.
    """

    told: bool = False
    product: str = ""
    version: str = ""
    mode: str = ""
    role: str = ""
    policy: str = ""
    maxmemory: int | None = None
    append_only: bool | None = None
    replicas: int | None = None
    primaries: int = 0

    @property
    def evicts(self) -> str:
        """What is wrong with its eviction policy where it may remove any key; empty where nothing is."""
        if not self.policy.startswith("allkeys-"):
            return ""
        return (
            f"the server evicts keys when its memory is full (maxmemory-policy {self.policy}), and records would be "
            "lost without a word: set maxmemory-policy to noeviction"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should know of it, one line each."""
        found = [self.evicts] if self.evicts else []
        if self.policy.startswith("volatile-"):
            found.append(
                f"the server evicts keys that expire when its memory is full (maxmemory-policy {self.policy}), leases "
                "of workers among them: set maxmemory-policy to noeviction"
            )
        if self.append_only is False and self.replicas == 0 and self.role != "slave":
            found.append(
                "the server keeps no append-only file and has no replica: what it was given since its last snapshot is "
                "lost when it dies: set appendonly to yes"
            )
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """The facts and the warnings by name."""
        return {**asdict(self), "warnings": list(self.warnings)}


def ask_facts(patience: Patience, what: str) -> Conversation[ServerFacts]:
    """What the server tells of itself; nothing where it may not be asked. Of a cluster, the node of most concern.

    `what` is the purpose, for errors.

    Raises:
        ServerUnfit: what answers is no Redis server, or the certificates do not agree.
        ServerUnavailable: it stayed away for longer than `patience`.
    """
    probed = False
    while True:
        nodes, replies = yield from _infos()
        reply = next((reply for reply in replies if isinstance(reply, Failed)), None)
        if reply is None:
            told = [facts_of(reply) for reply in replies]
            if not all(facts.told for facts in told):
                raise ServerUnfit(f"cannot {what}: what answers is no Redis server: its INFO tells nothing")
            facts = max(told, key=lambda facts: (bool(facts.evicts), len(facts.warnings)))
            return replace(facts, primaries=sum(map(bool, nodes)))
        if not reply.passes:
            return ServerFacts()
        if not probed and is_trouble(reply, Trouble.AWAY):
            probed = True
            (wrong,) = yield Probe()
            if not wrong and reply.foreign:
                wrong = f"what answers is no Redis server: {reply.message}" + f"; {reply.cure}" * bool(reply.cure)
            if wrong:
                raise ServerUnfit(f"cannot {what}: {wrong}")
        yield from bear(reply, patience, what)


def _infos() -> Conversation[tuple[list[Any], list[Any]]]:
    """The names of the servers that hold keys, and what they say to INFO; or why these are not known."""
    nodes = yield Nodes()
    if isinstance(nodes[0], Failed):
        return [], nodes
    replies = []
    for node in nodes:
        replies += yield Ask([["INFO"]], node)
    return nodes, replies


def check(patience: Patience, what: str, *, allow_eviction: bool = False) -> Conversation[None]:
    """Refuse a server that cannot keep a queue, and warn of one that may lose it; raises as `ask_facts`.

    Raises:
        ServerUnfit: it is a Sentinel, or evicts keys and `allow_eviction` is not said.
    """
    facts = yield from check_kind(patience, what)
    if facts.evicts and not allow_eviction:
        raise ServerUnfit(f"cannot {what}: {facts.evicts}, or allow it (--allow-eviction)")
    for warning in facts.warnings:
        yield Warn(warning)


def check_kind(patience: Patience, what: str) -> Conversation[ServerFacts]:
    """The server's facts, once it is of a kind that keeps data; raises as `check`, but for its eviction policy."""
    facts = yield from ask_facts(patience, what)
    if facts.mode == "cluster" and not facts.primaries:
        raise ServerUnfit(
            f"cannot {what}: the server is a node of a Redis Cluster, and does not tell which slots its nodes have: "
            "name it by host and port, and let its user run CLUSTER SLOTS"
        )
    if facts.mode == "sentinel":
        raise ServerUnfit(
            f"cannot {what}: this is a Sentinel, which keeps no data: say which service it watches, as in "
            "redis+sentinel://HOST:PORT/NAME"
        )
    return facts


def facts_of(reply: object) -> ServerFacts:
    """The facts out of the reply to INFO, as a mapping or as text; what is missing or strange is left out."""
    said = _fields(reply)
    valkey = said.get("valkey_version", "")
    # while it reads its append-only file it says that it keeps none
    append_only = None if said.get("loading") == "1" else {"0": False, "1": True}.get(said.get("aof_enabled", ""))
    return ServerFacts(
        told=bool(said),
        product="valkey" if valkey else "redis" if "redis_version" in said else "",
        version=valkey or said.get("redis_version", ""),
        mode=said.get("redis_mode", "") or said.get("server_mode", ""),
        role=said.get("role", ""),
        policy=said.get("maxmemory_policy", ""),
        maxmemory=_number(said, "maxmemory"),
        append_only=append_only,
        replicas=_number(said, "connected_slaves"),
    )


def _fields(reply: object) -> dict[str, str]:
    """The fields of INFO that are one plain word."""
    if isinstance(reply, bytes):
        lines = reply.decode("ascii", "replace").splitlines()
        reply = dict(line.split(":", 1) for line in lines if ":" in line)
    if not isinstance(reply, Mapping):
        return {}
    return {str(name): str(value) for name, value in reply.items() if _WORD.fullmatch(str(value))}


def _number(said: Mapping[str, str], name: str) -> int | None:
    value = said.get(name, "")
    return int(value) if value.isdigit() else None
