"""``gather``: its owner is cancelled, it is cancelled itself, or one of its children is."""

from __future__ import annotations

import asyncio
import os
import signal

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    settle,
    spawn,
    start,
    steps,
)


async def owner_cancelled() -> None:
    one = spawn("owner_cancelled.one")
    future = asyncio.get_running_loop().create_future()

    async def run() -> None:
        await asyncio.gather(one, forever(), future)

    owner = spawn("owner_cancelled.owner", run())
    await steps()
    owner.cancel()  # LINE owner_cancelled
    await settle(owner, one)


# WHY owner_cancelled.owner: cancelled, obeyed
#   cancelled owner_cancelled.owner explicit @owner_cancelled by=owner_cancelled
#   called explicit @owner_cancelled by=owner_cancelled
# WHY owner_cancelled.one: cancelled, obeyed
#   cancelled owner_cancelled.one gather by=owner_cancelled.owner
#   cancelled owner_cancelled.owner explicit @owner_cancelled by=owner_cancelled
#   called explicit @owner_cancelled by=owner_cancelled
# WHY coro:forever owner_cancelled: cancelled, obeyed
#   cancelled * gather by=owner_cancelled.owner
#   cancelled owner_cancelled.owner explicit @owner_cancelled by=owner_cancelled
#   called explicit @owner_cancelled by=owner_cancelled


async def cancelled_itself() -> None:
    one, two = spawn("cancelled_itself.one"), spawn("cancelled_itself.two")
    both = asyncio.gather(one, two)

    async def run() -> None:
        await both

    owner = spawn("cancelled_itself.owner", run())
    await steps()
    both.cancel()  # LINE cancelled_itself
    await settle(owner, one, two)


# WHY cancelled_itself.one: cancelled, obeyed
#   cancelled cancelled_itself.one gather @cancelled_itself by=cancelled_itself
#   called gather @cancelled_itself by=cancelled_itself
# WHY cancelled_itself.two: cancelled, obeyed
#   cancelled cancelled_itself.two gather @cancelled_itself by=cancelled_itself
#   called gather @cancelled_itself by=cancelled_itself
# WHY cancelled_itself.owner: cancelled, obeyed
#   cancelled cancelled_itself.owner
#   cancelled cancelled_itself.* gather @cancelled_itself by=cancelled_itself
#   called gather @cancelled_itself by=cancelled_itself


async def child_cancelled() -> None:
    one = spawn("child_cancelled.one")

    async def short() -> None:
        await steps(8)

    async def run() -> None:
        await asyncio.gather(one, short())

    owner = spawn("child_cancelled.owner", run())
    await steps()
    one.cancel()  # LINE child_cancelled
    await settle(owner)


# WHY child_cancelled.one: cancelled, obeyed
#   cancelled child_cancelled.one explicit @child_cancelled by=child_cancelled
#   called explicit @child_cancelled by=child_cancelled
# WHY child_cancelled.owner: cancelled, obeyed
#   cancelled child_cancelled.owner
#   cancelled child_cancelled.one explicit @child_cancelled by=child_cancelled
#   called explicit @child_cancelled by=child_cancelled


async def child_cancelled_results_kept() -> None:
    one = spawn("results_kept.one")

    async def run() -> None:
        results = await asyncio.gather(one, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)

    owner = spawn("results_kept.not_listed", run())
    await steps()
    one.cancel()  # LINE results_kept
    await settle(owner)


# WHY results_kept.one: cancelled, obeyed
#   cancelled results_kept.one explicit @results_kept by=child_cancelled_results_kept
#   called explicit @results_kept by=child_cancelled_results_kept


async def gather_of_gathers() -> None:
    leaf = spawn("gather_of_gathers.leaf")

    async def run() -> None:
        await asyncio.gather(asyncio.gather(leaf))

    owner = spawn("gather_of_gathers.owner", run())
    await steps()
    owner.cancel()  # LINE gather_of_gathers
    await settle(owner, leaf)


# WHY gather_of_gathers.owner: cancelled, obeyed
#   cancelled gather_of_gathers.owner explicit @gather_of_gathers by=gather_of_gathers
#   called explicit @gather_of_gathers by=gather_of_gathers
# WHY gather_of_gathers.leaf: cancelled, obeyed
#   cancelled gather_of_gathers.leaf gather by=gather_of_gathers.owner
#   cancelled gather_of_gathers.owner explicit @gather_of_gathers by=gather_of_gathers
#   called explicit @gather_of_gathers by=gather_of_gathers


async def awaiter_of_the_owner() -> None:
    leaf = spawn("awaiter_of_the_owner.leaf")

    async def run() -> None:
        await asyncio.gather(leaf)

    owner = spawn("awaiter_of_the_owner.owner", run())

    async def wait() -> None:
        await owner

    top = spawn("awaiter_of_the_owner.top", wait())
    await steps()
    top.cancel()  # LINE awaiter_of_the_owner
    await settle(top)


# WHY awaiter_of_the_owner.top: cancelled, obeyed
#   cancelled awaiter_of_the_owner.top explicit @awaiter_of_the_owner by=awaiter_of_the_owner
#   called explicit @awaiter_of_the_owner by=awaiter_of_the_owner
# WHY awaiter_of_the_owner.owner: cancelled, obeyed
#   cancelled awaiter_of_the_owner.owner awaiter by=awaiter_of_the_owner.top
#   cancelled awaiter_of_the_owner.top explicit @awaiter_of_the_owner by=awaiter_of_the_owner
#   called explicit @awaiter_of_the_owner by=awaiter_of_the_owner
# WHY awaiter_of_the_owner.leaf: cancelled, obeyed
#   cancelled awaiter_of_the_owner.leaf gather by=awaiter_of_the_owner.owner
#   cancelled awaiter_of_the_owner.owner awaiter by=awaiter_of_the_owner.top
#   cancelled awaiter_of_the_owner.top explicit @awaiter_of_the_owner by=awaiter_of_the_owner
#   called explicit @awaiter_of_the_owner by=awaiter_of_the_owner


async def cancelled_by_a_timer() -> None:
    # What the loop was given is a method of the gather, and not of what it ends.
    loop = asyncio.get_running_loop()
    one = spawn("by_a_timer.one")
    gathered = asyncio.gather(one)
    await steps()
    loop.call_later(0.001, gathered.cancel)  # LINE by_a_timer
    await settle(gathered, one)


# WHY by_a_timer.one: cancelled, obeyed
#   cancelled by_a_timer.one gather @by_a_timer detail~call_later
#   called gather @by_a_timer detail~call_later


async def one_of_two_has_the_signal() -> None:
    loop = asyncio.get_running_loop()
    one, two = spawn("one_of_two.one"), spawn("one_of_two.two")
    of_signal, of_timer = asyncio.gather(one), asyncio.gather(two)
    await steps()
    loop.add_signal_handler(signal.SIGTERM, of_signal.cancel)  # LINE of_signal
    loop.call_later(0.001, of_timer.cancel)  # LINE of_timer
    await settle(of_timer, two)
    os.kill(os.getpid(), signal.SIGTERM)
    await settle(of_signal, one)
    loop.remove_signal_handler(signal.SIGTERM)


# WHY one_of_two.one: cancelled, obeyed
#   cancelled one_of_two.one gather @of_signal detail~
#   signal SIGTERM @of_signal detail~
# WHY one_of_two.two: cancelled, obeyed
#   cancelled one_of_two.two gather @of_timer detail~call_later
#   called gather @of_timer detail~call_later


start(
    owner_cancelled,
    cancelled_itself,
    child_cancelled,
    child_cancelled_results_kept,
    gather_of_gathers,
    awaiter_of_the_owner,
    cancelled_by_a_timer,
    one_of_two_has_the_signal,
)
