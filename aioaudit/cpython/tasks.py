"""Which tasks there are, as far as asyncio itself keeps count."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Any

_TABLES = ("_all_tasks", "_scheduled_tasks", "_eager_tasks")
"""Where Lib/asyncio/tasks.py has its tasks: 3.11, 3.12 and later, those in their first step."""

_TRIES = 1000
"""As often as ``asyncio.all_tasks()`` tries, too: another thread may be adding a task."""


def living(loops: Iterable[Any]) -> set[int] | None:
    """The `id` of every task of the process that is not done, and of some that are.

    From 3.14 on tasks stand in lists that only ``all_tasks()`` of their loop shows, so
    *loops* are to be all that there are.  None where it cannot be said just now.
    """
    for _ in range(_TRIES):
        try:
            found = {id(task) for name in _TABLES for task in getattr(asyncio.tasks, name, ())}
            if sys.version_info >= (3, 14):
                for loop in loops:
                    found.update(map(id, asyncio.all_tasks(loop)))
        except RuntimeError:  # a table changed while it was read
            continue
        return found
    return None
