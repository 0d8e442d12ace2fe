"""Every bad input of `upsertq load` gives one clear line, the right exit code, and enqueues nothing it should not."""

from __future__ import annotations

import gzip
import json
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from queued import books_of, records_of, shards_of, upsertq
from servers import closed_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers import RealServer

GOOD = [json.dumps({"id": f"g{k}", "values": [1.0, 2.0]}) for k in range(12)]


def one_line(text: str) -> str:
    """The text, which must be one line of the program's own, and no traceback."""
    assert text.count("\n") == 1, text
    assert text.startswith("upsertq: ")
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"id": "x", "values": [1, 2', "line: is no JSON"),
        ('{"id": "x", "values": [NaN, 2]}', "record 'x': values: item 0 is nan"),
        ('{"id": "x", "values": [1, Infinity]}', "record 'x': values: item 1 is inf"),
        ('{"id": "x", "values": [0, 0]}', "record 'x': values: are all zero"),
        ('{"id": "x", "values": [1, 2, 3]}', "record 'x': values: has 3 dimensions, but the queue holds records of 2"),
        ('{"id": "", "values": [1, 2]}', "record '': id: is empty"),
        (json.dumps({"id": "y" * 513, "values": [1, 2]}), "id: is 513 characters long; at most 512"),
        ('{"id": "naïve", "values": [1, 2]}', "id: has the non-ASCII character"),
        ('{"id": "x", "values": [1, 2], "metadata": {"a": {"b": 1}}}', "record 'x': metadata: 'a' is {'b': 1}"),
        (
            json.dumps({"id": "x", "values": [1, 2], "metadata": {"t": "z" * 41_984}}),
            "metadata: is 41,992 bytes as JSON",
        ),
    ],
)
def test_the_first_bad_record_stops_the_load(redis_server: RealServer, tmp_path: Path, bad: str, said: str) -> None:
    """File, line, id, field and reason are named; the six records before it are in, and it says so."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*GOOD[:6], bad, *GOOD[6:]]))
    ended = upsertq("load", path, "--run", "r", "--redis-url", redis_server.url)
    assert (ended.code, ended.out) == (1, "")
    line = one_line(ended.err)
    assert f"{path} line 7: " in line
    assert said in line
    assert "6 records are in the queue as run 'r': add --resume --rejects FILE" in line
    assert sorted(record.id for record in records_of(redis_server)) == [f"g{k}" for k in range(6)]
    rejects = tmp_path / "bad.jsonl"
    ended = upsertq("load", path, "--resume", "--rejects", rejects, "--json", "--redis-url", redis_server.url)
    assert ended.code == 3
    told = json.loads(ended.out)
    assert [told[name] for name in ("run", "loaded", "rejected", "skipped")] == ["r", 6, 1, 6]
    assert sorted(record.id for record in records_of(redis_server)) == sorted(f"g{k}" for k in range(12))
    assert json.loads(rejects.read_text())["_reject"]["line"] == 7


def missing(path: Path) -> Path:
    """No such file."""
    return path / "none.parquet"


def cut_parquet(path: Path) -> Path:
    """A Parquet file without its footer."""
    pa.parquet.write_table(pa.table({"id": ["a"] * 99, "values": [[1.0]] * 99}), path / "cut.parquet")
    (path / "cut.parquet").write_bytes((path / "cut.parquet").read_bytes()[:-40])
    return path / "cut.parquet"


def folder(path: Path) -> Path:
    """A directory."""
    (path / "folder.jsonl").mkdir()
    return path / "folder.jsonl"


def secret(path: Path) -> Path:
    """A file of no known format."""
    (path / "data.txt").write_text("x")
    return path / "data.txt"


@pytest.mark.parametrize("make", [missing, cut_parquet, folder, secret])
def test_a_bad_source_is_found_before_anything_is_enqueued(
    redis_server: RealServer, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """Even when a good source comes first, nothing of it is loaded."""
    (tmp_path / "good.jsonl").write_text("\n".join(GOOD))
    bad = make(tmp_path)
    ended = upsertq("load", tmp_path / "good.jsonl", bad, "--redis-url", redis_server.url)
    assert (ended.code, ended.out) == (1, "")
    assert str(bad) in one_line(ended.err)
    with redis_server.client() as client:
        assert client.dbsize() == 0


def test_damage_in_the_middle_stops_the_load_and_says_how_to_go_on(redis_server: RealServer, tmp_path: Path) -> None:
    """What was read of a cut gzip file is loaded; the whole file then goes on with the same records."""
    whole = gzip.compress("\n".join(json.dumps({"id": f"g{k}", "values": [1, k]}) for k in range(20_000)).encode())
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    ended = upsertq("load", path, "--run", "r", "--redis-url", redis_server.url)
    assert ended.code == 1
    line = one_line(ended.err)
    assert f"{path} is damaged" in line
    enqueued = books_of(redis_server).enqueued
    assert 0 < enqueued < 20_000
    assert f"{enqueued:,} records are in the queue as run 'r'" in line


def test_an_unreachable_server_is_one_line(tmp_path: Path) -> None:
    """The address is not repeated with its password, and the wait is short."""
    (tmp_path / "a.jsonl").write_text("\n".join(GOOD))
    url = f"redis://:s3cret@127.0.0.1:{closed_port()}/0"
    ended = upsertq("load", tmp_path / "a.jsonl", "--timeout", "0.3", env={"UPSERTQ_REDIS_URL": url})
    assert ended.code == 1
    assert "is the server running and the URL right?" in one_line(ended.err)
    assert "s3cret" not in ended.err


def test_a_wrong_password_is_one_line(make_server: Callable[..., RealServer], tmp_path: Path) -> None:
    """The server's refusal is passed on at once, without either password."""
    (tmp_path / "a.jsonl").write_text("\n".join(GOOD))
    server = make_server(port=0, password="right")  # noqa: S106 - a server of this test alone
    url = f"redis://:s3cret@127.0.0.1:{server.port}/0"
    ended = upsertq("load", tmp_path / "a.jsonl", env={"UPSERTQ_REDIS_URL": url})
    assert ended.code == 1
    assert "the server refuses" in one_line(ended.err)
    assert "s3cret" not in ended.err


def test_another_number_of_shards_is_one_line(redis_server: RealServer, tmp_path: Path) -> None:
    """The number is fixed at creation; the load says so and does nothing."""
    (tmp_path / "a.jsonl").write_text("\n".join(GOOD))
    assert upsertq("load", tmp_path / "a.jsonl", "--shards", "2", "--redis-url", redis_server.url).code == 0
    ended = upsertq("load", tmp_path / "a.jsonl", "--shards", "4", "--redis-url", redis_server.url)
    assert ended.code == 1
    assert "has 2 shards, not 4" in one_line(ended.err)
    assert books_of(redis_server).enqueued == 12


def test_another_dimension_than_the_queues_is_refused_from_the_first_record(
    redis_server: RealServer, tmp_path: Path
) -> None:
    """The first load fixes the dimension, the second breaks it."""
    (tmp_path / "a.jsonl").write_text("\n".join(GOOD))
    assert upsertq("load", tmp_path / "a.jsonl", "--redis-url", redis_server.url).code == 0
    pa.parquet.write_table(pa.table({"id": ["a", "b"], "values": [[1.0, 2.0, 3.0]] * 2}), tmp_path / "b.parquet")
    ended = upsertq("load", tmp_path / "b.parquet", "--redis-url", redis_server.url)
    assert ended.code == 1
    assert f"{tmp_path / 'b.parquet'} row 1: record 'a': values: has 3 dimensions, but the queue" in one_line(ended.err)
    assert "nothing was enqueued" in ended.err
    assert books_of(redis_server).enqueued == 12


def test_a_bad_first_record_fixes_no_dimension(redis_server: RealServer, tmp_path: Path) -> None:
    """A load that stops at its first record leaves the queue open to any dimension."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "", "values": [1, 2, 3]}\n{"id": "x", "values": [1, 2, 3]}')
    assert upsertq("load", path, "--redis-url", redis_server.url).code == 1
    path.write_text("\n".join(GOOD))
    assert upsertq("load", path, "--redis-url", redis_server.url).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--namespace", "é"], "--namespace has the non-ASCII character"),
        (["--shards", "0"], "--shards"),
        (["--shards", "3"], "'--shards': '3' is not one of '1', '2', '4', '8'"),
        (["--format", "xml"], "--format"),
        (["--run", "a b"], "run name 'a b' is not allowed"),
        (["--ids", "x.txt"], "--ids is given 1 times for 0 NPY files"),
    ],
)
def test_wrong_options_are_usage_errors(tmp_path: Path, arguments: list[Any], said: str) -> None:
    """Exit code 2, before any server is looked for."""
    (tmp_path / "a.jsonl").write_text("\n".join(GOOD))
    ended = upsertq("load", tmp_path / "a.jsonl", *arguments, "--redis-url", "redis://127.0.0.1:1/0")
    assert ended.code == 2
    assert said in one_line(ended.err)


def test_a_missing_library_is_named_with_its_cure(redis_server: RealServer, tmp_path: Path) -> None:
    """Without the extra `files`, Parquet and Zstandard say what to install, and JSONL loads."""
    hidden = tmp_path / "hidden"
    for name in ("pyarrow", "zstandard"):
        (hidden / name).mkdir(parents=True)
        (hidden / name / "__init__.py").write_text(f"raise ModuleNotFoundError('no', name={name!r})")
    env = {"PYTHONPATH": os.pathsep.join([str(hidden), *filter(None, [os.environ.get("PYTHONPATH")])])}
    (tmp_path / "a.jsonl").write_text("\n".join(GOOD))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    for name in ("a.parquet", "a.jsonl.zst"):
        ended = upsertq("load", tmp_path / "a.jsonl", tmp_path / name, "--redis-url", redis_server.url, env=env)
        assert ended.code == 1
        assert "pip install 'upsertq[files]'" in one_line(ended.err)
    with redis_server.client() as client:
        assert shards_of(client, "default") == 0
    assert upsertq("load", tmp_path / "a.jsonl", "--redis-url", redis_server.url, env=env).code == 0
