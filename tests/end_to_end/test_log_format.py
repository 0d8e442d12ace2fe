"""The worker's log as JSON lines, of `work` and of the worker beside `run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from processes import call, emulated

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("command", ["work", "run"])
def test_each_line_is_an_object(command: str, redis_url: str, tmp_path: Path) -> None:
    """With its event's name; the key of the index is in none of them."""
    source = tmp_path / "records.jsonl"
    source.write_bytes(b'{"id":"a","values":[1,2]}\n')
    common = ("--queue", "q", "--log-format", "json", "--linger", "0")
    with emulated() as index:
        if command == "run":
            done = call(
                "run", source, "--run", "r", "--index-host", index.url, *common, url=redis_url, UPSERTQ_LOG_LEVEL="INFO"
            )
        else:
            call("load", source, "--queue", "q", url=redis_url)
            done = call("work", "--until-empty", "--index-host", index.url, *common, url=redis_url)
    lines: list[dict[str, Any]] = [orjson.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    events = [line["event"] for line in lines]
    assert "started" in events, done.stderr
    started = lines[events.index("started")]
    assert set(started) == {"time", "level", "event", "fields", "message"}
    assert started["fields"]["queue"] == "q"
    assert started["fields"]["index"] == index.url
    if command == "work":
        assert len(lines) == len(done.stderr.splitlines()), done.stderr
