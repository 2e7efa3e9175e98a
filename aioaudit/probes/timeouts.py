"""Probes on ``asyncio.Timeout``: its seconds, where it was entered, when it was armed last."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType, FunctionType
from typing import Any

from aioaudit.core import Arming, make_reschedule
from aioaudit.cpython.groups import TIMEOUT_DELAY
from aioaudit.cpython.loops import running_loop
from aioaudit.recorder.recorder import Recorder
from aioaudit.stack.code import APPLICATION, STDLIB, THIRD_PARTY, CodeInfo
from aioaudit.stack.frames import caller
from aioaudit.state.handoffs import TimeoutEntry


def make_probes(
    recorder: Recorder,
    cls: Any,
    init: Callable[..., None],
    original: Callable[..., None],
    maker: FunctionType | None,
) -> tuple[Callable[..., None] | None, Callable[..., None]]:
    """``__init__`` and ``reschedule`` of the class of timeouts *cls* (`make_reschedule`).

    *maker* is the function that makes them of seconds, None where there is none.
    """
    timeouts = recorder.state.handoffs.timeouts
    known = recorder.state.codes.known.get

    def enter(timeout: Any, frame: FrameType | None, now: float, given: float | None) -> Any:
        info = None if frame is None else known(id(frame.f_code))
        if frame is None or info is None or info.owner != APPLICATION:
            timeouts[timeout] = _entry_of(recorder, frame, now, given)
            return None
        timeouts[timeout] = entry = _entry_at(info, frame.f_lasti, now, given)
        return None if given is None else entry

    def again(timeout: Any, note: TimeoutEntry, now: float) -> None:
        timeouts[timeout] = TimeoutEntry(note.at, note.source, now, note.by, None)

    return make_reschedule(
        Arming(
            cls=cls,
            init=init,
            original=original,
            maker=maker,
            delay=TIMEOUT_DELAY,
            notes=timeouts,
            known=known,
            ours=APPLICATION,
            enter=enter,
            again=again,
            time=loop_time,
            fault=recorder.report_fault,
        )
    )


def loop_time() -> float:
    """What the clock of the running loop says, 0 where none runs."""
    loop = running_loop()
    now: float = 0.0 if loop is None else loop.time()
    return now


def _entry_at(info: CodeInfo, offset: int, now: float, given: float | None) -> TimeoutEntry:
    """The entry of timeouts that the application's line at *offset* of *info* enters.

    Where it gives a number of seconds nothing else is in there that differs from one to the next,
    so it serves for as long as the line gives that very number (`now` is 0 then).
    """
    if given is None:
        return TimeoutEntry(info.at(offset), info.source, now, None, None)
    entry = TimeoutEntry(info.at(offset), info.source, now, None, given, {})
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
