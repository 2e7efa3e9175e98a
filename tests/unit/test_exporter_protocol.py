"""What `aioaudit.exporter` promises is all that an exporter needs, ours as anybody's."""

from __future__ import annotations

import ast
import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import aioaudit
from aioaudit import exporter
from aioaudit.cpython.behaviour import HAS_EAGER_TASKS
from aioaudit.events import Event, TaskCancel, TaskCreate, TaskDone, name_of
from aioaudit.exporter import (
    Batch,
    Created,
    Record,
    Returned,
    encode_events,
    event_name,
    event_of,
    records_of,
)
from aioaudit.exporters import jsonl
from aioaudit.session import current

FOLDER = Path(jsonl.__file__).parent


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)


def test_our_own_exporters_know_nothing_of_the_queue() -> None:
    files = [file for file in FOLDER.rglob("*.py") if file.parent.name != "__pycache__"]
    assert len(files) > 20
    for file in files:
        assert not [name for name in imported(file) if name.startswith("aioaudit.delivery")], file


def test_whatever_the_protocol_names_is_there() -> None:
    assert [name for name in exporter.__all__ if not hasattr(exporter, name)] == []


class Both:
    """Keeps what came as events, as records and as lines."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.records: list[Record] = []
        self.witnessed: list[Record] = []
        self.lines = b""

    def witness(self, record: Record) -> None:
        self.witnessed.append(record)

    def export(self, events: Sequence[Event]) -> None:
        assert isinstance(events, Batch)
        self.events += events
        self.records += records_of(events)
        self.lines += encode_events(events)

    def flush(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


async def child() -> None:
    await asyncio.sleep(0)


async def main() -> None:
    await asyncio.gather(child(), child())
    late = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    late.cancel()
    await asyncio.wait([late])


def seen() -> Both:
    found = Both()
    aioaudit.enable(found)
    try:
        asyncio.run(main())
        session = current()
        assert session is not None
        assert session.sinks[0][0].flush()
    finally:
        aioaudit.disable()
    return found


def test_records_say_what_their_events_say() -> None:
    found = seen()
    assert [event_of(record) for record in found.records] == found.events
    assert [event_name(record) for record in found.records] == list(map(name_of, found.events))
    assert found.lines.count(b"\n") == len(found.events)
    kinds = Counter(map(type, found.records))
    # What has no task for a parent, and what asyncio.run makes at its end, is an event at once.
    assert kinds[Created] >= 3
    # Before 3.12 each end is seen by a callback, which has the task and makes the event.
    assert kinds[Returned] >= (3 if HAS_EAGER_TASKS else 0)
    for record, event in zip(found.records, found.events, strict=True):
        assert record.seq == event.seq
        if isinstance(record, Created):
            assert isinstance(event, TaskCreate)
            told = (record.task, record.name, record.coro, record.parent)
            assert told == (event.task, event.name, event.coro, event.parent)
        elif isinstance(record, Returned):
            assert isinstance(event, TaskDone)
            assert record.born.task == event.task
            assert record.ns - record.born.ns >= 0


def test_records_are_of_the_two_frequent_kinds_or_events() -> None:
    """Whatever else a core notes by itself."""

    async def storm() -> None:
        tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(9)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    both = Both()
    with aioaudit.enable(both):
        asyncio.run(storm())
    for given in both.records, both.witnessed:
        assert all(isinstance(each, Created | Returned | Event) for each in given)
    _start, *between, _end = (each.seq for each in both.events)
    assert [each.seq for each in both.witnessed] == between
    assert len(both.records) == len(both.events) == len(both.lines.splitlines())
    assert sum(isinstance(each, TaskCancel) for each in both.records) == 9


def test_a_record_tells_where_the_code_is_that_its_task_runs() -> None:
    found = seen()
    code = child.__code__
    made = [each for each in found.records if isinstance(each, Created)]
    here = [each.runs_at for each in made if each.coro.endswith(":child")]
    assert here == [(code.co_filename, code.co_firstlineno)] * 2


def test_a_plain_sequence_of_events_is_its_own_records() -> None:
    events = seen().events
    assert records_of(events) is events
    assert encode_events(events) == Batch(list(events)).encode()
