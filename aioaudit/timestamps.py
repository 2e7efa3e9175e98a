"""Private. Points in time as events have them."""

from __future__ import annotations

from datetime import UTC, datetime

MILLISECOND = 1_000_000
"""In nanoseconds: all timestamps of one differ in their tails only."""

TAILS = [f"{number:03d}Z" for number in range(1000)]
"""The tails: formatting a number with leading zeros takes far longer than to look it up."""

LATEST = 2**64 - 1
"""The last nanosecond since the epoch that OTLP and Perfetto can hold, in the year 2554."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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


def nanoseconds(ts: str, otherwise: int = 0) -> int:
    """Nanoseconds since the epoch of an event's ``ts``, from 0 to `LATEST`.

    *otherwise* is given where it says no time, as only a log that was tampered with has it.
    """
    try:
        when = datetime.fromisoformat(ts)
    except ValueError:
        return otherwise
    since = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)) - _EPOCH
    ns = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    return min(max(ns, 0), LATEST)
