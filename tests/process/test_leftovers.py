"""A test that leaves something of ours running fails itself, and no other one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, clean_environ

LEAKY = """
import signal
import aioaudit
import pytest
from tests import leftovers
from aioaudit.events import LoopStart
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.identity import Run
from aioaudit.delivery.pipeline import Pipeline

patience = leftovers.PATIENCE


def make():
    run = Run()
    return Pipeline(MemoryExporter(), name="memory", run=run, start=run.start_event([]))


@pytest.fixture(scope="module")
def held_by_the_module():
    pipeline = make()
    pipeline.open_now()
    yield
    pipeline.shutdown()


def test_hook():
    aioaudit.addaudithook(print)


def test_thread():
    leftovers.PATIENCE = 0.01  # what is left here stays
    make().open_now()


def test_auditing():
    leftovers.PATIENCE = patience
    aioaudit.enable(MemoryExporter())


def test_handler():
    signal.signal(signal.SIGQUIT, print)


def test_the_handler_is_taken_back():
    assert signal.getsignal(signal.SIGQUIT) is not print


def test_nothing(held_by_the_module):
    with aioaudit.recording():
        pipeline = make()
        pipeline.open_now()
        pipeline.shutdown()
"""


def test_who_leaves_something_running_is_blamed_and_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "test_leaky.py").write_text(LEAKY)
    # Hypothesis warns of what it cannot ask a frozen collector; pyproject.toml says more.
    plugins = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, f"--rootdir={tmp_path}", "-q", str(tmp_path)],
        cwd=ROOT,
        env=clean_environ(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout.splitlines()
    assert said[-1].startswith("6 passed, 3 errors"), done.stdout
    assert [line for line in said if line.startswith("the test left running ")] == [
        "the test left running a hook: <built-in function print>",
        "the test left running a thread: Worker._work",
        "the test left running auditing, turned on",
    ]
    blamed = [line.rpartition("::")[2] for line in said if line.startswith("ERROR ")]
    assert blamed == ["test_hook", "test_thread", "test_auditing"]
