"""The stack from where one is: the frame so far outwards, and whose code that runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

from aioaudit.cpython import internals

getframe: Callable[[int], FrameType] = sys._getframe
"""The frame so far outwards; 0 is the caller's own."""


def caller_of(depth: int = 1) -> FrameType | None:
    """The frame that called the one so far outwards, 1 for the caller's own.

    None where no Python code calls it: a thread of C, or one that `_thread` has begun with it, or
    the interpreter at its end.  Not by ``f_back``, which without memory is None and an exception
    at once (``frame_getback`` in Objects/frameobject.c).
    """
    try:
        return getframe(depth + 1)
    except ValueError:
        return None


def calling_frame(depth: int = 1) -> FrameType:
    """As `caller_of`, but the frame so far outwards itself where no Python code calls it."""
    return caller_of(depth + 1) or getframe(depth)


current_frames: Callable[[], dict[int, FrameType]] = getattr(
    sys, internals.CURRENT_FRAMES.name, dict
)
"""The innermost frame of each thread, by the thread's number; nothing where that cannot be had."""

module_at: Callable[[int], str | None] = getattr(
    sys, internals.GETFRAMEMODULENAME.name, lambda _depth: None
)
"""The module of the function so far outwards, None where that cannot be had at once."""
