"""Every command on a terminal, with hostile text in every place: nothing comes out raw but what rich makes itself."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

import forked
from processes import COMMAND, emulated, environment
from upsertq import Producer, Server
from upsertq.contract.dead_letter import Reason, Verdict, encode_letter
from upsertq.contract.keys import QueueKeys
from upsertq.contract.pauses import Paused, note, scope_of
from upsertq.contract.wire import Entry
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from servers import RealServer

KEYS = QueueKeys("q")
Q = ("--queue", "q")
COLUMNS = "400"

ASCII = "\x1b]0;evil\x07\x1b[35;5mx\x1b[3J\r\x08\x7f\n[red]z[/red][link=http://e/]l[/link]:boom:"
"""What an id or a namespace may hold: a title, a colour, an erasure, a forged line, markup of rich."""
HOSTILE = ASCII + "\x9b35;5m\x9d0;evil\x9c\x85\u202eevil\u2066\u200b\u2028\u2029\ufeff\U000e0041"
"""What any other text may hold."""
ARGUMENT = HOSTILE + "\udcff\udc9b"
"""What a word of a command line may hold."""

# a title (OSC), a bell, C1: rich makes none of these here; the colours, erasures and movements that it makes are these
BY_RICH = re.compile(rb"\x1b\[(?:\?25[lh]|[0-9]*[AK]|(?!35;5m)[0-9;]*m)")
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\u202e\u2066\ufeff\ufffd\U000e0041]")


def at_terminal(
    *arguments: str, url: str | None, answer: bytes = b"", until: bytes = b"", **more: str
) -> tuple[bytes, int]:
    """Run a command on a terminal of its own; with `until` it is interrupted once that is shown."""
    leader, follower = pty.openpty()
    settings = termios.tcgetattr(follower)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(follower, termios.TCSANOW, settings)
    shown = bytearray()
    own = environment(url, TERM="xterm-256color", COLUMNS=COLUMNS, LINES="60", **more)
    process = forked.start(arguments, own, follower, follower, follower)
    os.close(follower)

    def read() -> None:
        with suppress(OSError):  # the other side has gone
            while part := os.read(leader, 65_536):
                shown.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    if answer:
        os.write(leader, answer)
    try:
        if until:
            wait_until(lambda: until in shown, 60, f"{until!r} is shown")
            process.terminate()
        code = process.wait(90)
    finally:
        process.kill()
        process.wait()
        reader.join(30)
        os.close(leader)
    return bytes(shown), code


def check(shown: bytes, *words: str) -> str:
    """The text that was shown, which must hold nothing that acts, and each of the words."""
    text = BY_RICH.sub(b"", shown).replace(b"\r", b"").decode("utf-8", "replace")
    found = FORBIDDEN.search(text)
    assert found is None, (found, text[max(0, found.start() - 200) : found.end() + 50])
    assert "Traceback" not in text, text
    for word in words:
        assert word in text, (word, text)
    return text


def bury(client: redis.Redis) -> None:
    """Write a letter by hand that is hostile in each of its fields."""
    seq = "1-0-0"
    verdict = Verdict(
        reason=Reason.REFUSED, status=400, code=HOSTILE, message=HOSTILE, details=json.dumps({HOSTILE: HOSTILE}),
        request_id=HOSTILE, path=HOSTILE, attempts=1, first_ms=1, last_ms=1, worker=HOSTILE,
    )  # fmt: skip
    metadata = orjson.dumps([{HOSTILE: HOSTILE}])
    values = np.ones(2, "<f4").tobytes()
    entry = Entry(ASCII, (ASCII,), 2, values, metadata=metadata, run=ASCII, at=1, seq=seq)
    shard = KEYS.shard(0)
    client.execute_command("XADD", shard.dead, "1-1", *encode_letter(entry, verdict))  # type: ignore[no-untyped-call]
    client.hset(shard.dead_ids, f"{ASCII}\0{ASCII}", f"D,{seq},1-1,{ASCII}")
    for books in (shard.books, shard.run(ASCII), shard.run("r")):
        client.hset(books, mapping={f"reason:{HOSTILE}": 1, f"lsn:{HOSTILE}": 5})
        client.hincrby(books, "enqueued", 1)
        client.hincrby(books, "dead", 1)


@pytest.fixture
def url(redis_server: RealServer, client: redis.Redis) -> str:
    """Provide a server whose queue `q` is hostile wherever text stands."""
    with Producer("q", url=Server(client), shards=1) as producer:
        producer.put_many([ASCII, "b"], np.ones((2, 2)), namespace=ASCII, run="r", metadata=[{HOSTILE: HOSTILE}] * 2)
    bury(client)
    client.hset(KEYS.runs, ASCII, orjson.dumps({"begun": 1, "sealed": 1, "records": 1}))
    client.hset(KEYS.paused, scope_of(HOSTILE), note(Paused(HOSTILE, HOSTILE, 1.0, HOSTILE)))
    client.hset(KEYS.paused, HOSTILE, note(Paused(HOSTILE, HOSTILE, 1.0, HOSTILE, by_hand=True)))
    client.set(KEYS.shard(0).lease, f"1:{HOSTILE}", px=3_600_000)
    alive = {"at": time.time(), "every": 3_600, "host": HOSTILE, "pid": 1, "alarms": {HOSTILE: HOSTILE}}
    client.hset(KEYS.workers, HOSTILE, orjson.dumps(alive))
    client.hset(KEYS.workers, f"gone{HOSTILE}", HOSTILE)
    return redis_server.url


@pytest.fixture
def client(redis_server: RealServer) -> Iterator[redis.Redis]:
    """Provide a client of the server."""
    with redis_server.client() as client:
        yield client


READING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("evil", ("status",)),
    ("evil", ("status", "--run", "r")),
    ("evil", ("audit",)),
    ("evil", ("dead", "list")),
    ("1 dead letter", ("dead", "list", "--id", ASCII)),
    ("evil", ("dead", "show", "0:1-1")),
    ("evil", ("dead", "show", ARGUMENT)),
    ("1 dead letter", ("dead", "discard", "--dry-run")),
    ("1 dead letter", ("dead", "replay", "--dry-run")),
    ("", ("wait", "--run", "r", "--timeout", "0.2")),
    ("", ("wait", "--timeout", "0.2")),
    ("evil", ("pause", "--namespace", ASCII, "--reason", ARGUMENT)),
    ("evil", ("pause", "--reason", HOSTILE)),
    ("evil", ("resume", "--namespace", ASCII)),
    ("evil", ("resume", "--all")),
)


@pytest.mark.parametrize(("word", "arguments"), READING, ids=[" ".join(words[:2]) for _, words in READING])
def test_commands_that_read_the_queue(url: str, word: str, arguments: tuple[str, ...]) -> None:
    """Queue, namespaces, ids, runs, workers, alarms, pauses, holders, letters."""
    shown, _ = at_terminal(*arguments, *Q, url=url)
    check(shown, word)


def test_each_place_is_shown_with_its_escapes_on_one_line(url: str) -> None:
    """`status` names them all: where one of them had a line feed, there is none."""
    text = check(at_terminal("status", *Q, url=url)[0])
    lines = text.splitlines()
    escaped = r"\u001b]0;evil\u0007\u001b[35;5mx\u001b[3J\r\u0008\u007f\n[red]z[/red][link=http://e/]l[/link]:boom:"
    for beginning in ("leases: ", "worker ", "alarm of ", "paused: namespace", "dead letters: ", "  \\u001b]0;evil"):
        assert any(line.startswith(beginning) and escaped in line for line in lines), (beginning, text)
    assert not [line for line in lines if line.startswith(("[red]", "z"))]


def test_status_redrawn(url: str) -> None:
    """`--watch` draws the same text, without markup."""
    shown, _ = at_terminal("status", *Q, "--watch", "--interval", "0.2", url=url, until=b"rates: ")
    check(shown, r"alarm of \u001b]0;evil\u0007", "[red]z[/red]")


@pytest.mark.parametrize(
    "arguments", [("status",), ("dead", "list"), ("dead", "show", "0:1-1"), ("wait", "--run", "r")]
)
def test_json_keeps_the_true_value(url: str, arguments: tuple[str, ...], client: redis.Redis) -> None:
    """What a program reads is what stands on the server, though nothing acts on the terminal."""
    client.delete(KEYS.paused)
    more = ("--timeout", "0.2") if arguments[0] == "wait" else ()
    shown, _ = at_terminal(*arguments, *more, *Q, "--json", url=url)
    text = check(shown)
    start = min(text.find(sign) for sign in "[{" if sign in text)
    told: Any = json.JSONDecoder().raw_decode(text[start:])[0]
    found = json.dumps(told, ensure_ascii=False)
    assert json.dumps(HOSTILE, ensure_ascii=False)[1:-1] in found


def test_export_and_its_way_back(url: str, tmp_path: Path) -> None:
    """A file holds the true bytes; on the terminal the same document, shown; both load again."""
    target = str(tmp_path / "a\x1b[35;5m[red]\udcff.jsonl")
    check(at_terminal("dead", "export", target, *Q, url=url)[0], r"a\u001b[35;5m[red]\udcff.jsonl")
    (record,) = map(json.loads, Path(target).read_bytes().splitlines())
    assert (record["id"], record["namespace"], record["metadata"]) == (ASCII, ASCII, {HOSTILE: HOSTILE})
    text = check(at_terminal("dead", "export", "-", *Q, url=url)[0])
    assert json.loads(text.splitlines()[0]) == record
    text = check(at_terminal("dead", "export", str(tmp_path / "none\x1b[35;5m" / "x"), *Q, url=url)[0])
    assert r"none\u001b[35;5m/x cannot be written" in text


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_asking_and_doing(url: str, verb: str) -> None:
    """The question and the bar."""
    check(at_terminal("dead", verb, *Q, url=url, answer=b"n\n")[0], "nothing was")
    check(at_terminal("dead", verb, *Q, "--yes", url=url)[0], "1 dead letter")


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--queue", ARGUMENT),
        ("status", "--run", ARGUMENT),
        ("wait", "--run", ARGUMENT),
        ("status", "--redis-url", ARGUMENT),
        ("status", "--redis-url", f"redis://127.0.0.1:1/{ARGUMENT}"),
        (ARGUMENT,),
        ("status", f"--{ARGUMENT}"),
        ("dead", "list", "--since", ARGUMENT),
        ("dead", "list", "--reason", ARGUMENT),
        ("load", "-", "--namespace", ARGUMENT),
        ("load", f"/none/{ARGUMENT}.jsonl"),
        ("load", ARGUMENT),
        ("work", "--index-host", f"http://{ARGUMENT}"),
        ("work", "--index-host", "http://127.0.0.1:1", "--api-version", ARGUMENT),
        ("emulate", "--faults", ARGUMENT),
        ("emulate", "--faults", f"/none/{ARGUMENT}.toml"),
        ("emulate", "--host", ARGUMENT),
        ("emulate", "--require-api-key", "--api-key-env", ARGUMENT.replace("\0", "")),
        ("chaos", "--keep", f"/dev/null/{ARGUMENT}"),
    ],
    ids=lambda words: " ".join(words).encode("ascii", "ignore").decode()[:25],
)
def test_mistakes_are_one_line(redis_server: RealServer, arguments: tuple[str, ...]) -> None:
    """What was typed, or pasted, comes back in the error, and acts no more."""
    shown, code = at_terminal(*arguments, url=redis_server.url)
    text = check(shown)
    assert code in {1, 2}
    assert text.count("\n") == (2 if arguments[0] == "chaos" else 1), text  # which tells its seed before


def hostile_file(folder: Path, content: str) -> Path:
    """A file of a hostile name."""
    path = folder / "a\x1b[35;5m\x07[red]\u202e\udcff.jsonl"
    path.write_text(content)
    return path


@pytest.mark.parametrize("bad", ["id", "line", "name", "value", "field"])
def test_loading(redis_server: RealServer, tmp_path: Path, bad: str) -> None:
    """The bar, the summary, and what is said of each kind of bad record."""
    lines: dict[str, Any] = {
        "id": {"id": HOSTILE, "values": [1, 2]},
        "line": HOSTILE.replace("\n", ""),
        "name": {"id": "a", "values": [1, 2], "metadata": {f"${HOSTILE}": 1}},
        "value": {"id": "a", "values": [1, HOSTILE]},
        "field": {"id": "a", "values": [1, 2], "metadata": {HOSTILE: {HOSTILE: HOSTILE}}},
    }
    line = lines[bad] if isinstance(lines[bad], str) else json.dumps(lines[bad], ensure_ascii=False)
    path = hostile_file(tmp_path, f'{{"id": "g", "values": [1, 2]}}\n{line}\n')
    shown, code = at_terminal("load", str(path), *Q, url=redis_server.url)
    assert code == 1
    check(shown, r"a\u001b[35;5m\u0007[red]\u202e\udcff.jsonl line 2")
    rejects = str(tmp_path / f"r{path.name}")
    shown, code = at_terminal("load", str(path), *Q, "--rejects", rejects, url=redis_server.url)
    assert code == 3
    check(shown, r"ra\u001b[35;5m\u0007[red]\u202e\udcff.jsonl and load that file")


def test_the_demo_says_which_server(redis_server: RealServer) -> None:
    """It has lines of its own before it fails."""
    shown, code = at_terminal("demo", "--records", "1000", "--redis-url", ARGUMENT, url=redis_server.url)
    assert code == 2
    check(shown, "is no Redis URL")


def test_an_interrupted_load_says_so_below_its_bar(redis_server: RealServer, tmp_path: Path) -> None:
    """What is written while the bar is drawn passes through rich, which must read no colours into it."""
    path = hostile_file(tmp_path, '{"id": "g", "values": [1, 2]}\n' * 3_000)
    arguments = ("load", str(path), *Q, "--run", "r", "--max-pending-records", "1000", "--timeout", "60")
    shown, code = at_terminal(*arguments, url=redis_server.url, until=b"backlog is at its limit")
    assert code == 143
    check(shown, r"r: ", r"a\u001b[35;5m\u0007[red]\u202e\udcff.jsonl", "interrupted")


def test_a_worker_logs_a_line_an_event(redis_server: RealServer, client: redis.Redis, tmp_path: Path) -> None:
    """Ids, namespaces, what the service said, other workers: on the terminal and in the log of a pipe."""
    with Producer("q", url=Server(client), shards=1) as producer:
        producer.put_many([ASCII, "b"], np.ones((2, 2)), namespace=ASCII, run="r")
    client.hset(KEYS.paused, scope_of(HOSTILE), note(Paused(HOSTILE, HOSTILE, 1.0, HOSTILE, by_hand=True)))
    with emulated() as index:
        fault = {"kind": "poison", "pattern": "*", "message": f"{HOSTILE} {{id}} {{namespace}}"}
        index.set_faults({"faults": [fault]})
        arguments = ("work", *Q, "--index-host", index.url, "--until-empty", "--seconds", "20")
        shown, _ = at_terminal(*arguments, url=redis_server.url)
        check(shown, r"paused namespace '\u001b]0;evil", r"gives up \u001b]0;evil")
        log = tmp_path / "log"
        with log.open("wb") as file:
            subprocess.run(
                [*COMMAND, *arguments], env=environment(redis_server.url), stderr=file, check=False, timeout=60
            )
        lines = log.read_text().splitlines()
        assert all(line.isprintable() for line in lines)
        assert all(re.match(r"[0-9-]{0,10}.?[0-9:]{8}|upsertq: ", line) for line in lines), lines


def test_run_passes_the_workers_log_on(redis_server: RealServer, tmp_path: Path) -> None:
    """The worker beside a load is a process of its own on the same terminal."""
    record = {"id": ASCII, "values": [1, 2], "namespace": ASCII}
    path = hostile_file(tmp_path, json.dumps(record) + "\n")
    with emulated("--faults", "poison=*") as index:
        shown, code = at_terminal(
            "run", str(path), *Q, "--index-host", index.url, "--json", url=redis_server.url, PINECONE_API_KEY="k"
        )
    assert code in {1, 3, 5}, shown
    check(shown)
