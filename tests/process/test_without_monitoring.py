"""Where other tools hold all ids of `sys.monitoring`, auditing goes on as it does before 3.12."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aioaudit

if TYPE_CHECKING:
    from tests.conftest import Runner

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")

PROGRAM = """
import sys
if len(sys.argv) > 1:
    for tool in range(6):
        sys.monitoring.use_tool_id(tool, f"tool {tool}")
import asyncio

async def waits():
    await asyncio.sleep(60)

async def fails():
    raise ValueError("no")

async def swallows():
    try:
        await waits()
    except asyncio.CancelledError:
        return "kept"

async def awaits(task):
    await task

async def main():
    loop = asyncio.get_running_loop()
    def task(coro, name):
        return asyncio.create_task(coro, name=name)
    plain = task(waits(), "plain")
    kept = task(swallows(), "kept")
    inner = task(waits(), "inner")
    outer = task(awaits(inner), "outer")
    await asyncio.sleep(0)
    print(plain, plain._callbacks)
    plain.cancel(); kept.cancel(); outer.cancel()
    await asyncio.wait([plain, kept, outer])
    try:
        async with asyncio.timeout(0.01):
            await task(waits(), "timed")
    except TimeoutError:
        pass
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits(), name="sibling")
            group.create_task(fails(), name="failing")
    except* ValueError:
        pass
    eager = asyncio.Task(asyncio.sleep(0, "done"), loop=loop, name="eager", eager_start=True)
    print(await eager)

asyncio.run(main())
"""


def test_the_answers_are_those_of_older_versions(run_python: Runner, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    plain = run_python("app.py", "taken")
    done = run_python("app.py", "taken", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log")
    free = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="free")
    assert (free.stderr, done.stderr, done.returncode) == ("", "", 0)
    assert [line.partition(" at 0x")[0] for line in done.stdout.splitlines()] == [
        line.partition(" at 0x")[0] for line in plain.stdout.splitlines()
    ]
    answers = {each.name: each for each in aioaudit.load(tmp_path / "log").why()}
    expected = {each.name: each for each in aioaudit.load(tmp_path / "free").why()}
    assert sorted(answers) == sorted(expected)
    for name, answer in answers.items():
        root, other = answer.root, expected[name].root  # how late a timer was is chance
        assert (root.what, root.at, root.error) == (other.what, other.at, other.error), name
        assert answer.outcome == expected[name].outcome, name
        assert answer.cancel_outcome == expected[name].cancel_outcome, name
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert "end of tasks: done callback" in events[0]["coverage"]
    assert "sys.monitoring: not used, other tools hold all of its tool ids" in events[0]["coverage"]
    made = {event["task"] for event in events if event["event"] == "task.create"}
    ended = {event["task"] for event in events if event["event"] == "task.done"}
    assert made == ended
