"""The short ways of frequent things say what the long ones say."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import aioaudit
from aioaudit.events import TaskCancel, TaskCreate, TaskDone
from aioaudit.stack.code import Codes
from tests.loops import every_loop

eagerly = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks came with CPython 3.12"
)

LIBRARY = """
import asyncio

async def nothing():
    pass

async def serve(times, names):
    for number in range(times):
        await asyncio.Task(
            nothing(), loop=asyncio.get_running_loop(), name=names[number], eager_start=True
        )
"""
LIBRARY_LINE = 9


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    aioaudit.disable()


@pytest.fixture
def library(tmp_path: Path) -> ModuleType:
    """A library that makes an eager task of everything, as aiohttp's server does."""
    file = tmp_path / "site-packages" / "library.py"
    file.parent.mkdir()
    file.write_text(LIBRARY)
    spec = importlib.util.spec_from_file_location("library", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(of: Any, text: str) -> str:
    """``path:line`` of the one line of *of*'s file that ends in the comment *text*."""
    path = of.__code__.co_filename
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    (number,) = [index for index, each in enumerate(lines, 1) if each.endswith(f"# {text}")]
    return f"{path}:{number}"


async def twice_nested(depth: int) -> int:
    """Its frame is below others of the same code, in the same task."""
    await asyncio.sleep(0)
    if depth:
        return 1 + await twice_nested(depth - 1)
    return 0


@every_loop
def test_a_coroutine_that_awaits_its_like_ends_its_task_once(run: Any) -> None:
    async def main() -> None:
        assert await asyncio.gather(*(twice_nested(3) for _ in range(3))) == [3, 3, 3]

    with aioaudit.recording() as trail:
        run(main())
        made = [e for e in trail.events if isinstance(e, TaskCreate) and "nested" in e.coro]
        ended = [e for e in trail.events if isinstance(e, TaskDone) and "nested" in e.coro]
    assert [each.outcome for each in ended] == ["returned"] * 3
    assert [each.task for each in ended] == [each.task for each in made]


@every_loop
def test_a_task_that_gather_makes_is_the_line_that_called_gather_each_time(run: Any) -> None:
    async def nothing() -> None:
        pass

    async def one() -> None:
        for _ in range(3):
            await asyncio.gather(nothing(), nothing())  # one

    async def other() -> None:
        for _ in range(3):
            await asyncio.gather(*(nothing() for _ in range(2)))  # other

    async def main() -> None:
        await asyncio.create_task(one(), name="one")
        await asyncio.create_task(other(), name="other")

    with aioaudit.recording() as trail:
        run(main())
        made = [e for e in trail.events if isinstance(e, TaskCreate)]
    parents = {each.name: each.task for each in made}
    here = test_a_task_that_gather_makes_is_the_line_that_called_gather_each_time
    for name in ("one", "other"):
        gathered = [each for each in made if each.parent == parents[name]]
        assert [each.at for each in gathered] == [line(here, name)] * 6


@eagerly
@every_loop
def test_an_eager_task_of_a_library_is_its_line_only_where_no_application_called(
    run: Any, library: ModuleType
) -> None:
    async def through_us(names: list[str]) -> None:
        await library.serve(len(names), names)  # the application's line

    async def main() -> None:
        await asyncio.create_task(library.serve(3, ["alone 1", "alone 2", "alone 3"]), name="alone")
        await asyncio.create_task(through_us(["ours 1", "ours 2", "ours 3"]), name="ours")
        await asyncio.create_task(library.serve(1, ["alone 4"]), name="alone again")

    with aioaudit.recording() as trail:
        run(main())
        made = {e.name: e for e in trail.events if isinstance(e, TaskCreate)}
        ended = [e for e in trail.events if isinstance(e, TaskDone) and "nothing" in e.coro]

    for number in (1, 2, 3):
        alone, ours = made[f"alone {number}"], made[f"ours {number}"]
        assert alone.at == f"{library.__file__}:{LIBRARY_LINE}"
        assert alone.source == "library:serve"
        assert alone.parent == made["alone"].task
        assert ours.at == line(test_an_eager_task_of_a_library_is_its_line_only_where_no_application_called, "the application's line")  # fmt: skip
        assert ours.parent == made["ours"].task
    assert made["alone 4"].at == made["alone 1"].at
    assert [(each.name, each.outcome) for each in ended] == [
        (name, "returned")
        for name in ("alone 1", "alone 2", "alone 3", "ours 1", "ours 2", "ours 3", "alone 4")
    ]
    assert all(each.lifetime is not None for each in ended)


@eagerly
def test_an_eager_task_that_waits_raises_or_has_no_name_is_told_the_same_the_second_time() -> None:
    class OwnError(Exception):
        pass

    async def waits() -> None:
        await asyncio.sleep(0)

    async def fails() -> None:
        raise OwnError

    eager: Any = asyncio.Task

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        names: list[str] = []
        for coro in (waits, fails, waits, fails, waits, fails):
            task = eager(coro(), loop=loop, eager_start=True)
            names.append(task.get_name())
            await asyncio.gather(task, return_exceptions=True)
        return names

    with aioaudit.recording() as trail:
        names = asyncio.run(main())
        made = [e for e in trail.events if isinstance(e, TaskCreate) and e.name in names]
        ended = [e for e in trail.events if isinstance(e, TaskDone) and e.name in names]
    assert [each.name for each in made] == names
    assert [each.name for each in ended] == names
    assert [each.outcome for each in ended] == ["returned", "raised"] * 3
    assert len({(each.at, each.source, each.parent) for each in made}) == 1


def test_codes_that_come_and_go_by_the_thousand_leave_our_own_marks_in_place() -> None:
    codes = Codes({}, set(), lambda _module, _qualname: None)
    ours = compile("0", "ours", "exec")
    codes.mark_boundary(ours)
    for number in range(50_001):
        codes.learn(compile("0", f"generated {number}", "exec"), {"__name__": "generated"})
    assert len(codes.known) < 50_000
    assert codes.known[id(ours)].boundary


def cut(task: asyncio.Task[Any], _given: object = None, message: str | None = None) -> None:
    """One line that cancels, known since it did so first."""
    task.cancel(message)  # cuts


def cut_by_the_collector(task: asyncio.Task[Any]) -> None:
    """Cancel *task* where the interpreter calls by itself: as the last reference goes."""

    class Target:
        pass

    def gone(_reference: object) -> None:
        cut(task)

    target = Target()
    reference = weakref.ref(target, gone)
    del target
    assert reference() is None


def cut_by_a_signal(task: asyncio.Task[Any]) -> None:
    """Cancel *task* in the handler of a signal."""
    before = signal.signal(signal.SIGINT, lambda number, frame: cut(task, (number, frame)))
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def cut_while_handling(task: asyncio.Task[Any]) -> None:
    """Cancel *task* because of an error."""
    try:
        raise ValueError("no")  # raise
    except ValueError:
        cut(task)


def cut_by_a_thread(task: asyncio.Task[Any]) -> None:
    """Cancel *task* from another thread."""
    thread = threading.Thread(target=cut, args=(task,), name="culprit")
    thread.start()
    thread.join()


def cut_with_a_message(task: asyncio.Task[Any]) -> None:
    """Cancel *task*, and say more."""
    cut(task, None, "why not")


def cut_deeply(task: asyncio.Task[Any], depth: int = 5) -> None:
    """Cancel *task* with several frames of the same code above each other."""
    if depth:
        cut_deeply(task, depth - 1)
    else:
        cut(task)


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal comes when it likes")
def test_what_a_line_is_known_for_does_not_hide_what_else_is_on_the_stack() -> None:
    handled = f"while handling ValueError: no, raised at {line(cut_while_handling, 'raise')}"
    ways: list[tuple[Callable[[asyncio.Task[Any]], None], str, str | None, bool]] = [
        (cut, "explicit", None, True),
        (cut_by_the_collector, "explicit", None, False),
        (cut_by_a_signal, "signal", None, False),
        (cut_while_handling, "explicit", handled, True),
        (cut_by_a_thread, "thread", None, False),
        (cut_with_a_message, "explicit", None, True),
        (cut_deeply, "explicit", None, True),
    ]

    async def main() -> None:
        for _ in range(3):  # at first nothing is known of the line, later all
            for way, *_ in ways:
                task = asyncio.create_task(asyncio.sleep(60), name=way.__name__)
                await asyncio.sleep(0)
                way(task)
                await asyncio.wait([task])

    with aioaudit.recording() as trail:
        asyncio.run(main(), debug=False)
    found = [
        (each.name, each.reason, each.detail, each.by is not None, each.at)
        for each in trail.events
        if isinstance(each, TaskCancel)
    ]
    at = line(cut, "cuts")
    assert found == 3 * [(way.__name__, reason, detail, by, at) for way, reason, detail, by in ways]
