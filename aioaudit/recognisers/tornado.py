"""Tornado's calls of ``cancel()``: a limit of `run_sync`, and futures that end as others did (6.4 to 6.6).

``gen.with_timeout`` cancels nothing, and a coroutine of Tornado's ends by the CancelledError that
it was given, which is followed without any help.
"""

from __future__ import annotations

from types import FrameType

from aioaudit.cpython.internals import Internal
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause


def run_too_long(frame: FrameType, call: Call) -> Cause:
    """``run_sync``, by a timer: what it runs has not ended in time; who called it stands further out."""
    outer = frame.f_back
    while outer is not None and outer.f_code.co_qualname != "IOLoop.run_sync":
        outer = outer.f_back
    if outer is None:
        return call.by_deadline("timeout", line=(None, None))
    return call.by_deadline(
        "timeout",
        float(local(outer, "timeout")),
        call.caller(outer),
        current_task_unrelated=True,
    )


def chained(frame: FrameType, call: Call) -> Cause | None:
    """``chain_future`` (since 6.6): the one future was cancelled, and the other ends as it did."""
    first = local(frame, "a")
    known = call.chained_cause(first)
    if known is not None:
        return known
    request = call.obeyed_by(first)
    return None if request is None else call.by_request("tornado.chain", request)


def connection_closed(frame: FrameType, call: Call) -> Cause | None:
    """``WebSocketProtocol13.close`` (since 6.5): a connection needs no pings any more."""
    if call.victim is not local(frame, "self")._ping_coroutine:
        return None
    return call.by_caller("tornado.closed", frame)


CALL_SITES = {
    ("tornado.ioloop", "IOLoop.run_sync.<locals>.timeout_callback"): run_too_long,
    ("tornado.concurrent", "chain_future.<locals>.copy"): chained,
    ("tornado.websocket", "WebSocketProtocol13.close"): connection_closed,
}
"""Call sites by module and qualified name."""

INTERNALS = (
    Internal(
        "_ping_coroutine",
        "tornado.websocket:WebSocketProtocol13",
        "the task that sends pings",
        "that it ends with its websocket",
        since=(6, 5),
    ),
)
"""The attributes that are read here, which the library promises nobody."""
