"""A log as spans, after the program ended: the same spans that the program would have sent.

Ids are made of what the log says, so they are the same each time, and the same
as those of ``AIOAUDIT=otel`` in the run that wrote the log.  One thing a log
cannot know: the application's own spans.  Where it had one, the live span is a
child of it, in its trace; from a log the span keeps its id and is in a trace of
aioaudit's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter

from aioaudit.events import Event, ProcessEnd, ProcessStart
from aioaudit.exporters.otel.facts import SpanFacts
from aioaudit.exporters.otel.spans import Spans
from aioaudit.timestamps import nanoseconds

Tell = Callable[[int, Sequence[SpanFacts]], None]
"""Takes finished spans, and the number of the process that they are from."""


class LogReplay:
    """Makes spans of the events of any number of runs; those of one run come in order.

    Args:
        tasks: Which tasks are told, as `Spans` takes it.
        status: When a cancellation is an error, as `Spans` takes it.
        tell: Gets the spans.
    """

    def __init__(self, tasks: str, status: str, tell: Tell) -> None:
        self._tasks = tasks
        self._status = status
        self._tell = tell
        self._runs: dict[str, tuple[Spans, Event]] = {}

    def take(self, events: Sequence[Event]) -> None:
        """Take note of *events*, and tell of what ended with each of them."""
        for run, together in groupby(events, attrgetter("run")):
            known = self._runs.get(run)
            spans = None if known is None else known[0]
            event: Event | None = None
            for event in together:
                if spans is None:
                    spans = Spans(self._tasks, self._status, lambda _seq: None)
                    if not isinstance(event, ProcessStart):  # a log whose head is gone
                        spans.begin(run)
                told = spans.see(event)
                if told:
                    self._tell(event.pid, told)
                if type(event) is ProcessEnd:
                    self._runs.pop(run, None)  # its last event
                    spans = None
            if spans is not None and event is not None:
                self._runs[run] = (spans, event)

    def finish(self) -> None:
        """Tell of the tasks whose end is in no log: their process ended before they did."""
        for spans, last in self._runs.values():
            self._give(last.pid, spans.abandon(nanoseconds(last.ts)))
        self._runs.clear()

    def _give(self, pid: int, told: list[SpanFacts]) -> None:
        if told:
            self._tell(pid, told)
