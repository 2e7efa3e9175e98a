"""Nothing of ours grows with time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, clean_environ
from tests.waiting import PATIENCE

SOAKING = ROOT / "tests" / "soaking.py"
FIRST, LAST = 30, 90
"""Rounds before the tables are measured, and until they are again."""

pytestmark = pytest.mark.slow


def _growth(*planted: str) -> list[str]:
    """The tables that grow by one for every other round of traffic."""
    # A process of its own: what other tests have in the tables is theirs.
    done = subprocess.run(
        [sys.executable, SOAKING, str(FIRST), str(LAST), *planted],
        env=clean_environ(PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    count, *told = done.stdout.splitlines()
    assert int(count.split()[0]) > 50
    return told


def test_no_table_grows() -> None:
    assert _growth() == []


@pytest.mark.parametrize("planted", ["set", "closure", "entries", "deque"])
def test_a_table_that_grows_is_found(planted: str) -> None:
    name = {"set": "_left", "closure": "kept", "entries": "calls", "deque": "_planted"}[planted]
    found = _growth(planted)
    assert any(name in each for each in found), found
