"""What a log holds, kept so that a million events fit and any task can be asked for.

Only what an answer needs is kept: every request, every end that a cancellation
had to do with, and names.  Of a task that was made and returned, most of a
production log, one name is left, or a bit where the log ``forgets`` (`LoggedRun`).

``seq`` and task ids are unique within a run only, so everything is kept by
run.  Lines may come in any order and more than once (a rotated file repeats
its header): nothing here depends on the order of arrival, as long as nothing is forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from aioaudit.findings.catalogue import SWALLOWED
from aioaudit.log.joining import Close, Host, Joined, Loss, Match, join
from aioaudit.log.numbers import Numbers, pairs
from aioaudit.log.packing import Kept, Packed, Shapes
from aioaudit.log.parsing import MOST_PROBLEMS
from aioaudit.log.requests import summarise_requests, taken_back, to_obey
from aioaudit.log.thinning import Making, RunPart, just_returned, making_of
from aioaudit.log.times import Clock
from aioaudit.log.tracing import Asked, Left, Span
from aioaudit.log.tracing import join as join_by_trace
from aioaudit.timestamps import nanoseconds

MOST_DROPPED = 2**63
"""More were never lost at once: only a log that was tampered with says so."""


MOST_TEXTS = 100_000
"""At most this many texts are looked up to be kept once."""

PER_REQUEST = frozenset({"aiohttp.web_protocol:RequestHandler.start"})
"""What serves a connection, and awaits a task for each request that comes over it."""


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

    def closed(self) -> Iterator[Close]:
        """The connections that were closed because of a request.

        Without those that the other end had closed before: what this end was asked for was that loss.
        """
        for line in self.closes.values():
            at, request = nanoseconds(line.ts), self.requests.get(line.cancel)
            root = None if request is None else self.chains.of(request).last_request
            if root is not None and (root.local, root.peer) == (line.local, line.peer):
                continue
            asked = at if request is None else nanoseconds(request.ts)
            yield Close(self.id, line.seq, line.cancel, asked, at, line.local, line.peer)

    def losses(self) -> Iterator[Loss]:
        """The peers that went away, each as a task that was asked to cancel tells it."""
        awaited = self._awaited_by(self.requests[seq] for seq in self.lost_peers)
        for request in (self.requests[seq] for seq in self.lost_peers):
            since = self._all_there(request, awaited)
            if since and request.origin == "failed" and request.origin_task is not None:
                # It had the connection; who is cancelled with it may have been there for many of them.
                # (Of the owner of a group, which may just return, that is not kept: it was there before.)
                since = max(since, self._since(request.origin_task))
            at = nanoseconds(request.ts)
            if since and at and request.local is not None and request.peer is not None:
                yield Loss(self.id, request.seq, since, at, request.local, request.peer)

    def _awaited_by(self, losses: Iterable[RequestEvent]) -> dict[int, list[int]]:
        """By the ``seq`` of those of *losses* that were made to what serves a connection: the tasks
        that this awaited, which were asked with it."""
        found: dict[int, list[int]] = {
            each.seq: []
            for each in losses
            if isinstance(each, TaskCancel) and each.coro in PER_REQUEST
        }
        for request in self.requests.values() if found else ():
            if request.cause in found and isinstance(request, TaskCancel):
                found[request.cause].append(request.task)
        return found

    def _all_there(self, request: RequestEvent, awaited: Mapping[int, list[int]]) -> int:
        """Since when all tasks were there that *request* was made to, and that those *awaited*; 0 for
        unknown."""
        tasks = [request.task] if isinstance(request, TaskCancel) else request.waiters
        tasks = [*tasks, *awaited.get(request.seq, ())]
        return max((self._since(each) for each in tasks), default=0)

    def clients_left(self) -> Iterator[Left]:
        """The clients that left, where it is told in which trace they were, and in which span."""
        senders: dict[int, set[Span]] = {}
        for request in (self.requests[seq] for seq in self.sent_from):
            last = self.chains.of(request).last_request
            if last is not None and last.reason == "disconnect":
                sender = request.trace_id or "", request.parent_span_id or ""
                senders.setdefault(last.seq, set()).add(sender)
        awaited = self._awaited_by(self.requests[seq] for seq in senders)
        for seq, spans in senders.items():
            lost = self.requests[seq]
            at = nanoseconds(lost.ts)
            if len(spans) == 1 and at:
                yield Left(self.id, seq, self._all_there(lost, awaited), at, *spans.pop())

    def asked_in(self, spans: Collection[Span]) -> Iterator[Asked]:
        """The requests to tasks that were in one of *spans*, but for what a library does for itself."""
        closes: dict[int, list[int]] = {}
        for line in self.closes.values():
            told = self.requests.get(line.cancel)
            behind = None if told is None else self.chains.of(told).last_request
            if behind is not None:
                closes.setdefault(behind.seq, []).append(nanoseconds(line.ts))
        for request in self.requests.values():
            if not isinstance(request, TaskCancel) or not request.accepted or request.behind:
                continue
            span = request.trace_id or "", request.span_id or ""
            at = nanoseconds(request.ts) if span in spans else 0
            chain = self.chains.of(request) if at else None
            last = None if chain is None else chain.last_request
            if chain is not None and last is not None and "." not in last.reason:
                yield Asked(
                    run=self.id,
                    seq=request.seq,
                    task=request.task,
                    led_by=request.cause or 0,
                    cause=last.seq,
                    depth=chain.length,
                    at=at,
                    trace_id=span[0],
                    span_id=span[1],
                    sends=request.span_kind == "client",
                    closes=tuple(closes.get(last.seq, ())),
                )

    def _since(self, task: int) -> int:
        """When *task* was made, or surely there, in nanoseconds; 0 where no line says so."""
        end = self.ends.get(task)
        if end is None:
            made = self.living.get(task)
            return 0 if made is None else nanoseconds(made.ts)
        if end.lifetime is None:
            return 0
        return max(nanoseconds(end.ts) - int(end.lifetime * 1e9), 0)

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
        if self._joined is not None:
            return self._joined
        runs = self.runs
        closes = [close for run in runs.values() for close in run.closed()]
        losses = [loss for run in runs.values() for loss in run.losses()] if closes else []
        joined = self._joined = join(closes, losses, {run.id: run.host for run in runs.values()})
        for run in runs.values():
            run.further.clear()
        for (run_id, seq), match in joined.of.items():
            other = runs[match.close.run]
            request = other.requests.get(match.close.request)
            if request is not None:
                line = other.closes[match.close.seq]
                runs[run_id].further[seq] = Further(other, line, request, match)
        self._join_by_trace()
        return joined

    def _join_by_trace(self) -> None:
        """The same by the trace; where the connection says otherwise, neither is believed."""
        runs = self.runs
        left = [each for run in runs.values() for each in run.clients_left()]
        spans = {(each.trace_id, each.sender) for each in left}
        asked = [each for run in runs.values() for each in run.asked_in(spans)] if spans else []
        clocks = {run.id: run.host.clock for run in runs.values()}
        for (run_id, seq), found in join_by_trace(asked, left, clocks).items():
            other, further = runs[found.run], runs[run_id].further
            request = cast(TaskCancel, other.requests[found.seq])
            known = further.get(seq)
            if known is None:
                further[seq] = Further(other, request, request)
                continue
            last = known.run.chains.of(known.request).last_request
            if last is None or (known.run.id, last.seq) != (found.run, found.cause):
                del further[seq]

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
