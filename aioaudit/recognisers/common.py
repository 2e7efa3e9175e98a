"""What several recognisers answer."""

from __future__ import annotations

from types import FrameType
from typing import Any

from aioaudit.chain.links import Link
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import awaited
from aioaudit.state.cause import Cause


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


def waiting_in(task: Any, qualname: str) -> FrameType | None:
    """The frame of the coroutine function *qualname* that *task* waits in, None if it does not."""
    for step in awaited(task.get_coro()):
        frame: FrameType | None = getattr(step, "cr_frame", None)
        if frame is not None and frame.f_code.co_qualname == qualname:
            return frame
    return None
