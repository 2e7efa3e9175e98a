"""aiohappyeyeballs' calls of ``cancel()``: attempts to connect that are not needed any more.

aiohttp connects through it.  What stands in aiohappyeyeballs/_staggered.py (2.4 to 2.7)
is read here.
"""

from __future__ import annotations

from asyncio import CancelledError
from types import FrameType

from aioaudit.chain.links import Link
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import handled_by, local
from aioaudit.state.cause import Cause

_REASON = "aiohappyeyeballs.race"


def race_left(frame: FrameType, call: Call) -> Cause | None:
    """``staggered_race``: one attempt won, or whoever waited for it was cancelled."""
    error = call.exception
    if isinstance(error, CancelledError) and handled_by(error) is frame:
        return Cause(reason="awaiter", request=call.request_of(error))
    if not local(frame, "winner"):
        return None
    at, source = call.caller(frame)
    detail = "another attempt to connect was faster"
    return Cause(
        reason=_REASON,
        origin=Link(what="called", reason=_REASON, at=at, source=source, detail=detail),
        detail=detail,
        at=at,
        source=source,
    )


CALL_SITES = {("aiohappyeyeballs._staggered", "staggered_race"): race_left}
"""Call sites by module and qualified name."""
