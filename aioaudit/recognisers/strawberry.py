"""Strawberry's calls of ``cancel()``: operations that a client ends, and connections (0.246 to 0.341)."""

from __future__ import annotations

from asyncio import CancelledError
from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_PROTOCOLS = "strawberry.subscriptions.protocols"
_NEW = f"{_PROTOCOLS}.graphql_transport_ws.handlers"
_OLD = f"{_PROTOCOLS}.graphql_ws.handlers"
_CLIENTS = {
    "BaseGraphQLTransportWSHandler.handle_complete": "the client sent complete",
    "BaseGraphQLWSHandler.handle_stop": "the client sent stop",
}
_ENDS = frozenset(
    {
        "BaseGraphQLTransportWSHandler.shutdown",
        "BaseGraphQLWSHandler.cleanup",
        "BaseGraphQLWSHandler.handle",  # in older versions
    }
)


def operation_ended(frame: FrameType, call: Call) -> Cause | None:
    """``cleanup_operation``: the client wants no more of it, or its connection has ended.

    Who ended the connection, the client or the server, it does not say.
    """
    if isinstance(call.exception, CancelledError):
        return None
    outer = frame.f_back
    name = None if outer is None else outer.f_code.co_qualname
    if name in _ENDS:
        return call.by_caller("strawberry.disconnected", frame, "the websocket was closed")
    detail = None if name is None else _CLIENTS.get(name)
    return None if detail is None else call.by_caller("strawberry.stopped", None, detail)


def timer_ended(frame: FrameType, call: Call) -> Cause | None:
    """What waits beside a connection, for its first message or to keep it alive, is not needed."""
    handler = local(frame, "self")
    names = ("connection_init_timeout_task", "keep_alive_task")
    if call.victim not in [getattr(handler, name, None) for name in names]:
        return None
    return call.by_caller("strawberry.timer", frame)


CALL_SITES = {
    (_NEW, "BaseGraphQLTransportWSHandler.cleanup_operation"): operation_ended,
    (_NEW, "BaseGraphQLTransportWSHandler.shutdown"): timer_ended,
    (_NEW, "BaseGraphQLTransportWSHandler.handle_connection_init"): timer_ended,
    (_OLD, "BaseGraphQLWSHandler.cleanup_operation"): operation_ended,
    (_OLD, "BaseGraphQLWSHandler.handle"): timer_ended,
}
"""Call sites by module and qualified name."""
