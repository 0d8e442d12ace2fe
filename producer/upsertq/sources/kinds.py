"""Owns what a file holds, told by its ending and first bytes: the formats that load, and a name for those that do not.

It reads nothing itself.
"""

import os
import re
from enum import StrEnum
from typing import Final

from upsertq.contract.errors import SourceError
from upsertq.sources.text import STDIN, Bytes


class Format(StrEnum):
    """What a file holds; any text format may be compressed."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"
    NPY = "npy"


TEXT: Final = frozenset({Format.JSONL, Format.CSV})
HEAD: Final = 512
"""First bytes of a file by which its kind is told."""
_ENDINGS: Final = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".tab": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".arrows": Format.ARROW,
    ".feather": Format.ARROW,
    ".ipc": Format.ARROW,
    ".npy": Format.NPY,
}
_COMPRESSED: Final = (".gz", ".zst")

_UNPACK: Final = "unpack it and load what is in it"
_SQUEEZED: Final = "decompress it, or compress it with gzip or Zstandard, which are read as they are"
_PICKLED: Final = (
    "it may run code when it is opened, so it is never read: save the arrays as .npy, or the rows as Parquet"
)
_ROWS: Final = "write its rows as Parquet or JSON lines"
_VECS: Final = "read it with NumPy and save its matrix as .npy with the ids beside it"
_TABLE: Final = "export its rows as Parquet or CSV"
_REFUSED: Final = {
    (".h5", ".hdf5", ".hdf", ".he5"): (
        "an HDF5 file",
        "read it with h5py and save its matrix as .npy, the ids beside it",
    ),
    (".fvecs", ".bvecs", ".ivecs", ".fbin", ".u8bin", ".i8bin", ".ibin", ".hvecs"): ("a matrix of raw vectors", _VECS),
    (".npz",): ("an archive of NumPy arrays", "save its matrix alone with numpy.save, and the ids beside it"),
    (".bz2", ".xz", ".lzma", ".lz4", ".lzo", ".br", ".sz", ".snappy", ".z"): ("compressed", _SQUEEZED),
    (".zip", ".tar", ".tgz", ".7z", ".rar", ".tbz2", ".txz", ".tbz", ".jar"): ("an archive", _UNPACK),
    (".pkl", ".pickle", ".p", ".joblib", ".dill"): ("a Python pickle", _PICKLED),
    (".pt", ".pth", ".ckpt", ".bin"): (
        "a file of PyTorch or of raw bytes",
        "save its tensors as .npy, the ids beside them",
    ),
    (".safetensors",): ("a safetensors file", "save its tensor as .npy with the ids beside it"),
    (".avro",): ("an Avro file", _ROWS),
    (".orc",): ("an ORC file", _ROWS),
    (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"): ("a spreadsheet", "save it as CSV"),
    (".lance",): ("a Lance data set", _ROWS),
    (".vortex", ".msgpack", ".bson", ".cbor", ".proto", ".pb", ".tfrecord", ".tfrecords"): ("a binary format", _ROWS),
    (".sqlite", ".sqlite3", ".db", ".duckdb", ".mdb"): ("a database", _TABLE),
    (".mat", ".rds", ".rdata", ".dta", ".sav"): ("a file of another program", _TABLE),
    (".faiss", ".index", ".ann", ".hnsw", ".usearch"): (
        "a vector index",
        "export its vectors and ids as Parquet or .npy",
    ),
    (".pdf", ".docx", ".doc"): ("a document", "the records must be vectors: embed its text first"),
    (".html", ".htm"): ("an HTML page", "probably a sign-in or error page: download the file itself"),
    (".xml",): ("XML", _ROWS),
    (".yaml", ".yml"): ("YAML", _ROWS),
}
_BY_ENDING: Final = {ending: told for endings, told in _REFUSED.items() for ending in endings}
_LFS: Final = ("a Git LFS pointer, not the file itself", "fetch it with git lfs pull")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MAGIC: Final = (
    (b"version https://git-lfs", _LFS),
    (b"\x89HDF\r\n\x1a\n", _BY_ENDING[".h5"]),
    (b"BZh", ("compressed with bzip2", _SQUEEZED)),
    (b"\xfd7zXZ\0", ("compressed with xz", _SQUEEZED)),
    (b"\x04\x22\x4d\x18", ("compressed with LZ4", _SQUEEZED)),
    (b"\xff\x06\0\0sNaPpY", ("compressed with Snappy", _SQUEEZED)),
    (b"\x1f\x9d", ("compressed with compress", _SQUEEZED)),
    (b"7z\xbc\xaf\x27\x1c", _BY_ENDING[".7z"]),
    (b"Rar!\x1a\x07", _BY_ENDING[".rar"]),
    (b"PK\x05\x06", ("an empty archive", _UNPACK)),
    (b"Obj\x01", _BY_ENDING[".avro"]),
    (b"ORC", _BY_ENDING[".orc"]),
    (b"SQLite format 3\0", _BY_ENDING[".sqlite"]),
    (b"%PDF-", _BY_ENDING[".pdf"]),
    (b"MATLAB 5.0", _BY_ENDING[".mat"]),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _BY_ENDING[".xls"]),
)
_ARCHIVED: Final = {".npz": ".npz", ".xlsx": ".xlsx", ".xlsm": ".xlsx", ".ods": ".xlsx", ".pt": ".pt", ".pth": ".pt"}
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05][\x95}\]c(\x8aK]")
_PAGE: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*+<(?:!doctype\s|html|head|body|!--)", re.IGNORECASE)
_XML: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*+<(?:\?xml|Error)")
_OURS: Final = ((b"PAR1", Format.PARQUET), (b"ARROW1", Format.ARROW), (b"\x93NUMPY", Format.NPY))
_MARKS: Final = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def ending_of(path: str) -> str:
    """The file's ending in small letters, without that of a compression that is read."""
    name = path.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return os.path.splitext(name)[1]  # noqa: PTH122 - a name, not a path


def is_known(path: str) -> bool:
    """Whether the ending tells a format that loads."""
    return ending_of(path) in _ENDINGS


def format_of(path: str) -> Format:
    """The format by the file's ending; `SourceError` when it tells none that loads."""
    if path == STDIN:
        return Format.JSONL
    ending = ending_of(path)
    found = _ENDINGS.get(ending)
    squeezed = path.lower().endswith(_COMPRESSED)
    if found is not None and squeezed and found not in TEXT:
        raise SourceError(f"{path}: the ending tells no format that is read compressed from outside; decompress it")
    if found is None and ending in _BY_ENDING:
        raise _named(path, *_BY_ENDING[ending], format_too=True)
    if found is None:
        raise SourceError(f"{path}: the ending tells no format; say --format {' or '.join(Format)}")
    return found


def check_head(path: str, head: bytes, kind: Format) -> None:
    """Raise `SourceError` when the first bytes of a file are those of something else than `kind`."""
    told = _told(path, head)
    if told is not None:
        raise _named(path, *told)
    ours = next((other for magic, other in _OURS if head.startswith(magic)), kind)
    if ours is not kind:
        raise SourceError(f"{path} holds {ours}, not {kind}, by its first bytes: say --format {ours}")
    if kind not in TEXT and head.startswith((_GZIP, _ZSTD)):
        raise SourceError(f"{path} is compressed from outside, so it is no {kind} yet; decompress it")


def check_text(content: Bytes, shown_name: str) -> None:
    """Raise `SourceError` when the content is no UTF-8 text by its beginning, and say what it is."""
    head = content.ahead(lambda read: len(read) >= HEAD or b"\n" in read)
    told = _told(shown_name, head)
    if told is not None:
        raise _named(shown_name, *told)
    ours = next((other for magic, other in _OURS if head.startswith(magic)), None)
    if ours is not None:
        raise SourceError(f"{shown_name} holds {ours}, not text, by its first bytes: say --format {ours}")
    encoding = _encoding(head)
    if encoding is not None:
        raise SourceError(f"{shown_name} is {encoding}; convert it to UTF-8, such as by iconv -f {encoding} -t UTF-8")
    if b"\0" in head:
        raise SourceError(f"{shown_name} is no text: it holds NUL bytes; load JSON lines, CSV, Parquet, Arrow or NPY")


def _encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by their mark or by where the zero bytes of plain letters stand."""
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        return marked
    first, second, third, fourth = (head[place::4].count(0) for place in range(4))
    if first + second + third + fourth < max(1, len(head) // 16):
        return None
    if not first + third:
        return "UTF-16LE"
    if not second + fourth:
        return "UTF-16BE"
    if not first:
        return "UTF-32LE"
    return None if fourth else "UTF-32BE"


def _told(path: str, head: bytes) -> tuple[str, str] | None:
    """What the first bytes say that is no format which loads, and what to do about it."""
    for magic, told in _MAGIC:
        if head.startswith(magic):
            return told
    if head.startswith(b"PK\x03\x04"):
        return _BY_ENDING[_ARCHIVED.get(ending_of(path), ".zip")]
    if _PAGE.match(head):
        return _BY_ENDING[".html"]
    if _XML.match(head):
        return "XML, perhaps an error page", "download the file itself"
    within = (
        (".pkl", _PICKLE.match(head) is not None),
        (".tar", head[257:262] == b"ustar"),
        (".safetensors", head[8:10] == b'{"' and b"\0" in head[:8]),
        (".duckdb", head[8:12] == b"DUCK"),
    )
    return next((_BY_ENDING[ending] for ending, is_so in within if is_so), None)


def _named(path: str, what: str, cure: str, *, format_too: bool = False) -> SourceError:
    override = "; --format rules over the ending" if format_too else ""
    return SourceError(f"{path} is {what}; {cure}{override}")
