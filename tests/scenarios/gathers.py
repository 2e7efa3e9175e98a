"""``gather``: its owner is cancelled, it is cancelled itself, or one of its children is."""

from __future__ import annotations

import asyncio

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


start(
    owner_cancelled,
    cancelled_itself,
    child_cancelled,
    child_cancelled_results_kept,
    gather_of_gathers,
    awaiter_of_the_owner,
)
