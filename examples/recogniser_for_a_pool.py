"""A recogniser for a library of one's own: why the jobs of a ``workpool`` are cancelled.

`docs/write-a-recogniser.md` shows the library and explains what stands here.
"""

from types import FrameType

from aioaudit.recognisers import Call, Cause, Link, local


def too_old(frame: FrameType, call: Call) -> Cause:
    """``Pool._reap``, which a timer calls: the job has been running for too long."""
    at, source = call.waiting()
    seconds = local(frame, "self").max_age
    return Cause(
        reason="workpool.too_old",
        origin=Link(
            what="deadline", reason="workpool.too_old", at=at, source=source, seconds=seconds
        ),
        at=at,
        source=source,
    )


def closed(frame: FrameType, call: Call) -> Cause:
    """``Pool.close``: somebody closes the pool; the line that does is the application's."""
    at, source = call.caller(frame)
    return Cause(
        reason="workpool.closed",
        origin=Link(what="called", reason="workpool.closed", at=at, source=source),
        at=at,
        source=source,
    )


CALL_SITES = {
    ("workpool", "Pool._reap"): too_old,
    ("workpool", "Pool.close"): closed,
}
