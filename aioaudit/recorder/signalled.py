"""Whether a signal's handler runs just now, for what it makes, gives or wakes."""

from __future__ import annotations

from sys import getrefcount
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit.stack.frames import UNSHARED, callers, given_frame, signal_of
from aioaudit.state.handoffs import Handoff
from aioaudit.threads import get_ident

if TYPE_CHECKING:
    from aioaudit.state.known import State


def signal_here(
    known: State, frame: FrameType | None, current: Any, how: str, *, near: int | None = None
) -> Handoff | None:
    """The signal whose handler called *frame*, or is it, while *current* is the task that runs.

    With the handler's line, and *how* it led to what follows; None where none is on the stack, or,
    while a task runs, among its *near* innermost frames.
    """
    codes = known.codes
    main = get_ident() == known.places.main_thread
    looks = current is None and len(known.handoffs.signal_callbacks) > 0
    if not (main or looks):
        return None
    left = near if current is not None else None
    step, outermost = frame, None
    while step is not None:
        if left is not None:
            if not left:
                return None
            left -= 1
        info = codes.of(step)
        if info.boundary:
            break
        outermost = step.f_code
        back = step.f_back
        # A frame that was given to nobody is not what a signal's handler was given.
        if (
            main
            and info.interrupted
            and getrefcount(back) > UNSHARED
            and given_frame(step, info.interrupted)
        ):
            number = signal_of(step)
            if number is not None:
                return _note(known, frame, number, how)
        step = back
    if not looks or step is None:
        return None
    found = known.handoffs.signal_callback(outermost)
    if found is None or found[2] != "observed":
        return None
    number, note, _ = found
    here = _note(known, frame, number, how)
    if here.at is None:
        return msgspec.structs.replace(note, how=how)
    return here


def _note(known: State, frame: FrameType | None, number: int | None, how: str) -> Handoff:
    found, library = callers(known.codes, frame)
    return Handoff(
        at=None if found is None else found[0].at(found[1]),
        source=None if found is None else found[0].source,
        thread=None,
        how=how,
        signal=number,
        library=None if library is None else library[0].source,
        library_at=None if library is None else library[0].at(library[1]),
    )
