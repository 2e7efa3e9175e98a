"""What auditing costs a program, as ratios to the same program without it.

    python benchmarks/overhead.py [tasks] [cancels] [timeouts] [deep] [memory]

CPU time of the process (the exporter's thread included), the ways alternating
in one run, the least of several rounds.  "plain" is the zero: the package is
installed and off.  Absolute times are not shown, they say more of the machine.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import aioaudit
from aioaudit.events import Event
from aioaudit.session import current

FOLDER = tempfile.TemporaryDirectory()
LOG = str(Path(FOLDER.name) / "bench-{pid}.jsonl")


class Null:
    """An exporter that looks at nothing."""

    def export(self, events: Sequence[Event]) -> None:
        """Take them."""

    def flush(self) -> None:
        """Nothing is kept."""

    def shutdown(self) -> None:
        """Nothing is open."""


WAYS: dict[str, Callable[[], None] | None] = {
    "plain": None,
    "no listener": aioaudit.enable,
    "only cancel lines": lambda: aioaudit.enable(
        "jsonl", events="task.cancel,future.cancel", jsonl_path=LOG
    ),
    "null exporter": lambda: aioaudit.enable(Null()),
    "jsonl": lambda: aioaudit.enable("jsonl", jsonl_path=LOG),
}


async def tasks(count: int) -> None:
    """A task made and awaited, *count* times."""

    async def nothing() -> None:
        pass

    for _ in range(count):
        await asyncio.create_task(nothing())


async def cancels(count: int) -> None:
    """*count* waiting tasks cancelled by one culprit."""
    waiting = [asyncio.create_task(asyncio.sleep(100)) for _ in range(count)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def timeouts(count: int) -> None:
    """*count* tasks that run into a timeout of their own."""

    async def late() -> None:
        try:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(100)
        except TimeoutError:
            pass

    await asyncio.gather(*(late() for _ in range(count)))


def measure(program: Callable[[int], Coroutine[Any, Any, None]], count: int, way: str) -> float:
    """Seconds of CPU time that *program* takes *way*, for each of *count*."""
    turn_on = WAYS[way]
    if turn_on is not None:
        turn_on()
    start = time.process_time()
    asyncio.run(program(count))
    session = current()
    if session is not None:
        for pipeline, _ in session.sinks:
            pipeline.flush()
    spent = time.process_time() - start
    aioaudit.disable()
    for file in Path(FOLDER.name).iterdir():
        file.unlink()
    return spent / count


def compare(
    title: str, program: Callable[[int], Coroutine[Any, Any, None]], count: int, rounds: int = 7
) -> None:
    """Print the ratios of every way to plain."""
    least = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds):
        for way in WAYS:
            least[way] = min(least[way], measure(program, count, way))
    ratios = ", ".join(f"{way} {least[way] / least['plain']:.2f}" for way in WAYS)
    print(f"{title}: {ratios}")


def deep(rounds: int = 7, count: int = 300) -> None:
    """One ``cancel()`` twelve frames deep: microseconds more than plain."""

    def down(depth: int, task: asyncio.Task[None]) -> None:
        if depth:
            down(depth - 1, task)
        else:
            task.cancel()

    async def once() -> float:
        waiting = [asyncio.create_task(asyncio.sleep(100)) for _ in range(count)]
        await asyncio.sleep(0)
        start = time.process_time()
        for task in waiting:
            down(11, task)
        spent = time.process_time() - start
        await asyncio.gather(*waiting, return_exceptions=True)
        return spent / count

    least = {"plain": float("inf"), "jsonl": float("inf")}
    for _ in range(rounds):
        for way, before in list(least.items()):
            turn_on = WAYS[way]
            if turn_on is not None:
                turn_on()
            least[way] = min(before, asyncio.run(once()))
            aioaudit.disable()
    print(f"one cancel() twelve frames deep: +{(least['jsonl'] - least['plain']) * 1e6:.1f} us")


def memory(count: int = 20_000) -> None:
    """Bytes that a living task costs more under jsonl."""

    async def living() -> float:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        alive = [asyncio.create_task(asyncio.sleep(100)) for _ in range(count)]
        await asyncio.sleep(0.5)
        session = current()
        if session is not None:
            for pipeline, _ in session.sinks:
                pipeline.flush()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for task in alive:
            task.cancel()
        await asyncio.gather(*alive, return_exceptions=True)
        return (after - before) / count

    plain = asyncio.run(living())
    aioaudit.enable("jsonl", jsonl_path=LOG)
    audited = asyncio.run(living())
    aioaudit.disable()
    print(f"a living task: +{audited - plain:.0f} bytes")


def main(wanted: list[str]) -> None:
    """Run what is *wanted*, or everything."""
    every: dict[str, Callable[[], None]] = {
        "tasks": lambda: compare("a task made and awaited", tasks, 40_000),
        "cancels": lambda: compare("10,000 tasks cancelled by one culprit", cancels, 10_000),
        "timeouts": lambda: compare("5,000 tasks running into their timeouts", timeouts, 5_000),
        "deep": deep,
        "memory": memory,
    }
    for name in wanted or every:
        every[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
