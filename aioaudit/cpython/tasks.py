"""Tasks and futures of both classes: which runs, which there are, what is inside of one.

Up to 3.13 ``asyncio.current_task()`` knows them all.  Since 3.14 each implementation keeps
its own: C a field of the thread's state (``ts->asyncio_running_task``,
Modules/_asynciomodule.c), Python a dict by loop (``_current_tasks``, Lib/asyncio/tasks.py).
``asyncio.current_task()`` is C's and gives None while a task of the Python class
(``_PyTask``) runs; with nest_asyncio all are of that class.  So it is with ``all_tasks()``.
"""

from __future__ import annotations

import asyncio
import asyncio.base_futures
import asyncio.futures
import asyncio.tasks
import gc
import sys
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from operator import attrgetter
from types import CodeType, FrameType
from typing import Any, cast

from aioaudit.cpython import internals
from aioaudit.cpython.behaviour import (
    GET_CORO_MAY_CRASH,
    TASKS_OF_PYTHON_ARE_APART,
    TASKS_STAND_IN_THREADS,
)
from aioaudit.cpython.frames import getframe
from aioaudit.cpython.internals import UNKNOWN, Unknown, has, own_reader, reader
from aioaudit.cpython.loops import running_loop

PYTHON_TASKS: dict[Any, Any] = (
    getattr(asyncio.tasks, internals.CURRENT_TASKS.name, {}) if TASKS_OF_PYTHON_ARE_APART else {}
)
"""The tasks of the Python class that run now, by loop; always empty before 3.14."""

_TABLES = (
    internals.ALL_TASKS.name,
    internals.SCHEDULED_TASKS.name,
    internals.EAGER_TASKS.name,
)
"""Where Lib/asyncio/tasks.py has its tasks: 3.11, 3.12 and later, those in their first step."""

_TRIES = 1000
"""As often as ``asyncio.all_tasks()`` tries, too: another thread may be adding a task."""

of_c: Callable[..., Any] = getattr(
    sys.modules.get("_asyncio"), internals.C_CURRENT_TASK.name, asyncio.current_task
)
"""``asyncio.current_task`` as Python has it; of C, since 3.12, it has no frame and no cost."""


def _distinct(*classes: Any) -> list[Any]:
    found: list[Any] = []
    for cls in classes:
        if cls is not None and cls not in found:
            found.append(cls)
    return found


def task_classes() -> list[Any]:
    """asyncio's classes of tasks: that in C, and that in Python."""
    return _distinct(asyncio.tasks.Task, getattr(asyncio.tasks, internals.PY_TASK.name, None))


def future_classes() -> list[Any]:
    """asyncio's classes of futures: that in C, and that in Python."""
    python = getattr(asyncio.futures, internals.PY_FUTURE.name, None)
    return _distinct(asyncio.futures.Future, python)


def name_of(task: Any) -> str | None:
    """The name of *task*, also in its first step; None before its construction gets that far.

    Subclasses are not asked: what they answer with may need what is not constructed yet.
    """
    usual = asyncio.tasks.Task
    for cls in (usual,) if type(task) is usual else task_classes():
        if isinstance(task, cls):
            with suppress(AttributeError):  # of Python, it has no `_name` yet
                name: str | None = cls.get_name(task)
                return name
    return None


def cancelling_of(task: Any) -> int:
    """How many requests to cancel *task* stand; subclasses are not asked, as in `name_of`."""
    for cls in task_classes():
        if isinstance(task, cls):
            with suppress(AttributeError):
                return int(cls.cancelling(task))
    return 0


def current_task() -> Any:
    """The task that runs in this thread, None where none does."""
    try:
        task = of_c()
    except RuntimeError:  # no loop of which C knows runs in this thread
        return _of_others()
    if not PYTHON_TASKS:
        return task
    other = PYTHON_TASKS.get(running_loop())
    if other is None:
        return task
    return other if task is None else _inner(task, other)


def task_of(loop: Any) -> Any:
    """The task that runs in *loop*, whichever thread that runs in; None where none does."""
    task = of_c(loop)
    return PYTHON_TASKS.get(loop) if task is None else task


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
    of_python = None
    if TASKS_OF_PYTHON_ARE_APART:
        of_python = getattr(asyncio.tasks, internals.PY_ALL_TASKS.name, None)
    return found if of_python is None else found | of_python(loop)


def living(loops: Iterable[Any]) -> set[int] | None:
    """The `id` of every task of the process that is not done, and of some that are.

    From 3.14 on tasks stand in lists that only ``all_tasks()`` of their loop shows, so
    *loops* are to be all that there are.  None where it cannot be said just now.
    """
    for _ in range(_TRIES):
        try:
            found = {id(task) for name in _TABLES for task in getattr(asyncio.tasks, name, ())}
            if TASKS_STAND_IN_THREADS:
                for loop in loops:
                    found.update(map(id, asyncio.all_tasks(loop)))
        except RuntimeError:  # a table changed while it was read
            continue
        return found
    return None


def _inner(one: Any, other: Any) -> Any:
    """Which of two tasks that are both under way runs inside the other's step."""
    roots = {id(getattr(coro_of(task), "cr_frame", None)): task for task in (one, other)}
    frame: FrameType | None = getframe(2)
    while frame is not None:
        task = roots.get(id(frame))
        if task is not None:
            return task
        frame = frame.f_back
    return one


# -- what is inside of a task or a future ----------------------------------------------

fut_waiter: Callable[[Any], Any] = reader(
    internals.FUT_WAITER, asyncio.Task, None if has(internals.FUT_WAITER, asyncio.Task) else UNKNOWN
)
"""The future that a task waits for, None while it waits for none, or `UNKNOWN`.

Of a task of another make that has no such thing (QtAsyncio's) it is None, too.
"""

_coro_of = reader(internals.CORO, asyncio.Task)


def coro_of(task: Any) -> Any:
    """What *task* runs or ran; None where it ended in its first step, or is no task at all.

    To be called in place of ``task.get_coro()``, except for the task that runs.
    """
    if GET_CORO_MAY_CRASH:
        coro = _coro_of(task)
        if coro is not UNKNOWN:
            return coro
    get_coro = getattr(task, "get_coro", None)
    return None if get_coro is None else get_coro()


get_coro: Callable[[Any], Any] = asyncio.Task.get_coro
"""What a task of asyncio's class runs: only for the task that runs, and one that waits for a future."""


exception_of: Callable[[Any], BaseException | Unknown | None] = reader(
    internals.EXCEPTION, asyncio.Future
)
"""What a task failed with, None where it did not, or `UNKNOWN`.

``task.exception()`` would count as having retrieved it, and asyncio would not warn any more.
"""

result_of: Callable[[Any], Any] = reader(internals.RESULT, asyncio.Future)
"""What a task returned, without having retrieved it, or `UNKNOWN`."""


def make_must_cancel(task_class: Any) -> Callable[[Any], bool | Unknown]:
    """What asks a task whether it was cancelled and has not felt it yet.

    The answer is `UNKNOWN` where *task_class*, which asyncio uses, does not say it.  A task of
    another make that has no such mark (QtAsyncio's) throws at once: there the answer is no.
    """
    if not has(internals.MUST_CANCEL, task_class):
        return lambda task: UNKNOWN if asyncio.isfuture(task) else False
    name = internals.MUST_CANCEL.name

    def must_cancel(task: Any) -> bool | Unknown:
        return bool(getattr(task, name, False))

    return must_cancel


must_cancel = make_must_cancel(asyncio.Task)
"""Whether a task was cancelled and has not felt it yet, or `UNKNOWN`."""


def make_is_begun(future_class: Any) -> Callable[[Any], Any]:
    """What asks an object of one of `future_classes` whether ``__init__`` was called on it.

    The answer is something true for yes, else None.  With C's own getter it costs nothing.
    """
    if has(internals.LOOP, future_class):
        return attrgetter(internals.LOOP.name)

    def is_begun(future: Any) -> Any:
        try:
            return future.get_loop()
        except RuntimeError:
            return None

    return is_begun


is_begun = make_is_begun(asyncio.Future)
"""Something other than None where a future was begun: ``object.__new__`` makes some that were not."""


Entries = Sequence[Any]
"""What is to be called when a future ends, as the future has it: `callback_of` an entry."""


def make_callbacks_of(future_class: Any) -> Callable[[Any], Entries | Unknown | None]:
    """What asks a future for its callbacks: `UNKNOWN` where *future_class* does not show them."""
    return cast(
        "Callable[[Any], Entries | Unknown | None]", reader(internals.CALLBACKS, future_class)
    )


CALLBACKS = internals.CALLBACKS.name
"""The attribute in which a future shows them."""

callbacks_of = make_callbacks_of(asyncio.Future)
"""The entries of what is to be called when a future ends; None or none, or `UNKNOWN`."""


own_callbacks_of: Callable[[Any], Sequence[tuple[Any, Any]] | Unknown | None] = own_reader(
    internals.CALLBACKS, asyncio.Future
)
"""The same of asyncio's own futures alone, whose entries are a function and its context."""


def callback_of(entry: Any) -> Any:
    """The function of an entry of `callbacks_of`; asyncio has its context beside it."""
    return entry[0] if isinstance(entry, tuple) else entry


def _of_repr(each: internals.Internal) -> tuple[Any, str] | None:
    module = asyncio.base_futures
    return (module, each.name) if hasattr(module, each.name) else None


REPR_OF_CALLBACKS = _of_repr(internals.FORMAT_CALLBACKS)
"""Where the function stands that makes a future's callbacks text, None where it is not."""

REPR_OF_FUTURES = _of_repr(internals.FUTURE_REPR_INFO)
"""Where the function stands that makes a future text, None where it is not."""

ORIGIN_IS_SHOWN = has(internals.SOURCE_TRACEBACK, asyncio.Future)
"""Whether a task shows what debug mode recorded: `origin_of`, and the making of tasks."""

origin_of: Callable[[Any], Any] = reader(internals.SOURCE_TRACEBACK, asyncio.Future, None)
"""The frames that debug mode recorded as a task's or handle's origin, None without it."""

own_origin_of: Callable[[Any], Any] = own_reader(internals.SOURCE_TRACEBACK, asyncio.Future)
"""The same of what is asyncio's own, `UNKNOWN` where it cannot be known."""


def tells_of_destruction(task: Any) -> bool:
    """Whether *task*, if it is destroyed while pending, tells its loop; ``gather`` takes that away."""
    return bool(getattr(task, internals.LOG_DESTROY_PENDING.name, True))


def abandon(task: Any) -> None:
    """Let no end of a loop wait for *task*, which will not end, and nothing warn when it goes."""
    unregister = getattr(asyncio.tasks, internals.UNREGISTER_TASK.name, None)
    if unregister is not None:
        unregister(task)
    with suppress(AttributeError):  # one of another make
        setattr(task, internals.LOG_DESTROY_PENDING.name, False)


def is_gathered(future: Any, gather: Any) -> bool:
    """Whether *gather* is the future of a ``gather`` that waits for *future*."""
    return future in getattr(gather, internals.CHILDREN.name, ())


def code_of_result() -> CodeType | None:
    """The code by which a future of the Python class raises what it ended with."""
    cls = future_classes()[-1]
    return getattr(vars(cls).get("result"), "__code__", None)


def cancelled_by(task: Any) -> CancelledError | None:
    """The CancelledError that ended *task*, without taking it from the task.

    The C type shows it to the garbage collector only (``task_traverse`` in
    Modules/_asynciomodule.c); ``result()`` would raise it, and forget it.
    """
    for each in gc.get_referents(task):
        if isinstance(each, CancelledError):
            return each
    error = getattr(task, internals.CANCELLED_EXC.name, None)
    return error if isinstance(error, CancelledError) else None
