"""A Python that calls one of its private names something else: less is known, and nothing is wrong.

The names are replaced in the sources of asyncio, of which a child process makes its own one,
without the C classes (tests/renamed.py).  What it says is held against what the same
program says where nothing was replaced.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import aioaudit
from aioaudit.chain.links import Answer, Link
from aioaudit.cpython.internals import TABLE
from aioaudit.events import ProcessStart
from tests import logs
from tests.conftest import ROOT, WHEEL, clean_environ

REPLACED = ("asyncio", "threading", "concurrent.futures")
RENAMED = ROOT / "tests" / "renamed.py"

NAMES = {
    each.name.replace("_Task__", "__"): each
    for each in TABLE
    if each.is_meant()
    and each.name.startswith("_")
    and each.where.partition(":")[0].startswith(REPLACED)
}

NOT_KNOWN = ("unknown", "native")


class Told:
    """What is told of the program where *name* is called something else."""

    def __init__(self, name: str, folder: Path) -> None:
        log = folder / f"log{name}.jsonl"
        done = subprocess.run(
            [sys.executable, "-W", "error", str(RENAMED), name, str(log)],
            env=clean_environ(**({} if WHEEL else {"PYTHONPATH": str(ROOT)})),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        self.stderr = done.stderr.splitlines()
        # ``wait_for`` of 3.11 makes a task, whose name is a number.
        self.answers = {
            each.coro if each.name.startswith("Task-") else each.name: each
            for each in aioaudit.load(log).why()
        }
        start = logs.read(log)[0]
        assert isinstance(start, ProcessStart)
        self.coverage = start.coverage


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What is told where nothing is missing but the C classes."""
    return Told("", tmp_path_factory.mktemp("everything"))


def test_the_program_is_explained_where_no_name_is_missing(everything: Told) -> None:
    assert everything.stderr == []
    assert len(everything.answers) >= 18
    for each in everything.answers.values():
        assert each.root.reason not in NOT_KNOWN, each.summary


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_name_is_said_once_and_makes_no_answer_wrong(
    name: str, everything: Told, tmp_path: Path
) -> None:
    told = Told(name, tmp_path)
    for who, full in everything.answers.items():
        less = told.answers.get(who)
        assert less is None or _says_less(less, full), f"{less}: {full.summary}"
    assert set(told.answers) <= set(everything.answers)
    each = NAMES[name]
    lines = [line for line in told.stderr if f" has no {each.full}; " in line and each.lost in line]
    assert len(lines) == (1 if each.loses else 0), told.stderr
    assert [line for line in told.stderr if " has no " not in line] == []  # no fault of ours
    assert [line for line in told.coverage if each.full in line and each.lost in line]


def _says_less(less: Answer, full: Answer) -> bool:
    """Whether *less* says what *full* says, or a part of it, and names nobody else."""
    if less.outcome not in (full.outcome, "pending"):
        return False
    if less.cancel_outcome not in (full.cancel_outcome, None):
        return False
    if _who(less.root) in map(_who, full.chain):
        return True
    return less.root.at is None and less.root.reason in (*NOT_KNOWN, full.chain[0].reason)


def _who(link: Link) -> tuple[object, ...]:
    return link.what, link.reason, link.source, link.at, link.error
