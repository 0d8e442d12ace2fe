"""`upsertq pause` and `resume`, and what `status`, `wait` and `load --wait` make of a pause, with real processes."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from processes import call, complaint, document
from upsertq import Producer, Server
from upsertq.contract.keys import QueueKeys
from upsertq.contract.pauses import QUEUE, Paused, note, of_reply, scope_of

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from servers import RealServer

KEYS = QueueKeys("q")
Q = ("--queue", "q")
BY_SERVICE = Paused("unauthorized", "HTTP 401: check PINECONE_API_KEY", 1.5e9, "w1")


@pytest.fixture
def url(redis_server: RealServer, client: redis.Redis) -> str:
    """Provide the address of a server with 10 records of run `night` in the queue `q`."""
    with Producer("q", url=Server(client), shards=2) as producer:
        producer.put_many([f"a{i}" for i in range(10)], np.ones((10, 4)), run="night")
    return redis_server.url


def noted(client: redis.Redis) -> dict[str, Paused]:
    """The pauses as they stand on the server."""
    reply: Any = client.hgetall(KEYS.paused)
    return of_reply(reply)


def test_pause_and_resume_the_queue(url: str, client: redis.Redis) -> None:
    """A pause is noted as one by hand with its reason, is shown, and is gone after `resume`."""
    begun = time.time()
    told = call("pause", *Q, "--reason", "index is rebuilt", url=url).stdout
    assert told.startswith("queue q is paused: the queue: index is rebuilt (since ")
    assert told.endswith("; end it with  upsertq resume --queue q\n")
    (scope, paused), *others = noted(client).items()
    assert (scope, paused.reason, paused.message, paused.by_hand) == (QUEUE, "by_hand", "index is rebuilt", True)
    assert begun - 1 <= paused.since <= time.time() + 1
    assert "@" in paused.by
    assert not others
    assert "paused: the queue: index is rebuilt (since " in call("status", *Q, url=url).stdout
    assert call("resume", *Q, url=url).stdout.startswith("queue q: resumed the queue: index is rebuilt")
    assert noted(client) == {}
    assert "paused" not in call("status", *Q, url=url).stdout


def test_pausing_twice(url: str, client: redis.Redis) -> None:
    """A second pause changes nothing but a new reason: since when it is paused stays."""
    call("pause", *Q, "--reason", "one", url=url)
    before = noted(client)[QUEUE]
    for again in ([], ["--reason", "one"]):
        assert "was paused already: the queue: one" in call("pause", *Q, *again, url=url).stdout
        assert noted(client) == {QUEUE: before}
    told = document("pause", *Q, "--reason", "two", url=url)
    assert told["changed"] is True
    assert (told["paused"]["message"], told["paused"]["since"]) == ("two", before.since)
    assert document("pause", *Q, url=url)["changed"] is False


def test_a_pause_by_the_service_becomes_one_by_hand(url: str, client: redis.Redis) -> None:
    """An operator may hold a lane that the service refuses, so that no probe goes out; `resume` ends either."""
    client.hset(KEYS.paused, QUEUE, note(BY_SERVICE))
    assert "stays paused, now by hand: the queue: paused by hand" in call("pause", *Q, url=url).stdout
    assert noted(client)[QUEUE].by_hand
    client.hset(KEYS.paused, QUEUE, note(BY_SERVICE))
    assert "resumed the queue: unauthorized: HTTP 401" in call("resume", *Q, url=url).stdout
    assert noted(client) == {}


def test_namespaces_have_their_own_pauses(url: str, client: redis.Redis) -> None:
    """A pause of one namespace is apart from the queue's; `--all` ends them all, unreadable ones too."""
    call("pause", *Q, "--namespace", "a b", url=url)
    call("pause", *Q, "--namespace", "__default__", url=url)
    call("pause", *Q, url=url)
    assert set(noted(client)) == {QUEUE, scope_of(""), scope_of("a b")}
    left = call("resume", *Q, url=url).stdout
    assert "still paused: namespace 'a b': paused by hand" in left
    assert "still paused: the default namespace: paused by hand" in left
    told = document("resume", *Q, "--namespace", "a b", url=url)
    assert [one["scope"] for one in told["resumed"]] == ["namespace:a b"]
    assert [(one["scope"], one["namespace"]) for one in told["paused"]] == [("namespace:", "")]
    call("pause", *Q, url=url)
    client.hset(KEYS.paused, "odd", "x")
    told = document("resume", *Q, "--all", url=url)
    assert {one["scope"] for one in told["resumed"]} == {QUEUE, scope_of("")}
    assert client.exists(KEYS.paused) == 0


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ((), "the queue was not paused"),
        (("--namespace", "n"), "namespace 'n' was not paused"),
        (("--all",), "nothing was paused"),
    ],
)
def test_resuming_what_is_not_paused(url: str, option: tuple[str, ...], what: str) -> None:
    """There is nothing to do, which is said, and is no failure."""
    assert call("resume", *Q, *option, url=url).stdout == f"queue q: {what}: nothing to do\n"
    assert document("resume", *Q, *option, url=url) == {"queue": "q", "resumed": [], "paused": []}


def test_status_as_json(url: str, client: redis.Redis) -> None:
    """`status --json` has each pause with its scope, reason, message, beginning and author."""
    client.hset(KEYS.paused, QUEUE, note(BY_SERVICE))
    call("pause", *Q, "--namespace", "n", "--reason", "why", url=url)
    first, second = document("status", *Q, url=url)["paused"]
    assert (first["scope"], first["namespace"], first["reason"], first["by_hand"]) == (
        "namespace:n",
        "n",
        "by_hand",
        True,
    )
    assert second == {
        "scope": "queue",
        "namespace": None,
        "reason": "unauthorized",
        "message": "HTTP 401: check PINECONE_API_KEY",
        "since": 1.5e9,
        "by": "w1",
        "by_hand": False,
    }


def test_wait_ends_on_a_pause(url: str, client: redis.Redis) -> None:
    """Exit code 5 and one line that names the pause, once it has lasted; before that the wait goes on."""
    call("pause", *Q, "--reason", "index is rebuilt", url=url)
    line = complaint("wait", *Q, "--run", "night", "--timeout", "0.2", url=url, expect=4)
    assert "after 0.2 s: paused: the queue: index is rebuilt" in line
    done = call("wait", *Q, "--run", "night", "--timeout", "0.2", "--json", url=url, expect=4)
    assert json.loads(done.stdout)["pending"] == 10, "a script gets the receipt so far"
    line = complaint("wait", *Q, "--run", "night", "--pause-timeout", "0.5", "--timeout", "60", url=url, expect=5)
    assert line.startswith("upsertq: 10 of 10 records of run 'night' are pending: paused: the queue: index is rebuilt")
    assert "`upsertq resume --queue q` ends it" in line
    client.delete(KEYS.paused)
    client.hset(KEYS.paused, scope_of("n"), note(BY_SERVICE))
    line = complaint("wait", *Q, "--pause-timeout", "0.5", "--timeout", "60", url=url, expect=5)
    assert line.startswith("upsertq: 10 of 10 records of queue 'q' are pending: paused: namespace 'n': unauthorized")
    assert "it ends by itself" in line


def test_wait_with_nothing_pending_minds_no_pause(url: str, client: redis.Redis) -> None:
    """A run that is settled is done, whatever is paused."""
    for k in range(2):
        shard = KEYS.shard(k)
        for books in (shard.books, shard.run("night")):
            pending: Any = client.hget(books, "pending")
            client.hset(books, mapping={"acked": int(pending), "pending": 0, "bytes": 0})
    call("pause", *Q, url=url)
    assert document("wait", *Q, "--run", "night", "--pause-timeout", "0", url=url)["acked"] == 10


def test_load_and_wait_ends_on_a_pause(url: str, tmp_path: Path) -> None:
    """`load --wait` loads all the same, reports what it loaded, and exits with 5."""
    source = tmp_path / "more.jsonl"
    source.write_text("".join(json.dumps({"id": f"b{i}", "values": [1, 2, 3, 4]}) + "\n" for i in range(5)))
    call("pause", *Q, url=url)
    arguments = ("load", source, *Q, "--run", "more", "--wait", "--pause-timeout", "0", "--json")
    done = call(*arguments, url=url, expect=5)
    told = json.loads(done.stdout)
    assert (told["run"], told["loaded"], told["pending"]) == ("more", 5, 5)
    assert "5 of 5 records of run 'more' are pending: paused: the queue: paused by hand" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("resume", "--all", "--namespace", "n"), "exclude each other"),
        (("pause", "--namespace", "é"), "--namespace"),
        (("pause", "--namespace", "n" * 600), "--namespace"),
        (("wait", "--pause-timeout", "-1"), "--pause-timeout"),
    ],
)
def test_mistakes_are_told(url: str, arguments: tuple[str, ...], said: str) -> None:
    """A mistake on the command line is one line and exit code 2."""
    assert said in complaint(*arguments, *Q, url=url, expect=2)


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_queue_that_is_not_there(redis_server: RealServer, client: redis.Redis, command: str) -> None:
    """A mistyped name is one line and exit code 1, and nothing is paused by it."""
    assert "there is no queue 'nope'" in complaint(command, "--queue", "nope", url=redis_server.url, expect=1)
    assert client.dbsize() == 0


def test_what_is_said_cannot_write_on_the_terminal(url: str, client: redis.Redis) -> None:
    """Control characters in a reason or a namespace's name are not passed on to whoever reads the status."""
    client.hset(KEYS.paused, scope_of("n\x1b[2J"), note(Paused("quota", "a\x1b[2Jb\nc", 1.0, "w\x07")))
    page = call("status", *Q, url=url).stdout
    assert r"paused: namespace 'n\u001b[2J': quota: a\u001b[2Jb c (since 1970-01-01T00:00:01Z, by w\u0007)" in page
    assert "\x1b" not in page
