"""Owns how rows of text become a table in plain columns."""

from collections.abc import Collection, Sequence

from upsertq.contract.printable import printable


def table(rows: Sequence[Sequence[str]], left: Collection[int]) -> str:
    """The rows below each other; columns are aligned to the right but for those in `left`."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
