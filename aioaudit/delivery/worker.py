"""The thread behind a queue: begun at the first event, asleep while there is nothing to do.

- It sleeps for good while nothing comes; the first event wakes it, and from then on it
  looks every `PERIOD` until nothing more comes.
- Where the exporter can be asked from outside it sleeps at that door (`Door`), and answers.
- Whoever wants something done leaves a `Completion` and waits for it with a timeout.
  Nothing is locked while waiting, so it may be called from anywhere: inside the loop,
  from several threads, from a signal handler that interrupted this module itself.
- Where no thread can be started any more (the interpreter is going down) the caller
  does the thread's work.
- Before a fork the thread ends, after it the next event starts a new one.  A thread
  that lives across a fork leaves the child its locks in whatever state they were, and
  from CPython 3.12 on its mere existence makes `os.fork` warn (gh-100228).
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from aioaudit.cpython.threads import name_of_thread
from aioaudit.text import describe, one_line, say
from aioaudit.threads import Thread, acquire, allocate_lock, get_ident, monotonic, sleep

PERIOD = 0.02
"""Seconds between two looks at the queue while events are coming."""

EXPORTING: set[int] = set()
"""The threads in which an exporter works just now: what happens there is not heard."""

_QUIET_LOOKS = 5  # looks that find nothing before the thread sleeps for good
_FORK_WAIT = 0.2  # how long a fork may wait for the thread to end

_MAIN = threading.main_thread()


class Job(Protocol):
    """What there is to do, one turn after the other, always by one thread at a time."""

    closing: bool
    """The next turn is to be the last one."""

    over: bool
    """No turn is needed any more."""

    failed: bool
    """It is over because something went wrong for good."""

    def turn(self, *, everything: bool, flush: bool) -> bool:
        """Do what there is to do; whether there was anything.

        *everything* that was put before goes, and waits for nothing that is missing;
        *flush* says that somebody waits until it is where it belongs.
        """
        ...

    def went_well(self) -> bool:
        """Whether the last turn could do all of its work."""
        ...

    def has_work(self) -> bool:
        """Whether something waits for a turn."""
        ...

    def time_to_rest(self) -> float:
        """Seconds until the next look."""
        ...

    def set_idle(self, idle: bool, /) -> None:
        """Whether the next event is to wake the thread, since it sleeps or does not exist."""
        ...

    def wake_up(self) -> None:
        """Call `Worker.wake_up`, and take note of it."""
        ...


class Door(Protocol):
    """By which somebody outside of the process asks the exporter something: its thread answers."""

    @property
    def is_open(self) -> bool:
        """Whether anybody may come."""
        ...

    def open(self) -> None:
        """Let them come, where they may not yet."""
        ...

    def close(self) -> None:
        """Let nobody come any more."""
        ...

    def forget(self) -> None:
        """This is a forked child, and the door the parent's."""
        ...

    def sleep(self, timeout: float, woken: Callable[[], bool]) -> None:
        """Sleep until somebody asks, `wake` is called, or for *timeout* seconds (-1: for good).

        Not at all where *woken* says that the thread was woken before.
        """
        ...

    def wake(self) -> None:
        """Let `sleep` end; called in any thread, and in a signal's handler."""
        ...

    def hear(self) -> bool:
        """Whether somebody has asked; waits for nobody."""
        ...

    def answer(self) -> None:
        """Answer one of them."""
        ...


class Completion:
    """Something that a caller waits for: a locked lock that the thread releases."""

    __slots__ = ("_lock", "_well")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()
        self._well = False

    def answer(self, well: bool) -> None:
        """It is done; *well* says how."""
        self._well = well
        self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Whether it was done, and well, within *timeout* seconds."""
        return acquire(self._lock, timeout) and self._well


class Worker:
    """The thread that does *job*, and who does it where there is none.

    Args:
        job: What is to be done.
        name: What messages on stderr call it.
        door: By which it is asked from outside, if it is.
    """

    def __init__(self, job: Job, name: str, door: Door | None = None) -> None:
        self._job = job
        self._name = name
        self._door = door
        self._pausing = False  # for a fork
        self._unstartable = False
        self._thread: Thread | None = None
        self._starter: int | None = None
        self._start_lock = allocate_lock()
        self._work_lock = allocate_lock()  # held by whoever plays the thread's part
        self.ident: int | None = None
        """The thread that plays the worker's part just now."""
        self._wake = allocate_lock()  # as a signal: who waits acquires, who wakes releases
        self._wake.acquire()
        self._completions: deque[Completion] = deque()
        self._well = True
        """Whether the last turn came to its end."""
        self._interrupted = False
        """Whether it was said that one did not."""

    @property
    def pausing(self) -> bool:
        """Whether a fork is about to come."""
        return self._pausing

    def is_here(self) -> bool:
        """Whether this very thread plays the worker's part just now."""
        return get_ident() == self.ident

    def has_thread(self) -> bool:
        """Whether there is a thread that goes on, once it is given the chance."""
        return not (self._thread is None or self._pausing or self._job.over)

    def wake_up(self) -> None:
        """There is something to do: wake the thread, or start one."""
        if self._thread is not None:
            self.signal()
        elif not (self._pausing or self._job.over):
            self._start()

    def signal(self) -> None:
        """Wake the thread, if it sleeps."""
        with suppress(RuntimeError):  # not locked: somebody woke the thread already
            self._wake.release()
        if self._door is not None:
            self._door.wake()

    def thread_name(self) -> str:
        """The name of the thread that plays the worker's part just now."""
        known = name_of_thread(get_ident())  # current_thread() would register our own
        return f"aioaudit-{self._name}" if known is None else known

    # -- asking it, or doing its work --------------------------------------------------

    def ask(self) -> Completion | None:
        """Have all that there is done; None if the caller has to do it, see `wait`."""
        completion = Completion()
        self._completions.append(completion)
        if self._job.over:
            self._answer_all()  # the thread may have gone without seeing it
        elif self._starter == get_ident():
            return None  # in a signal handler that interrupted the start of the thread
        elif self._thread is not None:
            self.signal()
        elif self._pausing or not self._start():
            return None
        return completion

    def wait(self, completion: Completion | None, deadline: float) -> bool:
        """Wait for what `ask` gave until *deadline*; whether all was done, and well."""
        if self.is_here():
            return False  # called by the exporter, or by a handler that interrupted its work
        left = max(deadline - monotonic(), 0.0)
        if completion is not None:
            return completion.wait(left)
        if not acquire(self._work_lock, left):
            return False
        try:
            self._turn()
        finally:
            self._work_lock.release()
        return self._well and self._job.went_well()

    # -- forks ------------------------------------------------------------------------

    def pause(self, timeout: float = _FORK_WAIT) -> None:
        """End the thread, after it did what there is; waits *timeout* seconds at most."""
        thread = self._thread
        if thread is None or self.is_here():
            return
        self._pausing = True
        self.signal()
        thread.join(timeout)

    def resume(self) -> None:
        """Go on after `pause`: the next event starts a thread, or what was put meanwhile does."""
        self._pausing = False
        if self._job.over or self._thread is not None:
            return
        self._job.set_idle(True)
        if self._has_work() or self._is_reachable():
            self._job.wake_up()

    def _is_reachable(self) -> bool:
        """Whether somebody outside may ask at any time."""
        return self._door is not None and self._door.is_open

    # -- the thread -------------------------------------------------------------------

    def _start(self) -> bool:
        """Whether there is a thread, or is about to be one."""
        if not self._start_lock.acquire(blocking=False):
            return True  # somebody else is at it
        try:
            self._starter = get_ident()
            if self._thread is not None:
                return True
            thread = Thread(self._work)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError as error:
                self._thread = None
                if not (self._unstartable or sys.is_finalizing() or "shutdown" in str(error)):
                    self._unstartable = True
                    say(
                        f"exporter {self._name!r} has no thread ({error}); events are "
                        "exported at the end only"
                    )
                return False
            return True
        finally:
            if self._thread is not None and not self._thread.started:
                self._thread = None  # a handler of the program's raised just now
            self._starter = None
            self._start_lock.release()

    def _work(self) -> None:
        job = self._job
        quiet = 0
        rest = False  # whether to wait before the next look
        while True:
            if rest and not (self._completions or job.closing or self._pausing):
                self._sleep(job.time_to_rest())
            rest = True
            pausing = self._pausing
            with self._work_lock:
                busy = self._turn()
                if job.over or pausing:
                    self._leave()
                    return
                if self._door is not None:
                    busy = self._attend(self._door) or busy
            if not self._well:
                sleep(PERIOD)  # also where somebody waits: there may be memory again then
            quiet = 0 if busy else quiet + 1
            if quiet < _QUIET_LOOKS:
                continue
            quiet = 0
            if threading.main_thread() is not _MAIN:
                # A child that was forked in another thread ends when its last
                # thread does: waiting here would keep it alive for good.
                if self._door is not None:
                    self._door.close()
                self._leave()
                return
            job.set_idle(True)
            if not (self._has_work() or job.closing or self._pausing):
                self._sleep()
            job.set_idle(False)

    def _sleep(self, timeout: float = -1) -> None:
        """Until somebody wakes the thread or asks something, *timeout* seconds at most."""
        door = self._door
        if door is not None and door.is_open:
            door.sleep(timeout, self._was_woken)
        else:
            self._wake.acquire(timeout=timeout)

    def _was_woken(self) -> bool:
        return self._wake.acquire(blocking=False)

    def _attend(self, door: Door) -> bool:
        """Answer who asks, after all that has happened before was taken; whether somebody did."""
        self.ident = ident = get_ident()
        EXPORTING.add(ident)
        try:
            door.open()
            if not door.hear():
                return False
            self._job.turn(everything=True, flush=False)
            if not self._job.over:
                door.answer()
        except Exception as error:  # noqa: BLE001 - as in `_turn`
            self._failed(error)
        finally:
            self.ident = None
            EXPORTING.discard(ident)
        return True

    def _leave(self) -> None:
        """The thread is about to end: see to it that nobody counts on it."""
        self._thread = None
        if self._job.over:
            self._answer_all()
            return
        self._job.set_idle(True)
        # Whoever forked may have gone on already, without waiting for this.
        if not self._pausing and self._has_work():
            self._job.wake_up()

    def _has_work(self) -> bool:
        return bool(self._completions) or self._job.has_work()

    def _turn(self) -> bool:
        """One look at everything there is to do; whether there was anything."""
        self.ident = ident = get_ident()
        EXPORTING.add(ident)
        completions = self._take_completions()
        asked = bool(completions)
        try:
            busy = self._job.turn(everything=asked or self._pausing, flush=asked) or asked
            self._well = True
        except Exception as error:  # noqa: BLE001 - a MemoryError, at any line: the next turn goes on
            busy = True
            self._failed(error)
            self._completions.extendleft(completions)
            completions = []
        finally:
            for completion in completions:
                completion.answer(self._job.went_well())
            self.ident = None
            EXPORTING.discard(ident)
        return busy

    def _failed(self, error: Exception) -> None:
        """A turn ended with *error*; what it had in its hands is missing then, and counted so."""
        self._well = False
        if not self._interrupted:
            self._interrupted = True
            with suppress(Exception):  # there may be no memory for this, too
                text = one_line(describe(error))
                say(f"exporter {self._name!r} was interrupted, and tries again: {text}")

    def _take_completions(self) -> list[Completion]:
        taken: list[Completion] = []
        with suppress(IndexError):  # empty, perhaps because another thread took them
            while True:
                taken.append(self._completions.popleft())
        return taken

    def _answer_all(self) -> None:
        """Answer those who came when the work was over already."""
        for completion in self._take_completions():
            completion.answer(not self._job.failed)
