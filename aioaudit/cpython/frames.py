"""The stack from where one is: the frame so far outwards, and whose code that runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

from aioaudit.cpython import internals

getframe: Callable[[int], FrameType] = sys._getframe
"""The frame so far outwards; 0 is the caller's own."""


def calling_frame(depth: int = 1) -> FrameType:
    """The frame that called the one so far outwards, 1 for the caller's own.

    That one itself where no Python code calls it: a thread of C, or one that `_thread` has begun with
    it, or the interpreter at its end.
    """
    frame = getframe(depth)
    return frame.f_back or frame


current_frames: Callable[[], dict[int, FrameType]] = getattr(
    sys, internals.CURRENT_FRAMES.name, dict
)
"""The innermost frame of each thread, by the thread's number; nothing where that cannot be had."""

module_at: Callable[[int], str | None] = getattr(
    sys, internals.GETFRAMEMODULENAME.name, lambda _depth: None
)
"""The module of the function so far outwards, None where that cannot be had at once."""
