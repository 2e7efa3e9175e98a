"""What a loop is at, seen from another thread: which callback it runs, and since when.

Nothing is noted by the loop for that.  ``BaseEventLoop._run_once`` has all that is needed in its
variables: ``end_time``, which is another in every round, and ``i``, the number of the callback
within the round; and a loop that waits has no ``Handle._run`` above that frame.  So two looks
that find the same two numbers have found one and the same callback, however many there are.

Loops that are not built on asyncio's show nothing that is another in every round.  uvloop has no
frames of its own, and all steps of a task have the same one; its clock does not stand still
within a round, and asking for the time sets it (``uv_update_time``), which is the loop's affair.

A frame that another thread is about to leave may be looked at as long as one has the GIL.  That
may be lost in the middle, so the numbers are read before and after everything else.
"""

from __future__ import annotations

import asyncio
from asyncio.base_events import BaseEventLoop
from types import BuiltinFunctionType, FrameType
from typing import Any

import msgspec

from aioaudit.cpython import internals
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.loops import called_by
from aioaudit.stack.code import APPLICATION, OWN, STDLIB, Codes
from aioaudit.stack.frames import variables
from aioaudit.text import clean

_RUN_ONCE = getattr(getattr(BaseEventLoop, internals.RUN_ONCE.name, None), "__code__", None)
_RUN_HANDLE = getattr(getattr(asyncio.Handle, internals.RUN_HANDLE.name, None), "__code__", None)
_TIME: Any = BaseEventLoop.time
_MOST_FRAMES = 2000


class Turn(msgspec.Struct, eq=False):
    """One callback that a loop runs.

    ``key`` is the same for as long as it runs, and another for any other.  ``ago`` is how many
    seconds ago the round of the loop began, None where that is not known; ``first`` says that this
    callback began then, too.  ``beyond`` is the frame that runs it.
    """

    key: tuple[object, ...]
    ago: float | None
    first: bool
    beyond: FrameType


class Spot(msgspec.Struct, frozen=True):
    """Where a callback is: the application's innermost line, and what that is in."""

    source: str
    at: str | None
    library: str | None = None
    library_at: str | None = None


def turn_of(loop: Any, frame: FrameType) -> Turn | None:
    """What *loop* runs, whose thread has *frame* innermost; None where it runs nothing, or hides it."""
    if not isinstance(loop, BaseEventLoop):
        return None
    above: FrameType | None = None
    step: FrameType | None = frame
    for _ in range(_MOST_FRAMES):
        if step is None:
            return None
        if step.f_code is _RUN_ONCE and (values := variables(step)).get("self") is loop:
            break
        above, step = step, step.f_back
    else:
        return None
    end, number = values.get("end_time"), values.get("i")
    if (
        above is None
        or above.f_code is not _RUN_HANDLE
        or not isinstance(end, float)
        or not isinstance(number, int)
    ):
        return None  # it waits, or is between two callbacks
    # A loop of the program's own may have a clock of its own, which a test winds.
    kind: Any = type(loop)
    ago = max(kind.time(loop) - end, 0.0) if kind.time is _TIME else None
    return Turn((end, number), ago, number == 0, above)


def spot_of(turn: Turn, frame: FrameType, codes: Codes) -> Spot | None:
    """Where *turn*, whose innermost frame is *frame*, is; None where no frame tells."""
    inner: tuple[str, str] | None = None
    nearest: tuple[str, str] | None = None
    step: FrameType | None = frame
    for _ in range(_MOST_FRAMES):
        if step is None or step is turn.beyond:
            break
        info = codes.of(step)
        if info.owner == APPLICATION:
            return Spot(info.source, info.at(step.f_lasti), *(inner or (None, None)))
        if info.owner != OWN:
            here = info.source, info.at(step.f_lasti)
            inner = inner or here
            if nearest is None and info.owner != STDLIB:
                nearest = here
        step = step.f_back
    found = nearest or inner
    return Spot(*found) if found is not None else _built_in(turn)


def _built_in(turn: Turn) -> Spot | None:
    """What is written in C, and was itself given to the loop."""
    called = called_by(variables(turn.beyond).get("self"))
    if called is UNKNOWN or type(called[0]) is not BuiltinFunctionType:
        return None
    function = called[0]
    return Spot(clean(f"{function.__module__ or 'builtins'}:{function.__qualname__}"), None)
