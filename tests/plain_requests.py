"""Programs in which lines cancel tasks, most of them plainly: both cores are to tell the same of them.

`tests/process/test_plain_requests.py` runs all of them in a process, once with each core.  Whatever
they do is in an order of its own: nothing waits for a clock that another thing waits for.
"""
# ruff: noqa: SIM105 - which clause takes the error is what these programs are about

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import operator
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import aioaudit

MANY = 6
"""A line is found out the first time, and known to the core some times later."""

Victim = Callable[[], Coroutine[Any, Any, Any]]
Tasks = list["asyncio.Task[Any]"]

PROGRAMS: list[Callable[[], Awaitable[None]]] = []


def program(function: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Note a program."""
    PROGRAMS.append(function)
    return function


async def started(victim: Victim, count: int = MANY) -> Tasks:
    """Tasks that wait."""
    tasks = [asyncio.create_task(victim()) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def gathered(tasks: Tasks) -> list[Any]:
    """What they end with."""
    return await asyncio.gather(*tasks, return_exceptions=True)


async def awaited(tasks: Tasks) -> None:
    """The same, each awaited."""
    for task in tasks:
        try:
            await task
        except (asyncio.CancelledError, ValueError, KeyError, ExceptionGroup):
            pass


def cancel_all(tasks: Tasks) -> None:
    """Cancel them, and keep none in a variable."""
    for task in tasks:
        task.cancel()


# -- who is cancelled -------------------------------------------------------------------------


async def waits() -> None:
    await asyncio.sleep(100)


async def waits_further_in() -> None:
    await waits()


async def waits_for_a_future() -> None:
    await asyncio.get_running_loop().create_future()


async def cleans_up() -> None:
    try:
        await asyncio.sleep(100)
    finally:
        await asyncio.sleep(0)


async def swallows() -> None:
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        pass


async def swallows_and_waits() -> None:
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        pass
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def swallows_without_a_word() -> int:
    try:
        await asyncio.sleep(100)
    except BaseException:  # noqa: BLE001 - that is the question
        return 5
    return 6


async def replaces() -> None:
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        raise ValueError("instead") from None


async def raises_another() -> None:
    try:
        await asyncio.sleep(100)
    finally:
        raise asyncio.CancelledError("another")


async def raises_again() -> None:
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        raise


async def handles_others() -> None:
    try:
        await asyncio.sleep(100)
    except ValueError:
        pass


async def takes_back() -> None:
    task = asyncio.current_task()
    assert task is not None
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        task.uncancel()
    await asyncio.sleep(0)


async def asks_whose() -> None:
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError as error:
        answer = aioaudit.why(error)
        print(error.source, answer and answer.summary)  # type: ignore[attr-defined]
        raise


async def is_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(waits_further_in())  # one: a group has them in a set


async def is_in_a_timeout() -> None:
    async with asyncio.timeout(50):
        await asyncio.sleep(100)


async def gathers() -> None:
    await asyncio.gather(waits(), waits_further_in())


async def waits_with_a_limit() -> None:
    await asyncio.wait_for(asyncio.sleep(100), 50)


async def waits_in_a_generator() -> None:
    async def generate() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(100)

    async for _ in generate():
        pass


async def cancels_another_then() -> None:
    other = asyncio.create_task(waits())
    await asyncio.sleep(0)
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        other.cancel()
        raise


VICTIMS: list[Victim] = [
    waits,
    waits_further_in,
    waits_for_a_future,
    cleans_up,
    swallows,
    swallows_and_waits,
    swallows_without_a_word,
    replaces,
    raises_another,
    raises_again,
    handles_others,
    takes_back,
    asks_whose,
    is_in_a_group,
    is_in_a_timeout,
    gathers,
    waits_with_a_limit,
    waits_in_a_generator,
    cancels_another_then,
]


@program
async def each_is_cancelled_by_one_line() -> None:
    for victim in VICTIMS:
        for end in (gathered, awaited):
            tasks = await started(victim)
            for task in tasks:
                task.cancel()
            await end(tasks)


# -- how often, and who wants to know ------------------------------------------------------------


@program
async def twice() -> None:
    for victim in (waits, cleans_up):
        tasks = await started(victim)
        for task in tasks:
            task.cancel()
            task.cancel()
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await gathered(tasks)
        for task in tasks:
            task.cancel()


@program
async def with_messages() -> None:
    tasks = await started(waits)
    for number, task in enumerate(tasks):
        task.cancel("a message") if number % 2 else task.cancel(msg=None)
    await gathered(tasks)


@program
async def answers() -> None:
    def summary(what: Any) -> str | None:
        answer = aioaudit.why(what)
        return None if answer is None else answer.summary

    tasks = await started(waits, 12)
    cancel_all(tasks)
    print(summary(tasks[-1]))
    await asyncio.sleep(0)
    print(summary(tasks[-2]))
    results = await gathered(tasks)
    print([summary(task) for task in tasks[:4]], [error.source for error in results])
    tasks.clear()
    print([error.source for error in results], [summary(error) for error in results[-3:]])


@program
async def errors_that_outlive_their_tasks() -> None:
    async def raises(error: BaseException) -> None:
        raise error

    async def follows(kind: type[BaseException], error: BaseException) -> None:
        raise kind("after") from error

    for how in (
        raises,
        functools.partial(follows, ValueError),
        functools.partial(follows, asyncio.CancelledError),
    ):
        tasks = await started(waits)
        for task in tasks:
            task.cancel()
        results = await gathered(tasks)
        tasks.clear()
        await gathered([asyncio.create_task(how(error)) for error in results])


@program
async def waited_for() -> None:
    async def waiter(task: asyncio.Task[Any]) -> None:
        await task

    async def keeper(task: asyncio.Task[Any]) -> None:
        try:
            await task
        except asyncio.CancelledError:
            pass

    async def caller(task: asyncio.Task[Any]) -> None:
        await asyncio.wait([task])
        task.result()

    async def shielded(task: asyncio.Task[Any]) -> None:
        await asyncio.shield(task)

    for first in (False, True):
        for how in (waiter, keeper, caller, shielded):
            tasks = await started(waits)
            waiting = [asyncio.create_task(how(task)) for task in tasks]
            await asyncio.sleep(0)
            for task in waiting if first else tasks:
                task.cancel()
            await gathered(waiting)
            for task in tasks:
                task.cancel()
            await gathered(tasks)


@program
async def gathered_and_in_groups() -> None:
    async def gather(tasks: Tasks) -> None:
        await asyncio.gather(*tasks)

    async def group(victims: list[Victim]) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(victim()) for victim in victims]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()

    tasks = await started(waits)
    gathering = asyncio.create_task(gather(tasks))
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await gathered([gathering])
    await gathered([asyncio.create_task(group([waits] * MANY))])
    await gathered([asyncio.create_task(group([waits, replaces]))])


@program
async def while_something_is_handled() -> None:
    def cancel(task: asyncio.Task[Any]) -> None:
        task.cancel()

    tasks = await started(waits, 12)
    for number, task in enumerate(tasks):
        if number % 3 == 1:
            try:
                raise ValueError
            except ValueError:
                cancel(task)
        else:
            cancel(task)
    await gathered(tasks)


# -- who cancels ----------------------------------------------------------------------------------


@program
async def from_elsewhere() -> None:
    def cancel(task: asyncio.Task[Any]) -> None:
        task.cancel()

    async def other(task: asyncio.Task[Any]) -> None:
        task.cancel()

    loop = asyncio.get_running_loop()
    for number, task in enumerate(await started(waits, 24)):
        match number % 4:
            case 0:
                cancel(task)
            case 1:
                loop.call_soon(cancel, task)
            case 2:
                loop.call_soon(task.cancel)
            case _:
                await asyncio.create_task(other(task))
        await gathered([task])


@program
async def from_functions_of_c() -> None:
    tasks = await started(waits, 24)
    for _ in map(asyncio.Task.cancel, tasks[:6]):
        pass
    for task in tasks[6:12]:
        functools.partial(task.cancel)()
    for task in tasks[12:18]:
        operator.methodcaller("cancel")(task)
    for task in tasks[18:]:
        eval("task.cancel()", {"task": task})
    await gathered(tasks)


@program
async def from_far_in() -> None:
    def down(depth: int, task: asyncio.Task[Any]) -> None:
        if depth:
            down(depth - 1, task)
        else:
            task.cancel()

    async def further_in(depth: int, task: asyncio.Task[Any]) -> None:
        if depth:
            await further_in(depth - 1, task)
        else:
            task.cancel()

    tasks = await started(waits, 30)
    for number, task in enumerate(tasks[:18]):
        down((12, 2, 90)[number % 3], task)
    for number, task in enumerate(tasks[18:]):
        await further_in(number % 2, task)
    await gathered(tasks)


@program
async def from_a_library() -> None:
    lines = "def cancel(task):\n    task.cancel()\n\n\ndef through(function, task):\n    function(task)\n"
    lines += "\n\ndef ends(task):\n    task.cancel()\n"
    names: dict[str, Any] = {"__name__": "library"}
    exec(compile(lines, "/nowhere/site-packages/library.py", "exec"), names)

    def cancel(task: asyncio.Task[Any]) -> None:
        task.cancel()

    tasks = await started(waits, 32)
    for task in tasks[:6]:
        names["cancel"](task)
    for task in tasks[6:12]:
        names["through"](cancel, task)
    for task in tasks[12:16]:
        names["ends"](task)
    cancels = operator.methodcaller("cancel")
    ends: list[Callable[[Any], object]] = [cancels, names["ends"], names["cancel"]]
    for number, task in enumerate(tasks[16:]):
        ends[number % 3](task)  # one instruction, by itself and by way of the library
    await gathered(tasks)


@program
async def from_finalizers_and_signals() -> None:
    def cancel(task: asyncio.Task[Any]) -> None:
        task.cancel()

    class Dropped:
        def __init__(self, task: asyncio.Task[Any]) -> None:
            self.task = task

        def __del__(self) -> None:
            cancel(self.task)

    def handler(_signum: object, _frame: object) -> None:
        cancel(left.pop())

    tasks = await started(waits, 24)
    for number, task in enumerate(tasks[:12]):
        if number % 3:
            cancel(task)
        else:
            Dropped(task)
    left = tasks[12:]
    before = signal.signal(signal.SIGINT, handler)
    try:
        for number in range(12):
            match number % 4:
                case 0:
                    handler(2, None)
                case 1:
                    signal.raise_signal(signal.SIGINT)
                case 2:
                    handler(2, sys._getframe())
                case _:
                    cancel(left.pop())
    finally:
        signal.signal(signal.SIGINT, before)
    await gathered(tasks)


# -- what is cancelled ----------------------------------------------------------------------------


@program
async def futures() -> None:
    found: list[asyncio.Future[None]] = []

    async def waits_for_one() -> None:
        found.append(asyncio.get_running_loop().create_future())
        await found[-1]
        await asyncio.sleep(0)

    async def waits_for_a_shared_one() -> None:
        await found[0]

    def leave(_: asyncio.Future[None]) -> None: ...

    changes: list[Callable[[asyncio.Future[None]], object]] = [
        leave,
        lambda future: future.cancel(),
        lambda future: future.set_result(None),
        lambda future: future.add_done_callback(leave),
    ]
    for change in changes:
        found.clear()
        tasks = await started(waits_for_one)
        for future in found:
            change(future)
        for task in tasks:
            task.cancel()
        await gathered(tasks)
    found[:] = [asyncio.get_running_loop().create_future()]
    tasks = await started(waits_for_a_shared_one)
    for task in tasks:
        task.cancel()
    await gathered(tasks)


@program
async def tasks_of_other_kinds() -> None:
    class Own(asyncio.Task[Any]):
        def cancel(self, msg: Any = None) -> bool:
            return super().cancel(msg)

    class Same(asyncio.Task[Any]):
        pass

    loop = asyncio.get_running_loop()
    tasks = [kind(waits(), loop=loop) for kind in (Own, Same, asyncio.Task) * 4]
    for task in tasks[::5]:
        task.cancel()
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await gathered(tasks)


@program
async def names() -> None:
    tasks = [asyncio.create_task(waits(), name='é"\\\n\ud800' + "x" * 300) for _ in range(MANY)]
    own = asyncio.current_task()
    assert own is not None
    await asyncio.sleep(0)
    for number, task in enumerate(tasks):
        own.set_name(f'the {number}th "cause"')
        task.cancel()
        if number % 2:
            task.set_name("another")
    await gathered(tasks)


@program
async def dropped() -> None:
    tasks = await started(waits_for_a_future)
    cancel_all(tasks)
    tasks.clear()
    gc.collect()
    await asyncio.sleep(0)


@program
async def in_a_child() -> None:
    tasks = await started(waits, 12)
    for task in tasks[:6]:
        task.cancel()
    # Since 3.14 no loop runs in a child of a task.
    child = os.fork() if hasattr(os, "fork") and sys.version_info < (3, 14) else -1
    if child > 0:
        os.waitpid(child, 0)  # noqa: ASYNC222 - nothing else runs
    for task in tasks[6:]:
        task.cancel()
    await gathered(tasks)
    if child == 0:
        raise SystemExit


if __name__ == "__main__":
    logging.disable()  # of tasks that are dropped: in the order of their addresses
    for each in PROGRAMS:
        print(each.__name__)
        asyncio.run(each())  # type: ignore[arg-type]
