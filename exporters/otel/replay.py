"""A log as spans, after the program ended: the same spans that the program would have sent.

Ids are made of what the log says, so they are the same each time, and the same
as those of ``AIOAUDIT=otel`` in the run that wrote the log.  One thing a log
cannot know: the application's own spans.  Where it had one, the live span is a
child of it, in its trace; from a log the span keeps its id and is in a trace of
aioaudit's.

Nothing is dropped here: whoever calls waits for the collector, and learns what
it refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aioaudit.events import Event, ProcessEnd, ProcessStart
from aioaudit.exporter import ExporterError
from aioaudit.exporters.otel.answers import Answers
from aioaudit.exporters.otel.sending import otlp_exporter
from aioaudit.exporters.otel.spans import SpanFacts, Spans, held, nanoseconds
from aioaudit.threads import Thread

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

    from aioaudit.exporters.otel.tracer import Maker

BATCH = 512
"""Spans in one request."""

MOST_MAKERS = 100
"""Processes whose spans are made at a time."""

ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
PATH = "/v1/traces"

Tell = Callable[[int, Sequence[SpanFacts]], None]
"""Takes finished spans, and the number of the process that they are from."""


class Afterwards:
    """Makes spans of the events of any number of runs; those of one run come in order.

    Args:
        tasks: Which tasks are told, as `Spans` takes it.
        status: When a cancellation is an error, as `Spans` takes it.
        tell: Gets the spans.
    """

    def __init__(self, tasks: str, status: str, tell: Tell) -> None:
        self._tasks = tasks
        self._status = status
        self._tell = tell
        self._runs: dict[str, tuple[Spans, Event]] = {}

    def take(self, event: Event) -> None:
        """Take note of *event*, and tell of what ended with it."""
        known = self._runs.get(event.run)
        if known is not None:
            spans = known[0]
        else:
            spans = Spans(self._tasks, self._status, lambda _seq: None)
            if not isinstance(event, ProcessStart):  # a log whose head is gone
                spans.begin(event.run)
        self._give(event.pid, spans.take((event,)))
        if isinstance(event, ProcessEnd):
            self._runs.pop(event.run, None)  # its last event
        else:
            self._runs[event.run] = (spans, event)

    def finish(self) -> None:
        """Tell of the tasks whose end is in no log: their process ended before they did."""
        for spans, last in self._runs.values():
            self._give(last.pid, spans.abandon(nanoseconds(last.ts)))
        self._runs.clear()

    def _give(self, pid: int, told: list[SpanFacts]) -> None:
        if told:
            self._tell(pid, told)


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

    def _new_maker(self, pid: int) -> Maker:
        from opentelemetry.sdk.resources import Resource

        from aioaudit.exporters.otel.tracer import Maker

        # Who sends is of no interest: the process is the one that wrote the log.
        own = Resource({"process.pid": held(pid)})
        return Maker(_IntoBatch(self._resource().merge(own), self._batch))

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
    """The sink of a `Maker`: a list, and all traces are kept."""

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
            with answers.heard():
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
