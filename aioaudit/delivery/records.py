"""What a probe puts into the queue: typed events, and records of the two that every task has.

That a task was made, and that it returned, is queued as a small struct of numbers and
references, and becomes a typed event only where somebody looks at it: making the typed
event costs the loop more than all the rest of the probe.  Everything else is queued
typed.  Whatever is queued has a ``seq``.

The structs are invisible to the garbage collector (``gc=False``): they refer to
nothing that refers back, and thousands of them in a queue must not make it run.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

from aioaudit.events import Event, TaskCreate, TaskDone, name_of
from aioaudit.identity import timestamp
from aioaudit.place import Place
from aioaudit.stack.code import APPLICATION
from aioaudit.text import clean
from aioaudit.threads import monotonic, sleep
from aioaudit.weak import dropping

if TYPE_CHECKING:
    from types import CodeType

    from aioaudit.stack.code import CodeInfo


_PATIENCE = 0.25  # seconds that the exporter's thread waits for a name...
_GLANCE = 0.001  # ... and between two looks for it

Pieces: TypeAlias = tuple[msgspec.Raw | None, ...]

SiteKey: TypeAlias = "tuple[CodeInfo | None, int, int, bool]"
"""Who makes tasks (code, offset, whether it calls the class itself), and the `id` of what they run."""


class CreationSite:
    """What all tasks have in common that one line, in one loop, makes to run one coroutine.

    ``coro`` names the coroutine and ``runs`` is the `id` of its code, None where it is
    not made of Python code, and ``runs_at`` that code's file and first line; ``code`` and
    ``offset`` (of the instruction) say who makes the tasks, None where nobody can be named.

    No code is kept: one that the program compiled as it ran may go.
    """

    __slots__ = (
        "_refs",
        "by_application",
        "code",
        "coro",
        "fields",
        "offset",
        "pieces",
        "place",
        "runs",
        "runs_at",
    )

    def __init__(
        self, place: Place, coro: str, runs: CodeType | None, code: CodeInfo | None, offset: int
    ) -> None:
        self.place = place
        self.coro = coro
        self.runs = None if runs is None else id(runs)
        self.runs_at = None if runs is None else (runs.co_filename, runs.co_firstlineno)
        self._refs: list[object] = []
        self.code = code
        self.offset = offset
        self.by_application = code is not None and code.owner == APPLICATION
        at, source = (None, None) if code is None else (code.at(offset), code.source)
        self.fields = coro, at, source
        """What the lines say of it: ``coro``, ``at``, ``source``."""
        self.pieces: Pieces | None = None
        """The same as parts of lines, once there was a line."""

    def drop_with(self, code: CodeType, table: dict[Any, Any], key: object) -> None:
        """Be taken out of *table*, where it stands at *key*, when *code* goes."""
        self._refs.append(dropping(code, table, key))


class Created(msgspec.Struct, gc=False):
    """A task was made; at the same time all that is kept of a living task.

    Attributes:
        seq: Its place in the order of the run.
        task: The task's number.
        ns: When it was made, in nanoseconds since the epoch.
        name_or_task: The task's name, or the task itself while it runs inside its own
            making, where asyncio has named it but nobody was told yet: see `name`.
        parent: The number of the task that made it.
        site: What it has in common with others; the recorder's own.
    """

    seq: int
    task: int
    ns: int
    site: CreationSite
    name_or_task: Any
    parent: int | None

    @property
    def name(self) -> str:
        """The task's name.

        It may change until the line is written (``set_name`` after the construction is
        how factories give names up to 3.13.0).
        """
        name = self.name_or_task
        return name if type(name) is str else _name_of_new(name)

    @name.setter
    def name(self, name: str) -> None:
        self.name_or_task = name

    @property
    def place(self) -> Place:
        """Where it was made; the recorder's own."""
        return self.site.place

    @property
    def coro(self) -> str:
        """``module:qualname`` of what it runs."""
        return self.site.coro

    @property
    def runs_at(self) -> tuple[str, int] | None:
        """File and first line of what it runs, where that is made of Python code."""
        return self.site.runs_at


def _name_of_new(task: Any) -> str:
    """The name of *task*, which another thread is making, and which may run already.

    An eager task is told before it runs, which is a few instructions before asyncio
    names it (``_asyncio_Task___init___impl`` in Modules/_asynciomodule.c).  Who asks
    in between, in the thread of an exporter, waits until the other thread is further.
    """
    from aioaudit.cpython.tasks import name_of  # who only reads a log needs no asyncio

    give_up: float | None = None
    while (name := name_of(task)) is None:
        now = monotonic()
        if give_up is None:
            give_up = now + _PATIENCE
        elif now > give_up:  # the ``__str__`` of what it is to be called hangs
            return "?"
        sleep(_GLANCE)
    return name


class Returned(msgspec.Struct, gc=False):
    """A task returned.

    Attributes:
        seq: Its place in the order of the run.
        ns: When it returned, in nanoseconds since the epoch.
        born: That it was made.
        key: Its `id` while it lived; the recorder's own.
    """

    seq: int
    ns: int
    born: Created
    key: int


Record: TypeAlias = "Event | Created | Returned"
"""What is queued, and what an exporter finds in a `Batch`."""


seq_of = attrgetter("seq")
"""The record's place in the order of the run."""


def run_of(record: Record) -> str:
    """The id of the run that the record belongs to."""
    if isinstance(record, Created):
        return record.site.place.run.id
    return record.born.site.place.run.id if isinstance(record, Returned) else record.run


def event_name(record: Record) -> str:
    """The name of the event that the record is or will be."""
    kind = type(record)
    if kind is Created:
        return "task.create"
    if kind is Returned:
        return "task.done"
    return name_of(cast(Event, record))


def lifetime(ns: int) -> float:
    """Seconds, to the microsecond; a clock that was set back makes no negative life."""
    return max(0, ns // 1000) / 1e6


def event_of(record: Record) -> Event:
    """The typed event of *record*."""
    kind = type(record)
    if kind is Created:
        made = cast(Created, record)
        coro, at, source = made.site.fields
        place = made.place
        return TaskCreate(
            ts=timestamp(made.ns),
            seq=made.seq,
            run=place.run.id,
            pid=place.run.pid,
            thread=place.thread,
            loop=place.loop,
            task=made.task,
            name=clean(made.name),
            coro=coro,
            parent=made.parent,
            at=at,
            source=source,
        )
    if kind is Returned:
        ended = cast(Returned, record)
        made = ended.born
        place = made.place
        return TaskDone(
            ts=timestamp(ended.ns),
            seq=ended.seq,
            run=place.run.id,
            pid=place.run.pid,
            thread=place.thread,
            loop=place.loop,
            task=made.task,
            name=clean(made.name),
            coro=made.coro,
            outcome="returned",
            lifetime=lifetime(ended.ns - made.ns),
        )
    return cast(Event, record)
