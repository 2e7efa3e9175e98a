"""What we read of a program's frames leaves nothing behind in them.

Before 3.13 ``frame.f_locals`` is a dict that the frame keeps; it would keep alive what the
program has let go of, and a debugger writes it back.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from types import FrameType
from typing import Any

import pytest

import aioaudit
from aioaudit.stack.frames import local, variables

anyio = pytest.importorskip("anyio")


class Thing:
    pass


async def cancelling(_signum: object, _frame: object) -> bool:
    """Cancel a task with something in a variable, and let go of it; whether it is gone.

    A function of two arguments may be the handler of a signal, so its arguments are looked at.
    """
    held = Thing()
    ref = weakref.ref(held)
    task = asyncio.create_task(asyncio.sleep(50))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    del held
    return ref() is None


def test_what_the_program_lets_go_of_while_it_runs_is_gone() -> None:
    with aioaudit.recording():
        assert asyncio.run(cancelling(None, None))


def test_an_error_that_a_task_group_let_go_of_is_held_by_nobody() -> None:
    """As anyio's own tests ask, for a frame that a recogniser reads."""

    async def main() -> list[type]:
        error: BaseException | None = None
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                async with anyio.create_task_group():
                    await anyio.sleep(50)
            except asyncio.CancelledError as caught:
                error = caught
                raise
        assert isinstance(error, asyncio.CancelledError)
        # What keeps it are this coroutine's own variables, and no dict that tells of others'.
        return [type(each) for each in gc.get_referrers(error) if type(each) is dict]

    with aioaudit.recording():
        assert asyncio.run(main()) == []


def reads(name: str) -> Any:
    return local(sys._getframe(1), name)


def test_a_dict_that_the_program_holds_keeps_what_is_in_it() -> None:
    def program() -> dict[str, Any]:
        kept = 1
        held = locals()
        assert reads("kept") == kept
        return held

    assert program()["kept"] == 1


def test_the_namespace_of_a_class_is_not_emptied() -> None:
    class Namespace:
        kept = 1
        found = reads("kept")

    assert (Namespace.kept, Namespace.found) == (1, 1)
    assert variables(sys._getframe())["Namespace"] is Namespace


def test_a_debugger_that_asks_while_it_traces_does_not_lose_variables() -> None:
    seen: list[int] = []

    def tracer(frame: FrameType, _event: str, _argument: object) -> Any:
        if frame.f_code.co_name == "program":
            seen.append(local(frame, "kept") or 0)
        return tracer

    def program() -> int:
        kept = 1
        other = kept + 1
        return kept + other

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        result = program()
    finally:
        sys.settrace(before)
    assert result == 3
    assert 1 in seen
