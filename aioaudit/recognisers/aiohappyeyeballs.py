"""aiohappyeyeballs' calls of ``cancel()``: attempts to connect that are not needed any more.

aiohttp connects through it.  What stands in aiohappyeyeballs/_staggered.py (2.4 to 2.7)
is read here.
"""

from __future__ import annotations

from asyncio import CancelledError
from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import frame_handling, local
from aioaudit.state.cause import Cause

_REASON = "aiohappyeyeballs.race"


def race_left(frame: FrameType, call: Call) -> Cause | None:
    """``staggered_race``: one attempt won, or whoever waited for it was cancelled."""
    error = call.exception
    if isinstance(error, CancelledError) and frame_handling(error) is frame:
        return call.by_request("awaiter", error)
    if not local(frame, "winner"):
        return None
    return call.by_caller(_REASON, frame, "another attempt to connect was faster")


CALL_SITES = {("aiohappyeyeballs._staggered", "staggered_race"): race_left}
"""Call sites by module and qualified name."""
