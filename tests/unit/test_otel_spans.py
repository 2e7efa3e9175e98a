"""Which spans are made of which events, under what, and what is kept meanwhile."""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)

from aioaudit.core import Created, Returned
from aioaudit.delivery.encoding import Batch
from aioaudit.delivery.records import CreationSite, Record, event_of
from aioaudit.events import (
    FutureCancel,
    ProcessEnd,
)
from aioaudit.exporter import Exporter, ExporterError
from aioaudit.exporters.otel import OpenTelemetryExporter
from aioaudit.exporters.otel.facts import SpanFacts
from aioaudit.exporters.otel.lives import DEPTH, MOST_ENDED, MOST_LIVING, MOST_TASKS
from aioaudit.exporters.otel.sending import OwnSink
from aioaudit.exporters.otel.spans import Spans
from aioaudit.place import Place
from aioaudit.timestamps import nanoseconds
from tests.story import RUN, Story


def told(story: Story, tasks: str = "touched") -> list[SpanFacts]:
    return Spans(tasks, "cause", lambda _seq: None).take(story.events)


def names(spans: Sequence[SpanFacts]) -> list[str]:
    """``t1`` for the span of a task, ``> t1`` for that of a request to it."""
    return [
        str(span.attributes.get("aioaudit.task.name") or "")
        or f"> {span.attributes['aioaudit.cancel.target.task.name']}"
        for span in spans
    ]


def test_lives_without_incident_are_not_told() -> None:
    story = Story()
    story.make(1)
    story.make(2, parent=1)
    story.end(2)
    story.end(1)
    assert (told(story), names(told(story, "all"))) == ([], ["t2", "t1"])


def test_creators_that_ended_long_before_are_told_when_what_they_made_is_touched() -> None:
    story = Story()
    story.make(1)
    story.make(2, parent=1)
    story.end(1)
    story.make(3, parent=2)
    story.end(2)
    story.end(3, "raised", error="KeyError: 'x'")
    spans = told(story)
    assert names(spans) == ["t2", "t1", "t3"]
    assert [span.parent for span in spans] == [spans[1].span_id, None, spans[0].span_id]
    assert [span.error for span in spans] == [None, None, "KeyError: 'x'"]
    assert names(told(story, "all")) == ["t1", "t2", "t3"]


def test_the_same_events_give_the_same_spans() -> None:
    story = Story()
    story.make(1)
    story.obey(1, story.cancel(1))

    def ids() -> list[tuple[int, int, int | None]]:
        return [(span.trace.id, span.span_id, span.parent) for span in told(story)]

    assert len(ids()) == 2
    assert ids() == ids()


def test_what_a_long_lived_task_makes_is_a_trace_of_its_own_with_a_link() -> None:
    story = Story()
    story.make(1)
    story.second += 61
    story.make(2, parent=1)
    story.obey(2, story.cancel(2))
    story.end(1)
    request, victim, server = told(story)
    assert victim.trace is request.trace is not server.trace
    assert [(link.trace.id, link.span_id, link.kind) for link in victim.links] == [
        (server.trace.id, server.span_id, "created_by"),
        (request.trace.id, request.span_id, "cancelled_by"),
    ]
    assert (victim.parent, names([server])) == (None, ["t1"])


def test_traces_stay_small_and_short() -> None:
    story = Story()
    story.make(0)
    for task in range(1, DEPTH + 3):
        story.make(task, parent=task - 1)
    spans = told(story, "all")
    for task in range(DEPTH + 3):
        story.end(task)
    spans = told(story, "all")
    assert len({span.trace.id for span in spans}) == 2
    wide = Story()
    wide.make(0)
    for task in range(1, MOST_TASKS + 5):
        wide.make(task, parent=0)
        wide.end(task)
    sizes: dict[int, int] = {}
    for span in told(wide, "all"):
        sizes[span.trace.id] = sizes.get(span.trace.id, 0) + 1
    assert max(sizes.values()) == MOST_TASKS - 1  # and the creator itself, which lives


def test_a_future_that_is_cancelled_is_a_request_to_all_who_await_it() -> None:
    story = Story()
    story.make(1)
    story.make(2)
    seq = story.tell(FutureCancel, waiters=[1, 2], waiter_names=["t1", "t2"], reason="explicit")
    story.obey(1, seq)
    story.obey(2, seq)
    request, first, second = told(story)
    assert [(link.kind, link.span_id) for link in request.links] == [
        ("cancels", first.span_id),
        ("cancels", second.span_id),
    ]
    assert request.attributes["aioaudit.cancel.target.task.ids"] == [1, 2]
    assert [link.kind for link in second.links] == ["cancelled_by"]


def test_requests_that_the_task_did_not_obey_are_linked_too() -> None:
    story = Story()
    story.make(1)
    first = story.cancel(1)
    story.cancel(1, behind=first)
    story.cancel(1, accepted=False)
    story.obey(1, first)
    spans = told(story)
    assert [link.kind for link in spans[-1].links] == ["cancelled_by", "asked_by"]
    assert spans[-1].attributes["aioaudit.cancel.requests"] == 2
    assert [len(span.links) for span in spans[:-1]] == [1, 1, 0]


def test_the_end_of_the_process_tells_of_what_has_not_ended() -> None:
    story = Story()
    story.make(1)
    story.make(2)
    story.cancel(2)
    story.tell(ProcessEnd, written=3, dropped=0)
    spans = told(story)
    assert names(spans) == ["> t2", "t2", "t1"]
    assert {span.attributes.get("aioaudit.task.outcome") for span in spans[1:]} == {"abandoned"}
    assert spans[1].end == nanoseconds("2026-01-01T12:00:00.004000Z")


@pytest.mark.parametrize("seed", range(100))
def test_lives_that_are_left_out_at_once_change_nothing_of_what_is_told(seed: int) -> None:
    """Whole batches of raw items give the same spans as their events one by one."""
    random = Random(seed)
    place = Place(RUN, "MainThread", 1, 1, lambda: None)
    kind = CreationSite(place, "app:work", None, None, 0)
    story = Story()
    items: list[Record] = [story.events[0]]
    living: list[Created] = []
    numbers = itertools.count(1)

    def tell(what: Callable[..., int], *args: Any, **keys: Any) -> int:
        seq = what(*args, **keys)
        items.append(story.events[-1])
        return seq

    def now() -> tuple[int, int]:
        story.seq += 1
        story.second += 0.001
        return story.seq, nanoseconds("2026-01-01T12:00:00.000000Z") + int(story.second * 1e9)

    for _ in range(60):
        some = random.choice(living) if living else None
        match random.choice("mmmmrrrrrcfe"):
            case "m":
                number = next(numbers)
                seq, ns = now()
                parent = None if some is None else some.task
                made = Created(seq, number, ns, kind, f"t{number}", parent)
                living.append(made)
                items.append(made)
            case "r" if some is not None:
                living.remove(some)
                if random.random() < 0.5:
                    items.append(Returned(*now(), some, 1))
                else:  # before Python 3.12
                    tell(story.end, some.task)
            case "c" if some is not None:
                by = random.choice(living).task
                seq = tell(story.cancel, some.task, by=by)
                if random.random() < 0.5:
                    living.remove(some)
                    tell(story.obey, some.task, seq)
            case "f" if some is not None:
                waiters = {"waiters": [some.task], "waiter_names": [some.name]}
                tell(story.tell, FutureCancel, reason="explicit", **waiters)
            case "e" if some is not None:
                living.remove(some)
                tell(story.end, some.task, "raised", error="KeyError: 'x'")
            case _:
                pass
    by_batch: list[SpanFacts] = []
    spans = Spans("touched", "cause", lambda _seq: None)
    for start in range(0, len(items), 20):
        by_batch += spans.take(Batch(items[start : start + 20]))
    one_by_one = Spans("touched", "cause", lambda _seq: None).take(
        [event_of(item) for item in items]
    )
    assert facts(by_batch) == facts(one_by_one)


def facts(spans: Sequence[SpanFacts]) -> list[Any]:
    """All of *spans* that can be compared, their order left aside."""
    return sorted(
        (
            span.span_id,
            span.trace.id,
            span.parent,
            span.start // 1000,
            span.end // 1000,
            sorted(map(str, span.attributes.items())),
            [(link.trace.id, link.span_id, link.kind) for link in span.links],
            span.error,
        )
        for span in spans
    )


def test_what_is_kept_is_bounded() -> None:
    spans = Spans("touched", "cause", lambda _seq: None)
    story = Story()
    for task in range(MOST_LIVING + 1):
        story.make(task)
        if len(story.events) >= 10_000:
            spans.take(story.events)
            story.events.clear()
    for task in range(MOST_ENDED + 1):
        story.end(10 * MOST_LIVING + task, "raised", error="E")
        story.cancel(5, accepted=False)
    spans.take(story.events)
    assert len(spans.lives.living) <= MOST_LIVING
    assert len(spans.lives.ended) <= MOST_ENDED
    assert len(spans._requests) <= MOST_ENDED


def given_provider() -> tuple[TracerProvider, InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return provider, kept


Opener = Callable[[trace.TracerProvider], OpenTelemetryExporter]


@pytest.fixture
def exporting_to() -> Iterator[Opener]:
    """Make an exporter; it is shut down with the test, else it sends metrics a minute later."""
    made: list[OpenTelemetryExporter] = []

    def make(provider: trace.TracerProvider) -> OpenTelemetryExporter:
        made.append(OpenTelemetryExporter(provider))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_METRICS_EXPORTER", "none")  # there is no collector here
        yield make
        for each in made:
            each.shutdown()


def test_it_is_an_exporter(exporting_to: Opener) -> None:
    assert isinstance(exporting_to(given_provider()[0]), Exporter)


def test_a_span_of_the_application_that_is_current_is_the_parent(exporting_to: Opener) -> None:
    provider, kept = given_provider()
    tracer = provider.get_tracer("app")
    exporter = exporting_to(provider)
    story = Story()
    story.make(1)
    story.obey(1, story.cancel(1))
    start, made, asked, ended = story.events
    exporter.export([start])
    with tracer.start_as_current_span("request") as request:
        exporter.witness(made)
    with tracer.start_as_current_span("admin") as admin:
        exporter.witness(asked)
    exporter.witness(ended)
    exporter.export([made, asked, ended])
    spans = {span.name: span for span in kept.get_finished_spans()}
    assert set(spans) == {"request", "admin", "asyncio.task work", "asyncio.cancel"}
    victim, cancel = spans["asyncio.task work"], spans["asyncio.cancel"]
    assert victim.parent == request.get_span_context()
    assert cancel.parent == admin.get_span_context()
    assert victim.context is not None
    assert victim.context.trace_id == request.get_span_context().trace_id
    assert [link.context for link in victim.links] == [cancel.get_span_context()]
    assert [link.context for link in cancel.links] == [victim.get_span_context()]
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_what_a_span_of_the_application_that_is_not_sampled_leads_to_is_not_sent(
    exporting_to: Opener,
) -> None:
    provider, kept = given_provider()
    exporter = exporting_to(provider)
    story = Story()
    story.make(1)
    story.obey(1, story.cancel(1))
    exporter.export(story.events[:1])
    unsampled = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))

    def happen() -> None:
        with trace.use_span(unsampled):
            for event in story.events[1:]:
                exporter.witness(event)

    contextvars.copy_context().run(happen)
    exporter.export(story.events[1:])
    assert kept.get_finished_spans() == ()


LEFT = {
    "reason": "disconnect",
    "trace_id": f"{0xC1:032x}",
    "span_id": f"{0xA1:016x}",
    "parent_span_id": f"{0xD1:016x}",
}
"""A client left whose request came with a span of its own, and has one here."""


def test_a_request_stands_under_the_span_of_who_was_asked_where_the_asker_has_none(
    exporting_to: Opener,
) -> None:
    """A server that hears that a client left is in no trace itself: that of the request shows it."""
    provider, kept = given_provider()
    exporter = exporting_to(provider)
    story = Story()
    story.make(1)
    story.make(2)
    left = story.cancel(1, **LEFT)
    story.obey(2, story.cancel(2, **LEFT | {"by": 1, "reason": "explicit"}))
    story.obey(1, left)
    exporter.export(story.events)
    spans = kept.get_finished_spans()
    of_client, of_task = (span for span in spans if span.name == "asyncio.cancel")
    for span in (of_client, of_task):
        assert span.context is not None
        assert span.parent is not None
        assert (span.context.trace_id, span.parent.span_id) == (0xC1, 0xA1)
    kinds = [
        [
            (str((each.attributes or {})["aioaudit.link"]), each.context.span_id)
            for each in span.links
        ]
        for span in (of_client, of_task)
    ]
    assert ("client", 0xD1) in kinds[0]
    assert [kind for kind, _ in kinds[1]] == ["called_by", "cancels"]


def test_what_a_line_says_is_not_sampled_is_not_sent(exporting_to: Opener) -> None:
    provider, kept = given_provider()
    exporter = exporting_to(provider)
    story = Story()
    story.make(1)
    story.obey(1, story.cancel(1, **LEFT, trace_sampled=False))
    exporter.export(story.events)
    assert [span.name for span in kept.get_finished_spans()] == ["asyncio.task work"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"trace_id": "0" * 32},
        {"span_id": "1" * 17},
        {"trace_id": "G" * 32},
        {"span_id": None},
        {"trace_id": "\u0661" * 32},
    ],
)
def test_ids_that_are_none_are_left_alone(exporting_to: Opener, wrong: dict[str, Any]) -> None:
    """A log may hold anything; then the request stands under its task."""
    provider, kept = given_provider()
    exporter = exporting_to(provider)
    story = Story()
    story.make(1)
    story.obey(1, story.cancel(1, **LEFT | wrong))
    exporter.export(story.events)
    task, request = sorted(kept.get_finished_spans(), key=lambda span: span.name, reverse=True)
    assert request.parent == task.get_span_context()


def test_where_nothing_is_traced_nothing_is_kept_of_an_event(exporting_to: Opener) -> None:
    exporter = exporting_to(given_provider()[0])
    story = Story()
    story.make(1)
    exporter.witness(story.events[1])
    assert len(exporter._current._seen) == 0


def test_a_provider_that_is_not_of_the_sdk_is_refused_with_a_reason(exporting_to: Opener) -> None:
    class Tracer(trace.Tracer):
        def start_span(self, *_args: Any, **_more: Any) -> Any: ...

        def start_as_current_span(self, *_args: Any, **_more: Any) -> Any: ...

    class Foreign(trace.TracerProvider):
        def get_tracer(self, *_args: Any, **_more: Any) -> Any:
            return Tracer()

    with pytest.raises(ExporterError, match=r"Foreign, whose tracers take no finished spans"):
        exporting_to(Foreign()).export([RUN.start_event([])])
    exporting_to(trace.NoOpTracerProvider()).export([RUN.start_event([])])


def test_what_does_not_fit_into_the_queue_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: list[int] = []

    class Slow(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            sizes.append(len(spans))
            return SpanExportResult.SUCCESS if len(sizes) > 1 else SpanExportResult.FAILURE

        def shutdown(self) -> None:
            pass

    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    target = OwnSink(Slow(), TracerProvider(shutdown_on_exit=False))
    with target._lock:  # nobody sends meanwhile
        for _ in range(15):
            target.send(ReadableSpan("x"))
    assert target.flush(5)
    target.close()
    assert sizes == [4, 4, 2]
    assert (target.taken, target.sent, target.refused, target.dropped) == (15, 6, 4, 5)
    assert capsys.readouterr().err == "aioaudit: exporter 'otel': 9 of 15 spans did not arrive\n"
