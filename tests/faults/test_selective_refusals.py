"""A service that refuses some batches as if it were all of them, or an old key: only what is at fault is harmed."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from processes import books, call, document, start
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Reply = tuple[int, Any]
WORK = ("work", "--queue", "q", "--linger", "0.2", "--lease", "2", "--quarantine", "0.5", "--batch-size", "20")
OLD, NEW = "pcsk_the-old-key", "pcsk_the-new-key"


@contextmanager
def service(answer: Callable[[list[str], str], Reply]) -> Iterator[str]:
    """Run a service behind a prefix that answers as it is told, given the ids and the key, and has no statistics."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, document = 404, "no such path"
            if self.path == "/gateway/idx/vectors/upsert":
                status, document = answer([one["id"] for one in request["vectors"]], self.headers.get("Api-Key", ""))
            body = orjson.dumps(document)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/gateway/idx/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def load(path: Path, ids: list[str], url: str, namespace: str = "") -> None:
    """Enqueue records of two dimensions with these ids."""
    source = path / f"{len(list(path.iterdir()))}.jsonl"
    source.write_bytes(b"".join(orjson.dumps({"id": name, "values": [1, 2]}) + b"\n" for name in ids))
    call("load", source, "--queue", "q", *(("--namespace", namespace) if namespace else ()), url=url)


FORBIDDEN: Reply = (403, "<html><title>Request blocked</title></html>")
SCHEMA: Reply = (400, {"code": 3, "message": "This index has a document schema", "details": []})
MONTHLY: Reply = (429, {"code": 8, "message": "You've reached your write unit limit for the current month (1)."})


@pytest.mark.parametrize("refusal", [FORBIDDEN, SCHEMA, MONTHLY], ids=["firewall", "schema", "month"])
def test_a_record_that_draws_a_refusal_of_the_lane_harms_only_itself(
    refusal: Reply, redis_url: str, tmp_path: Path
) -> None:
    """Nothing is paused, in its namespace or another one; it is found among its neighbours, and dead."""
    load(tmp_path, [f"a-{i}" for i in range(60)] + ["culprit"], redis_url)
    load(tmp_path, [f"b-{i}" for i in range(60)], redis_url, "other")

    def answer(ids: list[str], _: str) -> Reply:
        return refusal if "culprit" in ids else (200, {"upsertedCount": len(ids)})

    with service(answer) as host:
        log = tmp_path / "worker.log"
        worker = start(*WORK, "--index-host", host, "--until-empty", "--max-attempts", "4", url=redis_url, log=log)
        assert worker.wait(120) == 3, log.read_text()
    told = log.read_text()
    assert "paused" not in told, told
    assert "gives no statistics" in told
    letters = call("dead", "list", "--queue", "q", "--json", url=redis_url).stdout
    assert [letter["id"] for letter in orjson.loads(letters)] == ["culprit"]
    assert books(redis_url, "q")["acked"] == 120


def test_a_key_is_exchanged_without_a_restart(redis_url: str, tmp_path: Path) -> None:
    """The file is read anew when the key is refused, and on SIGHUP, which ends nothing even where it is gone."""
    key_file, log = tmp_path / "key", tmp_path / "worker.log"
    key_file.write_text(OLD)
    valid, seen = [OLD], set()

    def answer(ids: list[str], key: str) -> Reply:
        seen.add(key)
        return (200, {"upsertedCount": len(ids)}) if key in valid else (401, f"Invalid API key {key}")

    with service(answer) as host:
        worker = start(
            *WORK, "--index-host", host, url=redis_url, log=log, PINECONE_API_KEY_FILE=str(key_file)
        )  # fmt: skip
        load(tmp_path, ["a"], redis_url)
        wait_until(lambda: books(redis_url, "q")["acked"] == 1, 60, "the first record to land")
        key_file.write_text(NEW)
        valid[:] = [NEW]
        load(tmp_path, ["b"], redis_url)
        wait_until(lambda: books(redis_url, "q")["acked"] == 2, 60, "the second to land with the new key")
        assert "paused" not in log.read_text()
        valid[:] = [OLD]
        load(tmp_path, ["c"], redis_url)
        wait_until(lambda: "paused the queue" in log.read_text(), 60, "the queue to be paused")
        key_file.unlink()
        for _ in range(3):
            worker.send_signal(signal.SIGHUP)
        wait_until(lambda: "cannot read the API key" in log.read_text(), 60, "the missing file to be told")
        assert OLD not in str(document("status", "--queue", "q", url=redis_url)) + log.read_text()
        key_file.write_text(OLD)
        worker.send_signal(signal.SIGHUP)
        wait_until(lambda: books(redis_url, "q")["acked"] == 3, 60, "the third to land with the old key")
        worker.terminate()
        assert worker.wait(60) == 0
    told = log.read_text()
    assert told.count("cannot read the API key") == 1
    assert seen == {OLD, NEW}
    assert not any(key in told for key in (OLD, NEW))


def test_a_hangup_ends_no_run(redis_url: str, tmp_path: Path) -> None:
    """It reaches the worker beside the load, several times as well, and without a key's file."""
    source, log = tmp_path / "r.jsonl", tmp_path / "run.log"
    source.write_bytes(b'{"id":"a","values":[1,2]}\n')
    arrived, release = threading.Event(), threading.Event()

    def answer(ids: list[str], _: str) -> Reply:
        arrived.set()
        release.wait(60)
        return 200, {"upsertedCount": len(ids)}

    with service(answer) as host:
        run = start("run", source, "--queue", "q", "--run", "r", "--index-host", host, url=redis_url, log=log)
        assert arrived.wait(60)
        for _ in range(3):
            run.send_signal(signal.SIGHUP)
        release.set()
        assert run.wait(60) == 0, log.read_text()
