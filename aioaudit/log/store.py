"""What a log holds of all its runs, and what it answers.

``seq`` and task ids are unique within a run only, so everything is kept by run (`aioaudit.log.runs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import msgspec

from aioaudit.chain.links import Answer
from aioaudit.chain.walk import RequestEvent
from aioaudit.events import (
    ConnectionClose,
    Event,
    Evidence,
    Finding,
    FutureCancel,
    ProcessDropped,
    ProcessEnd,
    ProcessStart,
    SignalSent,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskFound,
    TaskUncancel,
)
from aioaudit.log.joining import Joined
from aioaudit.log.packing import Shapes
from aioaudit.log.parsing import MOST_PROBLEMS
from aioaudit.log.peers import join_runs
from aioaudit.log.runs import Case, LoggedRun
from aioaudit.log.thinning import RunPart

MOST_TEXTS = 100_000
"""At most this many texts are looked up to be kept once."""


class Problem(msgspec.Struct, frozen=True):
    """Something in a log that could not be read, or not in full.

    ``line`` counts from 1; ``skipped`` is false where the line was used all
    the same.
    """

    file: str
    line: int
    what: str
    skipped: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


class Parent(msgspec.Struct, frozen=True):
    """The run of the process that started another one, or started what did.

    ``evidence`` is ``observed`` where the child was forked from that very run, and
    ``inferred`` where the log only tells which processes there were.
    """

    run: LoggedRun
    evidence: Evidence


class EventSink:
    """What a log is read into.

    ``problems`` are the first `MOST_PROBLEMS` things that could not be read,
    ``damaged`` counts all lines that were skipped, ``events`` all that were read.  Run by run,
    ``repeats`` counts those that had been read before, and ``set_back`` has the times before and
    after the clock was set back.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.damaged = 0
        self.events = 0
        self.repeats: dict[str, int] = {}
        self.set_back: dict[str, tuple[str, str]] = {}

    def add(self, event: Event) -> None:  # noqa: ARG002 - for those who look at it
        """Take *event*."""
        self.events += 1

    def add_all(self, events: Sequence[Event]) -> None:
        """Take each of *events*."""
        for event in events:
            self.add(event)

    def problem(self, file: str, line: int, what: str, *, skipped: bool = True) -> None:
        """Note that *line* (from 1) of *file* could not be read, or not in full."""
        self.damaged += skipped
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(file, line, what, skipped))

    def skip_unknown(self, count: int = 1) -> None:
        """Count events of a later version, which have nothing to say here."""
        self.events += count

    def zoned(self, file: str, line: int, ts: str) -> None:
        """Note that *line* had the time *ts* of another zone, and is told in UTC."""


_KEPT_WHOLE = frozenset({ConnectionClose, Finding, SignalSent})
"""Kinds of events of which there may be many, and that are kept as they are."""


class Store(EventSink):
    """The events of any number of runs, and the cases among them.

    Args:
        forgets: As for `LoggedRun`.
        asked: As for `LoggedRun`.
    """

    def __init__(self, *, forgets: bool = False, asked: str | None = None) -> None:
        super().__init__()
        self.runs: dict[str, LoggedRun] = {}
        self._forgets = forgets
        self._asked = asked
        self._texts: dict[str, str] = {}
        self._shapes = Shapes()
        self._processes: _Started | None = None
        self._joined: Joined | None = None
        self._signals: dict[int, dict[tuple[str, int], SignalSent]] = {}
        self._by_pid: dict[int, list[LoggedRun]] = {}

    @property
    def missed(self) -> bool:
        """Whether a line has to do with a task that was forgotten before."""
        return any(run.missed for run in self.runs.values())

    def signals_to(self, pid: int) -> list[tuple[LoggedRun, SignalSent]]:
        """The signals that were sent to the process with this number, and those sent to groups."""
        sent = {**self._signals.get(0, {}), **self._signals.get(pid, {})}
        return [(self.runs[run], event) for (run, _), event in sent.items()]

    def runs_of(self, pid: int) -> list[LoggedRun]:
        """The runs of processes with this number, on whichever machine."""
        return self._by_pid.get(pid, [])

    def cases(self, task: str | int | None = None) -> list[Case]:
        """Like `Log.answers`, with the events behind each answer."""
        if task is None:
            wanted: Iterable[tuple[LoggedRun, int]] = (
                (run, each) for run in self.runs.values() for each in run.cancelled_tasks()
            )
        else:
            wanted = self.find(task)
        self.joined()
        found = [case for run, each in wanted if (case := run.case(each)) is not None]
        found.sort(key=lambda case: (case.ts, case.run.id, case.task))
        return found

    def joined(self) -> Joined:
        """Which peers that went away are processes in this log; from now on chains go on there."""
        if self._joined is None:
            self._joined = join_runs(self.runs)
        return self._joined

    def parent(self, run: LoggedRun) -> Parent | None:
        """The run of the nearest process above *run*'s that is in this log."""
        start = run.start
        if start is None:
            return None
        if start.parent_run in self.runs:
            return Parent(self.runs[start.parent_run], "observed")
        if start.process is not None:
            for ancestor in start.ancestors or ():
                before = self._before(run, self._started().by_process.get(ancestor, ()))
                if before:
                    return Parent(max(before, key=_began), "inferred")
            return None
        # Where the system does not tell processes apart, the number and the time must do.
        before = [
            each
            for each in self._before(run, self._started().by_pid.get(start.ppid, ()))
            if not each.ended or each.ended >= start.ts
        ]
        return Parent(max(before, key=_began), "inferred") if before else None

    def _before(self, run: LoggedRun, among: Iterable[LoggedRun]) -> list[LoggedRun]:
        """Those of *among* that had begun when *run* did."""
        return [each for each in among if each is not run and _began(each) <= _began(run)]

    def _started(self) -> _Started:
        if self._processes is None:
            self._processes = _Started(self.runs.values())
        return self._processes

    def find(self, task: str | int) -> list[tuple[LoggedRun, int]]:
        """The tasks of this name, id or ``RUN:ID``, whether cancelled or not."""
        found: dict[tuple[str, int], tuple[LoggedRun, int]] = {}
        text = str(task)
        of_run, _, in_run = text.rpartition(":")
        for run in self.runs.values():
            number = _number(in_run if of_run == run.id else text)
            if number is not None and run.knows(number):
                found[run.id, number] = (run, number)
            if isinstance(task, str):
                for each in run.tasks_named(task):
                    found[run.id, each] = (run, each)
        return list(found.values())

    def add(self, event: Event) -> None:
        """Keep what answers need of *event*."""
        super().add(event)
        self._keep(self._run(event.run, event.pid), event)

    def take(self, parts: Sequence[RunPart], events: Iterable[Event], count: int) -> None:
        """Keep what answers need of a part of a log (`aioaudit.log.thinning.thin`).

        Args:
            parts: What is told of it run by run.
            events: Those of its events that answers need.
            count: How many there were in all.
        """
        for part in parts:
            run = self._run(part.run, part.pid)
            again = run.add_part(part)
            if again:
                self.repeats[part.run] = self.repeats.get(part.run, 0) + again
            if run.clock is not None and run.clock.back is not None:
                self.set_back[part.run] = run.clock.back
        self.events += count
        for event in events:
            if type(event) in _KEPT_WHOLE:
                self._share_texts(event)
            self._keep(self.runs[event.run], event)
        texts = self._known_texts()
        for part in parts:
            add = self.runs[part.run].add_born
            for made in part.born:
                made.coro = texts.setdefault(made.coro, made.coro)
                if made.function is not None:
                    made.function = texts.setdefault(made.function, made.function)
                add(made)

    def _known_texts(self) -> dict[str, str]:
        """What is the same in many events, to be kept once."""
        if len(self._texts) > MOST_TEXTS:
            self._texts.clear()
        return self._texts

    def _share_texts(self, event: Event) -> None:
        """Keep what is the same in many events once: names, coroutines, lines."""
        texts = self._known_texts()
        for field in event.__struct_fields__:
            value = getattr(event, field)
            if type(value) is str and field != "ts":
                setattr(event, field, texts.setdefault(value, value))

    def _run(self, run: str, pid: int) -> LoggedRun:
        found = self.runs.get(run)
        if found is None:
            found = LoggedRun(
                run, pid, forgets=self._forgets, asked=self._asked, shapes=self._shapes
            )
            self.runs[run] = found
            self._by_pid.setdefault(pid, []).append(found)
        found.housekeeping = None
        self._joined = None
        return found

    def _keep(self, run: LoggedRun, event: Event) -> None:
        kind = type(event)
        if kind is TaskCreate or kind is TaskFound:
            run.add_making(cast("TaskCreate | TaskFound", event))
        elif kind is TaskDone:
            run.add_done(cast(TaskDone, event))
        elif kind is TaskCancel or kind is FutureCancel:
            run.add_request(cast(RequestEvent, event))
        elif kind is TaskUncancel:
            absorbed = cast(TaskUncancel, event)
            if run.is_new(absorbed):
                run.add_uncancel(absorbed)
        elif kind is ConnectionClose:
            run.closes[event.seq] = cast(ConnectionClose, event)
        elif kind is Finding:
            found = cast(Finding, event)
            if run.is_new(found):
                run.findings.append(found)
                run.found.setdefault(found.task, []).append(found)
        elif kind is ProcessStart:
            self._processes = None
            run.add_start(cast(ProcessStart, event))
        elif kind is ProcessDropped:
            run.add_loss(cast(ProcessDropped, event))
        elif kind is ProcessEnd:
            run.add_end(cast(ProcessEnd, event))
        else:
            self._add_signal(event)

    def _add_signal(self, event: Event) -> None:
        """Keep that a signal was sent, if *event* tells that."""
        if isinstance(event, SignalSent):
            self._signals.setdefault(max(event.to, 0), {})[event.run, event.seq] = event


class _Started:
    """The runs of which it is known how they began, by what tells their processes."""

    def __init__(self, runs: Iterable[LoggedRun]) -> None:
        self.by_process: dict[str, list[LoggedRun]] = {}
        self.by_pid: dict[int, list[LoggedRun]] = {}
        for run in runs:
            if run.start is not None:
                self.by_pid.setdefault(run.pid, []).append(run)
                if run.start.process is not None:
                    self.by_process.setdefault(run.start.process, []).append(run)


def _began(run: LoggedRun) -> str:
    return run.start.ts if run.start is not None else ""


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


class Log(Store):
    """A log that was read, and what it answers; `load` makes it.

    Attributes:
        problems: What could not be read, each a `Problem`; the first hundred.
        damaged: How many lines were skipped.
        events: How many events were read.
    """

    def answers(self, task: str | int | None = None) -> list[Answer]:
        """Why tasks were cancelled: an `Answer` for each, the oldest first.

        Args:
            task: A task's last name, its id, or ``RUN:ID`` where the same id occurs in several
                runs; without it, every cancelled task is answered for.

        Returns:
            Several where several tasks have that name or id, none where there is no such task
            or nobody cancelled it.
        """
        return [case.answer() for case in self.cases(task)]

    def why(self, task: str | int | None = None) -> list[Answer]:
        """The same as ``answers(task)``, under the name that `aioaudit.why` has, which gives one."""
        return self.answers(task)
