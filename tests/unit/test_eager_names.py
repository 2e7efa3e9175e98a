"""A task that runs inside its own making has its name in every line, whoever looks when."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.events import Event, TaskCreate, TaskDone
from aioaudit.exporter import Created, records_of
from aioaudit.exporters.memory import MemoryExporter
from tests.loops import every_loop
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks came with CPython 3.12"
)

Making = Callable[..., "asyncio.Task[Any]"]


def of_the_class(coro: Coroutine[Any, Any, Any], **keywords: Any) -> asyncio.Task[Any]:
    task: Any = asyncio.Task
    made: asyncio.Task[Any] = task(
        coro, loop=asyncio.get_running_loop(), eager_start=True, **keywords
    )
    return made


def of_the_factory(coro: Coroutine[Any, Any, Any], **keywords: Any) -> asyncio.Task[Any]:
    eager: Any = vars(asyncio)["eager_task_factory"]  # 3.12 and later

    def factory(loop: Any, coro: Any, *, context: Any = None, **_: Any) -> Any:
        # Without what uvloop adds, and that of 3.12 and 3.13 does not know.
        return eager(loop, coro, name=keywords.get("name"), context=context)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        return loop.create_task(coro, **keywords)
    finally:
        loop.set_task_factory(None)


ways = pytest.mark.parametrize("make", [of_the_class, of_the_factory])
rounds = range(3)  # from the second on the same line makes it again, which is another way


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    aioaudit.disable()


def lines(file: Path, event: str) -> list[dict[str, Any]]:
    """The lines of *event* that are written by now."""
    whole = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
    return [each for each in map(json.loads, whole) if each["event"] == event]


def own_name() -> str:
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


@ways
@every_loop
@pytest.mark.parametrize("name", [None, "refresh", 7])
def test_what_is_written_during_the_first_step_has_the_name(
    run: Any, make: Making, name: Any, tmp_path: Path
) -> None:
    file = tmp_path / "log.jsonl"
    seen: list[tuple[str, str]] = []

    async def first_step() -> None:
        wait_until(lambda: len(told()) > len(seen), "the line")
        seen.append((own_name(), told()[-1]["name"]))

    def told() -> list[dict[str, Any]]:
        return [each for each in lines(file, "task.create") if each["coro"].endswith(".first_step")]

    async def main() -> None:
        for _ in rounds:
            await make(first_step(), **({} if name is None else {"name": name}))

    aioaudit.enable("jsonl", jsonl_path=str(file))
    run(main())
    aioaudit.disable()
    assert len(seen) == len(rounds)
    assert [told for _, told in seen] == [own for own, _ in seen]
    if name is not None:
        assert {own for own, _ in seen} == {str(name)}
    ended = [
        each["name"] for each in lines(file, "task.done") if each["coro"].endswith(".first_step")
    ]
    assert ended == [own for own, _ in seen]


@pytest.mark.parametrize("name", [None, "before"])
def test_a_name_that_the_first_step_gives_is_the_one_in_later_lines(name: str | None) -> None:
    async def renames(number: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name(f"renamed {number}")
        assert trail.events  # all is exported
        if number % 2:
            await asyncio.sleep(0)

    async def main() -> None:
        for number in range(4):
            await of_the_class(renames(number), name=name)

    with aioaudit.recording() as trail:
        asyncio.run(main())
        of_it = [
            e
            for e in trail.events
            if isinstance(e, TaskCreate | TaskDone) and e.coro.endswith(".renames")
        ]
    assert [each.name for each in of_it] == [f"renamed {n}" for n in range(4) for _ in range(2)]


@ways
def test_a_first_step_that_raises_or_waits_leaves_no_line_without_a_name(make: Making) -> None:
    names: list[str] = []

    async def fails() -> None:
        names.append(own_name())
        assert trail.events  # all is exported
        raise ValueError

    async def waits() -> None:
        names.append(own_name())
        assert trail.events
        await asyncio.sleep(0)

    async def main() -> None:
        for first_step in (fails, waits) * 3:
            await asyncio.wait([make(first_step(), name="own")])

    with aioaudit.recording() as trail:
        asyncio.run(main())
        events = [
            e for e in trail.events if str(getattr(e, "coro", "")).endswith((".fails", ".waits"))
        ]
    assert [e.name for e in events if isinstance(e, TaskCreate)] == names
    assert [e.name for e in events if isinstance(e, TaskDone)] == names


class Name:
    """Says what a task is to be called only once an exporter looks at the task."""

    def __init__(self, looked_at: threading.Semaphore) -> None:
        self.looked_at = looked_at

    def __str__(self) -> str:
        assert self.looked_at.acquire(timeout=PATIENCE)
        return "late"


class LookingExporter(MemoryExporter):
    """Says when it looks at a task that `first_step` is for, before it asks for the name."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_at = threading.Semaphore(0)

    def export(self, events: Sequence[Event]) -> None:
        for record in records_of(events):
            if isinstance(record, Created) and record.coro.endswith(".first_step"):
                self.looked_at.release()
        super().export(events)


def test_an_exporter_that_comes_before_asyncio_named_the_task_waits_for_the_name() -> None:
    exporter = LookingExporter()

    async def first_step() -> None:
        pass

    async def main() -> None:
        for _ in rounds:
            await of_the_class(first_step(), name=Name(exporter.looked_at))

    aioaudit.enable(exporter)
    asyncio.run(main())
    aioaudit.disable()
    names = [
        e.name
        for e in exporter.events
        if isinstance(e, TaskCreate) and e.coro.endswith(".first_step")
    ]
    assert names == ["late"] * len(rounds)


def test_a_task_that_never_came_to_be_has_a_name_too() -> None:
    class NoName:
        def __str__(self) -> str:
            raise LookupError

    async def comes_to_be() -> None:
        raise AssertionError

    async def main() -> None:
        for _ in rounds:
            coro = comes_to_be()
            with pytest.raises(LookupError):
                await of_the_class(coro, name=NoName())
            coro.close()

    with aioaudit.recording() as trail:
        asyncio.run(main())
        names = [
            e.name
            for e in trail.events
            if isinstance(e, TaskCreate) and e.coro.endswith(".comes_to_be")
        ]
    assert names == ["?"] * len(rounds)
