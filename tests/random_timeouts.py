"""Random programs in which timeouts run out, from the same few lines, in tasks that do whatever tasks may do.

    python tests/random_timeouts.py SEED...

`tests/judges/test_cores.py` runs them under both cores.  The clock of their loop goes on by as
much as there is to wait for, and by nothing else, so all that happens is in an order of its own.
"""
# ruff: noqa: SIM105 - which clause takes the error is what these programs are about

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import selectors
import sys
from pathlib import Path
from typing import Any

import aioaudit

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.random_requests import KEPT, OTHERS, cancel_each, cancel_one, number_of, waits

SHORT, LONG = 0.25, 1.0  # each an object of its own, as a line of a program has it

Tasks = list["asyncio.Task[Any]"]


class Selector(selectors.SelectSelector):
    """Never waits."""

    loop: Loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let the time go on."""
        if timeout is not None and timeout > 0:
            self.loop.now += timeout + self.loop.late
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, which is late by as much as it is told."""

    now = 1000.0
    late = 0.0

    def __init__(self) -> None:
        selector = Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """What the clock says."""
        return self.now


def tell(what: Any) -> None:
    """Print what is known of a task or an error, without its times."""
    answer = aioaudit.why(what)
    if answer is not None:
        became = [(each.seq, each.became, each.at, each.absorbed_at) for each in answer.requests]
        print(answer.summary, answer.outcome, answer.cancel_outcome, became)


async def runs_out(chance: random.Random, depth: int) -> None:
    """The plain one."""
    try:
        async with asyncio.timeout(SHORT):
            await lives(chance, depth)
    except TimeoutError:
        pass


async def runs_out_and_fails(chance: random.Random, depth: int) -> None:
    """One that nobody catches here."""
    async with asyncio.timeout(SHORT):
        await lives(chance, depth)


async def runs_out_inside(chance: random.Random, depth: int) -> None:
    """One in another, perhaps at the same time."""
    async with asyncio.timeout(chance.choice([SHORT, LONG])):
        async with asyncio.timeout(SHORT):
            await lives(chance, depth)


async def is_rescheduled(chance: random.Random, depth: int) -> None:
    """It has another time, or none."""
    now = asyncio.get_running_loop().time()
    async with asyncio.timeout(SHORT) as timeout:
        timeout.reschedule(chance.choice([None, now - 1, now + SHORT, now + LONG]))
        await lives(chance, depth)


async def handles(chance: random.Random, depth: int) -> None:
    """Do something with the error inside of the block."""
    way = chance.randrange(7)
    async with asyncio.timeout(SHORT):
        try:
            await lives(chance, depth)
        except asyncio.CancelledError as error:
            if way == 0:
                return
            if way == 1:
                raise ValueError from None
            KEPT.extend([error] * chance.randrange(2))
            if way == 2:
                cancel_one(chance.choice(OTHERS))
            elif way == 3:
                str(getattr(error, "source", None))
            elif way == 4:
                await waits(chance)
            elif way == 5:
                await asyncio.sleep(0.1)
            raise


async def keeps(chance: random.Random, depth: int) -> None:
    """Do something with what comes out of the block."""
    way = chance.randrange(7)
    try:
        async with asyncio.timeout(SHORT):
            await lives(chance, depth)
    except TimeoutError as error:
        KEPT.extend([error] * chance.randrange(2))
        if way == 0 and error.__cause__ is not None:
            raise error.__cause__ from None
        if way == 1:
            raise
        if way == 2:
            tell(error)
        elif way == 3:
            cancel_one(chance.choice(OTHERS))
        elif way == 4:
            await asyncio.sleep(0)
        elif way == 5 and error.__cause__ is not None:
            str(getattr(error.__cause__, "source", None))
    await asyncio.sleep(0)


async def takes_back(chance: random.Random, depth: int) -> None:
    """Take back what was the timeout's."""
    task = asyncio.current_task()
    assert task is not None
    async with asyncio.timeout(SHORT):
        try:
            await lives(chance, depth)
        except asyncio.CancelledError:
            task.uncancel()
            if chance.random() < 0.5:
                raise


WAYS = [
    runs_out,
    runs_out,
    runs_out,
    runs_out_and_fails,
    runs_out_inside,
    is_rescheduled,
    handles,
    keeps,
    takes_back,
]


async def lives(chance: random.Random, depth: int) -> None:
    """Wait inside of what tasks wait in."""
    if depth == 0:
        await waits(chance)
        return
    way = chance.randrange(len(WAYS) + 9)
    if way < len(WAYS):
        await WAYS[way](chance, depth - 1)
        return
    further = lives(chance, depth - 1)
    way -= len(WAYS)
    if way == 0:
        try:
            await further
        finally:
            await asyncio.sleep(chance.choice([0, 0.1, 0.3]))
    elif way == 1:
        with contextlib.suppress(BaseExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(further)
    elif way == 2:
        await asyncio.wait_for(further, chance.choice([SHORT, LONG]))
    elif way == 3:
        await asyncio.gather(further, return_exceptions=chance.random() < 0.5)
    elif way == 4:
        await asyncio.shield(further)
    elif way == 5:
        try:
            await further
        except (TimeoutError, ValueError):
            pass
        await runs_out(chance, 0)
    elif way == 6:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + SHORT):
            await further
    elif way == 7:
        try:
            await further
        finally:
            cancel_one(chance.choice(OTHERS))
    else:
        await further


async def awaits(task: asyncio.Task[Any]) -> None:
    """Wait for a task that a timeout may end."""
    try:
        await task
    except (TimeoutError, ValueError):
        await asyncio.sleep(0)


async def happens(chance: random.Random, tasks: Tasks) -> None:
    """Let time go by, or do something to one of *tasks*."""
    way, task = chance.choice([*range(18), 10, 10]), chance.choice(tasks)
    if way < 7:
        await asyncio.sleep(chance.choice([0, 0, 0.05, 0.15]))
    elif way < 9:
        cancel_one(chance.choice(OTHERS))
    elif way == 9:
        tasks.append(asyncio.create_task(awaits(task)))
    elif way == 10:
        for _ in range(3):
            ways = chance.choice(WAYS), chance.choice([0, 0, 0, 1])
            tasks.append(asyncio.create_task(ways[0](random.Random(chance.random()), ways[1])))
    elif way == 11:
        task.set_name(f"Task-{number_of(task)}" + chance.choice(["x", "é", '"', "n" * 300]))
    elif way == 12:
        tell(task)
    elif way == 13:
        KEPT.clear()
        gc.collect()
    elif way == 14:
        task.uncancel()
    elif way == 15:
        task.cancel("a message")
    elif way == 16:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.late = chance.choice([0.0, 0.0, 0.0004, 0.008])
    else:
        await asyncio.wait([task], timeout=chance.choice([0, 0.05]))


async def perform(seed: int) -> None:
    """One program."""
    gc.disable()  # when it comes by itself depends on what a core allocates
    chance = random.Random(seed)
    KEPT.clear()
    OTHERS[:] = [
        asyncio.create_task(lives(random.Random(seed + number), chance.choice([1, 1, 1, 2, 3])))
        for number in range(8)
    ]
    tasks = list(OTHERS)
    for _ in range(30):
        await happens(chance, tasks)
    while left := [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]:
        await asyncio.sleep(chance.choice([0, SHORT]))
        cancel_each(sorted((each for each in left if not each.done()), key=number_of))
        for _ in range(4):
            await asyncio.sleep(0)
    for task in tasks:
        tell(task)
        if not task.cancelled():
            task.exception()


async def main(seeds: list[int]) -> None:
    """All of them, in one loop: what a core has found out about a line is of use in one only."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    for seed in seeds:
        await perform(seed)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main([int(each) for each in sys.argv[1:]]))
