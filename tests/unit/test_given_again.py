"""One bound ``cancel``, kept and given to a loop more than once: only who was called is named."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import aioaudit
import aioaudit.session
from aioaudit.chain.links import Answer, Link
from tests.loops import every_loop
from tests.waiting import PATIENCE

HERE = Path(__file__)
Run = Callable[[Coroutine[Any, Any, Any]], Any]
Victim = asyncio.Task[None]


def line(label: str) -> str:
    [number] = [
        number
        for number, text in enumerate(HERE.read_text().splitlines(), 1)
        if text.endswith(f"# LINE {label}")
    ]
    return f"{HERE}:{number}"


async def timer_before_another(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    loop.call_later(0.01, stop)  # LINE timer_before_another
    loop.call_later(60, stop)


async def timer_set_again(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    loop.call_later(60, stop).cancel()
    loop.call_later(0.01, stop)  # LINE timer_set_again


async def first_of_futures(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    first: asyncio.Future[None] = loop.create_future()
    second: asyncio.Future[None] = loop.create_future()
    first.add_done_callback(stop)  # LINE first_of_futures
    second.add_done_callback(stop)
    first.set_result(None)
    await asyncio.wait([victim])
    second.cancel()


async def future_given_twice(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    future: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(stop)  # LINE future_given_twice
    other: asyncio.Future[None] = loop.create_future()
    other.add_done_callback(stop)
    future.add_done_callback(stop)
    future.set_result(None)
    await asyncio.wait([victim])
    other.cancel()


async def future_given_anew(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    future: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(stop)
    future.remove_done_callback(stop)
    future.add_done_callback(stop)  # LINE future_given_anew
    future.set_result(None)


async def future_before_a_timer(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    future: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(stop)  # LINE future_before_a_timer
    loop.call_later(60, stop)
    future.set_result(None)


async def thread_safe_before_a_timer(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    loop.call_soon_threadsafe(stop)  # LINE thread_safe_before_a_timer
    loop.call_later(60, stop)


async def signal_before_a_timer(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    loop.add_signal_handler(signal.SIGUSR1, stop)  # LINE signal_before_a_timer
    loop.call_later(60, stop)
    os.kill(os.getpid(), signal.SIGUSR1)


async def timer_before_a_signal(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    loop.call_later(0.01, stop)  # LINE timer_before_a_signal
    loop.add_signal_handler(signal.SIGUSR1, stop)


GIVEN = [
    timer_before_another,
    timer_set_again,
    first_of_futures,
    future_given_twice,
    future_given_anew,
    future_before_a_timer,
    thread_safe_before_a_timer,
    signal_before_a_timer,
    timer_before_a_signal,
]


def root_of(run: Run, body: Callable[[Victim], Awaitable[None]]) -> tuple[Link, bool]:
    """The root of the chain of a task that *body* has cancelled, and whether it is a conclusion."""

    async def main() -> Victim:
        victim: Victim = asyncio.create_task(asyncio.sleep(60), name="victim")
        await asyncio.sleep(0)
        await body(victim)
        await asyncio.wait([victim], timeout=PATIENCE)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)
        assert victim.cancelled()
        return victim

    with aioaudit.recording() as trail:
        answer: Answer | None = trail.why(run(main()))
    assert answer is not None
    return answer.root, answer.inferred


@pytest.mark.parametrize("body", GIVEN)
def test_it_is_the_time_that_was_called(body: Callable[[Victim], Awaitable[None]]) -> None:
    root, inferred = root_of(asyncio.run, body)
    assert (root.what, root.at, inferred) == (
        "signal" if body is signal_before_a_timer else "called",
        line(body.__name__),
        # Of two requests nobody sees there which one arrived.
        body is future_given_twice and sys.version_info < (3, 12),
    )


@every_loop
@pytest.mark.parametrize("body", GIVEN)
def test_no_other_time_is_told_as_a_fact(
    run: Run, body: Callable[[Victim], Awaitable[None]]
) -> None:
    root, inferred = root_of(run, body)
    assert inferred or root.at in (None, line(body.__name__))


async def soon_beside_a_future(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    future: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(stop)
    loop.call_soon(stop)
    await asyncio.wait([victim])
    future.cancel()


async def soon_beside_a_timer(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    loop.call_later(60, stop)
    loop.call_soon(stop)


async def soon_beside_a_signal(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    loop.add_signal_handler(signal.SIGUSR1, stop)
    loop.call_soon(stop)


async def soon_behind_thread_safe(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    loop.call_soon(stop)
    loop.call_soon_threadsafe(stop)


async def soon_behind_a_timer_taken_back(victim: Victim) -> None:
    loop, stop = asyncio.get_running_loop(), victim.cancel
    timer = loop.call_later(0.001, stop)
    timer.cancel()
    await asyncio.sleep(0.01)
    loop.call_soon(stop)
    await asyncio.wait([victim])
    assert timer.cancelled()


@every_loop
@pytest.mark.parametrize(
    "body",
    [
        soon_beside_a_future,
        soon_beside_a_timer,
        soon_beside_a_signal,
        soon_behind_thread_safe,
        soon_behind_a_timer_taken_back,
    ],
)
def test_a_time_that_nobody_saw_is_none_of_the_others(
    run: Run, body: Callable[[Victim], Awaitable[None]]
) -> None:
    root, inferred = root_of(run, body)
    assert inferred or root.at is None
    assert root.what == "called"
    assert run is not asyncio.run or root.at is None


class Held(asyncio.SelectorEventLoop):
    """One in which the first thread's ``call_soon_threadsafe`` ends before that of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.second_is_in, self.first_is_out = threading.Event(), threading.Event()

    def _write_to_self(self) -> None:
        name = threading.current_thread().name
        if name == "first":
            assert self.second_is_in.wait(PATIENCE)
        elif name == "second":
            self.second_is_in.set()
            assert self.first_is_out.wait(PATIENCE)
        super()._write_to_self()  # type: ignore[misc]  # typeshed does not know it


def test_two_threads_that_give_it_at_once_are_two_times() -> None:
    async def two_threads(victim: Victim) -> None:
        loop, stop = asyncio.get_running_loop(), victim.cancel
        assert isinstance(loop, Held)
        given = threading.Event()

        def first() -> None:
            given.set()
            loop.call_soon_threadsafe(stop)  # LINE two_threads
            loop.first_is_out.set()

        def second() -> None:
            assert given.wait(PATIENCE)
            while not loop._ready:  # type: ignore[attr-defined]  # typeshed does not know it
                pass
            loop.call_soon_threadsafe(stop)

        threads = [threading.Thread(target=each, name=each.__name__) for each in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with asyncio.Runner(loop_factory=Held) as runner:
        root, inferred = root_of(runner.run, two_threads)
    unseen = sys.version_info < (3, 12)  # there nobody sees which of two requests arrived
    assert (root.what, root.at, inferred) == ("called", line("two_threads"), unseen)


def test_what_is_kept_of_it_goes_with_what_it_was_given_with() -> None:
    async def main() -> tuple[int, int]:
        known = aioaudit.session.current().recorder.state.handoffs  # type: ignore[union-attr]
        victim: Victim = asyncio.create_task(asyncio.sleep(60))
        stop = victim.cancel
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        kept.add_done_callback(stop)
        for _ in range(200):
            asyncio.get_running_loop().create_future().add_done_callback(stop)
        [earlier] = [each for _, each in known.earlier.items()]
        several = len(earlier)
        kept.remove_done_callback(stop)
        del stop, earlier
        victim.cancel()
        await asyncio.wait([victim])
        return several, len(known.earlier) + len(known.by_callback)

    with aioaudit.recording():
        assert asyncio.run(main()) == (1, 0)
