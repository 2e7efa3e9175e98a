"""The demonstration: what it says is true, and it notices where it is not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.waiting import PATIENCE

pytest.importorskip("aiohttp")

EXAMPLES = ROOT / "examples"
INCIDENTS = ("hang", "reset", "scaled", "left", "swallowed", "sigterm")


def environ() -> dict[str, str]:
    """An environment in which nothing is audited."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AIOAUDIT", "PYTHON"))
    }


def demo(python: str, *args: str, examples: Path = EXAMPLES) -> subprocess.CompletedProcess[str]:
    """Run the demonstration to its end."""
    return subprocess.run(
        [python, str(examples / "demo.py"), *args],
        cwd=examples.parent,
        env=environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def why(log: Path, task: str) -> dict[str, Any]:
    """The one answer that *log* has for *task*."""
    done = subprocess.run(
        [sys.executable, "-m", "aioaudit", "why", str(log), "--task", task, "--json"],
        cwd=ROOT,
        env=environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    answer: dict[str, Any] = json.loads(line)
    return answer


def line_of(text: str, script: str = "service.py") -> str:
    """``path:line`` of the one line of *script* that holds *text*."""
    path = EXAMPLES / script
    [number] = [
        number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line
    ]
    return f"{path}:{number}"


@pytest.fixture(scope="module")
def whole(audited_python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demonstration prints, and the folder of its logs."""
    logs = tmp_path_factory.mktemp("demo") / "logs"
    done = demo(audited_python, "--logs", str(logs))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout, logs


def test_the_demonstration_finds_every_root_cause(whole: tuple[str, Path]) -> None:
    text, logs = whole
    assert [int(found) for found in re.findall(r"^== (\d)\. ", text, re.MULTILINE)] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert text.count("root cause: ") == 6
    assert "WRONG" not in text
    assert "== 6 of 6 root causes found =" in text
    assert sorted(path.name for path in logs.iterdir()) == sorted(f"{n}.jsonl" for n in INCIDENTS)


def test_the_services_own_logs_name_no_cause(whole: tuple[str, Path]) -> None:
    text, _ = whole
    own = [line.strip() for line in text.splitlines() if re.match(r"    (INFO|WARNING) ", line)]
    assert own == [
        "WARNING reviews of teapot: cancelled",
        "WARNING page of teapot: 504",
        "WARNING reviews of teapot: cancelled",
        "WARNING page of teapot: 502",
        "WARNING ship 3: cancelled",
        "WARNING ship 2: cancelled",
        "WARNING reviews of teapot: cancelled",
        "WARNING invoice 3: trying again",
        "WARNING invoice 2: trying again",
        "INFO    stopping",
        "WARNING ship 1: cancelled",
        "INFO    stopped",
    ]


@pytest.mark.parametrize(
    ("incident", "task", "links"),
    [
        ("hang", "reviews of teapot", ["reviews of teapot", "page of teapot", "deadline"]),
        ("reset", "reviews of teapot", ["reviews of teapot", "failed"]),
        ("scaled", "worker-3", ["worker-3", "called"]),
        ("scaled", "worker-2", ["worker-2", "called"]),
        ("swallowed", "worker-3", ["worker-3", "called"]),
        ("sigterm", "worker-1", ["worker-1", "Task-1", "signal"]),
    ],
)
def test_the_chain_of_an_incident_leads_from_the_victim_to_the_root(
    whole: tuple[str, Path], incident: str, task: str, links: list[str]
) -> None:
    answer = why(whole[1] / f"{incident}.jsonl", task)
    found = [
        link["name"] if link["what"] == "cancelled" else link["what"] for link in answer["chain"]
    ]
    assert found == links


def test_the_roots_name_the_lines_of_the_service(whole: tuple[str, Path]) -> None:
    _, logs = whole
    timeout = why(logs / "hang.jsonl", "reviews of teapot")["root"]
    assert timeout["at"] == line_of("async with asyncio.timeout(PATIENCE):")
    failed = why(logs / "reset.jsonl", "reviews of teapot")["root"]
    assert failed["at"] == line_of("async with self.session.get(")
    assert failed["error"].startswith("ClientOSError: ")
    called = why(logs / "scaled.jsonl", "worker-3")["root"]
    assert (called["at"], called["by_name"]) == (line_of("worker.cancel()"), "supervisor")
    assert why(logs / "sigterm.jsonl", "worker-1")["root"]["at"] == line_of("me.cancel()")


def test_a_client_that_left_cancels_by_way_of_the_librarys_own_tasks(
    whole: tuple[str, Path],
) -> None:
    answer = why(whole[1] / "left.jsonl", "reviews of teapot")
    assert [link["what"] for link in answer["chain"]] == ["cancelled"] * 3 + ["called"]
    assert [link.get("name") for link in answer["chain"][:2]] == [
        "reviews of teapot",
        "page of teapot",
    ]


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="without sys.monitoring nobody sees the line"
)
def test_the_line_that_swallowed_the_cancellation_is_named(whole: tuple[str, Path]) -> None:
    answer = why(whole[1] / "swallowed.jsonl", "worker-3")
    assert (answer["outcome"], answer["cancel_outcome"]) == ("returned", "swallowed")
    swallowed_at = line_of("except (aiohttp.ClientError, asyncio.CancelledError)")
    assert f"it swallowed the cancellation at {swallowed_at}" in answer["summary"]


def test_the_demonstration_fails_if_a_root_is_not_the_staged_one(
    audited_python: str, tmp_path: Path
) -> None:
    """A service with another fault than the one that was staged is found out."""
    copy = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    service = copy / "service.py"
    before = service.read_text()
    after = before.replace("PATIENCE = 0.8", "PATIENCE = 0.3")
    assert after != before
    service.write_text(after)
    done = demo(audited_python, "hang", examples=copy)
    assert (done.returncode, done.stderr) == (1, "")
    assert "WRONG: seconds is 0.3, staged was 0.8" in done.stdout
    assert "== 0 of 1 root causes found =" in done.stdout


def test_the_demonstration_leaves_nothing_behind(
    audited_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = {path.name for path in ROOT.iterdir()}
    done = demo(audited_python, "sigterm")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert {path.name for path in ROOT.iterdir()} == before


def test_without_the_start_up_file_the_demonstration_says_so(
    bare_environment: Any, tmp_path: Path
) -> None:
    python = bare_environment(tmp_path / "bare")
    done = demo(str(python), "sigterm")
    assert done.returncode == 1
    assert "demo: AIOAUDIT=jsonl wrote no log: aioaudit's start-up file" in done.stderr


def test_an_unknown_incident_is_refused_with_those_there_are(audited_python: str) -> None:
    done = demo(audited_python, "flood")
    assert done.returncode == 2
    assert f"no incident 'flood'; there are {', '.join(INCIDENTS)}" in done.stderr
