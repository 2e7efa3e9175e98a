"""What a probe puts into the queue: typed events, and records of the two that every task has.

That a task was made, and that it returned, is queued as a small object of numbers and
references (`aioaudit.core`), and becomes a typed event only where somebody looks at it.
Everything else is queued typed.  Whatever is queued has a ``seq``.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from aioaudit.core import Asked, Created, Obeyed, Returned, Site, Table, TakenBack
from aioaudit.events import Event, TaskCancel, TaskCreate, TaskDone, TaskUncancel, name_of
from aioaudit.place import Place
from aioaudit.stack.code import APPLICATION
from aioaudit.text import clean
from aioaudit.timestamps import timestamp
from aioaudit.weak import dropping

if TYPE_CHECKING:
    from types import CodeType

    from aioaudit.stack.code import CodeInfo


SiteKey: TypeAlias = "tuple[CodeInfo | None, int, int, bool]"
"""Who makes tasks (code, offset, whether it calls the class itself), and the `id` of what they run."""


class CreationSite(Site):
    """What all tasks have in common that one line, in one loop, makes to run one coroutine.

    ``coro`` names the coroutine and ``runs`` is the `id` of its code, None where it is
    not made of Python code, and ``runs_at`` that code's file and first line; ``code`` and
    ``offset`` (of the instruction) say who makes the tasks, None where nobody can be named.

    No code is kept: one that the program compiled as it ran may go.
    """

    __slots__ = ("_lasting", "_refs", "code", "coro", "fields", "key", "offset", "runs_at")

    def __init__(
        self,
        place: Place,
        coro: str,
        runs: CodeType | None,
        code: CodeInfo | None,
        offset: int,
        key: SiteKey | None = None,
    ) -> None:
        """*key* is by what it is known again, None where nothing tells it from others."""
        super().__init__(
            place,
            place.loop_id,
            None if runs is None else id(runs),
            by_application=code is not None and code.owner == APPLICATION,
        )
        self.coro = coro
        self.runs_at = None if runs is None else (runs.co_filename, runs.co_firstlineno)
        self._refs: list[object] = []
        self._lasting: list[object] = []
        self.key = key
        self.code = code
        self.offset = offset
        at, source = (None, None) if code is None else (code.at(offset), code.source)
        self.fields = coro, at, source
        """What the lines say of it: ``coro``, ``at``, ``source``."""

    def elsewhere(self, place: Place) -> CreationSite:
        """The same line, as it makes tasks in *place*."""
        other = CreationSite.__new__(CreationSite)
        Site.__init__(other, place, place.loop_id, self.runs, by_application=self.by_application)
        other.coro, other.runs_at, other.key = self.coro, self.runs_at, self.key
        other.code, other.offset, other.fields = self.code, self.offset, self.fields
        other._refs, other._lasting = [], self._lasting
        return other

    def is_like(self, other: CreationSite | None) -> bool:
        """Whether one of both came from the other by `elsewhere`.

        One that did goes out of its place's table with the place: its code may have gone before.
        """
        return other is not None and other._lasting is self._lasting

    def drop_with(
        self,
        code: CodeType,
        table: Table[Any] | dict[Any, Any],
        key: object,
        *,
        lasting: bool = False,
    ) -> None:
        """Be taken out of *table*, where it stands at *key*, when *code* goes.

        *lasting* says that what `elsewhere` gives may stand there after it, and is to go, too.
        """
        refs = self._lasting if lasting else self._refs
        refs.append(dropping(code, table, key))


Record: TypeAlias = "Event | Created | Returned | Asked | TakenBack | Obeyed"
"""What is queued, and what an exporter finds in a `Batch`."""


seq_of = attrgetter("seq")
"""The record's place in the order of the run."""


def run_of(record: Record) -> str:
    """The id of the run that the record belongs to."""
    if isinstance(record, Created):
        return cast(str, record.site.place.run.id)
    if isinstance(record, Returned | Asked | TakenBack | Obeyed):
        return cast(str, record.born.site.place.run.id)
    return record.run


def event_name(record: Record) -> str:
    """The name of the event that the record is or will be."""
    kind = type(record)
    if kind is Created:
        return "task.create"
    if kind is Returned or kind is Obeyed:
        return "task.done"
    if kind is Asked:
        return "task.cancel"
    if kind is TakenBack:
        return "task.uncancel"
    return name_of(cast(Event, record))


def lifetime(ns: int) -> float:
    """Seconds, to the microsecond; a clock that was set back makes no negative life."""
    return max(0, ns // 1000) / 1e6


def cancel_event(record: Asked) -> TaskCancel:
    """The typed event of a plain request."""
    event: TaskCancel = record.line[3].__copy__()
    event.ts = timestamp(record.ns)
    event.seq = record.seq
    if record.owner is None:
        event.by = record.by
        event.by_name = event.origin_by_name = clean(record.by_name)
    else:
        event.origin_detail = record.late
        event.taken_back = True
    event.task = record.born.task
    event.name = clean(record.name)
    event.coro = record.born.coro
    event.accepted = True
    event.suspended_at = record.wait[1]
    ids = _ids_of(record.wait)
    if ids is not None:
        event.trace_id, event.span_id, event.parent_span_id, event.span_kind = ids[:4]
        event.trace_sampled = ids[4]
    return event


def _ids_of(wait: Any) -> tuple[str, str, str | None, str | None, bool] | None:
    """In which trace the task was, as the `wait` of a plain request says it."""
    return wait[3] if len(wait) > 3 else None


PLAIN_REQUEST = frozenset((Asked, TakenBack, Obeyed))
"""The types of records that a core makes of a plain request."""


def seen_as(record: Record) -> Record:
    """What exporters that look at records know it as: the event, where it is a plain request's.

    Births and returns are by far the most, so those they are given as they are.
    """
    return event_of(record) if type(record) in PLAIN_REQUEST else record


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
    if kind is Asked:
        return cancel_event(cast(Asked, record))
    if kind is TakenBack:
        taken = cast(TakenBack, record)
        made = taken.born
        place = made.place
        return TaskUncancel(
            ts=timestamp(taken.ns),
            seq=taken.seq,
            run=place.run.id,
            pid=place.run.pid,
            thread=place.thread,
            loop=place.loop,
            task=made.task,
            name=clean(taken.name),
            coro=made.coro,
            remaining=0,
            cancel=taken.cancel,
            source=taken.left[3],
            at=taken.left[2],
        )
    if kind is Obeyed:
        obeyed = cast(Obeyed, record)
        ids = _ids_of(obeyed.wait)
        made = obeyed.born
        place = made.place
        return TaskDone(
            ts=timestamp(obeyed.ns),
            seq=obeyed.seq,
            run=place.run.id,
            pid=place.run.pid,
            thread=place.thread,
            loop=place.loop,
            task=made.task,
            name=clean(obeyed.name),
            coro=made.coro,
            outcome="returned" if obeyed.absorbed else "cancelled",
            cancel=obeyed.cancel,
            cancel_outcome="absorbed" if obeyed.absorbed else "obeyed",
            lifetime=lifetime(obeyed.ns - made.ns),
            trace_id=None if ids is None else ids[0],
            span_id=None if ids is None else ids[1],
        )
    return cast(Event, record)
