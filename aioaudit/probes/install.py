"""Putting the probes in place, and taking them out again.

What is wanted decides what is touched: where only cancellations are told,
making a task costs nothing, because ``Task.__init__`` is left alone.
"""

from __future__ import annotations

import asyncio
import asyncio.exceptions
import asyncio.taskgroups
import asyncio.timeouts
import functools
import os
import sys
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable
from importlib import import_module
from types import CodeType, FunctionType, ModuleType
from typing import Any

from aioaudit import bus, core
from aioaudit.causes import plain
from aioaudit.core import Taking
from aioaudit.core.choice import CORE
from aioaudit.cpython import imports, inplace, internals, monitoring
from aioaudit.cpython.behaviour import VERSION
from aioaudit.cpython.groups import TIMEOUT_MAKER
from aioaudit.cpython.loops import RUNNERS, START_PROBE
from aioaudit.cpython.tasks import (
    CALLBACKS,
    PYTHON_TASKS,
    REPR_OF_CALLBACKS,
    REPR_OF_FUTURES,
    future_classes,
    get_coro,
    of_c,
    task_classes,
)
from aioaudit.cpython.transports import CLOSERS, transport_classes, transport_classes_of
from aioaudit.delivery.worker import EXPORTING
from aioaudit.events import NO_FINDINGS, NO_UNCANCELS
from aioaudit.probes import (
    connections,
    ends,
    futures,
    groups,
    loops,
    notes,
    signals,
    tasks,
    timeouts,
    wakes,
)
from aioaudit.probes.libraries import LibraryProbes
from aioaudit.recognisers import losses, opentelemetry, registry
from aioaudit.recorder.inquiry import line_in
from aioaudit.recorder.recorder import Recorder
from aioaudit.stack.handlers import HANDLER_CACHE, swallowing_clause
from aioaudit.state.awaiters import reaches_nobody
from aioaudit.text import say


class Installation:
    """The probes of one recorder, in place from `begin` to `remove`."""

    def __init__(
        self, recorder: Recorder, when_anew: Callable[[], None], *, stays: bool = False
    ) -> None:
        """Touches nothing yet; *when_anew* is to be called where asyncio is imported anew.

        *stays* says that this is looked for even when nothing else need be.

        Raises:
            aioaudit.cpython.inplace.UnsupportedError: this interpreter is not one
                whose types can be changed safely.
        """
        self.recorder = recorder
        self._when_anew = when_anew
        self._stays = stays
        self._versions = inplace.Versions()
        self._patches = inplace.Patches(self._versions)
        self._hot = inplace.Patches(self._versions)
        self._births: list[object] = []  # what notes who makes tasks, as long as it is kept
        self._lasting = inplace.Patches(self._versions)  # what stays until all of it is taken out
        self._monitored: ends.EndMonitor | None = None
        self._follow: Callable[[Any, Any], None] | None = None
        self._watch_end: Callable[[Any, Any], None] | None = None
        self._monitor: monitoring.Monitor | None = None
        self._probes: set[int] = set()
        self._boundaries: list[Any] = []
        self._kept: dict[int, CodeType] = {}
        self._libraries: imports.AfterImport | None = None
        self._closing = connections.Closing(recorder)
        self._transport_classes = transport_classes()
        self._task_classes = task_classes()
        self._future_classes = future_classes()
        inplace.check(*self._task_classes, *self._future_classes)

    @property
    def coverage(self) -> list[str]:
        """What is seen in this process, and what cannot be."""
        seen = [
            "tasks: C and Python, subclasses, made by any means",
            "loops: asyncio" + (", uvloop" if "uvloop" in sys.modules else ""),
            "end of tasks: " + ("sys.monitoring" if self._monitor else "done callback"),
            "line that swallowed a cancellation: " + ("seen" if self._monitor else "not seen"),
            f"core: {CORE}",
        ]
        if monitoring.AVAILABLE and self._monitor is None:
            seen.append("sys.monitoring: not used, other tools hold all of its tool ids")
        if not self.recorder.state.tasks.creations_seen:
            seen.append("creation of tasks: not recorded, AIOAUDIT_EVENTS leaves it out")
        if not {"task.uncancel", "task.done"} <= self.recorder.sender.selected_events:
            seen.append(NO_UNCANCELS)
        if "finding" not in self.recorder.sender.selected_events:
            seen.append(NO_FINDINGS)
        seen.append("not seen: other interpreters in the process, tasks of other frameworks")
        seen.extend(
            f"missing in this CPython: {each.full}; lost: {each.lost}"
            for each in internals.missing()
        )
        return seen

    def stop(self) -> None:
        """Hear nothing more: the interpreter is going down.

        What was recorded still answers, to `aioaudit.why` and ``CancelledError.source``.
        """
        self.recorder.close()
        self.recorder.state.cancellations.asks.end()
        if self._libraries is not None:
            self._libraries.remove()
        losses.note_closes(False)
        self._hot.restore()
        self._births.clear()
        self._patches.restore()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
            self._monitored = None

    def remove(self) -> None:
        """Take everything out again; what was there before is there again.

        Also where `begin` or this very method was interrupted, wherever that was.
        """
        inplace.close_types()
        self.stop()
        self._lasting.restore()
        self._versions.settle()

    def begin(self) -> None:
        """Put the probes in place; where this raises, `remove` is to be called."""
        _say_missing()
        recorder = self.recorder
        called_back = ends.EndCallbacks(
            recorder, {cls: cls.add_done_callback for cls in self._future_classes}
        )
        self._watch_end = called_back.watch_end
        recorder.catch_up = called_back.catch_up
        if monitoring.AVAILABLE:
            self._monitor = monitoring.Monitor("aioaudit")
            try:
                self._monitor.open()
            except monitoring.NoToolError:
                self._monitor = None
        recorder.state.cancellations.deliveries_seen = self._monitor is not None
        if self._monitor is not None:
            self._monitored = ends.EndMonitor(recorder, self._monitor, called_back.watch_end)
            self._follow = recorder.state.creation_sites.watch_code = self._monitored.watch_code
            recorder.state.cancellations.watch_end = self._monitored.watch_task
            recorder.state.cancellations.track_delivery = self._monitored.track_delivery
            recorder.rules.watch_next = self._monitored.watch_next
        else:
            recorder.state.cancellations.watch_end = called_back.watch_task
            self._hide_callback(called_back)
        self.refresh()
        self._install_on_tasks()
        self._install_on_loops()
        for name in ("kill", "killpg"):
            if hasattr(os, name):
                self._put_kill(name)
        self._versions.settle()
        recorder.state.probe_codes = frozenset(self._probes)
        wanted = {name: self._probe_library(library) for name, library in registry.PROBED.items()}
        wanted["asyncio"] = self._reinstall
        wanted[opentelemetry.MODULE] = self._follow_traces
        tables = dict.fromkeys(registry.OWN, self._load_table)
        registry.look_around()
        self._libraries = imports.AfterImport(wanted, ["asyncio"], tables, stays=self._stays)
        self._libraries.begin()
        recorder.look_for_libraries = self._look_for_libraries

    def _put_kill(self, name: str) -> None:
        """Probe the function *name* of `os`, and of the module that it is from.

        There `pickle` looks for it, for whoever has another process call it.
        """
        original = getattr(os, name)
        probe = signals.make_kill(self.recorder, original, group=name == "killpg")
        self._kept[id(probe.__code__)] = probe.__code__
        put = inplace.as_builtin(probe, original)
        for module in (os, sys.modules.get("posix"), sys.modules.get("nt")):
            if getattr(module, name, None) is original:
                self._patches.replace(module, name, put)

    def _install_on_tasks(self) -> None:
        recorder = self.recorder
        for cls in self._task_classes:
            self._put_cancel(cls, tasks.make_cancel, of_task=True)
            self._put_uncancel(cls)
        for cls in (*self._task_classes, *self._future_classes):
            if "add_done_callback" in vars(cls):  # the C task has one of its own
                self._put(
                    cls,
                    "add_done_callback",
                    futures.make_add_done_callback(recorder, vars(cls)["add_done_callback"]),
                )
        for cls in self._future_classes:
            self._put_cancel(cls, futures.make_cancel, of_task=False)
        timeout = asyncio.timeouts.Timeout
        init, reschedule = timeouts.make_probes(
            recorder, timeout, timeout.__init__, vars(timeout)["reschedule"], TIMEOUT_MAKER
        )
        if init is not None:
            self._put(timeout, "__init__", init)
        self._put(timeout, "reschedule", reschedule)
        event = asyncio.Event
        self._put_outside(event, "set", wakes.make_set(recorder, vars(event)["set"]))
        group = asyncio.taskgroups.TaskGroup
        if "cancel" in vars(group):  # since 3.15; it is no cancel() of a task or a future
            self._put_outside(group, "cancel", groups.make_cancel(recorder, vars(group)["cancel"]))
        self._lasting.replace(asyncio.exceptions.CancelledError, "source", futures.Source(recorder))

    def _install_on_loops(self) -> None:
        recorder = self.recorder
        if START_PROBE is not None:
            module, name = START_PROBE
            original = getattr(module, name)
            self._put(module, name, loops.make_set_running_loop(recorder, original))
        self._install_on_loop(BaseEventLoop)
        selector = _owner(asyncio.SelectorEventLoop, "add_signal_handler")
        self._put(
            selector,
            "add_signal_handler",
            loops.make_add_signal_handler(recorder, vars(selector)["add_signal_handler"]),
        )
        for cls in _descendants(asyncio.AbstractEventLoop):
            self._install_on_foreign_loop(cls)
        self._patches.replace(
            asyncio.AbstractEventLoop,
            "__init_subclass__",
            classmethod(loops.make_init_subclass(self._install_on_new_loop)),
        )

    def _look_for_libraries(self) -> None:
        """A loop begins to run: what came past us, or on a path that is longer now?"""
        if registry.at_home():
            registry.look_around()
            assert self._libraries is not None
            self._libraries.look()

    def _load_table(self, library: ModuleType) -> None:
        """*library* is there: have what explains its calls ready."""
        try:
            registry.own_tables(library.__name__)
        except Exception as error:  # noqa: BLE001 - an internal error must not break an import
            self.recorder.report_fault(error)

    def _follow_traces(self, module: ModuleType) -> None:
        """The program has imported OpenTelemetry's context: tasks may be in traces from now on."""
        known = self.recorder.state
        known.traces.begin(opentelemetry.variable_of(module))
        known.cancellations.asks.traced_by(known.traces.of_core if known.traces.on else None)

    def _reinstall(self, _asyncio: ModuleType) -> None:
        try:
            self._when_anew()
        except Exception as error:  # noqa: BLE001 - an internal error must not break an import
            self.recorder.report_fault(error)

    def _probe_library(self, library: str) -> Callable[[ModuleType], None]:
        """What puts the probes of our recogniser for *library* into one of its modules."""

        def probe(module: ModuleType) -> None:
            try:
                recogniser = import_module(registry.module_of(library))
                probes = LibraryProbes(self.recorder, self._put_outside, self._closing.look)
                recogniser.install(module, probes)
                self._versions.settle()
            except Exception as error:  # noqa: BLE001 - an internal error must not break an import
                self.recorder.report_fault(error)

        return probe

    def _put_outside(self, owner: Any, name: str, probe: Any) -> None:
        """Put *probe*, which marks nothing on a stack, where ``owner.name`` is, looking like it."""
        inplace.disguise(probe, getattr(owner, name))
        self._kept[id(probe.__code__)] = probe.__code__
        self._patches.replace(owner, name, probe)

    def refresh(self) -> None:
        """Rebuild the two hottest probes: who listens, and to what, is part of them."""
        recorder = self.recorder
        if recorder.sender.closed:
            return
        self._hot.restore()
        self._births.clear()
        recorder.state.cancellations.asks.end()
        losses.note_closes(self._tells_closes)
        for cls in self._transport_classes:
            self._put_closers(cls)
        known = recorder.state.tasks
        known.creations_seen = recorder.sender.has_listeners and bool(
            {"task.create", "task.done"} & recorder.sender.selected_events
        )
        if recorder.notes.on:
            for record in recorder.state.cancellations.asks.pending():
                recorder.state.cancellations.adopt(record)
            if self._monitored is None:
                self._put_notes()
        if self._monitored is not None:
            self._monitored.refresh()
        if not known.creations_seen:
            # Of tasks that come from now on nothing is known: their addresses would mislead.
            known.born.clear()
            known.recently_returned.clear()
            self._versions.settle()
            return
        for cls in self._task_classes:
            own = vars(cls)
            init, kept = tasks.make_init(
                recorder, cls, own["__init__"], self._follow, self._watch_end
            )
            if isinstance(init, FunctionType):
                self._put(cls, "__init__", init, hot=True)
            else:  # of C: it looks like what it stands for, and no frame of it is on a stack
                self._hot.replace(cls, "__init__", init)
            self._births.append(kept)
            set_name = tasks.make_set_name(recorder, own["set_name"])
            self._put(cls, "set_name", set_name, hot=True)
        self._take_asks()
        self._versions.settle()

    @property
    def _tells_closes(self) -> bool:
        """Whether anybody wants to hear which connections are closed."""
        return "connection.close" in self.recorder.sender.active_events

    def _put_closers(self, cls: type[Any]) -> None:
        """Have told which connections of *cls* cancellations close, if anybody wants to hear of it."""
        if self._tells_closes:
            for name in CLOSERS:
                self._put(cls, name, self._closing.make(vars(cls)[name]), hot=True)

    def _put_notes(self) -> None:
        """Have notes on errors where no delivery is seen."""
        recorder = self.recorder
        # An end is to be heard of before those hear of it who await it: from the beginning.
        recorder.state.tasks.creations_seen = True
        error = asyncio.exceptions.CancelledError
        self._hot.replace(error, "__notes__", notes.AskedFor(recorder))
        for cls in (*self._task_classes, *self._future_classes):
            original = vars(cls).get("remove_done_callback")
            if original is not None:  # the C task has none of its own
                probe = notes.make_remove_done_callback(recorder, original)
                self._put(cls, "remove_done_callback", probe, hot=True)

    def _install_on_foreign_loop(self, cls: Any) -> None:
        """Probe a loop that is not built on asyncio's: uvloop's, also when it is imported later."""
        for name in RUNNERS:
            runs = getattr(cls, name, None)
            if isinstance(runs, FunctionType):
                self.recorder.state.codes.add_boundary(runs)
        if cls.__flags__ & inplace.IMMUTABLE:
            return
        if issubclass(cls, BaseEventLoop):
            self._install_on_overrides(cls)
            return
        if not all(hasattr(cls, name) for name in ("run_forever", "stop", "close", "call_later")):
            return
        recorder = self.recorder
        if cls.run_forever is asyncio.AbstractEventLoop.run_forever:
            return
        for each in transport_classes_of(cls):
            if each not in self._transport_classes:
                self._transport_classes.append(each)
                self._put_closers(each)
        self._put(
            cls, "run_forever", loops.make_run_forever(recorder, cls.run_forever), boundary=True
        )
        self._put(
            cls,
            "run_until_complete",
            loops.make_run_until_complete(cls.run_until_complete),
            boundary=True,
        )
        self._put(cls, "stop", loops.make_stop(recorder, cls, cls.stop))
        self._put(cls, "close", loops.make_close(recorder, cls.close))
        self._put_timers(cls, "call_at", "call_later")
        self._put(
            cls,
            "add_signal_handler",
            loops.make_add_signal_handler(recorder, cls.add_signal_handler),
        )
        self._put(
            cls,
            "call_exception_handler",
            loops.make_call_exception_handler(recorder, cls.call_exception_handler),
        )

    def _install_on_overrides(self, cls: Any) -> None:
        """Probe what a loop built on asyncio's does in its own way: trio-asyncio's, qasync's."""
        recorder = self.recorder
        timers = [name for name in ("call_at", "call_later") if _overrides(cls, name)]
        for name in timers:
            self._put(cls, name, loops.make_call_at(recorder, getattr(cls, name), name))
        if _overrides(cls, "call_soon_threadsafe"):
            given = loops.make_call_soon_threadsafe(recorder, cls.call_soon_threadsafe)
            self._put(cls, "call_soon_threadsafe", given)
        if _overrides(cls, "add_signal_handler"):
            handler = loops.make_add_signal_handler(recorder, cls.add_signal_handler)
            self._put(cls, "add_signal_handler", handler)

    def _install_on_new_loop(self, cls: Any) -> None:
        self._install_on_foreign_loop(cls)
        self._versions.settle()

    def _install_on_loop(self, cls: type) -> None:
        recorder = self.recorder
        own = vars(cls)
        self._put(cls, "stop", loops.make_stop(recorder, cls, own["stop"]))
        self._put(cls, "close", loops.make_close(recorder, own["close"]))
        self._put_timers(cls, "call_at")  # which call_later calls
        self._put(
            cls,
            "call_exception_handler",
            loops.make_call_exception_handler(recorder, own["call_exception_handler"]),
        )

    def _put_timers(self, cls: Any, *names: str) -> None:
        recorder = self.recorder
        for name in names:
            self._put(cls, name, loops.make_call_at(recorder, getattr(cls, name), name))
        self._put(
            cls,
            "call_soon_threadsafe",
            loops.make_call_soon_threadsafe(recorder, cls.call_soon_threadsafe),
        )

    def _put(
        self, owner: Any, name: str, probe: Any, *, boundary: bool = False, hot: bool = False
    ) -> None:
        """Put *probe* where ``owner.name`` is, looking like it."""
        inplace.disguise(probe, getattr(owner, name))
        code = probe.__code__
        self._kept[id(code)] = code
        if boundary:
            self.recorder.state.codes.mark_boundary(code)
        (self._hot if hot else self._patches).replace(owner, name, probe)

    def _put_cancel(
        self, cls: Any, make_probe: Callable[..., Callable[..., bool]], *, of_task: bool
    ) -> None:
        """Put the probe that *make_probe* makes where ``cls.cancel`` is."""
        original = vars(cls)["cancel"]
        probe: Any = make_probe(self.recorder, cls, original)
        inplace.disguise(probe, original)
        self._kept[id(probe.__code__)] = probe.__code__
        self._probes.add(id(probe.__code__))
        asks = self.recorder.state.cancellations.asks
        put = core.make_cancel(asks, cls, original, probe, of_task=of_task)
        self._patches.replace(cls, "cancel", put)

    def _put_uncancel(self, cls: Any) -> None:
        original = vars(cls)["uncancel"]
        probe: Any = tasks.make_uncancel(self.recorder, cls, original)
        inplace.disguise(probe, original)
        self._kept[id(probe.__code__)] = probe.__code__
        asks = self.recorder.state.cancellations.asks
        self._patches.replace(cls, "uncancel", core.make_uncancel(asks, cls, original, probe))

    def _take_asks(self) -> None:
        """Have the core take in plain requests, where all that happens is told, and nobody can object."""
        recorder = self.recorder
        sender = recorder.sender
        if (
            self._monitored is None
            or self._follow is None
            or bus.hooks()
            or recorder.notes.on  # each error is looked at when it is delivered
            or not {"task.create", "task.cancel", "task.done"} <= sender.active_events
            or not plain.CAN_BE_SEEN
        ):
            return
        found_out = plain.FoundOut(recorder.state, line_in)
        told = "task.uncancel" in sender.active_events
        # A core says how late a timeout ran out, and not what blocked the loop meanwhile.
        expires = told and not recorder.watcher.is_on
        core.take_asks(
            recorder.state.cancellations.asks,
            Taking(
                next_seq=sender.run.next_seq,
                python_tasks=PYTHON_TASKS,
                codes=self._monitored.codes,
                handlers=HANDLER_CACHE,
                exporting=EXPORTING,
                outside=tasks.OUTSIDE,
                future=asyncio.Future,
                cancelled=asyncio.CancelledError,
                current_task=of_c,
                get_coro=get_coro,
                put=sender.sinks.put,
                urge=sender.sinks.urge,
                learn_line=found_out.line,
                learn_wait=found_out.wait,
                learn_handler=swallowing_clause,
                reaches_nobody=reaches_nobody,
                track=self._monitored.track_delivery,
                rules=recorder.rules,
                findings="finding" in sender.active_events,
                fault=recorder.report_fault,
                timeout=asyncio.Timeout,
                notes=recorder.state.handoffs.timeouts,
                expire=plain.EXPIRE_CODE if expires else None,
                run=plain.RUN_CODE,
                leave=plain.LEAVE_CODE if told else None,
                loop_time=timeouts.loop_time,
                learn_expiry=found_out.expiry,
                learn_leaving=found_out.leaving,
            ),
        )

    def _hide_callback(self, called_back: ends.EndCallbacks) -> None:
        """Keep our done callback out of what a future's callbacks and ``repr`` show (3.11)."""
        done = called_back.on_done
        for cls in (*self._task_classes, *self._future_classes):
            getset = vars(cls).get(CALLBACKS)
            if getset is not None and hasattr(getset, "__get__"):
                self._lasting.replace(cls, CALLBACKS, property(_without(getset, done)))
        if REPR_OF_CALLBACKS is None or REPR_OF_FUTURES is None:
            return
        module, of_callbacks = REPR_OF_CALLBACKS
        _, of_futures = REPR_OF_FUTURES
        format_callbacks = getattr(module, of_callbacks)
        future_repr_info = getattr(module, of_futures)

        def without_ours(cb: Any) -> Any:
            return format_callbacks([entry for entry in cb if entry[0] != done])

        def without_none(future: Any) -> Any:
            return [part for part in future_repr_info(future) if part != "cb=[]"]

        for name, probe in ((of_callbacks, without_ours), (of_futures, without_none)):
            inplace.disguise(probe, getattr(module, name))
            self._kept[id(probe.__code__)] = probe.__code__
            self._lasting.replace(module, name, probe)


@functools.cache
def _say_missing() -> None:
    """Say what is lost because names are missing in this CPython: once, where anything is."""
    for each in internals.missing():
        if each.loses:
            say(f"CPython {VERSION} has no {each.full}; not known, and not told here: {each.lost}")


def _without(getset: Any, done: Any) -> Callable[[Any], Any]:
    """A getter of what *getset* gives, *done* taken out."""

    def shown(self: Any) -> Any:
        callbacks = getset.__get__(self)
        if not callbacks:
            return callbacks
        return [entry for entry in callbacks if entry[0] != done] or None

    return shown


def _overrides(cls: Any, name: str) -> bool:
    """Whether *cls*, or a class mixed into it that is no loop, defines *name*, and not asyncio."""
    owner = _owner(cls, name)
    if owner.__module__.partition(".")[0] == "asyncio":
        return False
    return owner is cls or not issubclass(owner, asyncio.AbstractEventLoop)


def _owner(cls: Any, name: str) -> Any:
    """The class in *cls*'s ancestry that defines *name*."""
    return next(each for each in cls.__mro__ if name in vars(each))


def _descendants(cls: type[Any]) -> list[type[Any]]:
    found: list[type[Any]] = []
    for each in cls.__subclasses__():
        found.append(each)
        found.extend(_descendants(each))
    return found
