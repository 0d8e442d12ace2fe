"""A folder stands for its files, and what its name says of a record is either taken or asked for."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from upsertq.client.loading import outcomes
from upsertq.contract.errors import SourceError, UsageError
from upsertq.contract.wire import Record
from upsertq.sources import Columns, Format, open_sources, places

if TYPE_CHECKING:
    from pathlib import Path


def put(root: Path, name: str, **more: Any) -> Path:
    """Write a file of one record, whose id is the file's name, in the format of its ending."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"id": path.stem, "values": [1.0, 2.0], **more}
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps(row) + "\n")
    return path


def read(*paths: Path | str, columns: Columns | None = None, **options: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """The ids, namespaces and metadata that the loader would find."""
    found = []
    for source in open_sources([str(path) for path in paths], columns or Columns(), **options):
        for chunk in source.chunks():
            for record in outcomes(chunk, None):
                assert isinstance(record, Record), record
                found.append((record.id, record.namespace, json.loads(record.metadata or b"{}")))
    return found


def spaces(*paths: Path | str, **options: Any) -> dict[str, str]:
    """The namespace of each id."""
    return {record_id: namespace for record_id, namespace, _ in read(*paths, **options)}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_folder_is_its_files_in_order(tmp_path: Path, suffix: str) -> None:
    """Names that begin with `_` or `.` are left out, as Spark means it; the order is that of the names."""
    for name in ("b", "a", "c"):
        put(tmp_path, f"out/{name}.{suffix}")
    for name in ("_SUCCESS", ".part.crc", "_temporary/0/d.parquet", ".hidden/e.jsonl"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(b"")
    assert list(spaces(tmp_path / "out")) == ["a", "b", "c"]
    assert list(spaces(f"{tmp_path}/out/*")) == ["a", "b", "c"]
    assert list(spaces(tmp_path / "out" / f"a.{suffix}", tmp_path / "out" / "_SUCCESS")) == ["a"]


def test_pinecones_layout_gives_namespaces(tmp_path: Path) -> None:
    """One level of folders with Parquet files are namespaces; options and the file's own column rule over them."""
    put(tmp_path, "in/eu/a.parquet")
    put(tmp_path, "in/us/b.parquet")
    put(tmp_path, "in/__default__/c.parquet")
    put(tmp_path, "in/us/d.parquet", namespace="own")
    assert spaces(tmp_path / "in") == {"a": "eu", "b": "us", "c": "", "d": "own"}
    assert set(spaces(tmp_path / "in", columns=Columns(namespace="all")).values()) == {"all"}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_folders_that_would_merge_are_refused_until_told(tmp_path: Path, suffix: str) -> None:
    """As a list or as a pattern, two folders without a namespace are two namespaces or a question."""
    eu, us = put(tmp_path, f"in/eu/a.{suffix}"), put(tmp_path, f"in/us/b.{suffix}")
    for given in ([eu, us], [f"{tmp_path}/in/*/*.{suffix}"], [f"{tmp_path}/in/*"], [tmp_path / "in/eu", us]):
        with pytest.raises(UsageError, match="--namespace-from-folder") as caught:
            read(*given)
        assert "--namespace NAME" in str(caught.value)
        assert spaces(*given, namespace_from_folder=True) == {"a": "eu", "b": "us"}
        assert spaces(*given, columns=Columns(namespace="")) == {"a": "", "b": ""}
    assert spaces(eu) == {"a": ""}
    put(tmp_path, f"in/eu/a.{suffix}", namespace="x")
    assert spaces(eu, us) == {"a": "x", "b": ""}


def test_deeper_or_mixed_folders_are_refused_until_told(tmp_path: Path) -> None:
    """What is not plainly Pinecone's layout gives no namespaces by itself."""
    put(tmp_path, "in/eu/x/a.parquet")
    put(tmp_path, "in/us/b.parquet")
    with pytest.raises(UsageError, match="different folders"):
        read(tmp_path / "in")
    assert spaces(tmp_path / "in", namespace_from_folder=True) == {"a": "x", "b": "us"}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_hive_folders_are_columns(tmp_path: Path, suffix: str) -> None:
    """`key=value` folders are columns: by default, by option and in `*`; decoded, with null."""
    put(tmp_path, f"in/namespace=e%20u/year=2024/a.{suffix}", title="t")
    put(tmp_path, f"in/namespace=us/year=__HIVE_DEFAULT_PARTITION__/b.{suffix}", title="t")
    for given in ([tmp_path / "in"], [f"{tmp_path}/in/*/*/*.{suffix}"], sorted((tmp_path / "in").rglob(f"*.{suffix}"))):
        assert read(*given) == [("a", "e u", {}), ("b", "us", {})]
        told = read(*given, columns=Columns(metadata=("year",)))
        assert told == [("a", "e u", {"year": "2024"}), ("b", "us", {})]
        told = read(*given, columns=Columns(metadata=("*",)))
        assert told == [("a", "e u", {"title": "t", "year": "2024"}), ("b", "us", {"title": "t"})]
        assert spaces(*given, columns=Columns(namespace="all")) == {"a": "all", "b": "all"}
        by_year = spaces(*given, columns=Columns(namespace_column="year", namespace="rest"))
        assert by_year == {"a": "2024", "b": "rest"}


def test_the_files_own_column_rules_over_a_hive_folder(tmp_path: Path) -> None:
    """What each record says is more exact than what its folder says."""
    put(tmp_path, "in/namespace=eu/a.jsonl", namespace="own")
    assert spaces(tmp_path / "in") == {"a": "own"}


def test_a_folder_lacking_the_named_part_is_refused(tmp_path: Path) -> None:
    """Each file is held to the options."""
    put(tmp_path, "in/tenant=eu/a.jsonl")
    put(tmp_path, "in/other/b.jsonl")
    with pytest.raises(SourceError, match=r"b\.jsonl has no field 'tenant' for --namespace-column"):
        read(tmp_path / "in", columns=Columns(namespace_column="tenant"))


def test_folders_without_an_answer_are_named(tmp_path: Path) -> None:
    """Empty folders, several formats, strange files and tables of other tools are refused by name."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty is a folder without files"):
        read(tmp_path / "empty")
    with pytest.raises(SourceError, match="matches no file"):
        read(f"{tmp_path}/none/*.parquet")
    put(tmp_path, "mixed/a.jsonl")
    put(tmp_path, "mixed/b.parquet")
    with pytest.raises(SourceError, match="mixed has files of several formats, 1 of jsonl and 1 of parquet"):
        read(tmp_path / "mixed")
    assert list(spaces(tmp_path / "mixed", format=Format.PARQUET)) == ["b"]
    (tmp_path / "mixed/README.md").write_text("x")
    (tmp_path / "mixed/b.parquet").unlink()
    with pytest.raises(SourceError, match=r"README\.md: the ending tells no format"):
        read(tmp_path / "mixed")
    for name, what in (("t/_delta_log", "Delta"), ("h/.hoodie", "Hudi"), ("l.lance/_versions", "Lance")):
        (tmp_path / name).mkdir(parents=True)
        put((tmp_path / name).parent, "a.parquet")
        with pytest.raises(SourceError, match=what):
            read((tmp_path / name).parent)
    put(tmp_path, "ice/metadata/v1.metadata.json")
    put(tmp_path, "ice/data/a.parquet")
    with pytest.raises(SourceError, match="Iceberg"):
        read(tmp_path / "ice")


def test_links_are_followed_but_in_no_circle(tmp_path: Path) -> None:
    """A link to a folder above itself would never end."""
    put(tmp_path, "far/a.jsonl")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/near").symlink_to(tmp_path / "far")
    assert spaces(tmp_path / "in") == {"a": ""}
    (tmp_path / "far/round").symlink_to(tmp_path / "in")
    with pytest.raises(SourceError, match="is a link to a folder that it lies in"):
        read(tmp_path / "in")


def test_special_files_and_broken_links_in_folders_are_named(tmp_path: Path) -> None:
    """A pipe would be waited on for ever."""
    put(tmp_path, "in/a.jsonl")
    os.mkfifo(tmp_path / "in/pipe.jsonl")
    with pytest.raises(SourceError, match=r"pipe\.jsonl is no regular file"):
        read(tmp_path / "in")
    (tmp_path / "in/pipe.jsonl").unlink()
    (tmp_path / "in/gone.jsonl").symlink_to(tmp_path / "nothing")
    with pytest.raises(SourceError, match=r"gone\.jsonl: No such file"):
        read(tmp_path / "in")


def test_ids_beside_matrices_are_no_sources(tmp_path: Path) -> None:
    """A folder of NPY files loads with the ids beside them."""
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/v.npy", np.ones((2, 3), dtype=np.float32))
    (tmp_path / "in/v.ids.txt").write_bytes(b"\xef\xbb\xbfa\nb\n")
    np.save(tmp_path / "in/w.npy", np.ones((1, 3), dtype=np.float32))
    np.save(tmp_path / "in/w.ids.npy", np.array(["c"]))
    assert list(spaces(tmp_path / "in")) == ["a", "b", "c"]


def test_a_name_with_magic_characters_is_itself(tmp_path: Path) -> None:
    """A file that has the pattern for its name is meant, not what it would match."""
    put(tmp_path, "a[1].jsonl")
    put(tmp_path, "a1.jsonl")
    assert list(spaces(tmp_path / "a[1].jsonl")) == ["a[1]"]


def test_a_fingerprint_knows_of_folders_what_changes_records(tmp_path: Path) -> None:
    """Plain files are known by their names alone, wherever they lie; what becomes a namespace counts."""
    put(tmp_path, "in/eu/a.parquet")
    (plain,) = places([str(tmp_path / "in/eu/a.parquet")])
    (laid,) = places([str(tmp_path / "in")])
    assert plain.told(from_folder=False) == []
    assert plain.told(from_folder=True) == laid.told(from_folder=False) == ["0 parts", "eu"]
