"""Twisted on asyncio cancels: Deferreds made of tasks, their limits."""

from __future__ import annotations

from pathlib import Path

import pytest

import aioaudit
from aioaudit.log import Log
from tests.conftest import Runner
from tests.recognising import about, links

pytest.importorskip("twisted.internet.asyncioreactor")

PROGRAM = """\
import asyncio

from twisted.internet import asyncioreactor

loop = asyncio.new_event_loop()
asyncioreactor.install(loop)

from twisted.internet import defer, reactor


def deferred(name):
    return defer.Deferred.fromFuture(asyncio.ensure_future(hang(name)))


async def hang(name):
    asyncio.current_task().set_name(name)
    await asyncio.sleep(60)


async def main():
    late = deferred("late")
    late.addTimeout(60, reactor)
    late.addTimeout(0.1, reactor)
    late.addErrback(lambda failure: None)
    unwanted = deferred("unwanted")
    unwanted.addErrback(lambda failure: None)
    await asyncio.sleep(0.01)
    unwanted.cancel()  # LINE unwanted
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.01)
    reactor.stop()


running = loop.create_task(main())
reactor.run()
running.result()
"""


@pytest.fixture
def log(run_python: Runner, tmp_path: Path) -> Log:
    (tmp_path / "app.py").write_text(PROGRAM)
    done = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    return aioaudit.load(str(tmp_path / "log.jsonl"))


def test_what_twisted_cancels_says_who_wanted_it(log: Log, tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    [late] = log.why("late")
    root = links(late, program)[-1]
    assert (root["what"], root["reason"], root["seconds"]) == ("deadline", "timeout", about(0.1))
    assert "at" not in root
    [unwanted] = log.why("unwanted")
    root = links(unwanted, program)[-1]
    assert (root["what"], root["at"]) == ("called", "unwanted")
