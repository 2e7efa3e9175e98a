"""Where finished spans go: the application's own tracing, or a collector by the ``OTEL_*`` variables.

The SDK's own batch processor is not used for spans that we send ourselves: its
thread lives as long as the process (a fork brings a warning, and a child gets
one at once), its flush does not heed its timeout, and what it drops it tells
nobody but, in newer versions, metrics of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from aioaudit.exporter import ExporterError
from aioaudit.exporters.otel.answers import Answers
from aioaudit.exporters.otel.environment import number, own_resource, span_exporter
from aioaudit.text import describe, say
from aioaudit.threads import Condition, Thread
from aioaudit.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

QUEUE = 2048
"""Spans that wait unless ``OTEL_BSP_MAX_QUEUE_SIZE`` says otherwise."""

BATCH = 512
"""Spans sent at once unless ``OTEL_BSP_MAX_EXPORT_BATCH_SIZE`` says otherwise."""

DELAY = 1000
"""Milliseconds that spans wait for others unless ``OTEL_BSP_SCHEDULE_DELAY`` says otherwise."""

REST = 0.1
"""Seconds that a fork waits for a thread that sends."""


class Sink(Protocol):
    """Where spans go, and by whose rules they are made."""

    @property
    def resource(self) -> Resource:
        """Who the spans are from."""
        ...

    @property
    def sampler(self) -> Sampler:
        """Decides which traces are kept."""
        ...

    @property
    def processor(self) -> SpanProcessor:
        """Is told of each span when it starts and when it ends."""
        ...

    @property
    def limits(self) -> SpanLimits | None:
        """How much one span holds; None for what the ``OTEL_*`` variables say."""
        ...


class SpanSink(Sink, Protocol):
    """Takes spans while the program runs; its ``processor`` never blocks."""

    def flush(self, timeout: float) -> bool:
        """Wait for at most *timeout* seconds until what was taken has gone; whether it has."""
        ...

    def rest(self) -> None:
        """End threads of its own for now, the process is about to fork."""
        ...

    def close(self) -> None:
        """Send nothing any more, without waiting."""
        ...


class ApplicationSink:
    """The span processors of the application's own tracer provider.

    Args:
        provider: The provider.
        tracer: A tracer of it.
    """

    def __init__(self, provider: Any, tracer: Any) -> None:
        from opentelemetry.sdk.trace import SpanLimits

        self._provider = provider
        self.processor: SpanProcessor = tracer.span_processor
        self.resource: Resource = tracer.resource
        self.sampler: Sampler = tracer.sampler
        # What was given in code; a tracer does not say, where it has no such attribute any more.
        limits: object = getattr(tracer, "_span_limits", None)
        self.limits = limits if isinstance(limits, SpanLimits) else None

    def flush(self, timeout: float) -> bool:
        """Have the processors send what they hold; the SDK's do not heed the *timeout*."""
        done: list[bool] = []
        _run_with_timeout(
            lambda: done.append(self._provider.force_flush(int(timeout * 1000))), timeout
        )
        return done == [True]

    def rest(self) -> None:
        """Nothing: the threads are the application's."""

    def close(self) -> None:
        """Nothing: the provider is the application's."""


class OwnSink:
    """A collector, as the standard ``OTEL_*`` variables name it.

    Args:
        exporter: Sends the spans.
        provider: Has the resource and the sampler.
        answers: Hears what is answered to the exporter.

    A thread exists only while there is something to send.
    """

    def __init__(
        self, exporter: SpanExporter, provider: TracerProvider, answers: Answers | None = None
    ) -> None:
        from aioaudit.exporters.otel.tracer import Ended

        self.resource: Resource = provider.resource
        self.sampler: Sampler = provider.sampler
        self.processor: SpanProcessor = Ended(self.send)
        self.limits: SpanLimits | None = None
        self._answers = answers or Answers()
        self._why = ""
        self._exporter = exporter
        self._most = number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE)
        self._batch = min(number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH), self._most)
        self._delay = number("OTEL_BSP_SCHEDULE_DELAY", DELAY) / 1000
        self._queue: deque[ReadableSpan] = deque()
        self._lock = Condition()
        self._thread: Thread | None = None
        self._hurry = False
        self._resting = False
        self._closed = False
        self.taken = 0
        self.sent = 0
        self.refused = 0
        self.dropped = 0

    def send(self, span: ReadableSpan) -> None:
        """Queue *span*; where too many wait it is counted and gone."""
        with self._lock:
            self.taken += 1
            if self._closed or len(self._queue) >= self._most:
                self.dropped += 1
                return
            self._queue.append(span)
            if self._thread is None:
                self._thread = Thread(self._work)
                try:
                    self._thread.start()
                except RuntimeError:  # the interpreter is going down: `flush` will do it
                    self._thread = None
            elif len(self._queue) == self._batch:
                self._lock.notify_all()

    def flush(self, timeout: float) -> bool:
        """Send at once what waits; whether all of it has gone within *timeout* seconds."""
        with self._lock:
            self._hurry = True
            self._lock.notify_all()
            alone = self._thread is None and bool(self._queue)
        if alone:
            self._work()
        with self._lock:
            try:
                return self._lock.wait_for(lambda: self._thread is None, timeout)
            finally:
                self._hurry = False

    def rest(self) -> None:
        """Have the thread end, unless it is just sending; the next span starts another.

        What waited for others goes with the next span, or at the end.
        """
        with self._lock:
            thread = self._thread
            self._resting = True
            self._lock.notify_all()
        if thread is not None:
            thread.join(REST)
        self._resting = False

    def close(self) -> None:
        """Interrupt a sender that waits for another try, and say what did not arrive."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        # What hangs in a connection is left to the end of the process.
        _run_with_timeout(self._exporter.shutdown, 0.5)
        lost = self.taken - self.sent
        if lost:
            why = self._why or self._answers.why  # of what is still being tried
            say(f"exporter 'otel': {lost:,} of {self.taken:,} spans did not arrive", why)

    def _work(self) -> None:
        with self._answers.listening():
            self._work_quietly()

    def _work_quietly(self) -> None:
        from opentelemetry import context

        # So that the application's instrumentation of HTTP or gRPC leaves our requests alone.
        key = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
        context.attach(context.set_value(key, True))
        while True:
            with self._lock:
                if not self._hurry:
                    self._lock.wait_for(self._due, self._delay)
                if self._resting:
                    self._thread = None
                    self._lock.notify_all()
                    return
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch))]
                if not batch or self._closed:
                    self._thread = None
                    self._lock.notify_all()
                    return
            refused = len(batch)
            self._answers.begin()
            try:
                if self._exporter.export(batch).name == "SUCCESS":
                    refused = min(self._answers.refused, refused)
            except Exception as error:  # noqa: BLE001 - counted as not arrived
                self._answers.add(describe(error))
            with self._lock:
                self.sent += len(batch) - refused
                self.refused += refused
                if refused:
                    self._why = self._answers.why or self._why

    def _due(self) -> bool:
        return self._hurry or self._closed or self._resting or len(self._queue) >= self._batch


def application_target(provider: Any) -> SpanSink | None:
    """The target that *provider* is; None if it is switched off.

    Raises:
        aioaudit.exporter.ExporterError: it is not one of the SDK's.
    """
    from opentelemetry.trace import NoOpTracer

    tracer = provider.get_tracer("aioaudit", __version__)
    if isinstance(tracer, NoOpTracer):
        return None
    if getattr(tracer, "span_processor", None) is None:
        kind = type(provider)
        raise ExporterError(
            f"the application's tracer provider is a {kind.__module__}.{kind.__qualname__}, whose "
            "tracers take no finished spans; allowed: a TracerProvider of opentelemetry-sdk, "
            "which can also be given: enable(OpenTelemetryExporter(provider))"
        )
    return ApplicationSink(provider, tracer)


def own_target() -> SpanSink | None:
    """What the ``OTEL_*`` variables name; None where they say that nothing is to be sent.

    Raises:
        aioaudit.exporter.ExporterError: they name something that is not there.
    """
    from opentelemetry.sdk.trace import TracerProvider

    make = span_exporter()
    if make is None:
        return None
    # The resource and the sampler are made as the variables say; spans do not pass through it.
    provider = TracerProvider(resource=own_resource(), shutdown_on_exit=False)
    answers = Answers()
    return OwnSink(answers.exporter(make), provider, answers)


def _run_with_timeout(call: Callable[[], object], timeout: float) -> None:
    """Do *call*, whose own waiting cannot be bounded; go on after *timeout* seconds."""

    def guarded() -> None:
        with suppress(Exception):  # the end of a connection that may be broken
            call()

    thread = Thread(guarded)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is going down
        guarded()
    else:
        thread.join(timeout)
