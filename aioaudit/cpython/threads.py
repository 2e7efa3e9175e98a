"""Threads and signals: a name without making anything, a handler without an enum."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from aioaudit.cpython import internals


def name_of_thread(ident: int) -> str | None:
    """The name of the thread *ident*; None for one that `threading` does not know.

    ``threading.current_thread()`` would make and register a dummy for that one.
    """
    known: dict[int, threading.Thread] = getattr(threading, internals.THREADS.name, {})
    thread = known.get(ident)
    return None if thread is None else thread.name


MAIN_THREAD_IDENT: str | None = (
    internals.MAIN_THREAD_IDENT.name
    if hasattr(sys.modules["_thread"], internals.MAIN_THREAD_IDENT.name)
    else None
)
"""What ``_thread`` calls the function that tells the main thread, None before 3.13."""


def call_before_exit_functions(function: Callable[[], None]) -> bool:
    """Have *function* called when the interpreter ends, before what `atexit` calls; for good.

    That is before the threads of the program are waited for (``Py_FinalizeEx`` in CPython's
    Python/pylifecycle.c), and before whatever the program or a library registered last.
    False where nothing will be called: the end has begun, or CPython has no such function.
    """
    register = getattr(threading, internals.BEFORE_EXIT.name, None)
    if register is None:
        return False
    try:
        register(function)
    except RuntimeError:
        return False
    return True


def release_fully(lock: Any) -> Any:
    """Let go of *lock*, an RLock of the system's, however often it is held.

    What is returned is for `acquire_again`.
    """
    release = getattr(lock, internals.RELEASE_SAVE.name, None)
    if release is not None:
        return release()
    held = 0
    while True:
        try:
            lock.release()
        except RuntimeError:
            return held
        held += 1


def acquire_again(lock: Any, state: Any) -> None:
    """Hold *lock* as often as before `release_fully`, which gave *state*."""
    acquire = getattr(lock, internals.ACQUIRE_RESTORE.name, None)
    if not isinstance(state, int) and acquire is not None:
        acquire(state)
        return
    for _ in range(state):
        lock.acquire()


handler_of: Callable[[int], Any] = getattr(
    sys.modules.get("_signal"), internals.GETSIGNAL.name, signal.getsignal
)
"""A signal's handler; `signal.getsignal` makes an enum of each answer, at ten times the price."""
