"""Events in a list."""

from __future__ import annotations

from aioaudit.delivery.encoding import Batch
from aioaudit.delivery.pipeline import Pipeline
from aioaudit.events import Event, LoopStart
from aioaudit.exporter import Exporter
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.identity import Run

RUN = Run()


def event() -> Event:
    return LoopStart(ts="now", seq=RUN.next_seq(), run=RUN.id, pid=RUN.pid, thread="t")


def test_it_is_an_exporter_and_begins_empty() -> None:
    exporter = MemoryExporter()
    assert isinstance(exporter, Exporter)
    assert exporter.events == []


def test_it_keeps_typed_events_in_order() -> None:
    exporter = MemoryExporter()
    first, second, third = event(), event(), event()
    exporter.export([first])
    exporter.export(Batch([second, third]))
    assert exporter.events == [first, second, third]
    assert exporter.events[1] is second


def test_its_events_stay_readable_after_the_end() -> None:
    run = Run()
    exporter = MemoryExporter()
    pipeline = Pipeline(exporter, name="memory", run=run, start=run.start_event([]))
    pipeline.open_now()
    assert pipeline.shutdown()
    assert [each.seq for each in exporter.events] == [1, 2]


def test_clear_forgets_what_was_kept_and_goes_on() -> None:
    exporter = MemoryExporter()
    kept = exporter.events
    exporter.export([event()])
    exporter.clear()
    last = event()
    exporter.export([last])
    assert exporter.events == [last]
    assert exporter.events is kept
