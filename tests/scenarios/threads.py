"""Requests from other threads, and loops in several threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    settle,
    spawn,
    start,
    steps,
)


async def in_thread(name: str, function: Callable[[], Any]) -> None:
    """Run *function* in a thread called *name*, while the loop runs on."""
    thread = threading.Thread(target=function, name=name)
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110 - nothing tells when a thread has ended
        await asyncio.sleep(0.001)
    thread.join()


async def plainly() -> None:
    victim = spawn("plainly.victim")
    await steps()
    loop = asyncio.get_running_loop()

    def end() -> None:
        victim.cancel()  # LINE plainly
        loop.call_soon_threadsafe(lambda: None)  # the loop does not wake up by itself

    await in_thread("plain-thread", end)
    await settle(victim)


# WHY plainly.victim: cancelled, obeyed
#   cancelled plainly.victim thread @plainly by=plain-thread
#   called thread @plainly by=plain-thread


async def threadsafe() -> None:
    victim = spawn("threadsafe.victim")
    await steps()
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.call_soon_threadsafe(victim.cancel)  # LINE threadsafe

    await in_thread("safe-thread", end)
    await settle(victim)


# WHY threadsafe.victim: cancelled, obeyed
#   cancelled threadsafe.victim thread @threadsafe by=safe-thread detail~
#   called thread @threadsafe by=safe-thread detail~


async def bare() -> None:
    # No line of anybody's runs in that thread: it is all that can be told.
    victim = spawn("bare.victim")
    await steps()
    await in_thread("bare-thread", victim.cancel)
    await settle(victim)


# WHY bare.victim: cancelled, obeyed
#   cancelled bare.victim thread by=bare-thread
#   called thread by=bare-thread


async def bare_threadsafe() -> None:
    victim = spawn("bare_threadsafe.victim")
    await steps()
    loop = asyncio.get_running_loop()
    thread = threading.Thread(
        target=loop.call_soon_threadsafe, args=(victim.cancel,), name="bare-safe-thread"
    )
    thread.start()
    await settle(victim)
    thread.join()


# WHY bare_threadsafe.victim: cancelled, obeyed
#   cancelled bare_threadsafe.victim thread by=bare-safe-thread detail~
#   called thread by=bare-safe-thread detail~


async def threadsafe_at_home() -> None:
    # Given by the loop's own thread, it is no request from another one.
    victim = spawn("threadsafe_at_home.victim")
    await steps()
    loop = asyncio.get_running_loop()
    loop.call_soon_threadsafe(victim.cancel)  # LINE threadsafe_at_home
    await settle(victim)


# WHY threadsafe_at_home.victim: cancelled, obeyed
#   cancelled threadsafe_at_home.victim explicit @threadsafe_at_home by=? detail~
#   called explicit @threadsafe_at_home by=? detail~


async def threadsafe_function() -> None:
    victim = spawn("threadsafe_function.victim")
    await steps()
    loop = asyncio.get_running_loop()

    def end() -> None:
        victim.cancel()  # LINE threadsafe_function

    await in_thread("function-thread", lambda: loop.call_soon_threadsafe(end))
    await settle(victim)


# WHY threadsafe_function.victim: cancelled, obeyed
#   cancelled threadsafe_function.victim explicit @threadsafe_function
#   called explicit @threadsafe_function


async def held_for_a_thread(ready: threading.Event) -> None:
    ready.set()
    await forever()


async def concurrent_future() -> None:
    loop = asyncio.get_running_loop()

    def end() -> None:
        future = asyncio.run_coroutine_threadsafe(held_for_a_thread(ready), loop)
        ready.wait()
        future.cancel()  # LINE concurrent_future

    ready = threading.Event()
    await in_thread("concurrent-thread", end)
    await steps(5)


# WHY coro:held_for_a_thread concurrent_future: cancelled, obeyed
#   cancelled * thread @concurrent_future by=concurrent-thread detail~
#   called thread @concurrent_future by=concurrent-thread detail~


async def two_loops() -> None:
    # The other thread has a loop of its own, and scenarios of its own.
    foreign = spawn("two_loops.foreign")
    home = asyncio.get_running_loop()

    async def elsewhere() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("two_loops.elsewhere")
        mine = asyncio.create_task(forever(), name="two_loops.mine")
        await asyncio.sleep(0)
        mine.cancel()  # LINE two_loops_mine
        await asyncio.wait([mine])
        foreign.cancel()  # LINE two_loops_foreign
        home.call_soon_threadsafe(lambda: None)

    await steps()
    await in_thread("loop-thread", lambda: asyncio.run(elsewhere()))
    await settle(foreign)


# WHY two_loops.mine: cancelled, obeyed
#   cancelled two_loops.mine explicit @two_loops_mine by=two_loops.elsewhere
#   called explicit @two_loops_mine by=two_loops.elsewhere
# WHY two_loops.foreign: cancelled, obeyed
#   cancelled two_loops.foreign thread @two_loops_foreign by=loop-thread
#   called thread @two_loops_foreign by=loop-thread


async def to_thread() -> None:
    # A task that waits for a thread is cancelled as any other.
    release = threading.Event()
    victim = spawn("to_thread.victim", asyncio.to_thread(release.wait))
    await steps()
    victim.cancel()  # LINE to_thread
    await settle(victim)
    release.set()


# WHY to_thread.victim: cancelled, obeyed
#   cancelled to_thread.victim explicit @to_thread by=to_thread
#   called explicit @to_thread by=to_thread


start(
    plainly,
    threadsafe,
    bare,
    bare_threadsafe,
    threadsafe_at_home,
    threadsafe_function,
    concurrent_future,
    two_loops,
    to_thread,
)
