"""A log as spans, after the program ended: the same spans that the program would have sent.

Ids are made of what the log says, so they are the same each time, and the same
as those of ``AIOAUDIT=otel`` in the run that wrote the log.  One thing a log
cannot know: the application's own spans.  Where it had one, the live span is a
child of it, in its trace; from a log the span keeps its id and is in a trace of
aioaudit's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, islice
from operator import attrgetter

from aioaudit.events import Event, ProcessEnd, ProcessStart
from aioaudit.exporters.otel.facts import SpanFacts
from aioaudit.exporters.otel.lives import MOST_LIVING, TOUCHED
from aioaudit.exporters.otel.spans import Spans
from aioaudit.log.brief import Brief, RunInBrief
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
        self._most: dict[str, int] = {}
        """By run, the highest number of a task that was named in a part of which a brief was given."""

    @property
    def plain(self) -> bool:
        """Whether only those tasks are told that something happened to: then `take_brief` may be called."""
        return self._tasks == TOUCHED

    def take(self, events: Sequence[Event]) -> None:
        """Take note of *events*, and tell of what ended with each of them."""
        for run, together in groupby(events, attrgetter("run")):
            known = self._runs.get(run)
            spans = None if known is None else known[0]
            event: Event | None = None
            for event in together:
                if spans is None:
                    spans = self._begun(event)
                told = spans.see(event)
                if told:
                    self._tell(event.pid, told)
                if type(event) is ProcessEnd:
                    self._runs.pop(run, None)  # its last event
                    spans = None
            if spans is not None and event is not None:
                self._runs[run] = (spans, event)

    def take_brief(self, events: Sequence[Event], brief: Brief) -> bool:
        """Like `take`, of a part of which *events* were kept; *brief* tells the rest.

        Where that may not be enough to know the spans, nothing is done, and False is the answer: then
        all of the part is to be taken.  One part after the other is to come here first.
        """
        enough = all(map(self._is_enough, brief.runs))
        for part in brief.runs:
            self._most[part.run] = max(self._most.get(part.run, 0), part.most)
        if not enough:
            return False
        steps = {part.run: part.steps() for part in brief.runs}
        for event, before in zip(events, brief.before, strict=True):
            run = event.run
            known = self._runs.get(run)
            spans = self._begun(event) if known is None else known[0]
            if before:
                spans.pass_over(islice(steps[run], before))
            self._give(event.pid, spans.see(event))
            if type(event) is ProcessEnd:
                self._runs.pop(run, None)
            else:
                self._runs[run] = (spans, event)
        return True

    def _begun(self, first: Event) -> Spans:
        """For the spans of a run of which *first* comes first."""
        spans = Spans(self._tasks, self._status, lambda _seq: None)
        if not isinstance(first, ProcessStart):  # a log whose head is gone
            spans.begin(first.run)
        return spans

    def _is_enough(self, part: RunInBrief) -> bool:
        """Whether *part* is told well enough.

        A number that was named before may be that of another task; and where very many live, some have
        to make room for others.
        """
        known = self._runs.get(part.run)
        living = 0 if known is None else len(known[0].lives.living)
        return part.least > self._most.get(part.run, 0) and living + part.lines < MOST_LIVING

    def forget(self) -> None:
        """What was taken is void: all comes again."""
        self._runs.clear()
        self._most.clear()

    def finish(self) -> None:
        """Tell of the tasks whose end is in no log: their process ended before they did."""
        for spans, last in self._runs.values():
            self._give(last.pid, spans.abandon(nanoseconds(last.ts)))
        self._runs.clear()

    def _give(self, pid: int, told: list[SpanFacts]) -> None:
        if told:
            self._tell(pid, told)
