"""A probe on ``asyncio.Timeout``: where it was entered, and when it was armed last."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

from aioaudit.cpython.frames import getframe
from aioaudit.cpython.loops import running_loop
from aioaudit.recorder.recorder import Recorder
from aioaudit.stack.code import APPLICATION, STDLIB, THIRD_PARTY, CodeInfo
from aioaudit.stack.frames import caller
from aioaudit.state.handoffs import TimeoutEntry


def make_reschedule(recorder: Recorder, original: Callable[..., None]) -> Callable[..., None]:
    """``Timeout.reschedule``, which ``__aenter__`` calls too.

    Only here is it known which ``async with`` line entered the timeout: when it
    runs out that line is on no stack.
    """
    timeouts = recorder.state.handoffs.timeouts
    known = recorder.state.codes.known.get

    def reschedule(self: Any, when: float | None) -> None:
        # First: uvloop's clock may move on inside the original.
        try:
            loop = running_loop()
            now = 0.0 if loop is None else loop.time()
        except Exception:  # noqa: BLE001 - the clock of a loop that is not made
            original(self, when)
            return
        original(self, when)
        try:
            note = timeouts.get(self)
            if note is not None:
                note.armed = now
                return
            frame = getframe(1)
            if frame.f_code.co_name != "__aenter__":
                return
            outer = frame.f_back
            info = None if outer is None else known(id(outer.f_code))
            if outer is not None and info is not None and info.owner == APPLICATION:
                timeouts[self] = TimeoutEntry(info.at(outer.f_lasti), info.source, now, None)
            else:
                timeouts[self] = _entry_of(recorder, outer, now)
        except Exception as error:  # noqa: BLE001 - an internal error must not disarm a timeout
            recorder.report_fault(error)

    return reschedule


def _entry_of(recorder: Recorder, frame: FrameType | None, now: float) -> TimeoutEntry:
    """What is to be known of a timeout that *frame* has entered."""
    codes = recorder.state.codes
    by: CodeInfo | None = None
    if frame is not None:
        by = codes.of(frame)
        if by.owner == STDLIB and frame.f_back is not None:
            by = codes.of(frame.f_back)  # what calls ``wait_for``
    if by is not None and by.owner != THIRD_PARTY:
        by = None
    found = caller(codes, frame)
    if found is None:
        return TimeoutEntry(None, None, now, by)
    return TimeoutEntry(found[0].at(found[1]), found[0].source, now, by)
