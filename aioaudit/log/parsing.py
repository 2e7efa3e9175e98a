"""From lines to events: the one place that meets damaged input.

A log may be cut off by a crash, be mixed with somebody else's output, come
from a newer version, or be no log at all.  Every such line is told with its
number and skipped; everything else is used.

Pure: what becomes of some lines does not depend on those before them.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

from aioaudit.events import BY_NAME, SCHEMA, AnyEvent, Event, ProcessStart
from aioaudit.log.times import in_utc

MOST_PROBLEMS = 100
"""At most this many problems are kept word for word; all of them are counted."""

Trouble: TypeAlias = tuple[int, str, bool]
"""The number of a line, what is wrong with it, and whether it was skipped because of that."""

_BAD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What is raised of a line that is no event."""

_decode = msgspec.json.Decoder[Event](AnyEvent).decode


class _Head(msgspec.Struct):
    """What every event has, whatever its name: enough to know one of ours."""

    event: str
    ts: str
    seq: int
    run: str
    pid: int
    schema: int | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


class Taker(Protocol):
    """What takes events and is told of what is none."""

    def add(self, event: Event) -> None:
        """Take *event*."""

    def problem(self, file: str, line: int, what: str, *, skipped: bool = True) -> None:
        """Note that *line* (from 1) of *file* could not be read, or not in full."""

    def skip_unknown(self) -> None:
        """Count an event of a later version, which has nothing to say here."""

    def zoned(self, file: str, line: int, ts: str) -> None:
        """Note that *line* had the time *ts* of another zone, and is told in UTC."""


class Parsed:
    """What is in some lines.

    Attributes:
        events: What could be read.
        lines: The line of each of them.
        count: How many lines there were.
        unknown: How many were events of a later version.
        damaged: How many were skipped.
        problems: The first `MOST_PROBLEMS` things that are to be said, with the line counted from 1.
        zone: The first line whose time is that of another zone, and its time.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.lines: list[bytes] = []
        self.count = 0
        self.unknown = 0
        self.damaged = 0
        self.problems: list[Trouble] = []
        self.zone: tuple[int, str] | None = None

    def add(self, event: Event) -> None:
        """Take *event*."""
        self.events.append(event)

    def problem(self, file: str, line: int, what: str, *, skipped: bool = True) -> None:  # noqa: ARG002
        """Note that *line* (from 1) could not be read, or not in full."""
        self.damaged += skipped
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append((line, what, skipped))

    def skip_unknown(self) -> None:
        """Count an event of a later version."""
        self.unknown += 1

    def zoned(self, file: str, line: int, ts: str) -> None:  # noqa: ARG002 - the caller knows it
        """Note that *line* had the time *ts* of another zone."""
        self.zone = self.zone or (line, ts)


def parse(file: str, data: bytes, *, cut: bool = False) -> Parsed:
    """What is in *data*, which are lines of *file*; *cut* if the last one is the file's and has no end."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    parsed = Parsed()
    parsed.count = len(lines)
    try:
        parsed.events = list(map(_decode, lines))
        parsed.lines = lines
    except _BAD:
        for number, line in enumerate(lines, 1):
            take_line(line, file, number, parsed, last=cut and number == len(lines))
            if len(parsed.events) > len(parsed.lines):
                parsed.lines.append(line)
        return parsed
    for number, event in enumerate(parsed.events, 1):
        if type(event) is ProcessStart or event.ts[-1:] != "Z":
            _look_at(event, file, number, parsed)
    return parsed


def decode_again(lines: list[bytes]) -> list[Event]:
    """The events in *lines* that were parsed before, in another process."""
    events = list(map(_decode, lines))
    for event in events:
        if event.ts[-1:] != "Z":
            _tell_in_utc(event)
    return events


def take_line(line: bytes, file: str, number: int, log: Taker, *, last: bool = False) -> None:
    """Give the event in *line*, the one with this *number* in *file*, to *log*, or say what it is.

    *last* says that the file ends with it, without an end of the line.
    """
    try:
        event = _decode(line)
    except _BAD as error:
        if not line.strip():
            return
        what = "cut off: the last line has no end" if last and _is_cut(line) else None
        _take_other(line, file, number, log, what, error)
        return
    _look_at(event, file, number, log)
    log.add(event)


def is_event(line: bytes) -> bool:
    """Whether *line* is an event, of whichever version."""
    try:
        _decode_head(line)
    except _BAD:
        return False
    return True


def _look_at(event: Event, file: str, number: int, log: Taker) -> None:
    """Say what is odd about *event*, and tell its time in UTC."""
    if type(event) is ProcessStart and event.schema > SCHEMA:
        log.problem(file, number, _newer(event.schema), skipped=False)
    if event.ts[-1:] != "Z":
        before = _tell_in_utc(event)
        if before is not None:
            log.zoned(file, number, before)


def _tell_in_utc(event: Event) -> str | None:
    """Tell the time of *event* in UTC; what it was where that was another one."""
    before = event.ts
    after = in_utc(before)
    if after is None:
        return None
    event.ts = after
    return None if before.endswith("+00:00") else before


def _take_other(
    line: bytes, file: str, number: int, log: Taker, what: str | None, error: Exception
) -> None:
    """A line that is none of the events known here: say what it is."""
    if what is None and line.startswith(b"\x1f\x8b"):
        what = f"compressed, not text; try: gzip -dc {file} | aioaudit why -"
    elif what is None and not _is_text(line):
        what = "binary data, not a line of JSON"
    elif what is None and not isinstance(error, msgspec.ValidationError):
        what = f"not a line of JSON ({error})"
    if what is not None:
        log.problem(file, number, what)
        return
    try:
        head = _decode_head(line)
    except _BAD as not_ours:
        log.problem(file, number, f"JSON, but no event of aioaudit ({not_ours})")
        return
    if head.schema is not None and head.schema > SCHEMA and head.event == "process.start":
        log.problem(file, number, _newer(head.schema), skipped=False)
        log.skip_unknown()
    elif head.event in BY_NAME:
        log.problem(file, number, f"damaged {head.event} ({error})")
    else:  # an event of a later version: a reader accepts it
        log.skip_unknown()


def _is_text(line: bytes) -> bool:
    """Whether *line* may be text; msgspec's error does not say, since 0.23 it is as any other."""
    try:
        return "\0" not in line.decode()
    except UnicodeDecodeError:
        return False


def _is_cut(line: bytes) -> bool:
    """Whether *line* begins like an event and stops in the middle."""
    return line.startswith(b"{") and b"\0" not in line and not line.rstrip().endswith(b"}")


def _newer(schema: int) -> str:
    return (
        f"written with schema {schema}, this version reads up to schema {SCHEMA}: "
        "what it knows is used, a newer aioaudit may know more"
    )
