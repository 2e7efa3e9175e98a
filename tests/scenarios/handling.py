"""``cancel()`` while an error is handled: a CancelledError is the cause, another is a detail."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    runner,
    settle,
    spawn,
    start,
    steps,
)


async def another_error() -> None:
    victim = spawn("another_error.victim")
    await steps()
    try:
        raise ValueError("broken")
    except ValueError:
        victim.cancel()  # LINE another_error
    await settle(victim)


# WHY another_error.victim: cancelled, obeyed
#   cancelled another_error.victim explicit @another_error by=another_error detail~"ValueError: broken"
#   called explicit @another_error by=another_error detail~"ValueError: broken"


async def timeout_error() -> None:
    victim = spawn("timeout_error.victim")
    try:
        async with asyncio.timeout(0.01):  # LINE timeout_error_block
            await forever()
    except TimeoutError:
        victim.cancel()  # LINE timeout_error
    await settle(victim)


# WHY timeout_error: returned, absorbed
#   cancelled timeout_error timeout @timeout_error_block
#   deadline @timeout_error_block seconds=0.01
# WHY timeout_error.victim: cancelled, obeyed
#   cancelled timeout_error.victim explicit @timeout_error by=timeout_error detail~TimeoutError
#   called explicit @timeout_error by=timeout_error detail~TimeoutError


async def cancelled_error() -> None:
    other = spawn("cancelled_error.other")

    async def run() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            other.cancel()  # LINE cancelled_error_on
            raise

    owner = spawn("cancelled_error.owner", run())
    await steps()
    owner.cancel()  # LINE cancelled_error
    await settle(owner, other)


# WHY cancelled_error.owner: cancelled, obeyed
#   cancelled cancelled_error.owner explicit @cancelled_error by=cancelled_error
#   called explicit @cancelled_error by=cancelled_error
# WHY cancelled_error.other: cancelled, obeyed
#   cancelled cancelled_error.other explicit @cancelled_error_on by=cancelled_error.owner
#   cancelled cancelled_error.owner explicit @cancelled_error by=cancelled_error
#   called explicit @cancelled_error by=cancelled_error


async def in_a_finally() -> None:
    other = spawn("in_a_finally.other")

    async def run() -> None:
        try:
            await forever()
        finally:
            other.cancel()  # LINE in_a_finally_on

    owner = spawn("in_a_finally.owner", run())
    await steps()
    owner.cancel()  # LINE in_a_finally
    await settle(owner, other)


# WHY in_a_finally.owner: cancelled, obeyed
#   cancelled in_a_finally.owner explicit @in_a_finally by=in_a_finally
#   called explicit @in_a_finally by=in_a_finally
# WHY in_a_finally.other: cancelled, obeyed
#   cancelled in_a_finally.other explicit @in_a_finally_on by=in_a_finally.owner
#   cancelled in_a_finally.owner explicit @in_a_finally by=in_a_finally
#   called explicit @in_a_finally by=in_a_finally


async def finally_without_error() -> None:
    victim = spawn("finally_without_error.victim")
    await steps()
    try:
        await steps()
    finally:
        victim.cancel()  # LINE finally_without_error
    await settle(victim)


# WHY finally_without_error.victim: cancelled, obeyed
#   cancelled finally_without_error.victim explicit @finally_without_error by=finally_without_error
#   called explicit @finally_without_error by=finally_without_error


async def after_an_await() -> None:
    # The handler awaits something first, and leaves the cancelling to a helper.
    other = spawn("after_an_await.other")

    def clean_up() -> None:
        other.cancel()  # LINE after_an_await_on

    async def run() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            clean_up()
            raise

    owner = spawn("after_an_await.owner", run())
    await steps()
    owner.cancel()  # LINE after_an_await
    await settle(owner, other)


# WHY after_an_await.owner: cancelled, obeyed
#   cancelled after_an_await.owner explicit @after_an_await by=after_an_await
#   called explicit @after_an_await by=after_an_await
# WHY after_an_await.other: cancelled, obeyed
#   cancelled after_an_await.other explicit @after_an_await_on by=after_an_await.owner
#   cancelled after_an_await.owner explicit @after_an_await by=after_an_await
#   called explicit @after_an_await by=after_an_await


class Pool:
    """Cancels its worker when it is left, like many libraries do."""

    def __init__(self, worker: asyncio.Task[Any]) -> None:
        self.worker = worker

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.worker.cancel()  # LINE pool
        await settle(self.worker)


async def context_manager() -> None:
    async def run(worker: asyncio.Task[Any]) -> None:
        async with Pool(worker):
            await forever()

    worker = spawn("context_manager.worker")
    owner = spawn("context_manager.owner", run(worker))
    await steps()
    owner.cancel()  # LINE context_manager
    await settle(owner)
    idle = spawn("context_manager.idle")
    async with Pool(idle):
        await steps()


# WHY context_manager.owner: cancelled, obeyed
#   cancelled context_manager.owner explicit @context_manager by=context_manager
#   called explicit @context_manager by=context_manager
# WHY context_manager.worker: cancelled, obeyed
#   cancelled context_manager.worker explicit @pool by=context_manager.owner
#   cancelled context_manager.owner explicit @context_manager by=context_manager
#   called explicit @context_manager by=context_manager
# WHY context_manager.idle: cancelled, obeyed
#   cancelled context_manager.idle explicit @pool by=context_manager
#   called explicit @pool by=context_manager


async def domino() -> None:
    # Three tasks, each cancels the next while it is cancelled itself.
    third = spawn("domino.third")

    async def push(other: asyncio.Task[Any]) -> None:
        try:
            await forever()
        finally:
            other.cancel()  # LINE domino_on

    second = spawn("domino.second", push(third))
    first = spawn("domino.first", push(second))
    await steps()
    first.cancel()  # LINE domino
    await settle(first, second, third)


# WHY domino.first: cancelled, obeyed
#   cancelled domino.first explicit @domino by=domino
#   called explicit @domino by=domino
# WHY domino.second: cancelled, obeyed
#   cancelled domino.second explicit @domino_on by=domino.first
#   cancelled domino.first explicit @domino by=domino
#   called explicit @domino by=domino
# WHY domino.third: cancelled, obeyed
#   cancelled domino.third explicit @domino_on by=domino.second
#   cancelled domino.second explicit @domino_on by=domino.first
#   cancelled domino.first explicit @domino by=domino
#   called explicit @domino by=domino


async def of_what_it_awaited() -> None:
    # The CancelledError comes from a task that was awaited, not from a request to the owner.
    inner = spawn("of_what_it_awaited.inner")
    other = spawn("of_what_it_awaited.other")

    async def run() -> None:
        try:
            await inner
        except asyncio.CancelledError:
            other.cancel()  # LINE of_what_it_awaited_on

    owner = spawn("of_what_it_awaited.not_listed", run())
    await steps()
    inner.cancel()  # LINE of_what_it_awaited
    await settle(owner, other)


# WHY of_what_it_awaited.inner: cancelled, obeyed
#   cancelled of_what_it_awaited.inner explicit @of_what_it_awaited by=of_what_it_awaited
#   called explicit @of_what_it_awaited by=of_what_it_awaited
# WHY of_what_it_awaited.other: cancelled, obeyed
#   cancelled of_what_it_awaited.other explicit @of_what_it_awaited_on by=of_what_it_awaited.not_listed
#   cancelled of_what_it_awaited.inner explicit @of_what_it_awaited by=of_what_it_awaited
#   called explicit @of_what_it_awaited by=of_what_it_awaited


async def somebody_elses_error() -> None:
    # While one task sits in its handler, another cancels for reasons of its own.
    victim = spawn("somebody_elses_error.victim")

    async def sit() -> None:
        with contextlib.suppress(ValueError):
            try:
                raise ValueError("mine")
            except ValueError:
                await steps(10)
                raise

    sitting = spawn("somebody_elses_error.sitting", sit())
    await steps()
    victim.cancel()  # LINE somebody_elses_error
    await settle(victim, sitting)


# WHY somebody_elses_error.victim: cancelled, obeyed
#   cancelled somebody_elses_error.victim explicit @somebody_elses_error by=somebody_elses_error
#   called explicit @somebody_elses_error by=somebody_elses_error


start(
    another_error,
    timeout_error,
    cancelled_error,
    in_a_finally,
    finally_without_error,
    after_an_await,
    context_manager,
    domino,
    of_what_it_awaited,
    somebody_elses_error,
)


async def main() -> None:
    """Runs inside an ``except`` block, which has nothing to do with what happens here."""
    victim = spawn("inside_except.victim")
    left = spawn("inside_except.left")
    await steps()
    victim.cancel()  # LINE inside_except
    await settle(victim)
    assert not left.done()


try:
    raise KeyError("before asyncio.run")
except KeyError:
    runner()(main())  # LINE inside_except_run

# WHY inside_except.victim: cancelled, obeyed
#   cancelled inside_except.victim explicit @inside_except by=*
#   called explicit @inside_except by=*
# WHY inside_except.left: cancelled, obeyed
#   cancelled inside_except.left shutdown ?@inside_except_run
#   shutdown ?@inside_except_run
