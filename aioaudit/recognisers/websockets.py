"""websockets' calls of ``cancel()``: what served a connection ends with it (websockets 13 to 17)."""

from __future__ import annotations

from types import FrameType

from aioaudit.chain.links import Link
from aioaudit.recognisers.call import Call
from aioaudit.state.cause import Cause

_REASON = "websockets.closed"


def connection_lost(frame: FrameType, call: Call) -> Cause:
    """``Connection.connection_lost``: closed by either side, no pings are needed any more."""
    at, source = call.caller(frame)
    return Cause(
        reason=_REASON,
        origin=Link(what="called", reason=_REASON, at=at, source=source),
        at=at,
        source=source,
        bystander=True,
    )


CALL_SITES = {("websockets.asyncio.connection", "Connection.connection_lost"): connection_lost}
"""Call sites by module and qualified name."""
