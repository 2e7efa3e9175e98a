"""Private. What a log holds of one run, kept so that a million events fit and any task can be asked for.

Only what an answer needs is kept: every request, every end that a cancellation
had to do with, and names.  Of a task that was made and returned, most of a
production log, one name is left, or a bit where the log ``forgets`` (`LoggedRun`).

Lines may come in any order and more than once (a rotated file repeats its header): nothing here
depends on the order of arrival, as long as nothing is forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import cast

import msgspec

from aioaudit.chain.links import Answer, AnswerOutcome, Link, RequestFate, RequestSummary
from aioaudit.chain.walk import (
    Chains,
    LogReading,
    RequestEvent,
    Step,
    answer_of,
    from_task,
    steps_of,
)
from aioaudit.events import (
    NO_FINDINGS,
    NO_UNCANCELS,
    ConnectionClose,
    Event,
    Finding,
    FutureCancel,
    ProcessDropped,
    ProcessEnd,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskFound,
    TaskUncancel,
)
from aioaudit.findings.catalogue import SWALLOWED
from aioaudit.log.joining import Host, Match
from aioaudit.log.numbers import Numbers, pairs
from aioaudit.log.packing import Kept, Packed, Shapes
from aioaudit.log.requests import summarise_requests, taken_back, to_obey
from aioaudit.log.thinning import Making, RunPart, just_returned, making_of
from aioaudit.log.times import Clock

MOST_DROPPED = 2**63
"""More were never lost at once: only a log that was tampered with says so."""


class Maker(msgspec.Struct, gc=False):
    """Who made a task, and in which function; ``main`` as of `Making`."""

    task: int | None
    function: str | None
    main: bool


class LoggedRun:
    """The events of one run of one process, as far as answers need them.

    Args:
        run: Its id.
        pid: The process.
        forgets: Whether of tasks that returned, and that nothing happened to, only that is kept.
            That gives the same answers if the lines are in order; if not, ``missed`` says so.
        asked: The name of a task that is not forgotten.
        shapes: What its events have in common with those of other runs.
    """

    def __init__(  # noqa: PLR0915 - it says of each attribute what it is
        self,
        run: str,
        pid: int,
        *,
        forgets: bool = False,
        asked: str | None = None,
        shapes: Shapes | None = None,
    ) -> None:
        self.id = run
        self.pid = pid
        self._forgets = forgets
        self._asked = asked
        self._forgotten = Numbers()
        self._touched = Numbers()
        self._lines = Numbers()
        self._end = -1
        self.clock: Clock | None = None
        """The times of its lines, where they were followed."""
        self.missed = False
        """Whether a line has to do with a task that was forgotten before."""
        self.start: ProcessStart | None = None
        self.ended = ""
        self._shapes = Shapes() if shapes is None else shapes
        self.requests = Packed[RequestEvent](self._shapes, run)
        self._uncancels: dict[int, list[Kept[TaskUncancel]]] = {}
        self.ends = Packed[TaskDone](self._shapes, run)
        self.closes: dict[int, ConnectionClose] = {}
        """The connections that were closed because of a request, by ``seq``."""
        self.lost_peers: list[int] = []
        """By ``seq``: those that were made because a peer went away, where both addresses are told."""
        self.sent_from: list[int] = []
        """The same: to tasks that worked for a request which a span of another process had sent."""
        self.findings: list[Finding] = []
        self.found: dict[int, list[Finding]] = {}
        """The same, by task."""
        self.blind = False
        """Whether findings were left out of this log."""
        self.uncancels_told = True
        """Whether calls of ``uncancel()`` are in this log."""
        self.dropped = 0
        """Events that the log says it lacks, and that an answer may need."""
        self.thinned = False
        """Whether events that no answer needs were thrown away."""
        self._losses: dict[int, int] = {}
        self._seen: set[int] = set()
        self.faults: dict[str, None] = {}
        """Internal errors that the log tells, by kind: what they concerned may be missing."""
        self.returned: dict[int, str] = {}
        self.living: dict[int, Making] = {}
        """The tasks that were made or found, and of whose end no line tells."""
        self.makers: dict[int, Maker] = {}
        """Who made those that ended otherwise than by just returning, if ``ends`` does not tell it."""
        self.last_made: dict[int, int] = {}
        """The ``seq`` of the last making of a task, by who made it."""
        self.chains = Chains[RequestEvent](LogReading(self.resolve))
        self._index: _Index | None = None
        self.housekeeping: dict[int, str] | None = None
        """What `aioaudit.log.incidents` found out of it as it is; None where it was not asked."""
        self.further: dict[int, Further] = {}
        """By the ``seq`` of a request that was made because a peer went away: why it did."""

    @property
    def service(self) -> str:
        """What the process is called: by OpenTelemetry's name for it, else by its program."""
        start = self.start
        if start is None:
            return ""
        if start.service is not None:
            return start.service
        program = start.argv[0] if start.argv else ""
        parts = [each for each in re.split(r"[\\/]", program) if each]
        if len(parts) > 1 and parts[-1] == "__main__.py":
            return parts[-2]
        return parts[-1].removesuffix(".py") if parts else ""

    @property
    def host(self) -> Host:
        """In which network the process was, and on which machine."""
        start = self.start
        if start is None:
            return Host(None, None)
        known = start.process or start.network
        return Host(start.network, None if known is None else known.partition("-")[0])

    def resolve(self, request: RequestEvent) -> RequestEvent | None:
        """The request that *request* names as its cause, None if its line is not there."""
        return None if request.cause is None else self.requests.get(request.cause)

    def requests_to(self, task: int) -> list[TaskCancel]:
        """The requests made to *task*, accepted or not, in order."""
        return [cast(TaskCancel, self.requests[seq]) for seq in self._indexed().asked(task)]

    def cancelled_tasks(self) -> Iterator[int]:
        """The tasks that ended cancelled or accepted a request, each once."""
        index = self._indexed()
        yield from index.by_task
        yield from (task for task in index.by_waiter if task not in index.by_task)
        yield from (
            task for task in self.ends if task not in index.by_task and task not in index.by_waiter
        )

    def cases(self) -> Iterator[Case]:
        """What is known of all tasks that were cancelled, or asked to."""
        return (case for task in self.cancelled_tasks() if (case := self.case(task)) is not None)

    def case(self, task: int) -> Case | None:
        """What is known of *task*'s cancellation; None if it had none."""
        end = self.ends.get(task)
        request: int | None = None
        lost: int | None = None
        if end is not None and end.cancel is not None:
            if end.cancel in self.requests:
                request = end.cancel
            else:
                lost = end.cancel
        elif end is not None and end.cancel_outcome is not None:
            pass  # it was cancelled and nobody saw by what
        else:
            lives = end is None and not self.has_returned(task)
            waited = self._waited(task) if lives else []
            absorbed = self.taken_back(task)
            accepted = [request for request in self.requests_to(task) if request.accepted]
            obeyed = to_obey(accepted, absorbed, waited, full=self.uncancels_told)
            if obeyed is None:
                return None
            request = obeyed.seq
        cancel_outcome: str | None = end.cancel_outcome if end is not None else None
        outcome: AnswerOutcome = "pending"
        if end is not None and end.outcome != "destroyed":
            outcome = end.outcome
        elif end is None and self.has_returned(task):
            outcome = "returned"
        elif end is None and request is not None and request in self.taken_back(task):
            cancel_outcome = "absorbed"
        return Case(
            run=self,
            task=task,
            outcome=outcome,
            cancel_outcome=cancel_outcome,
            request=request,
            lost=lost,
        )

    def findings_of(self, task: int) -> list[Finding]:
        """What was found of *task*, in order."""
        return sorted(self.found.get(task, ()), key=lambda each: each.seq)

    def name_of(self, task: int) -> str | None:
        """The last known name of *task*, None if no line is about it."""
        if task in self.returned:
            return self.returned[task]
        name = self.names_of(task)[0]
        return name if name or self.knows(task) else None

    def knows(self, task: int) -> bool:
        """Whether any line is about *task*."""
        return self.has_returned(task) or any(task in known for known in self._others())

    def has_returned(self, task: int) -> bool:
        """Whether *task* returned, and did not end because of a request."""
        return task in self.returned or task in self._forgotten

    def tasks_named(self, name: str) -> Iterator[int]:
        """The tasks whose last name is *name*, each at least once."""
        yield from (task for task, last in self.returned.items() if last == name)
        for known in self._others():
            yield from (task for task in known if self.name_of(task) == name)

    def _others(self) -> tuple[Collection[int], ...]:
        """Every collection of task ids but the one of the tasks that just returned."""
        index = self._indexed()
        return self.living, self.ends, index.by_task, index.by_waiter, self._uncancels

    def _waited(self, task: int) -> list[FutureCancel]:
        """The cancelled futures that *task* was waiting for, in order."""
        return [cast(FutureCancel, self.requests[seq]) for seq in self._indexed().awaited(task)]

    def taken_back(self, task: int) -> dict[int, str | None]:
        """By ``seq``, the requests to *task* that were taken back, in order."""
        return taken_back(self.requests_to(task), self.uncancels_of(task))

    def uncancels_of(self, task: int) -> list[TaskUncancel]:
        """The calls of ``uncancel()`` of *task*, as they came."""
        return [self._shapes.unpack(each, self.id) for each in self._uncancels.get(task, ())]

    def names_of(self, task: int) -> tuple[str, str]:
        """The last name of *task* and its coroutine, empty where no line says."""
        end = self.ends.get(task)
        if end is not None:
            return end.name, end.coro
        named: list[TaskCancel | TaskUncancel] = [
            *self.requests_to(task),
            *self.uncancels_of(task),
        ]
        if named:
            last = max(named, key=lambda event: event.seq)
            return self.returned.get(task, last.name), last.coro
        if task in self.living:
            return self.living[task].name, self.living[task].coro
        for event in self._waited(task):
            names = dict(zip(event.waiters, event.waiter_names, strict=False))
            if task in names:
                return names[task], ""
        return "", ""

    def _indexed(self) -> _Index:
        if self._index is None:
            self._index = _Index()
            for seq in sorted(self.requests):
                request = self.requests[seq]
                if isinstance(request, TaskCancel):
                    _add(self._index.by_task, request.task, seq)
                else:
                    for waiter in request.waiters:
                        _add(self._index.by_waiter, waiter, seq)
        return self._index

    def add_making(self, made: TaskCreate | TaskFound) -> None:
        """Keep who made a task, if that is known, until it is known that it just returned."""
        if isinstance(made, TaskCreate) and made.parent is not None:
            self._add_made(made.parent, made.seq)
        self.add_born(making_of(made))

    def add_born(self, made: Making) -> None:
        """The same, but for when its maker last made a task."""
        task = made.task
        if self.has_returned(task):
            return
        if task in self.ends:
            if not made.found:
                self.makers[task] = _maker_of(made)
            return
        if made.found and task in self.living:  # who made it is told elsewhere
            known = self.living[task]
            made = msgspec.structs.replace(known, ts=made.ts, name=made.name, coro=made.coro)
        self.living[task] = made

    def maker_of(self, task: int) -> Maker | None:
        """Who made *task*, unless it just returned; None where no line says so."""
        maker = self.makers.get(task)
        if maker is None and (told := self.ends.told_with(task)):
            maker = Maker(*told)
        made = self.living.get(task) if maker is None else None
        return maker if made is None or made.found else _maker_of(made)

    def all_makers(self) -> Iterator[tuple[int, Maker]]:
        """The same, of all tasks of which it is known."""
        for task in {**self.living, **self.makers, **dict.fromkeys(self.ends)}:
            maker = self.maker_of(task)
            if maker is not None:
                yield task, maker

    def _add_made(self, parent: int, seq: int) -> None:
        self.last_made[parent] = max(self.last_made.get(parent, 0), seq)

    def add_done(self, done: TaskDone) -> None:
        """Keep how a task ended, or that it just returned."""
        task = done.task
        if not just_returned(done):
            self._end_of(done)
            return
        self._unmake(task)
        if self._forgets and task not in self._touched and done.name != self._asked:
            self.last_made.pop(task, None)
            self._forgotten.add(task)
        else:
            self.returned[task] = done.name

    def _end_of(self, done: TaskDone) -> None:
        """Keep how a task ended that did not just return, and who had made it."""
        task = done.task
        maker = self.maker_of(task)
        self.living.pop(task, None)
        self.last_made.pop(task, None)  # is asked for of those that just returned
        if maker is None:
            self.ends[task] = done
        elif self.ends.put(task, done, (maker.function, maker.main), (maker.task,)):
            self.makers.pop(task, None)
        else:
            self.makers[task] = maker

    def _unmake(self, task: int) -> None:
        """Keep no more of the making of *task*, which just returned."""
        self.living.pop(task, None)
        self.makers.pop(task, None)
        if task in self.ends:  # of a log that was tampered with
            self.ends[task] = self.ends[task]

    def add_part(self, part: RunPart) -> int:
        """Keep what answers need of the lines that are not there one by one.

        Returns:
            How many of all lines of the part were there before.
        """
        for first, last in pairs(part.returned):
            self._forgotten.add_stretch(first, last)
            tasks = range(first, last + 1)
            if not self.living.keys().isdisjoint(tasks):
                # Their making was told in a part before, too: lines that come more than once.
                for task in tasks:
                    self._unmake(task)
        for parent, seq in part.made.items():
            self._add_made(parent, seq)
        if self.clock is None:
            self.clock = part.clock
        elif part.in_order and part.begin is not None and part.begin > self._end:
            self.clock.follow(part.clock)
        self._end = max(self._end, part.end)
        found = list(pairs(part.seqs))
        new = sum(self._lines.add_stretch(first, last) for first, last in found)
        return sum(last - first + 1 for first, last in found) - new

    def is_new(self, event: Event) -> bool:
        """Whether *event* was not there before: two dumps of a recorder have much in common."""
        seen = event.seq in self._seen
        self._seen.add(event.seq)
        return not seen

    def add_uncancel(self, absorbed: TaskUncancel) -> None:
        """Keep a call of ``uncancel()``, which was not there before."""
        packed = self._shapes.pack(absorbed)
        self._uncancels.setdefault(absorbed.task, []).append(packed)

    def add_start(self, start: ProcessStart) -> None:
        """Keep what frames the log; a rotated file repeats it."""
        self.pid = start.pid
        self.blind = NO_FINDINGS in start.coverage
        self.uncancels_told = NO_UNCANCELS not in start.coverage
        if self.start is None:
            self.start = start

    def add_end(self, end: ProcessEnd) -> None:
        """Keep when the process ended, and what the log lacks by its own account."""
        self.ended = end.ts
        self.dropped = max(self.dropped, min(end.dropped, MOST_DROPPED))
        self.faults.update(dict.fromkeys(each.partition(", ")[0] for each in end.faults))

    def add_loss(self, lost: ProcessDropped) -> None:
        """Count what is missing; of one number that comes again, with more, the most."""
        count = min(lost.count, MOST_DROPPED) - min(max(lost.unneeded, 0), lost.count)
        before = self._losses.get(lost.seq, 0)
        self._losses[lost.seq] = max(before, count)
        self.dropped += max(count - before, 0)
        self.thinned |= lost.unneeded > 0
        self.faults.update(dict.fromkeys(lost.faults))

    def add_request(self, request: RequestEvent) -> None:
        """Keep *request*."""
        if self._forgets:
            self._touch(request)
        if request.peer is not None and request.seq not in self.requests:
            self.lost_peers.append(request.seq)
        if (
            isinstance(request, TaskCancel)
            and request.parent_span_id is not None
            and request.seq not in self.requests
        ):
            self.sent_from.append(request.seq)
        self.requests[request.seq] = request
        self._index = None
        self.chains.clear()

    def _touch(self, request: RequestEvent) -> None:
        """Have nobody forgotten who has to do with *request*."""
        touched: list[int] = []
        if isinstance(request, FutureCancel):
            touched += request.waiters
        elif request.accepted:  # else the task has ended, and may be forgotten
            touched.append(request.task)
        if request.by is not None:
            touched.append(request.by)
        for task in touched:
            self._touched.add(task)
        self.missed = self.missed or any(task in self._forgotten for task in touched)


def _maker_of(made: Making) -> Maker:
    return Maker(made.maker, made.function, made.main)


class Further(msgspec.Struct, frozen=True):
    """Why a peer went away: *request* of the other *run*, because of which the task of *line* closed
    the connection, and *match* as it was found; or by the trace, and then *line* is that request."""

    run: LoggedRun
    line: ConnectionClose | TaskCancel
    request: RequestEvent
    match: Match | None = None

    def steps(self) -> list[Step]:
        """The chain from there on, up to the next peer that went away."""
        line = self.line
        steps = self.run.chains.of(self.request).steps()
        steps = from_task(line.task, line.name, self.request, steps)
        known = {"run": self.run.id, "pid": self.run.pid, "service": self.run.service or None}
        told = [
            msgspec.structs.replace(step, link=msgspec.structs.replace(step.link, **known))
            for step in steps
        ]
        first = told[0]
        link = msgspec.structs.replace(
            first.link,
            task=line.task,
            name=line.name,
            coro=line.coro,
            detail="; ".join(filter(None, (first.link.detail, self._how()))),
        )
        return [msgspec.structs.replace(first, link=link, concluded=True), *told[1:]]

    def _how(self) -> str:
        """Which connection was closed, and by how much the clocks differ, if that was measured; or
        which span sent the request."""
        line, match = self.line, self.match
        if match is None or isinstance(line, TaskCancel):
            return f"span {line.span_id} sent the request" if isinstance(line, TaskCancel) else ""
        place = "" if line.at is None else f" at {line.at}"
        text = f"it closed the connection from {line.local} to {line.peer}{place}"
        if not match.connections:
            return text
        off = f"{abs(match.ahead) / 1e9:.3f} s {'behind' if match.ahead < 0 else 'ahead'}"
        shown = f"as {match.connections:,} connections show"
        return f"{text}; the clock at the other end is {off}, {shown}"


class _Index:
    """Requests in order by the task they were made to, or that waited for their future.

    Each by its ``seq``: most tasks have one, which takes no list.
    """

    def __init__(self) -> None:
        self.by_task: dict[int, int | list[int]] = {}
        self.by_waiter: dict[int, int | list[int]] = {}

    def asked(self, task: int) -> list[int]:
        """The requests made to *task*."""
        return _listed(self.by_task.get(task))

    def awaited(self, task: int) -> list[int]:
        """The requests made to futures that *task* awaited."""
        return _listed(self.by_waiter.get(task))


def _add(index: dict[int, int | list[int]], task: int, seq: int) -> None:
    known = index.get(task)
    if known is None:
        index[task] = seq
    elif isinstance(known, int):
        index[task] = [known, seq]
    else:
        known.append(seq)


def _listed(found: int | list[int] | None) -> list[int]:
    if found is None:
        return []
    return [found] if isinstance(found, int) else found


class Case:
    """One cancelled task of one run: the answer, and the events it was made from.

    There may be a million of them, so that of the events it has the numbers.  ``request`` is the ``seq``
    of the request that the task obeyed (None if its line is not there; ``lost`` is its ``seq`` then,
    if known), ``name`` is what it is called if not as the log says.
    """

    __slots__ = ("_name", "_request", "cancel_outcome", "lost", "outcome", "run", "task")

    def __init__(
        self,
        *,
        run: LoggedRun,
        task: int,
        outcome: AnswerOutcome,
        cancel_outcome: str | None,
        request: int | None,
        lost: int | None,
        name: str | None = None,
    ) -> None:
        self.run = run
        self.task = task
        self.outcome: AnswerOutcome = outcome
        self.cancel_outcome = cancel_outcome
        self.lost = lost
        self._request = request
        self._name = name

    def unnamed(self) -> Case:
        """The same without the task's own name: what is said of several."""
        return Case(
            run=self.run,
            task=self.task,
            outcome=self.outcome,
            cancel_outcome=self.cancel_outcome,
            request=self._request,
            lost=self.lost,
            name="",
        )

    @property
    def name(self) -> str:
        """The task's last name, empty where no line says."""
        return self.run.names_of(self.task)[0] if self._name is None else self._name

    @property
    def coro(self) -> str:
        """Its coroutine, empty where no line says."""
        return self.run.names_of(self.task)[1]

    @property
    def request(self) -> RequestEvent | None:
        """The request that the task obeyed."""
        return None if self._request is None else self.run.requests[self._request]

    @property
    def end(self) -> TaskDone | None:
        """The event of its end."""
        return self.run.ends.get(self.task)

    @property
    def key(self) -> str:
        """``RUN:ID``, which names this task among all runs."""
        return f"{self.run.id}:{self.task}"

    @property
    def ts(self) -> str:
        """When it was cancelled (RFC 3339), or ended if only that is known."""
        if self.request is not None:
            return self.request.ts
        return self.end.ts if self.end is not None else ""

    @property
    def swallowed_at(self) -> str | None:
        """The ``path:line`` that kept the CancelledError, where one did."""
        return self.end.swallowed_at if self.end is not None else None

    @property
    def kept(self) -> Finding | None:
        """What was found of a request that was taken back, but only after code had kept the error.

        So does a retry around ``except BaseException`` within a timeout.
        """
        if self.cancel_outcome != "absorbed" or self.request is None:
            return None
        return next(
            (
                each
                for each in self.run.findings_of(self.task)
                if (each.kind, each.severity, each.cancel)
                == (SWALLOWED, "finding", self.request.seq)
            ),
            None,
        )

    def steps(self, most: int | None = None) -> list[Step]:
        """The chain, each link with the request that told it; of a longer one *most* steps."""
        if self.request is None:
            return steps_of(self.task, self.name, None, self.run.resolve, self.lost)
        concluded = self.end is not None and self.end.evidence == "inferred"
        steps = self.run.chains.of(self.request).steps(most)
        steps = from_task(self.task, self.name, self.request, steps, concluded=concluded)
        for further in self.further():
            steps += further.steps()
        return steps

    def further(self) -> list[Further]:
        """Why its peer went away, why the peer of that did, and so on, where logs tell."""
        found: list[Further] = []
        run, request = self.run, self.request
        seen: set[tuple[str, int]] = set()
        while request is not None:
            chain = run.chains.of(request)
            last = chain.last_request
            if last is None or (run.id, last.seq) in seen:
                break
            if chain.root.link.what not in ("called", "failed"):
                break
            seen.add((run.id, last.seq))
            further = run.further.get(last.seq)
            if further is None:
                break
            found.append(further)
            run, request = further.run, further.request
        return found

    def requests(self) -> list[RequestSummary]:
        """Every request made to the task, in order, where there were several."""
        made = self.run.requests_to(self.task)
        answered = self.request.seq if isinstance(self.request, TaskCancel) else None
        if not any(request.seq != answered for request in made):
            return []
        became = cast(RequestFate, self.cancel_outcome or "pending")
        return summarise_requests(made, self.run.uncancels_of(self.task), answered, became)

    def root(self) -> Link:
        """The last link of the chain."""
        further = self.further()
        return further[-1].steps()[-1].link if further else self.own_root()

    def own_root(self) -> Link:
        """The last link of it that its own process tells."""
        if self.request is None:
            return self.steps()[-1].link
        return self.run.chains.of(self.request).root.link

    def answer(self, most: int | None = None) -> Answer:
        """The answer, as ``--json`` gives it; *most* as for `steps`."""
        kept = self.kept
        return answer_of(
            task=self.task,
            name=self.name,
            coro=self.coro,
            outcome=self.outcome,
            cancel_outcome=self.cancel_outcome,
            steps=self.steps(most),
            swallowed_at=self.swallowed_at if kept is None else kept.swallowed_at,
            kept=kept is not None,
            requests=self.requests(),
        )
