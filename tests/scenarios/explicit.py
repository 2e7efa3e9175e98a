"""Somebody calls ``cancel()``: the line is the innermost of the program's own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    settle,
    spawn,
    start,
    steps,
)


async def direct() -> None:
    victim = spawn("direct.victim")
    await steps()
    victim.cancel("enough")  # LINE direct
    await settle(victim)


# WHY direct.victim: cancelled, obeyed
#   cancelled direct.victim explicit @direct by=direct
#   called explicit @direct by=direct


def stop(task: asyncio.Task[Any]) -> None:
    task.cancel()  # LINE helper


def supervise(task: asyncio.Task[Any]) -> None:
    stop(task)


async def helper() -> None:
    victim = spawn("helper.victim")
    await steps()
    supervise(victim)
    await settle(victim)


# WHY helper.victim: cancelled, obeyed
#   cancelled helper.victim explicit @helper by=helper
#   called explicit @helper by=helper


async def comprehension() -> None:
    victims = [spawn("comprehension.one"), spawn("comprehension.two")]
    await steps()
    _ = [task.cancel() for task in victims]  # LINE comprehension
    await settle(*victims)


# WHY comprehension.one: cancelled, obeyed
#   cancelled comprehension.one explicit @comprehension by=comprehension
#   called explicit @comprehension by=comprehension
# WHY comprehension.two: cancelled, obeyed
#   cancelled comprehension.two explicit @comprehension by=comprehension
#   called explicit @comprehension by=comprehension


async def anonymous() -> None:
    victim = spawn("anonymous.victim")
    await steps()
    end: Callable[[Any], bool] = lambda task: task.cancel()  # noqa: E731 - the scenario  # LINE lambda
    end(victim)
    await settle(victim)


# WHY anonymous.victim: cancelled, obeyed
#   cancelled anonymous.victim explicit @lambda by=anonymous
#   called explicit @lambda by=anonymous


async def partial() -> None:
    victim = spawn("partial.victim")
    await steps()
    end = functools.partial(victim.cancel, "by a partial")
    end()  # LINE partial
    await settle(victim)


# WHY partial.victim: cancelled, obeyed
#   cancelled partial.victim explicit @partial by=partial
#   called explicit @partial by=partial


async def mapped() -> None:
    victim = spawn("mapped.victim")
    await steps()
    list(map(asyncio.Task.cancel, [victim]))  # LINE map
    await settle(victim)


# WHY mapped.victim: cancelled, obeyed
#   cancelled mapped.victim explicit @map by=mapped
#   called explicit @map by=mapped


class Stubborn(asyncio.Task[Any]):
    def cancel(self, msg: Any | None = None) -> bool:
        return super().cancel(msg)


class MoreStubborn(Stubborn):
    def cancel(self, msg: Any | None = None) -> bool:
        return super().cancel(msg)


def make_stubborn(loop: asyncio.AbstractEventLoop, coro: Any, **keywords: Any) -> asyncio.Task[Any]:
    return MoreStubborn(coro, loop=loop, **keywords)


async def override() -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(make_stubborn)
    victim = spawn("override.victim")
    inner = spawn("override.inner")

    async def wait() -> None:
        await inner

    outer = spawn("override.outer", wait())
    loop.set_task_factory(None)
    assert type(victim) is MoreStubborn
    await steps()
    victim.cancel()  # LINE override
    outer.cancel()  # LINE override_outer
    await settle(victim, inner, outer)


# WHY override.victim: cancelled, obeyed
#   cancelled override.victim explicit @override by=override
#   called explicit @override by=override
# WHY override.outer: cancelled, obeyed
#   cancelled override.outer explicit @override_outer by=override
#   called explicit @override_outer by=override
# WHY override.inner: cancelled, obeyed
#   cancelled override.inner awaiter by=override.outer
#   cancelled override.outer explicit @override_outer by=override
#   called explicit @override_outer by=override


class Shy(asyncio.Task[Any]):
    pass


async def subclass() -> None:
    victim = Shy(forever(), loop=asyncio.get_running_loop(), name="subclass.victim")
    await steps()
    victim.cancel()  # LINE subclass
    await settle(victim)


# WHY subclass.victim: cancelled, obeyed
#   cancelled subclass.victim explicit @subclass by=subclass
#   called explicit @subclass by=subclass


async def itself() -> None:
    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # LINE itself
        await forever()

    await settle(spawn("itself.victim", run()))


# WHY itself.victim: cancelled, obeyed
#   cancelled itself.victim explicit @itself by=itself.victim
#   called explicit @itself by=itself.victim


async def twice() -> None:
    victim = spawn("twice.victim")
    await steps()
    victim.cancel()  # LINE twice_first
    victim.cancel()
    await settle(victim)


# WHY twice.victim: cancelled, obeyed
#   cancelled twice.victim explicit @twice_first by=twice
#   called explicit @twice_first by=twice


async def unstarted() -> None:
    victim = spawn("unstarted.victim")
    victim.cancel()  # LINE unstarted
    await settle(victim)


# WHY unstarted.victim: cancelled, obeyed
#   cancelled unstarted.victim explicit @unstarted by=unstarted
#   called explicit @unstarted by=unstarted


async def at_its_end() -> None:
    # The body returns with the request still undelivered: asyncio ends it cancelled.
    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # LINE at_its_end

    victim = spawn("at_its_end.victim", run())
    await settle(victim)
    assert victim.cancelled()


# WHY at_its_end.victim: cancelled, obeyed
#   cancelled at_its_end.victim explicit @at_its_end by=at_its_end.victim
#   called explicit @at_its_end by=at_its_end.victim


async def too_late() -> None:
    async def nothing() -> None:
        pass

    victim = spawn("too_late.not_listed", nothing())
    await settle(victim)
    assert not victim.cancel()


async def by_hand() -> None:
    async def run() -> None:
        raise asyncio.CancelledError("nobody asked")

    async def run_later() -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    one, two = spawn("by_hand.not_listed", run()), spawn("by_hand.not_listed_either", run_later())
    await settle(one, two)
    assert one.cancelled()
    assert two.cancelled()


async def queued() -> None:
    queue: asyncio.Queue[None] = asyncio.Queue()
    lock = asyncio.Lock()
    await lock.acquire()
    victims = [spawn("queued.get", queue.get()), spawn("queued.lock", lock.acquire())]
    await steps()
    for victim in victims:
        victim.cancel()  # LINE queued
    await settle(*victims)


# WHY queued.get: cancelled, obeyed
#   cancelled queued.get explicit @queued by=queued
#   called explicit @queued by=queued
# WHY queued.lock: cancelled, obeyed
#   cancelled queued.lock explicit @queued by=queued
#   called explicit @queued by=queued


async def renamed() -> None:
    victim = spawn("renamed.before")
    await steps()
    victim.cancel()  # LINE renamed
    victim.set_name("renamed.after")
    await settle(victim)


# WHY renamed.after: cancelled, obeyed (full)
#   cancelled renamed.before explicit @renamed by=renamed
#   called explicit @renamed by=renamed
# WHY renamed.before: cancelled, obeyed (small)
#   cancelled renamed.before explicit @renamed by=renamed
#   called explicit @renamed by=renamed


async def many() -> None:
    victims = [spawn(f"many.{number}") for number in range(3)]
    await steps()
    for victim in victims:
        victim.cancel(victim.get_name())  # LINE many
    await settle(*victims)


# WHY many.0: cancelled, obeyed
#   cancelled many.0 explicit @many by=many
#   called explicit @many by=many
# WHY many.1: cancelled, obeyed
#   cancelled many.1 explicit @many by=many
#   called explicit @many by=many
# WHY many.2: cancelled, obeyed
#   cancelled many.2 explicit @many by=many
#   called explicit @many by=many


class Awaitable:
    """Something to await that is no coroutine."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(3600).__await__()  # LINE suspended


async def generators() -> None:
    async def numbers() -> Any:
        yield 1
        await Awaitable()

    async def run() -> None:
        async for _ in numbers():
            pass

    victim = spawn("generators.victim", run())
    await steps()
    victim.cancel()  # LINE generators
    await settle(victim)


# WHY generators.victim: cancelled, obeyed
#   cancelled generators.victim explicit @generators by=generators
#   called explicit @generators by=generators


start(
    direct,
    helper,
    comprehension,
    anonymous,
    partial,
    mapped,
    override,
    subclass,
    itself,
    twice,
    unstarted,
    at_its_end,
    too_late,
    by_hand,
    queued,
    renamed,
    many,
    generators,
)
