"""States of the server that pass end neither a load nor a worker: they are waited out, and told in one line."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis

from processes import books, complaint, document, emulated, start
from servers import available_kinds
from upsertq import Producer, QueueFull, ServerUnavailable
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import RealServer, ServerKind

Q: Final = ("--queue", "q")
WORK: Final = ("work", *Q, "--lease", "5", "--quarantine", "0.5", "--linger", "0.02")
SPIN: Final = "while true do end"


@contextlib.contextmanager
def no_replicas(client: redis.Redis) -> Iterator[None]:
    """Writes want a replica that there is not."""
    client.config_set("min-replicas-to-write", 1)
    yield
    client.config_set("min-replicas-to-write", 0)


@contextlib.contextmanager
def master_down(client: redis.Redis) -> Iterator[None]:
    """A replica without its primary, which serves nothing."""
    client.config_set("replica-serve-stale-data", "no")
    client.replicaof("127.0.0.1", 1)
    yield
    client.replicaof("NO", "ONE")


@contextlib.contextmanager
def read_only(client: redis.Redis) -> Iterator[None]:
    """A replica that serves reads."""
    client.replicaof("127.0.0.1", 1)
    yield
    client.replicaof("NO", "ONE")


@contextlib.contextmanager
def busy(client: redis.Redis) -> Iterator[None]:
    """A script that does not end."""
    client.config_set("lua-time-limit", 50)

    def spin() -> None:
        with contextlib.suppress(Exception):
            client.eval(SPIN, 0)

    thread = threading.Thread(target=spin)
    thread.start()
    wait_until(lambda: is_busy(client), 30, "it does not answer")
    try:
        yield
    finally:
        client.script_kill()
        thread.join(30)


def is_busy(client: redis.Redis) -> bool:
    """Whether it answers nothing but that."""
    try:
        client.ping()
    except redis.ResponseError:
        return True
    return False


@contextlib.contextmanager
def out_of_memory(client: redis.Redis) -> Iterator[None]:
    """No memory for anything more."""
    client.config_set("maxmemory", 1)
    yield
    client.config_set("maxmemory", 0)


@contextlib.contextmanager
def too_many_clients(client: redis.Redis) -> Iterator[None]:
    """No new connection; those that are open stay."""
    client.config_set("maxclients", 1)
    for one in client.client_list():
        if int(one["id"]) != int(client.client_id()):
            client.client_kill_filter(_id=one["id"])
    yield
    client.config_set("maxclients", 1000)


STATES: Final = (no_replicas, master_down, read_only, busy, out_of_memory, too_many_clients)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)
def test_a_producer_waits(kind: ServerKind, make_server: Callable[..., RealServer], state: Any) -> None:
    """On each server: with a timeout that is over it raises what passes, and afterwards all arrives once."""
    server = make_server(kind)
    with server.client() as client, Producer("q", url=server.url, timeout=0) as producer:
        producer.put("a", [1.0])
        with state(client), pytest.raises((ServerUnavailable, QueueFull)):
            producer.flush()
        wait_until(lambda: flushed(producer), 30, "it is over")
        assert producer.books().enqueued == 1


def flushed(producer: Producer) -> bool:
    """Whether a flush succeeds: a replica that becomes a primary may take a moment."""
    with contextlib.suppress(ServerUnavailable):
        producer.flush()
        return True
    return False


def tells(log: Path) -> bool:
    """Whether it has said that it waits."""
    return "trying again until it is back" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_worker_and_a_load_wait(make_server: Callable[..., RealServer], tmp_path: Path, state: Any) -> None:
    """Both go on when it is over, have said so in few lines, and end as if nothing had been."""
    server = make_server()
    log, load_log, file = tmp_path / "worker.log", tmp_path / "load.log", tmp_path / "r.jsonl"
    file.write_text("".join(f'{{"id": "id{i}", "values": [1, {i}]}}\n' for i in range(200)))
    with emulated() as index, server.client() as client:
        worker = start(*WORK, "--index-host", index.url, url=server.url, log=log)
        wait_until(lambda: "drains queue" in log.read_text(), 30, "the worker runs")
        with state(client):
            load = start("load", file, *Q, "--run", "r", "--timeout", "60", url=server.url, log=load_log)
            # out of memory a worker drains what there is; nothing is there to be told
            told = [load_log] if state is out_of_memory else [log, load_log]
            for one in told:
                wait_until(partial(tells, one), 40, f"{one.name} tells")
            assert worker.poll() is load.poll() is None
        assert load.wait(60) == 0, load_log.read_text()
        found = document("wait", *Q, "--run", "r", "--timeout", "60", url=server.url)
        assert found["acked"] == found["enqueued"] == 200
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()
    assert "the server is back after" in load_log.read_text()
    for one in (log, load_log):
        assert "Traceback" not in one.read_text()
        assert one.read_text().count("trying again") <= 3, one.read_text()


def test_a_load_gives_up_when_its_time_is_over(make_server: Callable[..., RealServer], tmp_path: Path) -> None:
    """The last line names what it waited for, and the cure."""
    server, file = make_server(), tmp_path / "r.jsonl"
    file.write_text('{"id": "a", "values": [1]}\n')
    with server.client() as client, no_replicas(client):
        said = complaint("load", file, *Q, "--timeout", "1", url=server.url, expect=1)
    assert "NOREPLICAS" in said
    assert "min-replicas-to-write" in said


def test_a_permission_that_is_taken_ends_a_worker_with_its_cause(
    make_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    """What does not pass ends it with one line, the first cause, however many calls fail after it."""
    server = make_server(port=0, password="sesame")  # noqa: S106 - the test's own
    log = tmp_path / "worker.log"
    with emulated() as index, server.client() as client:
        client.execute_command("ACL", "SETUSER", "etl", "on", ">open", "~*", "+@all")
        url = f"redis://etl:open@127.0.0.1:{server.port}/0"
        worker = start(*WORK, "--index-host", index.url, url=url, log=log)
        wait_until(lambda: "drains queue" in log.read_text(), 30, "the worker runs")
        client.execute_command("ACL", "SETUSER", "etl", "-evalsha", "-eval")
        assert worker.wait(60) == 1
    (said,) = [line for line in log.read_text().splitlines() if line.startswith("upsertq: ")]
    assert "cannot take the shards' leases: the server refuses" in said
    assert "ACL SETUSER" in said
    assert "open" not in said


def test_a_worker_starts_while_the_server_loads_or_fails_over(
    make_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    """A server that answers is at the right address: it is waited for, also for longer than one that does not."""
    server, log = make_server(), tmp_path / "worker.log"
    with emulated() as index, server.client() as client:
        with no_replicas(client):
            worker = start(*WORK, "--index-host", index.url, url=server.url, log=log)
            wait_until(partial(tells, log), 30, "it tells")
        wait_until(lambda: "drains queue" in log.read_text(), 30, "it works")
        worker.terminate()
        assert worker.wait(60) == 0
    assert books(server.url, "q")["enqueued"] == 0


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "lost"])
def test_a_worker_that_stops_while_the_server_is_away_ends_well(
    make_server: Callable[..., RealServer], tmp_path: Path, *, kept: bool
) -> None:
    """It waits a moment for the books that it reports; where the queue is lost by then, it ends and says so."""
    server, log = make_server(appendonly="always" if kept else "no"), tmp_path / "worker.log"
    with emulated() as index:
        worker = start(*WORK, "--index-host", index.url, url=server.url, log=log)
        wait_until(lambda: "drains queue" in log.read_text(), 30, "it works")
        server.kill()
        worker.terminate()
        wait_until(lambda: "WARNING cannot" in log.read_text().partition("stopping")[2], 30, "it misses the server")
        server.restart()
        assert worker.wait(60) == (0 if kept else 1), log.read_text()
