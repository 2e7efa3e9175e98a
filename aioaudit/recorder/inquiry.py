"""From a call of ``cancel()`` to the request that it makes: who asks, why, and the event that says so."""

from __future__ import annotations

import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit.causes.classify import find_cause, plain_cause
from aioaudit.chain.links import flatten, said
from aioaudit.chain.obeyed import first_undelivered
from aioaudit.cpython.tasks import coro_of, current_task
from aioaudit.events import FutureCancel, TaskCancel
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.opentelemetry import sent_by
from aioaudit.stack.frames import suspended_at
from aioaudit.state.places import loop_of
from aioaudit.state.requests import CancelState, Request
from aioaudit.text import message_of
from aioaudit.timestamps import timestamp

if TYPE_CHECKING:
    from aioaudit.place import Place
    from aioaudit.sending import Sender
    from aioaudit.state.cause import Cause
    from aioaudit.state.known import State
    from aioaudit.state.traces import Ids

_DEEPEST = 500
"""Maximum number of requests in a row, each the cause of the next, that are kept."""

_ENOUGH = 8
"""So many requests are told of a task that is still to have the first: what is passed on to it then is no news."""

_MOST_PLACES = 20
"""At most this many places have lines ready of requests that one instruction makes."""


class Inquiry:
    """Finds out why ``cancel()`` is called, from the stack and from what is known."""

    def __init__(self, state: State, sender: Sender) -> None:
        self._state = state
        self._sender = sender

    def explain_scheduled(
        self, victim: Any, frame: FrameType | None, message: object = None
    ) -> Cause:
        """Why *victim* is to be cancelled, which *frame* asks for on its own account.

        For what cancels tasks later, or again and again: not inside a ``cancel()`` of another.
        """
        call = Call(self._state, victim, current_task(), None, sys.exception(), message=message)
        return find_cause(call, frame)

    def explain_cancel(self, victim: Any, frame: FrameType | None, message: object = None) -> Cause:
        """Why *victim* is being cancelled from *frame*, by whom: to be told once it is."""
        nested = self._state.cancellations.nested()
        current = current_task()
        call = Call(self._state, victim, current, nested, sys.exception(), message=message)
        cause = find_cause(call, frame)
        request = cause.request
        if request is not None and request is nested and isinstance(request.event, TaskCancel):
            cause.by = request.event.task, request.event.name
        elif cause.by is None and current is not None and not cause.current_task_unrelated:
            cause.by = call.number_and_name(current)
        cause.current_task_unrelated = cause.by is None
        return cause

    def note_passed_on_again(self, task: Any, frame: FrameType | None) -> bool:
        """Where ``task.cancel()``, called from *frame*, passes on one more of many requests that wait.

        Then that is noted, and no request is to be made.

        Where each task awaits the one before, as in a queue that is kept in order, the end of
        a program asks them all, and each passes that on to all before it: a thousand tasks would make
        half a million requests.  What was asked is told of the task that was asked.
        """
        known = self._state
        cancellations = known.cancellations
        nested = cancellations.nested()
        # Called by a ``cancel()`` itself, no override of it or other line in between.
        if nested is None or frame is None or id(frame.f_code) not in known.probe_codes:
            return False
        state = known.tasks.find_state(task)
        if state is None or len(state.requests) < _ENOUGH or task.done():
            return False
        if not cancellations.deliveries_seen:
            cancellations.infer_delivery(task, state)
        last = state.requests[-1]
        # Those between were made after the one and before the other: no error can have come.
        if not (last.undelivered and state.requests[-_ENOUGH].undelivered):
            return False
        last.pass_on_again(nested)
        return True

    def task_request(self, task: Any, message: Any, frame: FrameType | None) -> Request | None:
        """The request that ``task.cancel(message)`` makes, called from *frame*.

        None means that this is no request at all; one that was made before, and
        is asked for again, comes with ``times`` above 1.
        """
        known = self._state
        cancellations = known.cancellations
        nested = cancellations.nested()
        current = current_task()
        cause, lines, remembered = self._why(task, message, frame, current, nested)
        accepted = not task.done()
        state = known.tasks.state(task)
        if cause.redelivers:
            _given_back(state)
            return None
        if state.requests:
            repeated = state.find_repeated(
                cause.dedup_key, nested if cause.request is nested else None
            )
            if repeated is not None:
                if not cancellations.deliveries_seen:
                    cancellations.infer_delivery(task, state)
                repeated.repeat()
                return repeated
        if not accepted and nested is not None and cause.request is nested and nested.times > 1:
            return None  # a scope delivers again to a gather: it was too late for this child before
        place = known.places.place(None if current is not None else loop_of(task))
        event = self._begin(place, cause, lines)
        self._tell_asker(event, cause, current, nested)
        if not cancellations.deliveries_seen:
            cancellations.infer_delivery(task, state)
        earlier = first_undelivered(state.requests)
        event.task = state.task
        event.name = known.tasks.name(task)
        event.coro = state.coro
        event.accepted = accepted
        if state.preexisting:
            event.preexisting = True
        if cause.taken_back:
            event.taken_back = True
        if accepted:
            self._tell_where(event, task, current)
            if earlier is not None:
                event.behind = earlier.event.seq or None
        if message is not None:
            _tell_message(event, cause, message)
        request = _request(event, cause)
        if accepted and earlier is not None:
            request.coalesced = True
        if remembered and current is not None:
            known.tasks.state(current).inherited = request
        return request

    def _tell_where(self, event: TaskCancel, task: Any, current: Any) -> None:
        """Put where *task* waits, and in which trace it is, into *event*."""
        known = self._state
        if task is not current:
            event.suspended_at = suspended_at(known.codes, coro_of(task))
        if known.traces.on:
            _tell_trace(event, known.traces.of(task))
            if event.reason == "disconnect" and event.parent_span_id is None:
                self._tell_sender(event, task)

    def _tell_sender(self, event: TaskCancel, task: Any) -> None:
        """Put which span of another process sent what *task* works for into *event*.

        The span that is current says it where it is the server's own, and not one inside of that.
        """
        try:
            sent = sent_by(task)
        except Exception as error:  # noqa: BLE001 - what is looked at is the program's
            self._sender.report_fault(error)
            return
        if sent is not None and event.trace_id in (None, sent[0]):
            event.trace_id, event.parent_span_id = sent

    def _why(
        self,
        task: Any,
        message: Any,
        frame: FrameType | None,
        current: Any,
        nested: Request | None,
    ) -> tuple[Cause, dict[Place, TaskCancel] | None, bool]:
        """The cause of ``task.cancel(message)``, `Call.lines` and `Call.timeout_remembered`."""
        handled = sys.exception()
        if nested is None and handled is None and message is None and current is not None:
            plain = plain_cause(self._state, task, current, frame)
            if plain is not None:
                return *plain, False
        call = Call(self._state, task, current, nested, handled, message=message)
        return find_cause(call, frame), call.lines, call.timeout_remembered

    def future_request(
        self, future: Any, message: Any, frame: FrameType | None, waiters: list[Any]
    ) -> Request:
        """The request that ``future.cancel(message)`` makes: of a plain future that *waiters* await."""
        known = self._state
        nested = known.cancellations.nested()
        current = current_task()
        call = Call(known, future, current, nested, sys.exception(), message=message)
        cause = find_cause(call, frame)
        event = self._sender.new_event(FutureCancel, known.places.place(loop_of(future)))
        _tell_cause(event, cause)
        self._tell_asker(event, cause, current, nested)
        event.waiters = [known.tasks.number(task) for task in waiters]
        event.waiter_names = [known.tasks.name(task) for task in waiters]
        if known.traces.on:
            _tell_trace(event, next(filter(None, map(known.traces.of, waiters)), None))
        if message is not None:
            _tell_message(event, cause, message)
        return _made(event, cause)

    # -- the event ----------------------------------------------------------------

    def _begin(
        self, place: Place, cause: Cause, lines: dict[Place, TaskCancel] | None
    ) -> TaskCancel:
        """A new event of a request that says why; *lines* has those that say the same, by place."""
        if lines is None:
            event: TaskCancel = self._sender.new_event(TaskCancel, place)
            _tell_cause(event, cause)
            return event
        template: Any = line_in(lines, place, cause)
        event = template.__copy__()
        if cause.origin is not None:
            # A timeout is not as late each time, nor for the same reason.
            event.origin_detail = cause.origin.detail
        event.ts = timestamp(time.time_ns())
        sender = self._sender
        event.seq = sender.run.next_seq() if "task.cancel" in sender.active_events else 0
        return event

    def _tell_asker(
        self,
        event: TaskCancel | FutureCancel,
        cause: Cause,
        current: Any,
        nested: Request | None,
    ) -> None:
        """Put who asked, and because of which request, into *event*."""
        tasks = self._state.tasks
        request = cause.request
        origin = cause.origin
        if cause.reason == "thread" and cause.thread is not None:
            event.by_name = cause.thread
            if cause.by is not None:
                event.by = cause.by[0]
            elif current is not None and not cause.current_task_unrelated:
                event.by = tasks.number(current)
        elif request is not None and request is nested and isinstance(request.event, TaskCancel):
            event.by, event.by_name = request.event.task, request.event.name
        elif cause.by is not None:
            event.by, event.by_name = cause.by
        elif current is not None and not cause.current_task_unrelated:
            event.by = tasks.number(current)
            event.by_name = tasks.name(current)
        elif origin is not None and origin.by_name is not None:
            event.by_name = origin.by_name
        if request is not None:
            logged = request.nearest_logged()
            if logged is not None:
                event.cause = logged.event.seq
            elif origin is None:
                origin = request.root.origin
                if origin is not None:
                    flatten(origin, event)
        if origin is not None and origin.by_name is None and origin.what == "called":
            event.origin_by_name = event.by_name


def line_in(lines: dict[Place, TaskCancel], place: Place, cause: Cause) -> TaskCancel:
    """What all requests in *place* say that are because of *cause*; *lines* has it by place."""
    known = lines.get(place)
    if known is None:
        for each in [each for each in list(lines) if each.loop_ref() is None]:
            lines.pop(each, None)  # its loop is gone; where there was none, it is made anew
        if len(lines) > _MOST_PLACES:
            lines.clear()
        known = lines[place] = place.new_event(TaskCancel)
        _tell_cause(known, cause)
    return known


def _given_back(state: CancelState) -> None:
    """The group took somebody's request with ``uncancel()`` and gives it back."""
    for request in state.requests:
        if request.stands:
            request.delivered = False


def _made(event: TaskCancel | FutureCancel, cause: Cause) -> Request:
    """The request that *event* tells, tied to those that led to it."""
    request = Request(event, cause.request, cause.owner, cause.origin)
    if cause.request is not None:
        request.depth = cause.request.depth + 1
        if request.depth > _DEEPEST:
            # Each end of a task may be the cause of another's for ever.  The log has them all;
            # in memory the chain goes from here to its root.
            root = cause.request.root.origin
            request.cause, request.depth = None, 0
            if root is not None:
                request.origin = msgspec.structs.replace(root, detail=_by_way_of(root.detail))
    return request


def _by_way_of(detail: str | None) -> str:
    way = f"by way of more than {_DEEPEST} others, which the log tells"
    return way if detail is None or detail.endswith(way) else f"{detail}; {way}"


def _request(event: TaskCancel, cause: Cause) -> Request:
    request = _made(event, cause)
    if cause.taken_back:
        request.taken_back = True
    if cause.dedup_key is not None:
        request.dedup_key = cause.dedup_key
    if cause.forwards and cause.request is not None:
        cause.request.forwarded_as = request
    return request


def _tell_message(event: TaskCancel | FutureCancel, cause: Cause, message: object) -> None:
    """Put what was given to ``cancel()`` into *event*, and into the link of who called it."""
    event.message = message_of(message)
    origin = cause.origin
    if origin is None or (origin.at, origin.source) != (cause.at, cause.source):
        return  # another call led to this one, and that did not say this
    if origin.what == "called":
        event.origin_message = said(event.message)
        cause.origin = msgspec.structs.replace(origin, message=event.origin_message)


def _tell_trace(event: TaskCancel | FutureCancel, ids: Ids | None) -> None:
    """Put in which trace the task is into *event*."""
    if ids is not None:
        event.trace_id, event.span_id, event.parent_span_id, event.span_kind = ids[:4]
        event.trace_sampled = ids.sampled


def _tell_cause(event: TaskCancel | FutureCancel, cause: Cause) -> None:
    """Put what *cause* says of itself into *event*."""
    event.reason = cause.reason
    event.evidence = cause.evidence
    event.at = cause.at
    event.source = cause.source
    if cause.library is not None:
        event.library = cause.library
        event.library_at = cause.library_at
    if cause.detail is not None:
        event.detail = cause.detail
    if cause.cleanup:
        event.cleanup = True
    if cause.connection is not None:
        event.local, event.peer = cause.connection
    if cause.origin is not None:
        flatten(cause.origin, event)
