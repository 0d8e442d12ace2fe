"""Owns telling a column that a record just lacks from one that it spells in another way."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from upsertq.contract.errors import shown
from upsertq.sources.cells import Misread

_MOST: Final = 10_000
"""Names that are remembered; a file may have any number of them."""


class Spellings:
    """The names that options gave; `check` refuses a record that has one of them in another spelling only."""

    def __init__(self, names: Iterable[str]) -> None:
        self._named = {_folded(name): name for name in names}
        self._innocent: set[str] = set(self._named.values())

    def check(self, row: Mapping[str, Any], name: str, field: str) -> None:
        """Raise `Misread` when the record has no `name` but, say, `tenantId` for `tenant_id`."""
        for other in row.keys() - self._innocent:
            meant = self._named.get(_folded(other))
            if meant is None:
                if len(self._innocent) < _MOST:
                    self._innocent.add(other)
            elif meant == name and name not in row:
                raise Misread(field, f"is missing: the record has no {shown(name)}, but {shown(other)}")


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").replace(" ", "").casefold()
