"""aiohttp's calls of ``cancel()``: its server (3.11 to 3.14) and the timeouts of its client.

What stands in aiohttp/web_protocol.py, web.py and helpers.py is read here.  The
limits for connecting are `asyncio.Timeout`s, which need no explanation of their own; the
one for reading from a socket raises in the reader and cancels nothing.
"""

from __future__ import annotations

from types import FrameType

from aioaudit.cpython.internals import Internal
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.stdlib import loop_ended
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause
from aioaudit.text import describe

_PROTOCOL = "aiohttp.web_protocol"


def connection_lost(frame: FrameType, call: Call) -> Cause:
    """``RequestHandler.connection_lost``: the client went away while a handler ran."""
    error = local(frame, "exc")
    # Where the peer just closed, aiohttp makes an error of its own for the handler's request.
    detail = None
    if error is not None and error.args != ("Connection lost",):
        detail = describe(error)
    return call.by_caller("disconnect", frame, detail, current_task_unrelated=True)


def connection_closed(frame: FrameType, call: Call) -> Cause | None:
    """``RequestHandler.close`` and ``force_close``: an idle connection waits for no request more."""
    outer = frame.f_back
    if outer is None:
        return None
    name = outer.f_code.co_qualname
    if name == "RequestHandler.connection_lost":
        return connection_lost(outer, call)
    if name == "RequestHandler._process_keepalive":
        seconds = local(outer, "self").keepalive_timeout
        return call.by_deadline("aiohttp.keepalive", seconds, (None, None))
    if name == "Server.pre_shutdown":
        return call.by_caller("aiohttp.closed", frame, "the server shuts down")
    return None


def graceful_shutdown(frame: FrameType, call: Call) -> Cause:
    """``RequestHandler.shutdown``: what still ran when the time for a graceful end was over."""
    timeout = local(frame, "timeout")
    detail = None if timeout is None else f"it had {timeout:g} s to end by itself"
    return call.by_caller("aiohttp.shutdown", frame, detail)


def grace(frame: FrameType, call: Call) -> Cause:
    """``RequestHandler.shutdown``: it waits no longer for a handler to end."""
    return call.by_timeout(frame, detail="shutdown_timeout")


def run_app_ended(frame: FrameType, call: Call) -> Cause:
    """``web.run_app``: it ended, and cancels its own task and then what is left."""
    return loop_ended(frame, call, "aiohttp.web.run_app")


def total_timeout(frame: FrameType, call: Call) -> Cause:
    """``TimerContext.timeout``: the total time of a client's request ran out."""
    outer = frame.f_back
    seconds = None
    if outer is not None and outer.f_code.co_qualname == "TimeoutHandle.__call__":
        seconds = local(outer, "self")._timeout
    return call.by_deadline(
        "timeout", seconds, owner=local(frame, "self"), taken_back=True, current_task_unrelated=True
    )


CALL_SITES = {
    (_PROTOCOL, "RequestHandler.connection_lost"): connection_lost,
    (_PROTOCOL, "RequestHandler.close"): connection_closed,
    (_PROTOCOL, "RequestHandler.force_close"): connection_closed,
    (_PROTOCOL, "RequestHandler.shutdown"): graceful_shutdown,
    ("aiohttp.web", "_cancel_tasks"): run_app_ended,
    ("aiohttp.web", "run_app"): run_app_ended,
    ("aiohttp.helpers", "TimerContext.timeout"): total_timeout,
}
"""Call sites by module and qualified name."""

TIMEOUTS = {(_PROTOCOL, "RequestHandler.shutdown"): grace}
"""The function that enters a timeout, by module and qualified name."""

INTERNALS = (
    Internal(
        "_timeout",
        "aiohttp.helpers:TimeoutHandle",
        "the seconds of a timeout",
        "the seconds of the total timeout of a client's request",
    ),
)
"""The attributes that are read here, which the library promises nobody."""
