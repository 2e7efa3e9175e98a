"""Private. Turning auditing on and off: one recorder, its probes, its exporters.

Everything that lasts longer than a call and belongs to the whole process is here.

What is wanted is one value, replaced in one step (`Session.wanted`, `_session`), and `_settle`
makes what is in place follow it, as often as need be.  So a call that is interrupted, by Ctrl-C
or by what a signal's handler raises, is whole all the same: one that turns something off is done
to its end, one that turns something on is taken back, and what even that has left is put right
by the next call.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

import aioaudit
from aioaudit import bus, changes
from aioaudit.auditing import Auditing, Held, Setting, Wanted
from aioaudit.delivery.journal import TIMEOUT, shutdown_all
from aioaudit.dumps import ERROR, Dump, DumpError, Signals, is_dumper
from aioaudit.loading import BRIDGE, check_exporter
from aioaudit.settings import (
    ALWAYS,
    DEFAULT_BLOCKED,
    DEFAULT_REDACT,
    DEFAULT_SLOW_CANCEL,
    EVENT_NAMES,
    VARIABLE,
    Settings,
    SettingsError,
    bad_value,
    build,
    is_off,
)
from aioaudit.text import describe, say
from aioaudit.threads import get_ident

if TYPE_CHECKING:
    from aioaudit.chain.links import Answer
    from aioaudit.delivery.journal import Journal
    from aioaudit.events import Event, ProcessStart
    from aioaudit.exporter import Exporter
    from aioaudit.probes.install import Installation
    from aioaudit.recorder.recorder import Recorder
    from aioaudit.state.known import State
    from aioaudit.trail import Trail

_session: Session | None = None
_leaving: list[Session] = []
"""Half begun or half ended: what of them is in place is to be taken out."""
_closed: dict[int, list[Journal]] = {}
"""By thread: those that a call of it has closed, and is to wait for."""
_unsettled = False
"""Whether a change is under way, or was interrupted, and `_settle` has to follow."""

_NEEDED = tuple(
    f"aioaudit.{name}"
    for name in (
        "identity",
        "probes.install",
        "recorder.recorder",
        "lifecycle",
        "events",
        "trail",
        "delivery.pipeline",
    )
)
"""What a change may need, of what is not needed to load this."""

_OF_EXPORTERS = {
    "events": None,
    "jsonl_path": "jsonl",
    "otel_tasks": "otel",
    "otel_status": "otel",
    "recorder_size": "recorder",
    "recorder_dump": "recorder",
    "recorder_socket": "recorder",
}
"""The settings that an exporter is made with, and the one exporter that has it, if only one has."""

_ALL = "auditing itself"
"""What every call of `enable` wants, beside its exporters."""


class Session:
    """Auditing of this process, from the first `enable` to `disable`."""

    def __init__(self, when_anew: Callable[[], None] | None = None) -> None:
        """*when_anew* is called where the program imports asyncio anew."""
        from aioaudit.identity import Run
        from aioaudit.probes.install import Installation
        from aioaudit.recorder.recorder import Recorder

        self.run = Run()
        self.recorder: Recorder = Recorder(self.run, frozenset())
        self.wanted = Wanted(
            {},
            Setting(DEFAULT_SLOW_CANCEL),
            Setting(DEFAULT_BLOCKED),
            Setting(frozenset(EVENT_NAMES)),
            Setting(False),
            Setting(DEFAULT_REDACT),
        )
        """What is wanted of it: `_ALL` for auditing itself, journals, `BRIDGE`."""
        self._open: list[Journal] = []
        self._undo_bridge: Callable[[], None] | None = None
        self._start: ProcessStart | None = None
        self._applied = False
        self._signals = Signals(self.ask_for_dumps)
        self.installation: Installation = Installation(
            self.recorder, when_anew or _warn_reimported, stays=when_anew is not None
        )

    @property
    def sinks(self) -> list[tuple[Journal, frozenset[str]]]:
        """The exporters, each with the events that it gets."""
        return [(each.what, each.events) for each in self.wanted.holds.values() if is_sink(each)]

    @property
    def start_event(self) -> ProcessStart:
        """The event that opens every log of this run."""
        if self._start is None:
            self._start = self.run.start_event(self.installation.coverage)
        return self._start

    def begin(self) -> None:
        """Put the probes in place; listen to the ends and forks of the process, and to the bus.

        Where this raises, `end` is to be called.
        """
        from aioaudit import lifecycle
        from aioaudit.events import NAMES
        from aioaudit.trail import explain

        self._names = NAMES
        self._explain = explain
        lifecycle.install(
            self._in_forked_child,
            self._at_exit,
            before_fork=self._before_fork,
            after_fork_in_parent=self._after_fork_in_parent,
        )
        self.installation.begin()
        bus.describe_with(self._describe_hook)

    def end(self) -> None:
        """Take everything out and close the exporters; to do it again does what is left."""
        from aioaudit import lifecycle

        self.wanted = replace(self.wanted, holds={})
        self.recorder.watcher.watch(0)
        self.recorder.notes.end()
        self.recorder.on_loop_error = None
        self._signals.follow(())
        self.installation.remove()
        bus.describe_with(None)
        self._bridge()
        lifecycle.uninstall()
        self._close_unwanted([])
        self.run.logs = ()

    def why(self, what: Any) -> Answer | None:
        """Why the task, or the one that the CancelledError *what* came to, was cancelled."""
        return self._explain(self.recorder.state, what)

    def source(self, error: BaseException) -> str | None:
        """``module:qualname`` of the caller at the root of *error*'s chain."""
        return self.recorder.state.cancellations.source(error)

    def is_event(self, what: object) -> bool:
        """Whether *what* is an event of ours."""
        return type(what) in self._names

    def stamp(self, event: Event) -> Event:
        """*event* as of here and now, with a number of its own where somebody wants it."""
        name = self._names[type(event)]
        if name in ALWAYS:
            raise TypeError(f"{name} is not to be raised: exporters make it where a log needs it")
        place = self.recorder.state.places.place()
        if place.muted:
            return event
        return replace(event, **self.recorder.sender.base_fields(name, place))

    def journal(self, exporter: Exporter, name: str, events: frozenset[str]) -> Journal:
        """What takes down *events* for *exporter*, once it is wanted."""
        from aioaudit.delivery.pipeline import Pipeline

        # What the recorder can see depends on what is wanted, and the log says so.
        recorder = self.recorder
        wanted = frozenset(events).union(*(wanted for _, wanted in self.sinks))
        recorder.sender.selected_events = wanted
        recorder.state.tasks.creations_seen = bool({"task.create", "task.done"} & wanted)
        if getattr(type(exporter), "is_journal", False) is True:
            return cast("Journal", exporter)
        door = None
        asked: object = exporter
        if is_dumper(asked):
            from aioaudit.live.tasks import Look

            asked.source = Look(recorder.state, self._exporters, recorder.redaction)
            door = asked.door
        return Pipeline(
            exporter,
            name=name,
            run=self.run,
            start=self.start_event,
            late=True,
            door=door,
            redact=recorder.redaction.records,
        )

    def _exporters(self) -> list[str]:
        """What the exporters are called."""
        return [journal.name for journal, _ in self.sinks]

    def apply(self) -> None:
        """Make the bridge, the recorder and its probes, and the exporters follow what is wanted."""
        self._bridge()
        listed = self.sinks
        wanted: frozenset[str] = frozenset()
        for _, events in listed:
            wanted |= events
        if not listed:
            wanted = self.wanted.bus_events.value
            self._start = None  # the next log may be of other events
        self.recorder.rules.slow_after = self.wanted.slow_cancel.value
        # Before the first call there is nothing but the event that opens its log, which goes by it.
        drawn = self.run.drawn() if self._applied else 0
        self.recorder.redaction.follow(self.wanted.redact.value, drawn)
        self._applied = True
        # Where it is no more, it tells what it has seen to those that are there still.
        self.recorder.watcher.watch(self.wanted.blocked.value)
        if self.wanted.notes.value:
            self.recorder.notes.begin()
        else:
            self.recorder.notes.end()
        sinks = [
            (
                _filtered(journal, events, wanted),
                journal.skip,
                journal.urge,
                journal.open_now,
            )
            for journal, events in listed
        ]
        journals = [journal for journal, _ in listed]
        triggers = self._triggers(journals)
        self._signals.follow(triggers)
        self.recorder.on_loop_error = (
            partial(self.ask_for_dumps, ERROR) if ERROR in triggers else None
        )
        # Probes hold those to whom they give events, so for a moment some give to the new ones and
        # some to the old ones: what is put then is owed to nobody who comes or goes.
        drawn = self.run.drawn()
        alone = not self._open
        for journal in self._open:
            if journal not in journals:
                journal.leave(drawn)
        self.run.logs = tuple(journals)
        self.recorder.sender.connect(wanted, sinks)
        self.installation.refresh()
        drawn = self.run.drawn()
        for journal in journals:
            journal.join(drawn, alone=alone)
        self._close_unwanted(journals)

    def _triggers(self, journals: list[Journal]) -> set[str]:
        """What has any of those behind *journals* write what it keeps by itself."""
        found: set[str] = set()
        for journal in journals:
            exporter: object = journal.exporter
            if is_dumper(exporter):
                found |= exporter.dump_on
        return found

    def ask_for_dumps(self, why: str) -> None:
        """Have those that want it because of *why* write what they keep; waits for nothing."""
        for journal, _ in self.sinks:
            exporter: object = journal.exporter
            if is_dumper(exporter) and why in exporter.dump_on:
                exporter.ask(Dump(None, why))
                journal.open_now()
                journal.begin_flush()

    def _close_unwanted(self, wanted: list[Journal]) -> None:
        for journal in self._open:
            if journal not in wanted:
                closed = _closed.setdefault(get_ident(), [])
                if journal not in closed:
                    closed.append(journal)
                journal.begin_shutdown(TIMEOUT)
        self._open = wanted

    def _bridge(self) -> None:
        """Where `BRIDGE` is wanted, raise every event again as a real audit event."""
        if not self.wanted.is_wanted(BRIDGE):
            if self._undo_bridge is not None:
                self._undo_bridge()
                self._undo_bridge = None
        elif self._undo_bridge is None:
            redaction = self.recorder.redaction

            def raise_again(event: str, args: tuple[Any, ...]) -> None:
                if args and self.is_event(args[0]):
                    args = (redaction.now.of(args[0]), *args[1:])
                sys.audit(f"aioaudit.{event}", *args)

            self._undo_bridge = partial(bus.remove, raise_again)  # first: adding may be interrupted
            bus.addaudithook(raise_again)

    def _describe_hook(self, hook: Any) -> tuple[str, tuple[Any, ...]]:
        from aioaudit.events import HookAdd
        from aioaudit.text import clean

        module = getattr(hook, "__module__", None) or type(hook).__module__
        name = getattr(hook, "__qualname__", None) or type(hook).__qualname__
        event = HookAdd(
            **self.recorder.sender.base_fields("hook.add", self.recorder.state.places.place()),
            hook=clean(f"{module}:{name}"),
        )
        self.recorder.sender.export(event)
        return "hook.add", (event,)

    def _at_exit(self, signal: str | None) -> None:
        try:
            self.recorder.watcher.watch(0)
            if signal is None:
                self.recorder.catch_up_stopped_loops()
            shutdown_all([journal for journal, _ in self.sinks], signal=signal)
        finally:
            # What the interpreter still runs while it goes down (a loop's `__del__`, tasks
            # that are destroyed) must not come back to us: the modules that our probes
            # live on are taken apart by then.
            if signal is None:
                self.installation.stop()
                bus.close()

    def _before_fork(self) -> None:
        self.recorder.watcher.pause()
        for journal, _ in self.sinks:
            try:
                journal.before_fork()
            except Exception as error:  # noqa: BLE001 - an internal error must not show at a fork
                self.recorder.report_fault(error)
            own = getattr(journal.exporter, "before_fork", None)
            if own is not None:
                try:
                    own()
                except Exception as error:  # noqa: BLE001 - whatever it is, the program goes on
                    journal.fail(error)

    def _after_fork_in_parent(self) -> None:
        self.recorder.watcher.resume()
        for journal, _ in self.sinks:
            journal.after_fork_in_parent()

    def _in_forked_child(self) -> None:
        changes.after_fork()
        _closed.clear()
        if self is not _session:  # another thread of the parent was about to begin or end it
            self._open.clear()
            changes.surely(_settle)
            return
        bus.after_fork()
        self.run = type(self.run)(forked_from=self.run)
        self._start = None
        self.recorder.after_fork(self.run)
        for journal, _ in self.sinks:
            journal.after_fork(self.run, self.start_event)
        self.apply()


def is_sink(held: Held) -> bool:
    """Whether it is an exporter's."""
    return held.what is not _ALL and held.what is not BRIDGE


def _place(settings: Settings) -> str:
    """The file that ``jsonl`` writes to with *settings*, in this process."""
    path = settings.jsonl_path.replace("{pid}", str(os.getpid()))
    return os.path.realpath(os.path.join(settings.folder or "", path))  # noqa: PTH118 - pathlib is not cheap


def _is_of(held: Held, exporter: Exporter) -> bool:
    return is_sink(held) and held.what.exporter is exporter


def _filtered(journal: Journal, events: frozenset[str], wanted: frozenset[str]) -> Any:
    """``put`` of *journal*, for those of the *wanted* events that it asked for."""
    witness = getattr(journal.exporter, "witness", None)
    put = journal.put if witness is None else _put_with_witness(journal, witness)
    if events >= wanted:
        return put
    from aioaudit.delivery.records import event_name

    skip = journal.skip

    def put_wanted(item: Any) -> None:
        if event_name(item) in events:
            put(item)
        else:
            skip(item.seq)

    return put_wanted


def _put_with_witness(journal: Journal, witness: Callable[[Any], object]) -> Any:
    """``put`` of *journal*, after its exporter's *witness* has seen the item."""
    from aioaudit.delivery.records import seen_as

    put = journal.put

    def put_witnessed(item: Any) -> None:
        nonlocal witness
        try:
            witness(seen_as(item))
        except (RecursionError, MemoryError):
            pass  # the program is at its limits; the event goes without what would be noted of it
        except Exception as error:  # noqa: BLE001 - whatever it is, the program goes on
            witness = _no_witness
            journal.fail(error)
        put(item)

    return put_witnessed


def _no_witness(_item: Any) -> None:
    """The witness of an exporter whose own has failed."""


def current() -> Session | None:
    """The session, None while auditing is off."""
    return _session


def living_tasks() -> int | None:
    """How many tasks live whose making was seen; None where nobody wants to hear of tasks."""
    session = _session
    if session is None or not session.recorder.state.tasks.creations_seen:
        return None
    return session.recorder.state.tasks.count_living()


def enable(
    *exporters: str | Exporter,
    events: str | Iterable[str] | None = None,
    jsonl_path: str | os.PathLike[str] | None = None,
    slow_cancel: float | None = None,
    blocked: float | None = None,
    notes: bool | None = None,
    redact: str | Iterable[str] | None = None,
    otel_tasks: str | Iterable[str] | None = None,
    otel_status: str | None = None,
    recorder_size: int | str | None = None,
    recorder_dump: str | Iterable[str] | None = None,
    recorder_socket: bool | None = None,
) -> Auditing:
    """Turn auditing on for this process; doing it again adds exporters.

    Args:
        exporters: Names as in ``AIOAUDIT`` (``"jsonl"``, ``"sys"``, ...), or
            objects with ``export``, ``flush`` and ``shutdown``.  Without any,
            those that ``AIOAUDIT`` names, else none: then only hooks hear
            events, and ``CancelledError.source`` and `why` answer.
        events: Names or patterns of the events that these exporters get, or hooks
            where there is no exporter at all, as a list or separated by commas.
        jsonl_path: Where ``"jsonl"`` writes; may hold ``{pid}``.
        slow_cancel: Seconds that a task may take to obey before that is a finding;
            for all of the process, as the last call gave it that has not ended.
        blocked: Seconds that a loop may stay in one callback before that is told; 0 for however
            long it likes.  Also for all of the process.
        notes: Whether errors of cancelled tasks carry a note (PEP 678) that says who cancelled;
            for all of the process, as `slow_cancel`.
        redact: What is replaced by ``***``, beside obvious secrets, in what leaves the process:
            ``KEY`` or ``KEY=PATTERN`` (``name=customer-*``), as a list or separated by commas;
            ``off`` for nothing.  Also for all of the process.
        otel_tasks: Which tasks ``"otel"`` makes spans of: ``touched``, ``all``, or
            patterns like ``shop.*:handle``, as a list or separated by commas.
        otel_status: When a cancelled task's span is an error: ``cause``, ``unset``
            or ``error``.
        recorder_size: Bytes that ``"recorder"`` may take, as a number or with a unit (``"16MB"``).
        recorder_dump: When ``"recorder"`` writes what it keeps by itself: ``finding``, ``error``,
            ``exit``, ``signal:USR2``, as a list or separated by commas.
        recorder_socket: Whether ``"recorder"`` can be asked from outside of the process
            (``aioaudit ps`` and others).

    What is left out comes from the variables of the environment (``docs/settings.md``),
    which are read anew at each call.

    An exporter that is already there under the same name is not added twice, and ends when no
    call wants it any more; what is not given here need not be as it is there.  With another
    `jsonl_path`, ``"jsonl"`` is another one.  May be called from any thread, before a loop
    exists or while it runs; where a signal's handler, a hook or a finalizer calls it in the
    middle of another call that turns auditing on or off, it is done at the end of that one.

    Returns:
        What this call turned on: a context manager that ends it, which need not be kept.

    Raises:
        SettingsError: a name, a pattern or another value means nothing, or has no effect: it is
            of an exporter that is there with another value, or that this call does not name.
        UnsupportedError: this interpreter cannot be instrumented safely.
        TypeError: an argument is of a type that no value of it has.

    Where it raises, auditing is as it was; so it is where Ctrl-C comes in the middle of it.
    """
    objects = [each for each in exporters if not isinstance(each, str)]
    for each in objects:
        check_exporter(each)
    names = [each for each in exporters if isinstance(each, str)]
    environ = dict(os.environ)
    settings = build(
        names or None,
        environ=environ,
        events=events,
        jsonl_path=jsonl_path,
        slow_cancel=slow_cancel,
        blocked=blocked,
        notes=notes,
        redact=redact,
        otel_tasks=otel_tasks,
        otel_status=otel_status,
        recorder_size=recorder_size,
        recorder_dump=recorder_dump,
        recorder_socket=recorder_socket,
    )
    wanted = settings.exporters
    if not names and (objects or is_off(environ.get(VARIABLE))):
        wanted = ()
    given = {
        "events": events,
        "jsonl_path": jsonl_path,
        "otel_tasks": otel_tasks,
        "otel_status": otel_status,
        "recorder_size": recorder_size,
        "recorder_dump": recorder_dump,
        "recorder_socket": recorder_socket,
    }
    call = _Call(wanted, [(type(each).__name__, each) for each in objects], settings)
    call.given = {name: value for name, value in given.items() if value is not None}
    call.lasting = slow_cancel is None
    call.lasting_blocked = blocked is None
    call.notes = None if notes is None else settings.notes
    call.redact, call.lasting_redact = settings.redact, redact is None
    call.check()
    return _turn_on(call)


class _Call:
    """What one call asks for."""

    def __init__(
        self,
        names: tuple[str, ...],
        objects: list[tuple[str, Exporter]],
        settings: Settings,
        when_anew: Callable[[], None] | None = None,
    ) -> None:
        self.names = names
        self.objects = objects
        """Exporters, each with what messages on stderr call it."""
        self.settings = settings
        self.given: dict[str, object] = {}
        """What the call gave itself of `_OF_EXPORTERS`, as it was written."""
        self.lasting = True
        """Whether its `slow_cancel` is what holds where no call gave any."""
        self.lasting_blocked = True
        """The same of `blocked`."""
        self.notes: bool | None = None
        """What it gave itself."""
        self.redact: tuple[str, ...] | None = None
        """What is to be replaced, None where it leaves that as it is..."""
        self.lasting_redact = True
        """... and whether that is what holds where no call gave any."""
        self.when_anew = when_anew
        """What a session that begins for it is to call where asyncio is imported anew."""
        self.opened: dict[str, Exporter] = {}
        """Exporters that were made for it, by name."""
        asked = (*names, *(name for name, _ in objects))
        self.handle = Auditing(_release, _is_on, asked)
        """What it gives."""
        self.session: Session | None = None
        """What it was done with."""
        self.found: list[Held] = []
        """All that it wanted, as it is there."""
        # Where a relative path starts is decided now: the program may go elsewhere.
        if self.settings.folder is None:
            with suppress(OSError):  # the working directory was removed
                self.settings = settings._replace(folder=os.getcwd())  # noqa: PTH109 - pathlib is not cheap

    def check(self) -> None:
        """Make sure that something is there for each of the settings that were given.

        Raises:
            SettingsError: one of them is of an exporter that this call does not name.
        """
        for name, value in self.given.items():
            owner = _OF_EXPORTERS[name]
            if owner is not None and owner not in self.names:
                raise bad_value(
                    name, value, f"this call names no exporter {owner!r}", f"enable({owner!r}, ...)"
                )

    def _there(self, held: Iterable[Held], name: str) -> list[Held]:
        """Those of *held* that are called *name* and are as this call wants them.

        Another path is another exporter; otherwise two of one name would write all twice.

        Raises:
            SettingsError: they are others, and cannot be changed.
        """
        named = [each for each in held if is_sink(each) and each.what.name == name]
        wrong = [self._differs(each) for each in named]
        fitting = [each for each, other in zip(named, wrong, strict=True) if other is None]
        if fitting or not named:
            return fitting
        if all(other == "jsonl_path" for other in wrong):
            return []
        [first] = [other for other in wrong if other not in (None, "jsonl_path")][:1]
        assert first is not None
        raise bad_value(
            first,
            self.given[first],
            f"{name!r} is on already, with another value",
            "what it was turned on with, or none, or to end it first"
            + (", or another jsonl_path" if name == "jsonl" else ""),
        )

    def _differs(self, held: Held) -> str | None:
        """The setting that this call gave and that *held* has another value of; None without."""
        made, wanted, name = held.settings, self.settings, held.what.name
        others = "events" in self.given and held.events != wanted.events
        other = "events" if others else None
        if made is None:
            return other
        if "jsonl_path" in self.given and name == "jsonl" and _place(made) != _place(wanted):
            return "jsonl_path"
        for each, owner in _OF_EXPORTERS.items():
            if (
                each in self.given
                and each != "jsonl_path"
                and name == owner
                and getattr(made, each) != getattr(wanted, each)
            ):
                return each
        return other

    def open(self, *, leaving_out: bool = False) -> None:
        """Make the exporters of these names that are not there yet.

        *leaving_out* says that one that cannot be made is only told of.
        """
        # An import may wait for those of other threads, and those for whoever makes a change;
        # and what AIOAUDIT asks for begins with the first of these, and is to come first.
        for module in ("asyncio", *_NEEDED):
            import_module(module)
        session = _session
        present = () if session is None else tuple(session.wanted.holds.values())
        for name in self.names:
            if name != BRIDGE and not self._there(present, name):
                try:
                    self._exporter(name)
                except SettingsError as error:
                    if not leaving_out:
                        raise
                    say(f"{error}; the program runs on, unaudited by it")
                    self.names = tuple(each for each in self.names if each != name)

    def _exporter(self, name: str) -> Exporter:
        from aioaudit.loading import load_exporter

        if name not in self.opened:
            self.opened[name] = load_exporter(name, self.settings, self.given)
        return self.opened[name]

    def things(self, session: Session) -> list[Held]:
        """All that it wants; an exporter that is there already as it is there."""
        known = [held for held in session.wanted.holds.values() if is_sink(held)]
        found = [Held(_ALL, 0)]
        for name in self.names:
            if name == BRIDGE:
                found.append(Held(BRIDGE, 0))
                continue
            there = self._there(known, name)
            found += there[:1] or [self._new(session, self._exporter(name), name, self.settings)]
        for name, exporter in self.objects:
            there = [held for held in (*known, *found) if _is_of(held, exporter)]
            if there and self._differs(there[0]) == "events":
                raise bad_value(
                    "events",
                    self.given["events"],
                    f"this {name} is on already, with others",
                    "what it was turned on with, or none",
                )
            found += there[:1] or [self._new(session, exporter, name)]
        return found

    def _new(
        self, session: Session, exporter: Exporter, name: str, settings: Settings | None = None
    ) -> Held:
        events = self.settings.events
        return Held(session.journal(exporter, name, events), 0, events, settings)

    def recorded(self) -> tuple[Journal, State]:
        """Where the last of its exporters gets events from, and what is known there."""
        assert self.session is not None
        return self.found[-1].what, self.session.recorder.state

    def close(self) -> None:
        """Close what was made for it and is not needed."""
        used = () if _session is None else {id(journal.exporter) for journal, _ in _session.sinks}
        while self.opened:
            _, exporter = self.opened.popitem()
            if id(exporter) not in used:
                with suppress(Exception):  # it took no event, and there is another error to tell
                    exporter.shutdown()


def _turn_on(call: _Call, *, leaving_out: bool = False) -> Auditing:
    """Do what *call* asks for; Ctrl-C, or any error, leaves things as they were."""
    handle = call.handle
    try:
        call.open(leaving_out=leaving_out)
        if changes.make(partial(_add, call), partial(_add_later, call)):
            call.close()
            _wait()
        return handle
    except BaseException:
        try:
            _end(partial(_take_back, handle))
        finally:
            call.close()
        raise


def _add(call: _Call) -> None:
    global _unsettled
    handle = call.handle
    if _unsettled:
        changes.surely(_settle)
    _unsettled = True
    session = _begin(call.when_anew)
    call.session = session
    call.found = things = call.things(session)
    wanted, holds = session.wanted.with_one_more(things)
    slow, blocked = wanted.slow_cancel, wanted.blocked
    heard, notes, redact = wanted.bus_events, wanted.notes, wanted.redact
    if call.lasting:
        slow = slow.without_any(call.settings.slow_cancel)
    else:
        slow = slow.given(handle, call.settings.slow_cancel)
    if call.lasting_blocked:
        blocked = blocked.without_any(call.settings.blocked)
    else:
        blocked = blocked.given(handle, call.settings.blocked)
    if call.redact is not None:
        if call.lasting_redact:
            redact = redact.without_any(call.redact)
        else:
            redact = redact.given(handle, call.redact)
    if not any(map(is_sink, things)):
        heard = heard.given(handle, call.settings.events)
    if call.notes is not None:
        notes = notes.given(handle, call.notes)
    elif call.settings.notes:  # a call that knows nothing of them does not end them
        notes = notes.without_any(True)
    wanted = replace(
        wanted,
        slow_cancel=slow,
        blocked=blocked,
        bus_events=heard,
        notes=notes,
        redact=redact,
    )
    # In one line, where nothing comes between: signals' handlers run where a call is over.
    session.wanted, handle.holds = wanted, holds
    session.apply()
    _unsettled = False


def _add_later(call: _Call) -> None:
    """The same, asked for in the middle of another change, where nobody can hear of an error."""
    try:
        if not call.handle.ended:
            _add(call)
    except BaseException as error:
        changes.surely(partial(_take_back, call.handle))
        if not isinstance(error, Exception):
            raise
        say(f"auditing was not turned on from within another call: {describe(error)}")
    finally:
        call.close()


def _begin(when_anew: Callable[[], None] | None = None) -> Session:
    """The session, begun where there is none."""
    global _session
    session = _session
    if session is None:
        session = Session(when_anew)
        _leaving.append(session)  # until it is begun
        session.begin()
        _session = aioaudit._answers = session
        _leaving.remove(session)
    return session


def _is_on(handle: Auditing) -> bool:
    """Whether something of what *handle* turned on is on still."""
    session = _session
    return session is not None and any(hold in session.wanted.holds for hold in handle.holds)


def _release(handle: Auditing) -> None:
    """End what is held by *handle* alone; for `Auditing.disable`."""
    handle.ended = True
    _end(partial(_take_back, handle))


def _take_back(handle: Auditing) -> None:
    """*handle* wants nothing any more; to do it again does what is left."""
    session = _session
    if session is not None:
        # As in `_add`.
        session.wanted, handle.holds = session.wanted.without(handle), ()
        if not session.wanted.holds:
            _leave(session)
    _settle()


def _leave(session: Session) -> None:
    global _session
    if session not in _leaving:
        _leaving.append(session)
    _session = None


def _leave_all() -> None:
    if _session is not None:
        _leave(_session)
    _settle()


def _settle() -> None:
    """Make what is in place follow what is wanted; to do it again does what is left."""
    global _unsettled
    _unsettled = True
    aioaudit._answers = _session
    while _leaving:
        session = _leaving[-1]
        if session is not _session:
            session.end()
        _leaving.remove(session)
    if _session is not None:
        _session.apply()
    _unsettled = False


def _end(change: Callable[[], None]) -> None:
    """Make *change*, which ends something, and wait for the exporters that it closes.

    What interrupts it is raised once it is made.
    """
    try:
        if changes.surely(partial(changes.make, change, partial(changes.surely, change))):
            _wait()
    except BaseException:
        # Nobody waits, but for the end of the process, which may be near.
        closed = None if changes.under_way() else _closed.pop(get_ident(), None)
        if closed:
            atexit.register(shutdown_all, closed)
        raise


def _wait() -> None:
    """Wait for the exporters that this thread has closed.

    Not in the middle of a change: others need not wait for them, and one that makes a change
    itself would wait for us, and we for it.
    """
    closed = _closed.get(get_ident())
    if closed:
        shutdown_all(closed)
        _closed.pop(get_ident(), None)  # a handler that came meanwhile may have waited, too


def enable_from_settings(
    settings: Settings, when_asyncio_is_anew: Callable[[], None] | None = None
) -> None:
    """Turn auditing on as the environment asked; an exporter that fails is left out, and said."""
    # Nobody lets go of these but `disable`.
    call = _Call(settings.exporters, [], settings, when_anew=when_asyncio_is_anew)
    call.redact = settings.redact
    _turn_on(call, leaving_out=True)


def disable() -> None:
    """Turn auditing off, whoever turned it on: everything is as before, exporters are closed.

    Waits for the exporters, 3 seconds at most.  Does nothing where it is off.  Hooks stay
    registered and hear nothing.  Where a signal's handler, a hook or a finalizer calls it in the
    middle of another call that turns auditing on or off, it is done at the end of that one.
    """
    _end(_leave_all)


def attach(exporter: Exporter, name: str, events: frozenset[str]) -> Callable[[], None]:
    """Add *exporter* for *events*; returns what takes it out again.

    Auditing is turned on where it is off, and off again with the last exporter.
    """
    return _turn_on(_Call((), [(name, exporter)], Settings(events=events))).disable


def dump(path: str | os.PathLike[str] | None = None, *, timeout: float = 10.0) -> str:
    """Write what the recorder keeps to a file, as an ordinary log.

    All that had happened before the call is in it.  The file has mode 0600; one that is there
    is replaced, and nobody sees half of it.

    Args:
        path: Where to; without it a name with the time and the number of the process, in the
            folder where auditing began.
        timeout: Seconds to wait for it.

    Returns:
        Where it is.

    Raises:
        DumpError: no exporter ``recorder`` is on, or it did not write it in time.
        OSError: the file cannot be written.
    """
    wanted = Dump(None if path is None else os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - pathlib takes its time to import
    session = _session
    for journal, _ in () if session is None else session.sinks:
        exporter: object = journal.exporter
        if is_dumper(exporter):
            exporter.ask(wanted)
            journal.open_now()
            journal.flush(timeout)
            if wanted.error is not None:
                raise wanted.error
            if wanted.written is None:
                wanted.given_up = True
                raise DumpError(f"the recorder wrote no dump within {timeout:g} s")
            return wanted.written
    raise DumpError("no recorder is on: AIOAUDIT=recorder, or aioaudit.enable('recorder')")


@contextmanager
def recording() -> Generator[Trail, None, None]:
    """Record events in memory for the length of a ``with`` block.

    Gives a `Trail`: ``trail.events`` and ``trail.why(task_or_exception)``.  Turns
    auditing on if it is off, and off again at the end if it was.

    Raises:
        RuntimeError: a signal's handler calls it in the middle of another call that
            turns auditing on or off.
    """
    from aioaudit.exporters.memory import MemoryExporter
    from aioaudit.trail import Trail

    if changes.under_way():
        raise RuntimeError(
            "recording() cannot begin in the middle of a call that turns auditing on or off:"
            " a signal's handler, a hook or a finalizer has interrupted one"
        )
    exporter = MemoryExporter()
    call = _Call((), [("recording()", exporter)], Settings())
    try:
        try:
            # No loop in here: one that jumps back on a condition does so outside of the `try`
            # around it, and looks for signals there (Python/flowgraph.c, `normalize_jumps`).
            _turn_on(call)
            trail = Trail(exporter, *call.recorded(), runs=lambda: not call.handle.ended)
            yield trail
        finally:
            call.handle.disable()
    except BaseException:
        call.handle.disable()  # Ctrl-C, perhaps before the other one had begun
        raise


def _warn_reimported() -> None:
    say(
        "asyncio was dropped from sys.modules and imported anew; "
        "what the new one does is not audited"
    )


def _bus_changed() -> None:
    changes.make(_settle)


bus.on_change(_bus_changed)


def audit(event: str, *args: Any) -> None:
    """Raise *event* on the hook bus; a typed event also goes to the exporters.

    While auditing is on, a typed event (one of the classes of `aioaudit.events`, as
    ``args[0]``) gets time, number, run, process, thread and loop of this call: what it says
    of these itself is replaced, since numbers rise in a log.

    Raises:
        TypeError: the typed event is one that frames a log (``process.*``), which only
            exporters make.
        BaseException: what a hook raises; the event is not told then.
    """
    session = _session
    if session is None or not args or not session.is_event(args[0]):
        bus.audit(event, *args)
        return
    told = session.stamp(args[0])
    try:
        bus.audit(event, told, *args[1:])
    except BaseException:
        if told.seq:
            session.recorder.sender.sinks.skip(told.seq)
        raise
    session.recorder.sender.export(told)
