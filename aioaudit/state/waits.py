"""Tasks that came back from ``asyncio.wait()`` because one of those that they waited for had failed.

What such a task cancels then, of those that it had waited for, is cancelled because of that
failure, as far as one can tell: nothing says so.  It can be told as long as the future lives
that woke the task, for nobody has that but the loop, while it makes the step that followed.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from aioaudit.cpython import internals
from aioaudit.cpython.callbacks import is_waiting, owner_of, waiter_of
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.tasks import callback_of, callbacks_of, coro_of, exception_of
from aioaudit.stack.frames import awaited_chain, local
from aioaudit.state.places import reference
from aioaudit.weak import WeakIdMap, dropping

if TYPE_CHECKING:
    from aioaudit.addresses import Connection
    from aioaudit.chain.links import Link
    from aioaudit.state.cancellations import Cancellations
    from aioaudit.state.failures import Failures
    from aioaudit.state.requests import Request
    from aioaudit.state.tasks import Tasks

_NEXT = 1.0
"""Seconds after one request in which the next one is still because of the same failure."""


class Wait:
    """An ``asyncio.wait()`` that comes back because of how one of its tasks ended.

    ``name`` is that task's, ``how`` what became of it in words, ``origin``, ``request`` and
    ``connection`` as in `Cause`.  The task itself is not kept: the program may let it go at once.
    """

    __slots__ = (
        *("_clear", "_first", "_members", "asked", "how", "name"),
        *("connection", "origin", "request", "waiter", "waits"),
    )

    def __init__(self, waits: Any, members: Iterable[Any], *, first: bool) -> None:
        """*waits* is the task that waits; *first* says that any end of *members* wakes it."""
        self.waits = reference(waits)
        self.waiter: weakref.ref[Any] | None = None
        self.asked = 0.0
        self.name = self.how = ""
        self.origin: Link | None = None
        self.request: Request | None = None
        self.connection: Connection | None = None
        self._members = {id(each): reference(each) for each in members}
        self._first = first
        self._clear: bool | None = None

    def has(self, victim: Any) -> bool:
        """Whether *victim* is one of those that were waited for."""
        ref = self._members.get(id(victim))
        return ref is not None and ref() is victim

    @property
    def is_clear(self) -> bool:
        """Whether it came back for nothing else: for none that returned."""
        if self._clear is None:
            self._clear = not (self._first and any(map(_returned, self._members.values())))
        return self._clear


def _returned(ref: Any) -> bool:
    future = ref()
    return (
        future is not None
        and future.done()
        and not future.cancelled()
        and exception_of(future) is None
    )


class Waits:
    """Those that came back just now, or are about to."""

    def __init__(self, tasks: Tasks, failures: Failures, cancellations: Cancellations) -> None:
        self._tasks = tasks
        self._failures = failures
        self._cancellations = cancellations
        self._doubts: dict[int, Wait] = cancellations.doubts
        self.find_lost: Callable[[BaseException], Connection | None] = lambda _error: None
        """Says of which connection, whose peer went away, an error tells."""
        self._asked: WeakIdMap[Wait] = WeakIdMap()
        """By the task that waited: because of which it has cancelled others last."""

    def on_end(self, task: Any, callbacks: Iterable[Any], error: BaseException | None) -> None:
        """*task*, which is to call *callbacks* now, has failed with *error*, or was cancelled."""
        for callback in callbacks:
            found = waiter_of(callback)
            if found is None:
                continue
            waiter, when = found
            first = when == asyncio.FIRST_COMPLETED
            if not (first or (error is not None and when == asyncio.FIRST_EXCEPTION)):
                continue
            note = self._doubts.get(id(waiter))
            if not waiter.done() and (note is None or _waiter_of(note) is not waiter):
                self._add(waiter, task, error, first=first)

    def _add(self, waiter: Any, task: Any, error: BaseException | None, *, first: bool) -> None:
        for entry in _entries(waiter):
            waits = owner_of(callback_of(entry))
            members = () if waits is None else _members_of(waits)
            if not members:
                continue
            note = Wait(waits, members, first=first)
            note.name = self._tasks.name(task)
            if error is None:
                note.how = "was cancelled"
                note.request = self._cancellations.obeyed_by(task)
            else:
                note.how = "had failed"
                note.origin, note.request = self._failures.of(task, error)
                note.connection = self.find_lost(error) if note.request is None else None
            note.waiter = dropping(waiter, self._doubts, id(waiter))
            self._doubts[id(waiter)] = note

    def behind(self, task: Any, victim: Any) -> Wait | None:
        """What *task* has just come back from, where *victim* is cancelled because of that."""
        found = None
        for key, note in list(self._doubts.items()):
            if _waiter_of(note) is None:
                self._doubts.pop(key, None)
            elif note.waits() is task:
                found = note
        if found is None:
            found = self._asked.get(task)
            if found is None or monotonic() - found.asked > _NEXT:
                return None
        if not (found.has(victim) and found.is_clear):
            return None
        found.asked = monotonic()
        self._asked[task] = found
        return found


def _waiter_of(note: Wait) -> Any:
    return None if note.waiter is None else note.waiter()


def _entries(future: Any) -> Iterable[Any]:
    entries = callbacks_of(future)
    return () if entries is UNKNOWN else entries or ()


def _members_of(task: Any) -> Iterable[Any]:
    """What *task* waits for by ``asyncio.wait()``."""
    for coro in awaited_chain(coro_of(task)):
        frame = getattr(coro, "cr_frame", None)
        if frame is not None and is_waiting(frame):
            found: Iterable[Any] = local(frame, internals.WAIT_FS.name) or ()
            return found
    return ()
