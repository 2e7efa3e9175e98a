"""Events as lines of JSON, those of the two frequent records by the shortest way there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from aioaudit.core import encode_event, lines
from aioaudit.delivery.records import Record, event_of
from aioaudit.events import Event

__all__ = ["Batch", "encode_event", "encode_events"]


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
        return lines(self.records)


def encode_events(events: Iterable[Event]) -> bytes:
    """*events* as lines of JSON, whole ones, in one piece."""
    if isinstance(events, Batch):
        return events.encode()
    return b"".join(map(encode_event, events))
