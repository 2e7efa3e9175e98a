"""Private. Threads, locks and the clock: the system's own, whatever was made of them since.

gevent and eventlet put others in their place that belong to one thread's hub: a
thread that is none, a lock that switches greenlets where it should wait.  Half of
each is worse than either; a program that patches after we were imported gave us
its starter of threads with the system's locks, and hung.  So all of ours is taken
here, once, and where the patch came first, its author is asked for the originals.

Signals are the program's.  A thread that blocks them in its own first lines does so
too late: it has to wait for the GIL before, and what the kernel gives it meanwhile
wakes nobody, least of all a main thread that sleeps in C.  So they are blocked in
whoever starts a thread, around the start, and the new one inherits that.
"""

from __future__ import annotations

import os
import signal as signals
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import BuiltinFunctionType, TracebackType
from typing import TYPE_CHECKING, Any

from aioaudit.cpython.threads import MAIN_THREAD_IDENT, acquire_again, release_fully


def original(module: str, name: str) -> Any:
    """What the standard library's *module* calls *name*, also where somebody has replaced it."""
    found = getattr(sys.modules[module], name)
    if isinstance(found, BuiltinFunctionType) or getattr(found, "__module__", "") == module:
        return found
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched(module):
        return gevent.get_original(module, name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched(module.strip("_")):
        return getattr(eventlet.original(module), name)
    return found


allocate_lock: Callable[[], threading.Lock] = original("_thread", "allocate_lock")
"""A new lock; as a signal: who waits acquires, who wakes releases."""

allocate_rlock: Callable[[], Any] = original("_thread", "RLock")
"""A new lock that one thread may take more than once."""

get_ident: Callable[[], int] = original("_thread", "get_ident")
"""The number of this thread of the system's, whatever runs in it."""

if TYPE_CHECKING:
    ThreadLocal = threading.local
else:
    ThreadLocal = original("_thread", "_local")

sleep: Callable[[float], None] = original("time", "sleep")

monotonic: Callable[[], float] = time.monotonic

_start_new_thread: Callable[[Callable[..., object], tuple[object, ...]], object] = original(
    "_thread", "start_new_thread"
)
_main_ident: Callable[[], int] | None = (
    None if MAIN_THREAD_IDENT is None else original("_thread", MAIN_THREAD_IDENT)
)
_native_id: Callable[[], int] = original("_thread", "get_native_id")
_getpid = os.getpid

_GONE_WAIT = 0.02  # how long a thread that has ended may be seen

# As they are now: who looks for calls that block a loop puts others in their place.
_acquire: Callable[..., bool] = type(allocate_lock()).acquire
_stat = os.stat
_readlink = os.readlink

_sigmask = getattr(signals, "pthread_sigmask", None)  # not on every platform

# Those that a fault of this very thread raises stay open, for faulthandler.
_FAULTS = {
    getattr(signals, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")
    if hasattr(signals, name)
}
_BLOCKED = signals.valid_signals() - _FAULTS


def main_ident() -> int | None:
    """`get_ident` of the main thread."""
    if _main_ident is not None:
        return _main_ident()
    if _native_id() == _getpid():  # Linux, in the main thread
        return get_ident()
    return threading.main_thread().ident


def acquire(lock: threading.Lock, timeout: float) -> bool:
    """Whether *lock* was taken within *timeout* seconds."""
    return _acquire(lock, timeout=timeout)


def _exists(path: str) -> bool:
    try:
        _stat(path)
    except OSError:
        return False
    return True


def count_living() -> int:
    """How many threads of ours this process has, those that are just about to go among them."""
    _sweep()
    return len(_begun)


def _sweep() -> None:
    for each in list(_begun):
        if each.is_gone():
            _begun.discard(each)


class Thread:
    """A thread that `threading` knows nothing of, and that no signal is delivered to.

    It stands in no ``threading.enumerate()``, is counted by no
    ``active_count()`` and joined by nobody at exit: the program sees the
    threads that it started itself.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._running = allocate_lock()
        self._running.acquire()
        self._place = ""
        self._pid = 0
        self.started = False

    def start(self) -> None:
        """Begin.

        Raises:
            RuntimeError: no thread can be started.
            BaseException: what a handler of the program raises, whose signal came just now;
                `started` says whether the thread has begun all the same.
        """
        if _sigmask is None:
            self._begin()
            return
        mask = _sigmask(signals.SIG_BLOCK, ())
        try:
            _sigmask(signals.SIG_BLOCK, _BLOCKED)
            self._begin()
        finally:
            _sigmask(signals.SIG_SETMASK, mask)

    def _begin(self) -> None:
        self.started = True
        self._pid = _getpid()
        _sweep()
        _begun.add(self)
        try:
            _start_new_thread(self._run, ())
        except BaseException:
            self.started = False
            _begun.discard(self)
            raise

    def _run(self) -> None:
        # By name: in a namespace of its own a process has other numbers than there.
        with suppress(OSError):  # not on every platform
            self._place = f"/proc/{_readlink('/proc/thread-self')}"
        try:
            self._work()
        finally:
            self._running.release()

    def join(self, timeout: float) -> bool:
        """Wait for the end, *timeout* seconds at most; whether it has come."""
        if not acquire(self._running, timeout):
            return False
        self._running.release()
        # The system's threads are what `os.fork` counts to warn of them, and this one is
        # about to go.
        deadline = monotonic() + _GONE_WAIT
        while _exists(self._place) and monotonic() < deadline:
            sleep(0)
        return True

    def is_gone(self) -> bool:
        """Whether it has ended and the system, too, knows it no more."""
        if self._pid != _getpid():
            return True  # it is the parent's
        return not (self._running.locked() or _exists(self._place))


_begun: set[Thread] = set()
"""Those that may still be there."""


class Condition:
    """`threading.Condition`, as far as we need it, made of the system's own locks."""

    def __init__(self) -> None:
        self._lock = allocate_rlock()
        self._waiters: list[threading.Lock] = []

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Wait until *predicate* holds, *timeout* seconds at most; whether it does."""
        deadline = monotonic() + timeout
        while not predicate():
            left = deadline - monotonic()
            if left <= 0:
                return False
            waiter = allocate_lock()
            waiter.acquire()
            self._waiters.append(waiter)
            state = release_fully(self._lock)
            try:
                acquire(waiter, left)
            finally:
                acquire_again(self._lock, state)
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return True

    def notify_all(self) -> None:
        """Let all who wait look at what they wait for; called by who holds the lock."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.release()
