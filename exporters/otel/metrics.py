"""Metrics of all tasks and cancellations, whichever become spans: who collects them.

That is the application's own ``MeterProvider`` where it has set one, elsewhere
one made from the ``OTEL_*`` variables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from aioaudit.events import Event
from aioaudit.exporter import ExporterError
from aioaudit.exporters.otel.counts import Counts, Instruments, RequestOf
from aioaudit.exporters.otel.environment import metric_exporter
from aioaudit.exporters.otel.reports import OwnMetrics
from aioaudit.text import describe, say

_by_provider: WeakKeyDictionary[Any, Instruments] = WeakKeyDictionary()


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

    def has_unseen_provider(self) -> bool:
        """Whether there is a provider of the application that was not seen by `attach` yet."""
        provider = None if self._off else self._provider()
        return provider is not None and provider not in _by_provider

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

    def _provider(self) -> Any:
        return self.given if self.given is not None else _application_provider()

    def _attach(self) -> bool:
        provider = self._provider()
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

    def rest(self) -> None:
        """End the timer's thread, the process is about to fork."""
        if self._own is not None:
            self._own.rest()

    def close(self) -> None:
        """Send nothing any more."""
        if self._own is not None:
            self._own.close()
            self._own = None


def _application_provider() -> Any:
    """The meter provider that the application has set, None if it has set none."""
    from opentelemetry import metrics

    provider = metrics.get_meter_provider()
    if type(provider).__name__ == "_ProxyMeterProvider":
        return None
    return provider
