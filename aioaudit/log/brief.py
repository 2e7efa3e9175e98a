"""A part of a log in brief, for who makes spans: of a task to which nothing happened, a few numbers.

Of a production log that is nearly all.  A task is told in brief if it was made and returned in the
same part, no other line there names it but as the maker of others, and these are told in brief too.
No span is made of such a life, and none names it.  What it counts for even so, as one of the tasks
of a trace, the numbers tell.

This is pure, and done for one part at a time, so that several processes can do it at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, compress
from typing import cast

import msgspec

from aioaudit.events import Event, ProcessDropped, ProcessEnd, ProcessStart, TaskCreate, TaskDone
from aioaudit.log.thinning import NAMING, just_returned
from aioaudit.log.times import Clock
from aioaudit.timestamps import nanoseconds

Step = tuple[int, int, int]
"""A task was made: its number, that of its creator (0 for none), and when, in nanoseconds.  Or it
ended: its number, `ENDED`, 0."""

ENDED = -1
"""Stands for the creator where a task ended."""

CHILDLESS = 0
"""Stands for the number of a task that made none itself; its end is not told."""

_MOST = 2**63
"""Numbers below have room in a step."""

_KEPT, _STEP, _NOTHING = range(3)
"""What becomes of a line."""

_IF_KEPT = bytes.maketrans(bytes([_KEPT, _STEP, _NOTHING]), b"\1\0\0")
_IF_STEP = bytes.maketrans(bytes([_KEPT, _STEP, _NOTHING]), b"\0\1\0")


class RunInBrief(msgspec.Struct):
    """What a part of a log has of one run, apart from the lines that are kept.

    ``begin`` and ``end`` are the numbers of the first line and of the last one, and ``in_order`` says
    that none has a lower number than the one before; a ``process.start`` counts for none of these
    where it is told again, as in a file that was rotated.  ``lines`` is how many there are.  The
    tasks that are told in brief have numbers from ``least`` on; ``most`` is the highest number of a
    task that a line names.
    """

    run: str
    clock: Clock
    begin: int | None
    end: int
    in_order: bool
    lines: int
    least: int
    most: int
    packed: bytes

    def steps(self) -> Iterator[Step]:
        """What is told in brief, in order."""
        numbers = array("q")
        numbers.frombytes(self.packed)
        each = iter(numbers)
        return zip(each, each, each, strict=True)


class Brief(msgspec.Struct):
    """A part of a log; ``before`` says of each line that is kept how many steps of its run come
    between it and the one that was kept before."""

    runs: list[RunInBrief]
    before: list[int]


class _Run:
    """One run, while a part is gone through."""

    __slots__ = (
        "begin",
        "born",
        "clock",
        "end",
        "in_order",
        "makers",
        "most",
        "name",
        "opens",
        "places",
        "short",
        "turns",
    )

    def __init__(self, first: Event) -> None:
        self.name = first.run
        self.clock = Clock(last=first.ts)
        self.begin: int | None = None
        self.end = first.seq - 1
        self.in_order = True
        self.most = 0
        self.places: list[int] = []
        """Where its lines are."""
        self.opens = True
        """Whether the next line is the first one, or the first one after an end."""
        self.turns: list[int] = []
        """Where those lines are: they, and the last one, are kept in any case."""
        self.born: dict[int, int] = {}
        """Where the making of a task is that may be told in brief."""
        self.short: dict[int, tuple[int, int]] = {}
        """Where that and the end are, if it has ended."""
        self.makers: list[int] = []
        """Who made those that are not told in brief."""


class _Part:
    """A part of a log, while it is gone through: line by line, what becomes of it, and the step that
    it may be."""

    def __init__(self, count: int) -> None:
        self.fates = bytearray([_KEPT]) * count
        self.numbers = [0] * count
        self.creators = [0] * count
        self.times = [0] * count

    def go_through(self, events: Sequence[Event]) -> list[_Run]:
        """What there is of each run."""
        runs: dict[str, _Run] = {}
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
            if seq > run.end:
                run.end = seq
                if kind is not ProcessDropped:  # see `Clock`
                    ts = event.ts
                    if ts < run.clock.last:
                        run.clock.step(run.clock.last, ts)
                    run.clock.last = ts
            elif kind is ProcessStart:
                self.fates[place] = _NOTHING
                continue
            else:
                run.in_order = False
            if run.opens and kind is not ProcessStart:
                run.opens = False
                run.turns.append(place)
                if run.begin is None:
                    run.begin = seq
                    run.clock.first = event.ts
            run.places.append(place)
            if kind is TaskCreate:
                self._see_made(run, cast(TaskCreate, event), place)
            elif kind is TaskDone and just_returned(cast(TaskDone, event)):
                task = cast(TaskDone, event).task
                at = run.born.pop(task, None)
                if at is None:
                    run.most = max(run.most, task)
                else:
                    run.short[task] = at, place
                    self.numbers[place] = task
                    self.creators[place] = ENDED
            else:
                self._see_other(run, event)
        return list(runs.values())

    def _see_made(self, run: _Run, made: TaskCreate, place: int) -> None:
        """Take note of a task that may be told in brief."""
        task, parent = made.task, made.parent
        ns = nanoseconds(made.ts, -1)
        # Higher than all before: then it is no other task that has the number of this one.
        if run.most < task < _MOST > ns >= 0 and (parent is None or 0 < parent < task):
            run.most = task
            run.born[task] = place
            self.numbers[place] = task
            self.creators[place] = parent or 0
            self.times[place] = ns
        else:
            self._name(run, task)
            run.most = max(run.most, parent or 0)
            run.makers.append(parent or 0)

    def _see_other(self, run: _Run, event: Event) -> None:
        """Take note of *event*: whom it names is not told in brief."""
        for key in NAMING:
            number = getattr(event, key, None)
            if number is not None:
                self._name(run, number)
        for number in getattr(event, "waiters", ()):
            self._name(run, number)
        if isinstance(event, ProcessStart | ProcessEnd):
            self._leave(run, list(run.born))  # it says something of all that live
            run.opens = True

    def _name(self, run: _Run, number: int) -> None:
        run.most = max(run.most, number)
        if number in run.born:
            self._leave(run, [number])

    def _leave(self, run: _Run, tasks: list[int]) -> None:
        """Do not tell *tasks* in brief, which live."""
        run.makers += [self.creators[run.born.pop(each)] for each in tasks]

    def settle(self, run: _Run) -> None:
        """Of the tasks in ``short``, leave those that are told in brief; see what becomes of the lines."""
        self._leave(run, list(run.born))
        makers, short = run.makers, run.short
        makers += [self.numbers[place] for place in run.turns + run.places[-1:]]
        while makers:
            life = short.pop(makers.pop(), None)
            if life is not None:
                makers.append(self.creators[life[0]])
        fates = self.fates
        with_children = {self.creators[at] for at, _ in short.values()}
        for task, (at, end) in short.items():
            fates[at] = _STEP
            if task in with_children:
                fates[end] = _STEP
            else:
                fates[end] = _NOTHING
                self.numbers[at] = CHILDLESS

    def told(self, run: _Run, before: dict[int, int]) -> RunInBrief:
        """What is told of *run*; *before* is given how many steps come before the line at a place."""
        places = run.places
        fates = bytes(map(self.fates.__getitem__, places))
        begin = 0
        while (index := fates.find(_KEPT, begin)) >= 0:
            if index > begin:
                before[places[index]] = fates.count(_STEP, begin, index)
            begin = index + 1
        steps = list(compress(places, fates.translate(_IF_STEP)))
        told = (map(each.__getitem__, steps) for each in (self.numbers, self.creators, self.times))
        return RunInBrief(
            run=run.name,
            clock=run.clock,
            begin=run.begin,
            end=run.end,
            in_order=run.in_order,
            lines=len(places),
            least=min(run.short, default=_MOST),
            most=run.most,
            packed=array("q", chain.from_iterable(zip(*told, strict=True))).tobytes(),
        )


def shorten(events: Sequence[Event]) -> tuple[list[int], Brief]:
    """Which of *events*, a part of a log, are kept, by their places in it, and what is told in brief."""
    part = _Part(len(events))
    runs = part.go_through(events)
    for run in runs:
        part.settle(run)
    before: dict[int, int] = {}
    told = [part.told(run, before) for run in runs]
    places = list(compress(range(len(events)), part.fates.translate(_IF_KEPT)))
    return places, Brief(told, [before.get(place, 0) for place in places])
