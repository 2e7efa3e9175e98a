"""A recogniser for a library of one's own: why the jobs of a ``workpool`` are cancelled.

`docs/write-a-recogniser.md` shows the library and explains what stands here.
"""

from types import FrameType

from aioaudit.recognisers import Call, Cause, local


def too_old(frame: FrameType, call: Call) -> Cause:
    """``Pool._reap``, which a timer calls: the job has been running for too long."""
    return call.by_deadline("workpool.too_old", local(frame, "self").max_age)


def closed(frame: FrameType, call: Call) -> Cause:
    """``Pool.close``: somebody closes the pool; the line that does is the application's."""
    return call.by_caller("workpool.closed", frame)


CALL_SITES = {
    ("workpool", "Pool._reap"): too_old,
    ("workpool", "Pool.close"): closed,
}
