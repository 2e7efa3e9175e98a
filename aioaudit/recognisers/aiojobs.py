"""aiojobs' calls of ``cancel()``: a job or its scheduler is closed (aiojobs 1.0 to 1.4)."""

from __future__ import annotations

from types import FrameType

from aioaudit.chain.links import Link
from aioaudit.recognisers.call import Call
from aioaudit.state.cause import Cause

_REASON = "aiojobs.closed"


def job_closed(frame: FrameType, call: Call) -> Cause:
    """``Job._close``: at the line that closed the job, else in the scheduler."""
    at, source = call.caller(frame)
    return Cause(
        reason=_REASON,
        origin=Link(what="called", reason=_REASON, at=at, source=source),
        at=at,
        source=source,
    )


CALL_SITES = {("aiojobs._job", "Job._close"): job_closed}
"""Call sites by module and qualified name."""
