"""What asyncio itself puts among the callbacks of a future, told by its code.

Lib/asyncio/tasks.py and futures.py; the names are in `aioaudit.cpython.internals`.
"""

from __future__ import annotations

import asyncio
import asyncio.futures
import asyncio.tasks
from concurrent.futures import Future as ThreadFuture
from contextvars import Context
from functools import partial
from types import CodeType, FrameType, FunctionType
from typing import Any

from aioaudit.cpython import internals
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.tasks import callback_of, callbacks_of, fut_waiter

_GATHER_DONE = f"gather.<locals>.{internals.GATHER_DONE.name}"


def _inner(name: str, function: Any = None) -> CodeType | None:
    """The code of the function *name* inside *function*, by default ``_chain_future``."""
    outer = function or getattr(asyncio.futures, internals.CHAIN_FUTURE.name, None)
    codes = getattr(getattr(outer, "__code__", None), "co_consts", ())
    return next((each for each in codes if getattr(each, "co_name", "") == name), None)


CHAIN_SET_STATE = _inner(internals.CHAIN_SET_STATE.name)
"""The code that a loop is handed where a future of it is to end as another did."""

CHAIN_CHECK_CANCEL = _inner(internals.CHAIN_CHECK_CANCEL.name)
"""The code that cancels what a cancelled future is chained to."""

_SHIELD_INNER_DONE = _inner(internals.SHIELD_INNER_DONE.name, asyncio.shield)
"""The code that cancels the outer future of a shield whose inner one was cancelled."""

_gather = _inner(internals.GATHER_DONE.name, asyncio.gather)
_cells = () if _gather is None else _gather.co_freevars
_OUTER, _KEEPS = (
    _cells.index(each.name) if each.name in _cells else -1
    for each in (internals.GATHER_OUTER, internals.GATHER_RETURNS)
)
"""Which cells of the function hold what `gather_of` tells."""

_GATHER_CODE = None if min(_OUTER, _KEEPS) < 0 else _gather
"""The code by which asyncio's own ``gather`` hears of its children."""

_WAIT = getattr(getattr(asyncio.tasks, internals.WAIT.name, None), "__code__", None)
"""The code that ``asyncio.wait()`` waits in."""

_WAIT_COMPLETED = _inner(
    internals.WAIT_COMPLETED.name, getattr(asyncio.tasks, internals.WAIT.name, asyncio.wait)
)

_CHAIN_CALL_SET_STATE = _inner(internals.CHAIN_CALL_SET_STATE.name)


def owner_of(callback: Any) -> Any:
    """The task whose method *callback* is, None where it is none of a task."""
    owner = getattr(callback, "__self__", None)
    if owner is None or not (asyncio.isfuture(owner) and hasattr(owner, "get_coro")):
        return None
    return owner


def is_wakeup(callback: Any) -> bool:
    """Whether *callback*, a task's method, is the one by which it goes on (C: ``task_wakeup``)."""
    return str(getattr(callback, "__name__", "")).endswith("wakeup")


def released_future(callback: Any) -> Any:
    """The future of its own that ``wait_for`` of 3.11 waits for, where *callback* releases that."""
    if not isinstance(callback, partial):
        return None
    name = getattr(callback.func, "__qualname__", None)
    return callback.args[0] if name == internals.RELEASE_WAITER.name and callback.args else None


def gather_of(callback: Any) -> tuple[Any, bool] | None:
    """The future of the ``gather`` that waits by means of *callback*, and its ``return_exceptions``."""
    if is_gather_done(callback):
        cells = callback.__closure__
        outer, keeps = cells[_OUTER].cell_contents, cells[_KEEPS].cell_contents
    else:
        code = getattr(callback, "__code__", None)
        if code is None or code.co_qualname != _GATHER_DONE:
            return None
        outer = _cell(callback, internals.GATHER_OUTER.name)
        keeps = _cell(callback, internals.GATHER_RETURNS.name)
    return None if outer is None or keeps is None else (outer, bool(keeps))


def is_gather_done(callback: Any) -> bool:
    """Whether *callback* is a function of asyncio's own ``gather``, told without reading names."""
    return type(callback) is FunctionType and callback.__code__ is _GATHER_CODE


def waiter_of(callback: Any) -> tuple[Any, str] | None:
    """What wakes the task whose ``asyncio.wait()`` hears by *callback*, and when that comes back."""
    if type(callback) is not FunctionType or callback.__code__ is not _WAIT_COMPLETED:
        return None
    waiter = _cell(callback, internals.WAIT_WAITER.name)
    when = _cell(callback, internals.WAIT_RETURNS_WHEN.name)
    return None if waiter is None or not isinstance(when, str) else (waiter, when)


def shielded_of(callback: Any) -> Any:
    """The future of the `asyncio.shield` that hears by *callback* of what it shields."""
    if type(callback) is not FunctionType or callback.__code__ is not _SHIELD_INNER_DONE:
        return None
    return _cell(callback, internals.SHIELD_OUTER.name)


def waiting_for(event: Any) -> Any:
    """The futures by which tasks wait for the `asyncio.Event` *event*, none where it shows none."""
    return getattr(event, internals.EVENT_WAITERS.name, ())


def is_waiting(frame: FrameType) -> bool:
    """Whether *frame* is that which an ``asyncio.wait()`` waits in."""
    return frame.f_code is _WAIT


def _cell(function: FunctionType, name: str) -> Any:
    """What the variable *name* of a function around *function* holds; None without it."""
    names = function.__code__.co_freevars
    cells = function.__closure__ or ()
    return cells[names.index(name)].cell_contents if name in names else None


def is_chain_callback(callback: Any) -> bool:
    """Whether *callback*, a future's, cancels what the future is chained to, or a shield of it."""
    return type(callback) is FunctionType and (
        callback.__code__ is CHAIN_CHECK_CANCEL or callback.__code__ is _SHIELD_INNER_DONE
    )


def thread_waits_for(task: Any) -> bool:
    """Whether a thread waits for the result of *task* (``run_coroutine_threadsafe``)."""
    entries = callbacks_of(task)
    for entry in entries if isinstance(entries, list | tuple) else ():
        callback = callback_of(entry)
        if _CHAIN_CALL_SET_STATE is None:
            return False
        if getattr(callback, "__code__", None) is not _CHAIN_CALL_SET_STATE:
            continue
        target = _cell(callback, internals.CHAIN_DESTINATION.name)
        if isinstance(target, ThreadFuture) and not target.done():
            condition = getattr(target, internals.FUTURE_CONDITION.name, None)
            return bool(getattr(condition, internals.CONDITION_WAITERS.name, ()))
    return False


def context_of(task: Any) -> Context:
    """The context that *task* runs in; an empty one where it cannot be known.

    Never that of the caller, who may be anybody: what stands in there is told
    of the task.
    """
    get_context = getattr(task, "get_context", None)
    if get_context is not None:
        found: Context = get_context()
        return found
    # Before 3.12 what it waits for knows it.
    entries = callbacks_of(fut_waiter(task))
    for entry in () if entries is UNKNOWN else entries or ():
        if owner_of(callback_of(entry)) is task:
            known: Context = entry[1]
            return known
    return Context()
