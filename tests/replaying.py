"""The spans of a log, made of all its lines or of what is told in brief."""

from __future__ import annotations

from enum import Enum, auto
from io import BytesIO
from pathlib import Path

from aioaudit.exporters.otel.otlp_json import JsonWriter
from aioaudit.exporters.otel.replay import LogReplay
from aioaudit.log.ordered import read_in_order


class Way(Enum):
    """How a log is read."""

    WHOLE = auto()
    """Each line is looked at where spans are made."""
    BRIEF = auto()
    """What no span needs is told in brief, once the order of the lines is known."""
    AT_ONCE = auto()
    """The same, and what was written is taken back where the lines are in disorder."""


class Spans(bytes):
    """A file of spans; ``read`` is what is told of the reading."""

    read: object


def spans(log: Path, way: Way, *, workers: int = 0, tasks: str = "touched") -> Spans:
    """The spans of *log*, as they are written."""
    file = BytesIO()
    writer = JsonWriter(file)
    replay = LogReplay(tasks, "cause", writer.take)

    def again() -> None:
        replay.forget()
        writer.begin_again()

    found = read_in_order(
        log,
        replay.take,
        take_brief=None if way is Way.WHOLE else replay.take_brief,
        again=again if way is Way.AT_ONCE else None,
        workers=workers,
    )
    replay.finish()
    writer.finish()
    written = Spans(file.getvalue())
    written.read = (found.events, found.damaged, found.repeats, found.problems, found.set_back)
    return written
