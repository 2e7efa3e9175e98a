"""A log that is big enough for several processes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import aioaudit
from aioaudit.log import load, sources, workers
from aioaudit.log.answering import load_to_answer
from aioaudit.log.workers import ALONE, cores
from tests.busy_logs import busy
from tests.conftest import clean_environ
from tests.logs import told
from tests.replaying import Way, spans
from tests.services import Busy, fleet, written
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.any_python

BUSY = b"".join(busy(1500, 5))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes are called for anything, and asked often."""
    monkeypatch.setattr(workers, "ALONE", 0)
    monkeypatch.setattr(workers, "TOGETHER", 20_000)
    monkeypatch.setattr(sources, "PIECE", 10_000)


@pytest.mark.usefixtures("at_once")
def test_other_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOAUDIT", "jsonl")
    big = b'{"event":"task.uncancel","ts":"x","seq":%d,"run":"r","pid":1,"thread":"","task":%d,'
    odd = big % (1 << 70, 1 << 70) + b'"name":"","coro":"","remaining":0}\n'
    for name, content in (("a", BUSY), ("b", odd + b"oops\n"), ("c", b"".join(busy(900, 7)))):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    expected = told(load(tmp_path))
    assert told(load_to_answer(tmp_path, workers=2)) == expected
    assert len(list(tmp_path.iterdir())) == 3  # nobody was audited


@pytest.mark.usefixtures("at_once")
def test_other_processes_find_the_same_in_logs_of_several_services(tmp_path: Path) -> None:
    written(tmp_path, fleet(Busy), random.Random(14))
    log = load_to_answer(tmp_path, workers=2)
    assert told(log) == told(load(tmp_path))
    assert sum(len(run.further) for run in log.runs.values()) == 10


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("begins_again", [True, False])
def test_other_processes_find_the_same_spans(tmp_path: Path, begins_again: bool) -> None:
    (tmp_path / "a.jsonl").write_bytes(BUSY + b"oops\n")
    (tmp_path / "b.jsonl").write_bytes(b"".join(busy(900, 7)))
    expected = spans(tmp_path, Way.WHOLE, workers=0)
    assert expected.count(b"asyncio.cancel") == 18
    way = Way.AT_ONCE if begins_again else Way.BRIEF
    assert spans(tmp_path, way, workers=2) == expected


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false"])
def test_where_no_other_process_answers_it_is_done_here(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(BUSY)
    monkeypatch.setattr("sys.executable", program)
    assert told(load_to_answer(tmp_path, workers=2)) == told(load(tmp_path))


@pytest.mark.skipif(not cores(), reason="there is one core, and one process")
def test_ctrl_c_ends_the_processes_that_help_and_says_nothing(tmp_path: Path) -> None:
    part = b"".join(busy(2000))
    with subprocess.Popen(
        [sys.executable, "-m", "aioaudit", "why", "--json", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=clean_environ(PYTHONPATH=str(Path(aioaudit.__file__).parents[1])),
    ) as process:
        assert process.stdin is not None
        for _ in range(2 * ALONE // len(part)):
            process.stdin.write(part)
        process.stdin.flush()
        helpers = psutil.Process(process.pid).children()
        assert len(helpers) == cores()
        process.send_signal(signal.SIGINT)
        process.stdin.close()
        process.stdin = None
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said.strip()) == (130, b"")
    wait_until(lambda: not any(each.is_running() for each in helpers))
