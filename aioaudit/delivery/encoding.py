"""Events as lines of JSON, those of the two frequent records by the shortest way there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast, overload

import msgspec

from aioaudit.delivery.records import Created, CreationSite, Pieces, Record, Returned, event_of
from aioaudit.events import Event, TaskCreate, TaskDone, defaults_of
from aioaudit.identity import MILLISECOND, TAILS, timestamp
from aioaudit.text import LIMIT, clean

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines


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

    __slots__ = ("records",)

    def __init__(self, items: list[Record]) -> None:
        """Private."""
        self.records = items

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | slice) -> Event | Batch:
        if isinstance(index, slice):
            return Batch(self.records[index])
        return event_of(self.records[index])

    def __iter__(self) -> Iterator[Event]:
        return map(event_of, self.records)

    def __len__(self) -> int:
        return len(self.records)

    def encode(self) -> bytes:
        """The batch as whole lines."""
        return _encode_items(self.records)


def _line_of(event: type[Event], *given: str) -> Callable[..., Any]:
    """What encodes to the line of an *event*, made from what is *given*, in this order.

    The event itself is made with keywords, and that takes longer than to encode it.
    One of *given* may name several fields: what stands for them is one `_piece`.
    """
    fields = defaults_of(event)
    names = " ".join(given).split()
    if names != [name for name in fields if name in names]:
        raise ValueError(f"{given} are not fields of {event.__name__} in their order")
    first = [name.partition(" ")[0] for name in given]
    return msgspec.defstruct(
        event.__name__,
        [
            # What is the default is left out of a line, unless a function made the default.
            (name, Any, None)
            if fields[name] is None
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


def _pieces_of(site: CreationSite) -> Pieces:
    """What the lines about all tasks made at *site* have in common."""
    run, pid, thread, loop = site.place.fields
    coro, at, source = site.fields
    site.pieces = pieces = (
        _piece(run=run, pid=pid, thread=thread, loop=loop),
        _piece(coro=coro),
        _piece(at=at, source=source),
        _piece(coro=coro, outcome="returned"),
    )
    return pieces


def _encode_items(items: list[Record]) -> bytes:
    """Lines of *items*, those of the two frequent ones by the shortest way there is.

    Most of such a line is the same for all tasks of its `CreationSite`, and copied.
    """
    try:
        return _encode_lines(_lines_of(items))
    except UnicodeEncodeError:  # a lone surrogate in somebody's own event
        return b"".join(encode_event(event_of(item)) for item in items)


def _lines_of(items: list[Record]) -> list[Any]:
    lines: list[Any] = []
    append = lines.append
    create, done, created, returned, tails = _create_line, _done_line, Created, Returned, TAILS
    site: CreationSite | None = None
    place = coro = source = outcome = None
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
        if made.site is not site:
            site = made.site
            place, coro, source, outcome = site.pieces or _pieces_of(site)
        ns = item.ns
        into = ns - began
        if not 0 <= into < MILLISECOND:
            began, prefix = ns - ns % MILLISECOND, timestamp(ns)[:23]
            into = ns - began
        ts = prefix + tails[into // 1000]
        name = made.name_or_task
        if type(name) is not str or len(name) > LIMIT:
            name = clean(made.name)
        if of is created:
            append(create(ts, item.seq, place, made.task, name, coro, made.parent, source))
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
