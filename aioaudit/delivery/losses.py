"""What could not be kept: counted by name, told later.

Nothing is lost but what was owed: each number that was drawn while the exporter was there is an
event of its log, is known to be none (`Ordering.skip`), or is counted here.  So also an event
is counted of which nobody has heard but that its number was drawn, since the memory ran out, a
fault of ours came or Ctrl-C before it was put: it has no name.
"""

from __future__ import annotations

import itertools
import sys

from aioaudit.delivery.records import Record, event_name, seq_of

NOT_YET = sys.maxsize
"""As `Losses.after`: the exporter has not joined."""


class Losses:
    """Counts by name, exact although several threads count and none locks.

    Attributes:
        upto: The highest number among those that were lost before they were queued.
        after: Only what has a higher number is owed: the exporter joined then.
        missed_after: Only a number that is higher is missed where it never comes: a probe that
            was on its way when the exporter joined gives its event to the others alone.
        owed_upto: No number that is higher is missed.
        left: What has a higher number is of no concern: the exporter was taken out then.
        unmet: How many numbers that are missed were passed without an event.
    """

    def __init__(self, after: int) -> None:
        self.upto = 0
        self.after = self.missed_after = after
        self.owed_upto = self.left = sys.maxsize
        self.unmet = 0
        self._met = itertools.count()  # losses that are counted by name, of numbers that are missed
        self._counters: dict[str, itertools.count[int]] = {}
        self._told: dict[str, int] = {}
        self._told_in_all = 0

    def is_missed(self, seq: int) -> bool:
        """Whether *seq* counts, where its event never comes."""
        return self.missed_after < seq <= self.owed_upto

    def add(self, item: Record) -> None:
        """*item* is lost, after it was queued."""
        seq = seq_of(item)
        if not self.after < seq <= self.left:
            return
        if self.is_missed(seq):
            next(self._met)  # first: what is counted twice for a moment would be told
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
        return {name: _value(each) for name, each in list(self._counters.items())}

    def _nameless(self) -> int:
        # A number that was passed may be that of an event that was lost by name, or came too late.
        return max(self.unmet - _value(self._met), 0)

    def total(self) -> int:
        """How many were lost so far."""
        return sum(self._values().values()) + self._nameless()

    def take(self) -> tuple[int, list[str]] | None:
        """How many were lost since the last call, and their names; None if none was."""
        if not (self._counters or self.unmet):
            return None
        values = self._values()
        count = sum(values.values()) + self._nameless() - self._told_in_all
        if count <= 0:
            return None
        names = sorted(name for name, value in values.items() if value > self._told.get(name, 0))
        self._told = values
        self._told_in_all += count
        return count, names


def _value(counter: itertools.count[int]) -> int:
    return int(repr(counter)[6:-1])  # ``count(7)``: the one way to read it without stepping on
