"""Starlette's calls of ``cancel()``: answers that race with their client, and ends of such races.

Starlette (0.37 to 1.10) runs what it sends beside what waits for the client to leave, in
a task group of anyio, and cancels its scope when either is done.  A server says that the
client went away once the whole response was sent, too: that is no disconnect, and
what produced the body tells the two apart.
"""

from __future__ import annotations

from types import FrameType
from typing import Any

from aioaudit.addresses import Connection, of_scope
from aioaudit.cpython.internals import Internal
from aioaudit.cpython.tasks import coro_of
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.common import has_ended
from aioaudit.recognisers.losses import raised_in
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause


def _called(frame: FrameType, call: Call, reason: str, detail: str) -> Cause:
    return call.by_caller(reason, frame, detail, current_task_unrelated=True)


def _disconnect(frame: FrameType, call: Call, scope: Any) -> Cause:
    cause = _called(frame, call, "disconnect", "before the whole response was sent")
    cause.connection = of_scope(scope)
    return cause


def _done(frame: FrameType, call: Call, what: str) -> Cause:
    return _called(frame, call, "starlette.done", what)


def _name(function: Any) -> str:
    """The name of what *function*, a partial or a plain function, calls."""
    return str(getattr(getattr(function, "func", function), "__name__", ""))


_SENT = "the response was sent, its client need not be watched any more"


def streamed(frame: FrameType, call: Call) -> Cause | None:
    """``StreamingResponse.__call__``: the body was sent, or the client went away."""
    group = local(frame, "task_group")
    if group is not None and call.victim is not group.cancel_scope:
        return None  # what it awaits cancels something else
    func = local(frame, "func")
    name = _name(func)
    if name == "listen_for_disconnect":
        body = func.func.__self__.body_iterator
        if has_ended(body):
            return _done(frame, call, _SENT)
        # `wrap` is called by the response, which has the scope, or the task was made for it.
        outer = frame.f_back
        return _disconnect(frame, call, None if outer is None else local(outer, "scope"))
    if name == "stream_response":
        return _done(frame, call, _SENT)
    return None


def file_sent(frame: FrameType, call: Call) -> Cause:
    """``FileResponse.__call__.<locals>.stream_file``: the file was sent."""
    return _done(frame, call, _SENT)


def file_watched(frame: FrameType, call: Call) -> Cause | None:
    """``FileResponse.__call__``: the server says that the client went away."""
    group = local(frame, "task_group")
    if group is None:
        return None  # the versions that do not watch the client
    more = _more_body(group.cancel_scope)
    if more is None:
        return _done(frame, call, "the client went away, or the response was sent")
    return _disconnect(frame, call, local(frame, "scope")) if more else _done(frame, call, _SENT)


def _more_body(scope: Any) -> bool | None:
    """Whether the task that sends a file inside *scope* has more to send; None if it does not say."""
    for task in scope._tasks:
        coro = coro_of(task)
        while coro is not None:
            frame = getattr(coro, "cr_frame", None)
            more = None if frame is None else local(frame, "more_body")
            if more is not None:
                return bool(more)
            coro = getattr(coro, "cr_await", None)
    said = (_more_body(each) for each in scope._child_scopes)
    return next((more for more in said if more is not None), None)


def received(frame: FrameType, call: Call) -> Cause:
    """``BaseHTTPMiddleware``: a message came, or the response was sent; the other wait ends."""
    return _done(frame, call, "the middleware waits for one of two things, and one came")


def first_complete(frame: FrameType, call: Call) -> Cause:
    """``run_until_first_complete``: one of its functions has returned, the others end."""
    name = _name(local(frame, "func"))
    return _done(frame, call, f"{name} has returned, the first of those that ran beside each other")


def polled(frame: FrameType, call: Call) -> Cause:
    """``Request.is_disconnected``: it looks without waiting, by cancelling its own scope first."""
    return call.by_caller("starlette.poll", frame, "is_disconnected() looks without waiting")


_OF_CLIENTS = frozenset({1000, 1001, 1005, 1006, 1011})
"""How websockets end whose client leaves (RFC 6455, 7.4.1): with these codes, or with none, or at once.
With others a server closes: 1012 where it stops, 1009 where a message was too long."""


def websocket_left(error: BaseException) -> Connection | None:
    """``WebSocketDisconnect``: the client is gone, unless the application has closed the websocket."""
    said: Any = error
    if said.code not in _OF_CLIENTS:
        return None
    for _, websocket in raised_in(error, "starlette.websockets"):
        open_still = websocket.application_state.name == "CONNECTED"
        return of_scope(websocket.scope) if open_still else None
    return None


_RESPONSES = "starlette.responses"
_MIDDLEWARE = "BaseHTTPMiddleware.__call__.<locals>.call_next.<locals>"

CALL_SITES = {
    (_RESPONSES, "StreamingResponse.__call__.<locals>.wrap"): streamed,
    (_RESPONSES, "FileResponse.__call__.<locals>.stream_file"): file_sent,
    (_RESPONSES, "FileResponse.__call__"): file_watched,
    (
        "starlette.middleware.base",
        f"{_MIDDLEWARE}.receive_or_disconnect.<locals>.wrap",
    ): received,
    ("starlette.concurrency", "run_until_first_complete.<locals>.run"): first_complete,
    ("starlette.requests", "Request.is_disconnected"): polled,
}
"""Call sites by module and qualified name."""

LOSSES = {("starlette.websockets", "WebSocketDisconnect"): websocket_left}
"""The error by which a task hears that its client went away, by module and name."""

VERSIONS = {(_RESPONSES, "FileResponse.__call__.<locals>.stream_file"): ">=1.8"}
"""The versions that have a call site, where not all do: older ones do not watch who gets a file."""

INTERNALS = (
    Internal(
        "_tasks",
        "anyio._backends._asyncio:CancelScope",
        "the tasks inside of a scope",
        "whether a file was sent or its client went away",
    ),
    Internal(
        "_child_scopes",
        "anyio._backends._asyncio:CancelScope",
        "the scopes inside of a scope",
        "whether a file was sent or its client went away",
    ),
)
"""The attributes that are read here, which the library promises nobody."""
