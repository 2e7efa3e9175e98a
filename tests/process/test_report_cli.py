"""`aioaudit report` as users call it: what is written where, and what is said."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("jinja2")

from aioaudit.events import ProcessDropped, ProcessStart
from tests.conftest import ROOT, Runner
from tests.report_logs import base, shop, write

pytestmark = pytest.mark.any_python

Report = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def report(run_python: Runner) -> Report:
    """Runs ``aioaudit report``."""
    return lambda *args: run_python("-m", "aioaudit", "report", *args)


def test_it_is_written_for_its_owner_alone_and_replaced(report: Report, tmp_path: Path) -> None:
    write(tmp_path / "app.jsonl", *shop())
    done = report("app.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("6 tasks cancelled, 3 root causes; 1 swallowed it;")
    assert "aioaudit-report.html (" in done.stdout
    file = tmp_path / "aioaudit-report.html"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = file.read_bytes()
    file.write_bytes(first * 2)
    assert report(".").returncode == 0
    assert file.read_bytes() == first.replace(b"of app.jsonl", b"of .")


def test_a_log_that_is_damaged_or_lacks_events_says_so_at_the_top(
    report: Report, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", *shop()[:7], ProcessDropped(**base(7000), count=3))
    other = write(tmp_path / "b.jsonl", *shop()[7:])
    other.write_text("no event <b>\n" + other.read_text())
    done = report("a.jsonl", "b.jsonl", "-o", "-")
    assert done.returncode == 0
    lacks = "run 5575bbe88415 lost 3 events: what was asked for may be among them"
    assert lacks in done.stderr
    assert "b.jsonl:1: not a line of JSON" in done.stderr
    top = done.stdout.partition("<main>")[0]
    assert lacks in top
    assert "b.jsonl:1: not a line of JSON" in top
    assert "6 tasks cancelled" in top  # those of both files


def test_there_is_no_report_of_nothing_nor_over_a_log(report: Report, tmp_path: Path) -> None:
    start = ProcessStart(
        **base(1), schema=1, version="1", python="3.13", ppid=1, argv=[], coverage=[]
    )
    write(tmp_path / "quiet.jsonl", start)
    done = report("quiet.jsonl")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        "no task was cancelled in this log, and nothing was found (1 event of 1 run)" in done.stderr
    )
    before = write(tmp_path / "app.jsonl", *shop()).read_bytes()
    done = report("app.jsonl", "-o", "app.jsonl")
    assert done.returncode == 2
    assert "app.jsonl is one of the logs; name another file to write" in done.stderr
    assert before == (tmp_path / "app.jsonl").read_bytes()
    done = report("app.jsonl", "-o", "nowhere/report.html")
    assert done.returncode == 2
    assert "cannot write nowhere/report.html: No such file or directory" in done.stderr
    assert report("gone.jsonl").returncode == 2


def test_without_jinja2_one_line_says_what_to_install(run_python: Runner, tmp_path: Path) -> None:
    write(tmp_path / "app.jsonl", *shop())
    program = (
        "import sys; from importlib.machinery import PathFinder as finder; found = finder.find_spec\n"
        "finder.find_spec = lambda name, *more: None if name == 'jinja2' else found(name, *more)\n"
        "from aioaudit.cli import main; sys.exit(main(['report', 'app.jsonl']))"
    )
    done = run_python("-c", program)
    assert done.returncode == 2
    assert done.stderr == (
        "aioaudit: a report needs jinja2, which is not installed: pip install 'aioaudit[report]'\n"
    )
    assert not (tmp_path / "aioaudit-report.html").exists()


@pytest.mark.sources
@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_its_scripts_are_ones() -> None:
    for script in ("aioaudit/cli/report.js", "tests/report_browser.mjs"):
        subprocess.run(["node", "--check", script], check=True, cwd=ROOT)
    text = (ROOT / "aioaudit/cli/report.js").read_text()
    for word in (
        "innerHTML",
        "insertAdjacentHTML",
        "outerHTML",
        "eval(",
        "document.write",
        "<!--",
        "</",
    ):
        assert word not in text
