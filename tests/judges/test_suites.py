"""anyio's own tests of its task groups and scopes, audited: none fails that passes without us.

A part of what ``tools/foreign_suites.py`` does for many libraries, small enough to run each
time.  The tests are in anyio's source distribution, which ``make test`` fetches into
``.venv/suites`` where it can, and names the folder in ``AIOAUDIT_TEST_SUITES``.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environ

pytest.importorskip("anyio")

pytestmark = [pytest.mark.suite, pytest.mark.slow, pytest.mark.timeout(900)]

FOLDER = Path(os.environ.get("AIOAUDIT_TEST_SUITES") or ROOT / ".venv" / "suites")
FILE = "tests/test_taskgroups.py"
GOOD = {"passed", "skipped", "xfailed"}
RUN_LIMIT = 400
"""Seconds for one run; alone it takes about 10."""


@dataclass
class Round:
    """One run of pytest on anyio's file."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def said(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")

    def results(self) -> dict[str, str]:
        """What became of each test."""
        file = self.folder / "results.txt"
        assert file.exists(), f"no results; the run ended so:\n{self.said[-3000:]}"
        lines = map(json.loads, file.read_text().splitlines())
        return {line["test"]: line["outcome"] for line in lines}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """anyio's tests, unpacked."""
    archives = sorted((FOLDER / "sdists" / "anyio").glob("anyio-*.tar.gz"))
    if not archives:
        pytest.skip(f"no source distribution of anyio in {FOLDER}/sdists/anyio; make test tries")
    folder = tmp_path_factory.mktemp("anyio")
    with tarfile.open(archives[-1]) as archive:
        archive.extractall(folder, filter="data")
    [top] = folder.iterdir()
    return top


def both(python: str, source: Path, folder: Path, *tests: str) -> tuple[Round, Round]:
    """A plain and an audited run of *tests*, side by side."""
    rounds: list[Round] = []
    for name in ("plain", "audited"):
        here = folder / name
        here.mkdir(parents=True)
        environ = clean_environ(
            PYTHONPATH=str(ROOT / "tools"), SUITE_RESULTS=str(here / "results.txt")
        )
        if name == "audited":
            environ |= {"AIOAUDIT": "jsonl", "AIOAUDIT_JSONL_PATH": f"{here}/log-{{pid}}.jsonl"}
        words = ["-p", "suite_results", "-p", "no:cacheprovider", "-p", "anyio", "-o", "addopts="]
        words += ["-o", "timeout=200", f"--basetemp={here}/scratch", "-q", *tests]
        with (here / "output.txt").open("w") as output:
            process = subprocess.Popen(
                [python, "-m", "pytest", *words],
                cwd=source,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        rounds.append(Round(process, here))
    try:
        for each in rounds:
            each.process.wait(RUN_LIMIT)
    finally:
        for each in rounds:
            each.process.kill()
            each.process.wait()
    return rounds[0], rounds[1]


def worse(plain: dict[str, str], audited: dict[str, str]) -> dict[str, str]:
    """The tests that are not as good with us as without."""
    return {
        test: audited.get(test, "not run")
        for test, outcome in plain.items()
        if outcome in GOOD and audited.get(test) != outcome
    }


@pytest.fixture(scope="module")
def whole(
    audited_python: str, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Round, Round]:
    return both(audited_python, source, tmp_path_factory.mktemp("whole"), FILE)


def test_no_test_of_anyio_fails_that_passes_without_us(
    audited_python: str, source: Path, whole: tuple[Round, Round], tmp_path: Path
) -> None:
    plain, audited = (each.results() for each in whole)
    counts = Counter(plain.values())
    assert counts["passed"] >= 200, whole[0].said[-3000:]
    suspects = worse(plain, audited)
    for attempt in ("again", "once more"):  # a race in a test itself is not ours
        if not suspects:
            break
        rounds = both(audited_python, source, tmp_path / attempt, *sorted(suspects))
        again = worse(rounds[0].results(), rounds[1].results())
        suspects = {test: again[test] for test in suspects if test in again}
    assert not suspects, whole[1].said[-5000:]


def test_why_and_check_read_what_it_logged(audited_python: str, whole: tuple[Round, Round]) -> None:
    assert [line for line in whole[1].said.splitlines() if "aioaudit:" in line] == []
    logs = [str(path) for path in whole[1].folder.glob("log-*.jsonl")]
    assert logs
    for command in ("why", "check"):
        done = subprocess.run(
            [audited_python, "-m", "aioaudit", command, *logs, "--json"],
            env=clean_environ(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode in {0, 1}, done.stderr) == (True, "")
        if command == "why":
            answers = [json.loads(line) for line in done.stdout.splitlines()]
            roots = Counter(answer["root"].get("reason") for answer in answers)
            assert len(answers) > 200
            # ``call_soon(task.cancel)``: who gave it to the loop is not noted.
            assert roots["unknown"] + roots["native"] <= 3, roots
            assert "was not seen" not in {each["root"].get("detail") for each in answers}
