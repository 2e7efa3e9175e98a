"""Private. One change of what is in place after the other, whoever makes it and wherever it is.

A lock keeps threads apart.  It is of no help against what runs in the middle of a change in the
same thread: a signal's handler, a finalizer, a hook.  An RLock lets it in, and it finds the half
of something; a plain lock has it wait for itself, for ever.  What a lock says is not even true
of its holder, since Ctrl-C may come between taking it and the line that sees to its end.  The
stack is: who runs in the middle of a change has that change below it.  So it is told so, and
what it wants is done at the end of that change.

Rejected: to refuse it (a handler that turns auditing off would raise into whatever the program
does just then); to hold signals back (``signal.signal`` shows, and undoes what
``signal.siginterrupt`` did); to make changes in a thread of our own (the program's imports and
finalizers would run there).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TypeVar

from aioaudit.cpython.frames import getframe
from aioaudit.threads import allocate_rlock

Result = TypeVar("Result")

_TRIES = 10

_lock = allocate_rlock()
_later: deque[Callable[[], object]] = deque()


def under_way() -> bool:
    """Whether the caller runs in the middle of a change that this very thread makes."""
    frame: FrameType | None = getframe(1)
    while frame is not None:
        if frame.f_code is _make.__code__:
            return True
        frame = frame.f_back
    return False


def make(change: Callable[[], object], later: Callable[[], object] | None = None) -> bool:
    """Make *change*, and nobody else any meanwhile.

    Where one is `under_way`, *later* is made at its end, by default *change* as well.

    Returns:
        Whether *change* was made.
    """
    if under_way():
        _later.append(later or change)
        return False
    try:
        _make(change)
    finally:
        while _later:
            _make(_make_next)
    return True


def _make_next() -> None:
    with suppress(IndexError):  # another thread was quicker
        _later.popleft()()


def _make(change: Callable[[], object]) -> None:
    try:
        _lock.acquire()
        change()
    finally:
        # As often as it is held, by this call or by one that was interrupted just here.  The
        # first line of this is reached before a signal's handler is (Python/ceval.c looks for
        # signals where a function or a loop begins anew, and after a call).
        try:
            while True:
                _lock.release()
        except RuntimeError:  # it is not held any more
            pass


def after_fork() -> None:
    """This is a forked child: whoever was in the middle of a change is not there any more."""
    global _lock
    _lock = allocate_rlock()
    _later.clear()


def surely(step: Callable[[], Result]) -> Result:
    """What *step* gives, which does what is left of it when it is called again: done to its end.

    Raises:
        BaseException: what it was interrupted by, or raises each time.
    """
    try:
        return step()
    except BaseException:
        for _ in range(_TRIES):
            try:
                step()
                break
            except BaseException:  # noqa: BLE001, S112 - the first of them is raised
                continue
        raise
