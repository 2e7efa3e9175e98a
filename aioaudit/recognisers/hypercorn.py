"""hypercorn's calls of ``cancel()``: the end of its server, and the timers of connections (0.15 to 0.18)."""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.recognisers.stdlib import timer
from aioaudit.state.cause import Cause

_CONTEXT = "hypercorn.asyncio.worker_context"


def server_ended(frame: FrameType, call: Call) -> Cause:
    """``worker_serve``: its lifespan task ends last, before that what outlived the graceful timeout."""
    return call.by_caller("hypercorn.shutdown", frame)


def outlived(frame: FrameType, call: Call) -> Cause:
    """``worker_serve``: what still ran when the time for a graceful end was over."""
    return timer(frame, call, detail="graceful_timeout")


def idle_timer(frame: FrameType, call: Call) -> Cause:
    """``restart`` and ``stop`` of the task that closes an idle connection: this one is not idle."""
    detail = "the connection is not idle any more, or is closed"
    return call.by_caller("hypercorn.timer", frame, detail)


CALL_SITES = {
    ("hypercorn.asyncio.run", "worker_serve"): server_ended,
    (_CONTEXT, "AsyncioSingleTask.restart"): idle_timer,
    (_CONTEXT, "AsyncioSingleTask.stop"): idle_timer,
}
"""Call sites by module and qualified name."""

TIMEOUTS = {("hypercorn.asyncio.run", "worker_serve"): outlived}
"""The function that enters a timeout, by module and qualified name."""
