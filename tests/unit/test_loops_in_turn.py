"""Loops one after the other, as tests have them, and beside each other: the same lines, other places."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from aioaudit import enable
from aioaudit.core import Asked, Created
from aioaudit.core.choice import CORE
from aioaudit.delivery.listening import Listener
from aioaudit.events import TaskCancel
from tests.unit.test_findings import steps


async def child() -> None:
    """Runs, and no more."""
    await asyncio.sleep(0)


async def makes() -> None:
    """Make a task."""
    await asyncio.create_task(child(), name="made")


async def cancels() -> None:
    """Make one, and cancel it."""
    victim = asyncio.create_task(asyncio.sleep(60), name="victim")
    await steps()
    victim.cancel()
    await asyncio.wait([victim])


class Heard:
    """All records of some kinds, in order."""

    def __init__(self, *kinds: type[Any]) -> None:
        self.records: list[Any] = []
        self.faults: list[Exception] = []
        hears: dict[type[Any], Callable[[Any], object]] = dict.fromkeys(kinds, self.records.append)
        self.listener = Listener(hears, self.faults.append)


def test_a_line_says_in_each_loop_which_it_is() -> None:
    heard = Heard(Created)
    with enable(heard.listener, events="task.*"):
        for _ in range(4):
            asyncio.run(makes())
        first, second = asyncio.Runner(), asyncio.Runner()
        for _ in range(2):  # in turns
            first.run(makes())
            second.run(makes())
        first.close()
        second.close()
    made = [each for each in heard.records if each.name == "made"]
    numbers = [each.place.loop for each in made]
    start = numbers[0]
    assert numbers == [start + each for each in (0, 1, 2, 3, 4, 5, 4, 5)]
    parents = {each.task: each for each in heard.records}
    assert [parents[each.parent].place.loop for each in made] == numbers
    assert len({each.site.fields for each in made}) == 1
    assert made[4].site is made[6].site
    assert not heard.faults


def test_a_line_says_in_each_thread_which_it_is() -> None:
    heard = Heard(Created)
    turn = [threading.Semaphore(1), threading.Semaphore(0)]

    def alternate(mine: int) -> None:
        with asyncio.Runner() as runner:
            for _ in range(5):
                turn[mine].acquire()
                runner.run(makes())
                turn[1 - mine].release()

    with enable(heard.listener, events="task.*"):
        threads = [
            threading.Thread(target=alternate, args=(mine,), name=f"number {mine}")
            for mine in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    made = [each.place for each in heard.records if each.name == "made"]
    assert [place.thread for place in made] == ["number 0", "number 1"] * 5
    assert len({(place.thread, place.loop) for place in made}) == 2
    assert not heard.faults


@pytest.mark.skipif(
    CORE.name != "native" or sys.version_info < (3, 12), reason="only C takes requests in by itself"
)
def test_a_request_that_is_like_one_of_another_loop_is_plain_at_once() -> None:
    heard = Heard(Asked, TaskCancel)
    with enable(heard.listener, events="task.*"):
        for _ in range(6):
            asyncio.run(cancels())
    requests = [each for each in heard.records if type(each) is Asked]
    assert [type(each) for each in heard.records[2:]] == [Asked] * 4
    places = [each.born.place.loop for each in requests]
    assert places == [places[0] + each for each in range(len(places))]
    assert [each.line[3].loop for each in requests] == places
    assert not heard.faults


def test_a_loop_leaves_nothing_of_ours_to_the_collector() -> None:
    heard = Heard(Created)
    with enable(heard.listener, events="task.*"):
        asyncio.run(makes())
        run = heard.records[0].place.run  # the collector may find what other tests left
        heard.records.clear()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(3):
                asyncio.run(makes())
            heard.records.clear()
            gc.collect()
            left = [each for each in gc.garbage if getattr(each, "place", None) is not None]
            left = [each for each in left if each.place.run is run]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not left


async def everything() -> None:
    """Make and cancel tasks, and let time run out, twice: what is seen again, the core knows."""
    for _ in range(2):
        await makes()
        await cancels()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(60)


async def many_return() -> None:
    """Make more tasks than are kept of those that returned last."""
    for _ in range(10):
        await asyncio.gather(*(child() for _ in range(500)))


async def many_are_asked() -> None:
    """Ask more tasks than are kept of those that are gone, each at another address."""
    made = [asyncio.create_task(asyncio.sleep(60)) for _ in range(200)]
    await steps()
    while made:
        made[-1].cancel()
        await asyncio.wait([made.pop()])


def test_many_loops_in_turn_leave_no_more_behind_than_few() -> None:
    heard: list[Any] = []
    faults: list[Exception] = []
    listener = Listener(dict.fromkeys((Created, TaskCancel), heard.append), faults.append)

    def run(loops: int) -> int:
        for _ in range(loops):
            asyncio.run(everything())
        asyncio.run(many_return())
        asyncio.run(many_are_asked())
        heard.clear()
        gc.collect()
        return len(gc.get_objects())

    with enable(listener, events="task.*"):
        run(30)  # the places of lines have room for some
        few = run(20)
        many = run(300)
    # A single object for each loop would be three hundred; what is swept now and then is fewer.
    assert many < few + 200
    assert not faults


def test_a_code_that_is_gone_is_no_other_in_the_next_loop() -> None:
    heard = Heard(Created)
    gone = "async def {name}():\n    await asyncio.sleep(0)\n"

    async def makes_one(name: str) -> None:
        """One line for all that are made, and each runs a code that goes at once."""
        space: dict[str, Any] = {"asyncio": asyncio}
        exec(compile(gone.format(name=name), "<made>", "exec"), space)
        await asyncio.create_task(space.pop(name)(), name=name)

    with enable(heard.listener, events="task.*"):
        for number in range(300):
            asyncio.run(makes_one(f"number_{number}"))
    made = [each for each in heard.records if each.name.startswith("number_")]
    assert len(made) == 300
    assert [each.coro.rpartition(":")[2] for each in made] == [each.name for each in made]
    assert not heard.faults
