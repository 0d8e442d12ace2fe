"""Owns the links to the nodes of a cluster: what `upsertq.contract.slots` decides is sent to them side by side.

It never decides to repeat a command; but for those that a node refused because another one has their keys.
"""

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from upsertq.contract.address import Node
from upsertq.contract.links import AsyncLink, Link
from upsertq.contract.protocol import Ask, Failed, Trouble
from upsertq.contract.slots import COVERAGE, TOPOLOGY, Answers, Parts, Slots, routed

THREADS: Final = 32
"""Nodes that blocking code speaks to at the same time, at most."""


class Cluster:
    """Blocking links to the nodes of the cluster of which `seed` is one; safe to share between threads."""

    def __init__(self, seed: Link) -> None:
        self._seed = seed
        self._slots = Slots()
        self._links: dict[Node, Link] = {seed.node: seed}
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._process = 0

    def ask(self, ask: Ask) -> list[Any]:
        """The replies to the commands, in their order; errors come back as `Failed`."""
        failure = self._look()
        if failure is not None:
            return [failure] * len(ask.commands)
        route = routed(ask, self._slots)
        try:
            effect = next(route)
            while True:
                answers: Answers = {}
                if isinstance(effect, float):
                    time.sleep(effect)
                else:
                    answers = self._side_by_side(effect)
                effect = route.send(answers)
        except StopIteration as stop:
            replies: list[Any] = stop.value
            return replies

    def nodes(self) -> list[Any]:
        """The names of the primaries, for `Ask`; or one `Failed`."""
        failure = self._look()
        return _names(self._slots) if failure is None else [failure]

    def close(self) -> None:
        """Close every connection."""
        for link in self._links.values():
            link.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None

    def _side_by_side(self, parts: Parts) -> Answers:
        (first, mine), *others = parts.items()
        threads = self._pool() if others else None
        waiting = {node: threads.submit(self._link(node).ask, some) for node, some in others} if threads else {}
        answers = {first: self._link(first).ask(mine)}
        return answers | {node: future.result() for node, future in waiting.items()}

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None or self._process != os.getpid():  # threads do not survive a fork
            self._threads, self._process = ThreadPoolExecutor(THREADS, "upsertq-cluster"), os.getpid()
        return self._threads

    def _link(self, node: Node) -> Link:
        with self._lock:
            if node not in self._links:
                self._links[node] = self._seed.to(node)
            return self._links[node]

    def _look(self) -> Failed | None:
        """Ask which node has which slot, where that is not known or has changed; returns why it cannot be found out."""
        if not self._slots.stale:
            return None
        told: Any = None
        for link in [*map(self._link, self._slots.sources), self._seed]:
            (told,) = link.ask([TOPOLOGY])
            if self._slots.learn(told, link.node[0]):
                return None
        return _unknown(told)


class AsyncCluster:
    """The same as `Cluster` for asyncio; belongs to one event loop."""

    def __init__(self, seed: AsyncLink) -> None:
        self._seed = seed
        self._slots = Slots()
        self._links: dict[Node, AsyncLink] = {seed.node: seed}
        self._looking = asyncio.Lock()

    async def ask(self, ask: Ask) -> list[Any]:
        """As `Cluster.ask`."""
        failure = await self._look()
        if failure is not None:
            return [failure] * len(ask.commands)
        route = routed(ask, self._slots)
        try:
            effect = next(route)
            while True:
                answers: Answers = {}
                if isinstance(effect, float):
                    await asyncio.sleep(effect)
                else:
                    answers = await self._side_by_side(effect)
                effect = route.send(answers)
        except StopIteration as stop:
            replies: list[Any] = stop.value
            return replies

    async def nodes(self) -> list[Any]:
        """As `Cluster.nodes`."""
        failure = await self._look()
        return _names(self._slots) if failure is None else [failure]

    async def close(self) -> None:
        """Close every connection."""
        for link in self._links.values():
            await link.close()

    async def _side_by_side(self, parts: Parts) -> Answers:
        answers = await asyncio.gather(*(self._link(node).ask(some) for node, some in parts.items()))
        return dict(zip(parts, answers, strict=True))

    def _link(self, node: Node) -> AsyncLink:
        if node not in self._links:
            self._links[node] = self._seed.to(node)
        return self._links[node]

    async def _look(self) -> Failed | None:
        """As `Cluster._look`; one look is for all that wait for it."""
        if not self._slots.stale:
            return None
        async with self._looking:
            return await self._learn()

    async def _learn(self) -> Failed | None:
        if not self._slots.stale:
            return None
        told: Any = None
        for link in [*map(self._link, self._slots.sources), self._seed]:
            (told,) = await link.ask([TOPOLOGY])
            if self._slots.learn(told, link.node[0]):
                return None
        return _unknown(told)


def _names(slots: Slots) -> list[str]:
    return [f"{host}:{port}" for host, port in slots.primaries]


def _unknown(told: object) -> Failed:
    if isinstance(told, Failed):
        return told
    return Failed(Trouble.NOT_READY, "CLUSTERDOWN no node of the cluster tells which slots it serves", COVERAGE)
