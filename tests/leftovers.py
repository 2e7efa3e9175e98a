"""What a test of auditing must not leave to the next: threads of ours, hooks, auditing itself."""

from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Callable

from aioaudit import bus, session, threads

PATIENCE = 10.0
"""Seconds for a thread that has nothing left to do to be gone; only what is left waits so long."""

_ours: list[weakref.ref[threads.Thread]] = []


def watch() -> None:
    """From now on know our threads, which stand in no ``threading.enumerate()``.

    They are noted as they are started: one that waits for the GIL yet has no frame, and the
    system's list does not say whose it is.
    """
    start = threads._start_new_thread

    def start_and_note(run: Callable[..., object], args: tuple[object, ...]) -> object:
        ident = start(run, args)
        thread = getattr(run, "__self__", None)
        if isinstance(thread, threads.Thread):
            _ours.append(weakref.ref(thread))
        return ident

    threads._start_new_thread = start_and_note


def running() -> list[threads.Thread]:
    """Our threads whose work is not over."""
    _ours[:] = [each for each in _ours if (thread := each()) and thread._running.locked()]
    return [thread for each in _ours if (thread := each()) is not None]


class Before:
    """What there is before a test; `left` tells what it added and did not take away.

    What fixtures of a wider scope hold is there before the first test that asks for them.
    """

    def __init__(self) -> None:
        self._session = session.current()
        self._hooks = bus.hooks()
        self._threads = running()
        self._handlers = {each: signal.getsignal(each) for each in signal.valid_signals()}

    def restore_signals(self) -> None:
        """Put the handlers of signals back, which uvloop leaves in place when a loop is closed."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)

    def left(self) -> list[str]:
        """What is still there, in words; auditing is turned off, for the sake of the next test."""
        found: list[str] = []
        hooks = [each for each in bus.hooks() if each not in self._hooks]
        found += [f"a hook: {hook!r}" for hook in hooks]
        if session.current() is not self._session:
            found.append("auditing, turned on" if session.current() else "auditing, turned off")
            if self._session is None:
                session.disable()
        for thread in running():
            if thread not in self._threads and not thread.join(PATIENCE):
                work = getattr(thread._work, "__qualname__", repr(thread._work))
                found.append(f"a thread: {work}")
        return found
