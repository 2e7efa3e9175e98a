"""Private. Points in time as events have them."""

from __future__ import annotations

from datetime import UTC, datetime

SECOND = 1_000_000_000

MILLISECOND = 1_000_000
"""In nanoseconds: all timestamps of one differ in their tails only."""

TAILS = [f"{number:03d}Z" for number in range(1000)]
"""The tails: formatting a number with leading zeros takes far longer than to look it up."""

LATEST = 2**64 - 1
"""The last nanosecond since the epoch that OTLP and Perfetto can hold, in the year 2554."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LENGTH = len("2026-11-22T14:02:11.873000Z")

_cached = (0, "")
_read = ("", 0)


def timestamp(ns: int) -> str:
    """RFC 3339 in UTC with microseconds for *ns*, nanoseconds since the epoch."""
    global _cached
    began, prefix = _cached  # one read: another thread may replace the pair meanwhile
    rest = ns - began
    if not 0 <= rest < MILLISECOND:
        second, rest = divmod(ns, SECOND)
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
    global _read
    second, base = _read  # one read, as above
    if len(ts) == _LENGTH and ts[:19] == second and ts[19] == "." and ts[-1] == "Z":
        micros = ts[20:26]
        if micros.isascii() and micros.isdigit():
            return base + int(micros) * 1000
    try:
        when = datetime.fromisoformat(ts)
    except ValueError:
        return otherwise
    since = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)) - _EPOCH
    ns = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    if len(ts) == _LENGTH and ts[-1] == "Z" and 0 <= ns < LATEST - SECOND:
        _read = (ts[:19], ns - ns % SECOND)
    return min(max(ns, 0), LATEST)
