"""Private names of CPython: all are there, none is read but in one place, a missing one is unknown."""

from __future__ import annotations

import ast
import asyncio
import functools
import types
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from aioaudit.cpython import internals, loops, tasks, threads
from aioaudit.cpython.internals import TABLE, UNKNOWN, Internal
from tests.conftest import ROOT

ONE_ROOM = "aioaudit/cpython/"

HOT = {("aioaudit/core/python.py", "_source_traceback")}
"""Read as they are: a call would make the making of every task slower (see there)."""

RUNNING = ("aioaudit/probes/ends.py", "aioaudit/core/python.py")
"""Where the task that runs is asked for its coroutine: it has one."""


# -- the table -------------------------------------------------------------------------


def test_this_python_has_every_name_that_it_should_have() -> None:
    assert [each.full for each in internals.missing()] == []


@pytest.mark.parametrize("each", TABLE, ids=lambda each: each.full)
def test_a_name_stands_with_what_it_is_for_and_what_is_lost_without_it(each: Internal) -> None:
    assert each.use
    assert each.lost
    assert [other.full for other in TABLE].count(each.full) == 1


def test_a_name_that_no_python_has_is_missing() -> None:
    assert not Internal("_no_such", "asyncio:Task", "", "").is_there()
    assert not Internal("_no_such", "asyncio.tasks", "", "").is_there()
    assert not Internal("no_such", "asyncio.tasks:wait_for", "", "", sort="variable").is_there()
    assert not Internal("no_such", "asyncio.tasks:gather", "", "", sort="function").is_there()
    assert not Internal("fut", "asyncio.tasks:no_such", "", "", sort="variable").is_there()


def test_versions_say_which_pythons_should_have_it() -> None:
    each = Internal("_name", "asyncio", "", "", since=(3, 12), until=(3, 14))
    assert [each.is_meant((3, minor, 9)) for minor in range(11, 16)] == [
        *(False, True, True),
        *(False, False),
    ]


# -- what is asked where a name is missing -----------------------------------------------


class Bare:
    """A class of tasks in a Python that has other names for everything."""


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **keywords: Any) -> None:
        asyncio.run(test(*args, **keywords))

    return run


async def a_task() -> asyncio.Task[None]:
    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    return task


@in_loop
async def test_whether_a_task_must_still_feel_a_request_is_not_known() -> None:
    task = await a_task()
    ask = tasks.make_must_cancel(Bare)
    assert ask(task) is UNKNOWN
    assert ask(object()) is False  # of another make: it throws at once
    assert tasks.must_cancel(task) is False
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    assert tasks.must_cancel(current) is True
    assert ask(current) is UNKNOWN
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    current.uncancel()
    task.cancel()


@pytest.mark.parametrize(
    "each", [internals.FUT_WAITER, internals.EXCEPTION, internals.RESULT, internals.CALLBACKS]
)
@in_loop
async def test_what_is_inside_of_a_task_is_not_known(each: Internal) -> None:
    task = await a_task()
    for read in (internals.reader(each, Bare), internals.own_reader(each, Bare)):
        assert read(task) is UNKNOWN
    assert internals.reader(each, asyncio.Task)(task) is not UNKNOWN
    assert internals.reader(each, asyncio.Task)(object()) is UNKNOWN
    task.cancel()


@in_loop
async def test_whether_a_task_was_begun_is_asked_otherwise() -> None:
    task = await a_task()
    for ask in (tasks.is_begun, tasks.make_is_begun(Bare)):
        assert ask(task) is not None
        assert ask(asyncio.Future.__new__(asyncio.Future)) is None
    task.cancel()


@in_loop
async def test_who_replaces_what_tells_the_running_loop_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = loops.running_loop()
    monkeypatch.setattr(asyncio, "_get_running_loop", lambda: "another")
    told = loops.running_loop()
    monkeypatch.undo()
    assert (running, told) == (asyncio.get_running_loop(), "another")


@in_loop
async def test_the_running_loop_is_asked_otherwise() -> None:
    public = types.SimpleNamespace(get_running_loop=asyncio.get_running_loop)
    ask = loops.make_running_loop(public)
    assert ask() is asyncio.get_running_loop()
    assert await asyncio.to_thread(ask) is None


def test_a_lock_that_is_held_twice_is_let_go_of_otherwise() -> None:
    class Lock:
        def __init__(self) -> None:
            self.held = 2

        def acquire(self) -> None:
            self.held += 1

        def release(self) -> None:
            if not self.held:
                raise RuntimeError("it is not held")
            self.held -= 1

    lock = Lock()
    state = threads.release_fully(lock)
    assert lock.held == 0
    threads.acquire_again(lock, state)
    assert lock.held == 2


# -- one room ----------------------------------------------------------------------------


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("aioaudit", "exporters"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text())


def mentioned(tree: ast.AST, *, inside: bool = False) -> Iterator[tuple[str, int]]:
    """Names that stand as an attribute of something else's, or as a text of their own."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno
        own = (
            inside
            and isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "cls")
        )
        if isinstance(node, ast.Attribute) and not own:
            yield node.attr, node.lineno
        yield from mentioned(node, inside=inside or isinstance(node, ast.ClassDef))


def of_libraries() -> dict[str, set[str]]:
    """The names in the tables of our recognisers, and the files that have them."""
    found: dict[str, set[str]] = {}
    for file, tree in sources():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "Internal"
                and not file.startswith(ONE_ROOM)
            ):
                assert isinstance(node.args[0], ast.Constant)
                found.setdefault(str(node.args[0].value), set()).add(file)
    return found


OTEL = "exporters/otel/"


@pytest.mark.sources
def test_private_names_are_read_in_one_room_only() -> None:
    of_python = {each.name for each in TABLE if each.name.startswith("_")}
    libraries = of_libraries()
    wrong = [
        f"{file}:{line}: {name}"
        for file, tree in sources()
        for name, line in mentioned(tree)
        if not file.startswith((ONE_ROOM, "aioaudit/recognisers/"))
        and (file, name) not in HOT
        and (name in of_python or name in libraries)
        # The exporter that uses OpenTelemetry has its table beside it, as a recogniser has.
        and not (file.startswith(OTEL) and f"{OTEL}internals.py" in libraries.get(name, ()))
    ]
    assert not wrong, wrong


@pytest.mark.sources
def test_what_a_recogniser_reads_stands_in_its_table() -> None:
    """Also where it is no name of CPython's: whatever is private and not its own."""
    libraries = of_libraries()
    wrong = [
        f"{file}:{node.lineno}: {node.attr}"
        for file, tree in sources()
        if file.startswith("aioaudit/recognisers/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and file not in libraries.get(node.attr, ())
    ]
    assert not wrong, wrong


@pytest.mark.sources
def test_only_the_task_that_runs_is_asked_for_its_coroutine_without_looking() -> None:
    """``get_coro()`` of one that is done may end the process (gh-122332)."""
    wrong = [
        f"{file}:{node.lineno}"
        for file, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "get_coro"
        and not (file.startswith(ONE_ROOM) or file in RUNNING)
    ]
    assert not wrong, wrong


@pytest.mark.sources
def test_nobody_asks_for_the_version_but_in_one_room() -> None:
    wrong = [
        f"{file}:{line}"
        for file, tree in sources()
        for name, line in mentioned(tree)
        if name in ("version_info", "hexversion") and not file.startswith(ONE_ROOM)
    ]
    assert not wrong, wrong
