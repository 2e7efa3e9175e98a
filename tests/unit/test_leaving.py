"""Which lines end what a block had beside it: told from bytecode, on every Python."""

from __future__ import annotations

import asyncio
import dis
import textwrap
from types import CodeType

import pytest

import aioaudit
from aioaudit.events import TaskCancel
from aioaudit.findings.cleanup import leaves_block

LEAVES = {
    "a finally": """
        hb = create_task(beat())
        try:
            return await work()
        finally:
            hb.cancel()
            with suppress(CancelledError):
                await hb
    """,
    "a finally with a loop": """
        tasks = [create_task(beat(i)) for i in range(3)]
        try:
            await queue.join()
        finally:
            for task in tasks:
                if not task.done():
                    task.cancel()
            await gather(*tasks, return_exceptions=True)
    """,
    "a finally within a with": """
        async with session() as client:
            hb = create_task(beat(client))
            try:
                await work(client)
            finally:
                hb.cancel()
                await wait([hb])
    """,
    "behind the yield": """
        task = create_task(refresh(app))
        yield
        task.cancel()
        await wait([task])
    """,
    "behind the yield, of what an object keeps": """
        app["task"] = create_task(refresh(app))
        yield
        app["task"].cancel()
        await wait([app["task"]])
    """,
}

DOES_NOT = {
    "a block that waited for it": """
        task = create_task(job())
        try:
            await wait([task], timeout=1)
        finally:
            task.cancel()
    """,
    "a block that waited for it by way of something": """
        one, two = create_task(job()), create_task(job())
        both = gather(one, two)
        try:
            await both
        finally:
            one.cancel()
    """,
    "a time of grace that has run out": """
        task = create_task(job())
        try:
            await work()
        finally:
            await wait(
                [task],
                timeout=1,
            )
            task.cancel()
    """,
    "a function inside uses it": """
        task = create_task(job())
        try:
            await work(lambda: task)
        finally:
            task.cancel()
    """,
    "anybody may use it": """
        try:
            await self.work()
        finally:
            self.task.cancel()
    """,
    "everybody may use it": """
        try:
            await work()
        finally:
            task.cancel()
    """,
    "in the middle": """
        task = create_task(job())
        await work()
        task.cancel()
        await wait([task])
    """,
    "between two yields": """
        task = create_task(job())
        yield 1
        task.cancel()
        yield 2
    """,
    "the yield gives it away": """
        task = create_task(job())
        yield task
        task.cancel()
    """,
    "what an object keeps was waited for": """
        app["task"] = create_task(job())
        app["result"] = await wait([app["task"]], timeout=1)
        yield
        app["task"].cancel()
    """,
    "a plain generator": """
        task = create_task(job())
        yield
        task.cancel()
    """,
}


def function(body: str, head: str = "async def f(self, app):") -> CodeType:
    source = head + textwrap.indent(textwrap.dedent(body), "    ")
    module = compile(source, "a.py", "exec")
    [code] = [each for each in module.co_consts if isinstance(each, CodeType)]
    return code


def answers(body: str, code: CodeType) -> set[bool]:
    """What is said of all calls on the line of ``cancel()``; that is the first of several."""
    [line, *_] = [
        number for number, text in enumerate(body.splitlines(), 1) if text.endswith(".cancel()")
    ]
    return {
        leaves_block(code, each.offset)
        for each in dis.get_instructions(code)
        if each.positions is not None
        and each.positions.lineno == line
        and each.opname.startswith("CALL")
    }


@pytest.mark.parametrize("body", LEAVES.values(), ids=LEAVES)
def test_a_line_that_ends_what_nobody_has_waited_for_leaves_a_block(body: str) -> None:
    assert answers(body, function(body)) == {True}


@pytest.mark.parametrize("body", DOES_NOT.values(), ids=DOES_NOT)
def test_whatever_may_have_waited_for_it_leaves_none(body: str) -> None:
    plain = "plain" in next(name for name, each in DOES_NOT.items() if each is body)
    head = "def f(self, app):" if plain else "async def f(self, app):"
    assert answers(body, function(body, head)) == {False}


async def _beats() -> None:
    while True:
        await asyncio.Event().wait()


async def _works(*, fails: bool = False) -> None:
    task = asyncio.create_task(_beats())
    try:
        await asyncio.sleep(0.002)
        if fails:
            raise OSError
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _drops() -> None:
    task = asyncio.create_task(_beats())
    await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.wait([task])


def test_the_request_says_so_each_time_unless_an_error_is_handled() -> None:
    """Also where the core takes it in by itself, which it does when a line calls again."""

    async def main() -> None:
        for _ in range(6):
            await asyncio.gather(_works(), _drops(), _works(fails=True), return_exceptions=True)

    with aioaudit.recording() as trail:
        asyncio.run(main())
    asked = [each for each in trail.events if isinstance(each, TaskCancel)]
    said: dict[tuple[str | None, str], set[bool]] = {}
    for each in asked:
        why = (each.origin_detail or "").partition(",")[0]
        said.setdefault((each.source, why), set()).add(each.cleanup)
    assert said == {
        (f"{__name__}:_works", ""): {True},
        (f"{__name__}:_drops", ""): {False},
        (f"{__name__}:_works", "while handling OSError"): {False},
    }
