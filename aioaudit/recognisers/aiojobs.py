"""aiojobs' calls of ``cancel()``: a job or its scheduler is closed (aiojobs 1.2 to 1.4)."""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.state.cause import Cause

_REASON = "aiojobs.closed"


def job_closed(frame: FrameType, call: Call) -> Cause:
    """``Job._close``: at the line that closed the job, else in the scheduler."""
    return call.by_caller(_REASON, frame)


CALL_SITES = {("aiojobs._job", "Job._close"): job_closed}
"""Call sites by module and qualified name."""
