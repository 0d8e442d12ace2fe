"""Owns how a load is known again: by the names, sizes and samples of its files and by how they are read."""

import hashlib
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Final

import orjson

from upsertq.contract.errors import SourceError
from upsertq.contract.printable import printable
from upsertq.sources.columns import Columns

SAMPLE: Final = 2**16
SAMPLES: Final = 32
"""A file is sampled at its beginning, at its end and evenly between, so that gigabytes cost no more than 2 MiB."""


def fingerprint(paths: Iterable[str], queue: str, columns: Columns, more: Iterable[str | None] = ()) -> str:
    """The fingerprint of loading these files in this order into `queue`; `more` is whatever else matters."""
    parts = [[printable(Path(path).name), *_sampled(path)] for path in paths]
    told = orjson.dumps([parts, queue, astuple(columns), list(more)])
    return hashlib.blake2b(told, digest_size=20).hexdigest()


def _sampled(path: str) -> tuple[int, str]:
    digest = hashlib.blake2b(digest_size=20)
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            last = max(0, size - SAMPLE)
            for at in sorted({last * k // (SAMPLES - 1) for k in range(SAMPLES)}):
                file.seek(at)
                digest.update(file.read(SAMPLE))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None
    return size, digest.hexdigest()
