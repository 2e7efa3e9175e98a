"""A script that another process has this one run (PEP 768) runs inside of whichever task is there."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.events import LoopStop
from tests.recognising import links

if sys.version_info < (3, 14):
    pytest.skip("sys.remote_exec came with Python 3.14", allow_module_level=True)

PREAMBLE = """
import asyncio
def find(name):
    return next(task for task in asyncio.all_tasks() if task.get_name() == name)
"""


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


@pytest.fixture
def remotely(tmp_path: Path) -> Callable[[str], None]:
    """Has this process run a script as soon as it comes to it."""

    def run(text: str) -> None:
        script = tmp_path / "script.py"
        script.write_text(PREAMBLE + text)
        try:
            sys.remote_exec(os.getpid(), script)  # type: ignore[attr-defined,unused-ignore]  # 3.14+
        except (PermissionError, RuntimeError) as error:
            pytest.skip(f"nothing may be written into another process here: {error}")

    return run


def between_lines(over: Callable[[], object]) -> None:
    while not over():
        pass


def in_c(over: Callable[[], object]) -> None:
    while not over():
        time.sleep(0.001)


def in_handler(over: Callable[[], object]) -> None:
    try:
        raise LookupError("the innocent task's own affair")
    except LookupError:
        between_lines(over)


@pytest.mark.parametrize("wait", [between_lines, in_c, in_handler])
@pytest.mark.parametrize(
    "text", ["find('victim').cancel()", "def end():\n    find('victim').cancel()\nend()"]
)
def test_what_it_cancels_is_no_doing_of_the_task_that_runs(
    remotely: Callable[[str], None], text: str, wait: Callable[[Callable[[], object]], None]
) -> None:
    async def main() -> asyncio.Task[None]:
        victim = asyncio.create_task(forever(), name="victim")

        async def innocent_task() -> None:
            remotely(text)
            wait(victim.cancelling)

        await asyncio.sleep(0)
        await asyncio.create_task(innocent_task(), name="innocent")
        await asyncio.wait([victim])
        return victim

    with aioaudit.recording() as trail:
        answer = trail.why(asyncio.run(main()))
    line = (PREAMBLE + text).splitlines().index(next(filter(_cancels, text.splitlines()))) + 1
    said = {"reason": "explicit", "at": f"<string>:{line}"}
    assert links(answer) == [
        {"what": "cancelled", "name": "victim", **said},
        {"what": "called", **said},
    ]


def _cancels(line: str) -> bool:
    return ".cancel()" in line


def test_a_loop_that_it_stops_was_not_stopped_by_the_task_that_runs(
    remotely: Callable[[str], None],
) -> None:
    loop = asyncio.new_event_loop()
    stopped = threading.Event()

    async def innocent_task() -> None:
        vars(loop)["stopped"] = stopped.set
        remotely("loop = asyncio.get_running_loop(); loop.stop(); loop.stopped()")
        between_lines(stopped.is_set)

    with aioaudit.recording() as trail:
        task = loop.create_task(innocent_task(), name="innocent")
        loop.run_forever()
        loop.run_until_complete(task)
        loop.close()
    first = next(event for event in trail.events if isinstance(event, LoopStop))
    assert (first.by, first.by_name) == (None, None)
    assert str(first.at).startswith("<string>:")


def test_a_text_that_the_task_itself_executes_is_its_doing() -> None:
    async def main() -> asyncio.Task[None]:
        victim = asyncio.create_task(forever(), name="victim")
        namespace: dict[str, Any] = {"victim": victim}

        async def asker() -> None:
            exec("victim.cancel()", namespace)

        await asyncio.sleep(0)
        await asyncio.create_task(asker(), name="asker")
        await asyncio.wait([victim])
        return victim

    with aioaudit.recording() as trail:
        answer = trail.why(asyncio.run(main()))
    said = {"reason": "explicit", "at": "<string>:1", "by_name": "asker"}
    assert links(answer) == [
        {"what": "cancelled", "name": "victim", **said},
        {"what": "called", **said},
    ]
