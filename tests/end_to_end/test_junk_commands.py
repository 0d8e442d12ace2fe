"""Whatever stands in Redis, each command ends with a code of the contract and one line: each key, each kind of junk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

import junk
from fuzzing import sampled
from junk import KEYS, QUEUE, RUN, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from junk import Damage
    from servers import RealServer

FIELDS, TYPES = 16.0, 0.5
"""Of so many damages one is done at a `FUZZ_FACTOR` of 1."""
READING: Final = (
    ("status",),
    ("status", "--json"),
    ("status", "--run", RUN),
    ("wait", "--timeout", "0"),
    ("wait", "--run", RUN, "--timeout", "0"),
    ("audit",),
    ("audit", "--json"),
    ("dead", "list"),
    ("dead", "list", "--json", "--run", RUN),
    ("dead", "show", "LETTER"),
    ("dead", "show", "LETTER", "--json"),
    ("dead", "export", "-"),
    ("dead", "replay", "--dry-run"),
)
CHANGING: Final = (
    ("pause",),
    ("resume",),
    ("load", "FILE", "--run", RUN, "--timeout", "0"),
    ("load", "FILE", "--resume", "--timeout", "0"),
    ("dead", "replay", "--yes"),
    ("dead", "replay", "LETTER", "--yes"),
    ("dead", "discard", "--yes"),
)


@pytest.fixture
def stage(redis_server: RealServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Provide a queue with something in every key."""
    stage = Stage(redis_server)
    monkeypatch.setenv("UPSERTQ_REDIS_URL", redis_server.url)
    yield stage
    stage.close()


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Provide a file of records."""
    file = tmp_path / "records.jsonl"
    file.write_text("".join(f'{{"id":"l{number}","values":[1,2,3,4]}}\n' for number in range(6)))
    return file


def letters(stage: Stage) -> list[str]:
    """The dead letters of shard 0."""
    told: list[tuple[bytes, object]] = stage.client.xrange(KEYS.shard(0).dead)  # type: ignore[assignment]
    return [f"0:{name.decode()}" for name, _ in told]


def commands(stage: Stage, records: Path) -> tuple[list[list[str]], list[list[str]]]:
    """The commands as they are typed: those that read, and those that change something."""
    places = {"FILE": str(records), "LETTER": letters(stage)[0]}
    reading, changing = (
        [[*(places.get(word, word) for word in line), "--queue", QUEUE] for line in lines]
        for lines in (READING, CHANGING)
    )
    return reading, changing


def run_all(stage: Stage, records: Path, damages: Iterator[Damage]) -> None:
    """Each command on each damage."""
    reading, changing = commands(stage, records)
    for damage in damages:
        stage.reset()
        damage.do(stage.client)
        for line in reading:
            junk.check(line, damage.name)
        for line in changing:
            stage.reset()
            damage.do(stage.client)
            junk.check(line, damage.name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(2))
def test_fields(stage: Stage, records: Path, part: int) -> None:
    """Values that are none: no number, no JSON, too long, too deep; a sample of them, all by `make fuzz`."""
    run_all(stage, records, iter(sampled(junk.bad_fields(), FIELDS)[part::2]))


@pytest.mark.timeout(600)
def test_foreign_types(stage: Stage, records: Path) -> None:
    """A key that is of another type; what is complained of names it; a sample of them, all by `make fuzz`."""
    run_all(stage, records, iter(sampled(junk.foreign_types(), TYPES)))
