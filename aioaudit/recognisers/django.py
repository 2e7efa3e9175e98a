"""Django's calls of ``cancel()``: views whose client leaves (Django 5.0 to 6.0).

Since 6.1 a view runs in a task group, which ends by ``RequestAborted`` and is told as such.
"""

from __future__ import annotations

from types import FrameType
from typing import Any

from aioaudit.addresses import of_scope
from aioaudit.cpython.tasks import coro_of
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import awaited_chain, local
from aioaudit.state.cause import Cause


def _was_sent(task: Any) -> bool:
    """Whether *task*, which runs a view, has sent the whole response, and closes it (until 5.0)."""
    names = [getattr(each, "__qualname__", "") for each in awaited_chain(coro_of(task))]
    return names[1:3] == ["ASGIHandler.send_response", "SyncToAsync.__call__"]


def handled(frame: FrameType, call: Call) -> Cause | None:
    """``ASGIHandler.handle``: the client went away, or the response was sent."""
    tasks = local(frame, "tasks")
    if tasks is None or call.victim not in tasks:
        return None  # a receiver of a signal cancels something else
    listener, process = tasks
    if call.victim is listener or _was_sent(process):
        return call.by_caller("django.done", frame, "the response was sent")
    if not listener.done():
        return None
    connection = of_scope(local(frame, "scope"))
    return call.by_caller(
        "disconnect", frame, "before the whole response was sent", connection=connection
    )


_HANDLE = ("django.core.handlers.asgi", "ASGIHandler.handle")

CALL_SITES = {_HANDLE: handled}
"""Call sites by module and qualified name."""
