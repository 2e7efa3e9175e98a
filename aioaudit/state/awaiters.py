"""Who waits for a future: the tasks that its cancellation reaches."""

from __future__ import annotations

import asyncio
import functools
from typing import Any


def waiters_of(future: Any) -> list[Any]:
    """The tasks that a cancellation of *future* reaches: those that await it, or its gather."""
    found: list[Any] = []
    for entry in getattr(future, "_callbacks", None) or ():
        found.extend(reached_by(entry[0] if isinstance(entry, tuple) else entry))
    return found


def reached_by(callback: Any) -> list[Any]:
    """The tasks that the done callback *callback* of a cancelled future ends."""
    owner = getattr(callback, "__self__", None)
    if owner is not None and asyncio.isfuture(owner) and hasattr(owner, "get_coro"):
        return [owner] if getattr(callback, "__name__", "").endswith("wakeup") else []
    if isinstance(callback, functools.partial):
        # ``wait_for`` of 3.11 waits for a future of its own, which this releases.
        released = getattr(callback.func, "__qualname__", None) == "_release_waiter"
        return waiters_of(callback.args[0]) if released else []
    code = getattr(callback, "__code__", None)
    if code is not None and code.co_qualname == "gather.<locals>._done_callback":
        names, cells = code.co_freevars, callback.__closure__
        if not cells[names.index("return_exceptions")].cell_contents:
            return waiters_of(cells[names.index("outer")].cell_contents)
    return []
