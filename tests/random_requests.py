"""Random programs in which the same few lines cancel tasks that do with it whatever tasks may do.

    python tests/random_requests.py SEED...

`tests/judges/test_cores.py` runs them under both cores.  Nothing waits for a clock; each event of
a program is in an order of its own.
"""
# ruff: noqa: SIM105 - which clause takes the error is what these programs are about

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import re
import sys
from typing import Any

import aioaudit

Tasks = list["asyncio.Task[Any]"]

KEPT: list[BaseException] = []
"""Errors that outlive those who handled them."""

OTHERS: Tasks = []
"""The tasks that are cancelled, also by one another."""


def cancel_one(task: asyncio.Task[Any]) -> None:
    """One of the lines."""
    task.cancel()


def cancel_each(tasks: Tasks) -> None:
    """The other one."""
    for task in tasks:
        task.cancel()


async def waits(chance: random.Random) -> None:
    """Wait for a future of asyncio's."""
    way = chance.randrange(4)
    if way == 0:
        await asyncio.get_running_loop().create_future()
    elif way == 1:
        await asyncio.Event().wait()
    elif way == 2:
        await asyncio.Queue[int]().get()
    else:
        await asyncio.sleep(100)


async def handles(chance: random.Random, depth: int, way: int) -> None:
    """Wait further in, and do something with the error."""
    try:
        await lives(chance, depth - 1)
    except (ValueError, KeyError):
        pass
    except BaseException as error:
        if way == 0:
            return
        if way == 1:
            raise ValueError from None
        if way == 2:
            raise KeyError from error
        KEPT.extend([error] * chance.randrange(2))
        if way == 3:
            cancel_one(chance.choice(OTHERS))
        elif way == 4:
            str(getattr(error, "source", None))
        elif way == 5:
            await waits(chance)
        elif way == 6:
            await asyncio.sleep(0)
        if chance.random() < 0.7:
            raise


async def lives(chance: random.Random, depth: int) -> None:
    """Wait inside of what tasks wait in."""
    if depth == 0:
        await waits(chance)
        return
    way = chance.randrange(18)
    if way < 8:
        await handles(chance, depth, way)
        return
    further = lives(chance, depth - 1)
    if way == 8:
        try:
            await further
        except asyncio.CancelledError:
            pass
    elif way == 9:
        try:
            await further
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        await waits(chance)
    elif way == 10:
        try:
            await further
        finally:
            cancel_one(chance.choice(OTHERS))
    elif way == 11:
        try:
            await further
        finally:
            await asyncio.sleep(0)
    elif way == 12:
        async with asyncio.timeout(100):
            await further
    elif way == 13:
        with contextlib.suppress(BaseExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(further)
    elif way == 14:
        await asyncio.wait_for(further, 100)
    elif way == 15:
        await asyncio.gather(further, return_exceptions=chance.random() < 0.5)
    elif way == 16:
        await asyncio.shield(further)
    else:
        await further


async def awaits(task: asyncio.Task[Any]) -> None:
    """Wait for a task that may be cancelled."""
    try:
        await task
    finally:
        await asyncio.sleep(0)


def number_of(task: asyncio.Task[Any]) -> int:
    """The number in its name."""
    found = re.match(r"Task-(\d+)", task.get_name())
    assert found is not None
    return int(found[1])


async def happens(chance: random.Random, tasks: Tasks) -> None:
    """Do something to one of *tasks*."""
    way, task = chance.randrange(20), chance.choice(tasks)
    if way < 8:
        cancel_one(task)
    elif way < 12:
        await asyncio.sleep(0)
    elif way == 12:
        task.cancel("a message")
    elif way == 13:
        tasks.append(asyncio.create_task(awaits(task)))
    elif way == 14:
        task.set_name(f"Task-{number_of(task)}" + chance.choice(["x", "é", '"', "n" * 300]))
    elif way == 15:
        str(aioaudit.why(task))
    elif way == 16:
        KEPT.clear()
        gc.collect()
    elif way == 17:
        task.uncancel()
    elif way == 18:
        cancel_one(task)
        cancel_one(task)
    else:
        await asyncio.wait(
            [task, asyncio.create_task(asyncio.sleep(0))], return_when="FIRST_COMPLETED"
        )


async def perform(seed: int) -> None:
    """One program."""
    gc.disable()  # when it comes by itself depends on what a core allocates
    chance = random.Random(seed)
    KEPT.clear()
    OTHERS[:] = [
        asyncio.create_task(lives(random.Random(seed + number), chance.randrange(4)))
        for number in range(8)
    ]
    tasks = list(OTHERS)
    for _ in range(3):
        await asyncio.sleep(0)
    for _ in range(40):
        await happens(chance, tasks)
    while left := [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]:
        cancel_each(sorted(left, key=number_of))
        for _ in range(4):
            await asyncio.sleep(0)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def main(seeds: list[int]) -> None:
    """All of them, in one loop: what a core has found out about a line is of use in one only."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    for seed in seeds:
        await perform(seed)


if __name__ == "__main__":
    asyncio.run(main([int(each) for each in sys.argv[1:]]))
