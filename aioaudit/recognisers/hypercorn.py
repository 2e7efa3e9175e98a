"""hypercorn's calls of ``cancel()``: the end of its server, and the timers of connections (0.15 to 0.18)."""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.state.cause import Cause

_CONTEXT = "hypercorn.asyncio.worker_context"


def server_ended(frame: FrameType, call: Call) -> Cause:
    """``worker_serve``: its lifespan task ends last, before that what outlived the graceful timeout."""
    return call.by_caller("hypercorn.shutdown", frame)


def outlived(frame: FrameType, call: Call) -> Cause:
    """``worker_serve``: what still ran when the time for a graceful end was over."""
    return call.by_timeout(frame, detail="graceful_timeout")


def idle_timer(frame: FrameType, call: Call) -> Cause:
    """The task that closes an idle connection is not needed: this one is not idle."""
    detail = "the connection is not idle any more, or is closed"
    return call.by_caller("hypercorn.timer", frame, detail)


CALL_SITES = {
    ("hypercorn.asyncio.run", "worker_serve"): server_ended,
    ("hypercorn.asyncio.tcp_server", "TCPServer._stop_idle"): idle_timer,
    (_CONTEXT, "AsyncioSingleTask.restart"): idle_timer,
    (_CONTEXT, "AsyncioSingleTask.stop"): idle_timer,
}
"""Call sites by module and qualified name."""

VERSIONS = {
    ("hypercorn.asyncio.tcp_server", "TCPServer._stop_idle"): "<0.17",
    (_CONTEXT, "AsyncioSingleTask.restart"): ">=0.17",
    (_CONTEXT, "AsyncioSingleTask.stop"): ">=0.17",
}
"""The versions that have a call site, where not all do; the rest of 0.15 to 0.18 is in all."""

TIMEOUTS = {("hypercorn.asyncio.run", "worker_serve"): outlived}
"""The function that enters a timeout, by module and qualified name."""
