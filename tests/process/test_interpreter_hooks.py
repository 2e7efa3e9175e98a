"""Hooks of the interpreter, `sys.addaudithook`, that hear what the exporter `sys` raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Runner


BRIDGE = """
import asyncio, sys

def hook(event, args):
    if event.startswith("aioaudit."):
        what = getattr(args[0], "coro", "-").partition(":")[2]
        print(event, type(args[0]).__name__, what)
        if event == "aioaudit.task.create" and what == "forbidden":
            raise PermissionError("no such task")
        if event == "aioaudit.task.cancel" and what == "protected":
            raise PermissionError("hands off")

sys.addaudithook(hook)

async def forbidden():
    print("it ran")

async def protected():
    await asyncio.sleep(0.01)

async def main():
    try:
        asyncio.create_task(forbidden())
    except PermissionError as error:
        print("refused:", error)
    task = asyncio.create_task(protected())
    await asyncio.sleep(0)
    try:
        task.cancel()
    except PermissionError as error:
        print("refused:", error)
    await task
    print("finished:", task.cancelling())

asyncio.run(main())
"""


def test_hooks_of_the_interpreter_hear_every_event_and_may_object(run_python: Runner) -> None:
    done = run_python("-W", "error", "-c", BRIDGE, AIOAUDIT="sys")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert "it ran" not in lines
    started = lines.index("aioaudit.task.create TaskCreate forbidden")
    asked = lines.index("aioaudit.task.cancel TaskCancel protected")
    assert lines[started + 1] == "refused: no such task"
    assert lines[asked + 1] == "refused: hands off"
    assert "finished: 0" in lines
    assert "aioaudit.task.done TaskDone protected" in lines
    assert "aioaudit.task.done TaskDone main" in lines
    assert lines[-1] == "aioaudit.loop.close LoopClose "


def test_the_bridge_can_be_narrowed(run_python: Runner) -> None:
    done = run_python("-c", BRIDGE, AIOAUDIT="sys", AIOAUDIT_EVENTS="task.cancel")
    events = [line for line in done.stdout.splitlines() if line.startswith("aioaudit.")]
    assert events == ["aioaudit.task.cancel TaskCancel protected"]
