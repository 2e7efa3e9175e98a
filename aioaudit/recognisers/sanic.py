"""Sanic's calls of ``cancel()``: clients that leave, timeouts, the server's end (Sanic 23.12 to 25.12).

One task serves a connection.  It catches the CancelledError itself, and answers if it still can.
"""

from __future__ import annotations

from types import FrameType

from aioaudit.addresses import both
from aioaudit.cpython.internals import Internal
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_CLOSED = "sanic.closed"
_SHUTDOWN = "sanic.shutdown"
_WEBSOCKET = "sanic.websocket"
_IMPL = "sanic.server.websockets.impl"


def connection_lost(frame: FrameType, call: Call) -> Cause:
    """``SanicProtocol.connection_lost``: by the client; by Sanic where it aborts or nothing runs."""
    protocol = local(frame, "self")
    http = getattr(protocol, "_http", None)
    detail = None
    if protocol.transport is None:
        detail = "Sanic aborted the connection"
    elif http is not None and http.stage.name == "IDLE":
        detail = "the connection waited for a request"
    reason = "disconnect" if detail is None else _CLOSED
    cause = call.by_caller(reason, frame, detail, current_task_unrelated=True)
    cause.taken_back = True
    if protocol.transport is not None:  # else nobody's leaving could be the reason
        known = getattr(protocol, "conn_info", None)
        cause.connection = both(getattr(known, "sockname", None), getattr(known, "peername", None))
    return cause


_LIMITS = {"IDLE": "keep_alive_timeout", "REQUEST": "request_timeout"}


def too_long(frame: FrameType, call: Call) -> Cause:
    """``HttpProtocol.check_timeouts``: a request, its answer or the next request took too long."""
    stage = local(frame, "stage").name
    limit = _LIMITS.get(stage, "response_timeout")
    reason = "sanic.keepalive" if stage == "IDLE" else "timeout"
    seconds = float(getattr(local(frame, "self"), limit))
    return call.by_deadline(
        reason, seconds, detail=limit, taken_back=True, current_task_unrelated=True
    )


def server_ended(frame: FrameType, call: Call) -> Cause:
    """The server stops, and with it end the tasks of the app, and the handlers of websockets."""
    return call.by_caller(_SHUTDOWN, frame)


def event_waited_for(frame: FrameType, call: Call) -> Cause:
    """``Blueprint._event``: one of several apps had the signal, or none in time."""
    return call.by_caller("sanic.event", frame, "another wait for the signal has ended")


def websocket_closed(frame: FrameType, call: Call) -> Cause:
    """What watches over a websocket, and what reads from it, ends with it."""
    return call.by_caller(
        _WEBSOCKET, frame, "the websocket was closed", current_task_unrelated=True
    )


def receive_ended(frame: FrameType, call: Call) -> Cause:
    """``recv`` and ``recv_burst``: closed meanwhile, or cancelled by somebody who is known."""
    request = call.request_of(call.exception)
    if request is not None:
        return call.by_request(_WEBSOCKET, request)
    return websocket_closed(frame, call)


CALL_SITES = {
    ("sanic.server.protocols.base_protocol", "SanicProtocol.connection_lost"): connection_lost,
    ("sanic.server.protocols.http_protocol", "HttpProtocol.check_timeouts"): too_long,
    ("sanic.app", "Sanic.shutdown_tasks"): server_ended,
    ("sanic.app", "Sanic._cancel_websocket_tasks"): server_ended,
    ("sanic.mixins.startup", "StartupMixin.stop"): server_ended,
    ("sanic.blueprints", "Blueprint._event"): event_waited_for,
    (_IMPL, "WebsocketImplProtocol._force_disconnect"): websocket_closed,
    (_IMPL, "WebsocketImplProtocol.auto_close_connection"): websocket_closed,
    (_IMPL, "WebsocketImplProtocol.recv"): receive_ended,
    (_IMPL, "WebsocketImplProtocol.recv_burst"): receive_ended,
}
"""Call sites by module and qualified name."""

INTERNALS = (
    Internal(
        "_http",
        "sanic.server.protocols.http_protocol:HttpProtocol",
        "what a connection is doing",
        "whether a connection that was lost waited for a request",
    ),
)
"""The attributes that are read here, which the library promises nobody."""
