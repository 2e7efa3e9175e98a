"""No memory at any one allocation of the native core: the program goes on, or gets its MemoryError."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioaudit.core.choice import CORE

if TYPE_CHECKING:
    from tests.conftest import Runner

pytest.importorskip("_testcapi", reason="nothing else in an interpreter refuses memory")
pytestmark = pytest.mark.skipif(CORE.name != "native", reason="there is no native core here")

REFUSING = """
import _testcapi, gc, sys
gc.disable()

def refused(act, most=400, before=0):
    '''Do ACT again and again, each time without memory for one allocation, the next one each time.

    BEFORE: so many times with memory, first.
    '''
    failed = 0
    for number in range(-before, most):
        if number >= 0:
            _testcapi.set_nomemory(number, number + 1)
        try:
            act()
        except MemoryError:
            failed += 1
        finally:
            _testcapi.remove_mem_hooks()
    return failed
"""

PARTS = (
    REFUSING
    + """
from types import SimpleNamespace
from aioaudit.core import _core, native

def sites(made={}):
    class Site(native.Site):
        pass
    site = Site(SimpleNamespace(fields=("r", 1, "t", 1)), 1, 2, by_application=True)
    site.coro, site.runs_at, site.fields = "m:f", None, ("m:f", None, None)
    return site

SITE = sites()
RECORDS = [_core.Created(n, n, 10**18, SITE, "x" if n % 2 else "\\xe9", None) for n in range(40)]
WHOLE = native.lines(RECORDS)

def lines():
    assert native.lines(RECORDS) == WHOLE

def table():
    table = _core.Table()
    try:
        for key in range(0, 4000, 16):
            table[key] = key
        table.items(), table.values()
    finally:
        kept = len(table)
        for key in range(0, 4000, 16):
            kept -= table.pop(key, None) is not None
        assert kept == len(table) == 0
        table.clear()

def queue():
    lost = []
    queue = _core.Queue(1000, int, lost.append, float, float, 0.01, 8)
    queue.set_open(True)
    put = 0
    try:
        for number in range(300):
            queue.put(number)
            put += 1
    finally:
        _testcapi.remove_mem_hooks()
        assert len(queue) + len(lost) - put in (0, 1), (len(queue), lost, put)
        queue.take(1000)

def records():
    made = _core.Created(1, 1, 1, SITE, "n", None)
    ended = _core.Returned(2, 2, made, 16)
    assert _core.in_order([made, ended], 1)

def asks():
    asks = _core.Asks(born=_core.Table(), states={}, ties={}, active={}, doubts={}, adopt=print, released=print)
    names = "current_task get_coro module_at monotonic put urge learn_line learn_wait learn_handler"
    names += " reaches_nobody track fault loop_time learn_expiry learn_leaving"
    given = dict.fromkeys(names.split(), print)
    given |= dict(next_seq=COUNTER, python_tasks={}, codes={}, handlers={}, exporting=set())
    given |= dict(timeout=object, notes=None, expire=None, run=None, leave=None)
    for _ in range(2):
        asks.begin(
            outside=frozenset(), future=object, cancelled=KeyError, rules=0, findings=1, **given
        )
    asks.callback("RERAISE", print)
    assert asks.pending() == []

def kept():
    kept = native.new_kept(30_000)
    told = 0
    try:
        for number in range(1, 13):
            made = _core.Created(7 * number, number, 1, SITE, "x" if number % 3 else "\\xe9", None)
            told += kept.take([LIVED.get(number, made)], 0)
        for number in range(1, 4):
            told += kept.take([_core.Returned(7 * number + 1, 2, LIVED[number], 16)], 0)
        steps = [
            (kept.made, 20, 2, LINE),
            (kept.returned, 20, 3, LINE),
            (kept.asked, 4, 40, LINE, 5, 0, True, 0),
            (kept.took_back, 4, 41, LINE, True),
            (kept.asked, 4, 43, LINE, 5, 40, True, 6),
            (kept.ended, 4, 44, LINE, 43),
            (kept.future, (6, 7, 4), 45, LINE, 43, 5, 0),
            (kept.found, 46, LINE, 45, 0, 40, 8, 0),
            (kept.other, 47, LINE),
        ]
        for act, *given in steps:
            act(*given)
            told += 1
        assert b"".join(kept.lines([(1, LINE)])).count(b"\\n") == told + 1
        kept.make_room(2_000)
        kept.make_room(0)
        assert (kept.size, kept.lost) == (0, told)
    finally:
        _testcapi.remove_mem_hooks()
        kept.clear()
        kept.take(RECORDS[1:], 0)
        assert b"".join(kept.lines([])) == native.lines(RECORDS[1:])

def stories():
    kept = native.new_kept(30_000)
    try:
        kept.made(4, 1, LINE)
        kept.asked(4, 2, LINE, 0, 0, True, 0)
        kept.took_back(4, 3, LINE, True)
        kept.asked(4, 4, LINE, 0, 0, True, 0)  # which begins another story
    finally:
        _testcapi.remove_mem_hooks()
        kept.make_room(0)
        try:
            kept.returned(4, 5, LINE)
        except MemoryError:
            raise SystemError("there is memory again") from None
        assert b"".join(kept.lines([])) == LINE

LINE = b'{"event":"x"}\\n'
LIVED = {n: _core.Created(7 * n, n, 1, SITE, "x" if n % 2 else "\\xe9", None) for n in range(1, 4)}
COUNTER = _core.Counter()
for part in (lines, table, queue, records, asks, kept, stories):
    print(part.__name__, refused(part) > 0)
"""
)


def test_each_part_of_the_core_without_memory(run_python: Runner) -> None:
    # What is freed is overwritten, so that nobody finds it as it was.
    done = run_python("-c", PARTS, PYTHONMALLOC="debug")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [
        "lines",
        "True",
        "table",
        "True",
        "queue",
        "True",
        "records",
        "True",
        "asks",
        "True",
        "kept",
        "True",
        "stories",
        "True",
    ]


TASKS = (
    REFUSING
    + """
import asyncio
from aioaudit.session import current

async def leaf():
    pass

def plain():
    asyncio.create_task(leaf(), name="plain")

def unnamed():
    asyncio.create_task(leaf())

def eager():
    asyncio.Task(leaf(), loop=asyncio.get_running_loop(), eager_start=True)

async def main():
    failed = 0
    journal = current().sinks[0][0]
    for way in (plain, unnamed, eager) if sys.version_info >= (3, 12) else (plain, unnamed):
        for _ in range(3):
            way()
        await asyncio.sleep(0)
        journal.before_fork()  # else it may be the exporter's thread that gets no memory
        failed += refused(way, 150)
        journal.after_fork_in_parent()
        for _ in range(3):  # not for the tasks: what asyncio had no memory to schedule never ends
            await asyncio.sleep(0)
    print(failed)

asyncio.run(main())
"""
)


def test_tasks_that_are_made_without_memory(run_python: Runner, tmp_path: Path) -> None:
    """The program is not affected, and what the log lacks is told: as lost, or as a fault.

    A number may also be missing for each task that was not made: the program was told that.
    """
    done = run_python("-W", "ignore", "-c", TASKS, AIOAUDIT="jsonl")
    assert done.returncode == 0, done.stderr
    failed = int(done.stdout)
    [log] = tmp_path.glob("*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    end = lines[-1]
    assert end["event"] == "process.end"
    faults = sum(int(re.sub(r".*, (\d+) times|.*", r"\1", each) or 1) for each in end["faults"])
    assert 0 <= end["seq"] - len(lines) <= end["dropped"] + faults + failed
    assert sum(line["event"] == "task.create" for line in lines) > 200


CANCELS = (
    REFUSING
    + """
import asyncio
from aioaudit.session import current

async def wait():
    await asyncio.sleep(1000)

async def main():
    journal = current().sinks[0][0]
    tasks = [asyncio.create_task(wait()) for _ in range(200)]
    await asyncio.sleep(0)
    left = iter(tasks)

    def cancel():
        next(left).cancel()

    def between():  # of which there is no frame to be looked at yet, each time
        cancel()

    journal.before_fork()  # else it may be the exporter's thread that gets no memory
    failed = refused(between, 150, before=5)  # so Python knows the line, and C asks it nothing
    journal.after_fork_in_parent()
    for _ in range(3):  # not for the tasks: whom asyncio had no memory to wake never ends
        await asyncio.sleep(0)
    print(failed)

# Not `run`, which would wait for those.
asyncio.new_event_loop().run_until_complete(main())
"""
)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there the core takes in no requests")
def test_tasks_that_are_cancelled_without_memory(run_python: Runner) -> None:
    """Nothing but a MemoryError reaches the program: a frame that cannot be had is no other error."""
    done = run_python("-W", "ignore", "-c", CANCELS, AIOAUDIT="jsonl")
    assert done.returncode == 0, done.stderr
    assert "SystemError" not in done.stderr
    assert int(done.stdout) < 10
