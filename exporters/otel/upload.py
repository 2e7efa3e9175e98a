"""Spans of a log sent to a collector: nothing is dropped, and what it refuses is learned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aioaudit.exporter import ExporterError
from aioaudit.exporters.otel.answers import Answers
from aioaudit.exporters.otel.environment import otlp_exporter
from aioaudit.exporters.otel.facts import SpanFacts, held
from aioaudit.threads import Thread

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

    from aioaudit.exporters.otel.tracer import SpanFactory

BATCH = 512
"""Spans in one request."""

MOST_MAKERS = 100
"""Processes whose spans are made at a time."""

ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
PATH = "/v1/traces"


class Collector:
    """Sends spans to a collector and waits for its answers.

    Args:
        endpoint: Its URL, with or without ``/v1/traces`` at the end; by default
            that of the ``OTEL_*`` variables, as is everything else.

    After the first request that failed nothing more is sent: what follows is
    counted only.

    Attributes:
        taken: Spans that there are.
        arrived: Spans that the collector took.
        why: What the collector said of those that it did not take.

    Raises:
        aioaudit.exporter.ExporterError: *endpoint* is no URL, or the protocol
            does not exist or is not installed.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._asked = _Asked(endpoint)
        self._batch: list[ReadableSpan] = []
        self._maker = lru_cache(MOST_MAKERS)(self._new_maker)
        self._resource = cache(_any_resource)
        self._failed = False
        self.taken = 0
        self.arrived = 0
        self.why = ""

    def _new_maker(self, pid: int) -> SpanFactory:
        from opentelemetry.sdk.resources import Resource

        from aioaudit.exporters.otel.tracer import SpanFactory

        # Who sends is of no interest: the process is the one that wrote the log.
        own = Resource({"process.pid": held(pid)})
        return SpanFactory(_IntoBatch(self._resource().merge(own), self._batch))

    def take(self, pid: int, spans: Sequence[SpanFacts]) -> None:
        """Take *spans* of the process *pid*, and send where there are enough for a request."""
        self.taken += len(spans)
        maker = self._maker(pid)
        with maker.quietly():
            for facts in spans:
                if self._failed:
                    return
                maker.send(facts)
                if len(self._batch) >= BATCH:
                    self._send()

    def finish(self) -> None:
        """Send what is left and close the connection."""
        if self._batch:
            self._send()
        if not self._failed:  # else it may still be trying
            self._asked.exporter.shutdown()

    def _send(self) -> None:
        batch = self._batch.copy()
        count = len(batch)
        well, refused, why = self._asked.send(batch)
        self._batch.clear()
        self._failed = not well
        if well:
            self.arrived += count - min(refused, count)
        if why and not self.why:
            self.why = why


def _any_resource() -> Resource:
    """What the ``OTEL_*`` variables say of each process; to ask for it takes its time."""
    from opentelemetry.sdk.resources import Resource

    return Resource.create()


class _IntoBatch:
    """The sink of a `SpanFactory`: a list, and all traces are kept."""

    def __init__(self, resource: Resource, batch: list[ReadableSpan]) -> None:
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        from aioaudit.exporters.otel.tracer import Ended

        self.resource = resource
        self.sampler: Sampler = ALWAYS_ON
        self.processor: SpanProcessor = Ended(batch.append)
        self.limits: SpanLimits | None = None


class _Asked:
    """An exporter to a collector, and what is answered to it."""

    def __init__(self, endpoint: str | None) -> None:
        make: Any = otlp_exporter()
        self._patience = 1.5 * _timeout() + 1
        self._answers = Answers()
        if endpoint is not None:
            _check(endpoint)
            if not (".proto.grpc" in make.__module__ or endpoint.endswith(PATH)):
                endpoint = endpoint.rstrip("/") + PATH
            os.environ[ENDPOINT] = endpoint  # not an argument: TLS over gRPC is told apart by it
        self.exporter: SpanExporter = self._answers.exporter(make)

    def send(self, batch: Sequence[ReadableSpan]) -> tuple[bool, int, str]:
        """Send *batch*: whether it succeeded, how many were refused even so, and why."""
        answers = self._answers
        answers.begin()
        results: list[str] = []

        def work() -> None:
            with answers.listening():
                try:
                    results.append(self.exporter.export(batch).name)
                except Exception as error:  # noqa: BLE001 - older ones let those of the connection out
                    answers.add(f"{type(error).__name__}: {error}")
                    results.append("FAILURE")

        # Older exporters go on trying for a minute, whatever timeout is set.
        sender = Thread(work)
        sender.start()
        sender.join(self._patience)
        if not results:
            answers.add(f"no success within {self._patience:g} s")
        well = results == ["SUCCESS"]
        return well, answers.refused, "" if well and not answers.refused else answers.why


def _timeout() -> float:
    """Seconds that a request may take, as the ``OTEL_*`` variables say."""
    for name in ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"):
        with suppress(ValueError):
            return float(os.environ.get(name, ""))
    return 10.0


def _check(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number
        good = False
    if not good:
        raise ExporterError(
            f"--endpoint {endpoint!r} is no URL of a collector; allowed: http://HOST:PORT or "
            f"https://HOST:PORT, with or without {PATH} at the end"
        )
