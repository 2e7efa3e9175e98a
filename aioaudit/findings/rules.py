"""What goes wrong with a cancellation, found while the program runs.

The recorder and its probes call in here where something becomes known: a
request was made, a CancelledError is gone, a task waits again, ended, or is
left behind.  Each rule says what it finds as a `Finding` event, and nothing
where a healthy program does the same.

A task that nobody cancels comes by here only if its loop closes before it ends.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from time import monotonic
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any

from aioaudit.chain.obeyed import first_undelivered
from aioaudit.cpython.callbacks import thread_waits_for
from aioaudit.cpython.frames import getframe
from aioaudit.cpython.groups import (
    GROUP_EXITS,
    GROUP_HANDS_ON,
    TIMEOUT_ERROR_TYPE,
    TIMEOUT_EXIT,
    has_failed,
)
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.loops import running_loop
from aioaudit.cpython.tasks import (
    all_tasks,
    coro_of,
    exception_of,
    must_cancel,
    tells_of_destruction,
)
from aioaudit.events import Finding, Outcome, Severity, TaskCancel
from aioaudit.findings import catalogue
from aioaudit.findings.cleanup import cleaning_up, handles_cancelled
from aioaudit.recognisers.registry import is_left
from aioaudit.settings import DEFAULT_SLOW_CANCEL
from aioaudit.stack.code import APPLICATION, STDLIB, owner_of
from aioaudit.stack.frames import suspended_at, variables
from aioaudit.state.awaiters import waiters_of
from aioaudit.state.places import loop_of
from aioaudit.text import describe

if TYPE_CHECKING:
    from aioaudit.core import Created
    from aioaudit.place import Place
    from aioaudit.sending import Sender
    from aioaudit.state.blocks import Block
    from aioaudit.state.known import State
    from aioaudit.state.requests import CancelState, Request

_BY_CODE = frozenset({"explicit", "thread"})
"""Reasons of requests that a line of code made, and not a construct on its behalf."""

_BY_CHANCE = _BY_CODE | {"timeout", "signal", "disconnect"}
"""Reasons of requests that come when they like."""

_MOST_LEFT = 10_000
"""At most this many tasks left behind by their loops are remembered until they are destroyed."""

_BY_GROUP = (
    "asyncio.TaskGroup kept it, because its own cancel() had been called (gh-155433):"
    " later releases of Python hand it on"
)


class Rules:
    """The rules of one recorder."""

    def __init__(self, known: State, sender: Sender) -> None:
        self.slow_after = DEFAULT_SLOW_CANCEL
        """Seconds that a task may take to obey."""
        self.watch_next: Callable[[Any], None] = lambda _task: None
        """Asks for `on_next_suspend` to be called when the running task is suspended again."""
        self._known = known
        self._sender = sender
        self._left: set[int] = set()

    # -- requests -----------------------------------------------------------------

    def on_request(self, task: Any, request: Request) -> None:
        """*request* was made to *task*: called for every one, also for those made again."""
        try:
            self._check_request(task, request)
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a task alive
            self._sender.report_fault(error)

    def _check_request(self, task: Any, request: Request) -> None:
        event = request.event
        if request.times > 1:
            if request.dedup_key is not None and _is_round(request.times):
                self._report(catalogue.SPINNING, task, request, times=request.times)
            return
        if not isinstance(event, TaskCancel):
            return
        if not event.accepted:
            self._check_already_done(task, request)
            return
        known = self._known
        request.requested_at = monotonic()
        if event.by == event.task:
            if event.reason == "explicit" and _in_application(event.at):
                self._report(catalogue.SELF_CANCEL, task, request)
        elif event.suspended_at is None and _not_started(task):
            careless = event.reason in _BY_CODE and not self._cleaning_up()
            request.never_started = "finding" if careless else "note"
        if (event.reason == "thread" or running_loop() is None) and known.places.foreign_thread(
            task
        ) is not None:
            self._report(catalogue.WRONG_THREAD, task, request)
        state = known.tasks.states[id(task)]  # there since the request was made
        if len(state.requests) > 1:
            first = first_undelivered(state.requests)
            if first is request:
                self._check_swallowed(task, state, event.suspended_at, but=request)
            elif first is not None:
                self._check_coalesced(task, first, request)
        if event.reason == "shutdown":
            self._check_awaited_at_exit(task, request)

    def _cleaning_up(self) -> bool:
        return cleaning_up(self._known.codes, getframe(1))

    def _check_already_done(self, task: Any, request: Request) -> None:
        event = request.event
        if event.reason in _BY_CODE and _in_application(event.at) and not self._cleaning_up():
            error = exception_of(task)
            outcome: Outcome | None = "returned" if error is None else "raised"
            if error is UNKNOWN:
                error = outcome = None
            self._report(
                catalogue.ALREADY_DONE,
                task,
                request,
                severity="note",
                outcome="cancelled" if task.cancelled() else outcome,
                error=None if error is None else describe(error),
            )

    def _check_coalesced(self, task: Any, first: Request, second: Request) -> None:
        one, two = first.event, second.event
        if not {one.reason, two.reason} <= _BY_CHANCE:
            return  # what shuts down or leaves a scope cancels what is ending already
        told = one.by == two.by and one.message == two.message
        careless = {one.reason, two.reason} <= _BY_CODE and not told and not self._cleaning_up()
        self._report(
            catalogue.COALESCED,
            task,
            first,
            severity="finding" if careless else "note",
            other=second,
            detail=None if two.message is None else f"its message: {two.message}",
        )

    def _check_awaited_at_exit(self, task: Any, request: Request) -> None:
        waiter = next((each for each in waiters_of(task) if not each.done()), None)
        if waiter is not None:
            known = self._known
            self._report(
                catalogue.AWAITED_AT_EXIT,
                task,
                request,
                other_task=known.tasks.number(waiter),
                other_name=known.tasks.name(waiter),
                other_at=suspended_at(known.codes, coro_of(waiter)),
            )
        elif thread_waits_for(task):
            self._report(catalogue.AWAITED_AT_EXIT, task, request, other_name="another thread")

    # -- on the way ---------------------------------------------------------------

    def on_error_released(self, state: CancelState, request: Request) -> None:
        """The CancelledError that delivered *request* to the task of *state* is gone."""
        task: Any = state.ref()
        if "finding" not in self._sender.active_events or task is None or request.finding_sent:
            return
        try:
            if request not in state.requests:
                return  # made to what it awaited: to catch that is no fault
            if not task.cancelling():
                return
            coro = coro_of(task)
            if not isinstance(coro, CoroutineType):
                return  # compiled code keeps to itself whether it runs
            if coro.cr_suspended:
                # Whoever resumed it held the error until it was suspended again.
                self._check_swallowed(task, state, suspended_at(self._known.codes, coro))
            elif coro.cr_running:
                self.watch_next(task)
        except Exception as error:  # noqa: BLE001 - an internal error must not reach a finalizer
            self._sender.report_fault(error)

    def on_next_suspend(self, task: Any, at: str) -> None:
        """*task*, which was to be watched, is suspended again, at the line *at* of its own."""
        cancelling: int = task.cancelling()
        state = self._known.tasks.find_state(task)
        if state is None or not cancelling:
            return
        if state.errors:
            return  # it has another CancelledError to handle
        self._check_swallowed(task, state, at, suspended=False)

    def _check_swallowed(
        self,
        task: Any,
        state: CancelState,
        at: str | None,
        *,
        but: Request | None = None,
        suspended: bool = True,
    ) -> None:
        """*task* waits at *at*: as if no request (apart from *but*) had reached it?"""
        requests = [each for each in state.requests if each is not but]
        for each in requests:
            if each.taken_back and not each.absorbed:
                return  # a timeout or a group is about to take care of that
        left = [
            each
            for each in requests
            if (each.delivered or each.lost) and not (each.absorbed or each.finding_sent)
        ]
        if not left or (suspended and handles_cancelled(task)):
            return
        request = left[0]
        for each in left:
            each.finding_sent = True
        absorbed = next((each for each in requests if each.absorbed and not each.taken_back), None)
        if absorbed is not None:
            self._report(
                catalogue.UNCANCEL_UNBALANCED,
                task,
                absorbed,
                remaining=task.cancelling(),
                waits_at=at,
            )
        elif request.lost and not request.delivered:
            self._report_lost(task, request, "finding", waits_at=at)
        elif not _kept_by_asyncio(state):
            self._report(
                catalogue.SWALLOWED,
                task,
                request,
                swallowed_at=state.swallowed_at if state.current is request else None,
                waits_at=at,
            )

    def _report_lost(self, task: Any, request: Request, severity: Severity, **facts: Any) -> None:
        via = request.forwarded_as
        if via is not None and isinstance(via.event, TaskCancel):
            facts["other_task"] = via.event.task
            facts["other_name"] = via.event.name
            facts["swallowed_at"] = request.kept_at
        self._report(catalogue.LOST, task, request, severity=severity, **facts)

    def on_propagation_lost(self, request: Request, state: CancelState) -> None:
        """*request* went on to the task of *state*, which has ended otherwise: it is lost."""
        request.kept_at = state.swallowed_at
        if "finding" not in self._sender.active_events:
            return
        heir = self._known.tasks.state_of(request)
        task = None if heir is None else heir.ref()
        if task is not None and not task.done():
            self.watch_next(task)

    def on_uncancel(
        self, task: Any, state: CancelState, request: Request, frame: FrameType
    ) -> None:
        """``uncancel()`` took *request* back, called by *frame*."""
        if frame.f_code.co_qualname in GROUP_EXITS:
            self._check_kept_by_group(task, state, frame)
        if not request.taken_back or request.finding_sent:
            return
        if (
            frame.f_code.co_qualname == TIMEOUT_EXIT
            and variables(frame).get(TIMEOUT_ERROR_TYPE, UNKNOWN) is None
            and must_cancel(task) is False
            and (request.delivered or not self._known.cancellations.deliveries_seen)
        ):
            request.finding_sent = True
            self._report(
                catalogue.SWALLOWED,
                task,
                request,
                swallowed_at=state.swallowed_at,
                detail="the block that the timeout guards went on to its end",
            )
        else:
            self._check_slow(task, state, request, None)

    def _check_kept_by_group(self, task: Any, state: CancelState, frame: FrameType) -> None:
        """A task group that was cancelled ends in *frame*: has it kept what is not its own?

        So it was before gh-155433: the CancelledError of a request from outside that came while
        the group waited for its tasks was dropped, and ``cancelling()`` left above zero.
        """
        values = variables(frame)
        group, error = values.get("self"), values.get("exc")
        for name in GROUP_HANDS_ON:  # not by a generator, as in verdict.match_uncancel
            if values.get(name) is not None:
                return
        if has_failed(group):
            return
        if not task.cancelling() or not (error is None or isinstance(error, CancelledError)):
            return
        for each in state.requests:
            if each.delivered and each.stands and not (each.taken_back or each.finding_sent):
                each.finding_sent = True
                self._report(
                    catalogue.SWALLOWED,
                    task,
                    each,
                    swallowed_at=state.swallowed_at,
                    detail=_BY_GROUP,
                )

    # -- loops --------------------------------------------------------------------

    def on_blocked(self, block: Block, place: Place, *, ongoing: bool) -> None:
        """The loop of *place* was blocked, or is still (*ongoing*)."""
        event = self._sender.new_event(Finding, place)
        event.kind = catalogue.BLOCKED
        event.severity = "finding"
        event.task = block.task or 0
        event.name = block.name or ""
        event.coro = block.coro or block.source or "?"
        event.source, event.at = block.source, block.at
        event.seconds = round(block.seconds, 6)
        parts: list[str] = []
        if block.library is not None:
            parts.append(f"that line was in {block.library} ({block.library_at})")
        if block.evidence == "inferred":
            parts.append("nobody could look meanwhile: it was found there afterwards")
        if ongoing:
            parts.append("it was still at it")
        event.detail = "; ".join(parts) or None
        self._sender.emit_final(event)

    # -- ends ---------------------------------------------------------------------

    def on_end(
        self,
        task: Any,
        state: CancelState,
        born: Created | None,
        outcome: Outcome,
        error: BaseException | None,
        request: Request | None,
        result: object,
    ) -> None:
        """*task* ended, and *request* had to do with it; *born* is what its making told."""
        if outcome == "destroyed":
            if state.task not in self._left:
                self._report(catalogue.DESTROYED, task, request, **self._remains(task, born))
            self._left.discard(state.task)
            return
        if request is None or request.finding_sent or request not in state.requests:
            return
        if outcome == "cancelled" and request.never_started is not None:
            self._report(catalogue.NEVER_STARTED, task, request, severity=request.never_started)
        elif state.cancel_outcome in ("obeyed", "replaced"):
            if outcome == "raised" and _never_delivered(
                request, task, seen=self._known.cancellations.deliveries_seen
            ):
                if not isinstance(
                    error, KeyboardInterrupt | SystemExit
                ):  # all ends, this task, too
                    self._report_lost(task, request, "finding", outcome=outcome, error=_text(error))
            else:
                self._check_slow(task, state, request, outcome)
        elif state.cancel_outcome == "absorbed":
            if not request.taken_back and outcome != "cancelled" and task.cancelling():
                self._report(
                    catalogue.UNCANCEL_UNBALANCED,
                    task,
                    request,
                    remaining=task.cancelling(),
                    outcome=outcome,
                    error=_text(error),
                )
        elif state.cancel_outcome == "swallowed" and outcome != "cancelled":
            self._report_not_obeyed(task, state, request, outcome, error, result)

    def _report_not_obeyed(
        self,
        task: Any,
        state: CancelState,
        request: Request,
        outcome: Outcome,
        error: BaseException | None,
        result: object,
    ) -> None:
        took = monotonic() - request.requested_at
        # To return nothing as soon as one is asked to stop is how many workers end.
        at_once = outcome == "returned" and result is None and took <= self.slow_after
        severity: Severity = "note" if at_once else "finding"
        facts: dict[str, Any] = {
            "outcome": outcome,
            "error": _text(error),
            "seconds": round(took, 6),
        }
        if request.lost or _never_delivered(
            request, task, seen=self._known.cancellations.deliveries_seen
        ):
            self._report_lost(task, request, severity, **facts)
        elif not _kept_by_library(task, state):
            self._report(
                catalogue.SWALLOWED,
                task,
                request,
                severity=severity,
                swallowed_at=state.swallowed_at,
                **facts,
            )

    def _check_slow(
        self, task: Any, state: CancelState, request: Request, outcome: Outcome | None
    ) -> None:
        """How long *request* took, if that was too long and nothing further in was the reason."""
        now = monotonic()
        if (
            not request.requested_at
            or now - request.requested_at <= self.slow_after
            or request.slow_reported
        ):
            return
        for each in request.back():
            if each.slow_reported:
                break  # and all before it
            each.slow_reported = True
        cleanup = state.handler_timer
        at, waited = None, 0.0
        if cleanup is not None:
            cleanup.leave(now)
            at, waited = cleanup.at, cleanup.seconds
        delivered = request.delivered_at - request.requested_at if request.delivered_at else None
        detail = None
        if delivered is not None and delivered > max(waited, self.slow_after / 2):
            at = None
            via = request.forwarded_as
            if via is not None and isinstance(via.event, TaskCancel):
                detail = f"it awaited {via.event.name}, which took long to end"
            else:
                # Of which of both, nothing is known here: a machine may have given it no time.
                detail = "the loop came round to it as late: it was busy, or the machine was"
        self._report(
            catalogue.SLOW,
            task,
            request,
            outcome=outcome,
            seconds=round(now - request.requested_at, 6),
            delivered_after=None if delivered is None else round(delivered, 6),
            waits_at=at,
            waited=None if at is None else round(waited, 6),
            detail=detail,
        )

    # -- what is left behind ------------------------------------------------------

    def on_loop_close(self, loop: Any) -> None:
        """*loop* is about to be closed."""
        known = self._known
        for task in all_tasks(loop):
            if not task.done():
                state = known.tasks.state(task)
                if tells_of_destruction(task):  # else nobody tells of its end
                    if len(self._left) >= _MOST_LEFT:  # of loops that hand nothing on
                        self._left.clear()
                    self._left.add(state.task)
                if any(each.delivered for each in state.requests):
                    self._check_swallowed(task, state, suspended_at(known.codes, coro_of(task)))
                request = state.requests[-1] if state.requests else None
                born = known.tasks.born.get(id(task))
                self._report(
                    catalogue.PENDING,
                    task,
                    request,
                    severity="note" if _left_by_library(state) else "finding",
                    **self._remains(task, born),
                )

    def _remains(self, task: Any, born: Created | None) -> dict[str, Any]:
        return {
            "waits_at": suspended_at(self._known.codes, coro_of(task)),
            "made_at": None if born is None else born.site.fields[1],
        }

    # -- telling ------------------------------------------------------------------

    def _report(
        self,
        kind: str,
        task: Any,
        request: Request | None,
        *,
        severity: Severity = "finding",
        other: Request | None = None,
        **facts: Any,
    ) -> None:
        known = self._known
        state = known.tasks.state(task)
        event = self._sender.new_event(Finding, known.places.place(loop_of(task)))
        event.kind = kind
        event.severity = severity
        event.task = state.task
        event.name = known.tasks.name(task)
        event.coro = state.coro
        event.preexisting = state.preexisting
        if request is not None:
            asked = request.event
            event.cancel = asked.seq or None
            event.reason = asked.reason
            event.by = asked.by
            event.by_name = asked.by_name
            if isinstance(asked, TaskCancel):
                event.suspended_at = asked.suspended_at
            event.source, event.at, event.library, event.library_at = _line_of(request)
            event.trace_id, event.span_id = asked.trace_id, asked.span_id
        elif known.traces.on:
            ids = known.traces.of(task)
            if ids is not None:
                event.trace_id, event.span_id = ids.trace_id, ids.span_id
        if other is not None:
            asked = other.event
            event.other_cancel = asked.seq or None
            event.other_reason = asked.reason
            event.other_source = asked.source
            event.other_at = asked.at
            event.other_task = asked.by
            event.other_name = asked.by_name
        for key, value in facts.items():
            if value is not None:
                setattr(event, key, value)
        self._sender.emit_final(event)


def _is_round(times: int) -> bool:
    """Whether *times* is 100, 1,000 and so on: what goes on for ever is told now and then."""
    if times % 100:
        return False
    while times % 10 == 0:
        times //= 10
    return times == 1


def _in_application(at: str | None) -> bool:
    return at is not None and owner_of(at.rpartition(":")[0]) == APPLICATION


def _kept_by_asyncio(state: CancelState) -> bool:
    """Whether asyncio itself kept the error: it knows why."""
    if state.swallowed_at is not None:
        return owner_of(state.swallowed_at.rpartition(":")[0]) == STDLIB
    return state.coro.startswith("asyncio.")


def _kept_by_library(task: Any, state: CancelState) -> bool:
    """Whether a library kept the error of a task that then ended: so its groups and handles work."""
    if state.swallowed_at is not None:
        return owner_of(state.swallowed_at.rpartition(":")[0]) != APPLICATION
    code = getattr(coro_of(task), "cr_code", None)
    return code is not None and owner_of(code.co_filename) != APPLICATION


def _left_by_library(state: CancelState) -> bool:
    """Whether a library that we know makes tasks like this one, and leaves them to the end."""
    module, _, qualname = state.coro.partition(":")
    return is_left(module, qualname)


def _line_of(request: Request) -> tuple[str | None, str | None, str | None, str | None]:
    """``source``, ``at`` and the library's of *request*, or of the nearest before it with a line."""
    for step in request.back():
        event = step.event
        if event.at is not None:
            return event.source, event.at, event.library, event.library_at
        if event.origin_at is not None:
            return (
                event.origin_source,
                event.origin_at,
                event.origin_library,
                event.origin_library_at,
            )
    return request.event.source, None, None, None


def _not_started(task: Any) -> bool:
    coro = coro_of(task)
    if not isinstance(coro, CoroutineType):
        return False  # not known
    return coro.cr_frame is not None and not coro.cr_suspended and not coro.cr_running


def _never_delivered(request: Request, task: Any, *, seen: bool) -> bool:
    """Whether no CancelledError came of *request* before *task* ended.

    A task group gives back what the task has felt: that was not lost.
    """
    return (
        request.undelivered and not request.delivered_at and bool(seen or must_cancel(task) is True)
    )


def _text(error: BaseException | None) -> str | None:
    return None if error is None or isinstance(error, CancelledError) else describe(error)
