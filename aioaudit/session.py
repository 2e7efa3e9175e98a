"""Private. Turning auditing on and off: one recorder, its probes, its exporters.

Everything that lasts longer than a call and belongs to the whole process is
here, behind one lock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

import aioaudit
from aioaudit import bus
from aioaudit.auditing import Auditing, Hold, Setting
from aioaudit.loading import BRIDGE
from aioaudit.settings import (
    ALWAYS,
    DEFAULT_SLOW_CANCEL,
    EVENT_NAMES,
    VARIABLE,
    Settings,
    SettingsError,
    build,
    is_off,
)
from aioaudit.text import say
from aioaudit.threads import allocate_rlock

if TYPE_CHECKING:
    import os

    from aioaudit.chain.links import Answer
    from aioaudit.delivery.journal import Journal
    from aioaudit.events import Event, ProcessStart
    from aioaudit.exporter import Exporter
    from aioaudit.probes.install import Installation
    from aioaudit.recorder.recorder import Recorder
    from aioaudit.trail import Trail

_lock = allocate_rlock()
_session: Session | None = None

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
        self.sinks: list[tuple[Journal, frozenset[str]]] = []
        self._holds: dict[Hold, object] = {}
        """What is held: `_ALL` for auditing itself, a journal, or `BRIDGE`."""
        self.undo_bridge: Callable[[], None] | None = None
        self.bus_events: Setting[frozenset[str]] = Setting(frozenset(EVENT_NAMES))
        """What hooks hear where there is no exporter."""
        self.slow_cancel = Setting(DEFAULT_SLOW_CANCEL)
        self._start: ProcessStart | None = None
        self.installation: Installation = Installation(
            self.recorder, when_anew or _warn_reimported, stays=when_anew is not None
        )

    @property
    def start_event(self) -> ProcessStart:
        """The event that opens every log of this run."""
        if self._start is None:
            self._start = self.run.start_event(self.installation.coverage)
        return self._start

    def begin(self) -> None:
        """Listen to the ends and forks of the process and to changes of the bus."""
        from aioaudit import lifecycle
        from aioaudit.delivery.journal import shutdown_all
        from aioaudit.events import NAMES
        from aioaudit.trail import explain

        self._names = NAMES
        self._explain = explain
        self._shut_down = shutdown_all  # at the end nothing may have to be imported
        lifecycle.install(
            self._in_forked_child,
            self._at_exit,
            before_fork=self._before_fork,
            after_fork_in_parent=self._after_fork_in_parent,
        )
        bus.describe_with(self._describe_hook)
        self.apply()

    def end(self) -> None:
        """Take everything out and close the exporters."""
        from aioaudit import lifecycle
        from aioaudit.delivery.journal import shutdown_all

        self.installation.remove()
        bus.describe_with(None)
        if self.undo_bridge is not None:
            self.undo_bridge()
            self.undo_bridge = None
        lifecycle.uninstall()
        self._holds.clear()
        shutdown_all([journal for journal, _ in self.sinks])
        self.sinks.clear()

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

    def add(self, exporter: Exporter, name: str, events: frozenset[str]) -> Journal:
        """Put *exporter* behind the bus, for *events*."""
        from aioaudit.delivery.pipeline import Pipeline

        # What the recorder can see depends on what is wanted, and the log says so.
        recorder = self.recorder
        wanted = frozenset(events).union(*(wanted for _, wanted in self.sinks))
        recorder.sender.selected_events = wanted
        recorder.state.tasks.creations_seen = bool({"task.create", "task.done"} & wanted)
        journal = Pipeline(exporter, name=name, run=self.run, start=self.start_event)
        self.sinks.append((journal, events))
        self.apply()
        return journal

    def remove(self, journals: list[Journal]) -> None:
        """Close *journals* and take them away."""
        from aioaudit.delivery.journal import shutdown_all

        self.sinks = [sink for sink in self.sinks if sink[0] not in journals]
        self.apply()
        shutdown_all(journals)

    def hold(self, *wanted: object) -> list[Hold]:
        """One more call wants auditing itself, and each of what is *wanted*."""
        known = {id(what): hold for hold, what in self._holds.items()}
        found: list[Hold] = []
        for what in (_ALL, *wanted):
            hold = known.get(id(what)) or Hold()
            hold.count += 1
            self._holds[hold] = what
            found.append(hold)
        return found

    def let_go(self, holds: Iterable[Hold]) -> list[object]:
        """One call less wants these; what no other does is given back."""
        free: list[object] = []
        for hold in holds:
            hold.count -= 1
            if hold in self._holds and not hold.count:  # else it is of a session that is over
                free.append(self._holds.pop(hold))
        return free

    def apply(self) -> None:
        """Let the recorder and its probes know who listens to what."""
        wanted: frozenset[str] = frozenset()
        for _, events in self.sinks:
            wanted |= events
        if not self.sinks:
            wanted = self.bus_events.value
        self.recorder.rules.slow_after = self.slow_cancel.value
        sinks = [
            (
                _filtered(journal, events, wanted),
                journal.skip,
                journal.urge,
                journal.open_now,
            )
            for journal, events in self.sinks
        ]
        self.recorder.sender.connect(wanted, sinks)
        self.installation.refresh()

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
            if signal is None:
                self.recorder.catch_up_stopped_loops()
            self._shut_down([journal for journal, _ in self.sinks], signal=signal)
        finally:
            # What the interpreter still runs while it goes down (a loop's `__del__`, tasks
            # that are destroyed) must not come back to us: the modules that our probes
            # live on are taken apart by then.
            if signal is None:
                self.installation.stop()
                bus.close()

    def _before_fork(self) -> None:
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
        for journal, _ in self.sinks:
            journal.after_fork_in_parent()

    def _in_forked_child(self) -> None:
        global _lock
        _lock = allocate_rlock()  # another thread of the parent may have held it
        bus.after_fork()
        self.run = type(self.run)(forked_from=self.run)
        self._start = None
        self.recorder.after_fork(self.run)
        for journal, _ in self.sinks:
            journal.after_fork(self.run, self.start_event)
        self.apply()


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
    put = journal.put

    def put_witnessed(item: Any) -> None:
        nonlocal witness
        try:
            witness(item)
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
    otel_tasks: str | Iterable[str] | None = None,
    otel_status: str | None = None,
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
        otel_tasks: Which tasks ``"otel"`` makes spans of: ``touched``, ``all``, or
            patterns like ``shop.*:handle``, as a list or separated by commas.
        otel_status: When a cancelled task's span is an error: ``cause``, ``unset``
            or ``error``.

    What is left out comes from the variables of the environment (``docs/settings.md``),
    which are read anew at each call.

    An exporter that is already there under the same name is not added twice, and goes on as it
    is; it ends when no call wants it any more.  May be called from any thread, before a loop
    exists or while it runs.

    Returns:
        What this call turned on: a context manager that ends it, which need not be kept.

    Raises:
        SettingsError: a name, a pattern or another value means nothing.
        UnsupportedError: this interpreter cannot be instrumented safely.
        TypeError: an argument is of a type that no value of it has.

    Where it raises, auditing is as it was.
    """
    import os

    names = [each for each in exporters if isinstance(each, str)]
    objects = [each for each in exporters if not isinstance(each, str)]
    environ = dict(os.environ)
    settings = build(
        names or None,
        environ=environ,
        events=events,
        jsonl_path=jsonl_path,
        slow_cancel=slow_cancel,
        otel_tasks=otel_tasks,
        otel_status=otel_status,
    )
    if not names and (objects or is_off(environ.get(VARIABLE))):
        wanted: tuple[str, ...] = ()
    else:
        wanted = settings.exporters
    with _lock:
        _import_asyncio()
        with ExitStack() as undo:
            opened: list[tuple[str, Exporter]] = []
            for name, exporter in _open(wanted, settings):
                undo.callback(exporter.shutdown)
                opened.append((name, exporter))
            session = _begin()
            undo.pop_all()  # nothing raised
        for name, exporter in opened:
            session.add(exporter, name, settings.events)
        for exporter in objects:
            if not any(journal.exporter is exporter for journal, _ in session.sinks):
                session.add(exporter, type(exporter).__name__, settings.events)
        held = [
            journal
            for journal, _ in session.sinks
            if journal.name in wanted or any(journal.exporter is each for each in objects)
        ]
        bridge = _bridge(session, wanted)
        holds = session.hold(*held, *bridge)
        handle = Auditing(partial(_release, holds))
        if slow_cancel is None:
            session.slow_cancel.otherwise = settings.slow_cancel
        else:
            session.slow_cancel.give(handle, settings.slow_cancel)
        if not held:
            session.bus_events.give(handle, settings.events)
        session.apply()
        return handle


def _release(holds: list[Hold], handle: Auditing) -> None:
    """End what is held by *handle* alone; for `Auditing.disable`."""
    with _lock:
        mine, holds[:] = holds[:], []  # a second call finds none
        session = _session
        if session is None or not mine:
            return
        free = session.let_go(mine)
        if _ALL in free:
            disable()
            return
        session.slow_cancel.take_back(handle)
        session.bus_events.take_back(handle)
        if BRIDGE in free and session.undo_bridge is not None:
            session.undo_bridge()
            session.undo_bridge = None
        session.remove([journal for journal, _ in session.sinks if journal in free])


def enable_from_settings(
    settings: Settings, when_asyncio_is_anew: Callable[[], None] | None = None
) -> None:
    """Turn auditing on as the environment asked; an exporter that fails is left out, and said."""
    with _lock:
        session = _begin(when_asyncio_is_anew)
        session.slow_cancel.otherwise = settings.slow_cancel
        for name in settings.exporters:
            try:
                for own_name, exporter in _open((name,), settings):
                    session.add(exporter, own_name, settings.events)
            except SettingsError as error:
                say(f"{error}; the program runs on, unaudited by it")
        # Nobody lets go of these but `disable`.
        named = [journal for journal, _ in session.sinks if journal.name in settings.exporters]
        session.hold(*named, *_bridge(session, settings.exporters))
        if not session.sinks:
            session.bus_events.otherwise = settings.events
        session.apply()


def disable() -> None:
    """Turn auditing off, whoever turned it on: everything is as before, exporters are closed.

    Does nothing where it is off.  Hooks stay registered and hear nothing.

    Raises:
        BaseException: what an exporter's own ``shutdown`` lets out.
    """
    global _session
    with _lock:
        session, _session = _session, None
        aioaudit._answers = None
        if session is not None:
            session.end()


def attach(exporter: Exporter, name: str, events: frozenset[str]) -> Callable[[], None]:
    """Add *exporter* for *events*; returns what takes it out again.

    Auditing is turned on where it is off, and off again with the last exporter.
    """
    return _attach(exporter, name, events)[2]


@contextmanager
def recording() -> Generator[Trail, None, None]:
    """Record events in memory for the length of a ``with`` block.

    Gives a `Trail`: ``trail.events`` and ``trail.why(task_or_exception)``.  Turns
    auditing on if it is off, and off again at the end if it was.
    """
    from aioaudit.exporters.memory import MemoryExporter
    from aioaudit.trail import Trail

    exporter = MemoryExporter()
    session, journal, detach = _attach(exporter, "recording()", frozenset(EVENT_NAMES))
    try:
        yield Trail(exporter, journal, session.recorder.state)
    finally:
        detach()


def _attach(
    exporter: Exporter, name: str, events: frozenset[str]
) -> tuple[Session, Journal, Callable[[], None]]:
    with _lock:
        session = _begin()
        journal = session.add(exporter, name, events)
        handle = Auditing(partial(_release, session.hold(journal)))
    return session, journal, handle.disable


def _warn_reimported() -> None:
    say(
        "asyncio was dropped from sys.modules and imported anew; "
        "what the new one does is not audited"
    )


def _import_asyncio() -> None:
    """What ``AIOAUDIT`` asks for begins with this import, and not in the middle of a beginning."""
    from importlib import import_module

    import_module("asyncio")


def _begin(when_anew: Callable[[], None] | None = None) -> Session:
    """The session, begun where there is none."""
    global _session
    _import_asyncio()
    if _session is None:
        session = Session(when_anew)
        session.begin()
        _session = aioaudit._answers = session
    return _session


def _open(names: Iterable[str], settings: Settings) -> Iterator[tuple[str, Exporter]]:
    """The exporters of these names that are not there yet, made one after the other."""
    from aioaudit.loading import load_exporter

    present = set() if _session is None else {journal.name for journal, _ in _session.sinks}
    for name in names:
        if name != BRIDGE and name not in present:
            yield name, load_exporter(name, settings)


def _bridge(session: Session, names: Iterable[str]) -> list[str]:
    """Where one of *names* asks for it, raise every event again as a real audit event."""
    if BRIDGE not in names:
        return []
    if session.undo_bridge is None:

        def raise_again(event: str, args: tuple[Any, ...]) -> None:
            sys.audit(f"aioaudit.{event}", *args)

        session.undo_bridge = bus.addaudithook(raise_again)
    return [BRIDGE]


def _bus_changed() -> None:
    with _lock:
        if _session is not None:
            _session.apply()


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
