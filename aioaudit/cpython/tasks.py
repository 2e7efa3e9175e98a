"""Tasks of both classes: which one runs in this thread, and all that there are.

Up to 3.13 ``asyncio.current_task()`` knows them all.  Since 3.14 each implementation keeps
its own: C a field of the thread's state (``ts->asyncio_running_task``,
Modules/_asynciomodule.c), Python a dict by loop (``_current_tasks``, Lib/asyncio/tasks.py).
``asyncio.current_task()`` is C's and gives None while a task of the Python class
(``_PyTask``) runs; with nest_asyncio all are of that class.  So it is with ``all_tasks()``.
"""

from __future__ import annotations

import _asyncio
import asyncio
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

_APART = sys.version_info >= (3, 14)

PYTHON_TASKS: dict[Any, Any] = getattr(asyncio.tasks, "_current_tasks", {}) if _APART else {}
"""The tasks of the Python class that run now, by loop; always empty before 3.14."""

_TABLES = ("_all_tasks", "_scheduled_tasks", "_eager_tasks")
"""Where Lib/asyncio/tasks.py has its tasks: 3.11, 3.12 and later, those in their first step."""

_TRIES = 1000
"""As often as ``asyncio.all_tasks()`` tries, too: another thread may be adding a task."""

of_c: Callable[[], Any] = getattr(_asyncio, "current_task", asyncio.current_task)
"""``asyncio.current_task`` as Python has it; of C, since 3.12, it has no frame and no cost."""

_running_loop = asyncio._get_running_loop


def current_task() -> Any:
    """The task that runs in this thread, None where none does."""
    try:
        task = of_c()
    except RuntimeError:  # no loop of which C knows runs in this thread
        return _of_others()
    if not PYTHON_TASKS:
        return task
    other = PYTHON_TASKS.get(_running_loop())
    if other is None:
        return task
    return other if task is None else _inner(task, other)


def _of_others() -> Any:
    """The same, asked of who has put a ``current_task`` of their own in asyncio's place.

    trio-asyncio does, since C does not know which of its loops runs.
    """
    ask = asyncio.current_task
    if ask is of_c:
        return None
    try:
        return ask()
    except RuntimeError:
        return None


def all_tasks(loop: Any = None) -> set[Any]:
    """The tasks of *loop* (of the one that runs in this thread) that are not done.

    Raises:
        RuntimeError: no loop is given, and none runs.
    """
    found: set[Any] = asyncio.all_tasks(loop)
    of_python = getattr(asyncio.tasks, "_py_all_tasks", None) if _APART else None
    return found if of_python is None else found | of_python(loop)


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


def _inner(one: Any, other: Any) -> Any:
    """Which of two tasks that are both under way runs inside the other's step."""
    roots = {id(getattr(task.get_coro(), "cr_frame", None)): task for task in (one, other)}
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        task = roots.get(id(frame))
        if task is not None:
            return task
        frame = frame.f_back
    return one
