"""Private. Points in time as events have them."""

from __future__ import annotations

from datetime import UTC, datetime

MILLISECOND = 1_000_000
"""In nanoseconds: all timestamps of one differ in their tails only."""

TAILS = [f"{number:03d}Z" for number in range(1000)]
"""The tails: formatting a number with leading zeros takes far longer than to look it up."""

_cached = (0, "")


def timestamp(ns: int) -> str:
    """RFC 3339 in UTC with microseconds for *ns*, nanoseconds since the epoch."""
    global _cached
    began, prefix = _cached  # one read: another thread may replace the pair meanwhile
    rest = ns - began
    if not 0 <= rest < MILLISECOND:
        second, rest = divmod(ns, 1_000_000_000)
        # Not strftime(): it imports `time` at each call (Modules/_datetimemodule.c).
        text = datetime.fromtimestamp(second, UTC).isoformat()[:19]
        thousandths, rest = divmod(rest, MILLISECOND)
        prefix = f"{text}.{thousandths:03d}"
        _cached = (ns - rest, prefix)
    return prefix + TAILS[rest // 1000]
