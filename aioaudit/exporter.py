"""What an exporter is: the three verbs, and how it says that it is in trouble.

An exporter takes events somewhere: into a file, a logging library, a tracer.
It stands behind a queue and runs in a thread of its own (`aioaudit.delivery`),
so it may take its time and it may fail; neither is felt by the program.

Write one by giving a class these three methods, and register it under the
entry-point group ``aioaudit.exporters`` to make it available by name.  Of
help to know:

- The first event is the run's `ProcessStart`, the last, where the process ends
  in order, its `ProcessEnd`.  ``seq`` rises strictly from one to the next.
- All three methods are called from one thread, never two at a time.
- What an exporter does with asyncio in that thread, to loops of that thread, is not recorded.
- In a forked child the same object is used on, from a new thread and for a new
  run.  One that holds locks, threads or connections compares `os.getpid`.

What is exported comes as a `Batch`: a sequence of typed events, and on request of
`Record`s.  That a task was made (`Created`) and that one returned (`Returned`) is most of
what happens, and a typed event of it is made when somebody looks at it.  Who only counts
them, or leaves most of them aside, looks at the records instead (`records_of`), and has
an event made of one where it needs it (`event_of`).

Two things are optional.  What can only be known where and while an event
happens, the values of context variables above all, a method ``witness`` takes
down (see `Witness`), and `ContextNotes` brings it to the exporter's thread.  What has
threads of its own ends them in a method ``before_fork``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

from aioaudit.core import Created, Returned
from aioaudit.delivery.encoding import Batch, encode_events
from aioaudit.delivery.records import (
    PLAIN_REQUEST,
    Record,
    event_name,
    event_of,
    run_of,
    seen_as,
    seq_of,
)
from aioaudit.errors import AioauditError
from aioaudit.events import Event, ProcessStart

__all__ = [
    "Batch",
    "ContextNotes",
    "Created",
    "Exporter",
    "ExporterError",
    "NotTakenError",
    "Record",
    "Returned",
    "Witness",
    "encode_events",
    "event_name",
    "event_of",
    "records_of",
]

Note = TypeVar("Note")

MOST_NOTES = 100_000
"""At most this many notes wait for their events: as many as events wait for an exporter."""


class ExporterError(AioauditError):
    """The exporter cannot work and will not recover: it is taken out of service.

    The text is shown to the user as it is, on one line of stderr; it names what
    is at fault and says what would be right.  Any other exception has the same
    effect, with its class name before its text.
    """


class NotTakenError(AioauditError):
    """The exporter cannot take events just now, but may well again: a full disk.

    It stays in service.  The first *taken* events of the batch were taken; the
    others are offered again, together with what came meanwhile, until they are
    taken or the process ends.  The text is shown once for each burst of trouble.

    Raises:
        TypeError: *taken* is no number of events; *text* is looked at when it is shown.
    """

    def __init__(self, text: str, taken: int = 0) -> None:
        super().__init__(text)
        if not isinstance(taken, int):  # pyright: ignore[reportUnnecessaryIsInstance] - callers need not be typed
            raise TypeError(f"NotTakenError: taken is a number of events, not {taken!r}")
        self.taken = taken


@runtime_checkable
class Exporter(Protocol):
    """Takes events somewhere."""

    def export(self, events: Sequence[Event]) -> None:
        """Take *events*, in order.

        The sequence makes its events typed one by one as they are looked at;
        it may be kept.  Raises `NotTakenError` for trouble that passes; any other
        exception takes the exporter out of service.
        """

    def flush(self) -> None:
        """Bring what was taken to where it belongs before returning."""

    def shutdown(self) -> None:
        """Release everything.  Called once, at the end, also after a failure."""


@runtime_checkable
class Witness(Exporter, Protocol):
    """An exporter that is also called where an event happens."""

    def witness(self, record: Record) -> None:
        """See *record* happen: in the thread and the context of the event, before it is queued.

        `event_name` tells what the event is called.  A task's name may not be known yet.
        Events that were filtered out are not witnessed.

        The program waits for this, at every task that it makes: it must be done
        in some hundred nanoseconds, take no lock and leave asyncio alone.  If it
        raises, the exporter is taken out of service; the program notices nothing.
        """


def records_of(events: Sequence[Event]) -> Sequence[Record]:
    """*events* as records, so that none need be made typed: `Created`, `Returned`, or the event."""
    if not isinstance(events, Batch):
        return events
    if PLAIN_REQUEST.isdisjoint(map(type, events.records)):
        return events.records
    return [seen_as(each) for each in events.records]


class ContextNotes(Generic[Note]):
    """What was noted of events where they happened, until they come to the exporter.

    `keep` is for ``witness``; all else for the exporter's own thread.  Memory is
    bounded, and what was noted of events that were lost is let go.

    Args:
        most: How many notes may wait; the oldest make room for more.
    """

    def __init__(self, most: int = MOST_NOTES) -> None:
        self._most = most
        self._seen: deque[tuple[Record, Note]] = deque(maxlen=most)
        self._waiting: dict[int, Note] = {}
        self._run = ""

    def keep(self, record: Record, note: Note) -> None:
        """Keep *note* until the event that *record* is or will be is taken."""
        self._seen.append((record, note))

    def collect(self, events: Sequence[Event]) -> None:
        """To be called with each batch before its events are taken."""
        if not events:
            return
        first = events[0]
        waiting = self._waiting
        if isinstance(first, ProcessStart):
            self._run = first.run
            waiting.clear()  # what another run left behind
        elif waiting:
            # Numbers rise: what is lower was noted of events that were lost or left aside.
            upto = first.seq
            if next(iter(waiting)) < upto or len(waiting) > self._most:
                for seq in [seq for seq in waiting if seq < upto]:
                    del waiting[seq]
        for _ in range(len(self._seen)):
            record, note = self._seen.popleft()
            if run_of(record) == self._run:
                waiting[seq_of(record)] = note

    def take(self, seq: int) -> Note | None:
        """What was noted of the event whose ``seq`` is *seq*, None where nothing was; once only."""
        return self._waiting.pop(seq, None) if self._waiting else None

    def close(self) -> None:
        """Keep nothing any more."""
        self._seen = deque(maxlen=0)
        self._waiting.clear()
