"""What was there before auditing began: tasks, and the timeouts and groups that they are in.

Who made such a task, and where, is not known, and nothing here guesses it.  What can be read is
told, once for each task (`TaskFound`): what it runs, where it waits, and which lines entered what
it is in, where its frames still show that.  Timeouts are remembered, so that one that runs out
later is told with its line.

All of it is done in the thread of the tasks' loop, a portion at a time.
"""

from __future__ import annotations

import asyncio
import weakref
from asyncio import TaskGroup, Timeout
from typing import TYPE_CHECKING, Any

from aioaudit.cpython.tasks import all_tasks, coro_of
from aioaudit.events import TaskFound
from aioaudit.stack.entered import Entered, entered
from aioaudit.stack.frames import local, suspended_in
from aioaudit.state.handoffs import OlderTimeout
from aioaudit.threads import monotonic

if TYPE_CHECKING:
    from aioaudit.recorder.recorder import Recorder

_WAIT_FOR = asyncio.wait_for.__code__
_UNKNOWN = "?"


class Survey:
    """Looks at the tasks of one loop that are older than auditing.

    Args:
        recorder: Who tells of them.
        loop: Whose they are; the one that runs in this thread, and so it is for `go_on`.

    Attributes:
        tasks: How many were found.
        timeouts: How many timeouts they are in.
        groups: How many task groups.
    """

    def __init__(self, recorder: Recorder, loop: Any) -> None:
        self._recorder = recorder
        self._left: list[weakref.ref[Any]] = []
        self.tasks = self.timeouts = self.groups = 0
        for task in all_tasks(loop):
            try:
                self._left.append(weakref.ref(task))
            except TypeError:  # of another make, and takes no weak reference
                continue

    def go_on(self, seconds: float) -> bool:
        """Look at some of them, for *seconds*; whether there are more.

        Raises nothing: what goes wrong with one task is a fault of ours, and said.
        """
        recorder = self._recorder
        until = monotonic() + seconds
        while self._left and not recorder.sender.closed:
            task = self._left.pop()()
            if task is not None:
                try:
                    self._look_at(task)
                except Exception as error:  # noqa: BLE001 - an internal error must not reach a loop
                    recorder.report_fault(error)
            if monotonic() >= until:
                break
        return bool(self._left) and not recorder.sender.closed

    def _look_at(self, task: Any) -> None:
        recorder = self._recorder
        known = recorder.state
        if task.done() or id(task) in known.tasks.born:
            return
        state = known.tasks.state(task)
        if not state.preexisting:
            return
        coro = coro_of(task)
        event = recorder.sender.new_event(TaskFound, known.places.place(task.get_loop()))
        event.task, event.coro, event.preexisting = state.task, state.coro, True
        event.name = known.tasks.name(task)
        if not getattr(coro, "cr_running", False):
            waits = suspended_in(known.codes, coro)
            event.suspended_at = None if waits is None else waits[0].at(waits[1])
            for each in entered(known.codes, coro):
                at = None if each.spot is None else each.spot[0].at(each.spot[1])
                if isinstance(each.manager, Timeout):
                    event.timeouts = [*event.timeouts, at or _UNKNOWN]
                    self._remember(each, at)
                elif isinstance(each.manager, TaskGroup):
                    event.groups = [*event.groups, at or _UNKNOWN]
        self.tasks += 1
        self.timeouts += len(event.timeouts)
        self.groups += len(event.groups)
        if getattr(coro, "cr_code", None) is not None:  # else nobody but the task could tell
            known.cancellations.watch_end(task)
        recorder.sender.emit_final(event)

    def _remember(self, each: Entered, at: str | None) -> None:
        """Have the line of a timeout at hand when it runs out."""
        handoffs = self._recorder.state.handoffs
        if handoffs.timeouts.get(each.manager) is not None:
            return
        source = None if each.spot is None else each.spot[0].source
        given = local(each.frame, "timeout") if each.frame.f_code is _WAIT_FOR else None
        length: float | None = given if type(given) in (int, float) else None
        handoffs.older_timeouts[each.manager] = OlderTimeout(at, source, length)
