"""The living tasks of this process, described while they run, from another thread.

Nothing here is locked and no loop is asked: a loop may be stuck, which is when one wants to know.
So a task may go on while it is looked at.  What makes the answer true all the same:

- Where it waits is believed only if it waits for the very same future after the look as before.
  The look holds that future, so no other one can have taken its place; and a task that went on
  meanwhile would wait for another one, for the one that woke it is done.
- A task that waits for no future is about to go on, or runs.  There two looks must say the same.
- What changes each time is said to be unknown.

All of it reads what the interpreter itself keeps whole under the GIL: the coroutine that one awaits
(``cr_await``) is told only where it is suspended.  Of what a class of the program's may have put in
the place of asyncio's nothing is called but ``done()``, as ``asyncio.all_tasks()`` does.  No task
is held for longer than one look, nor is any known to the recorder afterwards that was not known
before.
"""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from aioaudit.core import last_of
from aioaudit.cpython.callbacks import gather_of, owner_of, shielded_of, waiter_of
from aioaudit.cpython.frames import current_frames
from aioaudit.cpython.groups import parent_of
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.loops import thread_of
from aioaudit.cpython.tasks import (
    all_tasks,
    callback_of,
    callbacks_of,
    cancelling_of,
    coro_of,
    fut_waiter,
    name_of,
    task_of,
)
from aioaudit.live import protocol
from aioaudit.live.protocol import LivingTask, ProcessFacts, line_of, shortened
from aioaudit.stack.code import APPLICATION, CodeInfo
from aioaudit.stack.frames import suspended_in
from aioaudit.state.awaiters import reached_by, waiters_of
from aioaudit.text import clean
from aioaudit.threads import sleep
from aioaudit.timestamps import timestamp
from aioaudit.version import __version__

if TYPE_CHECKING:
    from aioaudit.delivery.redacting import Redacting
    from aioaudit.state.known import State

_LOOKS = 4  # at one task, until two agree
_PORTION = 25  # tasks that are described at once: for so long nobody else has the GIL
_MOST_FRAMES = 2_000
_MOST_AWAITING = 100  # tasks that are named as waiting for one

_Spot = tuple[CodeInfo, int]
_Found = tuple[int, weakref.ref[Any], Any]


class Look:
    """What a process says of itself.

    Args:
        known: What is known of tasks, loops and code.
        exporters: Gives the names of the exporters.
        redaction: Says what of it may leave the process.
    """

    def __init__(
        self, known: State, exporters: Callable[[], list[str]], redaction: Redacting
    ) -> None:
        self._known = known
        self._redaction = redaction
        self._exporters = exporters

    def facts(self) -> ProcessFacts:
        """How the process is."""
        known = self._known
        run = known.places.run
        return ProcessFacts(
            pid=run.pid,
            run=run.id,
            started="",
            now=timestamp(time.time_ns()),
            argv=shortened(
                clean(each, 2_000)
                for each in self._redaction.now.texts("argv", list(map(str, sys.argv)))
            ),
            python=f"{sys.implementation.name} {sys.version.split()[0]}",
            version=__version__,
            on=shortened(map(clean, self._exporters()), 600),
            tasks=len(known.tasks.born) if known.tasks.creations_seen else None,
            made=last_of(known.tasks.next_number),
        )

    def tasks(self, most: int) -> tuple[Iterator[bytes], int]:
        """A line for each living task, in portions, the oldest first.

        And how many tasks there are above *most*.
        """
        born = self._known.tasks.born
        found: list[_Found] = []
        for loop in self._known.places.loops():
            if loop.is_closed():
                continue
            try:
                tasks = all_tasks(loop)
            except RuntimeError:  # too many come and go
                continue
            for task in tasks:
                made = born.get(id(task))
                try:
                    found.append((0 if made is None else made.task, weakref.ref(task), loop))
                except TypeError:  # of another make, and takes no weak reference
                    continue
            tasks.clear()
        found.sort(key=lambda each: each[0])
        return self._lines(found[:most]), max(len(found) - most, 0)

    def _lines(self, found: Iterable[_Found]) -> Iterator[bytes]:
        portion: list[bytes] = []
        for _, ref, loop in found:
            described = self._described(ref(), loop)
            if described is not None:
                portion.append(line_of(described))
            if len(portion) >= _PORTION:
                yield b"".join(portion)
                portion.clear()
                sleep(0)
        yield b"".join(portion)

    def _described(self, task: Any, loop: Any) -> LivingTask | None:
        """*task* as it is now, None where it is done, or gone."""
        if task is None or task.done():
            return None
        tasks = self._known.tasks
        made = tasks.born.get(id(task))
        coro = coro_of(task)
        name = name_of(task)
        told = LivingTask(
            task=self._number(task),
            name=clean(name if name is not None else "?" if made is None else made.name),
            coro=tasks.coro_name(coro) if made is None else made.coro,
            loop=self._known.places.loop_number(loop),
            asked=cancelling_of(task),
        )
        if made is not None:
            told.parent, told.made = made.parent, timestamp(made.ns)
            told.made_at = getattr(made.site, "fields", (None, None))[1]
        told.does, spot = self._look_at(task, coro, loop)
        if spot is not None:
            told.at, told.source = spot[0].at(spot[1]), spot[0].source
        numbers = {self._number(each) for each in _awaiting(task)}
        told.awaited_by = sorted(numbers - {0, told.task})[:_MOST_AWAITING]
        return self._redaction.now.of(told)

    def _number(self, task: Any) -> int:
        """The number of *task*, 0 where it has none; it is not given one."""
        tasks = self._known.tasks
        made = tasks.born.get(id(task))
        if made is not None:
            return made.task
        state = tasks.states.get(id(task))
        return state.task if state is not None and state.ref() is task else 0

    # -- where it is ---------------------------------------------------------------------------

    def _look_at(self, task: Any, coro: Any, loop: Any) -> tuple[str, _Spot | None]:
        """What *task* does and where, as it was at one moment."""
        before: tuple[str, _Spot | None] | None = None
        for _ in range(_LOOKS):
            waiter = fut_waiter(task)
            spot = suspended_in(self._known.codes, coro)
            if waiter is UNKNOWN:
                return protocol.UNKNOWN, spot
            if waiter is not None:
                if fut_waiter(task) is waiter:
                    return protocol.WAITS, spot
                before = None
                continue
            now = self._going_on(task, coro, loop, spot)
            if now == before or now[0] == protocol.RUNS:
                return now
            before = now
        return protocol.UNKNOWN, None

    def _going_on(
        self, task: Any, coro: Any, loop: Any, spot: _Spot | None
    ) -> tuple[str, _Spot | None]:
        """The same of one that waits for no future."""
        if task_of(loop) is task:
            return protocol.RUNS, self._running(loop, coro)
        if spot is not None:
            return protocol.READY, spot
        begun = getattr(coro, "cr_frame", None) is None or getattr(coro, "cr_running", True)
        return (protocol.UNKNOWN if begun else protocol.NEW), None

    def _running(self, loop: Any, coro: Any) -> _Spot | None:
        """Where the task that runs *coro* is, in the thread of *loop*; None where that is not seen."""
        root = getattr(coro, "cr_frame", None)
        ident = thread_of(loop) or self._known.places.runs_in.get(loop)
        frame: FrameType | None = None if ident is None else current_frames().get(ident)
        best: _Spot | None = None
        for _ in range(_MOST_FRAMES):
            if frame is None or root is None:
                return None
            info = self._known.codes.of(frame)
            if best is None or (info.owner == APPLICATION and best[0].owner != APPLICATION):
                best = info, frame.f_lasti
            if frame is root:
                return best
            frame = frame.f_back
        return None


def _awaiting(task: Any) -> Iterator[Any]:
    """The tasks that wait for *task*: by ``await``, ``gather``, ``wait`` or ``shield``, or its group's."""
    entries = callbacks_of(task)
    for entry in () if entries is UNKNOWN else list(entries or ()):
        callback = callback_of(entry)
        gather = gather_of(callback)
        yield from reached_by(callback) if gather is None else waiters_of(gather[0])
        waits = waiter_of(callback)
        if waits is not None:
            for each in _entries(waits[0]):
                owner = owner_of(callback_of(each))
                if owner is not None:
                    yield owner
        outer = shielded_of(callback)
        if outer is not None:
            yield from waiters_of(outer)
        group = getattr(callback, "__self__", None)
        if isinstance(group, asyncio.TaskGroup):
            parent = parent_of(group)
            if parent is not None and parent is not UNKNOWN:
                yield parent


def _entries(future: Any) -> list[Any]:
    entries = callbacks_of(future)
    return [] if entries is UNKNOWN else list(entries or ())
