"""The order of what was taken from a queue: numbers rise, and what is missing is waited for.

Events are numbered before they are put, by several threads, so what is taken
from the queue may have a gap whose event is about to come.  What follows a
gap waits for `HOLD` and `LOOKS`; a number that will never come (`Ordering.skip`) is
no gap, nor is one that is not owed (`Losses`).  What was passed without its event is counted
as lost, and stays so if it comes later still: the numbers in a log rise, always.
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
"""Seconds that what follows a gap waits at least for the event that is missing..."""

LOOKS = 25
"""... and so many looks: who is about to put that event needs the GIL, as we do for each of them.

Time alone says little.  Where ten threads are busy, one of them may wait a second for its turn,
and the whole process for the machine.  But whenever we got the GIL, it might have got it as well.
"""


class Ordering:
    """What was taken from the queue and not yet exported.

    Args:
        first: Comes before everything else; its number is the first of all.
        losses: Where what comes too late is counted.
        hold: Seconds that what follows a gap waits at least for the missing event.
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

    def note_skipped(self) -> None:
        """Look at what `skip` was told since the last time."""
        losses = self._losses
        while self._skipped:
            seq = self._skipped.popleft()
            if seq > self._last:
                self._missing.add(seq)
            elif losses.is_missed(seq):
                losses.unmet -= 1  # it was given up, and never was to come

    def add(self, items: Iterable[Record]) -> None:
        """Take what came from the queue."""
        self.waiting += items

    def passed(self, items: list[Record]) -> None:
        """The first of those that wait, these *items*, were exported."""
        if items:
            del self.waiting[: len(items)]
            last = seq_of(items[-1])
            if last - self._last != len(items):
                self._pass_over(last, items)
            self._last = last

    def owe_no_more(self) -> None:
        """What is missing now is not missed."""
        if self._gap is not None:
            self._losses.owed_upto = min(self._losses.owed_upto, self._gap.number - 1)

    def end_before(self, seq: int) -> None:
        """Nothing is exported any more but what has the number *seq*."""
        self._pass_over(seq - 1, [])

    def _pass_over(self, last: int, items: list[Record]) -> None:
        """Count what is missing of the numbers up to *last*, which *items* are all there is of."""
        self.note_skipped()
        after = max(self._last, self._losses.missed_after)
        upto = min(last, self._losses.owed_upto)
        if after < upto:
            known = [number for number in self._missing if after < number <= upto]
            there = sum(after < seq_of(item) <= upto for item in items)
            self._losses.unmet += upto - after - there - len(known)
        self._missing = {number for number in self._missing if number > last}

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
        self.note_skipped()
        after, owed_upto = self._losses.after, self._losses.owed_upto
        limit = sys.maxsize if everything else self._losses.upto
        gap = self._gap
        if gap is not None and now:
            gap.looks += 1
            if now >= gap.until and gap.looks >= LOOKS:
                limit = max(limit, gap.upto)
        ready = 0
        for item in waiting:
            seq = seq_of(item)
            if expected <= after:
                expected = min(seq, after + 1)
            while expected < seq and expected in self._missing:
                expected += 1
            if seq != expected and seq > limit and expected <= owed_upto:
                break
            expected = seq + 1
            ready += 1
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


class _Gap(msgspec.Struct):
    """*number* is missing: all *upto* that number goes on without it at time *until*, or later."""

    number: int
    upto: int
    until: float
    looks: int = 0
