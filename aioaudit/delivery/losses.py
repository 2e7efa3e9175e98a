"""What could not be kept: counted by name, told later."""

from __future__ import annotations

import itertools

from aioaudit.delivery.records import Record, event_name, seq_of


class Losses:
    """Counts by name, exact although several threads count and none locks.

    Attributes:
        upto: The highest number among those that were lost before they were queued.
    """

    def __init__(self) -> None:
        self.upto = 0
        self._counters: dict[str, itertools.count[int]] = {}
        self._told: dict[str, int] = {}

    def add(self, item: Record) -> None:
        """*item* is lost, after it was queued."""
        name = event_name(item)
        counter = self._counters.get(name)
        if counter is None:
            counter = self._counters.setdefault(name, itertools.count())
        next(counter)

    def add_unqueued(self, item: Record) -> None:
        """*item* is lost and was never queued: nothing need wait for its number."""
        self.add(item)
        self.upto = max(self.upto, seq_of(item))

    def _values(self) -> dict[str, int]:
        # ``count(7)``: its repr is the one way to read a count without stepping on.
        return {name: int(repr(each)[6:-1]) for name, each in list(self._counters.items())}

    def total(self) -> int:
        """How many were lost so far."""
        return sum(self._values().values())

    def take(self) -> tuple[int, list[str]] | None:
        """How many were lost since the last call, and their names; None if none was."""
        if not self._counters:
            return None
        values = self._values()
        names = sorted(name for name, value in values.items() if value > self._told.get(name, 0))
        if not names:
            return None
        count = sum(values.values()) - sum(self._told.values())
        self._told = values
        return count, names
