"""How a task's end, and the way of a CancelledError through it, is seen.

3.12 and later: `sys.monitoring`.  ``PY_RETURN`` on the code of coroutines and
``PY_UNWIND`` say how a task's outermost frame was left, without a callback on
the task.  ``PY_THROW`` hands us the very CancelledError that is delivered.
While one of those is alive, ``EXCEPTION_HANDLED`` and ``RERAISE`` tell which
``except`` line kept it.

3.11, and coroutines that are not made of Python code: a done callback, which is
hidden from ``repr`` and runs in the task's own context.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import weakref
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from types import CodeType, FrameType, TracebackType
from typing import Any

from aioaudit import bus
from aioaudit.chain.obeyed import first_undelivered
from aioaudit.core import Ending, Returned, make_callback, make_returned
from aioaudit.cpython import internals
from aioaudit.cpython.callbacks import context_of
from aioaudit.cpython.frames import getframe, module_at
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.loops import called_by, context_of_handle, ready_handles
from aioaudit.cpython.monitoring import Monitor
from aioaudit.cpython.tasks import (
    PYTHON_TASKS,
    all_tasks,
    callback_of,
    callbacks_of,
    cancelled_by,
    code_of_result,
    coro_of,
    current_task,
    exception_of,
    fut_waiter,
    is_gathered,
    must_cancel,
    of_c,
    result_of,
)
from aioaudit.probes.tasks import OUTSIDE
from aioaudit.recorder.recorder import Recorder
from aioaudit.stack.code import RESUMED
from aioaudit.stack.frames import local
from aioaudit.stack.handlers import HANDLER_CACHE, swallowing_clause, swallowing_line
from aioaudit.state.awaiters import reached_by
from aioaudit.state.requests import HandlerTimer, results_from
from aioaudit.weak import WeakIdMap, dropping

_WAIT_FOR = asyncio.wait_for.__code__
_RESULT = code_of_result()

_MANY = 2000
"""More tasks than this are not searched for the one that awaited another (3.11 under uvloop)."""

_LINGER = 0.1
"""Seconds that the costly events stay on after the last cancellation."""


_SuspensionWatch = tuple[weakref.ref[CodeType], WeakIdMap[None]]
"""A code, and the tasks running it of which it is to be told that they are suspended again."""


class EndMonitor:
    """Ends of tasks as `sys.monitoring` shows them."""

    def __init__(
        self, recorder: Recorder, monitor: Monitor, watch_end: Callable[[Any, Any], None]
    ) -> None:
        """*watch_end* is called with a task whose end only the task itself can tell."""
        self.watch_end = watch_end
        self._recorder = recorder
        self._monitor = monitor
        self.codes = self._codes = monitor.codes
        self._quiet_since = 0.0
        self._costly = False  # whether the costly events are on
        self._next: dict[int, _SuspensionWatch] = {}
        monitor.on("PY_YIELD", self._on_yield)
        asks = recorder.state.cancellations.asks
        for event, callback in (
            ("PY_UNWIND", self._make_unwound()),
            ("PY_THROW", self._make_thrown()),
            ("EXCEPTION_HANDLED", self._make_handled()),
        ):
            monitor.on(event, make_callback(asks, event, callback))
        self._reraised = make_callback(asks, "RERAISE", self._make_reraised())
        monitor.switch(True, "PY_THROW", "PY_UNWIND")

    def refresh(self) -> None:
        """Take in who listens now."""
        self._monitor.on("PY_RETURN", self._make_returned())
        self._monitor.on(
            "RERAISE", self._make_noted() if self._recorder.notes.on else self._reraised
        )

    def watch_code(self, _coro: Any, code: CodeType) -> None:
        """See how coroutines of *code* are left."""
        if id(code) not in self._codes:
            self._monitor.watch_returns(code)

    def watch_task(self, task: Any) -> None:
        """See the end of a task that was asked to cancel."""
        if task.done():
            return
        code = getattr(coro_of(task), "cr_code", None)
        if isinstance(code, CodeType):
            self.watch_code(None, code)

    def track_delivery(self, on: bool) -> None:
        """A CancelledError is on its way through a task, or none is any more.

        Every switch makes CPython instrument all running code anew, so the
        events stay on for a moment: cancellations come in swarms.
        """
        if not on:
            self._quiet_since = monotonic()
        elif not self._costly:
            self._costly = True
            self._monitor.switch(True, "EXCEPTION_HANDLED", "RERAISE")

    def _switch_off(self) -> None:
        """Nothing is under way: an exception handled now is none of ours."""
        if monotonic() - self._quiet_since > _LINGER:
            self._monitor.switch(False, "EXCEPTION_HANDLED", "RERAISE")
            self._costly = False
            cancellations = self._recorder.state.cancellations
            if cancellations.ties or cancellations.asks.flying:  # of another thread, a moment ago
                self.track_delivery(True)

    def _task_of(self, frame: FrameType) -> Any:
        """The task whose outermost frame *frame* is, None where it is none."""
        task = current_task()
        if task is None:
            return None
        return task if getattr(task.get_coro(), "cr_frame", None) is frame else None

    def _make_returned(self) -> Callable[[CodeType, int, object], object]:
        """The callback of ``PY_RETURN``.

        Who listens is built in: whenever that changes, this is made anew.
        """
        recorder = self._recorder
        known = recorder.state.tasks
        return make_returned(
            Ending(
                born=known.born,
                states=known.states,
                asks=known.asks,
                next_seq=recorder.sender.run.next_seq,
                put=recorder.sender.sinks.put,
                returned=Returned,
                remember=known.recently_returned.append,
                plain="task.done" in recorder.sender.selected_events and not bus.hooks(),
                outside=OUTSIDE,
                python_tasks=PYTHON_TASKS,
                of_c=of_c,
                current_task=current_task,
                slow=self._on_return,
            )
        )

    def _on_return(self, task: Any, value: object) -> None:
        recorder = self._recorder
        try:
            if recorder.muted():
                recorder.state.tasks.born.pop(id(task), None)
                return
            state = recorder.state.tasks.find_state(task)
            if (
                state is None
                and id(task) not in recorder.state.tasks.born
                and not recorder.sender.is_active("task.done")
            ):
                return
            cancelled = must_cancel(task)
            if (
                cancelled is UNKNOWN
                and state is not None
                and first_undelivered(state.requests) is not None
            ):
                self.watch_end(task, None)  # a moment later the task itself says it
            elif cancelled is True:
                recorder.on_end(task, "cancelled", None)
            else:
                recorder.on_end(task, "returned", None, result=value)
        except Exception as error:  # noqa: BLE001 - an internal error must not reach a coroutine
            recorder.report_fault(error)

    def watch_next(self, task: Any) -> None:
        """Tell the rules when *task* is suspended again, if ever."""
        code = getattr(task.get_coro(), "cr_code", None)
        if isinstance(code, CodeType):
            key = id(code)
            awaited = self._next.get(key)
            if awaited is None:
                awaited = self._next[key] = dropping(code, self._next, key), WeakIdMap()
            awaited[1][task] = None
            self._monitor.watch_yields(code, True)

    def _on_yield(self, code: CodeType, offset: int, _value: object) -> object:
        """``PY_YIELD``: a coroutine that one of the watched tasks runs is suspended."""
        try:
            task = self._task_of(getframe(1))
            _, watched = self._next[id(code)]
            found = task is not None and task in watched
            for each, _ in list(watched.items()):
                if each is task or each.done():
                    watched.pop(each)
            if not watched:
                del self._next[id(code)]
                self._monitor.watch_yields(code, False)
            if found:
                recorder = self._recorder
                recorder.rules.on_next_suspend(
                    task, recorder.state.codes.of(getframe(1)).at(offset)
                )
        except Exception as fault:  # noqa: BLE001 - an internal error must not reach a coroutine
            self._recorder.report_fault(fault)
        return None

    def _make_unwound(self) -> Callable[[CodeType, int, BaseException], object]:
        """``PY_UNWIND``: an exception leaves a frame, of whatever code."""
        recorder = self._recorder
        ties = recorder.state.cancellations.ties
        born = recorder.state.tasks.born
        codes = self._codes
        outside = OUTSIDE

        def unwound(code: CodeType, _offset: int, error: BaseException) -> object:
            if ties:
                tie = ties.get(id(error))
                if tie is not None:
                    state = tie.state
                    if state is not None and tie.ref() is error:
                        state.swallowed_at = None
                        timer = state.handler_timer
                        if timer is not None and timer.line is not None:
                            timer.leave(monotonic())
            if id(code) not in codes and (
                recorder.state.tasks.creations_seen or not code.co_flags & inspect.CO_COROUTINE
            ):
                return None
            task: Any = current_task()
            if task is None:
                return None
            try:
                made = born.get(id(task))
                # As in `returned`: without a look at frames, where that can be.
                outermost = (
                    made is not None and made.site.runs == id(code) and module_at(2) in outside
                ) or getattr(task.get_coro(), "cr_frame", None) is getframe(1)
                if outermost and not recorder.muted():
                    self._on_unwind(task, error)
            except Exception as fault:  # noqa: BLE001 - an internal error must not reach a coroutine
                recorder.report_fault(fault)
            return None

        return unwound

    def _on_unwind(self, task: Any, error: BaseException) -> None:
        recorder = self._recorder
        if not issubclass(type(error), CancelledError):
            recorder.on_end(task, "raised", error)
            _tell_waits(recorder, task, error)
            return
        tie = recorder.state.cancellations.ties.get(id(error))
        # One that came out of what the task awaited is tied too, but to no request.
        tied = tie is not None and tie.ref() is error and tie.request is not None
        recorder.on_end(
            task,
            "cancelled",
            error,
            by_hand=not tied and _raised_by_hand(error),
            beside_another=not tied and _came_beside_another(error),
        )
        _tell_waits(recorder, task, None)

    def _make_thrown(self) -> Callable[[CodeType, int, BaseException], object]:
        """``PY_THROW``: something is thrown into a coroutine, innermost first."""
        recorder = self._recorder
        tie_of = recorder.state.cancellations.tie_of
        find_state = recorder.state.tasks.find_state

        def thrown(_code: CodeType, _offset: int, error: BaseException) -> object:
            # Its class decides what it is caught as.  What it says of its class may be an error.
            if not issubclass(type(error), CancelledError):
                return None
            try:
                task = current_task()
                if task is None:
                    return None
                state = find_state(task)
                tie = tie_of(error)
                if tie is not None and tie.state is state and state is not None:
                    return None  # a frame further out
                self._deliver(task, state, error, None if tie is None else tie.effective)
            except Exception as fault:  # noqa: BLE001 - an internal error must not reach a coroutine
                recorder.report_fault(fault)
            return None

        return thrown

    def _deliver(self, task: Any, state: Any, error: BaseException, told: Any) -> None:
        """*error* reaches *task*: of its own request, or of one to what it awaited."""
        recorder = self._recorder
        request = None if state is None else state.deliver()
        if state is None:
            state = recorder.state.tasks.state(task)
        beneath = None
        if request is None:
            request = told or state.inherited
            if request is not None:
                state.inherited = request
            self.watch_task(task)
        else:
            if told is None and state.inherited_arriving:
                told = state.inherited
            if told is not None and not results_from(told, request):
                beneath = told
            now = monotonic()
            for each in state.requests:
                if each.delivered and not each.delivered_at:
                    each.delivered_at = now
        state.inherited_arriving = False
        state.swallowed_at = None
        state.handler_timer = None
        recorder.state.cancellations.tie(error, request, state, beneath)
        recorder.notes.on_delivered(error)

    def _make_handled(self) -> Callable[[CodeType, int, BaseException], object]:
        """``EXCEPTION_HANDLED``: any exception, anywhere in the process, comes to a handler.

        A coroutine that lets a CancelledError through has several: its own
        ``finally`` or ``with``, and those that the compiler puts around each
        ``await`` and around the whole.
        """
        ties = self._recorder.state.cancellations.ties
        ties_get = ties.get
        known_get = HANDLER_CACHE.get

        def handled(code: CodeType, offset: int, error: BaseException) -> object:
            tie = ties_get(id(error))
            if tie is None:
                if not ties:
                    self._switch_off()
                return None
            state = tie.state
            if state is None or tie.ref() is not error:
                return None
            try:
                # Instructions lie inside their code, so the sum is the address of one.
                keeper = known_get(id(code) + offset)
                if keeper is None:
                    keeper = swallowing_clause(code, offset)
                line = swallowing_line(getframe(1), code, offset, error) if keeper[1] else keeper[2]
                state.swallowed_at = line
                if line is not None:
                    timer = state.handler_timer
                    if timer is None:
                        timer = state.handler_timer = HandlerTimer()
                    timer.enter(line, monotonic())
            except Exception as fault:  # noqa: BLE001 - an internal error must not reach a coroutine
                self._recorder.report_fault(fault)
            return None

        return handled

    def _make_reraised(self) -> Callable[[CodeType, int, BaseException], object]:
        """``RERAISE``: who handled the exception lets it go on."""
        ties_get = self._recorder.state.cancellations.ties.get

        def reraised(_code: CodeType, _offset: int, error: BaseException) -> object:
            tie = ties_get(id(error))
            if tie is not None:
                state = tie.state
                if state is not None and tie.ref() is error:
                    state.swallowed_at = None
                    timer = state.handler_timer
                    if timer is not None and timer.line is not None:
                        timer.leave(monotonic())
            return None

        return reraised

    def _make_noted(self) -> Callable[[CodeType, int, BaseException], object]:
        """``RERAISE`` where errors get notes: also those that replace a CancelledError."""
        reraised = self._reraised
        ties = self._recorder.state.cancellations.ties
        on_reraised = self._recorder.notes.on_reraised

        def noted(code: CodeType, offset: int, error: BaseException) -> object:
            if ties and id(error) not in ties:
                on_reraised(error)
            return reraised(code, offset, error)

        return noted


def _raised_at(error: BaseException) -> TracebackType | None:
    """Where *error* was raised; None where that cannot be told.

    Of a future of the Python class that was cancelled it cannot: the frame of ``result()`` is
    the innermost one whether the task awaited it or called that (``Task.__wakeup`` in
    Lib/asyncio/tasks.py calls it, too, and throws what it raises).
    """
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return None if step is None or step.tb_frame.f_code is _RESULT else step


def _instruction(step: TracebackType) -> str:
    """The name of the instruction at which *step* was left."""
    code = step.tb_frame.f_code.co_code
    at = step.tb_lasti
    if not 0 <= at < len(code):
        return ""
    # 3.11 leaves a frame that called a Python function behind the caches of its ``CALL``
    # (``JUMPBY(INLINE_CACHE_ENTRIES_CALL)`` in Python/ceval.c).
    while at > 0 and dis.opname[code[at]] == "CACHE":
        at -= 2
    return dis.opname[code[at]]


def _raised_by_hand(error: BaseException) -> bool:
    """Whether a ``raise`` statement made *error*, rather than the ``result()`` of a future."""
    step = _raised_at(error)
    return step is not None and _instruction(step) in ("RAISE_VARARGS", "RERAISE")


def _came_beside_another(error: BaseException) -> bool:
    """Whether *error* came while another CancelledError was handled, and no ``raise`` made it."""
    return isinstance(error.__context__, CancelledError) and not _raised_by_hand(error)


def _came_out_of_a_call(error: BaseException) -> bool:
    """Whether the task called what raised *error*, as the ``result()`` of a cancelled future."""
    step = _raised_at(error)
    if step is None or not _instruction(step).startswith("CALL"):
        return False
    if step.tb_frame.f_code.co_flags & RESUMED:
        return True
    # A function that the task called, then, and not the ``Task.__wakeup`` that threw it.
    caller = error.__traceback__
    while caller is not None and caller.tb_next is not step:
        caller = caller.tb_next
    return caller is not None and _instruction(caller).startswith("CALL")


def _delivered(error: BaseException) -> bool:
    """Whether *error* may have been delivered, or one that was handled when it came.

    A CancelledError is delivered where a coroutine waits (``gen_send_ex`` in
    Objects/genobject.c throws it in there), so one that comes from a ``raise`` statement or
    from a call was not.
    """
    for _ in range(100):
        if not (_raised_by_hand(error) or _came_out_of_a_call(error)):
            return True
        further = error.__cause__ or error.__context__
        if not isinstance(further, CancelledError):
            return False
        error = further
    return True


class EndCallbacks:
    """Ends of tasks as a done callback tells them: 3.11, and coroutines of other make."""

    def __init__(self, recorder: Recorder, adders: dict[Any, Callable[..., None]]) -> None:
        """*adders* has each future class's own ``add_done_callback``."""
        self._recorder = recorder
        self._adders = adders
        self._watched: WeakIdMap[None] = WeakIdMap()

    def _add(self, task: Any, context: Any) -> None:
        for cls, add in self._adders.items():
            if isinstance(task, cls):
                add(task, self.on_done, context=context)
                return

    def watch_end(self, task: Any, context: Any) -> None:
        """Be told of *task*'s end, in *context*: its own, where that is known already."""
        if task.done():  # it ran inside its own making
            self.on_done(task)
            return
        self._add(task, context_of(task) if context is None else context)

    def watch_task(self, task: Any) -> None:
        """Be told of the end of a task that was asked to cancel, if we are not yet."""
        if id(task) in self._recorder.state.tasks.born or task.done():
            return
        if task not in self._watched:
            self._watched[task] = None
            self._add(task, context_of(task))

    def catch_up(self, loop: Any) -> None:
        """Hear the ends that *loop* has not told and never will: it runs no more."""
        for handle in list(ready_handles(loop) or ()):
            call = called_by(handle)
            if call is not UNKNOWN and call[0] == self.on_done and not handle.cancelled():
                context = context_of_handle(handle)
                if context is not None:
                    context.run(self.on_done, *call[1])

    def on_done(self, task: Any) -> None:
        """The done callback."""
        recorder = self._recorder
        try:
            if recorder.muted():
                recorder.state.tasks.born.pop(id(task), None)
                return
            state = recorder.state.tasks.find_state(task)
            if task.cancelled():
                waiters = _about_to_wake(task)
                known = state is not None and (state.requests or state.inherited is not None)
                error = cancelled_by(task)
                tie = None if error is None else recorder.state.cancellations.tie_of(error)
                # Somebody asked whose it is while it was handled.
                tied = tie is not None and tie.state is state and tie.request is not None
                own = error is not None and not tied and not _delivered(error)
                by_hand = own and error is not None and _raised_by_hand(error)
                if own and state is not None and must_cancel(task) is False:
                    state.deliver()
                recorder.on_end(
                    task,
                    "cancelled",
                    error if own or tied else None,
                    by_hand=by_hand or not known,
                    beside_another=error is not None and not tied and _came_beside_another(error),
                    came_with=None if tie is None or tied else tie.effective,
                )
                if error is not None and not (own or tied):
                    # Whoever awaits the task gets this very error (``future_get_result`` in
                    # Modules/_asynciomodule.c).
                    recorder.state.cancellations.tie(
                        error,
                        recorder.state.cancellations.obeyed_by(task),
                        recorder.state.tasks.state(task),
                    )
                    recorder.notes.on_delivered(error)
                if known and not own:
                    request = recorder.state.cancellations.obeyed_by(task)
                    recorder.state.cancellations.pass_on(
                        recorder.felt_by(waiters, request), request
                    )
                _tell_waits_late(recorder, task, None)
            else:
                self._send_end(task)
        except Exception as error:  # noqa: BLE001 - an internal error must not reach the loop
            recorder.report_fault(error)

    def _send_end(self, task: Any) -> None:
        """*task* was not cancelled."""
        error = exception_of(task)
        recorder = self._recorder
        if error is UNKNOWN:  # nothing is told rather than a guess
            recorder.state.tasks.born.pop(id(task), None)
        elif error is not None:
            recorder.on_end(task, "raised", error)
            _tell_waits_late(recorder, task, error)
        else:
            result = result_of(task)
            recorder.on_end(task, "returned", None, result=None if result is UNKNOWN else result)


def _tell_waits(recorder: Recorder, task: Any, error: BaseException | None) -> None:
    """Tell who waits for *task* by ``asyncio.wait()`` that it ends with *error*, None: cancelled."""
    entries = callbacks_of(task)
    if entries and entries is not UNKNOWN:
        recorder.state.waits.on_end(task, map(callback_of, entries), error)


def _tell_waits_late(recorder: Recorder, task: Any, error: BaseException | None) -> None:
    """The same once it has ended: where its callbacks stand, see `_about_to_wake`."""
    ready = ready_handles(task.get_loop()) or ()
    try:
        callbacks = list(_calls_about(task, ready))
    except RuntimeError:  # a signal's handler added to it meanwhile
        callbacks = list(_calls_about(task, list(ready)))
    recorder.state.waits.on_end(task, callbacks, error)


def _calls_about(task: Any, ready: Iterable[Any]) -> Iterator[Any]:
    """What the first of the *ready* handles call with *task*."""
    for handle in ready:
        call = called_by(handle)
        if call is UNKNOWN or not call[1] or call[1][0] is not task:
            return
        yield call[0]


def _about_to_wake(task: Any) -> list[Any]:
    """The tasks that awaited *task*, which has just ended.

    Its callbacks are gone by now: they stand in the loop's queue, right behind
    the one that runs.  uvloop and trio-asyncio do not show that queue; there the
    tasks are asked what they wait for, unless they are very many.
    """
    loop = task.get_loop()
    ready = ready_handles(loop)
    found = None
    if ready is not None:
        try:
            found = _woken_by(task, ready)
        except RuntimeError:  # a signal's handler added to it meanwhile
            found = _woken_by(task, list(ready))
    if found is not None:
        return found
    tasks = all_tasks(loop)
    if len(tasks) > _MANY:
        return []
    return [each for each in tasks if _waits_for(each, task)]


def _woken_by(task: Any, ready: Iterable[Any]) -> list[Any] | None:
    """The tasks that the first of the *ready* handles wake, those of *task*; None: not known."""
    found: list[Any] = []
    for handle in ready:
        call = called_by(handle)
        if call is UNKNOWN:
            return None
        callback, args = call
        if not args or args[0] is not task:
            break
        found.extend(reached_by(callback))
    return found


def _waits_for(task: Any, awaited: Any) -> bool:
    waiter = fut_waiter(task)
    if waiter is awaited or is_gathered(awaited, waiter):
        return True
    # ``wait_for`` of 3.11 waits for a future of its own.
    coro = coro_of(task)
    for _ in range(100):
        frame = getattr(coro, "cr_frame", None)
        if frame is None:
            return False
        if frame.f_code is _WAIT_FOR:
            return local(frame, internals.WAIT_FOR_FUT.name) is awaited
        coro = coro.cr_await
    return False
