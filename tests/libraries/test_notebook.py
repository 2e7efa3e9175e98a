"""ipykernel cancels: the interrupt of a cell, and what each kernel leaves behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

import aioaudit
from aioaudit.events import Finding
from tests.conftest import Runner
from tests.logs import read
from tests.recognising import links

if find_spec("ipykernel") is None:
    pytest.skip("ipykernel is not installed", allow_module_level=True)

NOTEBOOK = Path(__file__).with_name("recognised") / "notebook.py"


def test_an_interrupt_is_the_signal_and_what_a_kernel_leaves_is_no_fault(
    run_python: Runner, tmp_path: Path
) -> None:
    ways = ("interrupt", "end")
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda way: run_python(str(NOTEBOOK), str(tmp_path / way), way), ways))
    for done in runs:
        assert done.returncode == 0, done.stderr

    log = aioaudit.load(tmp_path / "interrupt")
    [cell] = log.why("cell")
    said = {"reason": "signal", "detail": "the kernel was asked to interrupt the cell"}
    assert links(cell) == [
        {"what": "cancelled", "name": "cell", **said},
        {"what": "signal", "signal": "SIGINT", **said},
    ]
    [helper] = log.why("helper")
    assert links(helper)[-2:] == links(cell)

    for way in ways:
        findings = [each for each in read(tmp_path / way) if isinstance(each, Finding)]
        assert {(each.kind, each.severity) for each in findings} == {("pending", "note")}
        left = {each.coro for each in findings}
        assert "ipykernel.iostream:IOPubThread._run_event_pipe_gc" in left
        assert all(each.startswith("ipykernel.") for each in left)

    told = run_python("-m", "aioaudit", "check", "end")
    assert (told.returncode, told.stdout) == (0, "")
    told = run_python("-m", "aioaudit", "why", "end")
    assert told.stdout.startswith("Nothing happened")
