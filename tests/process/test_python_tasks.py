"""Tasks of the Python class are seen as those of C are, alone and one inside the other's step.

The class stands behind the C type of the same name (``asyncio.tasks._PyTask``), and
nest_asyncio, which notebooks use, makes every task one of it.  Since 3.14
``asyncio.current_task()`` gives None while one runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import aioaudit
from aioaudit.events import Event, TaskCancel, TaskCreate, TaskDone
from aioaudit.log import Log
from tests.loops import BY_NAME, NAMES

if TYPE_CHECKING:
    from tests.conftest import Runner

PYTHON: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]  # it has no public name
C: Any = asyncio.Task
eager = pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks before Python 3.12")


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def wait(something: Any) -> Any:
    return await something


async def swallows() -> str:
    with contextlib.suppress(asyncio.CancelledError):
        await forever()
    return "kept"


async def fails() -> None:
    await asyncio.sleep(0)
    raise LookupError("nowhere")


async def hands_on(victim: asyncio.Task[Any]) -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        victim.cancel("handed on")
        raise


async def program() -> None:
    """Tasks that make, await, cancel and outlive each other, in every way that asks who runs now."""
    make = asyncio.get_running_loop().create_task

    async def killer(*victims: asyncio.Task[Any]) -> None:
        child = make(forever(), name="child of killer")
        for victim in (child, *victims):
            victim.cancel("killed")
        await asyncio.sleep(0)

    inner = make(forever(), name="inner")
    outer = make(wait(inner), name="outer")
    kept = make(swallows(), name="kept")
    late = make(forever(), name="late")
    handing = make(hands_on(late), name="handing")
    failing = make(fails(), name="failing")
    first = make(forever(), name="first of two")
    gathered = asyncio.gather(first, make(fails(), name="second of two"))
    await asyncio.sleep(0)
    killing = make(killer(outer, kept, handing), name="killer")
    await asyncio.wait([outer, inner, kept, late, handing, failing, killing])
    await asyncio.wait([gathered])
    for each in (failing, gathered):
        each.exception()
    # What is left at the end is not cancelled by Python itself, if it is of the Python class.
    first.cancel()
    await asyncio.wait([first])


def told(make: Any, loop: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """The events of `program`, without what differs each time, and what ``why`` makes of them."""
    with (
        aioaudit.recording() as trail,
        asyncio.Runner(loop_factory=BY_NAME[loop].new_event_loop) as runner,
    ):

        def factory(loop: Any, coro: Any, **keywords: Any) -> Any:
            return make(coro, loop=loop, **({"name": coro.__qualname__} | keywords))

        runner.get_loop().set_task_factory(factory)
        runner.run(program())
    log = Log()
    found: list[dict[str, Any]] = []
    for event in trail.events:
        log.add(event)
        facts = msgspec.to_builtins(event)
        for key in ("ts", "run", "loop", "lifetime", "seconds"):
            facts.pop(key, None)
        if not facts["event"].startswith("process."):
            found.append(facts)
    return found, [msgspec.to_builtins(answer) for answer in log.why()]


@pytest.mark.parametrize("loop", NAMES)
def test_the_whole_log_is_that_of_tasks_of_c(loop: str) -> None:
    of_c, of_python = told(C, loop), told(PYTHON, loop)
    assert {answer["name"] for answer in of_c[1]} >= {"inner", "outer", "kept", "late", "handing"}
    assert of_python[0] == of_c[0]
    assert of_python[1] == of_c[1]


def in_order(events: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@eager
@pytest.mark.parametrize("outside", [C, PYTHON], ids=["outside C", "outside Python"])
@pytest.mark.parametrize("inside", [C, PYTHON], ids=["inside C", "inside Python"])
def test_what_an_eager_task_does_is_its_own_and_not_that_of_the_task_that_makes_it(
    outside: Any, inside: Any
) -> None:
    victims: list[asyncio.Task[None]] = []
    loop = asyncio.new_event_loop()

    async def first_step() -> str:
        C(forever(), loop=loop, name="grandchild").cancel()
        victims[0].cancel("by the inner")
        return "done"

    async def maker() -> None:
        inside(first_step(), loop=loop, name="inner", eager_start=True)
        victims[1].cancel("by the outer")

    async def main() -> None:
        victims.extend(C(forever(), loop=loop, name=f"victim {number}") for number in range(2))
        await asyncio.sleep(0)
        # Twice, for the second is noted on a shorter way.
        for _ in range(2):
            await outside(maker(), loop=loop, name="outer")
        await asyncio.sleep(0)

    with aioaudit.recording() as trail:
        loop.run_until_complete(main())
        loop.close()
    names = {event.task: event.name for event in in_order(trail.events, TaskCreate)}
    parents = [
        (event.name, names.get(event.parent)) for event in in_order(trail.events, TaskCreate)
    ]
    assert parents.count(("inner", "outer")) == 2
    assert parents.count(("grandchild", "inner")) == 2
    asked = {
        (event.message, event.by_name)
        for event in in_order(trail.events, TaskCancel)
        if event.message
    }
    assert asked == {("by the inner", "inner"), ("by the outer", "outer")}
    ends = [(event.name, event.outcome) for event in in_order(trail.events, TaskDone)]
    assert ends.count(("inner", "returned")) == 2
    assert ends.count(("outer", "returned")) == 2


def test_a_callback_of_a_python_task_is_nobody(run_in: Callable[..., Any]) -> None:
    """Between the steps of tasks of the Python class nobody runs."""

    def end(victim: asyncio.Task[None]) -> None:
        victim.cancel()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        victim = PYTHON(forever(), loop=loop, name="victim")
        await asyncio.sleep(0)
        loop.call_soon(end, victim)
        await asyncio.wait([victim])

    [asked] = in_order(run_in(main()), TaskCancel)
    assert asked.by is None
    assert asked.source.endswith("<locals>.end")


@pytest.fixture
def run_in() -> Callable[[Coroutine[Any, Any, None]], list[Event]]:
    """Runs a coroutine as a task of the Python class; what was recorded."""

    def run(coro: Coroutine[Any, Any, None]) -> list[Event]:
        with aioaudit.recording() as trail, asyncio.Runner() as runner:
            runner.get_loop().set_task_factory(
                lambda loop, coro, **keywords: PYTHON(coro, loop=loop, **keywords)
            )
            runner.run(coro)
        return trail.events

    return run


NESTED = """\
import asyncio
import nest_asyncio

nest_asyncio.apply()

async def forever():
    await asyncio.get_running_loop().create_future()

async def killer(victim):
    victim.cancel()  # LINE killer

async def main():
    victim = asyncio.create_task(forever(), name="victim")
    await asyncio.sleep(0)
    # What the package is for: to run a loop that runs already.
    asyncio.run(killer(victim))
    await asyncio.wait([victim])
    print(type(victim) is asyncio.tasks._PyTask)

asyncio.run(main())
"""


def test_with_nest_asyncio_all_is_told_as_without(run_python: Runner, tmp_path: Path) -> None:
    pytest.importorskip("nest_asyncio")
    (tmp_path / "app.py").write_text(NESTED)
    log = tmp_path / "log.jsonl"
    done = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log))
    assert (done.stdout, done.stderr) == ("True\n", "")
    [answer] = aioaudit.load(log).why()
    assert (answer.name, answer.outcome, answer.cancel_outcome) == ("victim", "cancelled", "obeyed")
    line = NESTED.splitlines().index("    victim.cancel()  # LINE killer") + 1
    assert (answer.root.what, answer.root.at) == ("called", f"{tmp_path / 'app.py'}:{line}")
    events = [each for each in log.read_text().splitlines() if '"task.done"' in each]
    ended = {str(msgspec.json.decode(each)["coro"]) for each in events}
    assert ended == {"__main__:main", "__main__:killer", "__main__:forever"}
