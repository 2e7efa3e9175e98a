"""A timer runs out: which block, on which line, after how many seconds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    settle,
    spawn,
    start,
    steps,
)


async def block() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):  # LINE block
            await forever()


# WHY block: returned, absorbed
#   cancelled block timeout @block
#   deadline @block seconds=0.02


async def out_of_the_task() -> None:
    async def run() -> None:
        async with asyncio.timeout(0.02):  # LINE out_of_the_task
            await forever()

    victim = spawn("out_of_the_task.victim", run())
    await settle(victim)
    assert isinstance(victim.exception(), TimeoutError)


# WHY out_of_the_task.victim: raised, absorbed
#   cancelled out_of_the_task.victim timeout @out_of_the_task
#   deadline @out_of_the_task seconds=0.02


async def block_at() -> None:
    when = asyncio.get_running_loop().time() + 0.02
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(when):  # LINE block_at
            await forever()


# WHY block_at: returned, absorbed
#   cancelled block_at timeout @block_at
#   deadline @block_at seconds=0.02


async def awaited_inside() -> None:
    inner = spawn("awaited_inside.inner")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):  # LINE awaited_inside
            await inner


# WHY awaited_inside: returned, absorbed
#   cancelled awaited_inside timeout @awaited_inside
#   deadline @awaited_inside seconds=0.02
# WHY awaited_inside.inner: cancelled, obeyed
#   cancelled awaited_inside.inner awaiter by=awaited_inside
#   cancelled awaited_inside timeout @awaited_inside
#   deadline @awaited_inside seconds=0.02


async def rescheduled() -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30) as limit:  # LINE rescheduled
            await steps()
            limit.reschedule(loop.time() + 0.06)
            await forever()


# WHY rescheduled: returned, absorbed
#   cancelled rescheduled timeout @rescheduled
#   deadline @rescheduled seconds=0.06


async def armed_late() -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:  # LINE armed_late
            await asyncio.sleep(0.02)
            limit.reschedule(loop.time() + 0.01)
            await forever()


# WHY armed_late: returned, absorbed
#   cancelled armed_late timeout @armed_late
#   deadline @armed_late seconds=0.01


async def at_once() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):  # LINE at_once
            await forever()


# WHY at_once: returned, absorbed
#   cancelled at_once timeout @at_once
#   deadline @at_once seconds=0


async def late() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):  # LINE late
            time.sleep(0.05)  # noqa: ASYNC251 - the scenario
            await forever()


# WHY late: returned, absorbed
#   cancelled late timeout @late
#   deadline @late seconds=0.01 detail~late


async def inner_one_runs_out() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            async with asyncio.timeout(0.02):  # LINE inner_one
                await forever()


# WHY inner_one_runs_out: returned, absorbed
#   cancelled inner_one_runs_out timeout @inner_one
#   deadline @inner_one seconds=0.02


async def outer_one_runs_out() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):  # LINE outer_one
            async with asyncio.timeout(30):
                await forever()


# WHY outer_one_runs_out: returned, absorbed
#   cancelled outer_one_runs_out timeout @outer_one
#   deadline @outer_one seconds=0.02


async def cancelled_inside() -> None:
    async def run() -> None:
        async with asyncio.timeout(30):
            await forever()

    victim = spawn("cancelled_inside.victim", run())
    await steps()
    victim.cancel()  # LINE cancelled_inside
    await settle(victim)


# WHY cancelled_inside.victim: cancelled, obeyed
#   cancelled cancelled_inside.victim explicit @cancelled_inside by=cancelled_inside
#   called explicit @cancelled_inside by=cancelled_inside


async def then_cancelled() -> None:
    # A timeout ran out and was dealt with; later somebody cancels the task.
    async def run() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await forever()
        await forever()

    victim = spawn("then_cancelled.victim", run())
    await asyncio.sleep(0.05)
    victim.cancel()  # LINE then_cancelled
    await settle(victim)


# WHY then_cancelled.victim: cancelled, obeyed
#   cancelled then_cancelled.victim explicit @then_cancelled by=then_cancelled
#   called explicit @then_cancelled by=then_cancelled


async def gathered() -> None:
    one = spawn("gathered.one")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):  # LINE gathered
            await asyncio.gather(one, forever())


# WHY gathered: returned, absorbed
#   cancelled gathered timeout @gathered
#   deadline @gathered seconds=0.02
# WHY gathered.one: cancelled, obeyed
#   cancelled gathered.one gather by=gathered
#   cancelled gathered timeout @gathered
#   deadline @gathered seconds=0.02
# WHY coro:forever gathered: cancelled, obeyed
#   cancelled * gather by=gathered
#   cancelled gathered timeout @gathered
#   deadline @gathered seconds=0.02


async def held() -> None:
    await asyncio.sleep(3600)


async def waited_for() -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(held(), 0.02)  # LINE waited_for


# WHY waited_for: returned, absorbed (3.12+)
#   cancelled waited_for timeout @waited_for
#   deadline @waited_for seconds=0.02
# WHY coro:held waited_for: cancelled, obeyed (3.11)
#   cancelled * timeout @waited_for
#   deadline @waited_for seconds=0.02


async def waited_for_a_task() -> None:
    inner = spawn("waited_for_a_task.inner")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(inner, 0.02)  # LINE waited_for_a_task


# WHY waited_for_a_task: returned, absorbed (3.12+)
#   cancelled waited_for_a_task timeout @waited_for_a_task
#   deadline @waited_for_a_task seconds=0.02
# WHY waited_for_a_task.inner: cancelled, obeyed (3.12+)
#   cancelled waited_for_a_task.inner awaiter by=waited_for_a_task
#   cancelled waited_for_a_task timeout @waited_for_a_task
#   deadline @waited_for_a_task seconds=0.02
# WHY waited_for_a_task.inner: cancelled, obeyed (3.11)
#   cancelled waited_for_a_task.inner timeout @waited_for_a_task
#   deadline @waited_for_a_task seconds=0.02


async def waited_for_not_at_all() -> None:
    inner = spawn("waited_for_not_at_all.inner")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(inner, timeout=0)  # LINE waited_for_not_at_all


# WHY waited_for_not_at_all.inner: cancelled, obeyed
#   cancelled waited_for_not_at_all.inner timeout @waited_for_not_at_all
#   deadline @waited_for_not_at_all seconds=0


async def cancelled_while_waiting_for() -> None:
    inner = spawn("cancelled_while_waiting_for.inner")

    async def run() -> None:
        await asyncio.wait_for(inner, 30)

    victim = spawn("cancelled_while_waiting_for.victim", run())
    await steps()
    victim.cancel()  # LINE cancelled_while_waiting_for
    await settle(victim, inner)


# WHY cancelled_while_waiting_for.victim: cancelled, obeyed
#   cancelled cancelled_while_waiting_for.victim explicit @cancelled_while_waiting_for by=cancelled_while_waiting_for
#   called explicit @cancelled_while_waiting_for by=cancelled_while_waiting_for
# WHY cancelled_while_waiting_for.inner: cancelled, obeyed
#   cancelled cancelled_while_waiting_for.inner awaiter by=cancelled_while_waiting_for.victim
#   cancelled cancelled_while_waiting_for.victim explicit @cancelled_while_waiting_for by=cancelled_while_waiting_for
#   called explicit @cancelled_while_waiting_for by=cancelled_while_waiting_for


class Client:
    """A library-like helper in the program's own code: its line entered the timeout."""

    async def request(self) -> Any:
        async with asyncio.timeout(0.02):  # LINE client
            await forever()


async def in_a_helper() -> None:
    victim = spawn("in_a_helper.victim", Client().request())
    await settle(victim)


# WHY in_a_helper.victim: raised, absorbed
#   cancelled in_a_helper.victim timeout @client
#   deadline @client seconds=0.02


async def stacked() -> None:
    with contextlib.suppress(TimeoutError):
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(asyncio.timeout(0.02))  # LINE stacked
            await forever()


# WHY stacked: returned, absorbed
#   cancelled stacked timeout @stacked
#   deadline @stacked seconds=0.02


start(
    block,
    out_of_the_task,
    block_at,
    awaited_inside,
    rescheduled,
    armed_late,
    at_once,
    late,
    inner_one_runs_out,
    outer_one_runs_out,
    cancelled_inside,
    then_cancelled,
    gathered,
    waited_for,
    waited_for_a_task,
    waited_for_not_at_all,
    cancelled_while_waiting_for,
    in_a_helper,
    stacked,
)
