"""Probes on loops: start, stop, close, and the callbacks that are a bound ``cancel``.

asyncio's loops are Python classes.  Their start is seen in
``events._set_running_loop``, which every ``run_forever`` of theirs calls: a
wrapper around ``run_forever`` would stand in every stack.  uvloop binds that
function when it is built, so there ``run_forever`` itself is wrapped; the frame
also marks where the loop's own stack begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable
from functools import partial
from types import FrameType, FunctionType
from typing import Any

import msgspec

from aioaudit.core import Passed
from aioaudit.cpython.callbacks import context_of
from aioaudit.cpython.frames import caller_of, calling_frame, getframe
from aioaudit.cpython.internals import SOURCE_TRACEBACK
from aioaudit.cpython.tasks import all_tasks, current_task, origin_of, own_origin_of
from aioaudit.events import LoopClose, LoopStart, LoopStop
from aioaudit.probes import chained
from aioaudit.probes.futures import record_handoff
from aioaudit.probes.tasks import hide
from aioaudit.recorder.recorder import Recorder
from aioaudit.recorder.signalled import signal_here
from aioaudit.stack.code import APPLICATION, OWN, THIRD_PARTY
from aioaudit.stack.frames import BOUND, bound_cancel, callers, code_of, signal_above, was_called
from aioaudit.stack.handles import context_of_signal, context_reference
from aioaudit.state.handoffs import Handoff
from aioaudit.threads import get_ident

_CALL_AT = BaseEventLoop.call_at.__code__


def on_loop_start(recorder: Recorder, loop: Any) -> None:
    """*loop* begins to run in this thread."""
    try:
        recorder.look_for_libraries()
        runs_in, ident = recorder.state.places.runs_in, get_ident()
        if runs_in.get(loop) != ident:  # it begins again for each call of run_until_complete()
            with contextlib.suppress(TypeError):  # a loop that takes no weak reference
                runs_in[loop] = ident
        recorder.watcher.on_loop_start(loop)
        place = recorder.state.places.place(loop)
        if place.muted:
            return
        recorder.sender.sinks.open_now()
        if recorder.sender.is_active("loop.start"):
            recorder.sender.emit_final(
                LoopStart(**recorder.sender.base_fields("loop.start", place))
            )
    except Exception as error:  # noqa: BLE001 - an internal error must not keep a loop from running
        recorder.report_fault(error)


def make_set_running_loop(
    recorder: Recorder, original: Callable[[Any], None]
) -> Callable[[Any], None]:
    """``events._set_running_loop``: called with the loop at its start, with None at its end."""

    def _set_running_loop(loop: Any) -> None:
        original(loop)
        if loop is not None:
            on_loop_start(recorder, loop)

    return _set_running_loop


def make_run_forever(recorder: Recorder, original: Callable[..., None]) -> Callable[..., None]:
    """``run_forever`` of a loop that is not written in Python."""

    def run_forever(self: Any) -> None:
        if not self.is_running() and not self.is_closed():
            on_loop_start(recorder, self)
        original(self)

    return run_forever


def make_run_until_complete(original: Callable[..., Any]) -> Callable[..., Any]:
    """``run_until_complete`` of such a loop: only a frame that marks where its stack begins."""

    def run_until_complete(self: Any, future: Any) -> Any:
        return original(self, future)

    return run_until_complete


def make_stop(recorder: Recorder, cls: Any, original: Callable[..., None]) -> Callable[..., None]:
    """``stop`` that notes who calls it; a hook may object."""

    def stop(self: Any) -> None:
        event = None
        try:
            if (
                isinstance(self, cls)
                and recorder.sender.is_active("loop.stop")
                and not recorder.is_deaf_to_loop(self)
            ):
                event = _stop_event(recorder, self)
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a loop running
            if is_made(self):
                recorder.report_fault(error)
        if event is not None:
            recorder.sender.emit_preventable(event)
        original(self)

    return stop


def _stop_event(recorder: Recorder, loop: Any) -> LoopStop:
    frame = calling_frame(2)
    found = None
    step = frame
    codes = recorder.state.codes
    info = codes.of(step)
    current = current_task()
    # Beyond the loop's own frames the stack only says who runs it.
    while not (info.boundary or info.owner == OWN):
        looking = found is None or found[0].owner != APPLICATION
        if looking and info.owner in (APPLICATION, THIRD_PARTY):
            found = (info, step.f_lasti)
        back = step.f_back
        if back is None:
            break
        below = codes.of(back)
        if not was_called(info, step, below, back):
            current = None  # it only ran when the interpreter called something else
            break
        info, step = below, back
    if (
        threading.get_ident() == recorder.state.places.main_thread
        and signal_above(codes, frame) is not None
    ):
        current = None
    return LoopStop(
        **recorder.sender.base_fields("loop.stop", recorder.state.places.place(loop)),
        source=(recorder.state.codes.of(frame) if found is None else found[0]).source,
        at=None if found is None else found[0].at(found[1]),
        by=None if current is None else recorder.state.tasks.number(current),
        by_name=None if current is None else recorder.state.tasks.name(current),
        pending=sum(1 for task in all_tasks(loop) if not task.done()),
    )


def make_close(recorder: Recorder, original: Callable[..., None]) -> Callable[..., None]:
    """``close`` of a loop; told once, and only if it worked."""

    def close(self: Any) -> None:
        closes = _before_close(recorder, self)
        original(self)
        try:
            if closes and self.is_closed() and recorder.sender.is_active("loop.close"):
                place = recorder.state.places.place(self)
                if not place.muted:
                    recorder.sender.emit_final(
                        LoopClose(**recorder.sender.base_fields("loop.close", place))
                    )
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a loop open
            recorder.report_fault(error)

    return close


def _before_close(recorder: Recorder, loop: Any) -> bool:
    """Look at what *loop* leaves behind; whether it is open, and not to be left alone."""
    if recorder.sender.closed:
        return False
    try:
        recorder.state.tasks.sweep()
        if loop.is_closed():
            return False
        if not loop.is_running() and not recorder.muted():
            recorder.catch_up(loop)
            if recorder.sender.is_active("finding"):
                recorder.rules.on_loop_close(loop)
    except Exception as error:  # noqa: BLE001 - an internal error must not keep a loop open
        if is_made(loop):
            recorder.report_fault(error)
    return True


def is_made(loop: Any) -> bool:
    """Whether *loop* can be asked at all: `object.__new__` makes some that were never begun."""
    try:
        loop.is_running()
        loop.is_closed()
    except Exception:  # noqa: BLE001 - a stranger's object may answer with anything
        return False
    return True


def make_call_exception_handler(
    recorder: Recorder, original: Callable[..., None]
) -> Callable[..., None]:
    """``call_exception_handler``: asyncio tells it of a task that is destroyed while pending.

    And of every error that nobody handles.
    """

    def call_exception_handler(self: Any, context: Any) -> None:
        try:
            message = context.get("message") if isinstance(context, dict) else None
            # Whichever thread collects the garbage: an exporter's own task is not known.
            if message == "Task was destroyed but it is pending!" and recorder.state.tasks.has_seen(
                task := context.get("task")
            ):
                # Anybody's context is current here: exporters are to see the task's own.
                context_of(task).copy().run(recorder.on_end, task, "destroyed", None)
            heard = recorder.on_loop_error
            if heard is not None and isinstance(context, dict) and context.get("exception"):
                heard()
        except Exception as error:  # noqa: BLE001 - an internal error must not hide the program's
            recorder.report_fault(error)
        original(self, context)

    return call_exception_handler


def make_call_at(recorder: Recorder, original: Callable[..., Any], how: str) -> Callable[..., Any]:
    """``call_at`` (or ``call_later``) that notes who arms a timer with a bound ``cancel``.

    ``call_later`` of asyncio's own loops ends here too, and is told apart by its code.
    """
    note = _make_note_timer(recorder, how)
    if getattr(original, "__code__", None) is _CALL_AT:
        return _make_asyncio_call_at(recorder, original, note)
    handoffs = recorder.state.handoffs
    relative = how == "call_later"

    # Loops of others have other names for the first argument, and some know no context.
    def call_at(self: Any, *args: Any, **keywords: Any) -> Any:
        when, callback = args[:2] if len(args) > 1 else (None, None)
        kind = type(callback)
        noted = kind in BOUND or kind is partial
        due = None
        if noted:
            # Before it, or where this thread has to wait for the processor behind it the timer
            # would run out before it is due.  The original will say what is wrong here.
            with contextlib.suppress(Exception):
                due = self.time() + when if relative else when
        handle = original(self, *args, **keywords)
        # After it: uvloop's call_at calls call_later, and the outer one is the caller's.
        try:
            if handoffs.hidden_signals:
                handoffs.forget_signal(self, callback)
            if noted:
                note(self, due, callback, args[2:], handle)
            if origin_of(handle):
                hide(handle)
        except Exception as error:  # noqa: BLE001 - an internal error must not lose a handle
            recorder.report_fault(error)
        return handle

    return call_at


def _make_asyncio_call_at(
    recorder: Recorder, original: Callable[..., Any], note: Callable[..., None]
) -> Callable[..., Any]:
    """That of asyncio's own loops: each timeout comes by here, and each `asyncio.sleep()`.

    To pass on what has a name costs less than to pass on whatever there is.
    """
    handoffs = recorder.state.handoffs
    passed = Passed(
        original=original,
        at=2,
        partial=partial,
        watch=handoffs,
        hide=hide,
        origin=SOURCE_TRACEBACK.name,
        fault=recorder.report_fault,
    )

    def call_at(self: Any, when: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = original(self, when, callback, *args, context=context)
        try:
            if handoffs.hidden_signals:
                handoffs.forget_signal(self, callback)
            kind = type(callback)
            if kind in BOUND:
                if getattr(callback, "__name__", None) == "cancel":
                    note(self, when, callback, args, handle)
            elif kind is partial:
                note(self, when, callback, args, handle)
            try:
                shown = own_origin_of(handle)
            except AttributeError:  # a stranger's handle
                shown = None
            if shown:
                hide(handle)
        except Exception as error:  # noqa: BLE001 - an internal error must not lose a handle
            passed.fault(error)
        return handle

    return passed.take_calls_of(call_at)


def _make_note_timer(recorder: Recorder, how: str) -> Callable[..., None]:
    """Notes who arms a timer, in the frame that calls the one that calls this, with a bound ``cancel``.

    It is told the time of the loop at which that is due.
    """
    call_later_code = BaseEventLoop.call_later.__code__

    def note_timer(loop: Any, due: Any, callback: Any, args: tuple[Any, ...], handle: Any) -> None:
        bound = bound_cancel(callback, args)
        if bound is None:
            return
        frame = calling_frame(2)
        name = "call_later" if frame.f_code is call_later_code else how
        record_handoff(
            recorder,
            bound,
            f"given to {name}()",
            frame,
            loop=loop,
            due=due,
            direct=bound is callback,
            handle=handle,
        )

    return note_timer


def make_call_soon_threadsafe(
    recorder: Recorder, original: Callable[..., Any]
) -> Callable[..., Any]:
    """``call_soon_threadsafe`` that notes who hands a bound ``cancel`` to it."""

    def call_soon_threadsafe(self: Any, callback: Any, *args: Any, **keywords: Any) -> Any:
        bound = note = None
        try:
            if recorder.state.handoffs.hidden_signals:
                recorder.state.handoffs.forget_signal(self, callback)
            if type(callback) is FunctionType:
                chained.record_chained(recorder, callback, args, calling_frame())
            elif (bound := bound_cancel(callback, args)) is not None and is_made(self):
                how = "given to call_soon_threadsafe()"
                direct = bound is callback
                note = record_handoff(
                    recorder, bound, how, calling_frame(), loop=self, direct=direct
                )
        except Exception as error:  # noqa: BLE001 - an internal error must not lose a callback
            recorder.report_fault(error)
        handle = original(self, callback, *args, **keywords)
        try:
            if note is not None:
                recorder.state.handoffs.made(bound, note, handle)
            # Threads of others call this with no frame of Python's around it.
            _note_given(recorder, self, handle, callback, caller_of())
        except Exception as error:  # noqa: BLE001 - an internal error must not lose a handle
            recorder.report_fault(error)
        if origin_of(handle):
            hide(handle)
        return handle

    return call_soon_threadsafe


def _note_given(
    recorder: Recorder, loop: Any, handle: Any, callback: Any, frame: FrameType | None
) -> None:
    """Note that a signal's handler gives *callback* to *loop*: what that does is the signal's."""
    if get_ident() != recorder.state.places.main_thread:
        return
    how = "asked by a callback that its handler gave"
    note = signal_here(recorder.state, frame, current_task(), how)
    code = None if note is None else code_of(callback)
    context = None if code is None else context_reference(handle)
    if note is not None and code is not None and context is not None:
        note = msgspec.structs.replace(note, context=context)
        recorder.state.handoffs.add_given(loop, code, note)


def make_add_signal_handler(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    """``add_signal_handler`` that notes which code is a signal's, and who said so."""

    def note_signal(loop: Any, number: int, callback: Any) -> None:
        try:
            found, library = callers(recorder.state.codes, getframe(2))
            note = Handoff(
                at=None if found is None else found[0].at(found[1]),
                source=None if found is None else found[0].source,
                thread=None,
                how="given to add_signal_handler()",
                signal=number,
                context=context_of_signal(loop, number),
                library=None if library is None else library[0].source,
                library_at=None if library is None else library[0].at(library[1]),
            )
            if (bound := bound_cancel(callback, ())) is not None:
                recorder.state.handoffs.add(bound, note)
                if isinstance(bound.__self__, asyncio.Future | asyncio.TaskGroup):
                    # All groups have this code: it is the object that tells.
                    recorder.state.handoffs.add_signal(loop, None, number, note)
                    return
            owner = getattr(callback, "__self__", None)
            if getattr(callback, "__name__", None) == "set_result" and asyncio.isfuture(owner):
                how = "asked by a task that its handler woke"
                recorder.state.handoffs.signal_futures[owner] = msgspec.structs.replace(
                    note, how=how
                )
            recorder.state.handoffs.add_signal(loop, code_of(callback), number, note)
        except Exception as error:  # noqa: BLE001 - an internal error must not lose a signal
            recorder.report_fault(error)

    def add_signal_handler(self: Any, sig: Any, callback: Any, *args: Any) -> Any:
        result = original(self, sig, callback, *args)
        if isinstance(sig, int):
            note_signal(self, int(sig), callback)
        return result

    return add_signal_handler


def make_init_subclass(install: Callable[[Any], None]) -> Callable[..., None]:
    """``AbstractEventLoop.__init_subclass__``: a new kind of loop, uvloop's as it is imported."""

    def __init_subclass__(cls: Any, **keywords: Any) -> None:  # noqa: N807 - stands in for the method of that name
        super(asyncio.AbstractEventLoop, cls).__init_subclass__(**keywords)
        install(cls)

    return __init_subclass__
