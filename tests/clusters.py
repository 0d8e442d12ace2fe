"""Real clusters for tests: three primaries, with replicas if wanted, made of the servers of `servers`."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final, Self

import redis
from redis.crc import key_slot

from certificates import arguments as as_arguments
from servers import RealServer, free_port
from upsertq.contract.keys import QueueKeys
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from certificates import Certificates
    from servers import ServerKind

SLOTS: Final = 16_384
PRIMARIES: Final = 3
NODE_TIMEOUT_MS: Final = 1_500
SECONDS: Final = 60.0


class RealCluster:
    """Three primaries, and one replica for each of the first `replicas`; a context manager that starts and stops them.

    `missing` slots at the end are given to no node. `arguments` go onto the command line of each. With `certificates`
    it speaks TLS alone.
    """

    def __init__(
        self,
        kind: ServerKind,
        directory: Path,
        *,
        replicas: int = 0,
        missing: int = 0,
        arguments: tuple[str, ...] = (),
        certificates: Certificates | None = None,
    ) -> None:
        settings = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--cluster-announce-ip", "127.0.0.1", "--repl-diskless-sync-delay", "0", *arguments),
        )
        self.kind = kind
        count = PRIMARIES + replicas
        self._ports = [free_port() for _ in range(count)] if certificates else []
        tls = (
            [as_arguments({"tls-cluster": "yes", **certificates.settings(port)}) for port in self._ports]
            if certificates
            else [()] * count
        )
        self.nodes = [
            RealServer(
                kind,
                directory / f"{kind.id}-{n}",
                appendonly="everysec",
                port=None if own else 0,
                arguments=(*settings, *own),
            )
            for n, own in enumerate(tls)
        ]
        self.primaries, self.replicas = self.nodes[:PRIMARIES], self.nodes[PRIMARIES:]
        self._missing = missing

    @property
    def url(self) -> str:
        """The address of one node."""
        return self.nodes[0].url

    def port(self, node: RealServer) -> int | None:
        """The port of a node for its clients."""
        return self._ports[self.nodes.index(node)] if self._ports else node.port

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self.__exit__()  # the block is not entered
            raise
        return self

    def _begin(self) -> None:
        for at, node in enumerate(self.nodes):
            node.start()
            told(node, "SET-CONFIG-EPOCH", at + 1)
        for at, primary in enumerate(self.primaries):
            last = SLOTS - self._missing if at == PRIMARIES - 1 else SLOTS * (at + 1) // PRIMARIES
            told(primary, "ADDSLOTS", *range(SLOTS * at // PRIMARIES, last))
        for one, other in itertools.combinations(self.nodes, 2):
            told(one, "MEET", "127.0.0.1", str(self.port(other)))
        wait_until(lambda: all(map(self._knows_all, self.nodes)), SECONDS, "all nodes know each other")
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            told(replica, "REPLICATE", id_of(primary))
        wait_until(lambda: all(map(_follows, self.replicas)), SECONDS, "the replicas follow")
        wanted = "fail" if self._missing else "ok"
        wait_until(lambda: all(state_of(node) == wanted for node in self.nodes), SECONDS, f"the cluster is {wanted}")
        wait_until(self._told_of_replicas, SECONDS, "the nodes tell of the replicas")

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()

    def flush(self) -> None:
        """Remove every key."""
        for node in self.nodes:
            with node.client() as client, contextlib.suppress(redis.ReadOnlyError):
                client.flushall()

    def owner(self, slot: int) -> RealServer:
        """The primary of a slot, as the nodes that are alive say."""
        alive = next(node for node in self.nodes if node.alive)
        port = next(first[1] for low, high, first, *_ in told(alive, "SLOTS") if low <= slot <= high)
        return next(node for node in self.nodes if node.port == port)

    def fail_over(self, at: int = 0) -> None:
        """Kill a primary, and wait for its replica to take over."""
        primary, replica = self.primaries[at], self.replicas[at]
        kill_without_loss(primary, replica)
        wait_until(lambda: _role(replica) == "master", SECONDS, "the replica takes over")
        alive = [node for node in self.nodes if node.alive]
        wait_until(lambda: all(state_of(node) == "ok" for node in alive), SECONDS, "the cluster is ok")

    def another(self, slot: int) -> RealServer:
        """A node that could have the slot, and has it not."""
        owner = self.owner(slot)
        return next(node for node in self.nodes if node.alive and node is not owner and _role(node) == "master")

    def move(self, slot: int, to: RealServer) -> None:
        """Move a slot, key by key, as `redis-cli --cluster reshard` does."""
        with self.moving(slot, to):
            pass

    @contextlib.contextmanager
    def moving(self, slot: int, to: RealServer, *first: str) -> Iterator[RealServer]:
        """The same, with a block in its middle: the keys `first` are moved before it, the others after it."""
        source = self.owner(slot)
        told(to, "SETSLOT", slot, "IMPORTING", id_of(source))
        told(source, "SETSLOT", slot, "MIGRATING", id_of(to))
        _migrate(source, to, first)
        yield source
        while keys := keys_in(source, slot)[:100]:
            _migrate(source, to, keys)
        others = [node for node in self.nodes if node.alive and node not in {to, source} and _role(node) == "master"]
        for node in (to, source, *others):
            told(node, "SETSLOT", slot, "NODE", id_of(to))

    def _knows_all(self, node: RealServer) -> bool:
        known: str = told(node, "NODES").decode()
        return len(known.splitlines()) == len(self.nodes) and "handshake" not in known

    def _told_of_replicas(self) -> bool:
        return all(told(node, "NODES").count(b"slave ") == len(self.replicas) for node in self.primaries)


def kill_without_loss(primary: RealServer, replica: RealServer) -> None:
    """Kill a primary with SIGKILL when its replica has all that it confirmed.

    Replication is asynchronous: writes are held back until the replica has those before. They then get no answer.
    """
    with primary.client() as one, replica.client() as other:
        one.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
        wait_until(lambda: _offset(one) == _offset(other), SECONDS, "the replica has caught up")
    primary.kill()


def slot_of_shard(queue: str, shard: int) -> int:
    """The slot of all keys of a shard."""
    return key_slot(QueueKeys(queue).shard(shard).books.encode())


def keys_in(node: RealServer, slot: int) -> list[bytes]:
    """The keys of a slot that a node has, also while it is moved."""
    found: list[bytes] = told(node, "GETKEYSINSLOT", slot, 1_000_000)
    return found


def told(node: RealServer, *words: str | int) -> Any:
    """What a node says to CLUSTER and these words, as it comes over the wire."""
    with node.client() as client:
        return client.execute_command("CLUSTER", *words)


def state_of(node: RealServer) -> str:
    """The state of the cluster as a node sees it."""
    lines: list[str] = told(node, "INFO").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)["cluster_state"]


def id_of(node: RealServer) -> str:
    """A node's name in its cluster."""
    name: bytes = told(node, "MYID")
    return name.decode()


def _migrate(source: RealServer, to: RealServer, keys: Sequence[str | bytes]) -> None:
    if keys:
        with source.client() as client:
            client.execute_command("MIGRATE", "127.0.0.1", str(to.port), "", 0, 20_000, "KEYS", *keys)


def _follows(replica: RealServer) -> bool:
    with replica.client() as client:
        info: Any = client.info("replication")
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")


def _role(node: RealServer) -> str:
    with node.client() as client:
        info: Any = client.info("replication")
    return str(info["role"])


def _offset(client: redis.Redis) -> int:
    info: Any = client.info("replication")
    return int(info["master_repl_offset"])
