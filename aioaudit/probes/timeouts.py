"""A probe on ``asyncio.Timeout``: where it was entered, and when it was armed last."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from aioaudit.causes.code import STDLIB, THIRD_PARTY, CodeInfo, Codes
from aioaudit.causes.frames import caller
from aioaudit.recorder.recorder import Entered, Recorder

_getframe = sys._getframe


def make_reschedule(recorder: Recorder, original: Callable[..., None]) -> Callable[..., None]:
    """``Timeout.reschedule``, which ``__aenter__`` calls too.

    Only here is it known which ``async with`` line entered the timeout: when it
    runs out that line is on no stack.
    """

    def reschedule(self: Any, when: float | None) -> None:
        # First: uvloop's clock may move on inside the original.
        loop = recorder.running_loop()
        time = getattr(loop, "time", float)
        now = time()
        original(self, when)
        try:
            note = getattr(self, "_aioaudit_entered", None)
            if note is None:
                frame = _getframe(1)
                if frame.f_code.co_name == "__aenter__":
                    found = caller(recorder.codes, frame.f_back)
                    self._aioaudit_entered = Entered(
                        None if found is None else found[0].at(found[1]),
                        None if found is None else found[0].source,
                        now,
                        time,
                        _library(recorder.codes, frame.f_back),
                    )
            else:
                note.armed = now
        except Exception as error:  # noqa: BLE001 - a fault of ours must not disarm a timeout
            recorder.fault(error)

    return reschedule


def _library(codes: Codes, frame: FrameType | None) -> CodeInfo | None:
    """The library's code that entered a timeout in *frame*, or with ``wait_for`` from there."""
    info = None
    if frame is not None:
        info = codes.of(frame)
        if info.kind == STDLIB and frame.f_back is not None:
            info = codes.of(frame.f_back)
    return info if info is not None and info.kind == THIRD_PARTY else None
