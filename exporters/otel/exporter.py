"""Cancellations in a trace view: tasks and requests to cancel as OpenTelemetry spans.

It observes and does not take part: no task's span is made current, no provider
is set.  Where the application has a current span when it makes a task, or asks
for a cancellation, ours is a child of it.

Spans are made at the end of a task, in the exporter's thread (`spans`), and all tasks
are counted there (`metrics`).  Spans are made by the SDK (`tracer`) and given to the
application's own tracing, or sent by the standard ``OTEL_*`` variables (`sending`).
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from aioaudit.cpython.threads import call_before_exit_functions
from aioaudit.events import Event
from aioaudit.exporter import ExporterError, Record
from aioaudit.exporters.otel.context import CurrentSpans
from aioaudit.exporters.otel.environment import metric_exporter, span_exporter
from aioaudit.exporters.otel.facts import SpanFacts
from aioaudit.exporters.otel.lives import TOUCHED
from aioaudit.exporters.otel.metrics import Metrics
from aioaudit.exporters.otel.sending import SpanSink, application_target, own_target
from aioaudit.exporters.otel.spans import Spans
from aioaudit.session import living_tasks
from aioaudit.text import describe, say

if TYPE_CHECKING:
    from aioaudit.exporters.otel.tracer import SpanFactory

FLUSH = 1.5
"""Seconds that the end of the process waits for a collector."""


class OpenTelemetryExporter:
    """Exports tasks and requests to cancel as spans.

    Args:
        tracer_provider: An SDK's provider to use.  By default the one that the
            application has set when there is something to send, else one made
            from the ``OTEL_*`` variables.
        tasks: ``touched`` (those that a cancellation or an error touched, their
            creators, and who cancelled them), ``all``, or globs on
            ``module:qualname`` separated by commas.
        status: When a cancelled task's span is an error: ``cause`` (if the root
            cause is a failure), ``unset`` (never), ``error`` (always).
        meter_provider: Collects the metrics.  By default the application's, else
            one made from the ``OTEL_*`` variables.

    Raises:
        ModuleNotFoundError: opentelemetry-sdk is not installed.
    """

    witness: Callable[[Record], None]
    """Called where an event happens, before it is queued: keeps the current span."""

    def __init__(
        self,
        tracer_provider: Any = None,
        *,
        tasks: str = TOUCHED,
        status: str = "cause",
        meter_provider: Any = None,
    ) -> None:
        if tracer_provider is None and not all(
            find_spec(name) for name in ("opentelemetry", "opentelemetry.sdk")
        ):
            raise ModuleNotFoundError(
                "OpenTelemetryExporter needs the package opentelemetry-sdk: "
                "pip install 'aioaudit[otel]'",
                name="opentelemetry",
            )
        _import_ahead()
        self._given = tracer_provider
        self._current = CurrentSpans()
        self.witness = self._current.witness
        self._metrics = Metrics(meter_provider, living_tasks)
        self._spans = Spans(tasks, status, self._current.outside)
        self._pid = os.getpid()
        self._own: SpanFactory | None = None
        self._own_target: SpanSink | None = None
        self._own_looked = False
        self._application: dict[int, tuple[Any, SpanSink | None, SpanFactory | None]] = {}
        self._ending = False
        self._application_over = False
        self._answering = True
        self._not_taken = 0
        _come_before_the_application_ends()

    def use(self, tracer_provider: Any, meter_provider: Any) -> None:
        """From now on use *tracer_provider* and *meter_provider*, where they are not None."""
        if tracer_provider is not None:
            self._given = tracer_provider
        if meter_provider is not None:
            self._metrics.given = meter_provider
        # The providers are made by now, so that what is registered now comes before their end.
        self._end_before_the_application()

    def export(self, events: Sequence[Event]) -> None:
        """Make spans of *events* and send those that are finished.

        Raises:
            aioaudit.exporter.ExporterError: there is no way to send them.
        """
        if not events:
            return
        if os.getpid() != self._pid:  # a forked child: the parent's connection is the parent's
            self._pid = os.getpid()
            self._own = self._own_target = None
            self._own_looked = False
            self._metrics.forked()
        if self._metrics.attach():
            self._end_before_the_application()
        self._maker()  # not only when a span is finished: at the end of a process much is impossible
        self._current.collect(events)
        self._send(self._spans.take(events))
        self._metrics.take(events, self._spans.request)

    def flush(self) -> None:
        """Send what was taken; waits for a collector no longer than `FLUSH` seconds."""
        if self._ending:
            self._ending = False
            self._send(self._spans.abandon(time.time_ns()))
        # The end of a process flushes more than once; in vain it waits once only.
        deadline = time.monotonic() + (FLUSH if self._answering else 0.0)
        flushing = [*(target.flush for target in self._targets()), self._metrics.flush]
        answers = [flush(max(deadline - time.monotonic(), 0)) for flush in flushing]
        self._answering = all(answers)

    def before_fork(self) -> None:
        """End what sends; it begins anew with the next span."""
        for target in self._targets():
            target.rest()
        self._metrics.rest()

    def shutdown(self) -> None:
        """Close the connection; a provider of the application is left alone."""
        self._current.close()
        if self._not_taken > 1:
            say(
                f"exporter 'otel': {self._not_taken:,} spans were not taken by a span processor "
                "of the application"
            )
        atexit.unregister(self._before_the_application_ends)
        if self._pid == os.getpid():
            for target in self._targets():
                target.close()
            self._metrics.close()

    def _targets(self) -> list[SpanSink]:
        targets = [] if self._application_over else list(self._application.values())
        found = [*(target for _, target, _ in targets), self._own_target]
        return [target for target in found if target is not None]

    def _send(self, finished: list[SpanFacts]) -> None:
        if not finished:
            return
        maker = self._maker()
        if maker is None:
            return
        with maker.quietly():
            for facts in finished:
                try:
                    maker.send(facts)
                except Exception as error:  # noqa: BLE001 - a processor may raise anything at all
                    self._refused(error)

    def _refused(self, error: Exception) -> None:
        """A processor of the application raised *error*: the next span may do."""
        self._not_taken += 1
        if self._not_taken == 1:
            say(
                "exporter 'otel': a span processor of the application raised "
                f"{describe(error)}; spans that it does not take are left out"
            )

    def _maker(self) -> SpanFactory | None:
        from aioaudit.exporters.otel.tracer import SpanFactory

        provider = self._provider()
        if provider is not None:
            known = self._application.get(id(provider))
            if known is None:
                target = application_target(provider)
                maker = None if target is None else SpanFactory(target)
                known = self._application[id(provider)] = (provider, target, maker)
                self._end_before_the_application()
            return None if self._application_over else known[2]
        if not self._own_looked:
            self._own_looked = True
            self._own_target = own_target()
            if self._own_target is not None:
                self._own = SpanFactory(self._own_target)
        return self._own

    def _provider(self) -> Any:
        return self._given if self._given is not None else _application_provider()

    def threads_end(self) -> None:
        """The interpreter is about to end; nothing that `atexit` calls was called yet."""
        # Nothing is imported for this: who has not imported it has set no provider.
        provider = self._provider() if "opentelemetry.trace" in sys.modules else None
        unseen = provider is not None and id(provider) not in self._application
        if unseen or (
            "opentelemetry.metrics" in sys.modules and self._metrics.has_unseen_provider()
        ):
            self._end_before_the_application()

    def _end_before_the_application(self) -> None:
        """Have what is left told before the end of a provider of the application."""
        # Functions are called last come, first served: before the provider's own end.
        atexit.unregister(self._before_the_application_ends)
        atexit.register(self._before_the_application_ends)

    def _before_the_application_ends(self) -> None:
        """The application's provider is about to be shut down, and us only after it."""
        from aioaudit import session

        current = session.current()
        if current is None:
            return
        self._ending = True
        for pipeline, _ in current.sinks:
            if pipeline.exporter is self:
                pipeline.flush(FLUSH)
        self._application_over = True


_registered = False


def _come_before_the_application_ends() -> None:
    """See to it that we end before the application's providers do, in any case.

    A provider's end is registered with `atexit` when it is made, and last come is first
    served.  Usually our thread sees the provider, and registers after it; a process that
    ends before that thread had its first turn would end the provider first.
    """
    global _registered
    if not _registered:
        _registered = call_before_exit_functions(_threads_end)


def _threads_end() -> None:
    """Nothing may be raised from here: CPython would not wait for the program's threads."""
    from aioaudit import session

    current = session.current()
    for pipeline, _ in () if current is None else current.sinks:
        if isinstance(pipeline.exporter, OpenTelemetryExporter):
            try:
                pipeline.exporter.threads_end()
            except Exception as error:  # noqa: BLE001 - a provider that cannot be loaded, or answers with anything
                say(f"exporter 'otel': no provider could be looked for: {describe(error)}")


def _application_provider() -> Any:
    """The provider that the application has set, None if it has set none."""
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def _import_ahead() -> None:
    """Import OpenTelemetry now, unless the program is at it.

    It cannot be imported at the end of a process, which may be where the first
    span is sent.  And it may be the program's own import of it that imports
    asyncio and thereby brings us in: then it is imported at the first event.
    """
    import_module("concurrent.futures.thread")  # used by it, and refuses to be imported at the end
    if any(name.startswith("opentelemetry.") for name in sys.modules):
        return
    import_module("aioaudit.exporters.otel.tracer")
    import_module("opentelemetry.sdk.metrics.export")
    for find in (span_exporter, metric_exporter):
        with suppress(ExporterError):  # told at the first event
            find()
    # The exporter over HTTP imports this where it is first used: in our thread.  A fork
    # meanwhile would leave the child, and the program in it, with half of a module.
    if find_spec("requests"):
        import_module("requests")
