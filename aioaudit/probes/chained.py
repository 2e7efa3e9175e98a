"""Futures that end as others do, across threads (``_chain_future`` of asyncio/futures.py).

``run_coroutine_threadsafe``, ``wrap_future`` and executors tie a future of one loop
to one of `concurrent.futures`.  When one is cancelled a function of asyncio's is
handed to the other's loop, which calls it when nothing on the stack says any more
who asked.  So it is asked as the function is handed over.  The same holds for a plain
future that is shielded: its own loop calls what cancels the shield.
"""

from __future__ import annotations

import asyncio
from types import FrameType
from typing import Any

from aioaudit.cpython.callbacks import CHAIN_CHECK_CANCEL, CHAIN_SET_STATE, is_chain_callback
from aioaudit.cpython.tasks import callback_of
from aioaudit.recorder.recorder import Recorder
from aioaudit.stack.code import APPLICATION, THIRD_PARTY, owner_of
from aioaudit.stack.frames import bound_cancel, code_of


def is_followed(callbacks: Any) -> bool:
    """Whether one of *callbacks*, a future's, may cancel something because the future was.

    What the future is chained to, or a shield of it; and whatever the program or a library
    has called at its end.
    """
    return any(_may_cancel(callback_of(entry)) for entry in callbacks)


def _may_cancel(callback: Any) -> bool:
    if is_chain_callback(callback) or bound_cancel(callback, ()) is not None:
        return True
    code = code_of(callback)
    return code is not None and owner_of(code.co_filename) in (APPLICATION, THIRD_PARTY)


def is_chain_check(frame: FrameType) -> bool:
    """Whether *frame* is asyncio's, handing a cancellation to the loop of another future."""
    return frame.f_code is CHAIN_CHECK_CANCEL


def record_chained(recorder: Recorder, callback: Any, arguments: Any, frame: FrameType) -> None:
    """A loop is given *callback* from *frame*: is it to cancel a future as another was?"""
    if callback.__code__ is not CHAIN_SET_STATE or len(arguments) != 2:
        return
    try:
        destination, source = arguments
        if source.cancelled() and asyncio.isfuture(destination) and not destination.done():
            recorder.remember_cause(destination, recorder.explain_cancel(destination, frame))
    except Exception as error:  # noqa: BLE001 - an internal error must not keep a future from ending
        recorder.report_fault(error)
