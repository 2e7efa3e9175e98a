"""``error.source`` and ``aioaudit.why(error)`` inside ``except asyncio.CancelledError``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    settle,
    spawn,
    start,
    steps,
    tell,
)


async def ask(name: str, something: Any) -> None:
    try:
        await something
    except asyncio.CancelledError as error:
        tell(name, error)
        raise


def stop(task: asyncio.Future[Any]) -> None:
    task.cancel()  # LINE stop


async def explicit() -> None:
    victim = spawn("explicit.victim", ask("explicit.victim", forever()))
    await steps()
    stop(victim)
    await settle(victim)


# WHY explicit.victim: cancelled, obeyed
#   cancelled explicit.victim explicit @stop by=explicit
#   called explicit @stop by=explicit
# SAYS explicit.victim: __main__:stop


async def awaiting() -> None:
    inner = spawn("awaiting.inner", ask("awaiting.inner", forever()))
    outer = spawn("awaiting.outer", ask("awaiting.outer", inner))
    await steps()
    stop(outer)
    await settle(outer, inner)


# WHY awaiting.outer: cancelled, obeyed
#   cancelled awaiting.outer explicit @stop by=awaiting
#   called explicit @stop by=awaiting
# WHY awaiting.inner: cancelled, obeyed
#   cancelled awaiting.inner awaiter by=awaiting.outer
#   cancelled awaiting.outer explicit @stop by=awaiting
#   called explicit @stop by=awaiting
# SAYS awaiting.inner: __main__:stop
# SAYS awaiting.outer: __main__:stop


async def awaited_was_cancelled() -> None:
    inner = spawn("awaited.inner", ask("awaited.inner", forever()))
    outer = spawn("awaited.outer", ask("awaited.outer", inner))
    await steps()
    stop(inner)
    await settle(outer, inner)


# WHY awaited.inner: cancelled, obeyed
#   cancelled awaited.inner explicit @stop by=awaited_was_cancelled
#   called explicit @stop by=awaited_was_cancelled
# WHY awaited.outer: cancelled, obeyed
#   cancelled awaited.outer
#   cancelled awaited.inner explicit @stop by=awaited_was_cancelled
#   called explicit @stop by=awaited_was_cancelled
# SAYS awaited.inner: __main__:stop
# SAYS awaited.outer: __main__:stop


async def future() -> None:
    plain: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiter = spawn("future.waiter", ask("future.waiter", plain))
    await steps()
    stop(plain)
    await settle(waiter)


# WHY future.waiter: cancelled, obeyed
#   cancelled future.waiter
#   cancelled - explicit @stop by=future
#   called explicit @stop by=future
# SAYS future.waiter: __main__:stop


async def timed_out() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):  # LINE timed_out
            await ask("timed_out", forever())


# WHY timed_out: returned, absorbed
#   cancelled timed_out timeout @timed_out
#   deadline @timed_out seconds=0.02
# SAYS timed_out: __main__:timed_out


async def group() -> None:
    async def boom() -> None:
        await steps()
        raise ValueError("bad")  # LINE group

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask("group.victim", forever()), name="group.victim")
            tasks.create_task(boom(), name="group.boom")


# WHY group: returned, absorbed
#   cancelled group task_group
#   failed group.boom error="ValueError: bad" @group
# WHY group.victim: cancelled, obeyed
#   cancelled group.victim task_group
#   failed group.boom error="ValueError: bad" @group
# SAYS group.victim: __main__:group.<locals>.boom


async def kept() -> None:
    # Asked twice, in the callee and in the caller; it is the same error.
    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):  # LINE kept
            await ask("kept.victim", ask("kept.victim", forever()))

    victim = spawn("kept.victim", run())
    await steps()
    stop(victim)
    await settle(victim)


# WHY kept.victim: returned, swallowed @kept
#   cancelled kept.victim explicit @stop by=kept
#   called explicit @stop by=kept
# SAYS kept.victim: __main__:stop


async def by_hand() -> None:
    async def run() -> None:
        try:
            raise asyncio.CancelledError
        except asyncio.CancelledError as error:
            tell("by_hand.not_listed", error)

    await settle(spawn("by_hand.not_listed", run()))


# SAYS by_hand.not_listed: nothing


async def assigned() -> None:
    # The attribute is the program's if it wants it.
    error: Any = asyncio.CancelledError("mine")
    assert error.args == ("mine",)
    assert error.source is None
    error.source = "a word of the program's own"
    assert error.source == "a word of the program's own"
    await steps()


async def outside() -> None:
    # The error is kept and asked about later, outside of any except block.
    kept: list[asyncio.CancelledError] = []

    async def run() -> None:
        try:
            await forever()
        except asyncio.CancelledError as error:
            kept.append(error)
            raise

    victim = spawn("outside.victim", run())
    await steps()
    stop(victim)
    await settle(victim)
    tell("outside.victim", kept[0])


# WHY outside.victim: cancelled, obeyed
#   cancelled outside.victim explicit @stop by=outside
#   called explicit @stop by=outside
# SAYS outside.victim: __main__:stop (3.12+)
# SAYS outside.victim: __main__:stop or nothing (3.11)


start(
    explicit,
    awaiting,
    awaited_was_cancelled,
    future,
    timed_out,
    group,
    kept,
    by_hand,
    assigned,
    outside,
)
