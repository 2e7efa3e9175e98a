"""The order of what was taken from a queue: numbers rise, and what is missing is waited for.

Events are numbered before they are put, by several threads, so what is taken
from the queue may have a gap whose event is about to come.  What follows a
gap waits for at most `HOLD`; a number that will never come (`Ordering.skip`) is
no gap.  An event that comes later still is counted as lost: the numbers in a
log rise, always.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable

import msgspec

from aioaudit.core import in_order
from aioaudit.delivery.losses import Losses
from aioaudit.delivery.records import Record, seq_of
from aioaudit.threads import monotonic

HOLD = 0.25
"""Seconds that what follows a gap waits for the event that is missing."""


class Ordering:
    """What was taken from the queue and not yet exported.

    Args:
        first: Comes before everything else; its number is the first of all.
        losses: Where what comes too late is counted.
        hold: Seconds that what follows a gap waits for the missing event.
    """

    def __init__(self, first: Record, losses: Losses, hold: float) -> None:
        self.waiting: list[Record] = [first]
        """In order after `count_ready`."""
        self._losses = losses
        self._hold = hold
        self._skipped: deque[int] = deque()
        self._missing: set[int] = set()  # numbers known never to come, not yet passed
        self._last = seq_of(first) - 1  # the last number that was exported
        self._gap: _Gap | None = None

    @property
    def has_gap(self) -> bool:
        """Whether something waits for the event that is missing before it."""
        return self._gap is not None

    def skip(self, seq: int) -> None:
        """*seq* was drawn but no item with it will come; may be called in any thread."""
        self._skipped.append(seq)

    def add(self, items: Iterable[Record]) -> None:
        """Take what came from the queue."""
        self.waiting += items

    def passed(self, items: list[Record]) -> None:
        """The first of those that wait, these *items*, were exported."""
        if items:
            del self.waiting[: len(items)]
            self._last = seq_of(items[-1])

    def lose_all(self) -> None:
        """Whatever waits is lost."""
        for item in self.waiting:
            self._losses.add(item)
        self.waiting.clear()

    def count_ready(self, *, everything: bool, now: float = 0.0) -> int:
        """How many of those that wait, sorted by now, may be exported.

        All that was put before *now* is among them.  Takes out whatever came too late.
        """
        waiting = self.waiting
        expected = self._last + 1
        if in_order(waiting, expected):  # the usual case
            self._gap = None
            return len(waiting)
        waiting.sort(key=seq_of)
        self._drop_late()
        while self._skipped:
            self._missing.add(self._skipped.popleft())
        limit = sys.maxsize if everything else self._losses.upto
        gap = self._gap
        if gap is not None and now >= gap.until:
            limit = max(limit, gap.upto)
        ready = 0
        for item in waiting:
            seq = seq_of(item)
            while expected < seq and expected in self._missing:
                expected += 1
            if seq != expected and seq > limit:
                break
            expected = seq + 1
            ready += 1
        if self._missing:
            self._missing = {number for number in self._missing if number >= expected}
        if ready == len(waiting):
            self._gap = None
        elif gap is None or gap.number != expected:
            self._gap = _Gap(expected, seq_of(waiting[-1]), monotonic() + self._hold)
        return ready

    def _drop_late(self) -> None:
        """Count what can no longer be exported in order, or is there twice, as lost."""
        last = self._last
        kept: list[Record] = []
        for item in self.waiting:
            seq = seq_of(item)
            if seq <= last:
                self._losses.add(item)
            else:
                kept.append(item)
                last = seq
        self.waiting[:] = kept


class _Gap(msgspec.Struct, frozen=True):
    """*number* is missing: all *upto* that number goes on without it at time *until*."""

    number: int
    upto: int
    until: float
