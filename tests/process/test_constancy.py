"""The last of a task's many timeouts, groups and requests costs what the first did."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, clean_environ
from tests.lasting import KINDS

LASTING = ROOT / "tests" / "lasting.py"
FEW = 20_000
"""``AIOAUDIT_LASTING=200000`` asks for as many as the promise speaks of."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_costs_what_the_first_did(kind: str) -> None:
    if kind in ("scope", "fail_after"):
        pytest.importorskip("anyio")
    count = int(os.environ.get("AIOAUDIT_LASTING", FEW))
    done = subprocess.run(
        [sys.executable, LASTING, kind, str(count)],
        env=clean_environ(PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["grown"] == []
    # Noise doubles a time on a busy machine; what grows with the number does more than that.
    assert told["last"] < 4 * told["first"]
    # A kilobyte for each was what was kept, as long as the task lived.
    assert told["more"] * 1e6 < 100 * count + 4e6
