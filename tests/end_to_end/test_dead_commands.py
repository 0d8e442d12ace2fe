"""`upsertq dead` as scripts and people use it: real processes, exit codes, JSON that is a contract, a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import buried
from buried import refused
from processes import COMMAND, books, call, complaint, document, environment, start
from terminals import on_a_terminal
from upsertq import Producer, Server
from upsertq.cli.dead_options import moment
from upsertq.contract.dead_letter import Reason
from upsertq.contract.errors import UsageError
from upsertq.contract.keys import QueueKeys
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from servers import RealServer
    from upsertq.contract.dead_letter import Verdict

KEYS = QueueKeys("q")
CONTRACT = {
    "dead_id", "id", "namespace", "run", "reason", "status", "message", "attempts", "first_failed_at", "last_failed_at",
}  # fmt: skip
Q = ("--queue", "q")


def of_bad(name: str) -> Verdict | None:
    """Kill x… (refused) and y… (too large)."""
    if name.startswith("x"):
        return refused("Metadata value must be\x1b[31m a string")
    return refused("huge", Reason.TOO_LARGE, 413, buried.NOW_MS - 7_200_000) if name.startswith("y") else None


@pytest.fixture
def url(redis_server: RealServer, client: redis.Redis) -> str:
    """Provide the address of a server with 20 dead x, 5 dead y (two hours ago) and 10 acknowledged in queue `q`."""
    server = Server(client)
    rng = np.random.default_rng(1)
    with Producer("q", url=server, shards=2) as producer:
        for run, names in (("night", [f"x{i}" for i in range(20)]), ("day", [f"y{i}" for i in range(5)])):
            metadata: Any = [{"title": f"é {name}", "big": 2**53, "f": 0.1} for name in names]
            matrix = rng.standard_normal((len(names), 4), dtype=np.float32)
            sparse: Any = [{"indices": [1, 7], "values": [0.1, 0.3]} for _ in names]
            producer.put_many(names, matrix, sparse_values=sparse, metadata=metadata, namespace="n", run=run)
        producer.put_many([f"g{i}" for i in range(10)], np.ones((10, 4)), run="night")
    buried.settle(server, client, of_bad)
    return redis_server.url


def listed(url: str, *arguments: str) -> list[dict[str, Any]]:
    """The array of `dead list --json`."""
    found: list[dict[str, Any]] = json.loads(call("dead", "list", *Q, "--json", *arguments, url=url).stdout)
    return found


def test_list_as_json(url: str) -> None:
    """The array holds what the contract says, and times in UTC."""
    items = listed(url)
    assert len(items) == 25
    assert all(item.keys() >= CONTRACT for item in items)
    one = next(item for item in items if item["id"] == "y0")
    assert (one["namespace"], one["run"], one["reason"], one["status"], one["message"], one["attempts"]) == (
        "n", "day", "too_large", 413, "huge", 7,
    )  # fmt: skip
    assert moment("", one["last_failed_at"], 0) == buried.NOW_MS - 7_200_000
    assert moment("", one["first_failed_at"], 0) == buried.NOW_MS - 7_201_500
    assert one["last_failed_at"].endswith("Z")
    assert "values" not in one


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["--reason", "refused"], 20),
        (["--reason", "refused", "--reason", "too_large"], 25),
        (["--status", "413"], 5),
        (["--run", "day"], 5),
        (["--namespace", "n"], 25),
        (["--namespace", "__default__"], 0),
        (["--id", "x1", "--id", "y1"], 2),
        (["--id", "x1", "--run", "day"], 0),
        (["--since", "1h"], 20),
        (["--until", "1h"], 5),
        (["--limit", "3"], 3),
    ],
)
def test_selectors(url: str, arguments: list[str], count: int) -> None:
    """The same selectors choose the same letters for list, replay, discard and export."""
    assert len(listed(url, *arguments)) == count
    for command in ("replay", "discard"):
        told = document("dead", command, *Q, "--dry-run", *arguments, url=url)
        assert (told["selected"], sum(told["by_reason"].values())) == (count, count)
    assert books(url, "q")["dead"] == 25


def test_list_as_a_table(url: str) -> None:
    """The table has a title, a row a letter with its id and message, nothing that moves a cursor, and the count."""
    lines = call("dead", "list", *Q, url=url).stdout.splitlines()
    assert lines[0].split()[:4] == ["dead", "id", "id", "namespace"]
    assert len(lines) == 27
    assert lines[-1] == "25 dead letters"
    (row,) = (line for line in lines if " x7 " in line)
    assert "refused" in row
    assert "Metadata value must be" in row
    assert "\x1b" not in row
    assert call("dead", "list", *Q, "--id", "nobody", url=url).stdout == "0 dead letters\n"
    assert call("dead", "list", *Q, "--id", "x1", url=url).stdout.splitlines()[-1] == "1 dead letter"
    assert listed(url, "--id", "nobody") == []


def test_show(url: str) -> None:
    """Everything is shown, as a page and as JSON; of the values only the first."""
    (item,) = listed(url, "--id", "x3")
    (shown,) = json.loads(call("dead", "show", *Q, item["dead_id"], "--json", url=url).stdout)
    assert shown.items() >= {name: item[name] for name in CONTRACT}.items()
    assert shown["metadata"] == {"title": "é x3", "big": 2**53, "f": 0.1}
    assert (shown["path"], shown["details"], shown["request_id"]) == ("100 50 1", {"field": "x"}, "rq-1")
    assert (shown["dimension"], len(shown["first_values"]), shown["worker"]) == (4, 4, "w1")
    page = call("dead", "show", *Q, item["dead_id"], url=url).stdout
    for word in (item["dead_id"], "x3", "100 50 1", "rq-1", "4 dimensions", '"é x3"'):
        assert word in page
    assert "\x1b" not in page


def test_letters_that_are_not_there(url: str) -> None:
    """An unknown dead id is one line and exit code 1, and nothing is done to the known ones."""
    known = listed(url)[0]["dead_id"]
    for command in (["show"], ["replay", "--yes"], ["discard", "--yes"]):
        line = complaint("dead", *command, *Q, known, "0:1-1", url=url, expect=1)
        assert "there is no dead letter '0:1-1' in queue 'q'" in line
    assert books(url, "q")["dead"] == 25


def test_replay_and_discard(url: str) -> None:
    """Each says what it did; the books follow, the audit agrees, and a repetition finds nothing."""
    told = document("dead", "replay", *Q, "--yes", "--reason", "refused", url=url)
    assert told == {
        "queue": "q", "selected": 20, "replayed": 20, "gone": 0, "left": 0, "by_reason": {"refused": 20},
    }  # fmt: skip
    assert books(url, "q", "night") == {
        "enqueued": 30, "acked": 10, "superseded": 0, "discarded": 0, "dead": 0, "pending": 20,
    }  # fmt: skip
    call("audit", *Q, url=url)
    text = call("dead", "discard", *Q, "--yes", url=url).stdout
    assert "discarded 5 of 5 dead letters of queue 'q' (5 too_large)" in text
    assert books(url, "q")["discarded"] == 5
    call("audit", *Q, url=url)
    assert "nothing was replayed" in call("dead", "replay", *Q, "--yes", url=url).stdout


def test_named_letters(url: str) -> None:
    """Letters can be named instead of chosen, not both."""
    two = [item["dead_id"] for item in listed(url)[:2]]
    assert document("dead", "replay", *Q, "--yes", *two, url=url)["replayed"] == 2
    assert "not both" in complaint("dead", "discard", *Q, "--yes", "0:1-1", "--run", "night", url=url, expect=2)


def test_dry_run_changes_nothing(url: str) -> None:
    """A dry run counts by reason, needs no terminal and leaves all as it is."""
    told = document("dead", "replay", *Q, "--dry-run", url=url)
    assert told["by_reason"] == {"refused": 20, "too_large": 5}
    assert (told["replayed"], told["dry_run"], told["left"]) == (0, True, 25)
    text = call("dead", "discard", *Q, "--dry-run", url=url).stdout
    assert "would discard 25 dead letters of queue 'q' (20 refused, 5 too_large); nothing was changed" in text
    assert books(url, "q")["dead"] == 25


@pytest.mark.parametrize("command", ["replay", "discard"])
def test_nobody_to_ask(url: str, command: str) -> None:
    """Without a terminal and without --yes it is a usage error, and nothing happens."""
    assert "give --yes" in complaint("dead", command, *Q, url=url, expect=2)
    assert books(url, "q")["dead"] == 25


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--since", "yesterday"], "--since 'yesterday' is no time"),
        (["list", "--until", "2025-13-01"], "--until '2025-13-01' is no time"),
        (["replay", "--since", "soon"], "--since 'soon' is no time"),
        (["export", "-", "--until", "2y"], "--until '2y' is no time"),
        (["list", "--reason", "bored"], "--reason"),
        (["list", "--limit", "0"], "--limit"),
        (["replay", "--first", "0"], "--first"),
        (["show"], "DEAD_ID"),
        (["export", "-", "--json"], "both want stdout"),
    ],
)
def test_usage_errors(redis_server: RealServer, arguments: list[str], said: str) -> None:
    """A mistake on the command line is one line and exit code 2, told before anything is looked up."""
    assert said in complaint("dead", *arguments, "--queue", "nope", url=redis_server.url, expect=2)


def test_what_is_not_there(url: str) -> None:
    """An unknown queue or run is one line and exit code 1."""
    assert "no queue 'nope'" in complaint("dead", "list", "--queue", "nope", url=url, expect=1)
    for command in (["list"], ["replay", "--yes"], ["export", "-"]):
        assert "has no run 'zz'" in complaint("dead", *command, *Q, "--run", "zz", url=url, expect=1)


def test_times() -> None:
    """Times are ISO 8601, in UTC unless they say otherwise, or so long before now."""
    assert moment("--since", "1970-01-01T00:00:01", 0) == moment("--since", "1970-01-01T02:00:01+02:00", 0) == 1_000
    assert moment("--since", "1970-01-02", 0) == 86_400_000
    assert [moment("", text, 10**12) for text in ("45s", "1.5m", "2h", "3d", "1w")] == [
        10**12 - 1000 * seconds for seconds in (45, 90, 7_200, 259_200, 604_800)
    ]
    for text in ("", "h", "2y", "-2h", "999999999w", "2h3"):
        with pytest.raises(UsageError, match="--until"):
            moment("--until", text, 0)


def test_export_loads_back(url: str, client: redis.Redis, tmp_path: Path) -> None:
    """What is exported loads as it is, bit for bit; landed, it supersedes the letters."""

    def payload(key: str) -> dict[bytes, Any]:
        found = {}
        for shard in range(2):
            own = KEYS.shard(shard)
            letters: Any = client.xrange(own.dead)
            for _, fields in letters if key == "dead" else buried.pending(client, own):
                size = 16
                for at, name in enumerate(json.loads(fields[b"ids"])):
                    rest = [json.loads(fields[part])[at] for part in (b"sparse", b"meta")]
                    found[name] = (fields[b"values"][at * size : (at + 1) * size], *rest, fields[b"ns"])
        return found

    before = payload("dead")
    told = document("dead", "export", tmp_path / "dead.jsonl", *Q, url=url)
    assert told == {"queue": "q", "exported": 25, "by_reason": {"refused": 20, "too_large": 5}}
    line = json.loads((tmp_path / "dead.jsonl").read_bytes().splitlines()[0])
    assert line.keys() == {"id", "values", "sparse_values", "metadata", "namespace", "_dead"}
    assert line["_dead"]["reason"] in {"refused", "too_large"}
    assert [path.name for path in tmp_path.iterdir()] == ["dead.jsonl"]
    assert call("dead", "export", "-", *Q, url=url).stdout == (tmp_path / "dead.jsonl").read_text()
    call("load", tmp_path / "dead.jsonl", *Q, "--run", "again", url=url)
    assert payload("stream") == before
    call("load", tmp_path / "dead.jsonl", *Q, "--metadata-columns", "*", "--run", "again2", url=url)
    assert all(b"_dead" not in fields[b"meta"] for _, fields in client.xrange(KEYS.shard(0).stream("")))  # type: ignore[union-attr, index]
    buried.settle(Server(client), client, lambda _: None)
    assert books(url, "q")["superseded"] == 25
    assert listed(url) == []
    call("audit", *Q, url=url)


def test_export_to_where_nothing_can_be_written(url: str, tmp_path: Path) -> None:
    """A file that cannot be written is one line and exit code 1."""
    line = complaint("dead", "export", tmp_path / "no" / "x.jsonl", *Q, url=url, expect=1)
    assert "cannot be written" in line


@pytest.mark.parametrize(
    ("judge", "code", "replayed"),
    [
        (lambda _: None, 0, 20),
        (of_bad, 3, 4),
        (lambda _: refused("other", Reason.SHORT_ACK), 0, 20),
    ],
)
def test_a_few_first(
    url: str, client: redis.Redis, tmp_path: Path, judge: Callable[[str], Verdict | None], code: int, replayed: int
) -> None:
    """With --first the rest follows only if none of the few died again for the same reason."""
    log = tmp_path / "replay.log"
    arguments = ("dead", "replay", *Q, "--yes", "--reason", "refused", "--first", "4", "--json")
    process = start(*arguments, url=url, log=log)

    def entries() -> int:
        return sum(len(buried.pending(client, KEYS.shard(shard))) for shard in range(2))

    wait_until(lambda: entries() == 4, 30, "the first four are replayed")
    assert process.poll() is None
    buried.settle(Server(client), client, judge)
    assert process.wait(30) == code, log.read_text()
    told = json.loads(log.read_text())
    assert (told["selected"], told["replayed"], told["left"]) == (20, replayed, 20 - replayed)
    assert told["first"]["same_reason"] == (4 if code else 0)
    call("audit", *Q, url=url)


def test_the_first_are_some_that_are_still_there(url: str) -> None:
    """What is discarded while the question stands tries nothing: others are tried before the rest follows."""
    gone = [letter["dead_id"] for letter in listed(url, "--reason", "refused") if letter["id"] not in {"x18", "x19"}]
    shown, ended = on_a_terminal(
        *("dead", "replay", *Q, "--reason", "refused", "--first", "1", "--timeout", "0.2"),
        url=url,
        until=b"20 dead letters",
        answer=b"y\n",
        meanwhile=lambda: call("dead", "discard", *Q, "--yes", *gone, url=url),
    )
    assert b"1 of the first 1 replayed records are still pending" in b" ".join(shown.split())
    assert ended == 4
    assert len(listed(url, "--reason", "refused")) == 1


def test_the_first_are_not_waited_for_for_ever(url: str) -> None:
    """Without a worker --first ends with exit code 4, says what it did, and leaves the rest."""
    done = call("dead", "replay", *Q, "--yes", "--first", "2", "--timeout", "0.2", "--json", url=url, expect=4)
    assert "2 of the first 2 replayed records are still pending after 0.2 s" in done.stderr
    told = json.loads(done.stdout)
    assert (told["replayed"], told["left"]) == (2, 23)
    assert books(url, "q")["dead"] == 23


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 25), (b"\n", 1, 25), (b"y\n", 0, 0)])
def test_a_person_is_asked(url: str, answer: bytes, code: int, left: int) -> None:
    """On a terminal the counts are shown, and that it is all of them; only yes does it."""
    question = b"replay ALL 25 dead letters of queue 'q' (20 refused, 5 too_large)?"
    shown, ended = on_a_terminal("dead", "replay", *Q, url=url, until=question, answer=answer)
    assert ended == code, shown
    assert (b"nothing was replayed" in shown) == (code == 1)
    assert books(url, "q")["dead"] == left


def test_what_was_previewed_is_what_is_done(url: str, client: redis.Redis) -> None:
    """What dies between the preview and the answer is not part of it."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "dead", "discard", *Q],
        env=environment(url, TERM="xterm", COLUMNS="100"),
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=follower,
        start_new_session=True,
    ) as process:
        os.close(follower)
        shown = b""
        while b"for good?" not in shown:
            shown += os.read(leader, 65536)
        assert b"ALL 25 dead letters" in shown
        with Producer("q", url=Server(client)) as producer:
            producer.put_many(["x90", "x91"], np.ones((2, 4)))
        buried.settle(Server(client), client, of_bad)
        os.write(leader, b"y\n")
        assert process.stdout is not None
        assert b"discarded 25 of 25" in process.stdout.read()
        assert process.wait(30) == 0
        os.close(leader)
    assert {item["id"] for item in listed(url)} == {"x90", "x91"}
    call("audit", *Q, url=url)


def test_a_table_fits_the_terminal(url: str) -> None:
    """On a terminal no row is wider than it, and what the service said gets some of it."""
    shown, code = on_a_terminal("dead", "list", *Q, url=url, until=b"25 dead letters", answer=b"")
    assert code == 0
    assert max(len(line) for line in shown.decode().splitlines()) <= 100
    assert shown.count(b"Metadata value must") == 20
