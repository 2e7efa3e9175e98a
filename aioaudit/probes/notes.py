"""Notes on errors where no delivery is seen.

``CancelledError.__notes__`` is made when it is asked for; and that ``wait_for`` is about to raise a
TimeoutError is seen from how it lets go of what it waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aioaudit.cpython.frames import caller_of
from aioaudit.cpython.tasks import current_task
from aioaudit.recorder.notes import NOTES
from aioaudit.recorder.recorder import Recorder

_WAIT_FOR = asyncio.wait_for.__code__
_LETS_GO = "_cancel_and_wait"
"""What ``wait_for`` calls once its time has run out (Lib/asyncio/tasks.py, up to 3.11)."""


def make_remove_done_callback(
    recorder: Recorder, original: Callable[..., int]
) -> Callable[..., int]:
    """``remove_done_callback`` that sees ``wait_for`` end its wait for what it has cancelled."""

    def remove_done_callback(self: Any, fn: Any, /) -> int:
        removed = original(self, fn)
        try:
            inner = caller_of()
            if inner is not None and inner.f_code.co_name == _LETS_GO:
                frame = inner.f_back
                if frame is not None and frame.f_code is _WAIT_FOR:
                    recorder.notes.on_replacing(frame)
        except Exception as error:  # noqa: BLE001 - an internal error must not reach a coroutine
            recorder.report_fault(error)
        return removed

    return remove_done_callback


class AskedFor:
    """The notes of a CancelledError, ours among them; without any it has no such attribute.

    They are kept where they are kept without us.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __get__(self, error: BaseException | None, owner: type | None = None) -> Any:
        if error is None:
            raise AttributeError(f"type object {owner.__name__ if owner else ''!r} has no notes")
        recorder = self._recorder
        try:
            if recorder.state.cancellations.request_of(error, current_task()) is not None:
                recorder.notes.on_delivered(error)
        except Exception as fault:  # noqa: BLE001 - to ask must never fail
            recorder.report_fault(fault)
        try:
            return vars(error)[NOTES]
        except KeyError:
            raise AttributeError(_missing(error)) from None

    def __set__(self, error: BaseException, value: object) -> None:
        vars(error)[NOTES] = value

    def __delete__(self, error: BaseException) -> None:
        try:
            del vars(error)[NOTES]
        except KeyError:
            raise AttributeError(_missing(error)) from None


def _missing(error: BaseException) -> str:
    return f"{type(error).__name__!r} object has no attribute {NOTES!r}"
