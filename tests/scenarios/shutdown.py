"""The end of ``asyncio.run``, of a runner, and a teardown written by hand."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    runner,
    settle,
    spawn,
    steps,
)


async def main() -> None:
    spawn("left")
    await steps()


runner()(main())  # LINE run

# WHY left: cancelled, obeyed
#   cancelled left shutdown ?@run
#   shutdown ?@run


async def failing() -> None:
    spawn("left_by_failing")
    await steps()
    raise ValueError("main failed")


with contextlib.suppress(ValueError):
    runner()(failing())  # LINE run_failing

# WHY left_by_failing: cancelled, obeyed
#   cancelled left_by_failing shutdown ?@run_failing
#   shutdown ?@run_failing


async def awaiting() -> None:
    inner = spawn("inner")

    async def wait() -> None:
        await inner

    spawn("outer", wait())
    await steps()


runner()(awaiting())  # LINE run_awaiting

# WHY outer: cancelled, obeyed
#   ...
#   shutdown ?@run_awaiting
# WHY inner: cancelled, obeyed
#   ...
#   shutdown ?@run_awaiting


async def deaf() -> None:
    async def listen() -> None:
        with contextlib.suppress(asyncio.CancelledError):  # LINE deaf
            await asyncio.sleep(3600)

    spawn("deaf", listen())
    await steps()


runner()(deaf())  # LINE run_deaf

# WHY deaf: returned, swallowed @deaf
#   cancelled deaf shutdown ?@run_deaf
#   shutdown ?@run_deaf


async def part() -> None:
    spawn("left_to_the_runner")
    await steps()


def new_loop() -> asyncio.AbstractEventLoop:
    if sys.argv[1:2] == ["uvloop"]:
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


with asyncio.Runner(loop_factory=new_loop) as one_runner:  # LINE runner
    one_runner.run(part())

# WHY left_to_the_runner: cancelled, obeyed
#   cancelled left_to_the_runner shutdown ?@runner
#   shutdown ?@runner

second = asyncio.Runner(loop_factory=new_loop)


async def part_of_second() -> None:
    spawn("left_to_close")
    await steps()


second.run(part_of_second())
second.close()  # LINE close

# WHY left_to_close: cancelled, obeyed
#   cancelled left_to_close shutdown ?@close
#   shutdown ?@close


async def by_hand() -> None:
    spawn("by_hand.one")
    spawn("by_hand.two")
    await steps()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()  # LINE by_hand
    await settle(*others)


runner()(by_hand())

# WHY by_hand.one: cancelled, obeyed
#   cancelled by_hand.one explicit @by_hand by=*
#   called explicit @by_hand by=*
# WHY by_hand.two: cancelled, obeyed
#   cancelled by_hand.two explicit @by_hand by=*
#   called explicit @by_hand by=*


def bare_loop() -> None:
    loop = new_loop()
    future = loop.create_future()

    async def wait() -> None:
        await future

    task = loop.create_task(wait(), name="bare_loop")
    loop.run_until_complete(asyncio.sleep(0.01))
    # No loop runs and no task is current: the line is all there is.
    task.cancel()  # LINE bare_loop
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


bare_loop()

# WHY bare_loop: cancelled, obeyed
#   cancelled bare_loop explicit @bare_loop
#   called explicit @bare_loop
