"""Jobs of SAQ that end early, each in its own way: ``python saq_jobs.py URL``, of a Redis server."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from typing import Any

saq: Any = importlib.import_module("saq")  # it is not typed where it is not installed

begun: dict[str, asyncio.Task[Any]] = {}


async def job(_context: Any, *, who: str) -> None:
    """Wait for ever, in a task of that name."""
    task = asyncio.current_task()
    assert task is not None
    task.set_name(who)
    begun[who] = task
    if who == "first":
        return
    await asyncio.sleep(3600)


async def main() -> None:
    """All that happens."""
    queue = saq.Queue.from_url(sys.argv[1])
    await queue.connect()
    worker = saq.Worker(queue, functions=[("job", job)], concurrency=3, timers={"abort": 0.05})
    running = asyncio.create_task(worker.start(), name="worker")

    async def start(who: str, seconds: int) -> Any:
        queued = await queue.enqueue("job", who=who, timeout=seconds)
        while who not in begun:  # noqa: ASYNC110 - no event of this loop is shared with the job
            await asyncio.sleep(0.01)
        return queued

    await start("first", 0)  # the worker begins by sweeping, and may take a new job for a lost one
    queued = await start("aborted", 0)
    await asyncio.sleep(0.1)  # younger ones are not aborted
    await queued.abort("not wanted")
    await asyncio.wait([begun["aborted"]])
    await start("slow", 1)
    await asyncio.wait([begun["slow"]])
    await start("left", 0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait([running])
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
