"""Probes on ``asyncio.Timeout``: its seconds, where it was entered, when it was armed last."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

from aioaudit.cpython.frames import getframe
from aioaudit.cpython.groups import TIMEOUT_DELAY, TIMEOUT_MAKER
from aioaudit.cpython.loops import running_loop
from aioaudit.recorder.recorder import Recorder
from aioaudit.stack.code import APPLICATION, STDLIB, THIRD_PARTY, CodeInfo
from aioaudit.stack.frames import caller
from aioaudit.state.handoffs import TimeoutEntry

_NONE_MADE: tuple[int, float | None] = (0, None)


def make_probes(
    recorder: Recorder, init: Callable[..., None], original: Callable[..., None]
) -> tuple[Callable[..., None], Callable[..., None]]:
    """``__init__`` and ``reschedule`` of a class of timeouts.

    ``reschedule``, which ``__aenter__`` calls too, is where it is known which ``async with`` line
    entered the timeout: when it runs out that line is on no stack.  ``__init__`` tells the
    seconds as the program gave them to ``asyncio.timeout()``: the timeout itself knows only
    when it is to run out, and what is left of it at its entry is less, by much where the thread
    had to wait for the processor in between.
    """
    timeouts = recorder.state.handoffs.timeouts
    entries = timeouts.entries
    known = recorder.state.codes.known.get
    # The timeout made last, by its `id`, and its seconds.  It is entered next, but for threads
    # that come in between: then its seconds are measured.  Each that is made comes by here, so
    # this is never about another one at the same address.
    made = _NONE_MADE

    def __init__(self: Any, when: float | None) -> None:  # noqa: N807 - it stands for a method
        nonlocal made
        init(self, when)
        try:
            made = _NONE_MADE
            frame = getframe(1)
            if frame.f_code is TIMEOUT_MAKER:
                delay = frame.f_locals.get(TIMEOUT_DELAY)
                if type(delay) is float or type(delay) is int:
                    made = id(self), delay
        except Exception as error:  # noqa: BLE001 - an internal error must not break a timeout
            recorder.report_fault(error)

    def reschedule(self: Any, when: float | None) -> None:
        key = id(self)
        entry = entries.get(key)
        note = None if entry is None or entry[0]() is not self else entry[1]
        which, given = made
        if which != key:
            given = None
        now = 0.0
        if note is not None or given is None:
            # First: uvloop's clock may move on inside the original.
            try:
                now = _time()
            except Exception:  # noqa: BLE001 - the clock of a loop that is not made
                original(self, when)
                return
        original(self, when)
        try:
            if note is not None:
                timeouts[self] = TimeoutEntry(note.at, note.source, now, note.by, None)
                return
            frame = getframe(1)
            if frame.f_code.co_name != "__aenter__":
                return
            outer = frame.f_back
            info = None if outer is None else known(id(outer.f_code))
            if outer is None or info is None or info.owner != APPLICATION:
                timeouts[self] = _entry_of(recorder, outer, now, given)
                return
            offset = outer.f_lasti
            note = info.timeouts.get(offset)
            if given is None or note is None or note.seconds is not given:
                note = _entry_at(info, offset, now, given)
            timeouts[self] = note
        except Exception as error:  # noqa: BLE001 - an internal error must not disarm a timeout
            recorder.report_fault(error)

    return __init__, reschedule


def _time() -> float:
    """What the clock of the running loop says, 0 where none runs."""
    loop = running_loop()
    now: float = 0.0 if loop is None else loop.time()
    return now


def _entry_at(info: CodeInfo, offset: int, now: float, given: float | None) -> TimeoutEntry:
    """The entry of timeouts that the application's line at *offset* of *info* enters.

    Where it gives a number of seconds nothing else is in there that differs from one to the next,
    so it serves for as long as the line gives that very number (`now` is 0 then).
    """
    entry = TimeoutEntry(info.at(offset), info.source, now, None, given)
    if given is not None:
        info.timeouts[offset] = entry
    return entry


def _entry_of(
    recorder: Recorder, frame: FrameType | None, now: float, given: float | None
) -> TimeoutEntry:
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
        return TimeoutEntry(None, None, now, by, given)
    return TimeoutEntry(found[0].at(found[1]), found[0].source, now, by, given)
