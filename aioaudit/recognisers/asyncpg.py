"""asyncpg's calls of ``cancel()``, and what its timeouts are for (asyncpg 0.29 to 0.32).

The timeout of a command is none of these: its compiled protocol fails the command when the
time is up, and cancels nothing but the query in the server.
"""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.recognisers.common import waiting_in
from aioaudit.recognisers.stdlib import cancel_and_wait
from aioaudit.state.cause import Cause

_COMPAT = "asyncpg._asyncio_compat"
_CONNECTION = "asyncpg.connection"
_ACQUIRE = "the timeout of acquire()"


# -- timeouts --------------------------------------------------------------------------


def connecting(frame: FrameType, call: Call) -> Cause:
    """``connect``: no connection was made in time."""
    return call.by_timeout(frame, detail="the timeout of connect()")


def closing(frame: FrameType, call: Call) -> Cause:
    """``Connection.close``: the server did not end the connection in time."""
    return call.by_timeout(frame, detail="the timeout of close()")


def resetting(frame: FrameType, call: Call) -> Cause:
    """``Connection.reset``: what a pool does with a connection that comes back."""
    return call.by_timeout(frame, detail="the timeout of reset()")


def acquiring(frame: FrameType, call: Call) -> Cause:
    """``Pool._acquire``: no connection became free, or could be made, in time."""
    return call.by_timeout(frame, detail=_ACQUIRE)


def waiting(frame: FrameType, call: Call) -> Cause:
    """``wait_for`` as asyncpg has it before 3.12: of a pool, or of a source or sink of COPY."""
    acquires = waiting_in(call.victim, "Pool._acquire") is not None
    return call.by_timeout(frame, detail=_ACQUIRE if acquires else None)


# -- calls of cancel() -----------------------------------------------------------------


def closed(frame: FrameType, call: Call) -> Cause:
    """A pool or a connection is closed, and with it end the tasks that it had beside it."""
    return call.by_caller("asyncpg.closed", frame)


TIMEOUTS = {
    (_CONNECTION, "connect"): connecting,
    (_CONNECTION, "Connection.close"): closing,
    (_CONNECTION, "Connection.reset"): resetting,
    ("asyncpg.pool", "Pool._acquire"): acquiring,
    (_COMPAT, "wait_for"): waiting,
}
"""The functions that enter timeouts, by module and qualified name."""

CALL_SITES = {
    (_COMPAT, "_cancel_and_wait"): cancel_and_wait,
    (_CONNECTION, "Connection._clean_tasks"): closed,
    ("asyncpg.pool", "Pool.close"): closed,
    ("asyncpg.pool", "Pool.terminate"): closed,
}
"""Call sites by module and qualified name."""
