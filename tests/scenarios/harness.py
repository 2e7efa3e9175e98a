"""What the programs beside this file share: each scenario runs in a task of its own name.

The loop is asyncio's, or uvloop's where the first argument says so.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


async def forever() -> None:
    """Wait for something that never comes."""
    await asyncio.sleep(3600)


def spawn(name: str, coro: Coroutine[Any, Any, Any] | None = None) -> asyncio.Task[Any]:
    """A task called *name* that runs *coro*, or waits forever."""
    return asyncio.create_task(forever() if coro is None else coro, name=name)


async def settle(*tasks: Awaitable[Any]) -> None:
    """Wait until *tasks* are done, whatever becomes of them, and look at their errors."""
    await asyncio.wait(list(tasks), timeout=20)  # type: ignore[type-var]  # tasks and futures alike
    for task in tasks:
        assert isinstance(task, asyncio.Future)
        assert task.done(), f"{task} should have ended"
        if not task.cancelled():
            task.exception()


async def steps(count: int = 3) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


def make_eager(loop: asyncio.AbstractEventLoop, coro: Any, **keywords: Any) -> asyncio.Task[Any]:
    """A task factory whose tasks take their first step at once (3.12 and later).

    asyncio's own does not go with uvloop, which hands it keywords that it does not know.
    """
    make: Any = asyncio.Task
    keywords["eager_start"] = True
    task: asyncio.Task[Any] = make(coro, loop=loop, **keywords)
    return task


def tell(name: str, error: asyncio.CancelledError) -> None:
    """Print what aioaudit says of *error* right now, inside an ``except`` of the task *name*."""
    import aioaudit

    answer = aioaudit.why(error)
    print(
        json.dumps(
            {
                "name": name,
                "source": error.source,  # type: ignore[attr-defined]  # there while auditing is on
                "function": aioaudit.source(error),
                "answer": None if answer is None else _plain(answer),
            }
        )
    )


def _plain(answer: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(answer)


def runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    """``asyncio.run``, or ``uvloop.run`` where the program was called with ``uvloop``."""
    if sys.argv[1:2] == ["uvloop"]:
        import uvloop

        return uvloop.run  # type: ignore[no-any-return, unused-ignore]  # uvloop's types vary
    return asyncio.run


def start(*scenarios: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run *scenarios* one after the other; an error in one of them ends the program."""
    runner()(_each(scenarios))


async def _each(scenarios: tuple[Callable[[], Coroutine[Any, Any, None]], ...]) -> None:
    for scenario in scenarios:
        task = asyncio.create_task(scenario(), name=scenario.__name__)
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
