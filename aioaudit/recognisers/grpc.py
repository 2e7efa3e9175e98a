"""grpc.aio's calls of ``cancel()``: what its server and its client cancel (grpcio 1.60 to 1.85).

Its server is compiled.  When core says that a call is over, the same function cancels
the handler whoever ended it: the client, a lost connection, the deadline, or the server's
stop.  What it knew is reached through the garbage collector: the handler's coroutines hold the
call's context, which tells the time that is left, and that holds the server, which
tells whether it stops.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
import weakref
from asyncio import CancelledError
from collections.abc import Iterator
from types import CoroutineType, FrameType
from typing import Any
from urllib.parse import unquote

from aioaudit.addresses import Connection, address
from aioaudit.chain.links import Link
from aioaudit.cpython.internals import Internal
from aioaudit.cpython.tasks import all_tasks, coro_of, current_task, fut_waiter
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import awaited_chain, local
from aioaudit.state.cause import Cause

_CORE = "grpc._cython.cygrpc"
_CALL = "grpc.aio._call"
_CANCELLED = "grpc.cancelled"
_WAIT_FOR = asyncio.wait_for.__code__
_MANY = 2000
"""More tasks than this are not searched for the one that stops a server."""
_PAUSE = 0.1
"""Seconds in which a search that found nothing is not repeated."""


# -- the server ------------------------------------------------------------------------


def handler_cancelled(_frame: FrameType, call: Call) -> Cause:
    """``_schedule_rpc_coro``, which has no frame: a call whose handler still runs is over."""
    context, server = _context_and_server(coro_of(call.victim))
    if context is None:
        return _over(Cause(reason=_CANCELLED, detail="the call was ended by core"))
    left = context.time_remaining()
    if left == 0:
        at, source = call.waiting_at()
        origin = Link(what="deadline", reason="timeout", at=at, source=source, detail=_DEADLINE)
        return _over(Cause(reason="timeout", origin=origin, at=at, source=source))
    if server is not None and not server.is_running():
        stop = _stop_of(server)
        if stop is None:
            # Its end may overtake the news: who of the two it was is not known then.
            return _over(Cause(reason=_CANCELLED, detail="while its server was being stopped"))
        task, frame, waits = stop
        if not waits:
            return _stopped(call, task, frame)
    detail = "the client cancelled the call, or its connection was lost"
    if left is not None:
        detail += f", {left:.3f} s before its deadline"
    connection = Connection(None, _peer(context))
    return _over(call.by_caller("disconnect", None, detail, connection=connection))


def _peer(context: Any) -> str | None:
    """The address of the client; grpc does not tell by which of its own it was reached."""
    kind, _, rest = str(context.peer()).partition(":")
    host, _, port = unquote(rest).rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return address(host.strip("[]"), int(port))


_DEADLINE = "the deadline that the client gave the call"


def _over(cause: Cause) -> Cause:
    """The task that reports it did not ask for it, and core itself handles the CancelledError."""
    cause.current_task_unrelated = cause.by is None
    cause.taken_back = True
    return cause


def _stopped(call: Call, task: Any, frame: FrameType) -> Cause:
    """*task* is in ``Server.stop``, whose frame is *frame*, and has cancelled all calls."""
    at, source = call.waiting_at(task)
    if source is None or source.startswith("?"):
        at, source = call.caller(frame)
    reason = "grpc.stopped"
    grace = local(frame, "grace")
    detail = f"it had {grace:g} s to end by itself" if grace else "without grace"
    origin = Link(what="called", reason=reason, at=at, source=source, detail=detail)
    return _over(
        Cause(
            reason=reason,
            origin=origin,
            detail=detail,
            at=at,
            source=source,
            by=call.number_and_name(task),
        )
    )


def _context_and_server(coro: Any) -> tuple[Any, Any]:
    """The ``_ServicerContext`` of the call that *coro* handles, and the ``AioServer``."""
    context = server = None
    for held in _held_by(coro):
        kind = type(held).__name__
        if kind == "_ServicerContext":
            context = held
        elif kind == "RPCState" and server is None:
            found = (each for each in gc.get_referents(held) if type(each).__name__ == "AioServer")
            server = next(found, None)
        if context is not None and server is not None:
            break
    return context, server


def _held_by(coro: Any) -> Iterator[Any]:
    """What the compiled coroutines from *coro* inwards hold: their variables live in a closure."""
    for step in awaited_chain(coro):
        if (
            type(step) is not CoroutineType
        ):  # Cython's own class; before 3.0 by the name of Python's
            for closure in gc.get_referents(step):
                if type(closure).__name__.startswith("__pyx_scope_struct"):
                    yield from gc.get_referents(closure)


_stopping: weakref.ref[Any] | None = None
"""The task that was found to stop a server: all handlers of that server ask for the same one."""

_in_vain = 0, -math.inf
"""The `id` of a server for which all tasks were searched in vain, and when (the monotonic clock)."""


def _stop_of(server: Any) -> tuple[Any, FrameType, bool] | None:
    """The task in ``Server.stop()`` of *server*, that frame, and whether it has cancelled no call yet."""
    global _stopping, _in_vain
    known = None if _stopping is None else _stopping()
    found = None if known is None else _stops_server(known, server)
    if found is not None or (_in_vain[0] == id(server) and time.monotonic() < _in_vain[1] + _PAUSE):
        return found
    tasks = all_tasks()
    for task in tasks if len(tasks) <= _MANY else ():
        found = _stops_server(task, server)
        if found is not None:
            _stopping = weakref.ref(task)
            return found
    _in_vain = id(server), time.monotonic()
    return None


def _stops_server(task: Any, server: Any) -> tuple[Any, FrameType, bool] | None:
    waits = False
    inside = None
    for step in awaited_chain(coro_of(task)):
        frame = getattr(step, "cr_frame", None)
        code = getattr(step, "cr_code", None)
        if code is _WAIT_FOR:
            waits = inside is not None
        elif frame is not None and frame.f_code.co_qualname == "Server.stop":
            stopped = local(frame, "self")
            if getattr(stopped, "_server", None) is server:
                inside = frame
    if inside is None:
        return None
    # Before its grace begins it waits for the task that takes new calls.
    return task, inside, waits or isinstance(fut_waiter(task), asyncio.Task)


# -- the client ------------------------------------------------------------------------


def call_cancelled(frame: FrameType, call: Call) -> Cause | None:
    """``cancel()`` of a client's call: grpc itself asks where it handles what ended the call.

    Its tasks catch the CancelledError, and the call raises another to whoever awaits it.
    """
    outer = frame.f_back
    while outer is not None and outer.f_code.co_name == "cancel":
        outer = outer.f_back  # one class calls the next
    error = call.exception
    task = current_task()
    if outer is None or outer.f_globals.get("__name__") != _CALL or error is None or task is None:
        return Cause(reason="", passes_through=True, taken_back=True)
    if isinstance(error, CancelledError):
        cause = call.by_request(_CANCELLED, error)
    else:
        cause = call.by_failure(_CANCELLED, task, error)
    cause.taken_back = True
    return cause


def channel_closed(frame: FrameType, call: Call) -> Cause:
    """``Channel._close``: at the line that closed the channel."""
    grace = local(frame, "grace")
    return call.by_caller(
        "grpc.closed",
        frame,
        f"it had {grace:g} s to end by itself" if grace else None,
    )


CALL_SITES = {
    (_CORE, "_schedule_rpc_coro"): handler_cancelled,
    (_CALL, "_UnaryResponseMixin.cancel"): call_cancelled,
    (_CALL, "_StreamResponseMixin.cancel"): call_cancelled,
    (_CALL, "_StreamRequestMixin.cancel"): call_cancelled,
    ("grpc.aio._channel", "Channel._close"): channel_closed,
}
"""Call sites by module and qualified name; the first is a coroutine of compiled code."""

INTERNALS = (
    Internal(
        "_server",
        "grpc.aio._server:Server",
        "the compiled server inside of one",
        "who stopped a server",
    ),
)
"""The attributes that are read here, which the library promises nobody."""
