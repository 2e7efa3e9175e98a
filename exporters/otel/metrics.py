"""Metrics: how many tasks and cancellations there are, all of them, whichever become spans.

Events are counted in the exporter's thread, a whole batch at a time, and read
by OpenTelemetry when it collects: a task costs a fraction of a microsecond more.

Who collects is the application's own ``MeterProvider`` where it has set one.
Elsewhere it is one made from the ``OTEL_*`` variables.  It is read and sent by the
SDK's periodic reader, whose interval is infinite: then it starts no thread, which
would live as long as the process and begin anew in every forked child, and a timer
of ours calls it.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from aioaudit.events import (
    Event,
    FutureCancel,
    LoopClose,
    LoopStart,
    LoopStop,
    ProcessDropped,
    ProcessEnd,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.exporter import ExporterError
from aioaudit.exporters.otel.answers import Answers
from aioaudit.exporters.otel.sending import REST, metric_exporter, number, own_resource
from aioaudit.exporters.otel.spans import nanoseconds
from aioaudit.text import describe, say
from aioaudit.threads import Condition, Thread
from aioaudit.version import __version__
from aioaudit.wire import Batch, Created, Item, Returned

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader

INTERVAL = 60_000
"""Milliseconds between two reports unless ``OTEL_METRIC_EXPORT_INTERVAL`` says otherwise."""

TIMEOUT = 30_000
"""Milliseconds for one report unless ``OTEL_METRIC_EXPORT_TIMEOUT`` says otherwise."""

MOST_DURATIONS = 10_000
"""Durations that wait for a provider."""

SLOWEST = 64
"""While reports fail the interval doubles, up to so many times its length."""

DURATION = "aioaudit.cancel.duration"

SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5)
"""Boundaries of the histogram: those of the conventions for durations, and finer ones before."""

_UNCOUNTED = frozenset({ProcessStart, ProcessEnd, LoopStart, LoopStop, LoopClose, TaskUncancel})

RequestOf = Callable[[int], "TaskCancel | FutureCancel | None"]
Duration = tuple[float, dict[str, str]]

_by_provider: WeakKeyDictionary[Any, Instruments] = WeakKeyDictionary()


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
        items: Sequence[Item] = events.items if isinstance(events, Batch) else events
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


class Metrics:
    """Counts events for whoever collects.

    Args:
        meter_provider: Collects; by default the application's, else one of our own.
        alive: How many tasks live now; None where nobody knows.
    """

    def __init__(self, meter_provider: Any, alive: Callable[[], int | None]) -> None:
        self.given = meter_provider
        self._alive = alive
        self._counts = Counts(alive)
        self._application: Instruments | None = None
        self._own: OwnMetrics | None = None
        self._unusable = False
        self._off = os.environ.get("OTEL_METRICS_EXPORTER", "").strip().lower() == "none"

    def attach(self) -> bool:
        """Have a provider of the application collect; whether it is one that did not before."""
        before = self._application
        return not self._off and self._attach() and self._application is not before

    def take(self, events: Sequence[Event], request_of: RequestOf) -> None:
        """Count *events*."""
        if self._off:
            return
        news = self._counts.take(events, request_of)
        if self._application is not None:
            self._application.record()
        elif news and not self._unusable:
            self._tell_own()

    def _tell_own(self) -> None:
        if self._own is None:
            try:
                make = metric_exporter()
                self._own = None if make is None else OwnMetrics(make, self._counts)
            except Exception as error:  # noqa: BLE001 - the spans go on without them
                text = str(error) if isinstance(error, ExporterError) else describe(error)
                say(f"exporter 'otel': no metrics: {text}")
            if self._own is None:
                self._unusable = True
                return
        self._own.changed()

    def forked(self) -> None:
        """This is a forked child: the parent's connection and what it counted are the parent's."""
        self._own = None
        if self._application is None:
            self._counts = Counts(self._alive)

    def _attach(self) -> bool:
        provider = self.given if self.given is not None else _application_provider()
        if provider is None:
            return self._application is not None
        known = _by_provider.get(provider)
        if known is None and getattr(provider, "_shutdown", False) is True:
            # Its end came before our first events; asked for a meter, it would log a warning.
            if not self._unusable:
                self._unusable = True
                say("exporter 'otel': no metrics: the provider of the application had ended")
            return False
        if known is None:
            known = _by_provider[provider] = Instruments(provider, self._counts)
        elif known.counts is not self._counts:  # those of an exporter before this one
            known.counts.add(self._counts)
            self._counts = known.counts
        self._application = known
        if self._own is not None:
            self._own.close(handed_over=True)
            self._own = None
        return True

    def flush(self, timeout: float) -> bool:
        """Have a report of our own sent; whether it arrived within *timeout* seconds."""
        return self._own is None or self._own.flush(timeout)

    def rest(self) -> int:
        """End the timer's thread, the process is about to fork; whether it goes on."""
        return 0 if self._own is None else self._own.rest()

    def close(self) -> None:
        """Send nothing any more."""
        if self._own is not None:
            self._own.close()
            self._own = None


class OwnMetrics:
    """Reads *counts* from time to time and sends them to a collector.

    Args:
        make: Makes what sends.
        counts: What is to be sent.

    The timer's thread ends when nothing new was counted for one interval.
    """

    def __init__(self, make: Callable[[], MetricExporter], counts: Counts) -> None:
        self._interval = number("OTEL_METRIC_EXPORT_INTERVAL", INTERVAL) / 1000
        self._timeout = number("OTEL_METRIC_EXPORT_TIMEOUT", TIMEOUT)
        self._lock = Condition()
        self._working = False
        self._news = False  # counted, and not read yet
        self._owed = False  # counted, and not known to have arrived
        self._hurry = False
        self._resting = False
        self._closed = False
        self._failures = 0
        self._said = False
        # Now, in the exporter's thread: at the end of a process nothing can be imported any more.
        self._answers = Answers()
        self._exporter = _Watched(self._answers.exporter(make))
        self._reader, self._instruments = _reading(self._exporter, counts)

    def changed(self) -> None:
        """There is something new to send, when the time has come."""
        with self._lock:
            self._news = self._owed = True
            if not (self._working or self._closed):
                self._start()

    def _start(self) -> bool:
        try:
            Thread(self._work).start()
        except RuntimeError:  # the interpreter is going down
            return False
        self._working = True
        return True

    def flush(self, timeout: float) -> bool:
        """Send at once; whether all of it has arrived within *timeout* seconds."""
        with self._lock:
            if self._closed or not self._news:
                return True
            self._hurry = True
            if self._working or self._start():
                self._lock.notify_all()
                done = self._lock.wait_for(lambda: not self._hurry, timeout)
                self._hurry = False
                return done and not self._failures
            self._news = False
        well = self._send()
        self._owed = not well
        return well

    def rest(self) -> int:
        """Have the timer end, unless it is just sending; what comes next starts another."""
        with self._lock:
            self._resting = True
            self._lock.notify_all()
            self._lock.wait_for(lambda: not self._working, REST)
            self._resting = False
            return int(self._working)

    def close(self, *, handed_over: bool = False) -> None:
        """Send nothing any more; what hangs in a connection is left to itself.

        *handed_over* says that what was counted goes on with another provider.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._lock.notify_all()
        with suppress(Exception):  # the end of a connection that may be broken
            self._exporter.shutdown(timeout_millis=100)
        if self._owed and not handed_over:
            self._complain()

    def _work(self) -> None:
        while True:
            with self._lock:
                wait = self._interval * min(2**self._failures, SLOWEST)
                self._lock.wait_for(lambda: self._hurry or self._resting or self._closed, wait)
                if self._resting or self._closed or not self._news:
                    self._working = self._hurry = False
                    self._lock.notify_all()
                    return
                self._news = False
            well = self._send()
            with self._lock:
                self._failures = 0 if well else self._failures + 1
                self._owed = self._news or not well
                self._hurry = False
                self._lock.notify_all()
            if not well and not self._closed:
                self._complain()

    def _complain(self) -> None:
        if not self._said:
            self._said = True
            say(
                "exporter 'otel': metrics did not arrive; OTEL_METRICS_EXPORTER=none turns them off",
                self._answers.why,
            )

    def _send(self) -> bool:
        self._answers.begin()
        self._exporter.well = True  # where there is nothing to send
        with self._answers.heard():
            try:
                self._instruments.record()
                self._reader.collect(timeout_millis=self._timeout)
            except Exception as error:  # noqa: BLE001 - told as not arrived
                self._answers.add(describe(error))
                return False
        return self._exporter.well and not self._answers.refused


class _Watched:
    """*exporter*, of which the reader does not say how it went: ``well`` does."""

    def __init__(self, exporter: MetricExporter) -> None:
        self._exporter = exporter
        self.well = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exporter, name)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        self.well = False
        result = self._exporter.export(*args, **kwargs)
        self.well = result.name == "SUCCESS"
        return result


def _reading(exporter: Any, counts: Counts) -> tuple[MetricReader, Instruments]:
    """What reads *counts* the way *exporter* wants them, and sends them with it."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
    boundaries = ExplicitBucketHistogramAggregation(SECONDS)
    provider = MeterProvider(
        [reader],
        resource=own_resource(),
        shutdown_on_exit=False,
        views=[View(instrument_name=DURATION, aggregation=boundaries)],
    )
    return reader, Instruments(provider, counts)


def _application_provider() -> Any:
    """The meter provider that the application has set, None if it has set none."""
    from opentelemetry import metrics

    provider = metrics.get_meter_provider()
    if type(provider).__name__ == "_ProxyMeterProvider":
        return None
    return provider
