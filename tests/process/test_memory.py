"""Where memory runs out, what a probe does must not break the interpreter.

CPython 3.12 and 3.13 drop a reference too much to the code of a function that they cannot
make for want of memory (MAKE_FUNCTION in Python/bytecodes.c); the second or third time
that code is freed, and the next collection crashes.  So what runs at each cancellation
makes no functions: no nested ones, no lambdas, no generator expressions.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import FrameType

import aioaudit

OURS = str(Path(aioaudit.__file__).parent)


async def victim() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)


async def runs_out() -> None:
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(60)
    except TimeoutError:
        pass


async def fails() -> None:
    raise ValueError


async def group() -> None:
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(victim())
            tasks.create_task(fails())
    except* ValueError:
        pass


async def cancels() -> None:
    tasks = [asyncio.create_task(victim()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(runs_out(), runs_out())
    await group()


def test_a_cancellation_makes_no_function() -> None:
    made: list[str] = []

    def look(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name == "<genexpr>" and code.co_filename.startswith(OURS):
            made.append(f"{code.co_filename}:{code.co_firstlineno}")

    async def main() -> None:
        await cancels()  # what is found out once, is
        sys.setprofile(look)
        try:
            await cancels()
        finally:
            sys.setprofile(None)

    with aioaudit.recording():
        asyncio.run(main())
    assert made == []
