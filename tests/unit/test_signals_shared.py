"""Functions that a signal runs, and something else too: told as the signal only where it was one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import aioaudit
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


def root_of(run: Run, body: Callable[[Victim], Awaitable[None]]) -> Link:
    """The root of the chain of a task that *body* has cancelled, which every account of it gives."""

    async def main() -> Victim:
        victim: Victim = asyncio.create_task(asyncio.sleep(60), name="victim")
        await asyncio.sleep(0)
        await body(victim)
        await asyncio.wait([victim], timeout=PATIENCE)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            asyncio.get_running_loop().remove_signal_handler(number)
        assert victim.cancelled()
        return victim

    with aioaudit.recording() as trail:
        answer: Answer | None = trail.why(run(main()))
    assert answer is not None
    return answer.root


@every_loop
def test_a_timers_callback_that_serves_a_signal_too_is_not_told_as_the_signal(run: Run) -> None:
    async def body(victim: Victim) -> None:
        def stop() -> None:
            victim.cancel()  # LINE timer

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.call_later(0.01, stop)

    root = root_of(run, body)
    assert (root.what, root.at) == ("called", line("timer"))


@every_loop
def test_a_done_callback_that_serves_a_signal_too_is_not_told_as_the_signal(run: Run) -> None:
    async def body(victim: Victim) -> None:
        def stop(*_: object) -> None:
            victim.cancel()  # LINE done

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        asyncio.create_task(asyncio.sleep(0)).add_done_callback(stop)

    root = root_of(run, body)
    assert (root.what, root.at) == ("called", line("done"))


@every_loop
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_of_two_signals_with_one_function_it_is_the_one_that_came(
    run: Run, number: signal.Signals
) -> None:
    async def body(victim: Victim) -> None:
        def stop() -> None:
            victim.cancel()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.add_signal_handler(signal.SIGUSR1, stop)
        loop.call_later(5, stop)
        os.kill(os.getpid(), number)

    root = root_of(run, body)
    assert (root.what, root.signal) == ("signal", number.name)


@every_loop
def test_a_handler_that_takes_itself_off_first_is_told_as_the_signal(run: Run) -> None:
    async def body(victim: Victim) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_signal_handler(signal.SIGTERM)
            victim.cancel()

        loop.add_signal_handler(signal.SIGTERM, stop)
        os.kill(os.getpid(), signal.SIGTERM)

    root = root_of(run, body)
    assert (root.what, root.signal) == ("signal", "SIGTERM")


@every_loop
def test_a_bound_cancel_of_a_signal_is_known_beside_timers_of_the_same_task(run: Run) -> None:
    async def body(victim: Victim) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0, lambda: None)
        loop.call_later(5, victim.cancel)
        loop.add_signal_handler(signal.SIGTERM, victim.cancel)  # LINE bound
        os.kill(os.getpid(), signal.SIGTERM)

    root = root_of(run, body)
    assert (root.what, root.signal, root.at) == ("signal", "SIGTERM", line("bound"))


@every_loop
def test_a_bound_cancel_of_a_timer_is_no_signals(run: Run) -> None:
    async def body(victim: Victim) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, victim.cancel)
        loop.call_later(0.01, victim.cancel)  # LINE timed

    root = root_of(run, body)
    assert (root.what, root.at) == ("called", line("timed"))
