"""aiohttp's calls of ``cancel()``: its server (3.11 to 3.14) and the timeouts of its client.

What stands in aiohttp/web_protocol.py, web.py and helpers.py is read here.  The
limits for connecting are `asyncio.Timeout`s, which need no explanation of their own; the
one for reading from a socket raises in the reader and cancels nothing.

When the server hears that a client went away its transport is gone, and one with TLS tells no
addresses any more.  So where handlers are to be cancelled then, the addresses are looked at when
the connection is made.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

from aioaudit.addresses import Connection, of_transport
from aioaudit.cpython.internals import Internal
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.probing import Probing
from aioaudit.recognisers.stdlib import loop_ended
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause
from aioaudit.text import describe
from aioaudit.weak import WeakIdMap

_PROTOCOL = "aiohttp.web_protocol"

_connections: WeakIdMap[Connection] = WeakIdMap()
"""The addresses of connections by the tasks that serve them."""


def connection_lost(frame: FrameType, call: Call) -> Cause:
    """``RequestHandler.connection_lost``: the client went away while a handler ran."""
    error = local(frame, "exc")
    # Where the peer just closed, aiohttp makes an error of its own for the handler's request.
    detail = None
    if error is not None and error.args != ("Connection lost",):
        detail = describe(error)
    connection = _connections.get(getattr(local(frame, "self"), "_task_handler", None))
    return call.by_caller(
        "disconnect", frame, detail, current_task_unrelated=True, connection=connection
    )


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


# -- the probe ---------------------------------------------------------------------------


def install(module: ModuleType, probing: Probing) -> None:
    """Probe how the server of aiohttp, which *module* is of, gets its connections."""
    _connections.entries.clear()
    handler = module.RequestHandler
    probe = _make_connection_made(probing, vars(handler)["connection_made"])
    probing.put(handler, "connection_made", probe)


def _make_connection_made(
    probing: Probing, original: Callable[[Any, Any], None]
) -> Callable[[Any, Any], None]:
    """``RequestHandler.connection_made`` that notes the addresses, if anybody may ask for them."""

    def connection_made(self: Any, transport: Any) -> None:
        original(self, transport)
        try:
            if self._manager.handler_cancellation and self._task_handler is not None:
                found = of_transport(transport)
                if found is not None:
                    _connections[self._task_handler] = found
        except Exception as error:  # noqa: BLE001 - an internal error must not end a connection
            probing.report_fault(error)

    return connection_made


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
        "_task_handler",
        f"{_PROTOCOL}:RequestHandler",
        "the task that serves a connection",
        "the addresses of a connection whose client went away",
    ),
    Internal(
        "_manager",
        f"{_PROTOCOL}:RequestHandler",
        "whether handlers are cancelled when their client goes away",
        "the addresses of a connection whose client went away",
    ),
    Internal(
        "_timeout",
        "aiohttp.helpers:TimeoutHandle",
        "the seconds of a timeout",
        "the seconds of the total timeout of a client's request",
    ),
)
"""The attributes that are read here, which the library promises nobody."""
