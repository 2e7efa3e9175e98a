"""From events to what is shown: rates, root causes, tasks that do not end, the last incidents.

Nothing here knows of a terminal, and nothing waits: events come in by `Model.add`, in the order in
which they were written, and whoever shows them asks.  How much is kept is bounded whatever comes,
and what was not kept is counted.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Any

import msgspec

from aioaudit.chain.links import Link
from aioaudit.chain.walk import Chains, LogReading, RequestEvent, missing
from aioaudit.cli.top.rates import Counts
from aioaudit.cli.top.sources import Sink
from aioaudit.cli.top.stories import MOST_NAMES, Asked, Cause, Incident, Made, Run, Shelf
from aioaudit.cli.why_words import common, kind_of
from aioaudit.events import (
    NO_UNCANCELS,
    Event,
    Finding,
    FutureCancel,
    ProcessDropped,
    ProcessEnd,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.log import Case, Log
from aioaudit.log.incidents import housekeeping, incident_of_root, may_be_housekeeping
from aioaudit.log.runs import LoggedRun, Maker

LIMIT = 32 << 20
"""Bytes that the lines of incidents may take, about."""

MOST_INCIDENTS = 2_000
MOST_CAUSES = 500
MOST_RUNS = 500
MOST_LIVING = 200_000
"""Tasks of one run that are known to live; of more only their number is."""

MOST_ASKED = 20_000
"""Tasks of one run that were asked to cancel and have to end yet; of more only their number is."""

MOST_LOSSES = 1_000
MOST_FAULTS = 10

MOST_STORIES = 20
"""Incidents of one task that are read when somebody asks about it, the last ones."""

SLOW = 1.0
"""Seconds after which a task that was asked to cancel is said not to end."""

AHEAD = 3_600
"""A time so many seconds after ours is nobody's clock: the line is wrong."""

RECENT = 60
"""A log whose last event is no older, in seconds, is still being written."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder[Event](
    TaskCancel | FutureCancel | TaskUncancel | TaskDone | Finding | ProcessStart
).decode


class Model(Sink):
    """What is shown, as it is after the events so far.

    Args:
        limit: How many bytes the lines of incidents may take, about.
        clock: Gives the time, in seconds since the epoch.
    """

    def __init__(self, limit: int = LIMIT, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self.runs: OrderedDict[str, Run] = OrderedDict()
        self.runs_gone = 0
        self.repeated = 0
        """Lines that were passed over because one that follows them had come before."""
        self.made = Counts()
        self.ended = Counts()
        self.failed = Counts()
        self.asked = Counts()
        self.found = 0
        """How many things went wrong, as `aioaudit check` counts them."""
        self.causes: OrderedDict[tuple[str | None, ...], Cause] = OrderedDict()
        self.causes_gone = 0
        self.shelf = Shelf(limit, MOST_INCIDENTS)
        self.last = 0.0
        """The time of the last event, in seconds since the epoch."""
        self.changes = 0
        """Rises with all that is shown."""
        self._keys: dict[tuple[str, object], Incident] = {}
        self._second = ("", 0)
        self.following = False
        """Whether time goes by."""
        self._caught_up = False
        self._came = clock()
        self._take: dict[type[Event], Callable[[Run, Any, int], None]] = {
            TaskCreate: self._take_create,
            TaskDone: self._take_done,
            TaskCancel: self._take_cancel,
            FutureCancel: self._take_future,
            TaskUncancel: self._take_uncancel,
            Finding: self._take_finding,
            ProcessStart: self._take_start,
            ProcessDropped: self._take_dropped,
            ProcessEnd: self._take_end,
        }

    # -- what comes ------------------------------------------------------------------------

    def add(self, event: Event) -> None:
        """Take *event*, which comes after those of its run that came before."""
        self.events += 1
        self.changes += 1
        run = self.runs.get(event.run)
        if run is None:
            run = self._new_run(event)
        if event.seq > run.last:
            run.last = event.seq
        elif type(event) is not ProcessDropped:
            if type(event) is not ProcessStart:  # a rotated file repeats it
                self.repeated += 1
            return
        take = self._take.get(type(event))
        second = self._seconds(event.ts)
        if take is not None:
            take(run, event, second)

    def count(self, run: str, now: str, made: int, living: int | None) -> None:
        """It is *now*, and in *run* so many tasks were *made* so far; so many live, if that is known."""
        known = self.runs.get(run)
        if known is None:
            return
        second = self._seconds(now)
        if known.counted is not None:
            more = max(made - known.counted[0], 0)
            self.made.add(second, more)
            if living is not None and known.counted[1] is not None:
                self.ended.add(second, max(more + known.counted[1] - living, 0))
        known.counted = made, living
        self.changes += 1

    def now(self) -> float:
        """The time of the log: that of the last event and what went by since, if more may come."""
        if not self.following:
            return self.last
        return self.last + max(self._clock() - self._came, 0.0)

    @property
    def over(self) -> bool:
        """Whether every process that is told of has ended, as the log says."""
        return bool(self.runs) and all(run.ended for run in self.runs.values())

    def caught_up(self, *, ended: bool) -> None:
        """All that was there was read; if *ended*, nothing follows.

        From now on time goes by, unless the log is an old one: then it stands still until
        something comes.
        """
        if ended or self.over:
            self.following = False
        elif not self._caught_up:
            self.following = self._clock() - self.last < RECENT
        self._caught_up = True

    def _new_run(self, event: Event) -> Run:
        run = self.runs[event.run] = Run(event.run, event.pid)
        run.blind = type(event) is not ProcessStart  # until an end says that they are told
        if len(self.runs) > MOST_RUNS:
            gone = next((each for each in self.runs.values() if each.ended), None)
            gone = gone or next(iter(self.runs.values()))
            del self.runs[gone.id]
            self.runs_gone += 1
        return run

    def _seconds(self, ts: str) -> int:
        """The second that *ts* says; that of the line before where it says none."""
        known, second = self._second
        if ts[:19] != known:
            when = _parse(ts)
            if when is None or when > self._clock() + AHEAD:
                return second
            second = int(when)
            self._second = (ts[:19], second)
            self.last = when
            self._came = self._clock()
            self.following = self._caught_up
        return second

    def _take_start(self, run: Run, event: ProcessStart, _second: int) -> None:
        run.pid = event.pid
        run.start = event
        run.blind = NO_UNCANCELS in event.coverage

    def _take_end(self, run: Run, event: ProcessEnd, _second: int) -> None:
        run.ended = True
        run.dropped = max(run.dropped, event.dropped)
        run.faults.update(dict.fromkeys(event.faults))
        for asked in list(run.asked.values()):
            self._settle(run, asked.task)
        run.living.clear()
        run.more_living = run.more_asked = 0

    def _take_dropped(self, run: Run, event: ProcessDropped, _second: int) -> None:
        # A process that is asked again and again tells it each time, under the same number.
        needed = event.count - min(max(event.unneeded, 0), event.count)
        more = max(needed - run.losses.get(event.seq, 0), 0)
        if len(run.losses) < MOST_LOSSES:
            run.losses[event.seq] = needed
        run.dropped += more
        run.thinned |= event.unneeded > 0
        run.faults.update(dict.fromkeys(event.faults[:MOST_FAULTS]))
        if more:
            for asked in run.asked.values():
                asked.unsure = True

    def _take_create(self, run: Run, event: TaskCreate, second: int) -> None:
        self.made.add(second)
        parent = None if event.parent is None else run.living.get(event.parent)
        if parent is not None:
            parent.last_made = event.seq
        if len(run.living) >= MOST_LIVING:
            run.more_living += 1
            return
        source = None if event.source is None else sys.intern(event.source)
        main = event.parent is None and event.at is None
        run.living[event.task] = Made(event.task, event.parent, source, main=main)

    def _take_done(self, run: Run, event: TaskDone, second: int) -> None:
        self.ended.add(second)
        if run.blind and run.start is None:
            run.blind = False
        task = event.task
        made = run.living.pop(task, None)
        if made is None and run.more_living:
            run.more_living -= 1
        asked = run.asked.get(task)
        plain = event.outcome == "returned" and event.cancel is None
        plain = plain and event.cancel_outcome is None
        if event.outcome == "raised":
            self.failed.add(second)
        if made is not None:
            self._end(run, made, event)
        if plain and task not in run.of_task:
            return
        incident = None if event.cancel is None else run.of_request.get(event.cancel)
        if incident is not None:
            if task not in incident.tasks and (asked is None or asked.incident is not incident):
                # It awaited what was cancelled, or the request before this one was taken back.
                self._reach(run, incident, event.task, (event.name, event.coro), second)
        elif asked is not None:
            incident = asked.incident
        elif task in run.of_task:
            incident = run.of_task[task][-1]
        elif not plain and self._is_case(run, event):
            incident = self._lost(run, event, second)
        if incident is not None:
            self._tell(incident, event, second)
        if asked is not None:
            self._settle(run, task)
        elif run.more_asked and event.cancel is not None:
            run.more_asked -= 1

    def _end(self, run: Run, made: Made, event: TaskDone) -> None:
        """*made* has ended; whoever made it, or was asked by it, may want to know how."""
        if event.outcome == "returned":
            made.returned = event.name
            return
        parent = None if made.parent is None else run.living.get(made.parent)
        if parent is not None:
            parent.fail(event)
        if made.main and run.main_failed is None:
            run.main_failed = event

    def _is_case(self, run: Run, event: TaskDone) -> bool:
        """Whether the task was cancelled, and the log does not tell by what; else we forgot it."""
        if event.cancel is not None:
            return event.cancel > run.forgotten
        return event.cancel_outcome is not None

    def _take_cancel(self, run: Run, event: TaskCancel, second: int) -> None:
        known = run.of_task.get(event.task)
        if not event.accepted:
            if known:
                self._tell(known[-1], event, second)
            return
        incident = self._incident(run, event, second)
        made = run.living.get(event.task)
        if made is not None:
            made.asked = True
        if event.behind is None:
            self.asked.add(second)
            self._reach(run, incident, event.task, (event.name, event.coro), second)
        elif event.task not in incident.tasks and len(incident.others) < MOST_NAMES:
            incident.others.add(event.task)
            self._note(run, incident, event.task)
        if event.task not in run.asked:
            if len(run.asked) < MOST_ASKED:
                since = _parse(event.ts) or float(second)
                run.asked[event.task] = Asked(run, event, incident, since)
                incident.waiting.add(event.task)
            else:
                run.more_asked += 1
        self._tell(incident, event, second)

    def _take_future(self, run: Run, event: FutureCancel, second: int) -> None:
        incident = self._incident(run, event, second)
        if run.blind:  # no end will tell whom it reached
            for task, name in zip_longest(event.waiters, event.waiter_names, fillvalue=""):
                if isinstance(task, int):
                    self._reach(run, incident, task, (name, ""), second)
        self._tell(incident, event, second)

    def _take_uncancel(self, run: Run, event: TaskUncancel, second: int) -> None:
        known = run.of_task.get(event.task)
        incident = None if event.cancel is None else run.of_request.get(event.cancel)
        if incident is None and known:
            incident = known[-1]
        if incident is not None:
            self._tell(incident, event, second)
        if event.remaining == 0 and event.task in run.asked:
            self._settle(run, event.task)

    def _take_finding(self, run: Run, event: Finding, second: int) -> None:
        wrong = event.severity == "finding"
        self.found += wrong
        incident = run.of_request.get(event.cancel or -1)
        if incident is None and event.task in run.of_task:
            incident = run.of_task[event.task][-1]
        if incident is not None:
            incident.findings += wrong
            if incident.kind is not None:
                self._judged(incident, None)
            self._tell(incident, event, second)

    # -- incidents ---------------------------------------------------------------------------

    def _incident(self, run: Run, event: RequestEvent, second: int) -> Incident:
        """The incident that *event* belongs to: that of what led to it, else one of its own."""
        incident = None if event.cause is None else run.of_request.get(event.cause)
        if incident is None:
            root = Chains[RequestEvent](LogReading(_unknown)).of(event).root.link
            task = event.task if isinstance(event, TaskCancel) else 0
            key = incident_of_root(root, event, task)
            incident = self._keys.get((run.id, key))
            if incident is None:
                incident = self._new_incident(run, key, root, second)
                incident.perhaps = may_be_housekeeping(root, event)
                incident.asker = None if event.by is None else run.living.get(event.by)
        run.of_request[event.seq] = incident
        for seq in self.shelf.add_request(incident, event.seq):
            run.of_request.pop(seq, None)
            run.forgotten = max(run.forgotten, seq)
        return incident

    def _new_incident(self, run: Run, key: object, root: Link, second: int) -> Incident:
        kind = kind_of(root)
        cause = self.causes.get(kind)
        if cause is None:
            cause = self.causes[kind] = Cause(root)
            if len(self.causes) > MOST_CAUSES:
                self.causes.popitem(last=False)
                self.causes_gone += 1
        else:
            cause.root = common(cause.root, root)
        incident = self._keys[run.id, key] = Incident(run, key, root, cause, second)
        cause.loud += 1
        self.shelf.begin(incident)
        return incident

    def _lost(self, run: Run, event: TaskDone, second: int) -> Incident:
        """An incident of which the log only tells what became of the task."""
        detail = None if event.cancel is None else missing(event.cancel)
        root = Link(
            what="cancelled", task=event.task, name=event.name, reason="unknown", detail=detail
        )
        incident = self._new_incident(run, (root, event.task), root, second)
        self._reach(run, incident, event.task, (event.name, event.coro), second)
        return incident

    def _reach(
        self, run: Run, incident: Incident, task: int, named: tuple[str, str], second: int
    ) -> None:
        """The cause of *incident* reached *task*, which is *named* so and runs that coroutine."""
        incident.count += 1
        cause = incident.cause
        cause.times.add(second)
        cause.last = max(cause.last, second)
        cause.incident = incident
        key = kind_of(cause.root)
        if key in self.causes:
            self.causes.move_to_end(key)
        if task in incident.tasks:
            return
        if len(incident.tasks) < MOST_NAMES:
            incident.tasks[task] = named[0], sys.intern(named[1])
            self._note(run, incident, task)
            made = run.living.get(task)
            if made is not None:
                incident.makers[task] = made

    def _note(self, run: Run, incident: Incident, task: int) -> None:
        """*incident* has to do with *task*."""
        known = run.of_task.setdefault(task, [])
        if incident not in known:
            known.append(incident)
            del known[:-MOST_STORIES]

    def _tell(self, incident: Incident, event: Event, second: int) -> None:
        """*event* belongs to *incident*."""
        if incident.gone:
            return
        incident.last = max(incident.last, second)
        if incident.kind is not None and not isinstance(event, TaskDone):
            self._judged(incident, None)  # it may be another one now
        self.shelf.add_line(incident, _encode(event))
        self.shelf.put(incident)
        for gone in self.shelf.surplus(self._judge):
            self._forget(gone)

    def _settle(self, run: Run, task: int) -> None:
        """*task*, which was asked to cancel, has ended or took back all requests."""
        incident = run.asked.pop(task).incident
        incident.waiting.discard(task)
        if not incident.gone:
            self.shelf.put(incident)

    def _forget(self, incident: Incident) -> None:
        """*incident* is not kept any more."""
        run = incident.run
        incident.gone = True
        incident.lines.clear()
        self._keys.pop((run.id, incident.key), None)
        for seq in incident.requests:
            run.of_request.pop(seq, None)
            run.forgotten = max(run.forgotten, seq)
        for task in (*incident.tasks, *incident.others):
            known = [each for each in run.of_task.get(task, ()) if each is not incident]
            if known:
                run.of_task[task] = known
            else:
                run.of_task.pop(task, None)
        if incident.cause.incident is incident:
            incident.cause.incident = None

    # -- what is asked -----------------------------------------------------------------------

    def judge(self, most: int = 100) -> None:
        """Look at up to *most* incidents that are over: which of them are housekeeping?"""
        for incident in self.shelf.unjudged()[:most]:
            self._judge(incident)
            self.changes += 1

    def _judge(self, incident: Incident) -> None:
        self._judged(incident, self._kind(incident))

    def _judged(self, incident: Incident, kind: str | None) -> None:
        """*incident* is housekeeping of that *kind*; none if that is empty, unknown if None."""
        cause = incident.cause
        before = bool(incident.kind)
        if before != bool(kind):
            cause.quiet += -1 if before else 1
            cause.loud += 1 if before else -1
        incident.kind = kind
        if not incident.gone:
            self.shelf.put(incident)

    def _kind(self, incident: Incident) -> str:
        kinds = [housekeeping(case) for case in self.cases(incident)[1]]
        if incident.before or incident.count > len(incident.tasks) or not all(kinds):
            return ""
        return kinds[0] or "" if kinds else ""

    def cases(self, incident: Incident) -> tuple[Log, list[Case]]:
        """What ``aioaudit why`` has to say of the tasks of *incident*, and out of which log."""
        log = self._log(incident)
        run = log.runs.get(incident.run.id)
        found = [] if run is None else [run.case(task) for task in incident.tasks]
        return log, [case for case in found if case is not None]

    def _log(self, incident: Incident) -> Log:
        """The lines that are about the tasks of *incident*, and about who asked them to cancel."""
        log = Log()
        run = incident.run
        for each in self.runs.values():
            if each.start is not None:
                log.add(each.start)
        asker = incident.asker
        about = dict.fromkeys([incident])
        others = [each.task for each in asker.failed] if asker is not None else []
        for task in (*incident.tasks, *others):
            about.update(dict.fromkeys(run.of_task.get(task, ())))
        for story in about:
            for line in story.lines:
                log.add(_decode(line))
        logged = log.runs.get(run.id)
        if logged is not None:
            self._add_makers(logged, run, list(about), asker)
        return log

    def _add_makers(
        self, logged: LoggedRun, run: Run, about: Sequence[Incident], asker: Made | None
    ) -> None:
        """Tell *logged* what its lines do not: who made whom, and what of *run* is not there."""
        logged.dropped, logged.thinned = run.dropped, run.thinned
        logged.faults.update(run.faults)
        for each in about:
            for task, made in each.makers.items():
                logged.makers[task] = Maker(made.parent, made.source, made.main)
        if run.main_failed is not None:
            logged.makers[run.main_failed.task] = Maker(None, None, True)
            logged.ends.setdefault(run.main_failed.task, run.main_failed)
        if asker is None:
            return
        logged.last_made[asker.task] = asker.last_made
        if asker.returned is not None and not asker.asked and not asker.more_failed:
            logged.returned[asker.task] = asker.returned
        for end in asker.failed:
            logged.makers.setdefault(end.task, Maker(asker.task, None, False))
            logged.ends.setdefault(end.task, end)

    def waiting(self) -> list[Asked]:
        """The tasks that were asked to cancel and have not ended, the longest first."""
        found = [each for run in self.runs.values() for each in run.asked.values()]
        return sorted((each for each in found if not each.run.blind), key=_since)

    def living(self) -> int | None:
        """How many tasks live, None where the log does not tell."""
        if not self.made.total:
            return None
        return sum(map(_living, self.runs.values()))


def _living(run: Run) -> int:
    if run.ended:
        return 0
    told = None if run.counted is None else run.counted[1]
    return len(run.living) + run.more_living if told is None else told


def _since(asked: Asked) -> float:
    return asked.since


def _unknown(_request: RequestEvent) -> None:
    """No request that led to another one is known."""


def _parse(ts: str) -> float | None:
    """Seconds since the epoch, None for what is no time."""
    try:
        return datetime.fromisoformat(ts).timestamp()
    except (ValueError, OverflowError):
        return None
