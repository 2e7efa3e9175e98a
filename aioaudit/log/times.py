"""The times in a log: in UTC, and in step with the order of the lines."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

TOLERATED = 1.0
"""Seconds that a clock may go back without a word: threads write their lines a little later."""


class Clock(msgspec.Struct):
    """The times of some lines of one run, in order: from ``first`` to ``last``.

    ``first`` is empty where there is nothing but a ``process.start``, which is told again in each
    file.  ``back`` are the times before and after the first place where the clock was set back.
    The time of a ``process.dropped`` says nothing of that: what the recorder writes has it near the
    begin, with the time of the writing.
    """

    first: str = ""
    last: str = ""
    back: tuple[str, str] | None = None

    def step(self, before: str, after: str) -> None:
        """A line of the time *after* comes behind one of the time *before*, which is later."""
        if self.back is None and seconds_between(after, before) > TOLERATED:
            self.back = before, after

    def follow(self, other: Clock) -> None:
        """The lines of *other* come next."""
        if not other.first:
            return
        if other.first < self.last:
            self.step(self.last, other.first)
        self.back = self.back or other.back
        self.last = other.last


def seconds_between(begin: str, end: str) -> float:
    """Seconds from *begin* to *end*, 0 where one of them says no time."""
    try:
        return (_moment(end) - _moment(begin)).total_seconds()
    except ValueError:
        return 0.0


def in_utc(ts: str) -> str | None:
    """*ts* of another time zone as events have it; None where it says no time, or no zone."""
    try:
        when = datetime.fromisoformat(ts)
    except ValueError:
        return None
    if when.tzinfo is None:
        return None
    try:
        return f"{when.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    except OverflowError:  # year 1 or 9999
        return None


def _moment(ts: str) -> datetime:
    when = datetime.fromisoformat(ts)
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
