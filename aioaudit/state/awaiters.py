"""Who waits for a future: the tasks that its cancellation reaches."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from aioaudit.cpython.callbacks import (
    gather_of,
    is_gather_done,
    is_wakeup,
    owner_of,
    released_future,
    waiter_of,
)
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.tasks import callback_of, callbacks_of


def waiters_of(future: Any) -> list[Any]:
    """The tasks that a cancellation of *future* reaches: those that await it, or its gather."""
    found: list[Any] = []
    entries = callbacks_of(future)
    for entry in () if entries is UNKNOWN else entries or ():
        found.extend(reached_by(callback_of(entry)))
    return found


def reached_by(callback: Any) -> list[Any]:
    """The tasks that the done callback *callback* of a cancelled future ends."""
    if not is_gather_done(callback):  # which no task has as a method, and needs the most questions
        task = owner_of(callback)
        if task is not None:
            return [task] if is_wakeup(callback) else []
        released = released_future(callback)
        if released is not None:
            return waiters_of(released)
    gather = gather_of(callback)
    if gather is None:
        return []
    outer, keeps_errors = gather
    return [] if keeps_errors else waiters_of(outer)


def reaches_nobody(callback: Any) -> bool | weakref.ref[Any]:
    """Whether the done callback *callback* ends no task; a reference to it where it never will."""
    if reached_by(callback):
        return False
    waits = waiter_of(callback)
    if waits is not None:
        return waits[1] != asyncio.FIRST_COMPLETED  # else it may be why others are cancelled
    gather = gather_of(callback)
    return weakref.ref(callback) if gather is not None and gather[1] else True
