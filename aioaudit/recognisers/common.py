"""What several recognisers answer."""

from __future__ import annotations

from types import FrameType
from typing import Any

from aioaudit.addresses import Connection, of_scope
from aioaudit.cpython.tasks import coro_of
from aioaudit.stack.frames import awaited_chain


def waiting_in(task: Any, qualname: str) -> FrameType | None:
    """The frame of the coroutine function *qualname* that *task* waits in, None if it does not."""
    for step in awaited_chain(coro_of(task)):
        frame: FrameType | None = getattr(step, "cr_frame", None)
        if frame is not None and frame.f_code.co_qualname == qualname:
            return frame
    return None


def has_ended(body: Any) -> bool:
    """Whether *body*, which a response is made from, is a generator that has ended.

    A server says that the client went away once the whole response was sent, too: that is no
    disconnect, and what produced the body tells the two apart.
    """
    return getattr(body, "ag_frame", body) is None


def asked_by(receive: Any) -> Connection | None:
    """The addresses of the connection whose messages *receive* gives, where its server shows them."""
    return of_scope(getattr(getattr(receive, "__self__", None), "scope", None))
