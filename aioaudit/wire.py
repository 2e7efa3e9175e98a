"""From what a probe puts into the queue to a typed event and to a line.

The two events that every task has (made, returned) are queued as small structs
of numbers and references and become typed events only where somebody looks at
them: making the typed event costs the loop more than all the rest of the probe.
Everything else is queued typed.  Whatever is queued has a ``seq``.

The structs are invisible to the garbage collector (``gc=False``): they refer to
nothing that refers back, and thousands of them in a queue must not make it run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import msgspec

from aioaudit.events import Event, TaskCreate, TaskDone, name_of
from aioaudit.identity import MILLISECOND, TAILS, timestamp
from aioaudit.place import Place
from aioaudit.stack.code import APPLICATION
from aioaudit.text import LIMIT, clean
from aioaudit.weak import dropping

if TYPE_CHECKING:
    from types import CodeType

    from aioaudit.stack.code import CodeInfo


_Pieces: TypeAlias = tuple[msgspec.Raw | None, ...]

KindKey: TypeAlias = "tuple[CodeInfo | None, int, int, bool]"
"""Who makes tasks (code, offset, whether it calls the class itself), and the `id` of what they run."""


class Kind:
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
        "named",
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
        self.by_application = code is not None and code.kind == APPLICATION
        at, source = (None, None) if code is None else (code.at(offset), code.source)
        self.named = coro, at, source
        """What the lines say of it: ``coro``, ``at``, ``source``."""
        self.pieces: _Pieces | None = None
        """The same as parts of lines, once there was a line."""

    def go_with(self, code: CodeType, table: dict[Any, Any], key: object) -> None:
        """Be taken out of *table*, where it stands at *key*, when *code* goes."""
        self._refs.append(dropping(code, table, key))


class Created(msgspec.Struct, gc=False):
    """A task was made; at the same time all that is kept of a living task.

    ``name`` may change until the line is written (``set_name`` after the
    construction is how factories give names up to 3.13.0).  ``task`` is the
    task's number, ``ns`` the time since the epoch, ``parent`` the number of the
    task that made it.
    """

    seq: int
    task: int
    ns: int
    kind: Kind
    name: str
    parent: int | None

    @property
    def place(self) -> Place:
        """Where it was made."""
        return self.kind.place

    @property
    def coro(self) -> str:
        """``module:qualname`` of what it runs."""
        return self.kind.coro


class Returned(msgspec.Struct, gc=False):
    """A task returned; ``key`` was its `id` while it lived."""

    seq: int
    ns: int
    born: Created
    key: int


Item: TypeAlias = "Event | Created | Returned"


_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines

seq_of = attrgetter("seq")
"""The item's place in the order of the run."""


def run_of(item: Item) -> str:
    """The id of the run that the item belongs to."""
    if isinstance(item, Created):
        return item.kind.place.run.id
    return item.born.kind.place.run.id if isinstance(item, Returned) else item.run


def item_name(item: Item) -> str:
    """The name of the event that the item is or will be."""
    kind = type(item)
    if kind is Created:
        return "task.create"
    if kind is Returned:
        return "task.done"
    return name_of(cast(Event, item))


def lifetime(ns: int) -> float:
    """Seconds, to the microsecond; a clock that was set back makes no negative life."""
    return max(0, ns // 1000) / 1e6


def typed(item: Item) -> Event:
    """The typed event of *item*."""
    kind = type(item)
    if kind is Created:
        made = cast(Created, item)
        coro, at, source = made.kind.named
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
        ended = cast(Returned, item)
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
    return cast(Event, item)


def encode_event(event: Event) -> bytes:
    """One whole line.  Text that is no valid UTF-8 is escaped, never refused."""
    try:
        return _encode(event) + b"\n"
    except UnicodeEncodeError:
        fields: dict[str, Any] = {
            field: _harmless(getattr(event, field)) for field in event.__struct_fields__
        }
        return _encode(type(event)(**fields)) + b"\n"


def _harmless(value: object) -> object:
    if isinstance(value, str):
        return clean(value, len(value))
    if isinstance(value, list):
        return [_harmless(each) for each in cast("list[object]", value)]
    return value


class Batch(Sequence[Event]):
    """Events in order, made typed one by one as somebody looks at them."""

    __slots__ = ("items",)

    def __init__(self, items: list[Item]) -> None:
        self.items = items

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | slice) -> Event | Batch:
        if isinstance(index, slice):
            return Batch(self.items[index])
        return typed(self.items[index])

    def __iter__(self) -> Iterator[Event]:
        return map(typed, self.items)

    def __len__(self) -> int:
        return len(self.items)

    def encode(self) -> bytes:
        """The batch as whole lines."""
        return _encode_items(self.items)


def _line_of(event: type[Event], *given: str) -> Callable[..., Any]:
    """What encodes to the line of an *event*, made from what is *given*, in this order.

    The event itself is made with keywords, and that takes longer than to encode it.
    One of *given* may name several fields: what stands for them is one `_piece`.
    """
    fields = {field.name: field for field in msgspec.structs.fields(event)}
    names = " ".join(given).split()
    if names != [name for name in fields if name in names]:
        raise ValueError(f"{given} are not fields of {event.__name__} in their order")
    first = [name.partition(" ")[0] for name in given]
    return msgspec.defstruct(
        event.__name__,
        [
            # What is the default is left out of a line, unless a function made the default.
            (name, Any, None)
            if fields[name].default is None
            else (name, Any, msgspec.field(default_factory=object))
            for name in first
        ],
        tag_field="event",
        tag=event.__struct_config__.tag,
        omit_defaults=True,
        gc=False,
    )


def _piece(**fields: object) -> msgspec.Raw | None:
    """Part of a line, encoded once for many lines: the *fields* that say something.

    Without the name of the first one: as its value all of them get into the line.
    """
    said = {name: value for name, value in fields.items() if value is not None}
    if not said:
        return None
    first = next(iter(said))
    return msgspec.Raw(_encode(said)[len(f'{{"{first}":') : -1])


_PLACE = "run pid thread loop"
_create_line = _line_of(
    TaskCreate, "ts", "seq", _PLACE, "task", "name", "coro", "parent", "at source"
)
_done_line = _line_of(TaskDone, "ts", "seq", _PLACE, "task", "name", "coro outcome", "lifetime")


def _pieces_of(kind: Kind) -> _Pieces:
    """What the lines about all tasks of a *kind* have in common."""
    run, pid, thread, loop = kind.place.named
    coro, at, source = kind.named
    kind.pieces = pieces = (
        _piece(run=run, pid=pid, thread=thread, loop=loop),
        _piece(coro=coro),
        _piece(at=at, source=source),
        _piece(coro=coro, outcome="returned"),
    )
    return pieces


def _encode_items(items: list[Item]) -> bytes:
    """Lines of *items*, those of the two frequent ones by the shortest way there is.

    Most of such a line is the same for all tasks of its `Kind`, and copied.
    """
    try:
        return _encode_lines(_lines_of(items))
    except UnicodeEncodeError:  # a lone surrogate in somebody's own event
        return b"".join(encode_event(typed(item)) for item in items)


def _lines_of(items: list[Item]) -> list[Any]:
    lines: list[Any] = []
    append = lines.append
    create, done, created, returned, tails = _create_line, _done_line, Created, Returned, TAILS
    kind: Kind | None = None
    place = coro = site = outcome = None
    began = 0  # the millisecond, and what its timestamps have in common
    prefix = ""
    made: Created
    for item in cast("list[Any]", items):
        of = type(item)
        if of is created:
            made = item
        elif of is returned:
            made = item.born
        else:
            append(item)
            continue
        if made.kind is not kind:
            kind = made.kind
            place, coro, site, outcome = kind.pieces or _pieces_of(kind)
        ns = item.ns
        into = ns - began
        if not 0 <= into < MILLISECOND:
            began, prefix = ns - ns % MILLISECOND, timestamp(ns)[:23]
            into = ns - began
        ts = prefix + tails[into // 1000]
        name = made.name
        if len(name) > LIMIT:
            name = clean(name)
        if of is created:
            append(create(ts, item.seq, place, made.task, name, coro, made.parent, site))
        else:
            lived = ns - made.ns
            lived = (lived // 1000 if lived > 0 else 0) / 1e6
            append(done(ts, item.seq, place, made.task, name, outcome, lived))
    return lines


def encode_events(events: Iterable[Event]) -> bytes:
    """*events* as lines of JSON, whole ones, in one piece."""
    if isinstance(events, Batch):
        return events.encode()
    return b"".join(map(encode_event, events))
