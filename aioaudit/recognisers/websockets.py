"""websockets' calls of ``cancel()``, and how it takes leave of its peer (websockets 13 to 17).

What served a connection ends with it.  ``close`` sends a frame and then waits until the peer has closed
the connection: its transport is not closed by whoever called.  So what makes that frame is looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

from aioaudit.addresses import Connection, of_transport
from aioaudit.cpython.frames import caller_of
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.losses import raised_in
from aioaudit.recognisers.probing import Probing
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_REASON = "websockets.closed"


def connection_lost(frame: FrameType, call: Call) -> Cause:
    """``Connection.connection_lost``: closed by either side, no pings are needed any more."""
    return call.by_caller(_REASON, frame, current_task_unrelated=True)


def peer_closed(error: BaseException) -> Connection | None:
    """``ConnectionClosed``: the peer said first that it closes, or reset the connection."""
    said: Any = error
    reset = said.sent is None and isinstance(error.__cause__, ConnectionError)
    if not said.rcvd_then_sent and not reset:
        return None
    for _, connection in raised_in(error, "websockets.asyncio.connection"):
        return of_transport(connection.transport)
    return None


# -- the probe ---------------------------------------------------------------------------


def install(module: ModuleType, probing: Probing) -> None:
    """Probe how the protocol of websockets, which *module* is of, says that it closes."""
    protocol = module.Protocol
    probing.put(protocol, "send_close", _make_send_close(probing, vars(protocol)["send_close"]))


def _make_send_close(probing: Probing, original: Callable[..., None]) -> Callable[..., None]:
    """``Protocol.send_close``, which knows of no transport: the connection that calls it has one."""

    def send_close(self: Any, *args: Any, **keywords: Any) -> None:
        error = sys.exception()
        if error is not None:
            try:
                frame = caller_of()
                transport = (
                    None if frame is None else getattr(local(frame, "self"), "transport", None)
                )
                if transport is not None:
                    probing.look_at_close(transport, error, frame)
            except Exception as fault:  # noqa: BLE001 - an internal error must not keep a connection open
                probing.report_fault(fault)
        return original(self, *args, **keywords)

    return send_close


CALL_SITES = {("websockets.asyncio.connection", "Connection.connection_lost"): connection_lost}
"""Call sites by module and qualified name."""

LOSSES = {
    ("websockets.exceptions", "ConnectionClosedError"): peer_closed,
    ("websockets.exceptions", "ConnectionClosedOK"): peer_closed,
}
"""The errors by which a task hears that its peer went away, by module and name."""
