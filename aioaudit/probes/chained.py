"""Futures that end as others do, across threads (``_chain_future`` of asyncio/futures.py).

``run_coroutine_threadsafe``, ``wrap_future`` and executors tie a future of one loop
to one of `concurrent.futures`.  When one is cancelled a function of asyncio's is
handed to the other's loop, which calls it when nothing on the stack says any more
who asked.  So it is asked as the function is handed over.
"""

from __future__ import annotations

import asyncio
from types import CodeType, FrameType, FunctionType
from typing import Any

from aioaudit.recorder.recorder import Recorder


def _inner(name: str) -> CodeType | None:
    """The code of the function *name* inside ``_chain_future``."""
    chain: Any = getattr(asyncio.futures, "_chain_future", None)
    codes = getattr(getattr(chain, "__code__", None), "co_consts", ())
    return next((each for each in codes if getattr(each, "co_name", "") == name), None)


_SET_STATE = _inner("_set_state")
_CHECK_CANCEL = _inner("_call_check_cancel")


def goes_on(callbacks: Any) -> bool:
    """Whether one of *callbacks*, a future's, cancels what the future is chained to."""
    for entry in callbacks:
        callback = entry[0] if isinstance(entry, tuple) else entry
        if type(callback) is FunctionType and callback.__code__ is _CHECK_CANCEL:
            return True
    return False


def passes_on(frame: FrameType) -> bool:
    """Whether *frame* is asyncio's, handing a cancellation to the loop of another future."""
    return frame.f_code is _CHECK_CANCEL


def handed_over(recorder: Recorder, callback: Any, arguments: Any, frame: FrameType) -> None:
    """A loop is given *callback* from *frame*: is it to cancel a future as another was?"""
    if callback.__code__ is not _SET_STATE or len(arguments) != 2:
        return
    try:
        destination, source = arguments
        if source.cancelled() and asyncio.isfuture(destination) and not destination.done():
            recorder.remember(destination, recorder.asked(destination, frame))
    except Exception as error:  # noqa: BLE001 - a fault of ours must not keep a future from ending
        recorder.fault(error)
