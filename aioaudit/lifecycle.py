"""Private. The end of the process and its forks, in one place.

Goal: at every end that leaves time for it, what was recorded is on disk, and
a forked child records for itself, while the program notices nothing.

**Ends.**  `sys.exit`, an unhandled error, the end of the main thread: `atexit`.
A multiprocessing child that was forked (also by a forkserver) ends with
`os._exit` and, before 3.13, without atexit functions; what it does run are
multiprocessing's own finalizers, so one of these is registered in it.  Nothing
runs at `os._exit`, SIGKILL, a crash, and at the default action of signals
other than SIGTERM: what was recorded in the last moments is lost there.
Daemon threads may go on recording after the end; that is lost as well.

**SIGTERM**, which by default kills the process on the spot: nothing runs then.

- Rejected: blocking it and waiting in a thread (children inherit the mask,
  `sigwait` and `pthread_sigmask` show it); a wake-up descriptor (asyncio's own,
  and the kernel kills before anybody reads it); a handler in C (no C here, and
  it could not wait for our thread anyway); writing every event at once (that
  makes the program wait for the disk).
- Chosen: where the disposition is the default one and the main thread is
  asking, a Python handler.  It restores the default, tells us, and sends the
  signal again: the exit status is the same.  A program that sets a handler
  later replaces ours; if it calls ours then, as the one it found, ours does
  nothing.  Subprocesses are not affected: `exec` resets handlers.
- What remains: Python handlers run between two bytecodes of the main thread, so
  a main thread that is inside one long call of C code dies later than it would;
  `signal.getsignal` shows a handler where there was none; and where auditing is
  switched on in another thread there is no handler until `watch_sigterm` is
  called in the main thread.

**Forks.**  `os.register_at_fork` cannot be undone, so its functions stay and
look whether somebody is interested.  Those who have threads are told before a
fork as well: see `aioaudit.delivery.pipeline` for why they must be gone by then.  A
child made by C code that calls fork() itself is not noticed, and one that was
forked in another thread than the main one ends with that thread: nothing runs
at its end.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from aioaudit import forks
from aioaudit.threads import get_ident, main_ident

if TYPE_CHECKING:
    from multiprocessing.util import Finalize


_kill = os.kill
"""As it is without a probe, which would tell of it."""


class _Interest(msgspec.Struct, frozen=True, eq=False):
    """What is to be called, and when."""

    on_fork_child: Callable[[], None]
    on_exit: Callable[[str | None], None]
    before_fork: Callable[[], None] | None
    after_fork_in_parent: Callable[[], None] | None


_interest: _Interest | None = None
_fork_functions_set = False
_registered_for_children = False
_finalizer: Finalize | None = None


def install(
    on_fork_child: Callable[[], None],
    on_exit: Callable[[str | None], None],
    *,
    before_fork: Callable[[], None] | None = None,
    after_fork_in_parent: Callable[[], None] | None = None,
) -> None:
    """Call these from now on; replaces what an earlier call asked for.

    Args:
        on_fork_child: Called in each forked child, before the program goes on
            there.
        on_exit: Called when the process ends in order, with None, or when
            SIGTERM ends it, with ``"SIGTERM"``.  May be called more than once.
        before_fork: Called in the thread that is about to fork.
        after_fork_in_parent: Called in that thread when the fork is done.

    May be called from any thread.
    """
    global _interest
    _interest = _Interest(on_fork_child, on_exit, before_fork, after_fork_in_parent)
    _set_fork_functions()
    atexit.unregister(_at_exit)  # never twice
    atexit.register(_at_exit)
    _care_for_multiprocessing()
    watch_sigterm()


def uninstall() -> None:
    """Call nothing any more; what `install` changed and what can be restored is restored.

    The handler of SIGTERM is removed only if it is still ours and this is the
    main thread; elsewhere it stays and does what the default would.
    """
    global _interest
    _interest = None
    atexit.unregister(_at_exit)
    _restore_sigterm()


def watch_sigterm() -> bool:
    """Whether the end by SIGTERM is noticed; arranges for it where that is possible.

    `install` does this.  It can be done in the main thread only, and only
    where the program has no handler of its own.
    """
    if _interest is None or os.getpid() == 1:
        return False  # the kernel does not apply the default action to process 1
    try:
        current = signal.getsignal(signal.SIGTERM)
        if current == signal.SIG_DFL and _in_main_thread():
            signal.signal(signal.SIGTERM, _on_sigterm)
            return True
    except ValueError:
        return False  # a sub-interpreter: signals are the main interpreter's
    return current is _on_sigterm


def _restore_sigterm() -> None:
    with suppress(ValueError):  # a sub-interpreter: nothing was set from here
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) is _on_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _in_main_thread() -> bool:
    # Not `current_thread`: in a thread that is not Python's it makes one up.
    return get_ident() == main_ident()


def ends_by(number: int) -> bool:
    """Whether the process ends by the signal *number*, in order: the handler for it is ours."""
    return number == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is _on_sigterm


def _on_sigterm(signum: int, _frame: FrameType | None) -> None:
    if signal.getsignal(signum) is not _on_sigterm:
        return  # called by a handler that replaced this one: the program's own affair
    # First, so that a second signal ends the process at once.
    signal.signal(signum, signal.SIG_DFL)
    try:
        if _interest is not None:
            _interest.on_exit(signal.Signals(signum).name)
    finally:
        _kill(os.getpid(), signum)


def _at_exit() -> None:
    global _interest
    if _interest is not None:
        # Somebody does not want to wait; nothing but a traceback of ours would come of it.
        with suppress(KeyboardInterrupt):
            _interest.on_exit(None)
    # From here on there is nothing left to save.  The functions for forks, which the interpreter
    # keeps to its very end, must not keep more than themselves: what a hook of the program
    # refers to would else outlive the streams that its last words go to.
    _interest = None
    _restore_sigterm()


# -- forks ---------------------------------------------------------------------


def _set_fork_functions() -> None:
    global _fork_functions_set
    if _fork_functions_set or not hasattr(os, "register_at_fork"):
        return
    _fork_functions_set = True
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def _before_fork() -> None:
    if _interest is not None and _interest.before_fork is not None:
        _interest.before_fork()
        forks.hush()


def _after_fork_in_parent() -> None:
    if _interest is not None and _interest.after_fork_in_parent is not None:
        _interest.after_fork_in_parent()
        forks.hush_again()


def _after_fork_in_child() -> None:
    if _interest is not None:
        _care_for_multiprocessing()
        watch_sigterm()  # the parent may have been process 1, or forked in another thread
        _interest.on_fork_child()


# -- ends of multiprocessing children ---------------------------------------------


def _care_for_multiprocessing() -> None:
    """Have `_at_exit` called at the end of a multiprocessing child as well.

    A child that begins forgets the finalizers of its parent and then runs what
    was registered for "after the fork"; what is registered there lives on in
    its own children, so once is enough.  Once a child has begun it takes a
    finalizer directly.
    """
    global _registered_for_children
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        return  # nobody here is or will be such a child, unless it is imported later
    if not _registered_for_children:
        _registered_for_children = True
        util.register_after_fork(_add_finalizer, _add_finalizer)
    from multiprocessing.process import parent_process

    if parent_process() is not None:
        _add_finalizer()


def _add_finalizer(_: object = None) -> None:
    global _finalizer
    from multiprocessing.util import Finalize

    if _finalizer is None or not _finalizer.still_active():
        # The lowest priority: after everything else that may still record something.
        _finalizer = Finalize(None, _at_exit, exitpriority=-(10**9))
