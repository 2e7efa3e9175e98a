"""Reports of what was counted, sent to a collector from time to time.

They are read and sent by the SDK's periodic reader, whose interval is infinite: then it
starts no thread, which would live as long as the process and begin anew in every forked
child, and a timer of ours calls it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aioaudit.exporters.otel.answers import Answers
from aioaudit.exporters.otel.counts import DURATION, SECONDS, Counts, Instruments
from aioaudit.exporters.otel.environment import number, own_resource
from aioaudit.exporters.otel.sending import REST
from aioaudit.text import describe, say
from aioaudit.threads import Condition, Thread

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader

INTERVAL = 60_000
"""Milliseconds between two reports unless ``OTEL_METRIC_EXPORT_INTERVAL`` says otherwise."""

TIMEOUT = 30_000
"""Milliseconds for one report unless ``OTEL_METRIC_EXPORT_TIMEOUT`` says otherwise."""

SLOWEST = 64
"""While reports fail the interval doubles, up to so many times its length."""


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

    def rest(self) -> None:
        """Have the timer end, unless it is just sending; what comes next starts another."""
        with self._lock:
            self._resting = True
            self._lock.notify_all()
            self._lock.wait_for(lambda: not self._working, REST)
            self._resting = False

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
        with self._answers.listening():
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
