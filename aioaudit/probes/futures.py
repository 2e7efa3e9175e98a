"""Probes on plain futures, and ``CancelledError.source``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from aioaudit.core import Passed
from aioaudit.cpython.frames import caller_of, calling_frame
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.loops import running_loop
from aioaudit.cpython.tasks import callback_of, current_task, is_begun, own_callbacks_of
from aioaudit.probes import chained
from aioaudit.recorder.recorder import Recorder
from aioaudit.recorder.signalled import signal_here
from aioaudit.stack.frames import BOUND, bound_cancel, callers
from aioaudit.stack.handles import handle_reference
from aioaudit.state.awaiters import waiters_of
from aioaudit.state.handoffs import Handoff
from aioaudit.state.places import reference
from aioaudit.state.requests import Request


def make_cancel(recorder: Recorder, cls: Any, original: Callable[..., bool]) -> Callable[..., bool]:
    """``cancel`` of the future class *cls* that finds out who calls it, where a task will feel it."""
    nested = recorder.state.cancellations.nested

    def cancel(self: Any, msg: Any = None) -> bool:
        waiters: list[Any] = []
        try:
            # What is no future, or was never begun, has none of these, or is not asked.
            if isinstance(self, cls) and is_begun(self) is not None:
                callbacks = own_callbacks_of(self)
                if callbacks and callbacks is not UNKNOWN:
                    above = nested()
                    # Asked first, for it is so most often: of its task's own ``cancel()``.
                    if (
                        (above is None or not _waiters_of(callbacks, above))
                        and not recorder.is_deaf_to(self)
                        and not self.done()
                        # A task of the Python class ends itself so (``__step`` in tasks.py).
                        and not hasattr(self, "get_coro")
                    ):
                        waiters = waiters_of(self)
                        if chained.is_followed(callbacks):
                            recorder.remember_cause(
                                self, recorder.explain_cancel(self, caller_of(), msg)
                            )
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a future from being cancelled
            recorder.report_fault(error)
        if not waiters or recorder.on_future_cancel(self, msg, caller_of(), waiters) is None:
            return original(self, msg)
        try:
            return original(self, msg)
        finally:
            recorder.cancel_over()

    return cancel


def _waiters_of(callbacks: Any, above: Request) -> bool:
    """Whether the task being cancelled is all that awaits the future: nothing to tell then."""
    return len(callbacks) == 1 and id(getattr(callbacks[0][0], "__self__", None)) == above.victim


def make_add_done_callback(
    recorder: Recorder, original: Callable[..., None]
) -> Callable[..., None]:
    """``add_done_callback`` that notes who hands a bound ``cancel`` to it."""

    passed = Passed(
        original=original,
        at=1,
        partial=partial,
        watch=None,
        hide=None,
        origin="",
        fault=recorder.report_fault,
    )

    # Passed on just as it is given: without a context the one that is current now is taken, but
    # with None the one that is when the future ends; and only asyncio's class in Python has names.
    def add_done_callback(*args: Any, **keywords: Any) -> None:
        fn = args[1] if len(args) == 2 else None
        kind = type(fn)
        bound = None
        if kind is partial:
            bound = bound_cancel(fn, ())
        elif kind in BOUND and getattr(fn, "__name__", None) == "cancel":
            bound = fn
        if bound is not None:
            how = "given to add_done_callback()"
            record_handoff(recorder, bound, how, calling_frame(), future=args[0])
        passed.original(*args, **keywords)

    return passed.take_calls_of(add_done_callback)


def record_handoff(
    recorder: Recorder,
    callback: Any,
    how: str,
    frame: FrameType,
    *,
    future: Any = None,
    loop: Any = None,
    due: float | None = None,
    direct: bool = False,
    handle: Any = None,
) -> Handoff | None:
    """Note that *callback*, a bound ``cancel``, is handed to a loop from *frame*; gives the note.

    *direct* says that nothing is around it, such as a `functools.partial`; *handle* is what the
    loop has made of it, if it has.
    """
    codes = recorder.state.codes
    places = recorder.state.places
    handoffs = recorder.state.handoffs
    try:
        if loop is None and future is not None:
            loop = future.get_loop()
        if chained.is_chain_check(frame):
            cause = recorder.explain_cancel(callback.__self__, frame)
            note = Handoff(cause.at, cause.source, None, how, cause=cause)
            handoffs.add(callback, note)
            return note
        known = None if future is None else handoffs.given_with(callback, future)
        if known is not None and _has(future, callback):
            return None  # it will be called for that time first
        found, library = callers(codes, frame)
        running = running_loop()
        foreign = running is not loop and loop is not None and loop.is_running()
        if found is None and not foreign:
            return None  # asyncio's own doing on somebody's behalf: nobody can be named
        signal = signal_here(recorder.state, frame, current_task(), how)
        note = Handoff(
            at=None if found is None else found[0].at(found[1]),
            source=None if found is None else found[0].source,
            thread=places.thread_name() if foreign else None,
            how=how,
            signal=None if signal is None else signal.signal,
            due=due,
            direct=direct,
            library=None if library is None else library[0].source,
            library_at=None if library is None else library[0].at(library[1]),
            future=None if future is None else reference(future),
            handle=None if handle is None else handle_reference(handle),
        )
        handoffs.add(callback, note)
        return note
    except Exception as error:  # noqa: BLE001 - an internal error must not keep a callback from being set
        recorder.report_fault(error)
        return None


def _has(future: Any, callback: Any) -> bool:
    """Whether *future* is to call *callback*, a bound ``cancel``, at its end."""
    entries = own_callbacks_of(future)
    if not entries or entries is UNKNOWN:
        return False
    return any(bound_cancel(callback_of(each), ()) is callback for each in entries)


class Source:
    """``CancelledError.source`` while auditing is on; assigning to it works as without us."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __get__(self, error: BaseException | None, _owner: type | None = None) -> Any:
        if error is None:
            return self
        try:
            return self._recorder.state.cancellations.source(error)
        except Exception as fault:  # noqa: BLE001 - to ask must never fail
            self._recorder.report_fault(fault)
            return None
