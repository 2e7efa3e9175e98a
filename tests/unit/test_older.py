"""What is told of tasks that are older than auditing, and of what they are in."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest

import aioaudit
from aioaudit import session
from aioaudit.events import TaskCancel, TaskCreate, TaskDone, TaskFound
from aioaudit.recorder.older import Survey
from aioaudit.stack.entered import entered
from tests.recognising import links

if sys.version_info < (3, 14):
    pytest.skip("a frame shows what it is in since Python 3.14", allow_module_level=True)


class Plain:
    """A block that has nothing to do with cancelling."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def nested() -> None:
    outer = asyncio.timeout(3600)
    async with asyncio.Lock(), Plain():
        with contextlib.suppress(LookupError), threading.Lock():
            try:
                async with outer as same, asyncio.timeout(None):
                    for _ in range(2):
                        async with asyncio.TaskGroup() as group:
                            group.create_task(forever())
                            await asyncio.wait_for(forever(), 7)
            finally:
                del same


async def counted() -> AsyncIterator[int]:
    async with asyncio.timeout(None):
        yield 1
        await forever()
        yield 2


async def iterating() -> None:
    async with asyncio.timeout(
        3600,
    ):
        async for _ in counted():
            pass


async def joining() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(forever())


async def in_a_handler() -> None:
    try:
        raise LookupError
    except LookupError:
        async with asyncio.timeout(3600):
            with contextlib.suppress(ValueError):
                try:
                    raise TypeError
                except TypeError:
                    async with asyncio.timeout(None):
                        await forever()


@pytest.mark.parametrize("function", [nested, iterating, joining, in_a_handler])
def test_the_lines_that_a_frame_shows_are_those_that_were_seen_when_they_were_entered(
    function: Any,
) -> None:
    async def main() -> list[tuple[str, str | None, str | None]]:
        current = session.current()
        assert current is not None
        known = current.recorder.state
        task = asyncio.create_task(function())
        await asyncio.sleep(0.01)
        found = []
        for each in entered(known.codes, task.get_coro()):
            note = known.handoffs.timeouts.get(each.manager)
            at = None if each.spot is None else each.spot[0].at(each.spot[1])
            found.append((type(each.manager).__name__, at, None if note is None else note.at))
        task.cancel()
        await asyncio.wait([task])
        return found

    with aioaudit.recording():
        found = asyncio.run(main())
    assert all(at is not None for _, at, _ in found)
    timeouts = [(at, noted) for kind, at, noted in found if kind == "Timeout"]
    assert all(at == noted for at, noted in timeouts)
    kinds = {
        nested: ["Lock", "Plain", "suppress", "lock", "Timeout", "Timeout", "TaskGroup", "Timeout"],
        iterating: ["Timeout", "Timeout"],
        joining: ["TaskGroup"],
        in_a_handler: ["Timeout", "suppress", "Timeout"],
    }
    assert [kind for kind, _, _ in found] == kinds[function]


def test_an_older_task_is_told_and_gets_nobody_elses_parent() -> None:
    def survey() -> None:
        current = session.current()
        assert current is not None
        look = Survey(current.recorder, asyncio.get_running_loop())
        while look.go_on(0.0):
            pass

    async def limited() -> None:
        async with asyncio.timeout(None) as limits["limited"]:
            await forever()

    async def returns() -> None:
        await go.wait()

    limits: dict[str, asyncio.Timeout] = {}
    go = asyncio.Event()

    async def main() -> Any:
        older = [asyncio.create_task(each(), name=each.__name__) for each in (limited, returns)]
        await asyncio.sleep(0.01)
        with aioaudit.recording() as trail:
            newer = asyncio.create_task(forever(), name="newer")
            await asyncio.sleep(0)
            survey()
            limits["limited"].reschedule(asyncio.get_running_loop().time())
            await asyncio.wait(older[:1])
            go.set()
            await older[1]
            newer.cancel()
            await asyncio.wait([newer])
            answer = trail.why(older[0])
        return trail.events, answer

    events, answer = asyncio.run(main())
    names = {"limited", "returns", "newer"}
    told = [each for each in events if isinstance(each, TaskFound) and each.name in names]
    assert sorted((each.name, each.preexisting) for each in told) == [
        ("limited", True),
        ("returns", True),
    ]
    [made] = [each for each in events if isinstance(each, TaskCreate)]
    assert made.name == "newer"
    numbers = {each.name: each.task for each in told}
    ends = {each.name: each for each in events if isinstance(each, TaskDone)}
    for name, number in numbers.items():
        assert (ends[name].task, ends[name].preexisting, ends[name].lifetime) == (
            number,
            True,
            None,
        )
    [asked] = [each for each in events if isinstance(each, TaskCancel) and each.name == "limited"]
    assert asked.reason == "timeout"
    [found] = [each for each in told if each.name == "limited"]
    assert links(answer)[-1]["at"] == asked.at == found.timeouts[0]
    assert "seconds" not in links(answer)[-1]
