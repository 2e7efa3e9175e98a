"""Private. Who hears of an event: numbers, hooks, exporters; and of faults of our own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from aioaudit import bus
from aioaudit.delivery.records import Record
from aioaudit.delivery.worker import EXPORTING
from aioaudit.events import NAMES, Event, TaskCancel, name_of
from aioaudit.identity import Run
from aioaudit.place import E, Place
from aioaudit.threads import get_ident
from aioaudit.timestamps import timestamp

T = TypeVar("T")

Sink = tuple[
    Callable[[Record], None], Callable[[int], None], Callable[[], None], Callable[[], None]
]
"""What one exporter can be asked: ``put``, ``skip``, ``urge``, ``open_now`` of `Sinks`."""


class Sinks:
    """All exporters as one, until another comes or one goes: then there is another of these."""

    __slots__ = ("open_now", "present", "put", "skip", "urge")

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        each = list(sinks)
        self.present = bool(each)
        """Whether there is any."""
        self.put: Callable[[Record], None] = _all_with([sink[0] for sink in each])
        """Takes what happened."""
        self.skip: Callable[[int], None] = _all_with([sink[1] for sink in each])
        """Takes the number of an event that did not come to happen."""
        self.urge: Callable[[], None] = _all([sink[2] for sink in each])
        """A request to cancel was put, which must not stay behind."""
        self.open_now: Callable[[], None] = _all([sink[3] for sink in each])
        """A loop begins to run: what takes its time is to be done now."""


def _all_with(functions: Sequence[Callable[[T], None]]) -> Callable[[T], None]:
    """One function that calls all of *functions* with its argument."""
    if len(functions) == 1:
        return functions[0]

    def call(argument: T) -> None:
        for each in functions:
            each(argument)

    return call


def _all(functions: Sequence[Callable[[], None]]) -> Callable[[], None]:
    """One function that calls all of *functions*."""
    if len(functions) == 1:
        return functions[0]

    def call() -> None:
        for each in functions:
            each()

    return call


class Sender:
    """Sends what happens in this process to whoever wants to hear of it."""

    def __init__(self, run: Run, wanted: frozenset[str]) -> None:
        self.run = run
        self.selected_events = wanted
        """The names of the events that somebody asked for."""
        self.active_events: frozenset[str] = frozenset()
        """Those of them that somebody hears: none as long as nobody is there."""
        self.sinks = Sinks()
        self.closed = False
        """Whether all is over."""

    def muted(self) -> bool:
        """Whether nothing is heard: in an exporter's own thread, or because all is over.

        Somebody may hold a probe as a bound method when it is out of place already.
        """
        return self.closed or (bool(EXPORTING) and get_ident() in EXPORTING)

    @property
    def has_listeners(self) -> bool:
        """Whether anybody hears an event at all."""
        return self.sinks.present or bool(bus.hooks())

    def connect(self, wanted: frozenset[str], sinks: Iterable[Sink]) -> None:
        """From now on *sinks*, and the hooks that there are, hear the *wanted* events."""
        self.selected_events = wanted
        self.sinks = Sinks(sinks)
        self.active_events = wanted if self.has_listeners and not self.closed else frozenset()

    def is_active(self, name: str) -> bool:
        """Whether anybody hears the event *name*."""
        return name in self.active_events

    def seq(self, name: str) -> int:
        """The next number for an event *name*; 0 for one that nobody hears."""
        return self.run.next_seq() if name in self.active_events else 0

    def base_fields(self, name: str, place: Place) -> dict[str, Any]:
        """The fields that every event has."""
        return {
            "ts": timestamp(time.time_ns()),
            "seq": self.seq(name),
            "run": self.run.id,
            "pid": self.run.pid,
            "thread": place.thread,
            "loop": place.loop,
        }

    def new_event(self, kind: type[E], place: Place) -> E:
        """A new event of *kind*: when and where it happens; what happens is still to be filled in."""
        event = place.new_event(kind)
        event.ts = timestamp(time.time_ns())
        event.seq = self.run.next_seq() if NAMES[kind] in self.active_events else 0
        return event

    def call_hooks(self, event: Event) -> None:
        """Let the hooks hear *event*; what one raises travels on."""
        if event.seq and bus.hooks():
            try:
                bus.audit(name_of(event), event)
            except BaseException:
                self.sinks.skip(event.seq)
                raise

    def export(self, event: Event) -> None:
        """Give *event* to the exporters."""
        if event.seq:
            sinks = self.sinks
            sinks.put(event)
            if type(event) is TaskCancel:
                sinks.urge()

    def emit_preventable(self, event: Event) -> None:
        """Let the hooks hear *event*, and the exporters, where none of them objects."""
        if event.seq:
            if bus.hooks():
                self.call_hooks(event)
                self.export(event)
                return
            sinks = self.sinks
            sinks.put(event)
            if type(event) is TaskCancel:
                sinks.urge()

    def emit_final(self, event: Event) -> None:
        """Tell of something that can no longer be prevented."""
        if event.seq and bus.hooks():
            try:
                bus.audit(name_of(event), event)  # and not `call_hooks`: it is told in any case
            except (KeyboardInterrupt, SystemExit):
                self.export(event)
                raise  # Ctrl-C, or a signal's handler, while a hook ran: meant for the program
            except BaseException as error:  # noqa: BLE001 - nothing is left to abort, see the bus
                unraisable(error)
        self.export(event)

    def report_fault(self, error: BaseException) -> None:
        """A fault of our own: counted, said once a kind, and the program goes on."""
        self.run.faults.report(error)


class _Unraisable:
    """Reports an exception that nobody can catch, the way CPython itself does."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


def unraisable(error: BaseException) -> None:
    """Give *error* to `sys.unraisablehook`, as PEP 578 does where nothing is left to abort.

    The hook takes only what the interpreter makes; an exception that leaves a
    finalizer is the plain way to have it made.
    """
    _Unraisable(error)
