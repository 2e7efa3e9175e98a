"""How often things happened, by the clock of the log."""

from __future__ import annotations

WINDOW = 300
"""Seconds that are looked back on."""


class Counts:
    """How often something happened in each stretch of the last `WINDOW` seconds.

    Args:
        step: The length of a stretch, in seconds.

    A log may hold any times: what is older than the newest by more than the window is not kept.
    """

    __slots__ = ("_counts", "_step", "total")

    def __init__(self, step: int = 1) -> None:
        self._step = step
        self._counts: dict[int, int] = {}
        self.total = 0
        """How often it happened in all."""

    def add(self, second: int, times: int = 1) -> None:
        """It happened in *second* (since the epoch), so many *times*."""
        self.total += times
        counts = self._counts
        at = second // self._step
        if at in counts:
            counts[at] += times
            return
        counts[at] = times
        most = WINDOW // self._step
        if len(counts) > 2 * most:
            newest = max(counts)
            for each in [each for each in counts if each <= newest - most - 1]:
                del counts[each]
            for each in sorted(counts)[: -2 * most]:  # all of them are new: it jumps about
                del counts[each]

    def last(self, seconds: int, now: int) -> int:
        """How often it happened in the *seconds* before *now*."""
        end = now // self._step
        start = (now - seconds) // self._step
        return sum(count for at, count in self._counts.items() if start < at <= end)
