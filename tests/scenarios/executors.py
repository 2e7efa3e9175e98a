"""Work in other threads that tasks wait for, and futures that are tied to those of other loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    settle,
    spawn,
    start,
    steps,
)


async def wait(something: Any) -> None:
    await something


async def in_thread(name: str, function: Callable[[], Any]) -> None:
    """Run *function* in a thread called *name*, while the loop runs on."""
    thread = threading.Thread(target=function, name=name)
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110 - nothing tells when a thread has ended
        await asyncio.sleep(0.001)
    thread.join()


async def in_executor() -> None:
    release = threading.Event()
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        victim = spawn("in_executor.victim", wait(loop.run_in_executor(pool, release.wait)))
        await steps()
        victim.cancel()  # LINE in_executor
        await settle(victim)
        release.set()


# WHY in_executor.victim: cancelled, obeyed
#   cancelled in_executor.victim explicit @in_executor by=in_executor
#   called explicit @in_executor by=in_executor


async def pool_shut_down() -> None:
    # What waits in the queue of a pool is cancelled when the pool is.
    release = threading.Event()
    loop = asyncio.get_running_loop()
    pool = concurrent.futures.ThreadPoolExecutor(1)
    busy = pool.submit(release.wait)
    victim = spawn("pool_shut_down.victim", wait(loop.run_in_executor(pool, release.wait)))
    await steps()
    pool.shutdown(wait=False, cancel_futures=True)  # LINE pool_shut_down
    await settle(victim)
    release.set()
    busy.result(20)


# WHY pool_shut_down.victim: cancelled, obeyed
#   cancelled pool_shut_down.victim
#   cancelled - explicit @pool_shut_down by=pool_shut_down
#   called explicit @pool_shut_down by=pool_shut_down


async def future_of_a_thread() -> None:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    victim = spawn("future_of_a_thread.victim", wait(asyncio.wrap_future(future)))
    await steps()

    def end() -> None:
        future.cancel()  # LINE future_of_a_thread

    await in_thread("ending-thread", end)
    await settle(victim)


# WHY future_of_a_thread.victim: cancelled, obeyed
#   cancelled future_of_a_thread.victim
#   cancelled - thread @future_of_a_thread by=ending-thread
#   called thread @future_of_a_thread by=ending-thread


async def future_of_this_thread() -> None:
    # Newer versions of asyncio let the one future follow the other at once.
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    victim = spawn("future_of_this_thread.victim", wait(asyncio.wrap_future(future)))
    await steps()
    future.cancel()  # LINE future_of_this_thread
    await settle(victim)


# WHY future_of_this_thread.victim: cancelled, obeyed
#   cancelled future_of_this_thread.victim
#   cancelled - explicit @future_of_this_thread by=future_of_this_thread
#   called explicit @future_of_this_thread by=future_of_this_thread


async def future_while_handling() -> None:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()

    async def hand_on() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            future.cancel()  # LINE future_while_handling
            raise

    victim = spawn("future_while_handling.victim", wait(asyncio.wrap_future(future)))
    handing = spawn("future_while_handling.on", hand_on())
    await steps()
    handing.cancel()  # LINE future_while_handling_first
    await settle(victim, handing)


# WHY future_while_handling.on: cancelled, obeyed
#   cancelled future_while_handling.on explicit @future_while_handling_first by=future_while_handling
#   called explicit @future_while_handling_first by=future_while_handling
# WHY future_while_handling.victim: cancelled, obeyed
#   cancelled future_while_handling.victim
#   cancelled - explicit @future_while_handling by=future_while_handling.on
#   cancelled future_while_handling.on explicit @future_while_handling_first by=future_while_handling
#   called explicit @future_while_handling_first by=future_while_handling


async def call_of_this_loop() -> None:
    # A thread's way to a loop, gone by the loop itself: a task, a future of threads and one of
    # the loop end as the first of them does.
    loop = asyncio.get_running_loop()
    task: list[asyncio.Task[Any]] = []

    async def at_home() -> None:
        this = asyncio.current_task()
        assert this is not None
        this.set_name("call_of_this_loop.home")
        task.append(this)
        await forever()

    outer = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(at_home(), loop))
    waiting = spawn("call_of_this_loop.waiting", wait(outer))
    while not task:  # noqa: ASYNC110 - it begins a few steps later
        await asyncio.sleep(0.001)
    await steps()
    task[0].cancel()  # LINE call_of_this_loop
    await settle(waiting)


# WHY call_of_this_loop.home: cancelled, obeyed
#   cancelled call_of_this_loop.home explicit @call_of_this_loop by=call_of_this_loop
#   called explicit @call_of_this_loop by=call_of_this_loop
# WHY call_of_this_loop.waiting: cancelled, obeyed
#   cancelled call_of_this_loop.waiting
#   cancelled - asyncio.chain
#   cancelled call_of_this_loop.home explicit @call_of_this_loop by=call_of_this_loop
#   called explicit @call_of_this_loop by=call_of_this_loop


def call_from_elsewhere(
    name: str, then: Callable[[asyncio.Future[None], asyncio.Task[None]], Coroutine[Any, Any, None]]
) -> Coroutine[Any, Any, None]:
    """A task ``NAME.home`` here, awaited by ``NAME.waiting`` of another thread's loop; then *then*."""
    home = asyncio.get_running_loop()
    begun = threading.Event()

    async def at_home() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name(f"{name}.home")
        begun.set()
        await forever()

    async def elsewhere() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name(f"{name}.elsewhere")
        future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(at_home(), home))
        waiting = spawn(f"{name}.waiting", wait(future))
        await asyncio.to_thread(begun.wait)
        await steps()  # a thread that is ready at once does not let others run, since 3.14
        await then(future, waiting)
        await asyncio.wait([waiting])

    return in_thread("loop-thread", lambda: asyncio.run(elsewhere()))


async def down_across_loops() -> None:
    async def end(_: asyncio.Future[None], waiting: asyncio.Task[None]) -> None:
        waiting.cancel()  # LINE down_across_loops

    await call_from_elsewhere("down", end)
    await steps()


# WHY down.waiting: cancelled, obeyed
#   cancelled down.waiting explicit @down_across_loops by=down.elsewhere
#   called explicit @down_across_loops by=down.elsewhere
# WHY down.home: cancelled, obeyed
#   cancelled down.home awaiter by=down.waiting
#   cancelled down.waiting explicit @down_across_loops by=down.elsewhere
#   called explicit @down_across_loops by=down.elsewhere


async def future_across_loops() -> None:
    async def end(future: asyncio.Future[None], _: asyncio.Task[None]) -> None:
        future.cancel()  # LINE future_across_loops

    await call_from_elsewhere("future", end)
    await steps()


# WHY future.waiting: cancelled, obeyed
#   cancelled future.waiting
#   cancelled - explicit @future_across_loops by=future.elsewhere
#   called explicit @future_across_loops by=future.elsewhere
# WHY future.home: cancelled, obeyed
#   cancelled future.home explicit @future_across_loops by=future.elsewhere
#   called explicit @future_across_loops by=future.elsewhere


async def up_across_loops() -> None:
    def find() -> asyncio.Task[Any]:
        return next(task for task in asyncio.all_tasks(home) if task.get_name() == "up.home")

    async def end(_: asyncio.Future[None], _waiting: asyncio.Task[None]) -> None:
        home.call_soon_threadsafe(lambda: find().cancel())  # LINE up_across_loops

    home = asyncio.get_running_loop()
    await call_from_elsewhere("up", end)


# WHY up.home: cancelled, obeyed
#   cancelled up.home explicit @up_across_loops
#   called explicit @up_across_loops
# WHY up.waiting: cancelled, obeyed
#   cancelled up.waiting
#   cancelled - asyncio.chain
#   cancelled up.home explicit @up_across_loops
#   called explicit @up_across_loops


async def handling_another() -> None:
    # Who hands a cancellation on from an except clause is not where it began.
    home = asyncio.get_running_loop()
    begun = threading.Event()

    async def at_home() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("handed.home")
        begun.set()
        await forever()

    async def hand_on() -> None:
        future = asyncio.run_coroutine_threadsafe(at_home(), home)
        try:
            await asyncio.to_thread(begun.wait)
            await forever()
        except asyncio.CancelledError:
            future.cancel()  # LINE handed
            raise

    async def elsewhere() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("handed.elsewhere")
        handing = spawn("handed.on", hand_on())
        while not begun.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        handing.cancel()  # LINE handed_first
        await asyncio.wait([handing])

    await in_thread("loop-thread", lambda: asyncio.run(elsewhere()))
    await steps()


# WHY handed.on: cancelled, obeyed
#   cancelled handed.on explicit @handed_first by=handed.elsewhere
#   called explicit @handed_first by=handed.elsewhere
# WHY handed.home: cancelled, obeyed
#   cancelled handed.home thread @handed by=loop-thread
#   cancelled handed.on explicit @handed_first by=handed.elsewhere
#   called explicit @handed_first by=handed.elsewhere


async def wrapped_cancel() -> None:
    # A bound cancel in a partial, and one that a context runs.
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    later, soon, run = (spawn(f"wrapped.{name}") for name in ("later", "soon", "run"))
    await steps()

    def end() -> None:
        loop.call_soon_threadsafe(functools.partial(soon.cancel, "enough"))  # LINE wrapped_soon
        loop.call_soon_threadsafe(context.run, run.cancel)  # LINE wrapped_run

    loop.call_later(0.001, functools.partial(later.cancel, msg="enough"))  # LINE wrapped_later
    await in_thread("wrapping-thread", end)
    await settle(later, soon, run)


# WHY wrapped.later: cancelled, obeyed
#   cancelled wrapped.later explicit @wrapped_later by=? detail~call_later
#   called explicit @wrapped_later by=? detail~call_later
# WHY wrapped.soon: cancelled, obeyed
#   cancelled wrapped.soon thread @wrapped_soon by=wrapping-thread detail~call_soon_threadsafe
#   called thread @wrapped_soon by=wrapping-thread detail~call_soon_threadsafe
# WHY wrapped.run: cancelled, obeyed
#   cancelled wrapped.run thread @wrapped_run by=wrapping-thread detail~call_soon_threadsafe
#   called thread @wrapped_run by=wrapping-thread detail~call_soon_threadsafe


start(
    in_executor,
    pool_shut_down,
    future_of_a_thread,
    future_of_this_thread,
    future_while_handling,
    call_of_this_loop,
    down_across_loops,
    future_across_loops,
    up_across_loops,
    handling_another,
    wrapped_cancel,
)
