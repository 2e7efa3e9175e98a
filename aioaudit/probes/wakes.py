"""A probe on ``asyncio.Event.set``: a signal's handler wakes the tasks that wait for the event.

Most services end so: the handler sets an event, and the task that waited for it cancels the
others.  Nothing on the stack says any more that a signal came, so it is noted as the event is set.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

from aioaudit.cpython.callbacks import waiting_for
from aioaudit.cpython.frames import getframe
from aioaudit.cpython.tasks import current_task
from aioaudit.recorder.recorder import Recorder
from aioaudit.recorder.signalled import signal_here
from aioaudit.state.awaiters import waiters_of

_HOW = "asked by a task that its handler woke"

_NEAR = 3
"""So many frames, this one included, are looked at while a task runs: libraries set events all the
time, and a handler does so itself, or calls what does."""


def make_set(recorder: Recorder, original: Callable[[Any], None]) -> Callable[[Any], None]:
    """``Event.set`` that notes which tasks a signal's handler wakes."""

    def set(self: Any) -> None:  # noqa: A001 - it takes the place of one
        try:
            waiters = waiting_for(self)
            if waiters and not recorder.muted():
                _note_woken(recorder, waiters, getframe(0))
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a task asleep
            recorder.report_fault(error)
        original(self)

    return set


def _note_woken(recorder: Recorder, waiters: Any, frame: FrameType) -> None:
    known = recorder.state
    note = signal_here(known, frame, current_task(), _HOW, near=_NEAR)
    if note is None:
        return
    for future in list(waiters):
        for task in () if future.done() else waiters_of(future):
            known.handoffs.carry(task, note, "inferred", future)
    known.cancellations.asks.forget_lines()
