"""Turning auditing on and off: one recorder, its probes, its exporters.

Everything that lasts longer than a call and belongs to the whole process is
here, behind one lock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

import aioaudit
from aioaudit import bus
from aioaudit.loading import BRIDGE
from aioaudit.settings import ALWAYS, EVENT_NAMES, Settings, SettingsError, build
from aioaudit.text import say
from aioaudit.threads import allocate_rlock

if TYPE_CHECKING:
    from aioaudit.chain.links import Answer
    from aioaudit.delivery.journal import Journal
    from aioaudit.events import Event, ProcessStart
    from aioaudit.exporter import Exporter
    from aioaudit.probes.install import Installation
    from aioaudit.recorder.recorder import Recorder
    from aioaudit.trail import Trail

_lock = allocate_rlock()
_session: Session | None = None


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
        self.temporary = False
        """Whether it is there for what was attached alone, and ends with the last of that."""
        self.undo_bridge: Any = None
        self.bus_events: frozenset[str] = frozenset(EVENT_NAMES)
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

    def remove(self, journal: Journal) -> None:
        """Close *journal* and take it away."""
        from aioaudit.delivery.journal import shutdown_all

        self.sinks = [sink for sink in self.sinks if sink[0] is not journal]
        self.apply()
        shutdown_all([journal])

    def apply(self) -> None:
        """Let the recorder and its probes know who listens to what."""
        wanted: frozenset[str] = frozenset()
        for _, events in self.sinks:
            wanted |= events
        if not self.sinks:
            wanted = self.bus_events
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
            except Exception as error:  # noqa: BLE001 - a fault of ours must not show at a fork
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
    jsonl_path: str | None = None,
) -> None:
    """Turn auditing on for this process; doing it again adds exporters.

    Args:
        exporters: Names as in ``AIOAUDIT`` (``"jsonl"``, ``"sys"``, ...), or
            objects with ``export``, ``flush`` and ``shutdown``.  Without any,
            those that ``AIOAUDIT`` names, else none: then only hooks hear
            events, and ``CancelledError.source`` and `why` answer.
        events: Names or patterns of the wanted events (default:
            ``AIOAUDIT_EVENTS``, else all).
        jsonl_path: Where ``"jsonl"`` writes (default: ``AIOAUDIT_JSONL_PATH``).

    An exporter that is already there under the same name is not added twice.
    May be called from any thread, before a loop exists or while it runs.

    Raises:
        aioaudit.settings.SettingsError: a name or pattern means nothing.
        aioaudit.cpython.inplace.UnsupportedError: this interpreter cannot be
            instrumented safely; nothing was changed.
    """
    import os

    names = [each for each in exporters if isinstance(each, str)]
    objects = [each for each in exporters if not isinstance(each, str)]
    environ = dict(os.environ)
    settings = build(names or None, events=events, jsonl_path=jsonl_path, environ=environ)
    from aioaudit.settings import is_off

    if not names and (objects or is_off(environ.get("AIOAUDIT"))):
        wanted: tuple[str, ...] = ()
    else:
        wanted = settings.exporters
    with _lock:
        _import_asyncio()
        opened = _open(wanted, settings)
        session = _begin()
        for name, exporter in opened:
            session.add(exporter, name, settings.events)
        for exporter in objects:
            if not any(journal.exporter is exporter for journal, _ in session.sinks):
                session.add(exporter, type(exporter).__name__, settings.events)
        session.recorder.rules.slow_after = settings.slow_cancel
        if not session.sinks:
            session.bus_events = settings.events
        if BRIDGE in wanted:
            _bridge(session)
        session.apply()


def enable_from_settings(
    settings: Settings, when_asyncio_is_anew: Callable[[], None] | None = None
) -> None:
    """Turn auditing on as the environment asked; an exporter that fails is left out, and said."""
    with _lock:
        session = _begin(when_asyncio_is_anew)
        session.recorder.rules.slow_after = settings.slow_cancel
        for name in settings.exporters:
            try:
                for own_name, exporter in _open((name,), settings):
                    session.add(exporter, own_name, settings.events)
            except SettingsError as error:
                say(f"{error}; the program runs on, unaudited by it")
        if not session.sinks:
            session.bus_events = settings.events
        if BRIDGE in settings.exporters:
            _bridge(session)
        session.apply()


def disable() -> None:
    """Turn auditing off: everything is as it was before, exporters are closed.

    Does nothing where it is off.  Hooks stay registered and hear nothing.
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
    session, journal, detach = _attach(exporter, "memory", frozenset(EVENT_NAMES))
    try:
        yield Trail(exporter, journal, session.recorder.state)
    finally:
        detach()


def _attach(
    exporter: Exporter, name: str, events: frozenset[str]
) -> tuple[Session, Journal, Callable[[], None]]:
    with _lock:
        session = _begin(temporary=True)
        journal = session.add(exporter, name, events)

    def detach() -> None:
        with _lock:
            if session is _session and any(each is journal for each, _ in session.sinks):
                session.remove(journal)
                if session.temporary and not session.sinks:
                    disable()

    return session, journal, detach


def _warn_reimported() -> None:
    say(
        "asyncio was dropped from sys.modules and imported anew; "
        "what the new one does is not audited"
    )


def _import_asyncio() -> None:
    """What ``AIOAUDIT`` asks for begins with this import, and not in the middle of a beginning."""
    from importlib import import_module

    import_module("asyncio")


def _begin(when_anew: Callable[[], None] | None = None, *, temporary: bool = False) -> Session:
    """The session, begun where there is none; *temporary* as in `Session.temporary`."""
    global _session
    _import_asyncio()
    if _session is None:
        session = Session(when_anew)
        session.temporary = temporary
        session.begin()
        _session = aioaudit._answers = session
    elif not temporary:
        _session.temporary = False
    return _session


def _open(names: Iterable[str], settings: Settings) -> list[tuple[str, Exporter]]:
    """The exporters of these names that are not there yet."""
    from aioaudit.loading import load_exporter

    present = set() if _session is None else {journal.name for journal, _ in _session.sinks}
    return [
        (name, load_exporter(name, settings))
        for name in names
        if name != BRIDGE and name not in present
    ]


def _bridge(session: Session) -> None:
    """Raise every event again as a real audit event, so that `sys.addaudithook` hears it."""
    if session.undo_bridge is not None:
        return

    def raise_again(event: str, args: tuple[Any, ...]) -> None:
        sys.audit(f"aioaudit.{event}", *args)

    session.undo_bridge = bus.addaudithook(raise_again)


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
