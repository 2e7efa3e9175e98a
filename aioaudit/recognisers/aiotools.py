"""aiotools' calls of ``cancel()``: its timeouts, scopes and groups (aiotools 2.2).

Which line entered a timeout or a scope, and who cancelled the host of a scope that holds
cancellations back, is on no stack when they cancel: three methods are probed for it, once the
modules that they are in have been imported.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

import msgspec

from aioaudit.chain.links import Link
from aioaudit.cpython.callbacks import gather_of, owner_of
from aioaudit.cpython.frames import getframe
from aioaudit.cpython.internals import UNKNOWN, Internal
from aioaudit.cpython.tasks import callback_of, callbacks_of, current_task
from aioaudit.recognisers.call import Call, seconds
from aioaudit.recognisers.probing import Probing
from aioaudit.recognisers.stdlib import timeout_expired
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause
from aioaudit.weak import WeakIdMap

_TIMEOUTS = "aiotools.timeouts"
_SCOPES = "aiotools.taskscope"
_GROUPS = "aiotools.taskgroup.persistent"
_SCOPE = "aiotools.scope"
_GROUP = "aiotools.group"

_entered: WeakIdMap[tuple[str | None, str | None]] = WeakIdMap()
"""The line that entered a scope with a timeout."""

_held: WeakIdMap[list[Cause]] = WeakIdMap()
"""What the host of a shielded scope was cancelled for meanwhile."""


# -- scopes ----------------------------------------------------------------------------


def scope_expired(frame: FrameType, call: Call) -> Cause:
    """``TaskScope._on_timeout``: the time of a scope is over, for its host and its tasks."""
    scope = local(frame, "self")
    at, source = _entered.get(scope, (None, None))
    host = scope._host_task is call.victim
    return Cause(
        reason="timeout" if host else _SCOPE,
        origin=Link(
            what="deadline",
            reason="timeout",
            at=at,
            source=source,
            seconds=seconds(float(scope._timeout)),
        ),
        owner=id(scope),
        taken_back=host,
        at=at,
        source=source,
        current_task_unrelated=True,
    )


def scope_aborted(frame: FrameType, call: Call) -> Cause | None:
    """``TaskScope.abort``: by its timeout, its body, its host's end, or by somebody's call."""
    outer = frame.f_back
    if outer is None:
        return None
    name = outer.f_code.co_name
    if name in ("_on_timeout", "aclose"):
        return None  # they have entries of their own
    if name not in ("_exit_scope_prep", "_wait_completion"):
        return call.by_caller(_SCOPE, frame)
    error = local(outer, "exc") or local(outer, "ex")
    return _ended_by(error, local(frame, "self")._host_task, _SCOPE, call)


def scope_closed(frame: FrameType, call: Call) -> Cause:
    """``TaskScope.aclose``: its tasks and its body end where it is closed."""
    return call.by_caller("aiotools.closed", frame)


def scope_left(frame: FrameType, _call: Call) -> Cause | None:
    """``TaskScope._exit_scope_cleanup``: what a shield held back reaches its host now."""
    scope = local(frame, "self")
    held = _held.get(scope, [])
    detail = "a shield held it back"
    if not held or len(held) != len(scope._cancel_requests):
        return Cause(reason="aiotools.shield", detail=detail)
    cause = held[0]
    return msgspec.structs.replace(cause, detail=cause.detail or detail)


def _ended_by(error: BaseException | None, host: Any, reason: str, call: Call) -> Cause | None:
    if error is None:
        return None
    if isinstance(error, CancelledError):
        return call.by_request(reason, error)
    return call.by_failure(reason, host, error)


# -- groups ----------------------------------------------------------------------------


def group_shut_down(frame: FrameType, call: Call) -> Cause | None:
    """``PersistentTaskGroup._trigger_shutdown``: by a call, by its owner's end, by a grave error."""
    outer = frame.f_back
    if outer is None:
        return None
    name = outer.f_code.co_name
    if name == "_on_task_done":
        return _ended_by(local(outer, "exc"), local(outer, "task"), _GROUP, call)
    if name in ("__aexit__", "_wait_completion"):
        error = local(outer, "exc_val") or local(outer, "ex")
        return _ended_by(error, local(frame, "self")._parent_task, _GROUP, call)
    return call.by_caller(_GROUP, frame)


def result_cancelled(_frame: FrameType, call: Call) -> Cause | None:
    """``PersistentTaskGroup._task_wrapper``: the task was cancelled, and so is its result."""
    if not isinstance(call.exception, CancelledError):
        return None
    return call.by_request(_GROUP, call.exception)


# -- helpers ---------------------------------------------------------------------------


def cancelled_and_awaited(frame: FrameType, call: Call) -> Cause | None:
    """``cancel_and_wait``: of one task at the caller's line; of several, each in a task of its own."""
    current = current_task()
    asker = None if current is None or frame.f_back is None else _gathered_by(current)
    if asker is None:
        return None
    at, source = call.waiting_at(asker)
    by = call.number_and_name(asker)
    return Cause(
        reason="explicit",
        origin=Link(what="called", reason="explicit", at=at, source=source),
        at=at,
        source=source,
        by=by,
    )


def _gathered_by(task: Any) -> Any:
    """The task that waits for the ``gather`` which *task* is a part of."""
    for callback in _callbacks(task):
        gather = gather_of(callback)
        for waiting in () if gather is None else _callbacks(gather[0]):
            owner = owner_of(waiting)
            if owner is not None:
                return owner
    return None


def _callbacks(future: Any) -> list[Any]:
    entries = callbacks_of(future)
    return [callback_of(entry) for entry in (() if entries is UNKNOWN else entries or ())]


CALL_SITES = {
    (_TIMEOUTS, "Timeout._on_timeout"): timeout_expired,
    (_SCOPES, "TaskScope._on_timeout"): scope_expired,
    (_SCOPES, "TaskScope.abort"): scope_aborted,
    (_SCOPES, "TaskScope.aclose"): scope_closed,
    (_SCOPES, "TaskScope._exit_scope_cleanup"): scope_left,
    (_GROUPS, "PersistentTaskGroup._trigger_shutdown"): group_shut_down,
    (_GROUPS, "PersistentTaskGroup._task_wrapper"): result_cancelled,
    ("aiotools.cancel", "cancel_and_wait"): cancelled_and_awaited,
}
"""Call sites by module and qualified name."""

INTERNALS = (
    Internal(
        "_host_task",
        f"{_SCOPES}:TaskScope",
        "the task that a scope belongs to",
        "who ended a scope",
    ),
    Internal(
        "_timeout",
        f"{_SCOPES}:TaskScope",
        "the seconds that a scope has",
        "where a scope with a timeout was entered",
    ),
    Internal(
        "_shield",
        f"{_SCOPES}:TaskScope",
        "whether a scope holds cancellations back",
        "who cancelled the host of a shielded scope",
    ),
    Internal(
        "_cancel_requests",
        f"{_SCOPES}:TaskScope",
        "how many cancellations a scope holds back",
        "who cancelled the host of a shielded scope",
    ),
    Internal(
        "_parent_task",
        f"{_GROUPS}:PersistentTaskGroup",
        "the task that a group belongs to",
        "why a group shut down",
    ),
)
"""The attributes that are read here, which the library promises nobody."""


# -- the probes ------------------------------------------------------------------------


PROBES = (
    (_TIMEOUTS, "Timeout.reschedule"),
    (_SCOPES, "TaskScope._enter_scope"),
    (_SCOPES, "TaskScope._cancel"),
)
"""What `install` replaces."""


def install(module: ModuleType, probing: Probing) -> None:
    """Probe the timeouts or the scopes of aiotools, whichever *module* has."""
    if module.__name__ == _TIMEOUTS:
        probing.put_timeout(module.Timeout)
        return
    _entered.clear()
    _held.clear()
    scope = module.TaskScope
    probing.put(scope, "_enter_scope", _make_enter(probing, vars(scope)["_enter_scope"]))
    probing.put(scope, "_cancel", _make_cancel(probing, vars(scope)["_cancel"]))


def _make_enter(probing: Probing, original: Callable[..., Any]) -> Callable[..., Any]:
    """``TaskScope._enter_scope`` that notes the line."""

    def _enter_scope(self: Any) -> Any:
        try:
            if self._timeout is not None:
                found = probing.caller(getframe(1))
                if found is not None:
                    _entered[self] = found
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a scope from being entered
            probing.report_fault(error)
        return original(self)

    return _enter_scope


def _make_cancel(probing: Probing, original: Callable[..., Any]) -> Callable[..., Any]:
    """``TaskScope._cancel``, which stands in for its host's ``cancel``, that notes what it holds back."""

    def _cancel(self: Any, *args: Any, **keywords: Any) -> Any:
        try:
            if self._shield and not probing.muted():
                _note_held(probing, self, getframe(1))
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a task alive
            probing.report_fault(error)
        return original(self, *args, **keywords)

    return _cancel


def _note_held(probing: Probing, scope: Any, frame: FrameType) -> None:
    current = current_task()
    cause = probing.explain_scheduled(scope._host_task, frame)
    if current is not None and not cause.current_task_unrelated:
        cause.by = probing.number_and_name(current)
    cause.current_task_unrelated = cause.by is None
    held = _held.get(scope)
    if held is None:
        _held[scope] = held = []
    held.append(cause)
