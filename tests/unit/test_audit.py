"""`aioaudit.audit`: events of the program's own, among those of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import aioaudit
from aioaudit.cpython import inplace
from aioaudit.events import Event, ProcessDropped, TaskCancel, TaskDone, TaskUncancel, name_of
from aioaudit.exporters.memory import MemoryExporter

BLANK: dict[str, Any] = {"ts": "", "seq": 0, "run": "", "pid": 0, "thread": ""}


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    aioaudit.disable()


def own(seq: int = 0) -> TaskUncancel:
    return TaskUncancel(
        **(BLANK | {"seq": seq}), task=77, name="own", coro="shop:order", remaining=0
    )


async def cancel_one() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("seq", [0, 1, 10**12])
def test_a_typed_event_stands_in_the_log_in_its_place_and_loses_no_other(seq: int) -> None:
    exporter = MemoryExporter()
    aioaudit.enable(exporter)

    async def main() -> None:
        await cancel_one()
        aioaudit.audit("task.uncancel", own(seq))
        await cancel_one()

    asyncio.run(main())
    aioaudit.disable()
    events = exporter.events
    assert "process.dropped" not in map(name_of, events)
    numbers = [event.seq for event in events]
    assert numbers == list(range(1, len(events) + 1))
    [index] = [i for i, event in enumerate(events) if isinstance(event, TaskUncancel)]
    told = events[index]
    assert told.run == events[0].run
    assert (told.pid, told.thread, told.loop) == (events[0].pid, "MainThread", 1)
    assert events[index - 1].ts <= told.ts <= events[index + 1].ts
    after = [type(event) for event in events[index:]]
    assert TaskCancel in after
    assert TaskDone in after


def test_hooks_hear_what_exporters_get_and_may_object() -> None:
    exporter = MemoryExporter()
    heard: list[Event] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "task.uncancel":
            heard.append(args[0])
            if len(heard) == 2:
                raise PermissionError("once was enough")

    remove = aioaudit.addaudithook(hook)
    try:
        aioaudit.enable(exporter)
        aioaudit.audit("task.uncancel", own(), "more")
        with pytest.raises(PermissionError):
            aioaudit.audit("task.uncancel", own())
        aioaudit.audit("shop.order", 7)
        asyncio.run(cancel_one())
        aioaudit.disable()
    finally:
        remove()
    told = [event for event in exporter.events if isinstance(event, TaskUncancel)]
    assert told == heard[:1]
    assert isinstance(exporter.events[-2], Event)
    assert "task.cancel" in map(name_of, exporter.events)


def test_what_frames_a_log_is_not_raised_by_a_program() -> None:
    aioaudit.enable(MemoryExporter())
    with pytest.raises(TypeError, match="exporters make it"):
        aioaudit.audit("process.dropped", ProcessDropped(**BLANK, count=3))


def test_an_event_that_nobody_wants_uses_no_number() -> None:
    exporter = MemoryExporter()
    aioaudit.enable(exporter, events="task.cancel")
    aioaudit.audit("task.uncancel", own())
    asyncio.run(cancel_one())
    aioaudit.disable()
    assert [event.seq for event in exporter.events] == [1, 2, 3]


def test_a_free_threaded_build_is_refused_in_plain_words() -> None:
    inplace.check(asyncio.Task, abiflags="")
    with pytest.raises(inplace.UnsupportedError, match="free-threaded build of CPython"):
        inplace.check(asyncio.Task, abiflags="t")
