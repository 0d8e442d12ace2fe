"""Owns reading files of records: each format yields the same bounded chunks, and none of them validates or enqueues."""

from upsertq.sources.chunk import Chunk, Fault, Source
from upsertq.sources.columns import Columns
from upsertq.sources.fingerprint import fingerprint
from upsertq.sources.opening import Format, id_files, is_stream, open_sources

__all__ = ["Chunk", "Columns", "Fault", "Format", "Source", "fingerprint", "id_files", "is_stream", "open_sources"]
