"""Owns which entries are held, and what they weigh. Pure; it decides nothing."""

from upsertq_worker.ordering.model import Held


class Entries:
    """The entries held, by shard and stream id."""

    def __init__(self) -> None:
        self._held: dict[int, dict[str, Held]] = {}
        self.weight = 0
        """Bytes of memory that they take, about."""
        self.weights: dict[str, int] = {}
        """The same by namespace, of those that have entries here."""
        self.records: dict[str, int] = {}
        """Records by namespace."""

    def __len__(self) -> int:
        """How many they are."""
        return sum(map(len, self._held.values()))

    def find(self, shard: int, stream_id: str) -> Held | None:
        """This entry, if it is held."""
        return self._held.get(shard, {}).get(stream_id)

    def of(self, shard: int) -> list[Held]:
        """The entries of a shard, in the order in which they were read."""
        return list(self._held.get(shard, {}).values())

    def inherited(self, shard: int) -> list[Held]:
        """The entries of a shard that stood there when it was taken over, oldest first."""
        found = [held for held in self._held.get(shard, {}).values() if held.inherited]
        return sorted(found, key=lambda held: held.order)

    def add(self, held: Held) -> None:
        """Hold it."""
        self._held.setdefault(held.shard, {})[held.stream_id] = held
        self._weigh(held, 1)

    def remove(self, held: Held) -> None:
        """Hold it no more."""
        del self._held[held.shard][held.stream_id]
        self._weigh(held, -1)

    def take_out(self, shard: int, namespace: str | None) -> list[Held]:
        """Those of a shard, or of one lane of it, which are held no more."""
        found = [held for held in self._held.get(shard, {}).values() if namespace in {None, held.namespace}]
        for held in found:
            self.remove(held)
        return found

    def _weigh(self, held: Held, sign: int) -> None:
        namespace, weight = held.entry.namespace, sign * held.weight
        self.weight += weight
        left = self.weights.get(namespace, 0) + weight
        if left:
            self.weights[namespace] = left
            self.records[namespace] = self.records.get(namespace, 0) + sign * len(held.entry.ids)
        else:
            del self.weights[namespace], self.records[namespace]
