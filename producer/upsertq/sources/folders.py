"""Owns which files are meant by a folder, a pattern or a name, in what order, and what their folders say of them.

It decides by names alone and opens no file.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Final
from urllib.parse import unquote

from upsertq.contract.errors import SourceError
from upsertq.sources import npy
from upsertq.sources.kinds import Format, format_of, is_known
from upsertq.sources.text import STDIN

NULL_PART: Final = "__HIVE_DEFAULT_PARTITION__"
DEFAULT_FOLDER: Final = "__default__"
MOST_LEVELS: Final = 64
_MARKERS: Final = ("_SUCCESS", "_metadata", "_common_metadata", "_committed_", "_started_", "_temporary")
"""What writers leave beside their files."""
_TABLES: Final = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table", "_versions": "a Lance data set"}


@dataclass(frozen=True, slots=True)
class Place:
    """A file to load, and what its folders say.

    Attributes:
        path: the file, or `-`.
        parts: the `key=value` folders in its path as columns, the values decoded; `None` is null.
        folder: the folder that it lies in, without such parts: files of different ones may be of different namespaces.
        namespace: that of Pinecone's import layout, `FOLDER/NAMESPACE/*.parquet`; `None` where there is no such thing.
    """

    path: str
    parts: Mapping[str, str | None] = field(default_factory=dict)
    folder: str = ""
    namespace: str | None = None

    @property
    def named_folder(self) -> str:
        """The name of the folder that the file lies in, `key=value` folders aside."""
        return PurePath(self.folder).name

    def told(self, from_folder: bool) -> list[str]:  # noqa: FBT001 - an option
        """What a load's fingerprint must know of the folders, for it changes the records: nothing of a plain file."""
        parts = [f"{key}={value}" for key, value in self.parts.items()]
        space = [self.named_folder] if from_folder else [] if self.namespace is None else [self.namespace]
        return [f"{len(parts)} parts", *parts, *space] if parts or space else []


def places(paths: Sequence[str], kind: Format | None = None) -> list[Place]:
    """The files that are meant, in order; a folder's and a pattern's are in the order of their names.

    Folders are read with all that is in them, but for names that begin with `_` or `.`. A pattern with `*`, `?` or `[`
    that is no file's own name is expanded.

    Args:
        paths: files, folders, patterns, or `-`.
        kind: the format, where it is told; of folders only the files with such an ending count, if there are any.

    Raises:
        SourceError: a folder or pattern has no files, or files of several formats or of none.
    """
    found: list[Place] = []
    for path in paths:
        if path == STDIN:
            found.append(Place(path))
        elif os.path.isdir(path):  # noqa: PTH112 - a path or '-'
            found.extend(_of_folder(path, kind))
        elif glob.has_magic(path) and not os.path.lexists(path):
            found.extend(_of_pattern(path, kind))
        else:
            found.append(_place(path))
    return [place for place in found if len(found) == 1 or not _is_marker(place.path)]


def _is_marker(path: str) -> bool:
    return PurePath(path).name.startswith(_MARKERS) and not is_known(path)


def _place(path: str, namespace: str | None = None) -> Place:
    folders = PurePath(path).parent.parts
    pairs = [folder.partition("=") for folder in folders if _is_part(folder)]
    parts = {unquote(key): None if value in ("", NULL_PART) else unquote(value) for key, _, value in pairs}
    folder = os.path.abspath(PurePath(*(name for name in folders if not _is_part(name))))  # noqa: PTH100 - links stay
    return Place(path, parts, folder, namespace)


def _is_hidden(name: str) -> bool:
    """Whether a folder's listing leaves it out, as Spark does; Pinecone's default namespace is none."""
    return name.startswith(".") or (name.startswith("_") and name != DEFAULT_FOLDER and not _is_part(name))


def _is_part(folder: str) -> bool:
    return folder.find("=") > 0


def _of_pattern(pattern: str, kind: Format | None) -> Iterator[Place]:
    own = set(PurePath(pattern).parts)
    kept = [
        path
        for path in sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - the pattern may be of any root
        if not any(map(_is_hidden, {*PurePath(path).parts} - own - {os.pardir}))
    ]
    files = _without_ids([path for path in kept if not os.path.isdir(path)])  # noqa: PTH112
    if not kept or ("**" in pattern and not files):
        raise SourceError(f"{pattern} matches no file")
    for path in kept:
        if path in files:
            yield _place(path)
        elif "**" not in pattern and os.path.isdir(path):  # noqa: PTH112
            yield from _of_folder(path, kind)


def _of_folder(path: str, kind: Format | None) -> list[Place]:
    if path.rstrip("/").lower().endswith(".lance"):
        format_of(path.rstrip("/"))
    files = _chosen(path, sorted(_walk(path, ())), kind)
    inside = [_plain_folders(path, file) for file in files]
    layout = all(len(folders) == 1 for folders in inside) and (
        kind is Format.PARQUET or (kind is None and all(format_of(file) is Format.PARQUET for file in files))
    )
    return [_place(file, folders[0] if layout else None) for file, folders in zip(files, inside, strict=True)]


def _plain_folders(root: str, file: str) -> list[str]:
    return [name for name in PurePath(os.path.relpath(file, root)).parent.parts if not _is_part(name)]


def _chosen(path: str, files: list[str], kind: Format | None) -> list[str]:
    """The files of a folder that are loaded: of one format, and none that holds only ids."""
    files = _without_ids(files)
    if not files:
        raise SourceError(f"{path} is a folder without files to load (names that begin with '_' or '.' are left out)")
    if kind is not None:
        return [file for file in files if is_known(file) and format_of(file) is kind] or files
    formats = Counter(format_of(file) for file in files if is_known(file))
    strange = next((file for file in files if not is_known(file)), None)
    if strange is not None and formats:
        say = f"say --format {formats.most_common(1)[0][0]} to load only such files"
        raise SourceError(f"{strange}: the ending tells no format; move it out of the folder, or {say}")
    if strange is not None:
        format_of(strange)
    if len(formats) > 1:
        told = " and ".join(f"{count:,} of {name}" for name, count in sorted(formats.items()))
        raise SourceError(f"{path} has files of several formats, {told}: say with --format which to load")
    return files


def _without_ids(files: list[str]) -> list[str]:
    """The files but for those with the ids of a matrix among them."""
    ids = {npy.ids_beside(file) for file in files if file.lower().endswith(".npy")}
    return [file for file in files if file not in ids]


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """The files below, those of links to folders as well; `above` is what the folder lies in."""
    try:
        status = os.stat(folder)  # noqa: PTH116 - all here are plain strings
        entries = list(os.scandir(folder))
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror or error}") from None
    here = (status.st_dev, status.st_ino)
    if len(above) > MOST_LEVELS:
        raise SourceError(f"{folder} lies {len(above)} folders deep; name the files")
    if here in above:
        raise SourceError(f"{folder} is a link to a folder that it lies in; remove it, or name the files")
    _refuse_table(folder, {entry.name for entry in entries})
    for entry in entries:
        if _is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, (*above, here))
        elif entry.is_file() or not os.path.exists(entry.path):  # noqa: PTH110 - a broken link is told later
            yield entry.path
        else:
            raise SourceError(f"{entry.path} is no regular file; move it out of the folder, or name the files")


def _refuse_table(folder: str, names: set[str]) -> None:
    """Refuse the folders of table formats: their files hold rows as well that the table has no more."""
    what = next((what for name, what in _TABLES.items() if name in names), None)
    if what is None and "metadata" in names and any(Path(folder, "metadata").glob("*.metadata.json")):
        what = "an Iceberg table"
    if what is not None:
        raise SourceError(
            f"{folder} is {what}, whose files also hold rows that were replaced or deleted; export its rows as Parquet"
        )
