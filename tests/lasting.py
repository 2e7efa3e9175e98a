"""One task that lives for long: what the last of its timeouts, groups and requests cost, and the first.

    python tests/lasting.py KIND COUNT

Prints one line of JSON: seconds of CPU time and megabytes of the first and of the last
tenth, and the tables that grew meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aioaudit
from aioaudit.exporters.jsonl import JsonlExporter

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.soaking import grown, measured, memory


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def _nothing() -> None:
    pass


async def _fails() -> None:
    raise ValueError("boom")


async def expires() -> None:
    """A timeout that runs out."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await _forever()


async def quiet() -> None:
    """A timeout that does not."""
    async with asyncio.timeout(9):
        await asyncio.sleep(0)


async def wait_for() -> None:
    """``wait_for`` that runs out."""
    with suppress(TimeoutError):
        await asyncio.wait_for(_forever(), 0.00001)


async def failing_group() -> None:
    """A task group with a task that fails and one that is cancelled for it."""
    with suppress(BaseExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(_fails())
            group.create_task(_forever())


async def group() -> None:
    """A task group in which all goes well."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_nothing())


async def scope() -> None:
    """A scope of anyio's that is cancelled."""
    import anyio

    with anyio.CancelScope() as entered:
        entered.cancel()
        await anyio.sleep(9)


async def fail_after() -> None:
    """A deadline of anyio's that has passed."""
    import anyio

    with suppress(TimeoutError), anyio.fail_after(0):
        await anyio.sleep(9)


async def taken_back() -> None:
    """A request that the task takes back."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(9)
    task.uncancel()


async def swallowed() -> None:
    """A request that the task swallows."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(9)


KINDS: dict[str, Callable[[], Awaitable[None]]] = {
    each.__name__: each
    for each in (
        expires,
        quiet,
        wait_for,
        failing_group,
        group,
        scope,
        fail_after,
        taken_back,
        swallowed,
    )
}


async def tenths(kind: Callable[[], Awaitable[None]], count: int) -> dict[str, object]:
    """Run *kind* so often, in this task."""

    async def tenth() -> float:
        start = time.process_time()
        for _ in range(count // 10):
            await kind()
        return time.process_time() - start

    for _ in range(100):
        await kind()
    first = await tenth()
    before, was = measured(), memory()
    for _ in range(8):
        await tenth()
    last = await tenth()
    return {
        "first": first,
        "last": last,
        "more": memory() - was,
        "grown": grown(before, measured(), most=count // 100),
    }


def main(kind: str, count: str) -> None:
    """One kind."""
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - it is no file
        aioaudit.enable(JsonlExporter(nowhere))
        told = asyncio.run(tenths(KINDS[kind], int(count)))
        aioaudit.disable()
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
