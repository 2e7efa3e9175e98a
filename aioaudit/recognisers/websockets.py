"""websockets' calls of ``cancel()``: what served a connection ends with it (websockets 13 to 17)."""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.state.cause import Cause

_REASON = "websockets.closed"


def connection_lost(frame: FrameType, call: Call) -> Cause:
    """``Connection.connection_lost``: closed by either side, no pings are needed any more."""
    return call.by_caller(_REASON, frame, current_task_unrelated=True)


CALL_SITES = {("websockets.asyncio.connection", "Connection.connection_lost"): connection_lost}
"""Call sites by module and qualified name."""
