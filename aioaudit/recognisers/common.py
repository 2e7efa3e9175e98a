"""What several recognisers answer."""

from __future__ import annotations

from types import FrameType

from aioaudit.causes.cause import Call, Cause
from aioaudit.chain.links import Link


def called(
    frame: FrameType, call: Call, reason: str, detail: str | None = None, *, bystander: bool = False
) -> Cause:
    """Somebody asked for it: the application's line from *frame* outwards, else the library's."""
    at, source = call.caller(frame)
    return Cause(
        reason=reason,
        origin=Link(what="called", reason=reason, at=at, source=source, detail=detail),
        detail=detail,
        at=at,
        source=source,
        bystander=bystander,
    )
