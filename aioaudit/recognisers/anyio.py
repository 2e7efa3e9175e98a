"""anyio's calls of ``cancel()``: scopes and task groups on asyncio (anyio 4.6 to 4.16).

A scope calls ``cancel()`` on a task again and again until the task has left it, most of
the time from a callback of its own, when nothing on the stack says any more who
cancelled the scope.  So the question is asked when ``CancelScope.cancel`` is called,
and the answer kept as long as the scope lives: for this, and for the line that
entered a scope with a deadline, two methods of the scope are probed once anyio's
asyncio backend has been imported.

What a scope does has the reason ``scope``, and the root says why it did it.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any

import msgspec

from aioaudit.chain.links import Link
from aioaudit.cpython.frames import current_frames, getframe
from aioaudit.cpython.internals import Internal
from aioaudit.cpython.tasks import current_task
from aioaudit.cpython.threads import name_of_thread
from aioaudit.recognisers.call import Call, seconds
from aioaudit.recognisers.probing import Probing
from aioaudit.recognisers.uncancels import CANCELLING_AT_ENTER
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause
from aioaudit.text import clean
from aioaudit.weak import WeakIdMap

_BACKEND = "anyio._backends._asyncio"
_REASON = "scope"


@dataclass(slots=True, eq=False)
class _Cancelled:
    """Why a scope was cancelled; stands for the one request that it makes to each task."""

    cause: Cause
    by: tuple[int, str] | None


@dataclass(slots=True, eq=False)
class _Entered:
    """The line that entered a scope, and how long after that its deadline was to be."""

    at: str | None
    source: str | None
    seconds: float


_cancelled: WeakIdMap[_Cancelled] = WeakIdMap()
_entered: WeakIdMap[_Entered] = WeakIdMap()
_delays: WeakIdMap[tuple[float, float]] = WeakIdMap()
"""The deadlines that scopes were made with which are not entered yet, and their seconds."""

_HOLD_FUTURE = {
    "Future.result": "self",
    "BlockingPortal.start_task_soon": "f",
    "AsyncIOBackend.run_sync_from_thread": "f",
}
"""The functions in which a thread is that has the loop call something, and where its future is there."""

_WAITS_IN = 20
"""At most this many frames of Python's own lie inside of one that waits for a future."""

_MAKERS = 6
"""At most this many frames lie between the making of a scope and ``fail_after``."""


# -- the call sites --------------------------------------------------------------------


def delivered(frame: FrameType, call: Call) -> Cause:
    """``CancelScope._deliver_cancellation``: a scope's cancellation reaches a task."""
    scope = local(frame, "origin")
    known = _cancelled.get(scope)
    if known is None:
        return Cause(
            reason=_REASON,
            owner=id(scope),
            detail="it was not seen who cancelled the scope",
            current_task_unrelated=True,
        )
    return msgspec.structs.replace(
        known.cause,
        owner=id(scope),
        dedup_key=known,
        by=known.by,
        current_task_unrelated=known.by is None,
        taken_back=scope._host_task is call.victim,
    )


def deadline(frame: FrameType, call: Call) -> Cause:
    """``CancelScope._timeout``: the scope's deadline has passed."""
    scope = local(frame, "self")
    entered = _entered.get(scope)
    if entered is None:
        origin = Link(what="deadline", reason="timeout")
        return Cause(reason=_REASON, origin=origin, current_task_unrelated=True)
    return Cause(
        reason=_REASON,
        origin=Link(
            what="deadline",
            reason="timeout",
            at=entered.at,
            source=entered.source,
            seconds=entered.seconds,
            detail=call.lateness(scope._deadline),
        ),
        at=entered.at,
        source=entered.source,
        current_task_unrelated=True,
    )


def child_ended(frame: FrameType, call: Call) -> Cause | None:
    """``TaskGroup._spawn.<locals>.task_done``: a child failed, or was cancelled from outside."""
    task, error = local(frame, "_task"), local(frame, "exc")
    if error is None:
        return None
    if isinstance(error, CancelledError):
        return call.by_request(_REASON, call.obeyed_by(task))
    return call.by_failure(_REASON, task, error)


def group_left(frame: FrameType, call: Call) -> Cause | None:
    """``TaskGroup.__aexit__``: the body failed, or the task that runs it was cancelled."""
    error = local(frame, "exc") or local(frame, "exc_val")
    if error is None:
        return None
    if isinstance(error, CancelledError):
        return call.by_request(_REASON, error)
    return call.by_failure(_REASON, local(frame, "self").cancel_scope._host_task, error)


def connected(frame: FrameType, call: Call) -> Cause:
    """``connect_tcp``: one attempt to connect won, the others are not needed."""
    return call.by_caller("anyio.race", frame, "another attempt to connect was faster")


def called_by_thread(frame: FrameType, call: Call) -> Cause | None:
    """``BlockingPortal._call_func``: a thread had the portal call what cancels, and waits for that."""
    return _by_waiting_thread(local(frame, "future"), call)


def run_by_thread(frame: FrameType, call: Call) -> Cause | None:
    """``run_sync_from_thread.<locals>.wrapper``: the same of ``from_thread.run_sync``."""
    return _by_waiting_thread(local(frame, "f"), call)


def _by_waiting_thread(future: Any, call: Call) -> Cause | None:
    """The line of the thread that waits for *future*; None where none does.

    That of a ``start_task_soon`` may be gone already, and most often is not.
    """
    for ident, innermost in current_frames().items():
        step: FrameType | None = innermost
        for _ in range(_WAITS_IN):
            if step is None:
                break
            held = _HOLD_FUTURE.get(step.f_code.co_qualname)
            if held is not None and local(step, held) is future:
                at, source = call.caller(step)
                name = name_of_thread(ident)
                origin = Link(what="called", reason="thread", at=at, source=source, by_name=name)
                return Cause(
                    reason="thread",
                    origin=origin,
                    at=at,
                    source=source,
                    current_task_unrelated=True,
                    thread=name,
                )
            step = step.f_back
    return None


CALL_SITES = {
    ("anyio.from_thread", "BlockingPortal._call_func"): called_by_thread,
    (_BACKEND, "AsyncIOBackend.run_sync_from_thread.<locals>.wrapper"): run_by_thread,
    ("anyio._core._sockets", "connect_tcp.<locals>.try_connect"): connected,
    (_BACKEND, "CancelScope._deliver_cancellation"): delivered,
    (_BACKEND, "CancelScope._timeout"): deadline,
    (_BACKEND, "TaskGroup._spawn.<locals>.task_done"): child_ended,
    (_BACKEND, "TaskGroup.__aexit__"): group_left,
}
"""Call sites by module and qualified name."""

INTERNALS = (
    Internal(
        "_host_task",
        f"{_BACKEND}:CancelScope",
        "the task that a scope belongs to",
        "which requests of scopes their tasks take back",
    ),
    Internal(
        "_deadline",
        f"{_BACKEND}:CancelScope",
        "when a scope's time is over",
        "where a scope with a deadline was entered, and its seconds",
    ),
    Internal(
        "_cancel_called",
        f"{_BACKEND}:CancelScope",
        "whether a scope was cancelled already",
        "who cancelled a scope",
    ),
    CANCELLING_AT_ENTER,
)
"""The attributes that are read here, which the library promises nobody."""


# -- the probes ------------------------------------------------------------------------


PROBES = ((_BACKEND, "CancelScope.cancel"), (_BACKEND, "CancelScope._timeout"))
"""What `install` replaces."""


def install(module: ModuleType, probing: Probing) -> None:
    """Probe the scopes of anyio's asyncio backend, which is *module*."""
    _cancelled.clear()
    _entered.clear()
    _delays.clear()
    scope = module.CancelScope
    probing.put(scope, "__init__", _make_init(probing, vars(scope)["__init__"]))
    probing.put(scope, "cancel", _make_cancel(probing, vars(scope)["cancel"]))
    probing.put(scope, "_timeout", _make_timeout(probing, vars(scope)["_timeout"]))


def _make_init(probing: Probing, original: Callable[..., None]) -> Callable[..., None]:
    """``CancelScope.__init__``: where the seconds still stand as the program wrote them.

    Later there is only the deadline: less the time when the scope is entered, it is short
    by however long the process did something else in between.
    """

    def __init__(self: Any, *args: Any, **keywords: Any) -> None:  # noqa: N807 - it takes the place of one
        original(self, *args, **keywords)
        try:
            if self._deadline != math.inf:
                delay = _delay(getframe(1))
                if delay is not None:
                    _delays[self] = self._deadline, delay
        except Exception as error:  # noqa: BLE001 - an internal error must not reach the program
            probing.report_fault(error)

    return __init__


def _delay(frame: FrameType | None) -> float | None:
    """The argument of ``move_on_after`` or ``fail_after``, if one of them makes a scope."""
    for _ in range(_MAKERS):
        if frame is None:
            return None
        if frame.f_code.co_qualname in ("move_on_after", "fail_after"):
            return float(local(frame, "delay"))
        frame = frame.f_back
    return None


def _make_cancel(probing: Probing, original: Callable[..., Any]) -> Callable[..., Any]:
    """``CancelScope.cancel`` that finds out who calls it."""

    def cancel(self: Any, *args: Any, **keywords: Any) -> Any:
        try:
            if not self._cancel_called and not probing.muted():
                reason = keywords.get("reason", args[0] if args else None)
                _note_cancel(probing, self, reason, getframe(1))
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a scope alive
            probing.report_fault(error)
        return original(self, *args, **keywords)

    return cancel


def _note_cancel(probing: Probing, scope: Any, reason: object, frame: FrameType) -> None:
    current = current_task()
    cause = probing.explain_scheduled(scope, frame, reason)
    if cause.reason in ("explicit", "native", "unknown", "thread"):
        # Code of the program or of a library called: the scope is what cancels the tasks.
        if cause.reason != "thread":
            cause.reason = _REASON
        if isinstance(reason, str) and reason:
            cause.detail = clean(reason)
        if cause.origin is not None and cause.origin.what == "called":
            cause.origin = msgspec.structs.replace(
                cause.origin,
                reason=cause.reason,
                at=cause.at,
                source=cause.source,
                detail=cause.detail,
            )
    by = None
    if current is not None and not cause.current_task_unrelated:
        by = probing.number_and_name(current)
    _cancelled[scope] = _Cancelled(cause, by)


def _make_timeout(probing: Probing, original: Callable[..., Any]) -> Callable[..., Any]:
    """``CancelScope._timeout``, which is called on entering, by a new deadline, by the timer."""

    def _timeout(self: Any) -> Any:
        try:
            if self._deadline != math.inf:
                _note_entered(probing, self, getframe(1))
        except Exception as error:  # noqa: BLE001 - an internal error must not disarm a deadline
            probing.report_fault(error)
        return original(self)

    return _timeout


def _note_entered(probing: Probing, scope: Any, frame: FrameType) -> None:
    if frame.f_code.co_name not in ("__enter__", "deadline"):
        return  # the timer
    deadline, delay = _delays.pop(scope) or (None, 0.0)
    note = _entered.get(scope)
    if deadline != scope._deadline:
        delay = scope._deadline - asyncio.get_running_loop().time()
    if note is not None:
        note.seconds = seconds(delay)
        return
    found = probing.caller(frame.f_back)
    at, source = (None, None) if found is None else found
    _entered[scope] = _Entered(at, source, seconds(delay))
