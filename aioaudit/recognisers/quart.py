"""Quart's calls of ``cancel()``: clients that leave (Quart 0.20 to 0.23)."""

from __future__ import annotations

from types import FrameType

from aioaudit.addresses import of_scope
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause


def _disconnected(frame: FrameType, call: Call, connection: object) -> Cause:
    """*connection* is Quart's object for it."""
    addresses = of_scope(getattr(connection, "scope", None))
    return call.by_caller("disconnect", frame, current_task_unrelated=True, connection=addresses)


def messages_ended(frame: FrameType, call: Call) -> Cause | None:
    """``handle_messages`` (since 0.23): the server said that the client went away."""
    for name in ("message", "event"):
        message = local(frame, name)
        if isinstance(message, dict) and str(message.get("type")).endswith(".disconnect"):
            return _disconnected(frame, call, local(frame, "self"))
    return None


def pair_ended(frame: FrameType, call: Call) -> Cause | None:
    """``cancel_tasks`` (until 0.22): of the two tasks of a request one ended, so the other must.

    What receives messages returns when the client has gone away.
    """
    outer = frame.f_back
    if outer is None or not outer.f_code.co_qualname.endswith("Connection.__call__"):
        return None
    receiver = local(outer, "receiver_task")
    if not receiver.done() or receiver.cancelled() or receiver.exception() is not None:
        return None
    return _disconnected(frame, call, local(outer, "self"))


CALL_SITES = {
    ("quart.asgi", "ASGIHTTPConnection.handle_messages"): messages_ended,
    ("quart.asgi", "ASGIWebsocketConnection.handle_messages"): messages_ended,
    ("quart.utils", "cancel_tasks"): pair_ended,
}
"""Call sites by module and qualified name."""
