"""What a span is here: facts in numbers that OTLP can hold, made without OpenTelemetry."""

from __future__ import annotations

from hashlib import blake2b
from math import isfinite
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import msgspec

from aioaudit.events import FutureCancel, TaskCancel

_LEAST, _MOST = -(2**63), 2**63 - 1
_HEXADECIMAL = frozenset("0123456789abcdef")

Value: TypeAlias = "str | bool | int | float | list[str] | list[int]"


class Outside(Protocol):
    """A span of the application, as far as it is looked at here."""

    @property
    def trace_id(self) -> int:
        """Its trace."""
        ...

    @property
    def span_id(self) -> int:
        """Its id."""
        ...


class Told(NamedTuple):
    """The same, as a line tells it."""

    trace_id: int
    span_id: int
    sampled: bool


def span_of(event: TaskCancel | FutureCancel) -> Told | None:
    """The application's span that was current in the task that *event* asks; None where none was.

    What a log holds may be anything: also None where the ids are none.
    """
    if event.trace_id is None or event.span_id is None:
        return None
    trace_id, span_id = _number(event.trace_id, 32), _number(event.span_id, 16)
    return Told(trace_id, span_id, event.trace_sampled) if trace_id and span_id else None


def caller_of(event: TaskCancel | FutureCancel) -> int:
    """The id of the span of another process that sent what *event* ends; 0 where it is not known."""
    return 0 if event.parent_span_id is None else _number(event.parent_span_id, 16)


def _number(text: str, digits: int) -> int:
    """What *text* says in hexadecimal *digits*, 0 where it is nothing of the kind."""
    if len(text) != digits or not _HEXADECIMAL.issuperset(text):
        return 0
    return int(text, 16)


class Trace(msgspec.Struct, eq=False):
    """One trace: the task that began it (a request, if negative), how many were made in it.

    ``outside`` is the application's span above it; ``sampled`` is what the sampler
    said, None until somebody asked it.
    """

    run: str
    number: int
    outside: Outside | None = None
    tasks: int = 0
    sampled: Any = None
    known: int = 0

    @property
    def id(self) -> int:
        """Its id, made when it is needed: most traces are never told of."""
        if self.outside is not None:
            return self.outside.trace_id
        if not self.known:
            self.known = id_of(f"{self.run} trace {self.number}", 16)
        return self.known


class SpanLink(NamedTuple):
    """A link to a span, and of which kind."""

    trace: Trace
    span_id: int
    kind: str


class SpanFacts(NamedTuple):
    """A finished span.  Times are nanoseconds since the epoch; *error* is a status."""

    name: str
    trace: Trace
    span_id: int
    parent: int | None
    start: int
    end: int
    attributes: dict[str, Value]
    links: list[SpanLink]
    error: str | None


def held(value: Value) -> Value:
    """*value* as OTLP can hold it: what is no 64-bit integer, or no number, becomes text."""
    if type(value) is str:
        return value
    if isinstance(value, list):
        if value and type(value[0]) is str:  # then all are
            return value
        told = [held(each) for each in value]
        same = all(type(now) is type(was) for now, was in zip(told, value, strict=True))
        return cast(Value, told if same else [str(each) for each in told])
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        return str(value)
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value


def id_of(text: str, size: int) -> int:
    """An id that is the same for the same *text*, and never zero."""
    return int.from_bytes(blake2b(text.encode(), digest_size=size).digest()) or 1
