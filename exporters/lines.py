"""Private. What `structlog` and `logging` have in common: the line that an event becomes.

- **Level.**  A cancellation is never an error.  What deserves a look is a
  warning: a finding, a cancellation that was swallowed, one that nobody can
  explain, a task that was destroyed while it was pending, lost events.  What ends because
  the program ends is for debugging only, as are all lives without incident.
- **Keys** are those of the event, flat.  Lines about a cancellation also have
  the root cause (``root_what``, ``root_at``, ...) and a sentence (``summary``),
  so that each can be understood, and searched for, on its own.
- **Context.**  A line is logged in the thread of the exporter, but in a copy of
  the context (`contextvars`) in which its event happened: that of the task
  which called ``cancel()``, that of the task which ended.  Whatever the
  application's own processors and filters take from there, the id of a request
  say, is what they would have found on the spot.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from typing import Any, NamedTuple

import msgspec

from aioaudit.chain.links import Link
from aioaudit.chain.recent_requests import RecentRequests, answer, brief, request_sentence
from aioaudit.chain.summary import is_known, who
from aioaudit.chain.walk import Step
from aioaudit.events import (
    ConnectionClose,
    Event,
    Finding,
    FutureCancel,
    LoopBlocked,
    LoopStop,
    ProcessDropped,
    SignalSent,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
    name_of,
)
from aioaudit.exporter import ContextNotes, Created, Record, Returned, event_of, records_of
from aioaudit.findings.words import sentence
from aioaudit.text import describe, escape_unprintable, say

DEBUG = logging.DEBUG
INFO = logging.INFO
WARNING = logging.WARNING

_GROUPS = frozenset({"task_group", "gather"})

TAKEN_BY_LOGGING = {
    "name": "task_name",
    "thread": "event_thread",
    "process": "event_process",
    "message": "cancel_message",
}
"""Keys that a `logging.LogRecord` has for itself, and what they are called there instead."""


class Line(NamedTuple):
    """What is logged of an event; ``sentence`` is for people, ``keys`` for machines."""

    event: str
    level: int
    sentence: str
    keys: dict[str, Any]


class Lines:
    """Makes lines of events, which it must see in order, all of them."""

    def __init__(self) -> None:
        self._recent = RecentRequests()

    def line(self, event: Event, lowest: int = DEBUG) -> Line | None:
        """The line of *event*; None if its level is lower than *lowest*."""
        self._recent.add(event)
        if isinstance(event, TaskCreate):
            return _line(event, DEBUG, "was made", lowest)
        if isinstance(event, TaskDone):
            return self._done(event, lowest)
        if isinstance(event, TaskCancel):
            return self._cancel(event, lowest)
        if isinstance(event, FutureCancel):
            steps = self._recent.steps_of_request(event)
            level = _level_of_request(event, steps)
            names = ", ".join(event.waiter_names) or "nobody known"
            sentence = f"a future that {names} awaited was cancelled"
            return _of_chain(event, level, sentence, steps, lowest)
        if isinstance(event, Finding):
            level = WARNING if event.severity == "finding" else DEBUG
            return _of_finding(event, level, lowest)
        if isinstance(event, ProcessDropped):
            return _line(event, WARNING, f"{event.count} events were lost", lowest)
        if isinstance(event, TaskUncancel):
            what = f"took back a request with uncancel(), {event.remaining} left"
            return _line(event, DEBUG, what, lowest)
        if isinstance(event, ConnectionClose):
            sentence = f"closed its connection to {event.peer} because of that"
            return _line(event, DEBUG, sentence, lowest)
        if isinstance(event, LoopBlocked):
            return _line(event, WARNING, _blocked(event), lowest)
        if isinstance(event, LoopStop):
            return _line(event, DEBUG, f"stop() was called with {event.pending} pending", lowest)
        if isinstance(event, SignalSent):
            return _line(event, INFO, f"sent {event.signal} to process {event.to}", lowest)
        return _line(event, DEBUG, "", lowest)

    def _done(self, event: TaskDone, lowest: int) -> Line | None:
        steps = self._recent.steps_of_end(event)
        if not steps:
            level = DEBUG
            if event.outcome == "destroyed":
                level = WARNING
            elif event.outcome != "returned":
                level = INFO
            end = event.outcome if event.error is None else f"{event.outcome} {event.error}"
            return _line(event, level, end, lowest)
        level = _level_of_end(event, steps)
        if level < lowest:
            return None
        made = _of_chain(event, level, answer(event, steps).summary, steps, lowest)
        if made is not None:
            made.keys["chain"] = [brief(step.link) for step in steps]
        return made

    def _cancel(self, event: TaskCancel, lowest: int) -> Line | None:
        steps = self._recent.steps_of_request(event)
        level = DEBUG if not event.accepted else _level_of_request(event, steps)
        if level < lowest:
            return None
        return _of_chain(event, level, request_sentence(event, steps), steps, lowest)


def _blocked(event: LoopBlocked) -> str:
    where = "" if event.source is None else f" in {event.source}"
    place = "" if event.at is None else f" at {event.at}"
    return (
        ("" if event.coro is not None else "a callback ")
        + ("blocks" if event.ongoing else "blocked")
        + f" the loop for {event.seconds:.3f} s{where}{place}"
    )


def _level_of_request(event: TaskCancel | FutureCancel, steps: list[Step]) -> int:
    root = steps[-1].link
    if root.what == "shutdown" or event.reason == "shutdown":
        return DEBUG
    if not is_known(root):
        return WARNING
    # The others of a group or gather that failed: each one's end is told anyway.
    return DEBUG if event.reason in _GROUPS else INFO


def _level_of_end(event: TaskDone, steps: list[Step]) -> int:
    root = steps[-1].link
    if event.cancel_outcome == "swallowed" or event.outcome == "destroyed":
        return WARNING
    if root.what == "shutdown" or any(step.link.reason == "shutdown" for step in steps):
        return DEBUG
    if not is_known(root):
        return WARNING
    if event.cancel_outcome == "absorbed" and event.outcome == "returned":
        return DEBUG  # a timeout that was handled; the request itself was told
    return INFO


def _line(event: Event, level: int, what: str, lowest: int) -> Line | None:
    if level < lowest:
        return None
    name = name_of(event)
    keys = msgspec.to_builtins(event)
    del keys["event"]
    about = getattr(event, "coro", None)
    if about is not None:
        what = f"{who(getattr(event, 'name', ''), about)} {what}"
    return Line(name, level, escape_unprintable(what), keys)


def _of_finding(event: Finding, level: int, lowest: int) -> Line | None:
    if level < lowest:
        return None
    keys = msgspec.to_builtins(event)
    del keys["event"]
    keys["summary"] = text = sentence(event)
    return Line(name_of(event), level, text, keys)


def _of_chain(
    event: Event, level: int, sentence: str, steps: list[Step], lowest: int
) -> Line | None:
    if level < lowest:
        return None
    keys = msgspec.to_builtins(event)
    del keys["event"]
    keys.update(root_keys(steps[-1].link))
    keys["summary"] = sentence = escape_unprintable(sentence)
    return Line(name_of(event), level, sentence, keys)


def root_keys(root: Link) -> dict[str, Any]:
    """What *root* says, each key with ``root_`` before it."""
    return {f"root_{key}": value for key, value in msgspec.to_builtins(root).items()}


class Contexts(ContextNotes[Context]):
    """The contexts in which events happened, until their lines are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = True
        """Whether tasks that are made and return are logged at all."""

    def witness(self, item: Record) -> None:
        """Keep the context that *item* happens in."""
        kind = type(item)
        if self.lives or not (kind is Created or kind is Returned):
            self.keep(item, copy_context())


def _without_lives(events: Sequence[Event]) -> Iterator[Event]:
    """*events* without those of tasks that are made and return, which are the most by far."""
    for record in records_of(events):
        kind = type(record)
        if not (kind is Created or kind is Returned):
            yield event_of(record)


class Emitter:
    """Logs the lines of batches, each in its context; one that cannot be logged hurts nobody.

    Args:
        kind: The name of the exporter, for a message on stderr.
    """

    def __init__(self, kind: str) -> None:
        self.contexts = Contexts()
        self._kind = kind
        self._lines = Lines()
        self._failed = 0

    def emit(self, events: Sequence[Event], lowest: int, log: Callable[[Line], object]) -> None:
        """Call *log* with the line of each of *events* whose level is at least *lowest*."""
        lives = self.contexts.lives = lowest <= DEBUG
        self.contexts.collect(events)
        for event in events if lives else _without_lives(events):
            line = self._lines.line(event, lowest)
            context = self.contexts.take(event.seq)
            if line is None:
                continue
            try:
                if context is None:
                    log(line)
                else:
                    context.run(log, line)
            except Exception as error:  # noqa: BLE001 - a processor or handler of the program's may raise anything
                self._failed += 1
                if self._failed == 1:
                    say(
                        f"exporter {self._kind!r}: {line.event} could not be logged: "
                        f"{describe(error)}; further ones are counted"
                    )

    def end(self) -> None:
        """Let go of everything; say how many lines could not be logged, if any."""
        self.contexts.close()
        failed, self._failed = self._failed, 0
        if failed > 1:
            say(f"exporter {self._kind!r}: {failed:,} events could not be logged")
