"""redis-py's calls of ``cancel()``, and what its timeouts are for (redis 5.0 to 8.1).

Its limits are `asyncio.Timeout`s: an answer, a connection, or a free one in the pool, that
was waited for too long.  Those of no length are a way to look without waiting.
"""

from __future__ import annotations

from types import FrameType

from aioaudit.chain.links import Link
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.common import waiting_in
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_CONNECTION = "redis.asyncio.connection"
_BACKGROUND = "redis.background"
_CLOSED = "redis.closed"


# -- timeouts --------------------------------------------------------------------------


def read(frame: FrameType, call: Call) -> Cause:
    """``AbstractConnection.read_response``: no answer came; polls have a timeout of their own."""
    reader = waiting_in(call.victim, "AbstractConnection.read_response")
    own = reader is not None and local(reader, "timeout") is not None
    return call.by_timeout(frame, detail="the timeout of this read" if own else "socket_timeout")


def connect(frame: FrameType, call: Call) -> Cause:
    """``_connect`` of a connection: it was not made in time; or not closed, in ``disconnect``."""
    return call.by_timeout(frame, detail="socket_connect_timeout")


def pool_full(frame: FrameType, call: Call) -> Cause:
    """``BlockingConnectionPool.get_connection``: no connection became free."""
    return call.by_timeout(frame, detail="all connections of the pool were in use")


def polled(frame: FrameType, call: Call) -> Cause:
    """``can_read_destructive`` (until redis 7): is there anything to read?  It does not wait."""
    return call.by_timeout(frame, "redis.poll", "redis looks without waiting")


# -- calls of cancel() -----------------------------------------------------------------


def closed(frame: FrameType, call: Call) -> Cause:
    """Something is closed, and with it end the tasks that redis had beside it."""
    return call.by_caller(_CLOSED, frame)


def background_ended(_frame: FrameType, _call: Call) -> Cause:
    """The loop in redis's own thread was stopped; who stopped its scheduler is on no stack."""
    detail = "the loop of redis's background thread ends"
    return Cause(
        reason=_CLOSED, origin=Link(what="shutdown", reason=_CLOSED, detail=detail), detail=detail
    )


def run_too_long(frame: FrameType, call: Call) -> Cause:
    """``BackgroundScheduler.run_coro_sync``: a thread waited for a coroutine for too long."""
    return call.by_deadline("timeout", local(frame, "timeout"), call.caller(frame))


TIMEOUTS = {
    (_CONNECTION, "AbstractConnection.read_response"): read,
    (_CONNECTION, "AbstractConnection.disconnect"): connect,
    (_CONNECTION, "Connection._connect"): connect,
    (_CONNECTION, "UnixDomainSocketConnection._connect"): connect,
    (_CONNECTION, "BlockingConnectionPool.get_connection"): pool_full,
    ("redis._parsers.base", "_AsyncRESPBase.can_read_destructive"): polled,
    ("redis._parsers.hiredis", "_AsyncHiredisParser.can_read_destructive"): polled,
}
"""The functions that enter timeouts, by module and qualified name."""

CALL_SITES = {
    ("redis.asyncio.cluster", "RedisCluster.aclose"): closed,
    ("redis.asyncio.cluster", "ClusterPubSub.aclose"): closed,
    ("redis.asyncio.multidb.client", "MultiDBClient.aclose"): closed,
    (
        "redis.asyncio.maint_notifications",
        "AsyncMaintNotificationsPoolHandler.cancel_scheduled_tasks",
    ): closed,
    (_BACKGROUND, "BackgroundScheduler._run_health_check_loop"): background_ended,
    (_BACKGROUND, "_start_event_loop_in_thread"): background_ended,
    (_BACKGROUND, "BackgroundScheduler.run_coro_sync"): run_too_long,
}
"""Call sites by module and qualified name."""

VERSIONS = {
    site: ">=8.1"
    for site in CALL_SITES
    if site[0].startswith(("redis.background", "redis.asyncio.m"))
    or site[0] == "redis.asyncio.cluster"
}
"""Call sites that came with clients for several databases, and with maintenance notifications."""
