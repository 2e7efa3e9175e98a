"""Which handle of a loop runs now, where the loop does not say so: by its context.

uvloop shows no handles: no frame has the one that runs in it, and the handlers of signals are
in a field of C.  But each handle of a signal has a `contextvars.Context` of its own, which a
context's own rule makes tell that it is current: it cannot be entered twice.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextvars import Context
from typing import Any

from aioaudit.cpython.loops import context_of_handle, signal_handles


def context_of_signal(loop: Any, number: int) -> Callable[[], Context | None] | None:
    """A reference to the context that *loop* runs the callback of the signal *number* in.

    None where the loop does not show it, not even to the garbage collector (rloop).
    """
    handlers = signal_handles(loop)
    if handlers is not None:
        handle = handlers.get(number)
    else:
        tables = (each for each in gc.get_referents(loop) if type(each) is dict)
        found = (each.get(number) for each in tables)
        handle = next((each for each in found if type(each).__name__ == "Handle"), None)
    return None if handle is None else context_reference(handle)


def context_reference(handle: Any) -> Callable[[], Context | None] | None:
    """A reference to the context that *handle* calls in, None where that is not shown."""
    context = context_of_handle(handle)
    if context is None:
        inside = gc.get_referents(handle)
        context = next((each for each in inside if type(each) is Context), None)
    return None if context is None else weakref.ref(context)


def handle_reference(handle: Any) -> Callable[[], Any] | None:
    """A reference to *handle*, None where it takes none."""
    try:
        return weakref.ref(handle)
    except TypeError:
        return None


def is_entered(context: Context | None) -> bool:
    """Whether code runs in *context* just now."""
    if context is None:
        return False
    try:
        context.run(bool)
    except RuntimeError:
        return True
    return False
