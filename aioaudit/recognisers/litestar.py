"""Litestar's calls of ``cancel()``: streams whose client leaves (2.8 to 2.25).

Its channels have tasks of their own, which end where the application's line says so.
"""

from __future__ import annotations

from types import FrameType
from typing import Any

from aioaudit.recognisers.call import Call
from aioaudit.recognisers.common import asked_by, has_ended
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_SENT = "the stream was sent, its client need not be watched any more"
_NOT_SENT = "before the whole stream was sent"


def _called(frame: FrameType, call: Call, scope: Any, *, sent: bool) -> Cause | None:
    if call.victim is not scope:
        return None  # what is awaited cancels something else
    reason, detail = ("litestar.done", _SENT) if sent else ("disconnect", _NOT_SENT)
    return call.by_caller(reason, frame, detail, current_task_unrelated=True)


def stream_watched(frame: FrameType, call: Call) -> Cause | None:
    """``ASGIStreamingResponse._listen_for_disconnect``: the server says that the client went away."""
    sent = has_ended(local(frame, "self").iterator)
    cause = _called(frame, call, local(frame, "cancel_scope"), sent=sent)
    if cause is not None and not sent:
        cause.connection = asked_by(local(frame, "receive"))
    return cause


def websocket_sent(frame: FrameType, call: Call) -> Cause | None:
    """``send_websocket_stream`` (since 2.14): the stream was sent to a websocket."""
    return _called(frame, call, local(frame, "tg").cancel_scope, sent=True)


def websocket_watched(frame: FrameType, call: Call) -> Cause | None:
    """``send_websocket_stream``: the client of the websocket went away."""
    return _called(frame, call, local(frame, "tg").cancel_scope, sent=False)


_STREAM = "litestar.handlers.websocket_handlers.stream"
_STREAMED = (_STREAM, "send_websocket_stream.<locals>.wrapped_stream")
_LISTENED = (_STREAM, "send_websocket_stream.<locals>.disconnect_listener")

CALL_SITES = {
    ("litestar.response.streaming", "ASGIStreamingResponse._listen_for_disconnect"): stream_watched,
    _STREAMED: websocket_sent,
    _LISTENED: websocket_watched,
}
"""Call sites by module and qualified name."""

VERSIONS = {_STREAMED: ">=2.14", _LISTENED: ">=2.14"}
"""The versions that have a call site, where not all do."""
