"""Probes on tasks: made, asked to cancel, asked to forget it, renamed."""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from aioaudit import bus, core
from aioaudit.core import Created, Making, python
from aioaudit.cpython.behaviour import HAS_EAGER_TASKS
from aioaudit.cpython.frames import caller_of, calling_frame, getframe
from aioaudit.cpython.tasks import (
    ORIGIN_IS_SHOWN,
    PYTHON_TASKS,
    is_begun,
    name_of,
    of_c,
    origin_of,
)
from aioaudit.delivery.records import event_of
from aioaudit.events import TaskCreate
from aioaudit.recorder.recorder import Recorder
from aioaudit.text import clean

_MISSING: Any = object()
_OWN_FOLDERS = tuple(file.rpartition(os.sep)[0] + os.sep for file in (__file__, python.__file__))
_LOOPS = frozenset({"asyncio.events", "uvloop.loop", "aioaudit.probes.loops"})
"""The modules of the Python functions that call what a loop calls: ``Handle._run``, and what
we put around uvloop's methods, which says that it is of uvloop."""

OUTSIDE = _LOOPS | {"aioaudit.core.python", "aioaudit.probes.tasks"}
"""The modules of the functions right outside a task's own frames; the third makes eager tasks."""


def make_init(
    recorder: Recorder,
    cls: Any,
    original: Callable[..., None],
    follow: Callable[[Any, CodeType], None] | None,
    watch_end: Callable[[Any, Any], None] | None,
) -> tuple[Any, object]:
    """``__init__`` of the task class *cls* that notes who made the task, and what is to be kept with it.

    *follow* is called with the code of every new coroutine function (3.12 and later);
    *watch_end* is called with each task and its context whose end cannot be
    seen that way: all of them before 3.12, later those of coroutines that are
    not made of Python code.

    Who listens is built in: whenever that changes, the probes are made anew.
    """
    creation = _TaskCreation(recorder, original, follow, watch_end)
    if not HAS_EAGER_TASKS:
        return _make_plain_init(creation, original), None
    fast = (
        ORIGIN_IS_SHOWN and follow is not None and "task.create" in recorder.sender.selected_events
    )
    if not fast or bus.hooks():
        return _make_careful_init(creation, original), None
    known = creation.tasks
    making = Making(
        born=known.born,
        sites=known.sites,
        direct_sites=known.direct_sites,
        next_number=known.next_number,
        next_seq=creation.sender.run.next_seq,
        put=creation.put,
        created=Created,
        python_tasks=PYTHON_TASKS,
        loops=_LOOPS,
        current_task=of_c,
        get_name=cls.get_name,
        name_of=name_of,
        note=creation.record,
        construct=creation.construct,
        elsewhere=recorder.state.creation_sites.elsewhere,
        hide=hide,
        fault=recorder.report_fault,
    )
    return core.make_init(making, cls, original)


def _make_careful_init(
    creation: _TaskCreation, original: Callable[..., None]
) -> Callable[..., None]:
    """Where a hook may object, or where nobody hears of creations but of ends."""
    slow = creation.construct

    def __init__(  # noqa: N807 - stands in for the method of that name
        self: Any,
        coro: Any = _MISSING,
        *,
        loop: Any = None,
        name: Any = None,
        context: Any = None,
        eager_start: Any = False,
    ) -> None:
        if coro is _MISSING:
            return original(self)
        keywords = {"loop": loop, "name": name, "context": context, "eager_start": eager_start}
        try:  # as in `calling_frame`, without the time of a call
            frame = getframe(1)
        except ValueError:
            frame = None
        return slow(self, coro, keywords, frame or getframe(0))

    return __init__


def _make_plain_init(creation: _TaskCreation, original: Callable[..., None]) -> Callable[..., None]:
    """Before 3.12: no eager tasks yet, and every end needs a callback."""
    slow = creation.construct

    def __init__(  # noqa: N807 - stands in for the method of that name
        self: Any,
        coro: Any = _MISSING,
        *,
        loop: Any = None,
        name: Any = None,
        context: Any = None,
    ) -> None:
        if coro is _MISSING:
            return original(self)
        given = {"loop": loop, "name": name, "context": context}
        try:  # as in `calling_frame`, without the time of a call
            frame = getframe(1)
        except ValueError:
            frame = None
        return slow(self, coro, given, frame or getframe(0))

    return __init__


class _TaskCreation:
    """All that can be said of a task at its making, whoever makes it and however."""

    def __init__(
        self,
        recorder: Recorder,
        original: Callable[..., None],
        follow: Callable[[Any, CodeType], None] | None,
        watch_end: Callable[[Any, Any], None] | None,
    ) -> None:
        self.recorder = recorder
        self.sender = recorder.sender
        self.tasks = recorder.state.tasks
        self.put = recorder.sender.sinks.put
        self._original = original
        self._follow = follow
        self._watch_end = watch_end
        self._tell = "task.create" in recorder.sender.selected_events

    def construct(self, task: Any, coro: Any, keywords: dict[str, Any], frame: FrameType) -> None:
        """Construct *task* and note it: before it starts, where it starts at once.

        *frame* is the one that makes it.  A hook that objects keeps it from being made.
        """
        if not asyncio.iscoroutine(coro):
            self._original(task, coro, **keywords)
            return
        eager = bool(keywords.get("eager_start"))
        if self._follow is None and keywords["context"] is None:
            # The callback at the end is to run in the task's own context.
            keywords["context"] = contextvars.copy_context()
        made = self._begin(coro, keywords["loop"], keywords["name"], frame)
        if made is not None and eager:
            if type(keywords["name"]) is not str:
                made.name_or_task = task
            self.recorder.on_created(task, made)
        try:
            self._original(task, coro, **keywords)
        except BaseException:
            if made is not None:
                self.tasks.born.pop(id(task), None)
                if eager:
                    made.name = name_of(task) or "?"
                elif made.seq:
                    self.sender.sinks.skip(made.seq)
            raise
        try:
            self._constructed(task, made, keywords, eager=eager)
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a task from being made
            self.recorder.report_fault(error)

    def _constructed(
        self, task: Any, made: Created | None, keywords: dict[str, Any], *, eager: bool
    ) -> None:
        hide(task)
        if made is None:
            self._forget(task)
            return
        if type(keywords["name"]) is not str:
            made.name = name_of(task) or "?"
        if not eager:
            self.recorder.on_created(task, made)
        self._watch_end_of(task, made, keywords["context"])

    def record(self, task: Any, coro: Any, loop: Any, name: Any, frame: FrameType) -> None:
        """Note *task*, which is made already."""
        made = self.recorder.on_create(coro, loop, name, frame)
        if made is not None:
            if not made.name:
                made.name = name_of(task) or "?"
            self.recorder.on_created(task, made)
            self._watch_end_of(task, made, None)
        else:
            self._forget(task)

    def _watch_end_of(self, task: Any, made: Created, context: Any) -> None:
        unseen = self._follow is None or made.site.runs is None
        if unseen and self._watch_end is not None:
            self._watch_end(task, context)

    def _begin(self, coro: Any, loop: Any, name: Any, frame: FrameType) -> Created | None:
        """Before the construction: for eager tasks, and where hooks may object."""
        try:
            made = self.recorder.on_create(coro, loop, name, frame)
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a task from being made
            self.recorder.report_fault(error)
            return None
        if made is not None and self._tell and bus.hooks():
            event = event_of(made)
            assert isinstance(event, TaskCreate)
            try:
                self.sender.call_hooks(event)
            except BaseException:
                close = getattr(coro, "close", None)
                if close is not None:
                    close()
                raise
        return made

    def _forget(self, task: Any) -> None:
        """What is known of an earlier task that had the address of *task* is not about this one."""
        self.tasks.born.pop(id(task), None)


def hide(recorded: Any) -> None:
    """Take our frames out of what debug mode recorded as a task's or a handle's origin."""
    trace = origin_of(recorded)
    if trace:
        trace[:] = [entry for entry in trace if not entry.filename.startswith(_OWN_FOLDERS)]


def make_cancel(recorder: Recorder, cls: Any, original: Callable[..., bool]) -> Callable[..., bool]:
    """``cancel`` of the task class *cls* that finds out who calls it."""
    deaf = recorder.is_deaf_to

    def cancel(self: Any, msg: Any = None) -> bool:
        # What is no task, or was never begun, the original is to speak about.
        if not isinstance(self, cls) or is_begun(self) is None or deaf(self):
            return original(self, msg)
        if recorder.on_cancel(self, msg, caller_of()) is None:
            return original(self, msg)
        try:
            return original(self, msg)
        finally:
            recorder.cancel_over()

    return cancel


def make_uncancel(recorder: Recorder, cls: Any, original: Callable[..., int]) -> Callable[..., int]:
    """``uncancel`` of the task class *cls* that notes which request was taken back."""

    def uncancel(self: Any) -> int:
        before = isinstance(self, cls) and is_begun(self) is not None and self.cancelling()
        remaining = original(self)
        try:
            if before and not recorder.muted():
                recorder.on_uncancel(self, calling_frame(), remaining)
        except Exception as error:  # noqa: BLE001 - an internal error must not change what uncancel() does
            recorder.report_fault(error)
        return remaining

    return uncancel


def make_set_name(recorder: Recorder, original: Callable[..., None]) -> Callable[..., None]:
    """``Task.set_name`` that keeps the name of what is not written yet up to date."""
    tasks = recorder.state.tasks
    born = tasks.born

    # Of asyncio's two classes only that in Python knows the argument by name.
    def set_name(self: Any, *args: Any, **keywords: Any) -> None:
        original(self, *args, **keywords)
        entry = born.get(id(self))
        if entry is not None:
            name = tasks.name(self)
            [value] = args or keywords.values()
            # What is not harmless is made so once, where it is told.  What must not leave goes at
            # once: whoever keeps what was told of a birth finds the new name there, later.
            own = value if type(value) is str and clean(value) == name else name
            entry.name = recorder.redaction.now.text("name", own)

    return set_name
