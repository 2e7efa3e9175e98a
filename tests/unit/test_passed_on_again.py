"""Tasks that await each other and are all asked: what is passed on again and again is told a few times."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import aioaudit
import aioaudit.session
from aioaudit.events import TaskCancel
from tests.loops import every_loop

Waiting = asyncio.Task[None]

LONG = 150
"""Tasks of a queue: each of them asked, with all before it, makes half its square of calls."""


async def forever() -> None:
    await asyncio.sleep(60)


async def after(task: Waiting) -> None:
    await task


async def queue() -> list[Waiting]:
    tasks = [asyncio.create_task(forever(), name="0")]
    for number in range(1, LONG):
        tasks.append(asyncio.create_task(after(tasks[-1]), name=str(number)))
    await asyncio.sleep(0.01)
    return tasks


@every_loop
def test_the_end_of_a_long_queue_is_told_in_few_requests(run: Any) -> None:
    tasks: list[Waiting] = []

    async def main() -> None:
        tasks.extend(await queue())

    with aioaudit.recording() as trail:
        run(main())
    requests = [event for event in trail.events if isinstance(event, TaskCancel)]
    assert len(requests) < 12 * LONG
    answers = [trail.why(task) for task in tasks]
    assert {None if each is None else each.root.what for each in answers} == {"shutdown"}
    assert all(task.cancelled() for task in tasks)


def test_each_that_was_asked_is_told_of_the_task_that_was_asked() -> None:
    async def main() -> None:
        tasks = await queue()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    with aioaudit.recording() as trail:
        asyncio.run(main())
    requests = [event for event in trail.events if isinstance(event, TaskCancel)]
    asked = [event.name for event in requests if event.reason == "explicit"]
    assert asked == [str(number) for number in range(LONG)]


def test_how_often_a_task_was_asked_stays_what_it_is() -> None:
    counts: list[list[int]] = []

    async def main() -> None:
        tasks = await queue()
        for task in tasks:
            task.cancel()
        counts.append([task.cancelling() for task in tasks])
        await asyncio.wait(tasks)

    asyncio.run(main())
    with aioaudit.recording():
        asyncio.run(main())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("times", [1, 8, 9, 30])
def test_what_was_lost_on_its_way_is_not_why_the_task_ends(times: int) -> None:
    async def keeps() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()

    async def outlives(task: Waiting) -> None:
        await task
        await forever()

    async def main() -> Waiting:
        inner = asyncio.create_task(keeps())
        outer = asyncio.create_task(outlives(inner), name="outer")
        await asyncio.sleep(0.01)
        for _ in range(times):
            outer.cancel("lost")
        await asyncio.wait([inner])
        await asyncio.sleep(0)
        outer.cancel("obeyed")
        await asyncio.wait([outer])
        return outer

    with aioaudit.recording() as trail:
        answer = trail.why(asyncio.run(main()))
    assert answer is not None
    assert answer.root.message == "obeyed"


def test_a_task_that_never_ends_is_asked_for_ever_in_bounded_memory() -> None:
    async def cleans_up(over: asyncio.Event) -> None:
        try:
            await forever()
        finally:
            await over.wait()

    async def main() -> int:
        over = asyncio.Event()
        inner = asyncio.create_task(cleans_up(over))
        middle = asyncio.create_task(after(inner))
        outer = asyncio.create_task(after(middle))
        await asyncio.sleep(0.01)
        for _ in range(300):
            outer.cancel()
        session = aioaudit.session.current()
        assert session is not None
        state = session.recorder.state.tasks.state(middle)
        over.set()
        kept = sum(len(each.passed_on or ()) for each in state.requests)
        await asyncio.wait([outer])
        return kept

    with aioaudit.recording():
        assert 0 < asyncio.run(main()) <= 64
