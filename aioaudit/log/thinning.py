"""What of a log no answer needs: the lives of tasks that were made and returned, and nothing else.

Of a production log that is nearly all.  A task is one of these if all of its life is in the same
part of the log and no other line there has to do with it.  What answers need of it even so is
little: that it returned, and when a task last made another one.  Of a task of which the part tells
no more than its making, it is who made it, when, and what it is called.

This is pure, and done for one part at a time, so that several processes can do it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import cast

import msgspec

from aioaudit.events import Event, ProcessDropped, ProcessStart, TaskCreate, TaskDone, TaskFound
from aioaudit.log.numbers import stretches
from aioaudit.log.times import Clock

NAMING = ("task", "by", "origin_task", "other_task")
"""Keys of events that name a task, beside ``waiters``."""

_AGAIN = (ProcessStart, ProcessDropped)
"""What comes again in each file or dump: its number does not count."""


class Making(msgspec.Struct, array_like=True, gc=False):
    """When a task was made, how it was called then, and who made it, in which function.

    ``main`` says that nobody did, at no line, as with what ``asyncio.run`` is given; ``found`` that
    the task was there already, and nobody knows who made it.
    """

    task: int
    ts: str
    name: str
    coro: str
    maker: int | None = None
    function: str | None = None
    main: bool = False
    found: bool = False


class RunPart(msgspec.Struct):
    """What a part of a log has of one run, apart from the lines that are kept.

    ``seqs`` and ``returned`` are numbers as `aioaudit.log.numbers.stretches` gives them: of the lines,
    and of the tasks whose lives were left out.  ``born`` are the tasks of which no line is kept,
    since the last one that is about them tells that they were made.  ``made`` has the ``seq`` of the
    last task that a task made.  ``begin`` and ``end`` are the numbers of the first line and of the last one, and
    ``in_order`` says that none has a lower number than the one before; a ``process.start`` counts
    for none of these where it is told again, as in a file that was rotated.
    """

    run: str
    pid: int
    clock: Clock
    seqs: list[int] = []
    returned: list[int] = []
    born: list[Making] = []
    made: dict[int, int] = {}
    begin: int | None = None
    end: int = -1
    in_order: bool = True


class _Run:
    """One run, while a part is gone through."""

    __slots__ = (
        "begin",
        "born",
        "first",
        "in_order",
        "last",
        "late",
        "made",
        "part",
        "returned",
        "seqs",
        "ts",
    )

    def __init__(self, first: Event) -> None:
        self.part = RunPart(first.run, first.pid, Clock())
        self.ts = first.ts
        self.first = first.seq
        """Where the stretch of numbers begins that ends with ``last``."""
        self.last = first.seq - 1
        self.seqs: list[int] = []
        self.late: list[int] = []
        self.begin: int | None = None
        self.in_order = True
        self.born: dict[int | None, int] = {}
        """Where in the part the making of a task is, if no line after it is about the task."""
        self.returned: list[int] = []
        self.made: dict[int, int] = {}

    def come_late(self, event: Event) -> None:
        """Take note of *event*, whose number is not higher than that of the one before."""
        if type(event) is not ProcessStart:
            self.in_order = False
            if type(event) is not ProcessDropped:
                self.late.append(event.seq)

    def see_other(self, event: Event) -> None:
        """Take note of *event*, which is kept, and so is what it has to do with."""
        if type(event) in _AGAIN and event.seq == self.last:
            if self.first < self.last:
                self.seqs += (self.first, self.last - 1)
            self.first = self.last + 1
        for key in NAMING:
            self.born.pop(getattr(event, key, None), None)
        for task in getattr(event, "waiters", ()):
            self.born.pop(task, None)

    def finished(self, events: Sequence[Event], kept: bytearray) -> RunPart:
        """What is told of it; *events* are those of the part, and *kept* is set for those to keep."""
        part = self.part
        for place in self.born.values():
            part.born.append(making_of(cast(TaskCreate, events[place])))
            kept[place] = 0
        part.clock.last = self.ts
        part.begin, part.end, part.in_order = self.begin, self.last, self.in_order
        part.seqs = self.seqs
        if self.first <= self.last:
            part.seqs += (self.first, self.last)
        part.seqs += stretches(self.late)
        part.returned = stretches(sorted(self.returned))
        for task in self.returned:
            self.made.pop(task, None)
        part.made = self.made
        return part


def just_returned(event: TaskDone) -> bool:
    """Whether a task ended without having had to do with a cancellation or an error."""
    return event.outcome == "returned" and event.cancel is None and event.cancel_outcome is None


def making_of(event: TaskCreate | TaskFound) -> Making:
    """What *event* tells of the task that was made, or found."""
    if isinstance(event, TaskFound):
        return Making(event.task, event.ts, event.name, event.coro, found=True)
    return Making(
        event.task,
        event.ts,
        event.name,
        event.coro,
        event.parent,
        event.source,
        event.parent is None and event.at is None,
    )


def thin(events: Sequence[Event], asked: str | None = None) -> tuple[list[int], list[RunPart]]:
    """Which of *events* answers need, and what is told of the others, run by run.

    Args:
        events: A part of a log.
        asked: The name of a task, which is kept in any case.

    Returns:
        The places in *events* of those to keep, and a `RunPart` for each run.
    """
    runs: dict[str, _Run] = {}
    kept = bytearray(b"\1") * len(events)
    run: _Run | None = None
    name = ""
    for place, event in enumerate(events):
        if run is None or event.run != name:
            name = event.run
            run = runs.get(name)
            if run is None:
                run = runs[name] = _Run(event)
        kind = type(event)
        seq = event.seq
        if seq > run.last:
            if seq != run.last + 1:
                if run.first <= run.last:
                    run.seqs += (run.first, run.last)
                run.first = seq
            run.last = seq
            if kind is not ProcessDropped:  # see `Clock`
                ts = event.ts
                if ts < run.ts:
                    run.part.clock.step(run.ts, ts)
                run.ts = ts
        else:
            run.come_late(event)
        if run.begin is None and kind is not ProcessStart:
            run.begin = seq
            run.part.clock.first = event.ts
        if kind is TaskCreate:
            made = cast(TaskCreate, event)
            run.born[made.task] = place
            if made.parent is not None:
                run.made[made.parent] = seq
        elif kind is TaskDone and just_returned(cast(TaskDone, event)):
            done = cast(TaskDone, event)
            born = run.born.pop(done.task, None)
            if born is not None and done.name != asked:
                kept[born] = kept[place] = 0
                run.returned.append(done.task)
        else:
            run.see_other(event)
    parts = [each.finished(events, kept) for each in runs.values()]
    return list(compress(range(len(events)), kept)), parts
