"""A task group ends its tasks: because a child failed, the body raised, the owner was cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    make_eager,
    settle,
    spawn,
    start,
    steps,
)


async def sibling() -> None:
    async def boom() -> None:
        await steps()
        raise ValueError("bad")  # LINE sibling

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="sibling.other")
            group.create_task(boom(), name="sibling.boom")


# WHY sibling: returned, absorbed
#   cancelled sibling task_group
#   failed sibling.boom error="ValueError: bad" @sibling
# WHY sibling.other: cancelled, obeyed
#   cancelled sibling.other task_group
#   failed sibling.boom error="ValueError: bad" @sibling


async def in_the_body() -> None:
    # The owner is not in __aexit__ yet: its own waiting is ended, and what it awaits.
    inner = spawn("in_the_body.inner")

    async def boom() -> None:
        await steps()
        raise KeyError("gone")  # LINE in_the_body

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(boom(), name="in_the_body.boom")
            await inner


# WHY in_the_body: returned, absorbed
#   cancelled in_the_body task_group
#   failed in_the_body.boom error="KeyError: 'gone'" @in_the_body
# WHY in_the_body.inner: cancelled, obeyed
#   cancelled in_the_body.inner awaiter by=in_the_body
#   cancelled in_the_body task_group
#   failed in_the_body.boom error="KeyError: 'gone'" @in_the_body


def deep(error: Exception) -> None:
    raise error  # LINE nested


async def nested() -> None:
    async def boom() -> None:
        await steps()
        deep(ValueError("first"))

    async def middle() -> None:
        async with asyncio.TaskGroup() as group:  # LINE nested_middle
            group.create_task(forever(), name="nested.cousin")
            group.create_task(boom(), name="nested.boom")

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="nested.uncle")
            group.create_task(middle(), name="nested.middle")


# WHY nested.cousin: cancelled, obeyed
#   cancelled nested.cousin task_group
#   failed nested.boom error="ValueError: first" @nested
# WHY nested.middle: raised, absorbed
#   cancelled nested.middle task_group
#   failed nested.boom error="ValueError: first" @nested
# WHY nested.uncle: cancelled, obeyed
#   cancelled nested.uncle task_group
#   failed nested.middle error^ExceptionGroup @nested_middle
#   failed nested.boom error="ValueError: first" @nested
# WHY nested: returned, absorbed
#   cancelled nested task_group
#   failed nested.middle error^ExceptionGroup @nested_middle
#   failed nested.boom error="ValueError: first" @nested


async def three_deep() -> None:
    async def boom() -> None:
        await steps()
        raise OSError("cable")  # LINE three_deep

    async def level(depth: int) -> None:
        async with asyncio.TaskGroup() as group:  # LINE three_deep_level
            below = boom() if depth == 0 else level(depth - 1)
            group.create_task(below, name=f"three_deep.{depth}")

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="three_deep.victim")
            group.create_task(level(2), name="three_deep.3")


# WHY three_deep.victim: cancelled, obeyed
#   cancelled three_deep.victim task_group
#   failed three_deep.3 error^ExceptionGroup @three_deep_level
#   failed three_deep.2 error^ExceptionGroup @three_deep_level
#   failed three_deep.1 error^ExceptionGroup @three_deep_level
#   failed three_deep.0 error="OSError: cable" @three_deep
# WHY three_deep: returned, absorbed
#   cancelled three_deep task_group
#   failed three_deep.3 error^ExceptionGroup @three_deep_level
#   failed three_deep.2 error^ExceptionGroup @three_deep_level
#   failed three_deep.1 error^ExceptionGroup @three_deep_level
#   failed three_deep.0 error="OSError: cable" @three_deep
# WHY three_deep.3: raised, absorbed
#   cancelled three_deep.3 task_group
#   failed three_deep.2 error^ExceptionGroup @three_deep_level
#   failed three_deep.1 error^ExceptionGroup @three_deep_level
#   failed three_deep.0 error="OSError: cable" @three_deep
# WHY three_deep.2: raised, absorbed
#   cancelled three_deep.2 task_group
#   failed three_deep.1 error^ExceptionGroup @three_deep_level
#   failed three_deep.0 error="OSError: cable" @three_deep
# WHY three_deep.1: raised, absorbed
#   cancelled three_deep.1 task_group
#   failed three_deep.0 error="OSError: cable" @three_deep


async def timed_out() -> None:
    async def slow() -> None:
        async with asyncio.timeout(0.02):  # LINE timed_out
            await forever()

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="timed_out.victim")
            group.create_task(slow(), name="timed_out.slow")


# WHY timed_out.slow: raised, absorbed
#   cancelled timed_out.slow timeout @timed_out
#   deadline @timed_out seconds=0.02
# WHY timed_out.victim: cancelled, obeyed
#   cancelled timed_out.victim task_group
#   failed timed_out.slow error^TimeoutError @timed_out
#   deadline @timed_out seconds=0.02
# WHY timed_out: returned, absorbed
#   cancelled timed_out task_group
#   failed timed_out.slow error^TimeoutError @timed_out
#   deadline @timed_out seconds=0.02


async def held() -> None:
    await asyncio.sleep(3600)


async def waited_for() -> None:
    async def slow() -> None:
        await asyncio.wait_for(held(), 0.02)  # LINE waited_for

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="waited_for.victim")
            group.create_task(slow(), name="waited_for.slow")


# WHY waited_for.slow: raised, absorbed (3.12+)
#   cancelled waited_for.slow timeout @waited_for
#   deadline @waited_for seconds=0.02
# WHY coro:held waited_for: cancelled, obeyed (3.11)
#   cancelled * timeout @waited_for
#   deadline @waited_for seconds=0.02
# WHY waited_for.victim: cancelled, obeyed
#   cancelled waited_for.victim task_group
#   failed waited_for.slow error^TimeoutError @waited_for
#   deadline @waited_for seconds=0.02
# WHY waited_for: returned, absorbed
#   cancelled waited_for task_group
#   failed waited_for.slow error^TimeoutError @waited_for
#   deadline @waited_for seconds=0.02


async def nested_timeout() -> None:
    async def slow() -> None:
        async with asyncio.timeout(0.02):  # LINE nested_timeout
            await forever()

    async def middle() -> None:
        async with asyncio.TaskGroup() as group:  # LINE nested_timeout_middle
            group.create_task(slow(), name="nested_timeout.slow")

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="nested_timeout.victim")
            group.create_task(middle(), name="nested_timeout.middle")


# WHY nested_timeout.slow: raised, absorbed
#   cancelled nested_timeout.slow timeout @nested_timeout
#   deadline @nested_timeout seconds=0.02
# WHY nested_timeout.middle: raised, absorbed
#   cancelled nested_timeout.middle task_group
#   failed nested_timeout.slow error^TimeoutError @nested_timeout
#   deadline @nested_timeout seconds=0.02
# WHY nested_timeout.victim: cancelled, obeyed
#   cancelled nested_timeout.victim task_group
#   failed nested_timeout.middle error^ExceptionGroup @nested_timeout_middle
#   failed nested_timeout.slow error^TimeoutError @nested_timeout
#   deadline @nested_timeout seconds=0.02
# WHY nested_timeout: returned, absorbed
#   cancelled nested_timeout task_group
#   failed nested_timeout.middle error^ExceptionGroup @nested_timeout_middle
#   failed nested_timeout.slow error^TimeoutError @nested_timeout
#   deadline @nested_timeout seconds=0.02


async def body_raised() -> None:
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="body_raised.child")
            await steps()
            raise KeyError("body")  # LINE body_raised


# WHY body_raised.child: cancelled, obeyed
#   cancelled body_raised.child task_group
#   failed body_raised error="KeyError: 'body'" @body_raised


async def body_timed_out() -> None:
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="body_timed_out.child")
            async with asyncio.timeout(0.02):  # LINE body_timed_out
                await forever()


# WHY body_timed_out: returned, absorbed
#   cancelled body_timed_out timeout @body_timed_out
#   deadline @body_timed_out seconds=0.02
# WHY body_timed_out.child: cancelled, obeyed
#   cancelled body_timed_out.child task_group
#   failed body_timed_out error^TimeoutError @body_timed_out
#   deadline @body_timed_out seconds=0.02


async def owner_cancelled() -> None:
    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="owner_cancelled.one")
            group.create_task(forever(), name="owner_cancelled.two")

    owner = spawn("owner_cancelled.owner", run())
    await steps()
    owner.cancel()  # LINE owner_cancelled
    await settle(owner)


# WHY owner_cancelled.owner: cancelled, obeyed
#   cancelled owner_cancelled.owner explicit @owner_cancelled by=owner_cancelled
#   called explicit @owner_cancelled by=owner_cancelled
# WHY owner_cancelled.one: cancelled, obeyed
#   cancelled owner_cancelled.one task_group
#   cancelled owner_cancelled.owner explicit @owner_cancelled by=owner_cancelled
#   called explicit @owner_cancelled by=owner_cancelled
# WHY owner_cancelled.two: cancelled, obeyed
#   cancelled owner_cancelled.two task_group
#   cancelled owner_cancelled.owner explicit @owner_cancelled by=owner_cancelled
#   called explicit @owner_cancelled by=owner_cancelled


async def owner_cancelled_in_body() -> None:
    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="owner_cancelled_in_body.child")
            await forever()

    owner = spawn("owner_cancelled_in_body.owner", run())
    await steps()
    owner.cancel()  # LINE owner_cancelled_in_body
    await settle(owner)


# WHY owner_cancelled_in_body.owner: cancelled, obeyed
#   cancelled owner_cancelled_in_body.owner explicit @owner_cancelled_in_body by=owner_cancelled_in_body
#   called explicit @owner_cancelled_in_body by=owner_cancelled_in_body
# WHY owner_cancelled_in_body.child: cancelled, obeyed
#   cancelled owner_cancelled_in_body.child task_group
#   cancelled owner_cancelled_in_body.owner explicit @owner_cancelled_in_body by=owner_cancelled_in_body
#   called explicit @owner_cancelled_in_body by=owner_cancelled_in_body


async def owner_of_owners_cancelled() -> None:
    async def inner() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="owners.leaf")

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(inner(), name="owners.inner")

    owner = spawn("owners.owner", run())
    await steps(5)
    owner.cancel()  # LINE owners
    await settle(owner)


# WHY owners.owner: cancelled, obeyed
#   cancelled owners.owner explicit @owners by=owner_of_owners_cancelled
#   called explicit @owners by=owner_of_owners_cancelled
# WHY owners.inner: cancelled, obeyed
#   cancelled owners.inner task_group
#   cancelled owners.owner explicit @owners by=owner_of_owners_cancelled
#   called explicit @owners by=owner_of_owners_cancelled
# WHY owners.leaf: cancelled, obeyed
#   cancelled owners.leaf task_group
#   cancelled owners.inner task_group
#   cancelled owners.owner explicit @owners by=owner_of_owners_cancelled
#   called explicit @owners by=owner_of_owners_cancelled


async def timeout_around() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):  # LINE timeout_around
            async with asyncio.TaskGroup() as group:
                group.create_task(forever(), name="timeout_around.child")


# WHY timeout_around: returned, absorbed
#   cancelled timeout_around timeout @timeout_around
#   deadline @timeout_around seconds=0.02
# WHY timeout_around.child: cancelled, obeyed
#   cancelled timeout_around.child task_group
#   cancelled timeout_around timeout @timeout_around
#   deadline @timeout_around seconds=0.02


async def second_failure() -> None:
    async def boom() -> None:
        await steps()
        raise ValueError("first")  # LINE second_failure

    async def fragile() -> None:
        try:
            await forever()
        finally:
            raise KeyError("second")

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="second_failure.victim")
            group.create_task(fragile(), name="second_failure.fragile")
            group.create_task(boom(), name="second_failure.boom")


# WHY second_failure: returned, absorbed
#   cancelled second_failure task_group
#   failed second_failure.boom error="ValueError: first" @second_failure
# WHY second_failure.victim: cancelled, obeyed
#   cancelled second_failure.victim task_group
#   failed second_failure.boom error="ValueError: first" @second_failure
# WHY second_failure.fragile: raised, replaced
#   cancelled second_failure.fragile task_group
#   failed second_failure.boom error="ValueError: first" @second_failure


async def failed_and_cancelled() -> None:
    # Somebody cancels the owner while its group already winds up after a
    # failure: the group takes its own request back, the other one stands.
    async def boom() -> None:
        await steps()
        raise ValueError("bad")

    async def slow_to_go() -> None:
        try:
            await forever()
        finally:
            await steps(10)

    async def run() -> None:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(slow_to_go(), name="failed_and_cancelled.slow")
                group.create_task(boom(), name="failed_and_cancelled.boom")
        kept.set()
        await forever()

    kept = asyncio.Event()
    owner = spawn("failed_and_cancelled.owner", run())
    await steps(8)
    owner.cancel()  # LINE failed_and_cancelled
    if sys.version_info < (3, 13):  # the group keeps the CancelledError
        await kept.wait()
        owner.cancel()  # LINE failed_and_cancelled_again
    await settle(owner)


# WHY failed_and_cancelled.slow: cancelled, obeyed
#   cancelled failed_and_cancelled.slow task_group
#   failed failed_and_cancelled.boom error="ValueError: bad" @*
# WHY failed_and_cancelled.owner: cancelled, obeyed (3.13+)
#   cancelled failed_and_cancelled.owner explicit @failed_and_cancelled by=failed_and_cancelled
#   called explicit @failed_and_cancelled by=failed_and_cancelled
# WHY failed_and_cancelled.owner: cancelled, obeyed (3.11, 3.12)
#   cancelled failed_and_cancelled.owner explicit @failed_and_cancelled_again by=failed_and_cancelled
#   called explicit @failed_and_cancelled_again by=failed_and_cancelled


async def eager() -> None:
    if sys.version_info < (3, 12):
        return

    async def boom() -> None:
        raise ValueError("at once")  # LINE eager

    async def boom_later() -> None:
        await steps()
        raise ValueError("later")  # LINE eager_later

    loop = asyncio.get_running_loop()
    loop.set_task_factory(make_eager)
    try:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(forever(), name="eager.victim")
                group.create_task(boom(), name="eager.boom")
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(forever(), name="eager.later_victim")
                group.create_task(boom_later(), name="eager.later_boom")
    finally:
        loop.set_task_factory(None)


# WHY eager.victim: cancelled, obeyed (3.12+)
#   cancelled eager.victim task_group
#   failed eager.boom error="ValueError: at once" @eager
# WHY eager.later_victim: cancelled, obeyed (3.12+)
#   cancelled eager.later_victim task_group
#   failed eager.later_boom error="ValueError: later" @eager_later
# WHY eager: returned, absorbed (3.12+)
#   ...
#   known


async def first_raised_elsewhere() -> None:
    # The child only hands on what another task raised.
    async def boom() -> None:
        await steps()
        raise ValueError("elsewhere")  # LINE elsewhere

    other = spawn("elsewhere.boom", boom())

    async def wait() -> None:
        await other

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="elsewhere.victim")
            group.create_task(wait(), name="elsewhere.messenger")


# WHY elsewhere.victim: cancelled, obeyed (3.12+)
#   cancelled elsewhere.victim task_group
#   failed elsewhere.messenger error="ValueError: elsewhere" @elsewhere detail~elsewhere.boom
# WHY first_raised_elsewhere: returned, absorbed (3.12+)
#   cancelled first_raised_elsewhere task_group
#   failed elsewhere.messenger error="ValueError: elsewhere" @elsewhere detail~elsewhere.boom
# WHY elsewhere.victim: cancelled, obeyed (3.11, full)
#   cancelled elsewhere.victim task_group
#   failed elsewhere.messenger error="ValueError: elsewhere" @elsewhere detail~elsewhere.boom
# WHY first_raised_elsewhere: returned, absorbed (3.11, full)
#   cancelled first_raised_elsewhere task_group
#   failed elsewhere.messenger error="ValueError: elsewhere" @elsewhere detail~elsewhere.boom
# Before 3.12 a small log is made without seeing tasks fail that nobody cancels.
# WHY elsewhere.victim: cancelled, obeyed (3.11, small)
#   cancelled elsewhere.victim task_group
#   failed elsewhere.messenger error="ValueError: elsewhere" @elsewhere
# WHY first_raised_elsewhere: returned, absorbed (3.11, small)
#   cancelled first_raised_elsewhere task_group
#   failed elsewhere.messenger error="ValueError: elsewhere" @elsewhere


start(
    sibling,
    in_the_body,
    nested,
    three_deep,
    timed_out,
    waited_for,
    nested_timeout,
    body_raised,
    body_timed_out,
    owner_cancelled,
    owner_cancelled_in_body,
    owner_of_owners_cancelled,
    timeout_around,
    second_failure,
    failed_and_cancelled,
    eager,
    first_raised_elsewhere,
)
