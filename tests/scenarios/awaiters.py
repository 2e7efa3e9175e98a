"""A cancelled task cancels what it awaits, and what was cancelled ends who awaits it."""

from __future__ import annotations

import asyncio
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    settle,
    spawn,
    start,
    steps,
)


async def wait(something: Any) -> None:
    await something


async def downwards() -> None:
    inner = spawn("downwards.inner")
    outer = spawn("downwards.outer", wait(inner))
    await steps()
    outer.cancel()  # LINE downwards
    await settle(outer, inner)


# WHY downwards.outer: cancelled, obeyed
#   cancelled downwards.outer explicit @downwards by=downwards
#   called explicit @downwards by=downwards
# WHY downwards.inner: cancelled, obeyed
#   cancelled downwards.inner awaiter by=downwards.outer
#   cancelled downwards.outer explicit @downwards by=downwards
#   called explicit @downwards by=downwards


async def long_chain() -> None:
    tasks = [spawn("long.0")]
    for _ in range(50):
        tasks.append(spawn("long.between", wait(tasks[-1])))
    tasks[25].set_name("long.25")
    tasks[-1].set_name("long.50")
    await steps()
    tasks[-1].cancel()  # LINE long
    await settle(*tasks)


# WHY long.0: cancelled, obeyed
#   cancelled long.0 awaiter by=long.between
#   ...48
#   cancelled long.between awaiter by=long.50
#   cancelled long.50 explicit @long by=long_chain
#   called explicit @long by=long_chain
# WHY long.25: cancelled, obeyed
#   cancelled long.25 awaiter by=long.between
#   ...23
#   cancelled long.between awaiter by=long.50
#   cancelled long.50 explicit @long by=long_chain
#   called explicit @long by=long_chain
# WHY long.50: cancelled, obeyed
#   cancelled long.50 explicit @long by=long_chain
#   called explicit @long by=long_chain
# WHY long.between: 48 times


async def plain_future() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters = [
        spawn("plain_future.one", wait(future)),
        spawn("plain_future.two", wait(future)),
    ]
    await steps()
    future.cancel()  # LINE plain_future
    await settle(*waiters)


# WHY plain_future.one: cancelled, obeyed
#   cancelled plain_future.one
#   cancelled - explicit @plain_future by=plain_future
#   called explicit @plain_future by=plain_future
# WHY plain_future.two: cancelled, obeyed
#   cancelled plain_future.two
#   cancelled - explicit @plain_future by=plain_future
#   called explicit @plain_future by=plain_future


async def shared_future() -> None:
    # Two tasks await one future; one of them is cancelled, and so is the other.
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    one = spawn("shared_future.one", wait(future))
    two = spawn("shared_future.two", wait(future))
    await steps()
    one.cancel()  # LINE shared_future
    await settle(one, two)


# WHY shared_future.one: cancelled, obeyed
#   cancelled shared_future.one explicit @shared_future by=shared_future
#   called explicit @shared_future by=shared_future
# WHY shared_future.two: cancelled, obeyed
#   cancelled shared_future.two
#   cancelled - awaiter by=shared_future.one
#   cancelled shared_future.one explicit @shared_future by=shared_future
#   called explicit @shared_future by=shared_future


async def upwards() -> None:
    inner = spawn("upwards.inner")
    middle = spawn("upwards.middle", wait(inner))
    outer = spawn("upwards.outer", wait(middle))
    await steps()
    inner.cancel()  # LINE upwards
    await settle(outer, middle, inner)


# WHY upwards.inner: cancelled, obeyed
#   cancelled upwards.inner explicit @upwards by=upwards
#   called explicit @upwards by=upwards
# WHY upwards.middle: cancelled, obeyed
#   cancelled upwards.middle
#   cancelled upwards.inner explicit @upwards by=upwards
#   called explicit @upwards by=upwards
# WHY upwards.outer: cancelled, obeyed
#   cancelled upwards.outer
#   cancelled upwards.inner explicit @upwards by=upwards
#   called explicit @upwards by=upwards


async def both_ways() -> None:
    # The middle of a chain is cancelled: down to what it awaits, up to who awaits it.
    inner = spawn("both_ways.inner")
    middle = spawn("both_ways.middle", wait(inner))
    outer = spawn("both_ways.outer", wait(middle))
    await steps()
    middle.cancel()  # LINE both_ways
    await settle(outer, middle, inner)


# WHY both_ways.middle: cancelled, obeyed
#   cancelled both_ways.middle explicit @both_ways by=both_ways
#   called explicit @both_ways by=both_ways
# WHY both_ways.inner: cancelled, obeyed
#   cancelled both_ways.inner awaiter by=both_ways.middle
#   cancelled both_ways.middle explicit @both_ways by=both_ways
#   called explicit @both_ways by=both_ways
# WHY both_ways.outer: cancelled, obeyed
#   cancelled both_ways.outer
#   cancelled both_ways.middle explicit @both_ways by=both_ways
#   called explicit @both_ways by=both_ways


async def after_the_fact() -> None:
    # Who awaits a task that was cancelled long ago dies of it too.
    inner = spawn("after_the_fact.inner")
    await steps()
    inner.cancel()  # LINE after_the_fact
    await settle(inner)
    await settle(spawn("after_the_fact.outer", wait(inner)))


# WHY after_the_fact.inner: cancelled, obeyed
#   cancelled after_the_fact.inner explicit @after_the_fact by=after_the_fact
#   called explicit @after_the_fact by=after_the_fact
# WHY after_the_fact.outer: cancelled, obeyed (3.12+)
#   cancelled after_the_fact.outer
#   cancelled after_the_fact.inner explicit @after_the_fact by=after_the_fact
#   called explicit @after_the_fact by=after_the_fact


async def shielded() -> None:
    inner = spawn("shielded.inner")
    outer = spawn("shielded.outer", wait(asyncio.shield(inner)))
    await steps()
    inner.cancel()  # LINE shielded
    await settle(outer, inner)


# WHY shielded.inner: cancelled, obeyed
#   cancelled shielded.inner explicit @shielded by=shielded
#   called explicit @shielded by=shielded
# WHY shielded.outer: cancelled, obeyed
#   cancelled shielded.outer
#   cancelled - asyncio.shield
#   cancelled shielded.inner explicit @shielded by=shielded
#   called explicit @shielded by=shielded


async def shielded_future() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    outer = spawn("shielded_future.outer", wait(asyncio.shield(future)))
    await steps()
    future.cancel()  # LINE shielded_future
    await settle(outer)


# WHY shielded_future.outer: cancelled, obeyed
#   cancelled shielded_future.outer
#   cancelled - explicit @shielded_future by=shielded_future
#   called explicit @shielded_future by=shielded_future


async def shield_holds() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    inner = spawn("shield_holds.not_listed", wait(future))
    outer = spawn("shield_holds.outer", wait(asyncio.shield(inner)))
    await steps()
    outer.cancel()  # LINE shield_holds
    await settle(outer)
    assert not inner.done()
    future.set_result(None)
    await settle(inner)
    assert not inner.cancelled()


# WHY shield_holds.outer: cancelled, obeyed
#   cancelled shield_holds.outer explicit @shield_holds by=shield_holds
#   called explicit @shield_holds by=shield_holds


start(
    downwards,
    long_chain,
    plain_future,
    shared_future,
    upwards,
    both_ways,
    after_the_fact,
    shielded,
    shielded_future,
    shield_holds,
)
