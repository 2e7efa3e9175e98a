"""``aioaudit why`` on real logs: several requests to one task, and tasks that nobody cancelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Runner

PROGRAM = """\
import asyncio


async def by_hand():
    await asyncio.sleep(0)
    raise asyncio.CancelledError("enough")  # LINE raised


async def awaits(task):
    await task


async def stubborn():
    for _ in range(2):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
    await asyncio.sleep(60)


async def patient():
    for _ in range(2):
        try:
            async with asyncio.timeout(0.01):  # LINE timeout
                await asyncio.sleep(60)
        except TimeoutError:
            pass
    started.set()
    await asyncio.sleep(60)


async def main():
    global started
    started = asyncio.Event()
    hand = asyncio.create_task(by_hand(), name="hand")
    await asyncio.wait([hand, asyncio.create_task(awaits(hand), name="heir")])

    task = asyncio.create_task(stubborn(), name="stubborn")
    await asyncio.sleep(0.01)
    task.cancel("one")  # LINE first
    await asyncio.sleep(0.01)
    task.cancel("two")  # LINE second
    task.cancel("too soon")  # LINE coalesced
    await asyncio.sleep(0.01)
    task.cancel("three")  # LINE last
    await asyncio.wait([task])

    task = asyncio.create_task(patient(), name="patient")
    await started.wait()
    task.cancel()  # LINE obeyed
    await asyncio.wait([task])
    task.cancel()  # LINE late

    task = asyncio.create_task(asyncio.sleep(60), name="once")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


asyncio.run(main())
"""


@pytest.fixture
def why(run_python: Runner, tmp_path: Path) -> Any:
    (tmp_path / "app.py").write_text(PROGRAM)
    done = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    return lambda *args: run_python("-m", "aioaudit", "why", "log.jsonl", *args)


def line(mark: str) -> int:
    """The number of the line that is marked with *mark*."""
    [number] = [
        number
        for number, text in enumerate(PROGRAM.splitlines(), 1)
        if text.endswith(f"# LINE {mark}")
    ]
    return number


def of(why: Any, task: str) -> Any:
    return json.loads(why("--task", task, "--json").stdout)


def told(why: Any, task: str) -> list[tuple[str, str, str]]:
    """Each request to *task*: reason, mark of its line, what became of it."""
    marks = {f"app.py:{line(mark)}": mark for mark in MARKS}
    return [
        (each["reason"], marks[each["at"].rpartition("/")[2]], each["became"])
        for each in of(why, task).get("requests", [])
    ]


MARKS = ("timeout", "first", "second", "coalesced", "last", "obeyed", "late")


def test_every_request_to_a_task_is_told_with_what_became_of_it(why: Any) -> None:
    assert told(why, "stubborn") == [
        ("explicit", "first", "delivered"),
        ("explicit", "second", "delivered"),
        ("explicit", "coalesced", "coalesced"),
        ("explicit", "last", "obeyed"),
    ]
    assert told(why, "patient") == [
        ("timeout", "timeout", "absorbed"),
        ("timeout", "timeout", "absorbed"),
        ("explicit", "obeyed", "obeyed"),
        ("explicit", "late", "late"),
    ]
    first, second, coalesced, last = of(why, "stubborn")["requests"]
    assert (first["by_name"], first["message"], last["message"]) == ("Task-1", "one", "three")
    assert coalesced["behind"] == second["seq"]
    at = of(why, "patient")["requests"][0]["absorbed_at"]
    assert at.endswith(f"app.py:{line('timeout')}")
    assert "requests" not in of(why, "once")


def test_people_get_a_line_for_each_kind_of_the_others(why: Any) -> None:
    text = why("--task", "stubborn").stdout
    assert f"root cause: __main__:main called cancel() at app.py:{line('last')}" in text
    _, _, others = text.partition("It was asked 3 more times:\n")
    assert [each.partition("  reason ")[2] for each in others.splitlines()[:3]] == [
        f"explicit, at app.py:{line('first')}, by task Task-1, message: one:"
        " it was delivered, and the task went on",
        f"explicit, at app.py:{line('second')}, by task Task-1, message: two:"
        " it was delivered, and the task went on",
        f"explicit, at app.py:{line('coalesced')}, by task Task-1, message: too soon:"
        " changed nothing, an earlier one was still to be delivered",
    ]
    text = why("--task", "patient").stdout
    place = f"app.py:{line('timeout')}"
    [told] = [each for each in text.splitlines() if "taken back" in each]
    assert told.endswith(
        f"  2 times  reason timeout, at {place}: taken back with uncancel() at {place}"
    )
    # Whoever cleans up cancels what has ended, too: that is no request while it lived.
    assert "It was asked 2 more times:\n" in text
    assert "more time" not in why("--task", "once").stdout


@pytest.mark.parametrize("task", ["hand", "heir"])
def test_an_error_raised_by_hand_is_told_with_its_line(why: Any, task: str) -> None:
    for options in ([], ["--json"]):
        done = why("--task", task, *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"aioaudit: the task '{task}' is in this log, but nobody cancelled it:"
            f" it ended with a CancelledError that was raised by hand at app.py:{line('raised')}\n"
        )


TOGETHER = """\
import asyncio
import time


async def kept():
    try:
        async with asyncio.timeout(0.02):  # LINE kept
            await asyncio.sleep(60)
    except asyncio.CancelledError:
        pass


async def taken():
    try:
        async with asyncio.timeout(0.02):  # LINE taken
            await asyncio.sleep(60)
    except asyncio.CancelledError:
        asyncio.current_task().uncancel()  # LINE uncancel


async def raised():
    try:
        async with asyncio.timeout(0.02):  # LINE raised
            await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise ValueError("no") from None


async def outer_first():
    async with asyncio.timeout(0.01):  # LINE outer first
        async with asyncio.timeout(0.02):  # LINE inner second
            await asyncio.sleep(60)


async def inner_first():
    async with asyncio.timeout(0.02):  # LINE outer second
        async with asyncio.timeout(0.01):  # LINE inner first
            await asyncio.sleep(60)


def boss(tasks):
    for task in tasks:
        task.cancel("boss")  # LINE boss


async def main():
    asked = [asyncio.create_task(each(), name=each.__name__) for each in (kept, taken, raised)]
    timed = [asyncio.create_task(each(), name=each.__name__) for each in (outer_first, inner_first)]
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(0, boss, asked)  # before all others
    time.sleep(0.1)  # all that is due is due in one turn, in the order of its time
    await asyncio.gather(*asked, *timed, return_exceptions=True)


asyncio.run(main())
"""


def test_of_requests_before_one_delivery_the_answer_is_the_one_that_took_effect(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(TOGETHER)
    log = tmp_path / "log.jsonl"
    ran = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log))
    assert (ran.returncode, ran.stderr) == (0, "")
    marks = {
        text.partition("# LINE ")[2]: number
        for number, text in enumerate(TOGETHER.splitlines(), start=1)
        if "# LINE " in text
    }

    def answer(task: str) -> dict[str, Any]:
        told = run_python("-m", "aioaudit", "why", "log.jsonl", "--task", task, "--json")
        assert told.returncode == 0, told.stderr
        found: dict[str, Any] = json.loads(told.stdout)
        assert len(found["requests"]) == 2
        return found

    def root(task: str) -> tuple[str, int, str]:
        found = answer(task)
        line = int(found["root"]["at"].rpartition(":")[2])
        return found["root"]["what"], line, found["cancel_outcome"]

    # The timeout ran out behind the boss, whose request it handed on: it caused nothing.
    assert root("kept") == ("called", marks["boss"], "swallowed")
    assert root("taken") == ("called", marks["boss"], "absorbed")
    assert root("raised") == ("called", marks["boss"], "replaced")
    # An inner timeout hands on what an outer one asked for, whichever was first.
    assert root("outer_first") == ("deadline", marks["outer first"], "absorbed")
    assert root("inner_first") == ("deadline", marks["outer second"], "absorbed")
    # Each took back its own request; the one behind the answer changed nothing.
    assert [each["became"] for each in answer("outer_first")["requests"]] == [
        "absorbed",
        "coalesced",
    ]
    for task in "outer_first", "inner_first":
        for request in answer(task)["requests"]:
            assert request.get("absorbed_at") in (
                {request["at"]} if request["became"] == "absorbed" else {None}
            )
