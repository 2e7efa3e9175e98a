"""`aioaudit check`: what people and programs are told of the findings in a log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import aioaudit
from aioaudit.events import (
    NO_FINDINGS,
    Event,
    ProcessDropped,
    ProcessStart,
)
from tests.conftest import clean_environ
from tests.logs import made
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import Runner


def check(cwd: Path, *args: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit status, stdout and stderr of ``aioaudit check``."""
    done = subprocess.run(
        [sys.executable, "-m", "aioaudit", "check", *args],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=clean_environ(PYTHONPATH=str(Path(aioaudit.__file__).parents[1]), PYTHONUTF8="1"),
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def start(coverage: list[str], run: str = "r1") -> ProcessStart:
    """The first line of a log."""
    return ProcessStart(
        ts="2026-11-22T14:02:11.000000Z",
        seq=1,
        run=run,
        pid=1,
        thread="MainThread",
        schema=1,
        version="0",
        python="cpython",
        ppid=0,
        argv=["app.py"],
        coverage=coverage,
    )


def write(file: Path, *events: Event) -> Path:
    file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    return file


KEPT: dict[str, Any] = {
    "cancel": 4,
    "reason": "explicit",
    "at": "/srv/app.py:20",
    "source": "app:stop",
    "by": 1,
    "by_name": "main",
    "suspended_at": "/srv/app.py:8",
    "swallowed_at": "/srv/app.py:9",
    "waits_at": "/srv/app.py:11",
}


def test_findings_are_told_to_people(tmp_path: Path) -> None:
    write(
        tmp_path / "log.jsonl",
        start([]),
        made("swallowed", 5, **KEPT),
        made("swallowed", 6, task=8, name="worker 2", **KEPT),
        made("already_done", 7, severity="note", outcome="returned", **KEPT),
        made(
            "slow",
            8,
            name="\x1b[31m",
            seconds=2.5,
            delivered_after=0.1,
            waited=2.25,
            waits_at="/srv/app.py:30",
            reason="timeout",
            at="/srv/app.py:29",
            outcome="cancelled",
        ),
    )
    assert check(tmp_path, "log.jsonl") == (
        1,
        r"""2 findings

swallowed  work (worker) swallowed a cancellation at /srv/app.py:9 and went on
    asked to cancel by app:stop at /srv/app.py:20 in task main
    it was suspended at /srv/app.py:8 then
    it waits at /srv/app.py:11 now
    2 times, from 14:02:11.000 to 14:02:11.000 UTC, tasks 7, 8
    Raise the CancelledError again after cleaning up, or call uncancel() if the task is to live on.

slow  work (\x1b[31m) took 2.500 s to obey, most of it in the cleanup at /srv/app.py:30
    asked to cancel by the timeout at /srv/app.py:29, which ran out
    delivered after 100.0 ms; 2.250 s in the cleanup at /srv/app.py:30
    at 14:02:11.000 UTC, task 7, pid 1
    Bound what the cleanup awaits with a timeout, and keep blocking calls out of the loop.
""",
        "",
    )
    status, said_with_notes, _ = check(tmp_path, "log.jsonl", "--notes", "--ignore", "slow")
    assert status == 1
    assert said_with_notes.startswith("1 finding, 1 note\n")
    assert "already_done (note)  work (worker) had returned when it was asked to cancel\n" in (
        said_with_notes
    )


def test_findings_are_told_to_programs(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", start([]), made("swallowed", 5, **KEPT))
    status, out, err = check(tmp_path, "--json", "-", stdin=log.read_bytes())
    assert (status, err) == (1, "")
    [line] = out.splitlines()
    answer = json.loads(line)
    assert set(answer) == {
        "kind",
        "severity",
        "count",
        "title",
        "summary",
        "remedy",
        "first",
        "last",
        "tasks",
        "finding",
    }
    assert (answer["kind"], answer["count"], answer["tasks"]) == ("swallowed", 1, ["r1:7"])
    assert answer["finding"] == json.loads(log.read_bytes().splitlines()[1])


def test_a_log_without_a_finding_says_nothing(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", start([]), made("already_done", 2, severity="note"))
    assert check(tmp_path, ".") == (0, "", "")
    assert check(tmp_path, ".", "--json") == (0, "", "")
    assert check(tmp_path, ".", "--notes")[0] == 0
    write(tmp_path / "log.jsonl", start([]), made("slow", 2))
    assert check(tmp_path, ".", "--ignore", "slow") == (0, "", "")


def test_what_cannot_be_checked_is_said(tmp_path: Path) -> None:
    dropped = ProcessDropped(
        ts="2026-11-22T14:02:11.000000Z", seq=9, run="r1", pid=1, thread="T", count=3
    )
    write(tmp_path / "small.jsonl", start([NO_FINDINGS]))
    assert check(tmp_path, "small.jsonl") == (
        2,
        "",
        "aioaudit: nothing can be checked: AIOAUDIT_EVENTS left out the findings of this log;"
        " add finding to it\n",
    )
    write(tmp_path / "whole.jsonl", start([], "r2"), dropped)
    assert check(tmp_path, ".") == (
        0,
        "",
        "aioaudit: run r1 lost 3 events: findings may be among them\n"
        "aioaudit: run r1 is not checked: AIOAUDIT_EVENTS left out its findings\n",
    )
    (tmp_path / "empty.jsonl").touch()
    assert check(tmp_path, "empty.jsonl")[0] == 2
    assert check(tmp_path, "nowhere.jsonl") == (
        2,
        "",
        "aioaudit: cannot read nowhere.jsonl: No such file or directory\n",
    )
    status, _, err = check(tmp_path, "whole.jsonl", "--ignore", "swalowed")
    assert status == 2
    assert "'swalowed' is no kind of finding (did you mean 'swallowed'?)" in err


def test_a_process_whose_log_is_small_says_that_it_cannot_be_checked(run_python: Runner) -> None:
    program = "import asyncio; asyncio.run(asyncio.sleep(0))"
    done = run_python("-c", program, AIOAUDIT="jsonl", AIOAUDIT_EVENTS="task.cancel")
    assert (done.returncode, done.stderr) == (0, "")
    checked = run_python("-m", "aioaudit", "check", ".")
    assert (checked.returncode, checked.stdout) == (2, "")
    assert "nothing can be checked" in checked.stderr


def test_the_threshold_is_a_setting(run_python: Runner) -> None:
    program = """
import asyncio

async def slowly():
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.2)

async def main():
    task = asyncio.create_task(slowly())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

asyncio.run(main())
"""
    for seconds, status in (("0.1", 1), ("100", 0)):
        path = f"log-{status}.jsonl"
        done = run_python(
            "-c", program, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=path, AIOAUDIT_SLOW_CANCEL=seconds
        )
        assert (done.returncode, done.stderr) == (0, "")
        checked = run_python("-m", "aioaudit", "check", path, "--json")
        kinds = [json.loads(line)["kind"] for line in checked.stdout.splitlines()]
        assert (checked.returncode, kinds) == (status, ["slow"] * status)


def test_a_coroutine_of_other_make_that_swallows_is_no_fault_of_ours(run_python: Runner) -> None:
    """As Cython's: it has none of the attributes that tell whether a coroutine is suspended."""
    program = """
import asyncio, collections.abc

class Other(collections.abc.Coroutine):
    def __init__(self, coro):
        self.send, self.throw, self.close = coro.send, coro.throw, coro.close
    def __await__(self): return self
    def send(self, value): raise NotImplementedError
    def throw(self, *error): raise NotImplementedError

async def keeps():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        pass
    await asyncio.sleep(0.01)

async def main():
    task = asyncio.create_task(Other(keeps()))
    never = asyncio.create_task(Other(keeps()))
    never.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task, never])

asyncio.run(main())
"""
    done = run_python("-c", program, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
