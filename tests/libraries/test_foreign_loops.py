"""Loops that are not asyncio's own, and what stands around them: real programs of the real libraries.

A frame that only runs a loop is nobody's caller, and neither is what lies beyond it.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.chain.links import Answer
from tests.conftest import Runner

HEAD = """\
import asyncio
import os
import signal

async def forever():
    await asyncio.sleep(3600)

def spawn(name, coro=None):
    return asyncio.create_task(forever() if coro is None else coro, name=name)

async def main():
    loop = asyncio.get_running_loop()
    timer, function, plain = spawn("timer"), spawn("function"), spawn("plain")
    await asyncio.sleep(0.02)
    loop.call_later(0.02, timer.cancel)  # LINE timer

    def stop():
        function.cancel()  # LINE function

    loop.call_later(0.03, stop)
    plain.cancel()  # LINE plain
    for _ in range(500):
        await asyncio.sleep(0.01)
        if timer.done() and function.done() and plain.done():
            break
    await asyncio.sleep(0.02)  # before 3.12 their ends are heard in a turn of the loop
"""

TWISTED = """
    later = asyncio.ensure_future(forever())
    later.set_name("later")
    await asyncio.sleep(0)
    reactor.callLater(0.01, later.cancel)
    await asyncio.wait([later])
    reactor.stop()

from twisted.internet import asyncioreactor
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
asyncioreactor.install(loop)
from twisted.internet import reactor
reactor.callWhenRunning(lambda: loop.create_task(main()))
reactor.run()
loop.close()
"""

TORNADO = """
    later = spawn("later")
    await asyncio.sleep(0)
    IOLoop.current().call_later(0.01, later.cancel)
    await asyncio.wait([later])

from tornado.ioloop import IOLoop
IOLoop.current().run_sync(main)
"""

TRIO = """
    return "done"

import trio, trio_asyncio

async def under_trio():
    async with trio_asyncio.open_loop():
        assert await trio_asyncio.aio_as_trio(main)() == "done"
        with trio.move_on_after(0.02):
            await trio_asyncio.aio_as_trio(forever)()

trio.run(under_trio)
"""

RLOOP = """
    signalled = spawn("signalled")
    await asyncio.sleep(0)
    loop.add_signal_handler(signal.SIGTERM, signalled.cancel)  # LINE signalled
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait([signalled])
    shared = spawn("shared")
    await asyncio.sleep(0)

    def both():
        shared.cancel()  # LINE shared

    loop.add_signal_handler(signal.SIGUSR1, both)
    loop.call_later(0.01, both)
    await asyncio.wait([shared])
    soon = spawn("soon")
    await asyncio.sleep(0)
    loop.call_soon(soon.cancel)
    await asyncio.wait([soon])

import rloop
loop = rloop.new_event_loop()
loop.run_until_complete(main())
loop.close()
"""

NEST = """
import nest_asyncio
nest_asyncio.apply()

async def outer():
    asyncio.get_running_loop().run_until_complete(main())

asyncio.run(outer())
loop = asyncio.get_event_loop()
loop.call_later(0.01, loop.stop)
loop.run_forever()
"""

QASYNC = """
from PySide6.QtCore import QCoreApplication
import qasync
app = QCoreApplication([])
with qasync.QEventLoop(app) as loop:
    loop.run_until_complete(main())
"""

QT = """
    inner = spawn("inner", waits())

    async def awaits():
        await inner

    outer = spawn("outer", awaits())
    await asyncio.sleep(0.05)
    outer.cancel()  # LINE outer
    await asyncio.sleep(0.3)

async def waits():
    while True:
        await asyncio.sleep(0.05)

async def forever():
    while True:
        await asyncio.sleep(0.05)

from PySide6.QtCore import QCoreApplication
import PySide6.QtAsyncio
app = QCoreApplication([])
PySide6.QtAsyncio.run(main(), keep_running=False, quit_qapp=True)
"""


@dataclass
class Told:
    """What the log of a program says."""

    program: Path
    answers: dict[str, Answer]
    events: list[dict[str, Any]]

    def line(self, label: str) -> str:
        for number, text in enumerate(self.program.read_text().splitlines(), 1):
            if text.endswith(f"# LINE {label}"):
                return f"{self.program}:{number}"
        raise AssertionError(label)

    def check(self) -> None:
        """What each of the loops has to say the same of."""
        for name in ("plain", "function", "timer"):
            answer = self.answers[name]
            assert (answer.outcome, answer.cancel_outcome) == ("cancelled", "obeyed"), name
            assert answer.root.what == "called", name
            assert answer.root.at == self.line(name), name
        assert self.answers["plain"].root.by_name not in (None, "MainThread")
        done = {each["task"] for each in self.events if each["event"] == "task.done"}
        made = {each["task"]: each for each in self.events if each["event"] == "task.create"}
        assert not made.keys() - done
        assert not [each for each in self.events if each.get("kind") == "wrong_thread"]
        assert not [each for each in self.events if each.get("reason") == "thread"]
        for each in self.events:
            if each["event"] == "task.cancel":
                assert not re.search(
                    r"run_forever|run_until|\.run$|<module>", str(each.get("source"))
                )


def run(run_python: Runner, folder: Path, text: str, *needs: str) -> Told:
    for name in needs:
        if importlib.util.find_spec(name) is None:
            heavy = " (not in the group of packages for tests: too large)" * (name == "PySide6")
            pytest.skip(f"{name} is not installed{heavy}")
    program = folder / "program.py"
    program.write_text(HEAD + text)
    log = folder / "log.jsonl"
    done = run_python(
        "-W",
        "ignore",
        str(program),
        AIOAUDIT="jsonl",
        AIOAUDIT_JSONL_PATH=str(log),
        QT_QPA_PLATFORM="offscreen",
    )
    assert done.returncode == 0, done.stderr
    assert "aioaudit" not in done.stderr
    answers = {each.name: each for each in aioaudit.load(log).why()}
    told = Told(program, answers, [json.loads(each) for each in log.read_text().splitlines()])
    told.check()
    return told


def nobody(answer: Answer) -> bool:
    """Whether *answer* names nobody, which is all that can be known."""
    root = answer.root
    return (root.what, root.reason, root.at, root.source) == ("called", "native", None, None)


def test_rloop_is_nobodys_caller(run_python: Runner, tmp_path: Path) -> None:
    told = run(run_python, tmp_path, RLOOP, "rloop")
    signalled = told.answers["signalled"].root
    assert (signalled.what, signalled.signal) == ("signal", "SIGTERM")
    assert signalled.at == told.line("signalled")
    assert nobody(told.answers["soon"])
    shared = told.answers["shared"].root
    assert (shared.what, shared.at) == ("called", told.line("shared"))


def test_tornados_dispatcher_is_nobodys_caller(run_python: Runner, tmp_path: Path) -> None:
    assert nobody(run(run_python, tmp_path, TORNADO, "tornado").answers["later"])


def test_twisteds_reactor_is_nobodys_caller(run_python: Runner, tmp_path: Path) -> None:
    assert nobody(run(run_python, tmp_path, TWISTED, "twisted").answers["later"])


def test_what_runs_trio_is_nobodys_caller_and_tasks_end(run_python: Runner, tmp_path: Path) -> None:
    told = run(run_python, tmp_path, TRIO, "trio_asyncio")
    [left] = [each for name, each in told.answers.items() if name.startswith("Task-")]
    assert left.root.source == "trio_asyncio._util:run_aio_future.<locals>.abort_cb"


def test_a_loop_inside_a_loop_is_nobodys_caller(run_python: Runner, tmp_path: Path) -> None:
    run(run_python, tmp_path, NEST, "nest_asyncio")


def test_a_loop_on_qts_loop_is_nobodys_caller(run_python: Runner, tmp_path: Path) -> None:
    run(run_python, tmp_path, QASYNC, "PySide6", "qasync")


def test_tasks_of_qtasyncio_are_heard(run_python: Runner, tmp_path: Path) -> None:
    told = run(run_python, tmp_path, QT, "PySide6")
    for name, root_of in (("outer", "outer"), ("inner", "outer")):
        answer = told.answers[name]
        assert (answer.root.what, answer.root.at) == ("called", told.line(root_of))
    assert [link.reason for link in told.answers["inner"].chain if link.what == "cancelled"] == [
        "awaiter",
        "explicit",
    ]
