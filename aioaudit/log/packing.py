"""Events in few bytes: of a million cancelled tasks, most say the same of what happened to them.

What events of one kind have in common, as the lines and functions that took part, is kept once, as
a shape; what is an event's own, as its time and the task's name, in some bytes.  An event is made
anew each time that it is asked for: two that are equal need not be the same object.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, MutableMapping
from itertools import compress
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

import msgspec

from aioaudit.events import Event, FutureCancel, TaskCancel, TaskDone, TaskUncancel

MOST_SHAPES = 20_000
"""Of more kinds of events that differ otherwise than in what is their own, each is kept as it is."""

LONGEST = 1_000
"""Bytes that are unpacked again and again; a longer event, of many waiters, is kept as it is."""

MOST_NEAR = 16
"""Events that are at hand, since whoever asked for one asks for it again."""

_OWN = frozenset(
    (
        *("ts", "seq", "pid", "task", "name", "by", "by_name", "cause", "cancel", "behind"),
        *("waiters", "waiter_names", "lifetime", "remaining", "message", "detail", "error"),
        *("origin_task", "origin_name", "origin_by_name", "origin_error", "origin_seconds"),
        *("origin_message", "origin_detail", "trace_id", "span_id", "parent_span_id"),
        *("local", "peer"),
    )
)
"""Fields in which events differ from each other.  A float has to be one: 0.0 and -0.0 are equal."""

E = TypeVar("E", bound=Event)

Kept: TypeAlias = "bytes | E"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode


class _Fields(NamedTuple):
    """The names of an event's own fields, and how these and the others are got from it."""

    names: tuple[str, ...]
    own: Callable[[Event], tuple[Any, ...]]
    others: Callable[[Event], tuple[Any, ...]]


def _fields_of(kind: type[Event]) -> _Fields:
    own = [name for name in kind.__struct_fields__ if name in _OWN]
    # The run is told by who keeps the event.
    others = [name for name in kind.__struct_fields__ if name not in _OWN and name != "run"]
    return _Fields(tuple(own), attrgetter(*own), attrgetter(*others))


_FIELDS: dict[type[Event], _Fields] = {
    kind: _fields_of(kind) for kind in (TaskCancel, FutureCancel, TaskDone, TaskUncancel)
}


class _Shape(NamedTuple):
    """An event without what is its own (``names``), and what was told beside it and is of many."""

    model: Any
    names: tuple[str, ...]
    beside: tuple[Any, ...]


class Shapes:
    """What the events of a log have in common."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._all: list[_Shape] = []

    def pack(self, event: E, beside: tuple[Any, ...] = (), own: tuple[Any, ...] = ()) -> Kept[E]:
        """*event* in few bytes, or itself where that cannot be.

        *beside* and *own* are told with it: what is the same of many events, and what is not.
        """
        fields = _FIELDS[type(event)]
        values = fields.own(event)
        told = tuple([value is not None for value in values])
        key = (type(event), told, beside, fields.others(event))
        number = self._numbers.get(key)
        if number is None:
            if len(self._all) >= MOST_SHAPES:
                return event
            number = self._numbers[key] = len(self._all)
            names = tuple(compress(fields.names, told))
            self._all.append(_Shape(_emptied(event, names), names, beside))
        try:
            packed = _encode((number, *compress(values, told), *own))
        except OverflowError:  # a number of 65 bits, of a log that was tampered with
            return event
        return packed if len(packed) <= LONGEST else event

    def unpack(self, kept: Kept[E], run: str) -> E:
        """The event of this *run* that was packed."""
        if not isinstance(kept, bytes):
            return kept
        row = _decode(kept)
        shape = self._all[row[0]]
        event = shape.model.__copy__()
        event.run = run
        for name, value in zip(shape.names, row[1:], strict=False):
            setattr(event, name, value)
        return cast(E, event)

    def told_with(self, kept: Kept[E]) -> tuple[Any, ...]:
        """What was told with an event: all of its ``own``, and then ``beside``."""
        if not isinstance(kept, bytes):
            return ()
        row = _decode(kept)
        shape = self._all[row[0]]
        return (*row[1 + len(shape.names) :], *shape.beside)


def _emptied(event: Event, names: tuple[str, ...]) -> Event:
    """A copy of *event* without what is its own."""
    model = copy.copy(event)
    for name in ("run", *names):
        setattr(model, name, None)
    return model


class Packed(MutableMapping[int, E], Generic[E]):
    """Events of a *run* by number, packed."""

    def __init__(self, shapes: Shapes, run: str) -> None:
        self._shapes = shapes
        self._run = run
        self._kept: dict[int, Kept[E]] = {}
        self._near: dict[int, E] = {}

    def __getitem__(self, number: int) -> E:
        event = self._near.get(number)
        if event is None:
            event = self._shapes.unpack(self._kept[number], self._run)
            if len(self._near) >= MOST_NEAR:
                self._near.clear()
            self._near[number] = event
        return event

    def __setitem__(self, number: int, event: E) -> None:
        self.put(number, event)

    def put(
        self, number: int, event: E, beside: tuple[Any, ...] = (), own: tuple[Any, ...] = ()
    ) -> bool:
        """Keep *event*, and what is told with it; false where there was no room for that."""
        self._near.pop(number, None)
        kept = self._kept[number] = self._shapes.pack(event, beside, own)
        return isinstance(kept, bytes)

    def told_with(self, number: int) -> tuple[Any, ...]:
        """What was told with an event, as `Shapes.told_with` has it; nothing where there is none."""
        kept = self._kept.get(number)
        return () if kept is None else self._shapes.told_with(kept)

    def __delitem__(self, number: int) -> None:
        self._near.pop(number, None)
        del self._kept[number]

    def __contains__(self, number: object) -> bool:
        return number in self._kept

    def __iter__(self) -> Iterator[int]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)
