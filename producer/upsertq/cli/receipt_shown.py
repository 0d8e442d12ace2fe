"""Owns how a receipt is shown to a person: the books as one line, then a few aligned lines."""

from typing import Final

from upsertq.client.receipt import Receipt, spoken
from upsertq.contract.books import Books
from upsertq.contract.keys import queue_option
from upsertq.contract.printable import printable

MOST_NAMESPACES: Final = 5


def one_line(books: Books) -> str:
    """The books as one line: `enqueued 5, acked 4, …`, without the bytes."""
    return ", ".join(f"{name} {count:,}" for name, count in books.as_dict().items() if name != "bytes")


def details(receipt: Receipt) -> list[str]:
    """What the receipt says beside the books, one line for each kind of figure that there is."""
    rows = [
        ("dead", _dead(receipt)),
        ("requests", _requests(receipt)),
        ("lsn", _lsn(receipt)),
        ("time", _time(receipt)),
    ]
    shown = [(name, text) for name, text in rows if text]
    return [printable(f"{name:<8}  {text}") for name, text in shown]


def page(receipt: Receipt) -> str:
    """The whole receipt."""
    return "\n".join([one_line(receipt.books), *details(receipt)])


def _dead(receipt: Receipt) -> str:
    if not receipt.books.dead:
        return ""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in receipt.reasons.items())
    queue = queue_option(receipt.queue)
    run = f" --run {receipt.run}" if receipt.run else ""
    return f"{reasons}{': ' if reasons else ''}see `upsertq dead list{queue}{run}`"


def _requests(receipt: Receipt) -> str:
    if not receipt.requests:
        return ""
    again = f" ({receipt.retries:,} of them retries)" if receipt.retries else ""
    return f"{receipt.requests:,}{again}, {receipt.posted_bytes:,} bytes posted"


def _lsn(receipt: Receipt) -> str:
    shown = [f"{namespace} {lsn}" for namespace, lsn in list(receipt.lsn.items())[:MOST_NAMESPACES]]
    more = len(receipt.lsn) - len(shown)
    rest = f"and {more:,} more namespace{'' if more == 1 else 's'} (all with --json)"
    return ", ".join([*shown, rest] if more else shown)


def _time(receipt: Receipt) -> str:
    first, last = spoken(receipt.first_enqueued_at), spoken(receipt.last_settled_at)
    if first is None:
        return f"settled until {last}" if last else ""
    took = "" if receipt.seconds is None else f", {receipt.seconds:,.1f} s"
    return f"{first} to {last}{took}" if last else f"since {first}, nothing settled yet"
