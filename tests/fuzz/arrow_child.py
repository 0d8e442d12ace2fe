"""A process that reads the files whose names come on stdin: what becomes of each is one line on stdout.

The library that reads them may end the process or fill its memory, which the test that started it is to see.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from upsertq.client.loading import outcomes
from upsertq.client.rejects import line_of
from upsertq.contract.errors import SourceError
from upsertq.sources import Columns, open_sources
from upsertq.sources.chunk import Fault

MEMORY = 1_500 * 2**20
ROWS = 5_000


def read(path: str) -> str:
    """The number of rows read, at most `ROWS`, or the refusal."""
    rows = 0
    for metadata in (None, ("*",)):
        try:
            (source,) = open_sources([path], Columns(metadata=metadata))
            for chunk in source.chunks():
                for row, outcome in enumerate(outcomes(chunk, None)):
                    rows += 1
                    if isinstance(outcome, Fault):
                        line_of(source, chunk, row, outcome)
                if rows > ROWS:
                    break
        except SourceError as error:
            return f"refused: {error}"
    return f"rows: {rows}"


def main() -> None:
    """Answer each line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        told = read(line.strip())
        peak = Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]
        sys.stdout.write(json.dumps({"told": told, "peak": int(peak) // 1024}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
