"""Uvicorn's calls of ``cancel()``: requests that outlive the shutdown, and tasks left at its end (0.23 to 0.54).

A client that leaves is no call of uvicorn's: it only tells the application.
"""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.recognisers.stdlib import shutdown
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_REASON = "uvicorn.shutdown"


def graceful_shutdown(frame: FrameType, call: Call) -> Cause:
    """``Server.shutdown``: what still ran when the time for a graceful end was over."""
    timeout = local(frame, "self").config.timeout_graceful_shutdown
    detail = None if timeout is None else f"it had {timeout:g} s to end by itself"
    return call.by_caller(_REASON, frame, detail)


def grace(frame: FrameType, call: Call) -> Cause:
    """``Server.shutdown``: the time for a graceful end is over, the server waits no longer."""
    return call.by_timeout(frame, detail="timeout_graceful_shutdown")


CALL_SITES = {
    ("uvicorn.server", "Server.shutdown"): graceful_shutdown,
    ("uvicorn._compat", "_cancel_all_tasks"): shutdown,
}
"""Call sites by module and qualified name; the second stands in for asyncio.run before 3.12."""

VERSIONS = {("uvicorn._compat", "_cancel_all_tasks"): ">=0.36"}
"""The versions that have a call site, where not all do."""

TIMEOUTS = {("uvicorn.server", "Server.shutdown"): grace}
"""The function that enters a timeout, by module and qualified name."""
