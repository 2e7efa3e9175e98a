"""Spans of the SDK, made of facts by its public ways: a tracer with ids and times of our own.

The one module that needs the SDK when it is imported: it is imported where the first
span is made, or before.

A tracer starts a span, tells the processors, and ends it, so that processors which do
their work in ``on_start``, or pair it with ``on_end``, see what they see of any other
span, and so that the limits of the ``OTEL_*`` variables hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from aioaudit.exporters.otel.answers import Answers
from aioaudit.exporters.otel.facts import SpanFacts, Told, Trace
from aioaudit.version import __version__

if TYPE_CHECKING:
    from aioaudit.exporters.otel.sending import Sink

_RANDOM = 0x02
"""A flag of newer versions, which a trace keeps: its number was made at random."""


class SpanFactory:
    """Makes the SDK's spans of facts, for one sink.

    A trace is sampled or not as a whole: the sampler is asked once for each.
    """

    def __init__(self, sink: Sink) -> None:
        self._sampler = sink.sampler
        self._next = _Next()
        provider = TracerProvider(
            sampler=self._next,
            id_generator=self._next,
            resource=sink.resource,
            span_limits=sink.limits,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(sink.processor)
        self._tracer = provider.get_tracer("aioaudit", __version__)

    def quietly(self) -> AbstractContextManager[None]:
        """While `send` is called: the SDK says nothing of each value that the limits cut."""
        return Answers().listening("opentelemetry.attributes")

    def send(self, facts: SpanFacts) -> None:
        """Have the span of *facts* begin and end, if its trace is recorded.

        Raises:
            Exception: what a processor raises.
        """
        trace = facts.trace
        result = self._sampled(trace)
        if result.decision is Decision.DROP:
            return
        context = Context()  # not the one of this thread
        if facts.parent is not None:
            parent = _span_context(trace.outside)
            if parent is None or parent.span_id != facts.parent:
                parent = self._context(trace, facts.parent)
            context = set_span_in_context(NonRecordingSpan(parent), context)
        self._next.is_for(trace.id, facts.span_id, result)
        span = self._tracer.start_span(
            facts.name,
            context=context,
            kind=SpanKind.INTERNAL,
            attributes=facts.attributes,
            links=[
                Link(self._context(each.trace, each.span_id), {"aioaudit.link": each.kind})
                for each in facts.links
            ],
            start_time=facts.start,
        )
        if facts.error is not None:
            span.set_status(Status(StatusCode.ERROR, facts.error))
        span.end(end_time=facts.end)

    def _context(self, trace: Trace, span_id: int) -> SpanContext:
        result = self._sampled(trace)
        flags = (
            TraceFlags.SAMPLED
            if result.decision is Decision.RECORD_AND_SAMPLE
            else TraceFlags.DEFAULT
        )
        flags |= getattr(trace.outside, "trace_flags", 0) & _RANDOM
        return SpanContext(
            trace.id,
            span_id,
            is_remote=False,
            trace_flags=TraceFlags(flags),
            trace_state=result.trace_state,
        )

    def _sampled(self, trace: Trace) -> SamplingResult:
        result: SamplingResult | None = trace.sampled
        if result is None:
            outside = _span_context(trace.outside)
            above = None if outside is None else set_span_in_context(NonRecordingSpan(outside))
            result = trace.sampled = self._sampler.should_sample(
                above, trace.id, "asyncio.task", SpanKind.INTERNAL, {}, []
            )
        return result


def _span_context(outside: Any) -> SpanContext | None:
    """*outside* as OpenTelemetry has it, also where it is from a line."""
    if not isinstance(outside, Told):
        found: SpanContext | None = outside
        return found
    flags = TraceFlags.SAMPLED if outside.sampled else TraceFlags.DEFAULT
    return SpanContext(
        outside.trace_id, outside.span_id, is_remote=False, trace_flags=TraceFlags(flags)
    )


class _Next(IdGenerator, Sampler):
    """Gives the next span its ids, and says of it what was said of its trace."""

    def __init__(self) -> None:
        self._ids = (0, 0)
        self._result: SamplingResult | None = None

    def is_for(self, trace_id: int, span_id: int, result: SamplingResult) -> None:
        self._ids = (trace_id, span_id)
        self._result = result

    def generate_trace_id(self) -> int:
        return self._ids[0]

    def generate_span_id(self) -> int:
        return self._ids[1]

    def should_sample(
        self,
        parent_context: Context | None,  # noqa: ARG002 - a sampler is called with all of it
        trace_id: int,  # noqa: ARG002 - the same
        name: str,  # noqa: ARG002 - the same
        kind: SpanKind | None = None,  # noqa: ARG002 - the same
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,  # noqa: ARG002 - the same
        trace_state: Any = None,  # noqa: ARG002 - the same
    ) -> SamplingResult:
        told = self._result
        assert told is not None
        more: Mapping[str, Any] = told.attributes or {}
        return SamplingResult(told.decision, {**more, **(attributes or {})}, told.trace_state)

    def get_description(self) -> str:
        return "as aioaudit was told of the whole trace"


class Ended(SpanProcessor):
    """Gives each sampled span that has ended to *take*."""

    def __init__(self, take: Callable[[ReadableSpan], None]) -> None:
        self._take = take

    def on_end(self, span: ReadableSpan) -> None:
        """Pass *span* on."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled:
            self._take(span)
