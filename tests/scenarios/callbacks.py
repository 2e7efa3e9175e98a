"""A bound ``cancel`` is given to the loop: the line that gave it is the one that called."""

from __future__ import annotations

import asyncio

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    settle,
    spawn,
    start,
    steps,
)


async def later() -> None:
    victim = spawn("later.victim")
    loop = asyncio.get_running_loop()
    loop.call_later(0.02, victim.cancel)  # LINE later
    await settle(victim)


# WHY later.victim: cancelled, obeyed
#   cancelled later.victim explicit @later by=? detail~call_later
#   called explicit @later by=? detail~call_later


def arm(loop: asyncio.AbstractEventLoop, victim: asyncio.Task[None]) -> None:
    loop.call_at(loop.time() + 0.02, victim.cancel, "by a timer")  # LINE at


async def at() -> None:
    victim = spawn("at.victim")
    arm(asyncio.get_running_loop(), victim)
    await settle(victim)


# WHY at.victim: cancelled, obeyed
#   cancelled at.victim explicit @at by=? detail~call_at
#   called explicit @at by=? detail~call_at


async def function_later() -> None:
    victim = spawn("function_later.victim")

    def end() -> None:
        victim.cancel()  # LINE function_later

    asyncio.get_running_loop().call_later(0.02, end)
    await settle(victim)


# WHY function_later.victim: cancelled, obeyed
#   cancelled function_later.victim explicit @function_later
#   called explicit @function_later


async def lambda_later() -> None:
    victim = spawn("lambda_later.victim")
    loop = asyncio.get_running_loop()
    loop.call_later(0.02, lambda: victim.cancel())  # noqa: PLW0108 - the scenario  # LINE lambda_later
    await settle(victim)


# WHY lambda_later.victim: cancelled, obeyed
#   cancelled lambda_later.victim explicit @lambda_later
#   called explicit @lambda_later


async def soon() -> None:
    # Nothing notes who gave a callback to call_soon(): nobody is blamed.
    victim = spawn("soon.victim")
    await steps()
    asyncio.get_running_loop().call_soon(victim.cancel)  # LINE soon
    await settle(victim)


# WHY soon.victim: cancelled, obeyed
#   cancelled soon.victim native|explicit ?@soon by=? detail~
#   called native|explicit ?@soon by=? detail~


async def overtaken() -> None:
    # What was given to call_soon_threadsafe() is known, and is not what the loop calls first.
    victim = spawn("overtaken.victim")
    loop = asyncio.get_running_loop()
    await steps()
    loop.call_soon(victim.cancel)  # LINE overtaking
    loop.call_soon_threadsafe(victim.cancel)  # LINE overtaken
    await settle(victim)


# WHY overtaken.victim: cancelled, obeyed
#   cancelled overtaken.victim native|explicit ?@overtaking by=? detail~
#   called native|explicit ?@overtaking by=? detail~


async def done_callback() -> None:
    victim = spawn("done_callback.victim")
    first = spawn("done_callback.first", steps())
    first.add_done_callback(victim.cancel)  # LINE done_callback
    await settle(victim)


# WHY done_callback.victim: cancelled, obeyed
#   cancelled done_callback.victim explicit @done_callback by=? detail~add_done_callback
#   called explicit @done_callback by=? detail~add_done_callback


async def supervised() -> None:
    # A supervisor ends the others when one has failed.
    victim = spawn("supervised.victim")

    async def fail() -> None:
        raise ValueError("bad order")

    def ended(_task: asyncio.Task[None]) -> None:
        victim.cancel()  # LINE supervised

    first = spawn("supervised.first", fail())
    first.add_done_callback(ended)
    await settle(victim, first)


# WHY supervised.victim: cancelled, obeyed
#   cancelled supervised.victim explicit @supervised by=? detail~"first, which failed with ValueError: bad order"
#   called explicit @supervised by=? detail~"first, which failed with ValueError: bad order"


async def supervised_in_turn() -> None:
    victim, second = spawn("in_turn.victim"), spawn("in_turn.second")
    first = spawn("in_turn.first", steps())
    first.add_done_callback(lambda _task: second.cancel())  # LINE in_turn_first
    second.add_done_callback(lambda _task: victim.cancel())  # LINE in_turn_second
    await settle(victim)


# WHY in_turn.second: cancelled, obeyed
#   cancelled in_turn.second explicit @in_turn_first by=? detail~"in_turn.first, which had returned"
#   called explicit @in_turn_first by=? detail~"in_turn.first, which had returned"
# WHY in_turn.victim: cancelled, obeyed
#   cancelled in_turn.victim explicit @in_turn_second by=? detail~"in_turn.second, which was cancelled"
#   cancelled in_turn.second explicit @in_turn_first by=? detail~"in_turn.first, which had returned"
#   called explicit @in_turn_first by=? detail~"in_turn.first, which had returned"


async def future_callback() -> None:
    victim = spawn("future_callback.victim")
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(victim.cancel)  # LINE future_callback
    await steps()
    future.set_result(None)
    await settle(victim)


# WHY future_callback.victim: cancelled, obeyed
#   cancelled future_callback.victim explicit @future_callback by=? detail~add_done_callback
#   called explicit @future_callback by=? detail~add_done_callback


async def two_timers() -> None:
    # Both are armed; the one that runs out first is the culprit.
    victim = spawn("two_timers.victim")
    loop = asyncio.get_running_loop()
    late = loop.call_later(30, victim.cancel)
    loop.call_later(0.02, victim.cancel)  # LINE two_timers
    await settle(victim)
    late.cancel()


# WHY two_timers.victim: cancelled, obeyed
#   cancelled two_timers.victim explicit @two_timers by=? detail~call_later
#   called explicit @two_timers by=? detail~call_later


async def timer_taken_back() -> None:
    # A timer that was taken back is not blamed for what somebody else does.
    victim = spawn("timer_taken_back.victim")
    timer = asyncio.get_running_loop().call_later(0.01, victim.cancel)
    timer.cancel()
    await asyncio.sleep(0.03)
    victim.cancel()  # LINE timer_taken_back
    await settle(victim)


# WHY timer_taken_back.victim: cancelled, obeyed
#   cancelled timer_taken_back.victim explicit @timer_taken_back by=timer_taken_back
#   called explicit @timer_taken_back by=timer_taken_back


start(
    later,
    at,
    function_later,
    lambda_later,
    soon,
    overtaken,
    done_callback,
    supervised,
    supervised_in_turn,
    future_callback,
    two_timers,
    timer_taken_back,
)
