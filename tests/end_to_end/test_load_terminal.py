"""A person at a terminal sees a bar; a pipe sees one line at the end, and an embedded server needs no address."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
from typing import TYPE_CHECKING

from queued import books_of, command, upsertq

if TYPE_CHECKING:
    from pathlib import Path

    from servers import RealServer


def lines(path: Path, count: int) -> Path:
    """A file of so many records."""
    path.write_text("".join(json.dumps({"id": f"d{k}", "values": [1.0, k]}) + "\n" for k in range(count)))
    return path


def test_a_bar_is_drawn_on_a_terminal_alone(redis_server: RealServer, tmp_path: Path) -> None:
    """The bar names the run, the file and why nothing moves; stdout keeps its one line."""
    path = lines(tmp_path / "a[b].jsonl", 20_000)
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def watch() -> None:
        try:
            while block := os.read(ours, 65_536):
                seen.append(block)
        except OSError:  # the other side is closed
            return

    watching = threading.Thread(target=watch)
    watching.start()
    options = ["--run", "r", "--timeout", "1", "--max-pending-records", "10000", "--redis-url", redis_server.url]
    load = subprocess.run(
        command("load", path, *options),
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=False,
        timeout=60,
        env={**os.environ, "COLUMNS": "300", "TERM": "xterm"},
    )
    os.close(theirs)
    watching.join(10)
    os.close(ours)
    drawn = b"".join(seen).decode()
    assert (load.returncode, load.stdout) == (1, b"")
    assert f"r: {path}" in drawn
    assert "the backlog is at its limit" in drawn
    assert 0 < books_of(redis_server).enqueued <= 10_000


def test_without_an_address_the_embedded_server_keeps_the_records(tmp_path: Path) -> None:
    """Two commands one after the other meet the same queue."""
    path = lines(tmp_path / "a.jsonl", 100)
    state = {"UPSERTQ_STATE_DIR": str(tmp_path / "state")}
    ended = upsertq("load", path, "--run", "r", "--json", env=state)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["pending"] == 100
    ended = upsertq("load", path, "--resume", "--json", env=state)
    assert ended.code == 0
    assert {name: json.loads(ended.out)[name] for name in ("run", "loaded", "pending")} == {
        "run": "r",
        "loaded": 0,
        "pending": 100,
    }
