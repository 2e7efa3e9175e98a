"""Threads and loops: where something happens, and in which of them a loop runs."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any

from aioaudit.cpython.loops import running_loop, thread_of
from aioaudit.cpython.threads import name_of_thread
from aioaudit.delivery.records import CreationSite, SiteKey
from aioaudit.identity import Run
from aioaudit.place import Place
from aioaudit.text import clean
from aioaudit.threads import ThreadLocal, get_ident, main_ident
from aioaudit.weak import WeakIdMap

_Scene = tuple[Place, dict[SiteKey, CreationSite]]
"""A place, and the sites that make tasks there."""


class _Thread:
    """What is known of a thread: the place it was in last, and that of each loop it had to do with."""

    __slots__ = ("by_loop", "last")

    def __init__(self) -> None:
        self.last: _Scene | None = None
        self.by_loop: WeakIdMap[_Scene] = WeakIdMap()


class _Here(ThreadLocal):
    """What is known of the thread that asks, and goes with it: threads' numbers are used again.

    Without an ``__init__``: the collector may run in there, and lead back here, where
    the attributes that it is about to set are still missing.
    """

    thread: _Thread | None = None


class Places:
    """The places of one run; *muted* says whether nothing is heard in this thread."""

    def __init__(self, run: Run, muted: Callable[[], bool]) -> None:
        self.run = run
        self.main_thread = main_ident()
        self.runs_in: WeakIdMap[int] = WeakIdMap()
        """The number of the thread that a loop was started in last."""
        self._muted = muted
        self._loops: WeakIdMap[int] = WeakIdMap()
        self._next_loop = itertools.count(1).__next__
        self._here = _Here()

    def after_fork(self, run: Run) -> None:
        """This is a forked child, the run *run*: what was known of threads was the parent's."""
        self.run = run
        self._here = _Here()
        self.main_thread = get_ident()

    def loops(self) -> list[Any]:
        """The loops that have a number, and are still there."""
        return [loop for loop, _ in self._loops.items()]

    def loop_number(self, loop: Any) -> int | None:
        """The small number of *loop*."""
        if loop is None:
            return None
        number = self._loops.get(loop)
        if number is None:
            try:
                self._loops[loop] = number = self._next_loop()
            except TypeError:  # a loop that takes no weak reference
                return None
        return number

    def thread_name(self) -> str:
        """This thread's name, without giving a foreign thread a `Thread` object."""
        ident = get_ident()
        if ident == self.main_thread:  # gevent and eventlet enter it under another number
            return clean(threading.main_thread().name)
        name = name_of_thread(ident)
        return f"thread-{ident}" if name is None else clean(name)

    def place(self, loop: Any = None) -> Place:
        """The place of an event raised here and now; *loop* where none runs in this thread."""
        running = running_loop()
        if running is not None:
            loop = running
        here = self._here.thread
        if here is None:
            self._here.thread = here = _Thread()
        known = here.last
        if known is not None and known[0].loop_ref() is loop:
            return known[0]
        found = None if loop is None else here.by_loop.get(loop)
        if found is None:
            number = self.loop_number(loop)
            place = Place(
                run=self.run,
                thread=self.thread_name(),
                loop=number,
                loop_id=id(loop),
                loop_ref=_nothing if loop is None else reference(loop),
                muted=self._muted(),
            )
            found = place, {}
            if number is not None:
                here.by_loop[loop] = found
        here.last = found
        return found[0]

    @property
    def sites(self) -> dict[SiteKey, CreationSite]:
        """The sites that make tasks in the place that `place` gave last in this thread.

        That may be another than its caller thinks: the collector may have asked in between.
        """
        here = self._here.thread
        return {} if here is None or here.last is None else here.last[1]

    def sites_in(self, place: Place) -> dict[SiteKey, CreationSite] | None:
        """The sites of *place*, if that is what `place` gives here, and gave last in this thread."""
        here = self._here.thread
        last = None if here is None else here.last
        if last is None or last[0] is not place or place.loop_ref() is not running_loop():
            return None
        return last[1]

    def foreign_thread(self, victim: Any) -> str | None:
        """This thread's name if *victim*'s loop runs in another one just now."""
        return self.thread_name() if self.runs_elsewhere(loop_of(victim)) else None

    def runs_elsewhere(self, loop: Any) -> bool:
        """Whether *loop* is known to run in another thread just now."""
        try:
            if running_loop() is loop or not loop.is_running():
                return False
            # asyncio's loops say it, others were seen to start (the child of a process that
            # was forked while the loop ran has the thread's number, too); trio-asyncio's
            # run in whatever thread trio does, and of them it is not known.
            ident = thread_of(loop) or self.runs_in.get(loop)
            return ident is not None and ident != get_ident()
        except Exception:  # noqa: BLE001 - a foreign loop may answer with anything, or be None
            return False


def loop_of(future: Any) -> Any:
    """The loop of the task or future *future*, None where it does not say."""
    try:
        return future.get_loop()
    except Exception:  # noqa: BLE001 - a foreign future may answer with anything
        return None


def _nothing() -> None:
    """Stands for the reference to a loop where there is none."""


def reference(target: Any) -> Callable[[], Any]:
    """A weak reference to *target*; to nothing that can be found where it takes none."""
    try:
        return weakref.ref(target)
    except TypeError:  # never found again
        return lambda: reference
