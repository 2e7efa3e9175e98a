"""``TaskGroup.cancel()`` of Python 3.15: the program itself ends a group, in every way to call it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    settle,
    spawn,
    start,
    steps,
)

Group = Any
"""`asyncio.TaskGroup`, whose ``cancel`` no type checker of an older Python knows."""


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


async def grouped(name: str, arm: Callable[[Group], None]) -> None:
    """A group in the task ``NAME.owner`` with the child ``NAME.child``; *arm* has it cancelled."""

    async def owner() -> None:
        group: Group = asyncio.TaskGroup()
        async with group:
            group.create_task(forever(), name=f"{name}.child")
            await steps()
            arm(group)
            await forever()

    await settle(spawn(f"{name}.owner", owner()))


async def by_a_line() -> None:
    async def ends(group: Group) -> None:
        group.cancel()  # LINE by_a_line

    await grouped("line", lambda group: spawn("line.asker", ends(group)))


# WHY line.owner: returned, absorbed
#   cancelled line.owner task_group @by_a_line by=line.asker
#   called task_group @by_a_line by=line.asker
# WHY line.child: cancelled, obeyed
#   cancelled line.child task_group @by_a_line by=line.asker
#   called task_group @by_a_line by=line.asker


async def by_its_owner() -> None:
    def ends(group: Group) -> None:
        group.cancel()  # LINE by_its_owner

    await grouped("itself", ends)


# WHY itself.owner: returned, absorbed
#   cancelled itself.owner task_group @by_its_owner by=itself.owner
#   called task_group @by_its_owner by=itself.owner
# WHY itself.child: cancelled, obeyed
#   cancelled itself.child task_group @by_its_owner by=itself.owner
#   called task_group @by_its_owner by=itself.owner


async def by_a_timer() -> None:
    loop = asyncio.get_running_loop()

    def arm(group: Group) -> None:
        loop.call_later(0.001, group.cancel)  # LINE by_a_timer

    await grouped("timer", arm)


# WHY timer.owner: returned, absorbed
#   cancelled timer.owner task_group @by_a_timer detail~call_later
#   called task_group @by_a_timer detail~call_later
# WHY timer.child: cancelled, obeyed
#   cancelled timer.child task_group @by_a_timer detail~call_later
#   called task_group @by_a_timer detail~call_later


async def by_way_of_another_thread() -> None:
    loop = asyncio.get_running_loop()

    def arm(group: Group) -> None:
        def end() -> None:
            loop.call_soon_threadsafe(group.cancel)  # LINE handed_over

        threading.Thread(target=end, name="ending-thread").start()

    await grouped("handed", arm)


# WHY handed.owner: returned, absorbed
#   cancelled handed.owner task_group @handed_over by=ending-thread detail~call_soon_threadsafe
#   called task_group @handed_over by=ending-thread detail~call_soon_threadsafe
# WHY handed.child: cancelled, obeyed
#   cancelled handed.child task_group @handed_over by=ending-thread detail~call_soon_threadsafe
#   called task_group @handed_over by=ending-thread detail~call_soon_threadsafe


async def in_another_thread() -> None:
    loop = asyncio.get_running_loop()

    def arm(group: Group) -> None:
        def end() -> None:
            group.cancel()  # LINE in_another_thread
            loop.call_soon_threadsafe(bool)  # what was done is not noticed otherwise

        thread = threading.Thread(target=end, name="ending-thread")
        thread.start()
        thread.join()

    await grouped("thread", arm)


# WHY thread.owner: returned, absorbed
#   cancelled thread.owner task_group @in_another_thread by=ending-thread
#   called task_group @in_another_thread by=ending-thread
# WHY thread.child: cancelled, obeyed
#   cancelled thread.child task_group @in_another_thread by=ending-thread
#   called task_group @in_another_thread by=ending-thread


async def by_a_signal_of_the_loop() -> None:
    loop = asyncio.get_running_loop()

    def arm(group: Group) -> None:
        loop.add_signal_handler(signal.SIGTERM, group.cancel)  # LINE by_a_signal
        send(signal.SIGTERM)

    await grouped("signal", arm)
    loop.remove_signal_handler(signal.SIGTERM)


# WHY signal.owner: returned, absorbed
#   cancelled signal.owner task_group @by_a_signal by=? detail~
#   signal SIGTERM @by_a_signal detail~
# WHY signal.child: cancelled, obeyed
#   cancelled signal.child task_group @by_a_signal by=? detail~
#   signal SIGTERM @by_a_signal detail~


async def by_a_function_for_a_signal() -> None:
    loop = asyncio.get_running_loop()

    def arm(group: Group) -> None:
        def end() -> None:
            group.cancel()  # LINE by_a_function

        loop.add_signal_handler(signal.SIGTERM, end)
        send(signal.SIGTERM)

    await grouped("function", arm)
    loop.remove_signal_handler(signal.SIGTERM)


# WHY function.owner: returned, absorbed
#   cancelled function.owner task_group @by_a_function by=? detail~
#   signal SIGTERM @by_a_function detail~
# WHY function.child: cancelled, obeyed
#   cancelled function.child task_group @by_a_function by=? detail~
#   signal SIGTERM @by_a_function detail~


async def in_a_handler_of_a_signal() -> None:
    # It runs inside of the owner, who has nothing to do with it.
    def arm(group: Group) -> None:
        before = signal.signal(
            signal.SIGUSR1,
            lambda *_: group.cancel(),  # LINE in_a_handler
        )
        signal.raise_signal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)

    await grouped("handler", arm)


# WHY handler.owner: returned, absorbed
#   cancelled handler.owner task_group @in_a_handler
#   signal SIGUSR1 @in_a_handler
# WHY handler.child: cancelled, obeyed
#   cancelled handler.child task_group @in_a_handler
#   signal SIGUSR1 @in_a_handler


async def of_two_groups_one_has_the_signal() -> None:
    # The function is the same for both: only the object tells whose it was.
    loop = asyncio.get_running_loop()
    other: Group = asyncio.TaskGroup()

    def arm(group: Group) -> None:
        loop.add_signal_handler(signal.SIGTERM, other.cancel)
        loop.call_later(0.001, group.cancel)  # LINE of_two

    await grouped("two", arm)
    loop.remove_signal_handler(signal.SIGTERM)


# WHY two.owner: returned, absorbed
#   cancelled two.owner task_group @of_two detail~call_later
#   called task_group @of_two detail~call_later
# WHY two.child: cancelled, obeyed
#   cancelled two.child task_group @of_two detail~call_later
#   called task_group @of_two detail~call_later


async def in_a_done_callback() -> None:
    future = asyncio.get_running_loop().create_future()

    def arm(group: Group) -> None:
        def end(_: object) -> None:
            group.cancel()  # LINE in_a_done_callback

        future.add_done_callback(end)
        future.set_result(None)

    await grouped("callback", arm)


# WHY callback.owner: returned, absorbed
#   cancelled callback.owner task_group @in_a_done_callback detail~callback
#   called task_group @in_a_done_callback detail~callback
# WHY callback.child: cancelled, obeyed
#   cancelled callback.child task_group @in_a_done_callback detail~callback
#   called task_group @in_a_done_callback detail~callback


async def while_a_timeout_is_handled() -> None:
    async def tries(group: Group) -> None:
        try:
            async with asyncio.timeout(0.001):  # LINE late_deadline
                await forever()
        except TimeoutError:
            group.cancel()  # LINE timeout_handled

    await grouped("late", lambda group: spawn("late.asker", tries(group)))


# WHY late.asker: returned, absorbed
#   cancelled late.asker timeout @late_deadline
#   deadline @late_deadline seconds=0.001
# WHY late.owner: returned, absorbed
#   cancelled late.owner task_group @timeout_handled by=late.asker detail~TimeoutError
#   called task_group @timeout_handled by=late.asker detail~TimeoutError
# WHY late.child: cancelled, obeyed
#   cancelled late.child task_group @timeout_handled by=late.asker detail~TimeoutError
#   called task_group @timeout_handled by=late.asker detail~TimeoutError


async def while_a_cancellation_is_handled() -> None:
    async def gives_up(group: Group) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            group.cancel()  # LINE cancel_handled
            raise

    asked: list[asyncio.Task[Any]] = []

    def arm(group: Group) -> None:
        asked.append(spawn("chained.asker", gives_up(group)))

    owner = spawn("chained", grouped("chained", arm))
    while not asked:  # noqa: ASYNC110 - it is there after a few steps
        await asyncio.sleep(0)
    await steps()
    asked[0].cancel()  # LINE chained_first
    await settle(owner)


# WHY chained.asker: cancelled, obeyed
#   cancelled chained.asker explicit @chained_first by=while_a_cancellation_is_handled
#   called explicit @chained_first by=while_a_cancellation_is_handled
# WHY chained.owner: returned, absorbed
#   cancelled chained.owner task_group @cancel_handled by=chained.asker
#   cancelled chained.asker explicit @chained_first by=while_a_cancellation_is_handled
#   called explicit @chained_first by=while_a_cancellation_is_handled
# WHY chained.child: cancelled, obeyed
#   cancelled chained.child task_group @cancel_handled by=chained.asker
#   cancelled chained.asker explicit @chained_first by=while_a_cancellation_is_handled
#   called explicit @chained_first by=while_a_cancellation_is_handled


async def early(name: str, arm: Callable[[Group], Coroutine[Any, Any, None] | None]) -> None:
    """A group that *arm* has cancelled before the task ``NAME.owner`` enters it."""
    group: Group = asyncio.TaskGroup()

    async def owner() -> None:
        async with group:
            await forever()

    more = arm(group)
    if more is not None:
        await more
    await settle(spawn(f"{name}.owner", owner()))


async def before_it_is_entered() -> None:
    async def ends(group: Group) -> None:
        group.cancel()  # LINE early
        group.cancel()  # once is enough

    async def arm(group: Group) -> None:
        await settle(spawn("early.asker", ends(group)))

    await early("early", arm)


# WHY early.owner: returned, absorbed
#   cancelled early.owner task_group @early by=early.asker detail~before
#   called task_group @early by=early.asker detail~before


async def before_it_is_entered_by_a_signal() -> None:
    def arm(group: Group) -> None:
        before = signal.signal(
            signal.SIGUSR1,
            lambda *_: group.cancel(),  # LINE early_signal
        )
        signal.raise_signal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)

    await early("early_signal", arm)


# WHY early_signal.owner: returned, absorbed
#   cancelled early_signal.owner task_group @early_signal detail~before
#   signal SIGUSR1 @early_signal detail~


async def before_it_is_entered_by_a_timer() -> None:
    loop = asyncio.get_running_loop()

    async def arm(group: Group) -> None:
        loop.call_later(0.001, group.cancel)  # LINE early_timer
        while not group._cancel_on_enter:  # noqa: ASYNC110 - nothing tells when it is
            await asyncio.sleep(0.001)

    await early("early_timer", arm)


# WHY early_timer.owner: returned, absorbed
#   cancelled early_timer.owner task_group @early_timer detail~before
#   called task_group @early_timer detail~call_later


async def before_it_is_entered_while_a_cancellation_is_handled() -> None:
    async def gives_up(group: Group) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            group.cancel()  # LINE early_chained
            raise

    async def arm(group: Group) -> None:
        asker = spawn("early_chained.asker", gives_up(group))
        await steps()
        asker.cancel()  # LINE early_first
        await settle(asker)

    await early("early_chained", arm)


# WHY early_chained.asker: cancelled, obeyed
#   cancelled early_chained.asker explicit @early_first
#   called explicit @early_first by=before_it_is_entered_while_a_cancellation_is_handled
# WHY early_chained.owner: returned, absorbed
#   cancelled early_chained.owner task_group @early_chained by=early_chained.asker detail~before
#   cancelled early_chained.asker explicit @early_first
#   called explicit @early_first by=before_it_is_entered_while_a_cancellation_is_handled


start(
    by_a_line,
    by_its_owner,
    by_a_timer,
    by_way_of_another_thread,
    in_another_thread,
    by_a_signal_of_the_loop,
    by_a_function_for_a_signal,
    in_a_handler_of_a_signal,
    of_two_groups_one_has_the_signal,
    in_a_done_callback,
    while_a_timeout_is_handled,
    while_a_cancellation_is_handled,
    before_it_is_entered,
    before_it_is_entered_by_a_signal,
    before_it_is_entered_by_a_timer,
    before_it_is_entered_while_a_cancellation_is_handled,
)
