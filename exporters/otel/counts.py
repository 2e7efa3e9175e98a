"""How many tasks and cancellations there are: counted of events, told by instruments.

Events are counted in the exporter's thread, a whole batch at a time, and read
by OpenTelemetry when it collects: a task costs a fraction of a microsecond more.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from aioaudit.events import (
    ConnectionClose,
    Event,
    FutureCancel,
    LoopBlocked,
    LoopClose,
    LoopStart,
    LoopStop,
    ProcessDropped,
    ProcessEnd,
    ProcessStart,
    SignalSent,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.exporter import Created, Returned, records_of
from aioaudit.timestamps import nanoseconds
from aioaudit.version import __version__

MOST_DURATIONS = 10_000
"""Durations that wait for a provider."""

DURATION = "aioaudit.cancel.duration"

SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5)
"""Boundaries of the histogram: those of the conventions for durations, and finer ones before."""

_UNCOUNTED = frozenset(
    {
        *(ProcessStart, ProcessEnd, SignalSent, TaskUncancel, ConnectionClose),
        *(LoopStart, LoopStop, LoopClose, LoopBlocked),
    }
)

RequestOf = Callable[[int], "TaskCancel | FutureCancel | None"]
Duration = tuple[float, dict[str, str]]


class Counts:
    """What was counted so far.

    Args:
        alive: How many tasks live now; None where nobody knows.
    """

    def __init__(self, alive: Callable[[], int | None]) -> None:
        self.alive = alive
        self.created = 0
        self.ended: Counter[str] = Counter()
        self.requested: Counter[str] = Counter()
        self.dropped = 0
        self.durations: deque[Duration] = deque(maxlen=MOST_DURATIONS)

    def take(self, events: Sequence[Event], request_of: RequestOf) -> bool:
        """Count *events*, if any is to be; *request_of* gives the request with a number."""
        items = records_of(events)
        kinds: Counter[Any] = Counter(map(type, items))
        self.created += kinds.pop(Created, 0)
        returned = kinds.pop(Returned, 0)
        if returned:
            self.ended["returned"] += returned
        if kinds:
            for item in items:
                kind = type(item)
                if kind is not Created and kind is not Returned:
                    self._count(cast(Event, item), request_of)
        return sum(kinds.values()) < len(items) or not kinds.keys() <= _UNCOUNTED

    def _count(self, event: Event, request_of: RequestOf) -> None:
        if isinstance(event, TaskDone):
            self.ended[event.outcome] += 1
            request = None if event.cancel is None else request_of(event.cancel)
            if request is not None:
                took = (nanoseconds(event.ts) - nanoseconds(request.ts)) / 1e9
                told = {"aioaudit.cancel.reason": str(request.reason)}
                if event.cancel_outcome is not None:
                    told["aioaudit.task.cancel_outcome"] = event.cancel_outcome
                self.durations.append((max(took, 0.0), told))
        elif isinstance(event, TaskCancel | FutureCancel):
            self.requested[str(event.reason)] += 1
        elif isinstance(event, TaskCreate):
            self.created += 1
        elif isinstance(event, ProcessDropped):
            self.dropped += event.count

    def add(self, other: Counts) -> None:
        """Take over what *other* has counted."""
        self.created += other.created
        self.ended += other.ended
        self.requested += other.requested
        self.dropped += other.dropped
        self.durations += other.durations


class Instruments:
    """The instruments of one provider, which read *counts*."""

    def __init__(self, provider: Any, counts: Counts) -> None:
        from opentelemetry.metrics import Observation

        self.counts = counts
        meter = provider.get_meter("aioaudit", __version__)

        def created(_options: object) -> Iterable[Any]:
            return [Observation(counts.created)]

        def ended(_options: object) -> Iterable[Any]:
            return by("aioaudit.task.outcome", counts.ended)

        def living(_options: object) -> Iterable[Any]:
            value = counts.alive()
            return [] if value is None else [Observation(value)]

        def requested(_options: object) -> Iterable[Any]:
            return by("aioaudit.cancel.reason", counts.requested)

        def dropped(_options: object) -> Iterable[Any]:
            return [Observation(counts.dropped)]

        def by(key: str, counter: Counter[str]) -> Iterable[Any]:
            return [Observation(value, {key: each}) for each, value in list(counter.items())]

        counter = meter.create_observable_counter
        counter("aioaudit.task.created", [created], "{task}", "Tasks that were made")
        counter("aioaudit.task.ended", [ended], "{task}", "Tasks that ended, by outcome")
        meter.create_observable_up_down_counter(
            "aioaudit.task.count", [living], "{task}", "Tasks that are alive"
        )
        counter(
            "aioaudit.cancel.requested",
            [requested],
            "{request}",
            "Requests to cancel a task or a future, by reason",
        )
        counter(
            "aioaudit.event.dropped",
            [dropped],
            "{event}",
            "Events that were lost before they could be counted",
        )
        self._duration = _histogram(meter)
        self.record()

    def record(self) -> None:
        """Let the histogram have the durations that wait."""
        durations = self.counts.durations
        while durations:
            seconds, attributes = durations.popleft()
            self._duration.record(seconds, attributes)


def _histogram(meter: Any) -> Any:
    description = "From the request to cancel to the end of the task"
    try:
        return meter.create_histogram(
            DURATION, "s", description, explicit_bucket_boundaries_advisory=SECONDS
        )
    except TypeError:  # an older OpenTelemetry: boundaries are the provider's alone
        return meter.create_histogram(DURATION, "s", description)
