"""Twisted's calls of ``cancel()``: Deferreds that take too long, on asyncio (24.3 to 26.10).

Who cancels a Deferred that was made of a task is on the stack as a rule, and is told without help.
"""

from __future__ import annotations

from types import FrameType
from typing import Any

from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause


def timed_out(frame: FrameType, call: Call) -> Cause:
    """``Deferred.addTimeout``, by a timer of the reactor: which line called it, nothing says any more."""
    return call.by_deadline(
        "timeout",
        _seconds(local(frame, "self"), local(frame, "timedOut")),
        (None, None),
        detail="Deferred.addTimeout",
        current_task_unrelated=True,
    )


def _seconds(deferred: Any, flag: Any) -> float | None:
    """The limit that goes with *flag*: the callback that ends *deferred* then has both."""
    for pair in deferred.callbacks:
        function = pair[0][0]
        if getattr(function, "__qualname__", "") != "Deferred.addTimeout.<locals>.convertCancelled":
            continue
        cells = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
        if cells["timedOut"].cell_contents is flag:
            return float(cells["timeout"].cell_contents)
    return None


CALL_SITES = {("twisted.internet.defer", "Deferred.addTimeout.<locals>.timeItOut"): timed_out}
"""Call sites by module and qualified name."""
