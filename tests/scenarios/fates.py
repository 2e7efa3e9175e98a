"""What becomes of a request: kept, absorbed, replaced, made twice."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    settle,
    spawn,
    start,
    steps,
)


async def swallowed() -> None:
    async def run() -> str:
        try:
            await forever()
        except asyncio.CancelledError:  # LINE kept
            await steps()
        await steps()
        return "alive"

    victim = spawn("swallowed.victim", run())
    await steps()
    victim.cancel()  # LINE swallowed
    await settle(victim)


# WHY swallowed.victim: returned, swallowed @kept
#   cancelled swallowed.victim explicit @swallowed by=swallowed
#   called explicit @swallowed by=swallowed


async def swallowed_below() -> None:
    async def below() -> None:
        try:
            await forever()
        except BaseException:  # noqa: BLE001 - the scenario  # LINE kept_below
            await steps()

    async def run() -> None:
        try:
            await below()
        except ValueError:
            pass
        finally:
            await steps()

    victim = spawn("swallowed_below.victim", run())
    await steps()
    victim.cancel()  # LINE swallowed_below
    await settle(victim)


# WHY swallowed_below.victim: returned, swallowed @kept_below
#   cancelled swallowed_below.victim explicit @swallowed_below by=swallowed_below
#   called explicit @swallowed_below by=swallowed_below


async def handed_on_then_swallowed() -> None:
    async def below() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            await steps()
            raise

    async def run() -> None:
        try:
            await below()
        except asyncio.CancelledError:  # LINE kept_above
            await steps()

    victim = spawn("handed_on.victim", run())
    await steps()
    victim.cancel()  # LINE handed_on
    await settle(victim)


# WHY handed_on.victim: returned, swallowed @kept_above
#   cancelled handed_on.victim explicit @handed_on by=handed_on_then_swallowed
#   called explicit @handed_on by=handed_on_then_swallowed


async def suppressed() -> None:
    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):  # LINE suppress
            await forever()

    victim = spawn("suppressed.victim", run())
    await steps()
    victim.cancel()  # LINE suppressed
    await settle(victim)


# WHY suppressed.victim: returned, swallowed @suppress
#   cancelled suppressed.victim explicit @suppressed by=suppressed
#   called explicit @suppressed by=suppressed


RETURNS = """
async def run():
    try:
        await forever()
    finally:
        return
"""
"""Since 3.14 (PEP 765) the compiler warns of it, and warnings are errors here."""


async def returned_from_finally() -> None:
    namespace: dict[str, Any] = {"forever": forever}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        exec(RETURNS, namespace)
    victim = spawn("returned_from_finally.victim", namespace["run"]())
    await steps()
    victim.cancel()  # LINE returned_from_finally
    await settle(victim)


# WHY returned_from_finally.victim: returned, swallowed
#   cancelled returned_from_finally.victim explicit @returned_from_finally by=returned_from_finally
#   called explicit @returned_from_finally by=returned_from_finally


async def absorbed() -> None:
    async def run() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        await steps()

    victim = spawn("absorbed.victim", run())
    await steps()
    victim.cancel()  # LINE absorbed
    await settle(victim)


# WHY absorbed.victim: returned, absorbed
#   cancelled absorbed.victim explicit @absorbed by=absorbed
#   called explicit @absorbed by=absorbed


async def replaced() -> None:
    async def run() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise RuntimeError("something else") from None

    async def run_finally() -> None:
        try:
            await forever()
        finally:
            raise RuntimeError("something else again")

    victims = spawn("replaced.victim", run()), spawn("replaced.finally", run_finally())
    await steps()
    for victim in victims:
        victim.cancel()  # LINE replaced
    await settle(*victims)


# WHY replaced.victim: raised, replaced
#   cancelled replaced.victim explicit @replaced by=replaced
#   called explicit @replaced by=replaced
# WHY replaced.finally: raised, replaced
#   cancelled replaced.finally explicit @replaced by=replaced
#   called explicit @replaced by=replaced


async def second_time() -> None:
    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await forever()

    victim = spawn("second_time.victim", run())
    await steps()
    victim.cancel()
    await steps()
    assert not victim.done()
    victim.cancel()  # LINE second_time
    await settle(victim)
    assert victim.cancelled()


# WHY second_time.victim: cancelled, obeyed
#   cancelled second_time.victim explicit @second_time by=second_time
#   called explicit @second_time by=second_time


async def second_after_uncancel() -> None:
    async def run() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        await forever()

    victim = spawn("second_after_uncancel.victim", run())
    await steps()
    victim.cancel()
    await steps()
    assert not victim.done()
    victim.cancel()  # LINE second_after_uncancel
    await settle(victim)
    assert victim.cancelled()


# WHY second_after_uncancel.victim: cancelled, obeyed
#   cancelled second_after_uncancel.victim explicit @second_after_uncancel by=second_after_uncancel
#   called explicit @second_after_uncancel by=second_after_uncancel


async def while_cleaning_up() -> None:
    # The second request comes while the first is being obeyed: it is the one
    # whose CancelledError ends the task.
    async def run() -> None:
        try:
            await forever()
        finally:
            await forever()

    victim = spawn("while_cleaning_up.victim", run())
    await steps()
    victim.cancel()
    await steps()
    victim.cancel()  # LINE while_cleaning_up
    await settle(victim)


# WHY while_cleaning_up.victim: cancelled, obeyed
#   cancelled while_cleaning_up.victim explicit @while_cleaning_up by=while_cleaning_up
#   called explicit @while_cleaning_up by=while_cleaning_up


async def awaited_swallows() -> None:
    # What the victim awaits keeps the CancelledError: the victim lives on, and
    # dies of the next request.
    async def deaf() -> None:
        with contextlib.suppress(asyncio.CancelledError):  # LINE deaf
            await forever()

    inner = spawn("awaited_swallows.inner", deaf())

    async def run() -> None:
        await inner
        await forever()

    victim = spawn("awaited_swallows.victim", run())
    await steps()
    victim.cancel()  # LINE awaited_swallows_first
    await steps(6)
    assert not victim.done()
    victim.cancel()  # LINE awaited_swallows
    await settle(victim)


# WHY awaited_swallows.inner: returned, swallowed @deaf
#   cancelled awaited_swallows.inner awaiter by=awaited_swallows.victim
#   cancelled awaited_swallows.victim explicit @awaited_swallows_first by=awaited_swallows
#   called explicit @awaited_swallows_first by=awaited_swallows
# WHY awaited_swallows.victim: cancelled, obeyed
#   cancelled awaited_swallows.victim explicit @awaited_swallows by=awaited_swallows
#   called explicit @awaited_swallows by=awaited_swallows


async def caught_by_the_awaiter() -> None:
    # The awaiting task had no request of its own and lived on: it is not listed.
    inner = spawn("caught_by_the_awaiter.inner")

    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await inner

    outer = spawn("caught_by_the_awaiter.outer_not_listed", run())
    await steps()
    inner.cancel()  # LINE caught_by_the_awaiter
    await settle(outer)


# WHY caught_by_the_awaiter.inner: cancelled, obeyed
#   cancelled caught_by_the_awaiter.inner explicit @caught_by_the_awaiter by=caught_by_the_awaiter
#   called explicit @caught_by_the_awaiter by=caught_by_the_awaiter


async def then_by_hand() -> None:
    # It swallowed the request, and raised a CancelledError of its own long after.
    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await steps()
        raise asyncio.CancelledError("by hand")

    victim = spawn("then_by_hand.victim", run())
    await steps()
    victim.cancel()  # LINE then_by_hand
    await settle(victim)
    assert victim.cancelled()


# WHY then_by_hand.victim: cancelled, swallowed
#   cancelled then_by_hand.victim explicit @then_by_hand by=then_by_hand
#   called explicit @then_by_hand by=then_by_hand


async def by_hand_again() -> None:
    # What it raises while it handles the request is the answer to the request.
    async def run() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise asyncio.CancelledError("by hand") from None

    victim = spawn("by_hand_again.victim", run())
    await steps()
    victim.cancel()  # LINE by_hand_again
    await settle(victim)
    assert victim.cancelled()


# WHY by_hand_again.victim: cancelled, obeyed
#   cancelled by_hand_again.victim explicit @by_hand_again by=by_hand_again
#   called explicit @by_hand_again by=by_hand_again


async def by_hand_after_a_timeout() -> None:
    # The timeout is over, and ended nothing: what ends the task is its own.
    async def run() -> None:
        try:
            async with asyncio.timeout(0.01):  # LINE by_hand_after_a_timeout
                await forever()
        except TimeoutError:
            raise asyncio.CancelledError("by hand") from None

    victim = spawn("by_hand_after_a_timeout.victim", run())
    await settle(victim)
    assert victim.cancelled()


# WHY by_hand_after_a_timeout.victim: cancelled, absorbed
#   cancelled by_hand_after_a_timeout.victim timeout @by_hand_after_a_timeout
#   deadline @by_hand_after_a_timeout seconds=0.01


async def replaced_by_a_group() -> None:
    async def fails_late() -> None:
        try:
            await forever()
        finally:
            raise ValueError("broken")

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_late(), name="replaced_by_a_group.child")

    victim = spawn("replaced_by_a_group.victim", run())
    await steps()
    victim.cancel()  # LINE replaced_by_a_group
    await settle(victim)
    assert isinstance(victim.exception(), ExceptionGroup)


# WHY replaced_by_a_group.victim: raised, replaced (3.12+)
#   cancelled replaced_by_a_group.victim explicit @replaced_by_a_group by=replaced_by_a_group
#   called explicit @replaced_by_a_group by=replaced_by_a_group
# Before 3.12 it is not seen who kept the CancelledError.
# WHY replaced_by_a_group.victim: raised, swallowed (3.11)
#   cancelled replaced_by_a_group.victim explicit @replaced_by_a_group by=replaced_by_a_group
#   called explicit @replaced_by_a_group by=replaced_by_a_group
# WHY replaced_by_a_group.child: raised, replaced
#   cancelled replaced_by_a_group.child task_group by=replaced_by_a_group.victim
#   cancelled replaced_by_a_group.victim explicit @replaced_by_a_group by=replaced_by_a_group
#   called explicit @replaced_by_a_group by=replaced_by_a_group


async def awaits_one_by_hand() -> None:
    # The request stopped at the inner task; what reaches the outer one is its own.
    async def inner() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await steps()
        raise asyncio.CancelledError("by hand")

    async def outer() -> None:
        await cancelled

    cancelled = spawn("awaits_one_by_hand.inner", inner())
    victim = spawn("awaits_one_by_hand.not_listed", outer())
    await steps()
    cancelled.cancel()  # LINE awaits_one_by_hand
    await settle(victim)
    assert victim.cancelled()


# WHY awaits_one_by_hand.inner: cancelled, swallowed
#   cancelled awaits_one_by_hand.inner explicit @awaits_one_by_hand by=awaits_one_by_hand
#   called explicit @awaits_one_by_hand by=awaits_one_by_hand


start(
    swallowed,
    swallowed_below,
    handed_on_then_swallowed,
    suppressed,
    returned_from_finally,
    absorbed,
    replaced,
    second_time,
    second_after_uncancel,
    while_cleaning_up,
    awaited_swallows,
    caught_by_the_awaiter,
    then_by_hand,
    by_hand_again,
    by_hand_after_a_timeout,
    replaced_by_a_group,
    awaits_one_by_hand,
)
