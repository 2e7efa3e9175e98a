"""Plain requests are taken in by the core in C, and told as the core in Python tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aioaudit.core.choice import CORE
from aioaudit.cpython.behaviour import HAS_MONITORING

if TYPE_CHECKING:
    from tests.conftest import Runner

PROGRAMS = Path(__file__).parents[1] / "plain_requests.py"

NEVER_SLOW = {"AIOAUDIT_SLOW_CANCEL": "1000"}
"""Whatever else the machine does: what is slow is told, and is nothing plain."""

OF_THE_RUN = {"ts", "run", "pid", "ppid", "lifetime", "process", "ancestors", "coverage"} | {
    "parent_run"
}
OF_THE_CLOCK = {"seconds", "waited", "delivered_after", "origin_detail"}

pytestmark = pytest.mark.skipif(CORE.name != "native", reason="this Python has but one core")


def told(run_python: Runner, folder: Path, core: str) -> tuple[list[list[tuple[str, Any]]], str]:
    """What the log of all programs tells, each line as its fields in order, and what they print."""
    log = folder / f"{core}-{{pid}}.jsonl"
    done = run_python(
        str(PROGRAMS),
        AIOAUDIT="jsonl",
        AIOAUDIT_JSONL_PATH=str(log),
        AIOAUDIT_CORE=core,
        **NEVER_SLOW,
    )
    assert (done.returncode, done.stderr) == (0, "")
    logs = [each.read_text().splitlines() for each in folder.glob(f"{core}-*.jsonl")]
    left_out = OF_THE_RUN | OF_THE_CLOCK
    lines = [
        # The name of a task is that which it has when the line of its making is written.
        [
            (key, value)
            for key, value in json.loads(line).items()
            if key not in left_out and (key != "name" or '"task.create"' not in line)
        ]
        for log in sorted(logs, key=len, reverse=True)
        for line in log
    ]
    return lines, done.stdout


def test_both_cores_tell_the_same_of_them(run_python: Runner, tmp_path: Path) -> None:
    python, said = told(run_python, tmp_path, "python")
    native, same = told(run_python, tmp_path, "native")
    assert same == said
    for number, (one, other) in enumerate(zip(python, native, strict=False)):
        assert one == other, number
    assert len(python) == len(native)


TAKEN = """
import asyncio, aioaudit
from aioaudit.session import current

async def main():
    known = current().recorder.state
    def counts():
        return len(known.cancellations.asks.asked), len(known.tasks.states)
    async def waits():
        await asyncio.sleep(100)
    tasks = [asyncio.create_task(waits()) for _ in range(100)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    print(*counts())
    await asyncio.gather(*tasks, return_exceptions=True)
    print(*counts())
    print(aioaudit.why(tasks[50]).root.at.rpartition(":")[2])
    print(*counts())

asyncio.run(main())
"""


@pytest.mark.skipif(not HAS_MONITORING, reason="deliveries are not seen")
def test_all_but_the_first_are_taken_in_until_somebody_asks(run_python: Runner) -> None:
    """One is needed to find out the line; then one is asked about."""
    done = run_python("-c", TAKEN, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log", **NEVER_SLOW)
    assert (done.returncode, done.stderr) == (0, "")
    taken = 99
    assert done.stdout.split() == [
        *(str(taken), str(100 - taken)),
        *(str(taken), str(100 - taken)),
        "14",
        *(str(taken - 1), str(100 - taken + 1)),
    ]


EXPIRED = """
import asyncio, aioaudit
from aioaudit.session import current

async def main():
    known = current().recorder.state
    def counts():
        return len(known.cancellations.asks.asked), len(known.tasks.states)
    async def waits():
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(100)
        except TimeoutError:
            await asyncio.sleep(0.01)
    tasks = [asyncio.create_task(waits()) for _ in range(100)]
    await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
    await asyncio.wait(tasks)
    print(*counts())
    answer = aioaudit.why(tasks[50])
    print(answer.cancel_outcome, answer.outcome, answer.root.at.rpartition(":")[2])
    print(*counts())

asyncio.run(main())
"""


@pytest.mark.skipif(not HAS_MONITORING, reason="deliveries are not seen")
def test_timeouts_that_run_out_are_taken_in_until_somebody_asks(run_python: Runner) -> None:
    """Two show the line and where it waits, one or two more where that is taken back."""
    done = run_python("-c", EXPIRED, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log", **NEVER_SLOW)
    assert (done.returncode, done.stderr) == (0, "")
    taken, known, *answer, taken_then, known_then = done.stdout.split()
    assert int(taken) + int(known) == 100
    assert int(taken) > 90
    assert answer == ["absorbed", "returned", "11"]
    assert (int(taken_then), int(known_then)) == (int(taken) - 1, int(known) + 1)


STOPPED = """
import asyncio

async def runs_out(over):
    try:
        async with asyncio.timeout(0.001):
            try:
                await asyncio.sleep(100)
            finally:
                await over.wait()
    except TimeoutError:
        pass

async def main(over):
    over.set()
    for _ in range(4):
        await asyncio.create_task(runs_out(over))
    over.clear()
    task = asyncio.create_task(runs_out(over))
    while not task.cancelling():
        await asyncio.sleep(0.01)
    return task

loop = asyncio.new_event_loop()
over = asyncio.Event()
task = loop.run_until_complete(main(over))
print(task.uncancel())
over.set()
loop.run_until_complete(task)
loop.close()
"""


@pytest.mark.skipif(not HAS_MONITORING, reason="deliveries are not seen")
def test_what_a_timeout_asked_for_is_taken_back_while_no_loop_runs(run_python: Runner) -> None:
    done = run_python("-c", STOPPED, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "0\n")


CLOCK = """
import asyncio, sys
import aioaudit

class Loop(asyncio.SelectorEventLoop):
    does = None

    def time(self):
        frame = sys._getframe()
        while self.does is not None and frame is not None:
            if frame.f_code.co_name == "_on_timeout":
                does, self.does = self.does, None
                does()
            frame = frame.f_back
        return super().time()

async def runs_out():
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(100)
    except TimeoutError:
        pass
    await asyncio.sleep(0)

async def main():
    for number in range(8):
        task = asyncio.create_task(runs_out())
        await asyncio.sleep(0)
        if number == 6:
            asyncio.get_running_loop().does = task.cancel
        if number == 7:
            asyncio.get_running_loop().does = task._fut_waiter.cancel
        await asyncio.wait([task])
        answer = aioaudit.why(task)
        print(answer.outcome, answer.cancel_outcome, answer.root.reason)

with asyncio.Runner(loop_factory=Loop) as runner:
    runner.run(main())
"""


@pytest.mark.skipif(not HAS_MONITORING, reason="deliveries are not seen")
@pytest.mark.parametrize("core", ["python", "native"])
def test_a_clock_may_cancel_what_a_timeout_is_about_to(run_python: Runner, core: str) -> None:
    done = run_python("-c", CLOCK, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log", AIOAUDIT_CORE=core)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        *["returned absorbed timeout"] * 6,
        "cancelled obeyed explicit",
        "returned absorbed timeout",
    ]


UNWANTED = """
import asyncio
import aioaudit
from aioaudit.exporter import event_name

class Kept:
    names = set()

    def export(self, batch):
        self.names.update(map(event_name, batch))

    def flush(self):
        pass

    def shutdown(self):
        pass

kept = Kept()
log = aioaudit.enable("jsonl")

async def runs_out(meanwhile):
    try:
        async with asyncio.timeout(0.001):
            try:
                await asyncio.sleep(100)
            finally:
                meanwhile()
    except TimeoutError:
        pass

def another():
    aioaudit.enable(kept, events="task.create,task.cancel,task.done")
    log.disable()

async def main():
    for _ in range(5):
        await asyncio.create_task(runs_out(int))
    await asyncio.create_task(runs_out(another))

asyncio.run(main())
aioaudit.disable()
print(*sorted(name for name in kept.names if name.startswith("task.")))
"""


@pytest.mark.skipif(not HAS_MONITORING, reason="deliveries are not seen")
def test_nobody_is_told_that_a_timeout_took_back_who_did_not_ask(run_python: Runner) -> None:
    """Not even of one that ran out while somebody else wanted to know."""
    done = run_python("-c", UNWANTED, AIOAUDIT_JSONL_PATH="log")
    assert (done.returncode, done.stderr) == (0, "")
    assert "task.uncancel" not in done.stdout.split()
    assert "task.done" in done.stdout.split()


MANY = """
import asyncio, gc, sys, tracemalloc
from aioaudit.session import current

async def main(rounds):
    async def waits():
        await asyncio.sleep(100)
    for _ in range(rounds):
        tasks = [asyncio.create_task(waits()) for _ in range(500)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

def blocks():
    # What is still to be written is kept until then.
    for pipeline, _ in current().sinks:
        assert pipeline.flush(200)
    gc.collect()
    return sys.getallocatedblocks()

asyncio.run(main(4))
asks = current().recorder.state.cancellations.asks
print(len(asks.flying), len(asks.lines), len(asks.waits), len(asks.asked) < 3000)
before = blocks()
asyncio.run(main(12))
print(len(asks.flying), len(asks.asked) < 3000, blocks() - before < 20_000)
"""


@pytest.mark.skipif(not HAS_MONITORING, reason="deliveries are not seen")
def test_what_is_over_is_forgotten(run_python: Runner) -> None:
    done = run_python("-c", MANY, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log", **NEVER_SLOW)
    assert (done.returncode, done.stderr) == (0, "")
    # Of lines nothing is known any more: their loop has gone.
    assert done.stdout.splitlines() == ["0 0 1 True", "0 True True"]


REPLACED = """
import asyncio
from types import SimpleNamespace
from msgspec.structs import replace
import aioaudit
from aioaudit import core
from aioaudit.core import _core

take_asks, taken = core.take_asks, []
core.take_asks = lambda asks, taking: (taken.append((asks, taking)), take_asks(asks, taking))
aioaudit.enable("jsonl")

async def waits():
    await asyncio.sleep(100)

def wake_up():
    take_asks(*taken[-1])  # nobody but the call that goes on has the queue any more
    [bytearray(size) for size in range(64, 600, 8) for _ in range(9)]

async def main():
    tasks = [asyncio.create_task(waits()) for _ in range(9)]
    await asyncio.sleep(0)
    for number, task in enumerate(tasks):
        if number == 5:
            asks, taking = taken[-1]
            queue = _core.Queue(100, wake_up, print, float, float, 0.01, 8)
            queue.set_open(True)
            take_asks(asks, replace(taking, put=queue.put))
            del queue
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(sum(task.cancelled() for task in tasks))

asyncio.run(main())
"""

UNREGISTERED = """
import asyncio, sys
import aioaudit
from aioaudit.state import cancellations

aioaudit.enable("jsonl")
make = cancellations.cancel_event
events = sys.monitoring.events

def cancel_event(record):  # who takes it over lets go of what is just calling
    for tool in range(6):
        if sys.monitoring.get_tool(tool) is not None:
            for event in (events.PY_THROW, events.PY_UNWIND, events.EXCEPTION_HANDLED, events.RERAISE):
                sys.monitoring.register_callback(tool, event, None)
    [bytearray(size) for size in range(64, 600, 8) for _ in range(9)]
    return make(record)

async def waits():
    try:
        await asyncio.sleep(100)
    except (KeyError, asyncio.CancelledError):
        pass

async def main():
    tasks = [asyncio.create_task(waits()) for _ in range(9)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    cancellations.cancel_event = cancel_event
    await asyncio.gather(*tasks, return_exceptions=True)
    print(sum(task.done() for task in tasks))

asyncio.run(main())
"""


@pytest.mark.skipif(not HAS_MONITORING, reason="deliveries are not seen")
@pytest.mark.parametrize("program", [REPLACED, UNREGISTERED], ids=["replaced", "unregistered"])
def test_what_is_called_stays_till_it_has_answered(run_python: Runner, program: str) -> None:
    """Whoever listens may change in the middle of a call, and what is called then be let go of."""
    done = run_python("-c", program, AIOAUDIT_JSONL_PATH="log", PYTHONMALLOC="debug")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "9\n")
