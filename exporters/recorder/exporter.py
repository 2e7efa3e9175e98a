"""The recorder as an exporter: what it keeps, and when it writes that down.

All is done in the exporter's own thread, the writing as well: whoever wants a dump leaves a
`Dump` and has the exporter flushed, so what had happened before is in it.  So there is nothing
to lock, and a forked child finds nothing half done.

There it also answers who asks from outside (`Door`).
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain

from aioaudit.dumps import EXIT, FINDING, Dump, DumpError, Source, name_of_dump
from aioaudit.events import Event, Finding, ProcessEnd, TaskDone
from aioaudit.exporter import Batch, encode_events
from aioaudit.exporters.recorder.door import Door
from aioaudit.exporters.recorder.ring import Ring
from aioaudit.exporters.recorder.telling import Tail, wanted
from aioaudit.exporters.recorder.writing import write_to, write_whole
from aioaudit.live.protocol import Answer, Events, Question, Tasks
from aioaudit.settings import DEFAULT_RECORDER_SIZE
from aioaudit.text import describe, say
from aioaudit.threads import monotonic
from aioaudit.timestamps import timestamp

_MOST = 6  # dumps that triggers may have within...
_SPAN = 60.0  # ... so many seconds


class RecorderExporter:
    """Keeps the last events in memory, and writes them to a file when it is asked.

    Args:
        size: How many bytes it may take, about.
        dump_on: When it writes a file by itself: ``finding`` (or ``finding:KIND``), ``error``,
            ``exit``, ``signal:NAME``.
        folder: Where it puts such a file; by default the working directory at that time.
        socket: Whether it can be asked from outside of the process (``aioaudit ps`` and others).

    `aioaudit.dump` asks for a file.
    """

    def __init__(
        self,
        size: int = DEFAULT_RECORDER_SIZE,
        *,
        dump_on: Iterable[str] = (),
        folder: str | None = None,
        socket: bool = True,
    ) -> None:
        self.dump_on = frozenset(dump_on)
        """When it writes a file by itself."""
        self.source: Source | None = None
        """Private. Whom it asks about the process."""
        self.door = Door(self._respond) if socket else None
        """Private. By which it is asked from outside."""
        self._folder = folder
        self._ring = Ring(size)
        self._last = 0  # the number of the event that came last
        self._tail = Tail()
        self._pid = os.getpid()
        self._asked: deque[Dump] = deque()
        self._written: deque[float] = deque()  # when triggers had files written
        self._refused = 0
        self._last_error = _last_error()
        self._left_by: str | None = None
        self._kinds = frozenset(
            each.partition(":")[2] for each in self.dump_on if each.startswith(f"{FINDING}:")
        )
        self._looks = bool(self._kinds or {FINDING, EXIT} & self.dump_on)

    def ask(self, dump: Dump) -> None:
        """Have *dump* made at the next `flush`; may be called in any thread."""
        self._forget_the_parent()
        self._asked.append(dump)

    def export(self, events: Sequence[Event]) -> None:
        """Keep *events*, and write a file where one of them asks for it."""
        self._forget_the_parent()
        self._ring.take(events)
        records = events.records if isinstance(events, Batch) else events
        if records:
            self._last = records[-1].seq
            self._tail.take(records)
        if self._looks:
            why = self._trigger_in(events)
            if why is not None:
                self._write_because(why)

    def flush(self) -> None:
        """Write the files that somebody has asked for."""
        self._forget_the_parent()
        while self._asked:
            dump = self._asked.popleft()
            if dump.why is not None:
                self._write_because(dump.why)
            elif not dump.given_up:
                self._write(dump)

    def shutdown(self) -> None:
        """Keep nothing any more."""
        if self.door is not None:
            self.door.close()
        self._ring = Ring(self._ring.limit)

    def _forget_the_parent(self) -> None:
        """In a forked child: nothing was asked of it yet, and it has what it keeps to itself."""
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            self._ring = Ring(self._ring.limit)  # the parent's may be at work, for good
            self._asked.clear()
            self._written.clear()
            self._tail.end()

    # -- triggers --------------------------------------------------------------------------

    def _trigger_in(self, events: Sequence[Event]) -> str | None:
        """Why a file is to be written, where one of *events* is a reason."""
        records = events.records if isinstance(events, Batch) else events
        if not {Finding, TaskDone, ProcessEnd} & set(map(type, records)):
            return None
        found: str | None = None
        for event in records:
            if isinstance(event, Finding):
                of_any = FINDING in self.dump_on and event.severity == "finding"
                if of_any or event.kind in self._kinds:
                    found = f"{FINDING}:{event.kind}"
            elif isinstance(event, TaskDone):
                self._note_exit(event)
            elif isinstance(event, ProcessEnd) and EXIT in self.dump_on and self._ends_badly(event):
                found = EXIT
        return found

    def _note_exit(self, event: TaskDone) -> None:
        error = event.error or ""
        if error.startswith("SystemExit") and error not in ("SystemExit", "SystemExit: 0"):
            self._left_by = error

    def _ends_badly(self, event: ProcessEnd) -> bool:
        """Whether the process ends with a status other than 0, as far as that can be known here."""
        error = _last_error()
        unhandled = error is not None and error is not self._last_error
        return event.signal is not None or unhandled or self._left_by is not None

    def _write_because(self, why: str) -> None:
        """Write a file because of a trigger, unless there were too many of late."""
        now = monotonic()
        written = self._written
        while written and now - written[0] > _SPAN:
            written.popleft()
        if len(written) >= _MOST and why != EXIT:
            if not self._refused:
                say(
                    f"recorder: {_MOST} dumps within a minute are enough, none is written for"
                    f" {why}, nor for what comes until a minute is over"
                )
            self._refused += 1
            return
        self._refused = 0
        written.append(now)
        dump = Dump(None, why)
        self._write(dump)
        if dump.error is not None:
            say(f"recorder: no dump is written for {why}: {describe(dump.error)}")

    # -- asked from outside ------------------------------------------------------------------

    def _respond(self, question: Question, file: int | None) -> Answer:
        """The answer to *question*; what needs room goes to *file*."""
        source, ring = self.source, self._ring
        if source is None or ring.start is None:
            return Answer(error="nothing was recorded yet")
        written = left_out = 0
        if isinstance(question, Tasks | Events):
            if file is None:
                return Answer(error="no file came with the question")
            if isinstance(question, Tasks):
                lines, left_out = source.tasks(question.most)
            else:
                same = question.run == ring.start.run
                since = question.since if same else 0
                lines = self._told(since, lives=question.lives)
            written = write_to(file, lines)
        facts = source.facts()
        facts.started = ring.start.ts
        facts.seq = self._last
        facts.size, facts.limit, facts.lost = ring.size, ring.limit, ring.lost
        return Answer(facts=facts, written=written, left_out=left_out)

    def _told(self, since: int, *, lives: bool) -> Iterable[bytes]:
        new = self._tail.after(since, lives=lives) if since else None
        if new is None:
            if since:
                self._tail.begin(self._last, lives=lives)
            return wanted(self._ring.lines(timestamp(time.time_ns())), since, lives=lives)
        start = self._ring.start
        return wanted(
            chain(() if start is None else (encode_events([start]),), new), 0, lives=lives
        )

    # -- files -------------------------------------------------------------------------------

    def _write(self, dump: Dump) -> None:
        try:
            path = self._own_path() if dump.path is None else dump.path
            if self._ring.start is None:
                raise DumpError("nothing was recorded yet")
            write_whole(path, self._ring.lines(timestamp(time.time_ns())))
        except Exception as error:  # noqa: BLE001 - whatever it is, the recorder goes on
            dump.error = error
        else:
            dump.written = path

    def _own_path(self) -> str:
        name = name_of_dump(time.time_ns(), os.getpid())
        return os.path.join(self._folder or os.getcwd(), name)  # noqa: PTH109, PTH118 - pathlib takes its time to import


def _last_error() -> BaseException | None:
    """The error that has ended the program, if one has: the interpreter has shown it."""
    return getattr(sys, "last_value", None)  # on each Python; `last_exc` is there since 3.12
