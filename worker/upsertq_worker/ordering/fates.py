"""Owns how records end, and when an entry whose records all have is given out for settling. Pure."""

from upsertq.contract.dead_letter import Verdict
from upsertq.contract.wire import one_record
from upsertq_worker.ordering.entries import Entries
from upsertq_worker.ordering.model import DeadRecord, Fate, Held, Settlement, Version


class Fates:
    """Ends records of the entries held."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self.settlements: list[Settlement] = []
        """Entries given out for settling since the owner last cleared this list."""

    def acknowledge(self, held: Held) -> None:
        """A whole entry was acknowledged."""
        held.in_flight = False
        held.acked, held.open = held.open, 0
        self._give_out(held)

    def end(self, version: Version, fate: Fate, verdict: Verdict | None = None) -> None:
        """A version ends. A dead one has a verdict."""
        held = version.held
        held.open -= 1
        match fate:
            case Fate.ACKED:
                held.acked += 1
            case Fate.SUPERSEDED:
                held.superseded += 1
            case Fate.DEAD:
                assert verdict is not None  # noqa: S101 - the dead have one
                single = one_record(held.entry, version.row, version.sequence)
                held.dead.append(DeadRecord(version.row, single, verdict))
        version.body = b""
        if held.open == 0 and held.older == 0:
            self._give_out(held)

    def _give_out(self, first: Held) -> None:
        """Give it out, and those that were only waiting for it."""
        line = [first]
        for held in line:  # which grows
            self._entries.remove(held)
            held.body = b""
            self.settlements.append(Settlement.of(held))
            for version in held.versions or ():
                if version.chain.last is held:
                    version.chain.last = None
            for after in held.newer:
                after.older -= 1
                if after.older == 0 and after.open == 0:
                    line.append(after)
