"""gunicorn's calls of ``cancel()`` in its own ASGI worker (24 to 27): clients that leave, and its end.

A connection is a task.  The worker's keep-alive timer only closes an idle connection, and
what closes it, too, is told as what it is: nothing of the application runs in it then.
"""

from __future__ import annotations

from asyncio import CancelledError
from types import FrameType
from typing import Any

from aioaudit.addresses import Connection, both
from aioaudit.cpython.internals import Internal
from aioaudit.cpython.tasks import coro_of
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.common import waiting_in
from aioaudit.recognisers.stdlib import loop_ended
from aioaudit.stack.frames import awaited_chain, local
from aioaudit.state.cause import Cause

_PROTOCOL = "gunicorn.asgi.protocol"
_SERVES = "ASGIProtocol._handle_connection"
_IDLE = ([_SERVES, "Event.wait"], [_SERVES, "AsyncRequest.parse"])
"""How a connection waits for its next request: since 25.2, and before."""


def _is_idle(task: Any) -> bool:
    """Whether *task* serves a connection and waits for a request, so that no application runs in it."""
    names = [getattr(each, "__qualname__", "") for each in awaited_chain(coro_of(task))]
    return names[:2] in _IDLE


def _connection(frame: FrameType | None) -> Connection | None:
    """The addresses of the connection that *frame*, of ``_handle_connection``, serves."""
    if frame is None:
        return None
    return both(local(frame, "sockname"), local(frame, "peername"))


def connection_lost(frame: FrameType, call: Call) -> Cause:
    """``ASGIProtocol.connection_lost``, at once or by a timer of it: the client went away."""
    if _is_idle(call.victim):
        return call.by_caller("gunicorn.closed", frame, current_task_unrelated=True)
    served = waiting_in(call.victim, _SERVES)
    return call.by_caller(
        "disconnect", frame, current_task_unrelated=True, connection=_connection(served)
    )


def calls_finished(frame: FrameType, call: Call) -> Cause | None:
    """``ASGIProtocol._finish_app_calls``: the client went away while the application ran on."""
    if call.victim is not local(frame, "task") or not local(frame, "self")._conn_lost_handled:
        return None
    outer = frame.f_back
    served = outer if outer is not None and outer.f_code.co_qualname == _SERVES else None
    return call.by_caller("disconnect", frame, connection=_connection(served))


def frames_read(frame: FrameType, call: Call) -> Cause | None:
    """``WebSocketProtocol.run``: the application has ended, its messages need not be read."""
    if call.victim is not local(frame, "read_task") or isinstance(call.exception, CancelledError):
        return None
    return call.by_caller("gunicorn.done", frame)


def lifespan_ended(frame: FrameType, call: Call) -> Cause | None:
    """``LifespanManager.shutdown``: the application's lifespan does not end by itself."""
    if call.victim is not local(frame, "self")._task:
        return None
    return call.by_caller("gunicorn.shutdown", frame)


def worker_ended(frame: FrameType, call: Call) -> Cause:
    """``ASGIWorker._cleanup``: the worker ends, and with it what is left."""
    if _is_idle(call.victim):
        return call.by_caller("gunicorn.closed", frame)
    return loop_ended(frame, call, "gunicorn's worker")


_FINISHED = (_PROTOCOL, "ASGIProtocol._finish_app_calls")
_PENDING = (_PROTOCOL, "ASGIProtocol._cancel_task_if_pending")

CALL_SITES = {
    (_PROTOCOL, "ASGIProtocol.connection_lost"): connection_lost,
    _PENDING: connection_lost,
    _FINISHED: calls_finished,
    ("gunicorn.asgi.websocket", "WebSocketProtocol.run"): frames_read,
    ("gunicorn.asgi.lifespan", "LifespanManager.shutdown"): lifespan_ended,
    ("gunicorn.workers.gasgi", "ASGIWorker._cleanup"): worker_ended,
}
"""Call sites by module and qualified name."""

VERSIONS = {_PENDING: ">=25", _FINISHED: ">=27"}
"""The versions that have a call site, where not all do."""

INTERNALS = (
    Internal(
        "_task",
        "gunicorn.asgi.lifespan:LifespanManager",
        "the task of the application's lifespan",
        "that gunicorn ends a lifespan that does not end",
    ),
    Internal(
        "_conn_lost_handled",
        f"{_PROTOCOL}:ASGIProtocol",
        "whether the client has gone away",
        "that a client went away while the application ran on after its response",
        since=(26, 1),
    ),
)
"""The attributes that are read here, which the library promises nobody."""
