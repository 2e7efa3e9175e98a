"""Requests to cancel on their way: which are being made, which error delivers which of them.

What a request is, and what a task keeps of those made to it, is in
`aioaudit.state.requests`; whose an error is and which request an end obeyed, in
`aioaudit.state.verdict`.
"""

from __future__ import annotations

import weakref
from asyncio import CancelledError
from collections.abc import Callable, Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit.chain.obeyed import first_undelivered
from aioaudit.core import Asks
from aioaudit.cpython.behaviour import HAS_MONITORING
from aioaudit.cpython.frames import getframe
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.tasks import current_task, fut_waiter, must_cancel
from aioaudit.delivery.records import cancel_event
from aioaudit.events import TaskCancel
from aioaudit.stack.frames import frame_handling
from aioaudit.state.awaiters import waiters_of
from aioaudit.state.places import reference
from aioaudit.state.requests import CancelState, HandlerTimer, Request, Tie, results_from
from aioaudit.state.verdict import infer_delivered, leading_to
from aioaudit.threads import get_ident

if TYPE_CHECKING:
    from aioaudit.core import Asked
    from aioaudit.state.tasks import Tasks


class _KeyedRef(weakref.ref[Any]):
    """A weak reference that knows the key of the entry that is to go with its object."""

    __slots__ = ("key",)

    key: int


def _keyed(target: Any, callback: Callable[[_KeyedRef], None], key: int) -> _KeyedRef:
    ref = _KeyedRef(target, callback)
    ref.key = key
    return ref


def _nobody(_argument: Any) -> None:
    """Stands for whoever is to be told, where nobody is yet."""


def _nobody_of(_state: CancelState, _request: Request) -> None:
    """The same, of what has two arguments."""


class Cancellations:
    """The requests that are being made, and the errors that deliver those that were."""

    deliveries_seen: bool = HAS_MONITORING
    """Whether it is seen when a CancelledError is delivered: not without `sys.monitoring`."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self.active: dict[int, list[Request]] = {}
        """By thread: the requests whose ``cancel()`` runs, each inside the one before it."""
        self.ties: dict[int, Tie] = {}
        """By the `id` of a CancelledError: what it delivers.  Look at it through `tie_of`."""
        self.doubts: dict[int, Any] = {}
        """As long as there are any, a line that called may not be all there is to say."""
        self.changes = 0
        """Counts ends, deliveries and what is taken back."""
        self.interpreter_ending = False
        """Whether the interpreter may be going down: nothing more can be relied on then."""
        self.watch_end: Callable[[Any], None] = _nobody
        """Is to see the end of a task that was asked to cancel."""
        self.track_delivery: Callable[[bool], None] = _nobody
        """Is told when the first CancelledError is on its way, and when none is any more."""
        self.on_error_released: Callable[[CancelState, Request], None] = _nobody_of
        """Is told when an error that delivered a request is gone, of a task that lives."""
        ties = self.ties

        # One function for all: a closure for each error would cost as much as its tie.
        def forget_tie(ref: _KeyedRef) -> None:
            entry = ties.get(ref.key)
            if entry is not None and entry.ref is ref:
                del ties[ref.key]
                if not ties and not self.interpreter_ending:
                    self.track_delivery(False)
                state = entry.state
                if state is not None and not self.interpreter_ending:
                    state.errors -= 1
                    if entry.request is not None and not state.ended:
                        self.on_error_released(state, entry.request)

        self._forget_tie = forget_tie
        self.asks = tasks.asks = Asks(
            born=tasks.born,
            states=tasks.states,
            ties=ties,
            active=self.active,
            doubts=self.doubts,
            adopt=self.adopt,
            released=self._on_released,
        )
        """The requests that the core has taken in by itself."""
        tasks.adopt = self.adopt

    def after_fork(self) -> None:
        """This is a forked child: the parent's other threads are not there."""
        self.active.clear()
        self.doubts.clear()
        for record in self.asks.pending():  # what is told of them from now on is of another run
            self.adopt(record)

    # -- inside cancel() ----------------------------------------------------------

    def nested(self) -> Request | None:
        """The request in whose ``cancel()`` this thread is."""
        stack = self.active.get(get_ident())
        return stack[-1] if stack else None

    def enter(self, request: Request, *, forwards: bool = False) -> None:
        """*request* is made: its ``cancel()`` begins in this thread.

        *forwards* says that the one around it, if that is its cause, has become this one.
        """
        ident = get_ident()
        stack = self.active.get(ident)
        if stack is None:
            self.active[ident] = [request]
            return
        if forwards and stack and request.cause is stack[-1]:
            stack[-1].forwarded_as = request
        stack.append(request)

    def leave(self) -> None:
        """The ``cancel()`` that began last in this thread is over."""
        ident = get_ident()
        stack = self.active.get(ident)
        if stack:  # else it has forked inside
            stack.pop()
        if not stack:
            self.active.pop(ident, None)

    # -- what the core has taken in by itself --------------------------------------

    @property
    def moment(self) -> int:
        """Another number after each end and delivery, and after what is taken back."""
        return self.changes + self.asks.changes

    def adopt(self, record: Asked) -> CancelState:
        """From now on *record* is known like any other request, as if it had been all along."""
        task = record.task
        made = record.born
        origin = record.line[4]
        if record.late is not None:
            origin = msgspec.structs.replace(origin, detail=record.late)
        request = Request(cancel_event(record), None, record.owner, origin)
        request.taken_back = record.owner is not None
        request.victim = record.key
        request.requested_at = record.requested_at
        request.delivered = record.delivered
        request.delivered_at = record.delivered_at
        if task is None:  # and the error that delivered it is all there is
            state = CancelState(record.task_ref, made.task, made.coro, preexisting=False)
        else:
            state = self._tasks.new_state(task, made.task, made.coro, preexisting=False)
        state.requests.append(request)
        if record.delivered:
            state.current = request
        state.swallowed_at = record.swallowed_at
        if record.timed:
            state.handler_timer = timer = HandlerTimer()
            timer.line, timer.since = record.entered, record.since
            timer.at, timer.seconds = record.slow_at, record.seconds
        if record.left is not None:
            state.take_back(request, 0)
            state.last_absorbed = request
            request.absorbed_at = record.left[2]
        if record.ended:
            state.ended = True
            state.outcome, state.cancel_outcome = (
                ("cancelled", "obeyed") if record.left is None else ("returned", "absorbed")
            )
        # At once, when all of it is there: a signal's handler may ask about the task, or raise.
        if task is not None:
            self._tasks.states[record.key] = state
        error = self.asks.let_go(record)
        if error is not None:
            self._add_tie(error, request, state)
            tie = self.ties.get(id(error))
            if tie is not None and record.left is not None:
                tie.timeout = request
        return state

    def adopt_behind(self, error: BaseException | None) -> None:
        """Have all known that *error* delivers, or one that led to it."""
        if self.asks.flying:
            for each in leading_to(error):
                record = self.asks.of_error(each)
                if record is not None:
                    self.adopt(record)

    def _on_released(self, record: Asked) -> None:
        """The error that delivered *record* to a task that lives is gone."""
        if not self.interpreter_ending:
            state = self.adopt(record)
            self.on_error_released(state, state.requests[0])

    # -- errors -------------------------------------------------------------------

    def tie_of(self, error: BaseException) -> Tie | None:
        """What ties the CancelledError *error* to a request, None where nothing does."""
        tie = self.ties.get(id(error))
        if tie is None:
            record = self.asks.of_error(error)
            if record is None:
                return None
            self.adopt(record)
            tie = self.ties.get(id(error))
        return tie if tie is not None and tie.ref() is error else None

    def tie(
        self,
        error: BaseException,
        request: Request | None,
        state: CancelState | None,
        beneath: Request | None = None,
    ) -> None:
        """Remember that *error* delivers *request*, as long as *error* lives."""
        self.changes += 1
        key = id(error)
        known = self.ties.get(key)
        if known is not None and known.ref() is error:
            if known.state is not None:
                known.state.errors -= 1
            known.request, known.state, known.beneath = request, state, beneath
            known.timeout, known.concluded = None, False
            if state is not None:
                state.errors += 1
            return
        self._add_tie(error, request, state, beneath)

    def _add_tie(
        self,
        error: BaseException,
        request: Request | None,
        state: CancelState | None,
        beneath: Request | None = None,
    ) -> None:
        ties = self.ties
        key = id(error)
        try:
            ref = _keyed(error, self._forget_tie, key)
        except TypeError:
            return
        ties[key] = Tie(ref, request, state, beneath)
        if state is not None:
            state.errors += 1
        if len(ties) == 1:
            self.track_delivery(True)

    def request_of(self, error: BaseException, task: Any = None) -> Request | None:
        """The request that the CancelledError *error* stands for now, None where unknown.

        *task* is the one that handles it: before 3.12 nothing ties the two, and
        the request that was on its way to that task is the answer.
        """
        tie = self.tie_of(error)
        request = None if tie is None else tie.effective
        if self.deliveries_seen or task is None or not isinstance(error, CancelledError):
            return request
        if not _is_handled_here(error):
            return request  # never raised, or kept by whom it was delivered to
        state = self._tasks.find_state(task)
        if state is None:
            return request
        if tie is not None and tie.state is state:
            return request
        request = infer_delivered(state, request)
        if request is None:
            return None
        self.tie(error, request, state)
        self.ties[id(error)].concluded = state.concluded
        return request.effective

    def source(self, error: BaseException) -> str | None:
        """``module:qualname`` of the caller at the root of the chain that led to *error*."""
        request = self.request_of(error, current_task())
        return None if request is None else request.source

    # -- requests -----------------------------------------------------------------

    def obeyed_by(self, task: Any) -> Request | None:
        """The request that ended the task or future *task*."""
        state = self._tasks.find_state(task)
        return None if state is None else state.answer

    def last_request_from(self, owner: Any, task: Any) -> Request | None:
        """The last request that the object *owner* made to *task*."""
        state = self._tasks.find_state(task)
        if state is None:
            return None
        return next((each for each in reversed(state.requests) if each.owner == id(owner)), None)

    def first_undelivered(self, task: Any) -> Request | None:
        """The request that *task* has not felt yet."""
        state = self._tasks.find_state(task)
        return None if state is None else first_undelivered(state.requests)

    def accept(self, task: Any, request: Request) -> None:
        """*request* goes ahead: from now on the task's end may be its doing."""
        event = request.event
        if not isinstance(event, TaskCancel):
            return
        if not event.accepted:
            if request.times == 1:
                self._tasks.states[id(task)].add_late(request)
            return
        state = self._tasks.states[id(task)]  # there since the request was made
        if request.times == 1:
            state.add(request)
            if id(task) not in self._tasks.born:  # else its end is seen already
                self.watch_end(task)
        if not self.deliveries_seen:
            waiter = fut_waiter(task)
            request.awaited_ref = None if waiter is None or waiter is UNKNOWN else reference(waiter)
            if request.times == 1:
                # Those that await it already wake up before we hear of its end.
                self.pass_on(waiters_of(task), request)

    def pass_on(self, waiters: Iterable[Any], request: Request | None) -> None:
        """What *waiters* await was cancelled by *request*: it will reach them."""
        if request is None:
            return
        for task in waiters:
            state = self._tasks.state(task)
            if not self.deliveries_seen:
                self.infer_delivery(task, state)
            waiter = fut_waiter(task)
            if not _comes_second(state, waiter, request):
                state.inherited = request
                state.inherited_arriving = True
                state.awaited_ref = (
                    None if waiter is None or waiter is UNKNOWN else reference(waiter)
                )
            if request.awaiting_tasks is None:
                request.awaiting_tasks = []
            request.awaiting_tasks.append(state)
            self.watch_end(task)

    def infer_delivery(self, task: Any, state: CancelState) -> None:
        """Before 3.12 no delivery is seen: tell from what the task waits for now."""
        first = first_undelivered(state.requests)
        if first is None or must_cancel(task) is not False:
            return
        waiter = fut_waiter(task)
        if waiter is UNKNOWN:
            return
        if waiter is None or first.awaited_ref is None or first.awaited_ref() is not waiter:
            state.deliver()


def _comes_second(state: CancelState, waiter: Any, request: Request) -> bool:
    """Whether another error than that of *request* is on its way already to whoever awaits *waiter*.

    ``gather`` ends with the first of its children that is cancelled (``_done_callback`` in
    Lib/asyncio/tasks.py does nothing once ``outer.done()``), and callbacks run in order.  What only
    followed from the earlier request tells more than that one.
    """
    earlier = state.inherited
    return (
        state.inherited_arriving
        and earlier is not None
        and state.awaited_ref is not None
        and state.awaited_ref() is waiter
        and not results_from(request, earlier)
    )


def _is_handled_here(error: BaseException) -> bool:
    """Whether a frame below the caller handles *error*, or has let it through."""
    handler = frame_handling(error)
    frame: FrameType | None = getframe(1)
    while handler is not None and frame is not None:
        if frame is handler:
            return True
        frame = frame.f_back
    return False
