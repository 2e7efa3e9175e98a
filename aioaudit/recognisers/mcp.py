"""mcp's calls of ``cancel()``: requests that the peer cancels, and the end of a session (1.9 to 2.3).

A server and a client do it alike.  What the limit of a request cancels is a scope with a deadline
at the application's line, which needs no explanation of its own.
"""

from __future__ import annotations

from types import FrameType
from typing import Any

from aioaudit.cpython.internals import Internal
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause
from aioaudit.text import clean


def _cancelled(call: Call, reason: Any) -> Cause:
    detail = "the peer sent notifications/cancelled"
    if isinstance(reason, str) and reason:
        detail = f"{detail}: {clean(reason)}"
    return call.by_caller("mcp.cancelled", None, detail, current_task_unrelated=True)


def responder_cancelled(frame: FrameType, call: Call) -> Cause | None:
    """``RequestResponder.cancel`` (until 2): the session calls it because of a notification."""
    outer = frame.f_back
    if call.victim is not local(frame, "self")._cancel_scope or outer is None:
        return None
    if outer.f_code.co_qualname != "BaseSession._receive_loop":
        return None
    return _cancelled(call, local(outer, "notification").root.params.reason)


def notified(frame: FrameType, call: Call) -> Cause | None:
    """``JSONRPCDispatcher._dispatch_notification`` (since 2): the notification is an argument of it."""
    found = local(frame, "in_flight")
    if found is None or call.victim is not found.scope:
        return None
    return _cancelled(call, local(frame, "msg").params.get("reason"))


def stream_ended(frame: FrameType, call: Call) -> Cause | None:
    """``Server.run`` (1.27 to 1.30), ``JSONRPCDispatcher.run``: no more messages come.

    The peer has gone away or the transport was closed, which nothing here tells apart.
    """
    group = local(frame, "tg")
    if call.exception is not None or group is None or call.victim is not group.cancel_scope:
        return None
    detail = "the stream of messages has ended"
    return call.by_caller("mcp.closed", frame, detail, current_task_unrelated=True)


def session_left(frame: FrameType, call: Call) -> Cause | None:
    """``__aexit__`` of a session: what it had begun ends with it, at the line that left it."""
    scope = local(frame, "self")._task_group.cancel_scope
    if call.victim is not scope or local(frame, "exc_val") is not None:
        return None
    return call.by_caller("mcp.closed", frame)


_SESSION = "mcp.shared.session"
_DISPATCHER = "mcp.shared.jsonrpc_dispatcher"

CALL_SITES = {
    (_SESSION, "RequestResponder.cancel"): responder_cancelled,
    (_SESSION, "BaseSession.__aexit__"): session_left,
    ("mcp.server.lowlevel.server", "Server.run"): stream_ended,
    (_DISPATCHER, "JSONRPCDispatcher._dispatch_notification"): notified,
    (_DISPATCHER, "JSONRPCDispatcher.run"): stream_ended,
    ("mcp.client.session", "ClientSession.__aexit__"): session_left,
}
"""Call sites by module and qualified name."""

VERSIONS = {site: "<2" if site[0] == _SESSION else ">=2" for site in CALL_SITES}
"""The versions that have a call site."""

INTERNALS = (
    Internal(
        "_cancel_scope",
        "mcp.shared.session:RequestResponder",
        "the scope of a request that is answered",
        "that and why the peer cancelled a request",
        until=(2,),
    ),
    Internal(
        "_task_group",
        "mcp.shared.session:BaseSession",
        "the tasks of a session",
        "what ends with a session",
        until=(2,),
    ),
    Internal(
        "_task_group",
        "mcp.client.session:ClientSession",
        "the tasks of a session",
        "what ends with a session",
        since=(2,),
    ),
)
"""The attributes that are read here, which the library promises nobody."""
