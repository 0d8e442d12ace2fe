"""Owns reading files of records: each format yields the same bounded chunks, and none of them validates or enqueues."""

from upsertq.sources.chunk import Chunk, Fault, Source
from upsertq.sources.columns import Columns
from upsertq.sources.fingerprint import fingerprint
from upsertq.sources.folders import Place, places
from upsertq.sources.kinds import Format
from upsertq.sources.opening import id_files, open_sources
from upsertq.sources.text import is_stream

__all__ = [
    "Chunk",
    "Columns",
    "Fault",
    "Format",
    "Place",
    "Source",
    "fingerprint",
    "id_files",
    "is_stream",
    "open_sources",
    "places",
]
