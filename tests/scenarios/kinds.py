"""Tasks of every make: eager, written in Python, from factories, never run, never finished."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    make_eager,
    settle,
    spawn,
    start,
    steps,
)


async def wait(something: Any) -> None:
    await something


async def in_python() -> None:
    make: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]  # it has no public name
    loop = asyncio.get_running_loop()
    inner = make(forever(), loop=loop, name="in_python.inner")
    outer = make(wait(inner), loop=loop, name="in_python.outer")
    await steps()
    outer.cancel()  # LINE in_python
    await asyncio.wait([outer, inner])


# WHY in_python.outer: cancelled, obeyed
#   cancelled in_python.outer explicit @in_python by=in_python
#   called explicit @in_python by=in_python
# WHY in_python.inner: cancelled, obeyed
#   cancelled in_python.inner awaiter by=in_python.outer
#   cancelled in_python.outer explicit @in_python by=in_python
#   called explicit @in_python by=in_python


async def future_in_python() -> None:
    make: Any = asyncio.futures._PyFuture  # type: ignore[attr-defined]  # it has no public name
    future = make(loop=asyncio.get_running_loop())
    waiter = spawn("future_in_python.waiter", wait(future))
    await steps()
    future.cancel()  # LINE future_in_python
    await settle(waiter)


# WHY future_in_python.waiter: cancelled, obeyed
#   cancelled future_in_python.waiter
#   cancelled - explicit @future_in_python by=future_in_python
#   called explicit @future_in_python by=future_in_python


async def eager_start() -> None:
    if sys.version_info < (3, 12):
        return
    make: Any = asyncio.Task
    loop = asyncio.get_running_loop()
    inner = make(forever(), loop=loop, name="eager_start.inner", eager_start=True)
    outer = make(wait(inner), loop=loop, name="eager_start.outer", eager_start=True)

    async def returns() -> str:
        return "at once"

    done = make(returns(), loop=loop, name="eager_start.not_listed", eager_start=True)
    assert done.done()
    outer.cancel()  # LINE eager_start
    await settle(outer, inner)


# WHY eager_start.outer: cancelled, obeyed (3.12+)
#   cancelled eager_start.outer explicit @eager_start by=eager_start
#   called explicit @eager_start by=eager_start
# WHY eager_start.inner: cancelled, obeyed (3.12+)
#   cancelled eager_start.inner awaiter by=eager_start.outer
#   cancelled eager_start.outer explicit @eager_start by=eager_start
#   called explicit @eager_start by=eager_start


async def eager_factory() -> None:
    if sys.version_info < (3, 12):
        return
    loop = asyncio.get_running_loop()
    loop.set_task_factory(make_eager)
    victim = spawn("eager_factory.victim")

    async def strike() -> None:
        victim.cancel()  # LINE eager_factory

    striker = spawn("eager_factory.striker", strike())
    loop.set_task_factory(None)
    assert striker.done()
    await settle(victim)


# WHY eager_factory.victim: cancelled, obeyed (3.12+)
#   cancelled eager_factory.victim explicit @eager_factory by=*
#   called explicit @eager_factory by=*


class Named(asyncio.Task[Any]):
    """A foreign factory's own subclass, which names its tasks itself."""

    def __init__(self, coro: Any, **keywords: Any) -> None:
        super().__init__(coro, **keywords)
        super().set_name("factory.victim")

    def set_name(self, value: object, /) -> None:
        pass


async def factory() -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **keywords: Named(coro, loop=loop, **keywords))
    victim = loop.create_task(forever())
    loop.set_task_factory(None)
    await steps()
    victim.cancel()  # LINE factory
    await settle(victim)


# WHY factory.victim: cancelled, obeyed
#   cancelled factory.victim explicit @factory by=factory
#   called explicit @factory by=factory


async def many_ways() -> None:
    loop = asyncio.get_running_loop()
    ensured = asyncio.ensure_future(forever())
    ensured.set_name("many_ways.ensured")
    created = loop.create_task(forever(), name="many_ways.created")
    direct = asyncio.Task(forever(), loop=loop, name="many_ways.direct")
    await steps()
    for task in (ensured, created, direct):
        task.cancel()  # LINE many_ways
    await settle(ensured, created, direct)


# WHY many_ways.ensured: cancelled, obeyed
#   cancelled many_ways.ensured explicit @many_ways by=many_ways
#   called explicit @many_ways by=many_ways
# WHY many_ways.created: cancelled, obeyed
#   cancelled many_ways.created explicit @many_ways by=many_ways
#   called explicit @many_ways by=many_ways
# WHY many_ways.direct: cancelled, obeyed
#   cancelled many_ways.direct explicit @many_ways by=many_ways
#   called explicit @many_ways by=many_ways


start(
    in_python,
    future_in_python,
    eager_start,
    eager_factory,
    factory,
    many_ways,
)


def never_finished() -> None:
    """A loop is closed while tasks of it still wait; one of them was asked to cancel."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    asked = loop.create_task(forever(), name="never_finished.asked")
    waiting = loop.create_task(forever(), name="never_finished.not_listed")
    loop.run_until_complete(asyncio.sleep(0))
    asked.cancel()  # LINE never_finished
    loop.close()
    del asked, waiting
    gc.collect()


with contextlib.suppress(RuntimeError):
    never_finished()
gc.collect()

# WHY never_finished.asked: pending, *
#   cancelled never_finished.asked explicit @never_finished
#   called explicit @never_finished
