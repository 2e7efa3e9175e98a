"""From events to spans, without OpenTelemetry: what is a span, and what it says.

- Every task can be a span, from the event of its creation to that of its end;
  it is made when the task ends, so a living task costs one small record.
- Every request to cancel is a span of no length, under whoever made it.  Links
  go from the victim to the request, from the request to its victims and to
  what caused it.  Every fact of a link stands as an attribute too, because some
  backends drop the attributes of links or the links themselves.
- Ids are made from the run's id and the number of the task or request: the same
  events always give the same spans.

Which tasks are told is decided at their end (``touched``): those that a
cancellation or an error touched, those that asked for one, and the creators of
them all.  A creator that has ended is kept for as long as a task that it made
is alive, because that one may still be touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

from aioaudit.chain.recent_requests import RecentRequests, answer, request_sentence
from aioaudit.chain.summary import cause
from aioaudit.events import (
    Event,
    FutureCancel,
    ProcessEnd,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
)
from aioaudit.exporter import Created, Returned, event_of, records_of
from aioaudit.exporters.otel.attributes import (
    class_of,
    describe_chain,
    function_of,
    of_request,
    put,
)
from aioaudit.exporters.otel.facts import (
    Outside,
    SpanFacts,
    SpanLink,
    Trace,
    Value,
    caller_of,
    held,
    id_of,
    span_of,
)
from aioaudit.exporters.otel.lives import Life, Lives, remember, without_short_lives
from aioaudit.timestamps import nanoseconds

if TYPE_CHECKING:
    from aioaudit.log.brief import Step

MOST_ABANDONED = 1_000
"""Tasks without incident that are told when the process ends before them."""

LONGEST = 1e12
"""Seconds of the longest life that a task is told to have had."""

MOST_LINKS = 32
"""Links of one kind on one span; backends drop what is over 128 in all."""


_IN_BRIEF = cast(TaskCreate, None)
"""Stands for the making of a task of which no span is made, so nobody looks at it."""


class Spans:
    """Makes spans of the events of one run after the other.

    Args:
        tasks: ``touched``, ``all``, or globs on ``module:qualname``, with commas.
        status: When a cancellation is an error: ``cause`` (if its root cause
            failed), ``unset`` (never), ``error`` (always).
        outside: Gives the application's span at the event with this number.
    """

    def __init__(self, tasks: str, status: str, outside: Callable[[int], Outside | None]) -> None:
        self.lives = Lives(tasks, self._abandon)
        self._status = status
        self._outside = outside
        self.begin("")

    def begin(self, run: str) -> None:
        """Forget what was; the next events are those of *run*."""
        self._run = run
        self._recent = RecentRequests()
        self.lives.begin(run)
        self._requests: dict[int, tuple[Trace, int]] = {}
        self._out: list[SpanFacts] = []
        self._now = 0

    def take(self, events: Sequence[Event]) -> list[SpanFacts]:
        """The spans that are finished with *events*."""
        items = records_of(events)
        lives = self.lives
        plain = lives.plain
        if plain and items is not events:
            items = without_short_lives(items)
        living = lives.living
        for item in items:
            # What every task comes to is told apart by its very class: this is the hot path.
            kind = type(item)
            if kind is Created:
                made = cast(Created, item)
                lives.make(made.task, made, made.parent, made.ns, self._outside(made.seq))
            elif kind is Returned:
                ended = cast(Returned, item)
                life = living.pop(ended.born.task, None)
                if life is not None:
                    life.ended = ended
                    if life.touched or not plain:
                        self._finish(life, ended)
            else:
                self._see(cast(Event, item))
                living = lives.living
        out, self._out = self._out, []
        return out

    def see(self, event: Event) -> list[SpanFacts]:
        """The spans that are finished with one *event* of a log."""
        self._see(event)
        out = self._out
        if out:
            self._out = []
        return out

    def pass_over(self, steps: Iterable[Step]) -> None:
        """Take note of lives to which nothing happened, as a log tells them in brief."""
        # Here: a program that sends spans reads no log, and does not begin with all that can.
        from aioaudit.log.brief import CHILDLESS, ENDED

        lives = self.lives
        living = lives.living
        for number, creator, ns in steps:
            if creator == ENDED:
                living.pop(number, None)
                continue
            self._now = ns
            if number == CHILDLESS:
                lives.pass_over(creator, ns)
            else:
                lives.make(number, _IN_BRIEF, creator or None, ns, None)

    def request(self, seq: int) -> TaskCancel | FutureCancel | None:
        """The request with this number, None if it is not among the last ones."""
        return self._recent.get(seq)

    def _time(self, ts: str) -> int:
        """Nanoseconds of *ts*; of the last event that had a time, where it says none."""
        self._now = nanoseconds(ts, self._now)
        return self._now

    def _see(self, event: Event) -> None:
        # Nearly all of a log is the one or the other.
        if isinstance(event, TaskCreate):
            ns = self._time(event.ts)
            self.lives.make(event.task, event, event.parent, ns, self._outside(event.seq))
            return
        if isinstance(event, TaskDone):
            life = self.lives.living.pop(event.task, None) or self._synthesise(event)
            if event.outcome != "returned" or event.cancel_outcome is not None:
                self._mark_relevant(life)
            self._finish(life, event)
            return
        self._recent.add(event)
        if isinstance(event, TaskCancel | FutureCancel):
            self._asked(event)
        elif isinstance(event, ProcessStart):
            self.begin(event.run)
        elif isinstance(event, ProcessEnd):
            self.abandon(self._time(event.ts))

    # -- lives -------------------------------------------------------------------

    def _synthesise(self, event: TaskCancel | TaskDone) -> Life:
        """The life of a task whose creation was not told."""
        ns = self._time(event.ts)
        if isinstance(event, TaskDone):
            lived = min(max(event.lifetime or 0, 0), LONGEST)
            ns = max(ns - int(lived * 1_000_000) * 1000, 0)
        return self.lives.unmade(event, ns)

    def _mark_relevant(self, life: Life | None) -> None:
        """Let *life* and its creators be told; what has ended already is told now."""
        while life is not None and not life.touched:
            life.touched = True
            if life.ended is not None and not life.exported:
                self._tell(life, life.ended)
            if life.cut is not None:
                self._mark_relevant(self.lives.living.get(life.cut))
            life = life.creator

    def _finish(self, life: Life, ended: Returned | TaskDone) -> None:
        life.ended = ended
        if self.lives.wanted(life):
            self._tell(life, ended)

    def abandon(self, ns: int) -> list[SpanFacts]:
        """The process ends: tell of all that have not, those that were touched first."""
        for index, life in enumerate(self.lives.abandon()):
            if life.touched or index < MOST_ABANDONED:
                self._mark_relevant(life.creator)
                life.touched = True
                self._abandon(life, ns)
        return self._out

    def _abandon(self, life: Life, ns: int) -> None:
        if self.lives.wanted(life):
            self._tell(life, None, ns)

    # -- spans -------------------------------------------------------------------

    def _tell(self, life: Life, ended: Returned | TaskDone | None, ns: int = 0) -> None:
        if not life.shown:
            return
        self.lives.tell(life)
        done = event_of(ended) if ended is not None else None
        made = event_of(life.made)
        name = str(getattr(done or made, "name", ""))
        coro = str(getattr(made, "coro", ""))
        attributes: dict[str, Value] = {
            "aioaudit.run": self._run,
            "aioaudit.task.id": life.number,
            "aioaudit.task.name": name,
            "code.function.name": function_of(coro),
            "thread.name": made.thread,
        }
        runs_at = life.made.runs_at if isinstance(life.made, Created) else None
        if runs_at is not None:
            path, line = runs_at
            attributes["code.file.path"] = path
            attributes["code.line.number"] = line
        if made.loop is not None:
            attributes["aioaudit.loop"] = made.loop
        if isinstance(made, TaskCreate):
            put(attributes, "aioaudit.create.at", made.at)
            put(attributes, "aioaudit.create.source", made.source)
            put(attributes, "aioaudit.create.task.id", made.parent)
        links: list[SpanLink] = []
        creator = life.creator
        if life.cut is not None:
            creator = self.lives.find(life.cut)
        if creator is not None and (life.cut is not None or life.under is not None):
            links.append(SpanLink(creator.trace, self._task_id(creator.number), "created_by"))
        error = None
        if isinstance(done, TaskDone):
            ns = self._time(done.ts)
            error = self._end(done, attributes, links)
        else:
            attributes["aioaudit.task.outcome"] = "abandoned"
        for seq in (life.requests or ())[:MOST_LINKS]:
            self._link_request(links, seq, "asked_by")
        if life.requests:
            attributes["aioaudit.cancel.requests"] = len(life.requests)
        parent = life.under
        if parent is None and life.creator is not None:
            parent = self._task_id(life.creator.number)
        qualname = coro.rpartition(":")[2]
        self._out.append(
            SpanFacts(
                f"asyncio.task {qualname}",
                life.trace,
                self._task_id(life.number),
                parent,
                life.ns,
                max(ns, life.ns),
                {key: held(value) for key, value in attributes.items()},
                links,
                error,
            )
        )

    def _end(
        self, done: TaskDone, attributes: dict[str, Value], links: list[SpanLink]
    ) -> str | None:
        """Put in how a task ended; the description of the error if it is one."""
        attributes["aioaudit.task.outcome"] = done.outcome
        put(attributes, "aioaudit.task.cancel_outcome", done.cancel_outcome)
        put(attributes, "aioaudit.task.swallowed_at", done.swallowed_at)
        put(attributes, "aioaudit.task.error_at", done.error_at)
        if done.preexisting:
            attributes["aioaudit.task.preexisting"] = True
        error = None
        if done.outcome == "raised":
            error = done.error or "unknown"
            attributes["error.type"] = class_of(error)
        steps = self._recent.steps_of_end(done)
        if not steps:
            return error
        chain = [step.link for step in steps]
        told = answer(done, steps)
        describe_chain(attributes, chain, told.summary)
        if done.cancel is not None:
            attributes["aioaudit.cancel.seq"] = done.cancel
            self._link_request(links, done.cancel, "cancelled_by")
        for link in chain:
            if link.reason is not None:
                put(attributes, "aioaudit.cancel.reason", link.reason)
                put(attributes, "aioaudit.cancel.at", link.at)
                put(attributes, "aioaudit.cancel.source", link.source)
                put(attributes, "aioaudit.cancel.by.name", link.by_name)
                put(attributes, "aioaudit.cancel.library", link.library)
                put(attributes, "aioaudit.cancel.library_at", link.library_at)
                break
        root = chain[-1]
        if done.outcome == "cancelled" and (
            self._status == "error" or (self._status == "cause" and root.what == "failed")
        ):
            error = cause(root)
            attributes["error.type"] = (
                "CancelledError" if root.error is None else class_of(root.error)
            )
        return error

    def _asked(self, event: TaskCancel | FutureCancel) -> None:
        steps = self._recent.steps_of_request(event)
        ns = self._time(event.ts)
        victims: list[Life] = []
        if isinstance(event, FutureCancel):
            victims = [life for each in event.waiters if (life := self.lives.living.get(each))]
            names = ", ".join(event.waiter_names)
            summary = f"a future that {names or 'nobody known'} awaited was cancelled"
        else:
            summary = request_sentence(event, steps)
            if event.accepted:
                life = self.lives.living.get(event.task)
                if life is None:
                    life = self.lives.living[event.task] = self._synthesise(event)
                life.add_request(event.seq)
                victims = [life]
        caller = None if event.by is None else self.lives.living.get(event.by)
        for life in victims:
            self._mark_relevant(life)
        self._mark_relevant(caller)
        shown = [life for life in victims if life.shown]
        if self.lives.chosen and not (shown or (caller is not None and caller.shown)):
            return
        span_id = id_of(f"{self._run} cancel {event.seq}", 8)
        links: list[SpanLink] = []
        above = caller if caller is not None and caller.shown else None
        trace, parent = self._place_of(event, above, shown, links)
        links += [
            SpanLink(life.trace, self._task_id(life.number), "cancels")
            for life in shown[:MOST_LINKS]
        ]
        if event.cause is not None:
            self._link_request(links, event.cause, "caused_by")
        if event.origin_task is not None:
            origin = self.lives.find(event.origin_task)
            if origin is not None:
                self._mark_relevant(origin)
                links.append(SpanLink(origin.trace, self._task_id(origin.number), "caused_by"))
        attributes = of_request(event)
        attributes["aioaudit.run"] = self._run
        attributes["thread.name"] = event.thread
        describe_chain(attributes, [step.link for step in steps], summary)
        remember(self._requests, event.seq, (trace, span_id))
        told = {key: held(value) for key, value in attributes.items()}
        self._out.append(
            SpanFacts("asyncio.cancel", trace, span_id, parent, ns, ns, told, links, None)
        )

    def _place_of(
        self,
        event: TaskCancel | FutureCancel,
        above: Life | None,
        shown: Sequence[Life],
        links: list[SpanLink],
    ) -> tuple[Trace, int | None]:
        """Trace and parent of the request *event*, by the task *above*, if any, to those in *shown*.

        *links* gets those that say what the parent does not.
        """
        inside = span_of(event)
        sender = caller_of(event) if inside is not None and event.reason == "disconnect" else 0
        if sender:
            links.append(SpanLink(Trace(self._run, -event.seq, inside), sender, "client"))
        # Under the span of who asked, or else that of who was asked, where there is one.
        outside = self._outside(event.seq) or inside
        if outside is not None:
            if above is not None:
                links.append(SpanLink(above.trace, self._task_id(above.number), "called_by"))
            return Trace(self._run, -event.seq, outside), outside.span_id
        if above is not None or shown:
            # What a timer, a signal or the end of the loop asked for stands under its victim.
            above = above or shown[0]
            return above.trace, self._task_id(above.number)
        return Trace(self._run, -event.seq), None

    def _link_request(self, links: list[SpanLink], seq: int, kind: str) -> None:
        known = self._requests.get(seq)
        if known is not None and not any(link.span_id == known[1] for link in links):
            links.append(SpanLink(known[0], known[1], kind))

    def _task_id(self, number: int) -> int:
        return id_of(f"{self._run} task {number}", 8)
