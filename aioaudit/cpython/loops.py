"""Loops and what they have to call: which runs, in which thread, what is next.

A loop that is not built on asyncio's shows less, uvloop's nothing of all this; each function
says what it answers then.
"""

from __future__ import annotations

import asyncio
import asyncio.events
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from aioaudit.cpython import internals
from aioaudit.cpython.internals import UNKNOWN, Unknown


def make_running_loop(module: Any) -> Callable[[], Any]:
    """What tells the loop that runs in this thread, None where none does: *module* is asyncio."""
    if hasattr(module, internals.GET_RUNNING_LOOP.name):

        def ask_the_fast_one() -> Any:
            # Looked up at each call: trio-asyncio puts a function of its own in that place.
            return module._get_running_loop()

        return ask_the_fast_one

    def ask() -> Any:
        try:
            return module.get_running_loop()
        except RuntimeError:
            return None

    return ask


running_loop = make_running_loop(asyncio)
"""The loop that runs in this thread, None where none does."""

START_PROBE: tuple[Any, str] | None = (
    (asyncio.events, internals.SET_RUNNING_LOOP.name)
    if hasattr(asyncio.events, internals.SET_RUNNING_LOOP.name)
    else None
)
"""Where the function stands that every loop of asyncio's calls as it begins to run."""

RUNNERS = ("run_forever", "run_until_complete", internals.RUN_ONCE.name, internals.RUN_HANDLE.name)
"""The methods that run a loop, by the names that asyncio, uvloop, rloop and Qt's give them."""

RUNS_HANDLE = f"Handle.{internals.RUN_HANDLE.name}"
"""The qualified name of the function that calls what a loop calls."""


def thread_of(loop: Any) -> int | None:
    """The number of the thread that *loop* runs in, None where it does not say so."""
    ident = getattr(loop, internals.THREAD_ID.name, None)
    return ident if isinstance(ident, int) else None


def ready_handles(loop: Any) -> deque[Any] | None:
    """What *loop* calls next, None where it does not show that."""
    ready = getattr(loop, internals.READY.name, None)
    return ready if isinstance(ready, deque) else None


def called_by(handle: Any) -> tuple[Any, tuple[Any, ...]] | Unknown:
    """What *handle* calls, and with which arguments, or `UNKNOWN`."""
    callback = getattr(handle, internals.HANDLE_CALLBACK.name, UNKNOWN)
    arguments = getattr(handle, internals.HANDLE_ARGS.name, UNKNOWN)
    if callback is UNKNOWN or arguments is UNKNOWN:
        return UNKNOWN
    return callback, arguments or ()


def context_of_handle(handle: Any) -> Context | None:
    """The context that *handle* calls in, None where it does not show that."""
    context = getattr(handle, internals.HANDLE_CONTEXT.name, None)
    return context if type(context) is Context else None


def signal_handles(loop: Any) -> dict[int, Any] | None:
    """The handles that *loop* runs for signals, None where it does not show them."""
    handlers = getattr(loop, internals.SIGNAL_HANDLERS.name, None)
    return handlers if isinstance(handlers, dict) else None
