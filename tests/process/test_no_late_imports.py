"""What a probe needs is there before the probe is: no import where something happens first.

A first import in the middle of a loop takes its time, and may find that imports are not what
they are elsewhere: Temporal's sandbox swaps `sys.modules` and ``__import__`` while a workflow runs.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aioaudit
from tests.loops import NAMES

if TYPE_CHECKING:
    from tests.conftest import Runner

# A finder of ours is on the way of every import, and no reason for one.
PROGRAM = r"""
import asyncio, builtins, gc, os, signal, sys, threading, time
import aioaudit, uvloop
real = builtins.__import__
bad = []
def guarded(name, namespace=None, local=None, fromlist=(), level=0):
    frame = sys._getframe(1)
    steps = 0
    while frame is not None and steps < 50:
        module = frame.f_globals.get("__name__", "")
        if module == "aioaudit.cpython.imports": break
        if frame.f_code.co_name in ("run_until_complete", "run_forever"): break  # whoever runs a loop
        if module.startswith("aioaudit") and threading.current_thread() is threading.main_thread():
            bad.append((name, module, frame.f_lineno))
            raise ImportError(f"{name} is imported by {module}:{frame.f_lineno}")
        frame = frame.f_back; steps += 1
    return real(name, namespace, local, fromlist, level)
aioaudit.enable("jsonl", jsonl_path=sys.argv[1])
aioaudit.addaudithook(lambda event, args: None)
import anyio, anyio._backends._asyncio
builtins.__import__ = guarded
async def hang(): await asyncio.sleep(60)
async def fails(): raise ValueError("x")
async def swallows():
    try: await hang()
    except asyncio.CancelledError: pass
    await asyncio.sleep(0.01)
async def gen():
    try: yield 1
    finally: pass
async def main():
    loop = asyncio.get_running_loop()
    def task(coro, name): return asyncio.create_task(coro, name=name)
    for kind in (hang, swallows):
        t = task(kind(), kind.__name__); await asyncio.sleep(0); t.cancel("why"); t.cancel(); await asyncio.wait([t])
    t = task(hang(), "unstarted"); t.cancel(); await asyncio.wait([t])
    try:
        async with asyncio.timeout(0.01): await hang()
    except TimeoutError as e: pass
    try: await asyncio.wait_for(hang(), 0.01)
    except TimeoutError: pass
    try:
        async with asyncio.TaskGroup() as g:
            g.create_task(hang()); g.create_task(fails())
    except* ValueError: pass
    try:
        t = task(hang(), "awaited")
        async def awaits(): await t
        w = task(awaits(), "awaits"); await asyncio.sleep(0); w.cancel(); await w
    except asyncio.CancelledError as e:
        assert e.source; assert aioaudit.why(e) or True
    f = loop.create_future()
    async def on(f): await f
    t = task(on(f), "future"); await asyncio.sleep(0); f.cancel(); await asyncio.wait([t])
    g = asyncio.gather(hang(), fails(), return_exceptions=True); await asyncio.sleep(0); g.cancel()
    try: await g
    except asyncio.CancelledError: pass
    t = task(hang(), "timer"); loop.call_later(0.01, t.cancel); await asyncio.wait([t])
    t = task(hang(), "thread"); await asyncio.sleep(0)
    th = threading.Thread(target=lambda: loop.call_soon_threadsafe(t.cancel)); th.start(); await asyncio.wait([t]); th.join()
    t = task(hang(), "signal"); loop.add_signal_handler(signal.SIGUSR1, t.cancel); await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGUSR1); await asyncio.wait([t])
    t = task(hang(), "handler"); signal.signal(signal.SIGUSR2, lambda *_: t.cancel()); await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGUSR2); await asyncio.wait([t])
    fut = loop.run_in_executor(None, time.sleep, 0.01); t = task(on(fut), "executor"); await asyncio.sleep(0); t.cancel(); await asyncio.wait([t])
    async def late():
        try: await hang()
        finally:
            t2.cancel()
    t2 = task(hang(), "cleaned"); t = task(late(), "cleans"); await asyncio.sleep(0); t.cancel(); await asyncio.wait([t, t2])
    t = task(hang(), "uncancelled"); await asyncio.sleep(0); t.cancel(); t.uncancel(); await asyncio.wait([t])
    async def selfish(): asyncio.current_task().cancel(); await asyncio.sleep(0)
    await asyncio.wait([task(selfish(), "self")])
    if True:
        with anyio.move_on_after(0.01): await anyio.sleep(9)
        async with anyio.create_task_group() as tg:
            tg.start_soon(anyio.sleep, 9); await anyio.sleep(0.01); tg.cancel_scope.cancel()
    done = task(asyncio.sleep(0), "finished"); await done; done.cancel()
    keep = task(hang(), "pending"); await asyncio.sleep(0)
    del t, t2
    loop.call_soon(loop.stop)
    return keep
loop = (asyncio if sys.argv[2] == "asyncio" else uvloop).new_event_loop()

loop.run_until_complete(main())
loop.close()
gc.collect()
builtins.__import__ = real
print(bad)
"""


@pytest.mark.parametrize("loop", NAMES)
def test_no_event_needs_an_import(run_python: Runner, tmp_path: Path, loop: str) -> None:
    for needed in ("uvloop", "anyio"):
        pytest.importorskip(needed)
    (tmp_path / "app.py").write_text(PROGRAM)
    done = run_python("-W", "ignore", "app.py", "log.jsonl", loop)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
    assert "aioaudit" not in done.stderr
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    told = Counter(json.loads(line)["event"] for line in lines)
    assert set(told) >= {
        "task.create",
        "task.cancel",
        "task.uncancel",
        "task.done",
        "future.cancel",
        "finding",
        "loop.start",
        "loop.stop",
        "loop.close",
    }


def test_the_tables_of_libraries_are_there_once_the_libraries_are(
    run_python: Runner, tmp_path: Path
) -> None:
    pytest.importorskip("aiojobs")
    (tmp_path / "app.py").write_text(
        "import aiojobs, sys, aioaudit\n"
        "def tables(): return sorted(m for m in sys.modules if m.startswith('aioaudit.recognisers.'))\n"
        "aioaudit.enable()\nbefore = tables()\nimport websockets\n"
        "print('aioaudit.recognisers.aiojobs' in before, 'aioaudit.recognisers.websockets' in before,\n"
        "      'aioaudit.recognisers.websockets' in tables())\n"
    )
    assert run_python("app.py").stdout == "True False True\n"


WORKFLOW = r"""
import asyncio, atexit, os, sys
from datetime import timedelta
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

@workflow.defn(name="Hunt")
class Hunt:
    @workflow.run
    async def run(self) -> str:
        async def waits(): await workflow.wait_condition(lambda: False)
        victim = asyncio.create_task(waits(), name="victim")
        await asyncio.sleep(0)
        victim.cancel("told")
        try:
            await victim
        except asyncio.CancelledError:
            pass
        group = asyncio.gather(waits(), waits())
        await asyncio.sleep(0)
        group.cancel()
        try:
            await group
        except asyncio.CancelledError:
            pass
        return "done"

HISTORY = {"events": [
    {"eventId": "1", "eventTime": "2026-01-01T00:00:00Z", "eventType": "EVENT_TYPE_WORKFLOW_EXECUTION_STARTED",
     "workflowExecutionStartedEventAttributes": {"workflowType": {"name": "Hunt"}, "taskQueue": {"name": "q"},
        "originalExecutionRunId": "r", "firstExecutionRunId": "r", "attempt": 1, "workflowTaskTimeout": "10s"}},
    {"eventId": "2", "eventTime": "2026-01-01T00:00:00Z", "eventType": "EVENT_TYPE_WORKFLOW_TASK_SCHEDULED",
     "workflowTaskScheduledEventAttributes": {"taskQueue": {"name": "q"}, "startToCloseTimeout": "10s", "attempt": 1}},
    {"eventId": "3", "eventTime": "2026-01-01T00:00:00Z", "eventType": "EVENT_TYPE_WORKFLOW_TASK_STARTED",
     "workflowTaskStartedEventAttributes": {"scheduledEventId": "2", "identity": "w"}},
    {"eventId": "4", "eventTime": "2026-01-01T00:00:00Z", "eventType": "EVENT_TYPE_WORKFLOW_TASK_COMPLETED",
     "workflowTaskCompletedEventAttributes": {"scheduledEventId": "2", "startedEventId": "3", "identity": "w"}},
    {"eventId": "5", "eventTime": "2026-01-01T00:00:00Z", "eventType": "EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED",
     "workflowExecutionCompletedEventAttributes": {"workflowTaskCompletedEventId": "4",
        "result": {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "ImRvbmUi"}]}}},
]}

async def main():
    result = await Replayer(workflows=[Hunt]).replay_workflow(WorkflowHistory.from_json("hunt", HISTORY))
    print("failure:", result.replay_failure)

if __name__ == "__main__":
    asyncio.run(main())
    # Its runtime waits for its threads in a destructor, when the interpreter holds them already
    # (3.14 and later never let go of such a thread): now and then the plain program hangs, too.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)
"""


def test_a_workflow_in_temporals_sandbox_is_answered(run_python: Runner, tmp_path: Path) -> None:
    """A history is replayed, which needs no server: the workflow runs as it does in a worker."""
    pytest.importorskip("temporalio")
    (tmp_path / "app.py").write_text(WORKFLOW)
    plain = run_python("app.py")
    done = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert done.stdout == plain.stdout == "failure: None\n"
    assert "aioaudit" not in done.stderr
    answers = {each.name: each for each in aioaudit.load(tmp_path / "log.jsonl").why()}
    [victim] = [answer for name, answer in answers.items() if name.startswith("victim")]
    root = victim.root
    line = 1 + WORKFLOW[: WORKFLOW.index('victim.cancel("told")')].count("\n")
    assert (root.what, root.reason, root.source, root.at) == (
        "called",
        "explicit",
        "__temporal_main__:Hunt.run",
        f"{tmp_path / 'app.py'}:{line}",
    )
    gathered = [each for each in answers.values() if each.chain[0].reason == "gather"]
    assert len(gathered) == 2
    assert {each.outcome for each in (victim, *gathered)} == {"cancelled"}
