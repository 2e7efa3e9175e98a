"""What a log looks like on a time line: tracks, slices on them, and arrows from slice to slice.

Pure: events in, shapes out; `packets` says them in Perfetto's words.

- **Tracks.**  A process has its loops, a loop one group of lanes for each coroutine.  A lane
  holds one task after the other, so there are no more of them than tasks at a time.
- **Slices.**  A task from its making to its end; inside it, from a request to cancel it to
  what became of that, "asked to cancel"; on the track of a loop, how long it was blocked.
- **Arrows** go from who asked to who was asked, and from what made somebody ask (an earlier
  request, a failure) to where that was done.  What no task did, a deadline, a signal, a
  callback, stands on a lane of its own beside those of the loop's tasks.

A life is given out when it ends.  What an arrow may still begin at is kept: the last
`MOST_KEPT` of each run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count

import msgspec

from aioaudit.chain.recent_requests import RecentRequests, brief
from aioaudit.chain.summary import cause, summarise, who
from aioaudit.chain.walk import Step, inferred, origin_link, own_link
from aioaudit.events import (
    Event,
    Finding,
    FutureCancel,
    LoopBlocked,
    LoopClose,
    LoopStart,
    LoopStop,
    ProcessDropped,
    ProcessEnd,
    ProcessStart,
    SignalSent,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.findings.words import sentence
from aioaudit.text import clean, escape_unprintable
from aioaudit.timestamps import nanoseconds

MOST_KEPT = 50_000
"""So many requests and ends of a run an arrow may still begin at; one from an older one is missing."""

OUTSIDE = "outside of tasks"
"""The lane of what no task of the loop did."""

_OTHERS_PID = 5_000_000
"""Beyond the numbers that Linux gives (``PID_MAX_LIMIT``, 4,194,304): for a process whose
number another one of the log has, too."""

Facts = dict[str, "str | int | float | bool"]


class Track(msgspec.Struct, frozen=True):
    """A line of the picture; that of a process has a *pid* and no *parent*."""

    id: int
    name: str
    parent: int | None = None
    pid: int | None = None


class Slice(msgspec.Struct, eq=False):
    """Something on a track, from *start* to *end* in nanoseconds since the epoch.

    ``end`` is ``start`` for what takes no time, and None for what had not ended.  Arrows are
    numbers: each begins at one slice (``out``) and ends at another (``into``).
    """

    track: int
    kind: str
    name: str
    start: int
    end: int | None
    facts: Facts = {}
    out: list[int] = []
    into: list[int] = []


Shape = Track | Slice


class Picture:
    """Makes shapes of the events of any number of runs; those of one run come in order.

    Args:
        draw: Gets the shapes, a track before what is on it.
    """

    def __init__(self, draw: Callable[[Shape], None]) -> None:
        self._draw = draw
        self._ids = count(1)
        self._pids: set[int] = set()
        self._runs: dict[str, _Run] = {}
        self.tasks = 0
        """How many lives were drawn."""
        self.requests = 0
        """How many requests to cancel were drawn."""

    def take_all(self, events: Iterable[Event]) -> None:
        """Take note of *events*, and draw what ended with them."""
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        """Take note of *event*, and draw what ended with it."""
        run = self._runs.get(event.run)
        if run is None:
            run = self._runs[event.run] = _Run(self._process(event), self._draw, self._ids)
        run.take(event)
        if isinstance(event, ProcessEnd):
            self._finish(event.run)

    def finish(self) -> None:
        """Draw what had not ended."""
        for run in list(self._runs):
            self._finish(run)

    def _finish(self, run: str) -> None:
        done = self._runs.pop(run)
        done.finish()
        self.tasks += done.tasks
        self.requests += done.requests

    def _process(self, first: Event) -> Track:
        pid = first.pid
        argv = first.argv if isinstance(first, ProcessStart) else []
        # Its number is shown beside it; of what has slashes, the end alone.
        name = _shown(argv[0].rpartition("/")[2] if argv else "python")
        if pid in self._pids:
            pid = _OTHERS_PID + len(self._pids)
            name += f" (pid {first.pid})"
        self._pids.add(pid)
        track = Track(next(self._ids), name, pid=pid)
        self._draw(track)
        return track


class _Lane(msgspec.Struct, eq=False):
    """A track that is free again once its task has ended, and from when on."""

    track: int
    group: tuple[int | None, str]
    free_from: int = 0


class _Life(msgspec.Struct, eq=False):
    """A task that lives, and the request that it is under."""

    lane: _Lane
    name: str
    coro: str
    start: int
    facts: Facts
    asked: Slice | None = None
    asked_by: int = 0  # the number of the event


class _Run:
    """One run: its tracks, its tasks that live, and what an arrow may begin at."""

    def __init__(self, process: Track, draw: Callable[[Shape], None], ids: Iterator[int]) -> None:
        self._draw = draw
        self._ids = ids
        self._process = process.id
        self._loops: dict[int, int] = {}
        self._free: dict[tuple[int | None, str], deque[_Lane]] = {}
        self._outside: dict[int | None, int] = {}
        self._lives: dict[int, _Life] = {}
        self._recent = RecentRequests(MOST_KEPT)
        self._origins: dict[int, list[Slice]] = {}  # by the number of the event...
        self._failed: dict[int, int] = {}  # ... and that by the number of a task
        self._now = 0
        self.tasks = self.requests = 0

    # -- events ---------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """Take note of *event*."""
        # Two events of one microsecond keep their order: what begins first is around the other.
        ns = nanoseconds(event.ts, self._now)
        self._now = ns = self._now + 1 if ns // 1000 == self._now // 1000 else ns
        self._recent.add(event)
        match event:
            case TaskCreate():
                self._create(event, ns)
            case TaskDone():
                self._done(event, ns)
            case TaskCancel():
                self._cancel(event, ns)
            case FutureCancel():
                self._future(event, ns)
            case TaskUncancel():
                self._uncancel(event, ns)
            case Finding():
                self._finding(event, ns)
            case LoopBlocked():
                self._blocked(event, ns)
            case LoopStart():
                self._mark(self._loop(event), "loop", "the loop starts", ns)
            case LoopStop():
                facts = _facts(at=event.at, source=event.source, pending=event.pending)
                self._mark(self._loop(event), "loop", "stop() was called", ns, facts)
            case LoopClose():
                self._mark(self._loop(event), "loop", "the loop is closed", ns)
            case ProcessStart():
                facts = _facts(argv=clean(" ".join(event.argv)), python=event.python)
                self._mark(self._process, "process", "auditing begins", ns, facts)
            case ProcessDropped():
                name = f"{event.count:,} events are missing here"
                self._mark(self._process, "process", name, ns)
            case ProcessEnd():
                name = "the process ends" + (f" ({event.signal})" if event.signal else "")
                self._mark(self._process, "process", name, ns)
            case _:
                self._signal(event, ns)

    def _signal(self, event: Event, ns: int) -> None:
        if isinstance(event, SignalSent):
            facts = _facts(at=event.at, source=event.source, detail=event.detail)
            name = f"sent {event.signal} to process {event.to}"
            self._mark(self._process, "process", name, ns, facts)

    def finish(self) -> None:
        """Draw the tasks that had not ended, and what was kept."""
        for life in self._lives.values():
            self._draw_life(life, None, life.facts)
        self._lives.clear()
        for kept in self._origins.values():
            for each in kept:
                self._draw(each)
        self._origins.clear()

    def _create(self, event: TaskCreate, ns: int) -> None:
        facts = _facts(made_at=event.at, made_by=event.source, task=event.task)
        parent = None if event.parent is None else self._lives.get(event.parent)
        if parent is not None:
            facts["parent"] = who(parent.name, parent.coro)
        self._begin(event, event.task, event.name, event.coro, ns, facts)

    def _done(self, event: TaskDone, ns: int) -> None:
        life = self._lives.pop(event.task, None)
        if life is None:
            # What it is told of is gone, or it was made before auditing began.
            start = ns - int((event.lifetime or 0) * 1e9)
            life = self._begin(
                event, event.task, event.name, event.coro, start, {"begin": "unknown"}
            )
            del self._lives[event.task]
        life.name = event.name
        facts = life.facts | _facts(
            outcome=event.outcome,
            error=event.error,
            error_at=event.error_at,
            became=event.cancel_outcome,
            swallowed_at=event.swallowed_at,
        )
        steps = self._recent.steps_of_end(event)
        if steps:
            facts |= _chain(event.name, event.coro, steps, event.outcome)
        if event.outcome == "raised":
            track, name = life.lane.track, f"failed with {event.error or 'an error'}"
            failed = Slice(track, "end", _shown(name), ns, ns, _facts(at=event.error_at))
            self._keep(event.seq, failed)
            self._failed[event.task] = event.seq
        self._draw_life(life, ns, facts)
        self._free.setdefault(life.lane.group, deque()).append(life.lane)

    def _cancel(self, event: TaskCancel, ns: int) -> None:
        self.requests += 1
        life = self._lives.get(event.task)
        asking = self._ask(event, ns, f"cancel() on {who(event.name, event.coro)}")
        if not event.accepted:
            asking.facts["accepted"] = False
        else:
            if life is None:  # its making is not in the log, but it lives
                life = self._begin(
                    event, event.task, event.name, event.coro, ns, {"begin": "unknown"}
                )
            self._asked(life, event, asking, ns)

    def _future(self, event: FutureCancel, ns: int) -> None:
        self.requests += 1
        asking = self._ask(event, ns, "cancel() on a future")
        for number in event.waiters:
            life = self._lives.get(number)
            if life is not None:
                self._asked(life, event, asking, ns)

    def _uncancel(self, event: TaskUncancel, ns: int) -> None:
        life = self._lives.get(event.task)
        if life is None or life.asked is None:
            return
        if event.cancel == life.asked_by or (event.cancel is None and not event.remaining):
            life.asked.facts["became"] = "absorbed"
            _end(life, ns)

    def _finding(self, event: Finding, ns: int) -> None:
        life = self._lives.get(event.task)
        track = self._loop(event) if life is None else life.lane.track
        facts = _facts(says=sentence(event), severity=event.severity)
        self._mark(track, "finding", f"{event.severity}: {event.kind}", ns, facts)

    def _blocked(self, event: LoopBlocked, ns: int) -> None:
        name = "blocked" if event.source is None else f"blocked by {event.source}"
        facts = _facts(
            at=event.at, library_at=event.library_at, task=event.name, evidence=event.evidence
        )
        if event.ongoing:  # it is told once more when it is over, if the process comes to that
            self._mark(self._loop(event), "loop", f"still {name}", ns, facts)
            return
        start = ns - int(event.seconds * 1e9)
        self._draw(Slice(self._loop(event), "blocked", _shown(name), start, ns, facts))

    # -- requests -------------------------------------------------------------------------

    def _ask(self, event: TaskCancel | FutureCancel, ns: int, name: str) -> Slice:
        """Where it is told who asked, with an arrow from what made them ask."""
        by = None if event.by is None else self._lives.get(event.by)
        origin = origin_link(event)
        track = self._outside_of(event) if by is None else by.lane.track
        if by is None and origin is not None:
            name = cause(origin)
        asking = Slice(track, "asks", _shown(name), ns, ns, _request(event), [], [])
        why = event.cause or self._failed.get(event.origin_task or 0, 0)
        kept = self._origins.get(why, ())
        for source in kept[1:] or kept:  # of a request, who was asked; else the only one
            self._arrow(source, asking)
        self._keep(event.seq, asking)
        return asking

    def _asked(self, life: _Life, event: TaskCancel | FutureCancel, asking: Slice, ns: int) -> None:
        """The other end of it: *life* is asked, or what it awaits was cancelled."""
        name = "asked to cancel" if isinstance(event, TaskCancel) else "what it awaits is cancelled"
        if isinstance(event, TaskCancel) and event.behind is not None:
            again = Slice(life.lane.track, "asked", f"{name} again", ns, ns, {}, [], [])
            self._arrow(asking, again)
            self._keep(event.seq, again)
            return
        _end(life, ns)  # an earlier one was delivered
        facts = _chain(life.name, life.coro, self._recent.steps_of_request(event), "")
        facts |= _facts(suspended_at=getattr(event, "suspended_at", None))
        life.asked = Slice(life.lane.track, "asked", name, ns, None, facts, [], [])
        life.asked_by = event.seq
        self._arrow(asking, life.asked)
        self._keep(event.seq, life.asked)

    def _arrow(self, source: Slice, target: Slice) -> None:
        number = next(self._ids)
        source.out.append(number)
        target.into.append(number)

    def _keep(self, seq: int, shape: Slice) -> None:
        """Draw *shape* later: an arrow may begin at it still."""
        self._origins.setdefault(seq, []).append(shape)
        if len(self._origins) > MOST_KEPT:
            for each in self._origins.pop(next(iter(self._origins))):
                self._draw(each)
        if len(self._failed) > MOST_KEPT:
            del self._failed[next(iter(self._failed))]

    # -- tracks ---------------------------------------------------------------------------

    def _begin(
        self, event: Event, task: int, name: str, coro: str, start: int, facts: Facts
    ) -> _Life:
        self.tasks += 1
        group = (event.loop, coro)
        free = self._free.get(group)
        if free and free[0].free_from < start:
            lane = free.popleft()
        else:
            lane = _Lane(self._track(coro.rpartition(":")[2] or coro, self._loop(event)), group)
        life = self._lives[task] = _Life(lane, name, coro, start, facts)
        return life

    def _draw_life(self, life: _Life, end: int | None, facts: Facts) -> None:
        if end is not None:
            _end(life, end)
            life.lane.free_from = end
        name = _shown(who(life.name, life.coro))
        self._draw(Slice(life.lane.track, "task", name, life.start, end, facts))

    def _loop(self, event: Event) -> int:
        """The track of the loop of *event*; that of the process where it has none."""
        if event.loop is None:
            return self._process
        if event.loop not in self._loops:
            name = f"loop {event.loop} ({event.thread})"
            self._loops[event.loop] = self._track(name, self._process)
        return self._loops[event.loop]

    def _outside_of(self, event: Event) -> int:
        if event.loop not in self._outside:
            self._outside[event.loop] = self._track(OUTSIDE, self._loop(event))
        return self._outside[event.loop]

    def _track(self, name: str, parent: int) -> int:
        track = Track(next(self._ids), _shown(name), parent)
        self._draw(track)
        return track.id

    def _mark(self, track: int, kind: str, name: str, ns: int, facts: Facts | None = None) -> None:
        self._draw(Slice(track, kind, _shown(name), ns, ns, facts or {}))


def _end(life: _Life, ns: int) -> None:
    """End the request that *life* is under."""
    if life.asked is not None:
        life.asked.end = ns
        life.asked = None


def _chain(name: str, coro: str, steps: list[Step], outcome: str) -> Facts:
    """Why, as ``aioaudit why`` says it."""
    links = [step.link for step in steps]
    text = summarise(
        name=name,
        coro=coro,
        outcome=outcome,
        cancel_outcome=None,
        chain=links,
        inferred=inferred(steps),
    )
    facts: Facts = {"why": text, "evidence": "inferred" if inferred(steps) else "observed"}
    for number, link in enumerate(links):
        facts[f"chain.{number}"] = escape_unprintable(brief(link))
    return facts


def _request(event: TaskCancel | FutureCancel) -> Facts:
    link = own_link(event)
    return _facts(
        reason=event.reason,
        at=event.at,
        source=event.source,
        library=event.library,
        library_at=event.library_at,
        message=link.message,
        thread=event.thread,
        evidence=event.evidence,
        seq=event.seq,
    )


def _facts(**given: str | float | bool | None) -> Facts:
    return {key: _harmless(value) for key, value in given.items() if value is not None}


def _harmless(value: str | float | bool) -> str | int | float | bool:
    return escape_unprintable(value) if isinstance(value, str) else value


def _shown(name: str) -> str:
    return escape_unprintable(clean(name))
