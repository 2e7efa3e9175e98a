"""Reading logs: what is good is used, what is bad is named with its file and line."""

from __future__ import annotations

import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from aioaudit.chain.links import Link
from aioaudit.events import (
    SCHEMA,
    AnyEvent,
    Event,
    FutureCancel,
    ProcessEnd,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    json_schema,
)
from aioaudit.log import Log, Problem, load
from aioaudit.log.portions import LONGEST
from tests.conftest import ROOT

BASE: dict[str, Any] = {
    "ts": "2026-11-22T14:02:11.873000Z",
    "run": "r1",
    "pid": 1,
    "thread": "MainThread",
}
T1: dict[str, Any] = {"task": 1, "name": "T1", "coro": "app:t1"}
CANCEL = TaskCancel(**BASE, **T1, seq=5, accepted=True, reason="shutdown", origin="shutdown")


def line(event: Event) -> bytes:
    return msgspec.json.encode(event) + b"\n"


GOOD = line(CANCEL)


def start(schema: int = SCHEMA) -> ProcessStart:
    return ProcessStart(
        **BASE, seq=1, schema=schema, version="9", python="3", ppid=1, argv=["x"], coverage=[]
    )


def problems(log: Log, file: Path) -> list[tuple[int, str, bool]]:
    assert all(problem.file == str(file) for problem in log.problems)
    return [(problem.line, problem.what, problem.skipped) for problem in log.problems]


NEWER = (
    f"written with schema 2, this version reads up to schema {SCHEMA}: "
    "what it knows is used, a newer aioaudit may know more"
)


@pytest.mark.parametrize(
    ("bad", "what", "skipped"),
    [
        (b"\x00\x01\x02\n", "binary data, not a line of JSON", True),
        (GOOD.replace(b"T1", b"\xff"), "binary data, not a line of JSON", True),
        (
            b"\x1f\x8b\x08 zip\n",
            "compressed, not text; try: gzip -dc {file} | aioaudit why -",
            True,
        ),
        (
            b"Traceback (most recent call last):\n",
            "not a line of JSON (JSON is malformed: invalid character (byte 0))",
            True,
        ),
        (
            GOOD[:40] + GOOD,
            "not a line of JSON (JSON is malformed: expected ',' or '}' (byte 42))",
            True,
        ),
        (
            b'{"event": "user logged in", "level": "info"}\n',
            "JSON, but no event of aioaudit (Object missing required field `ts`)",
            True,
        ),
        (
            b"[1, 2]\n",
            "JSON, but no event of aioaudit (Expected `object`, got `array`)",
            True,
        ),
        (
            GOOD.replace(b',"accepted":true', b""),
            "damaged task.cancel (Object missing required field `accepted`)",
            True,
        ),
        (
            GOOD.replace(b'"name":"T1"', b'"name":5'),
            "damaged task.cancel (Expected `str`, got `int` - at `$.name`)",
            True,
        ),
        (line(start(2)), NEWER, False),
        (line(start(2)).replace(b'"argv":["x"]', b'"argv":"x"'), NEWER, False),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_used(
    tmp_path: Path, bad: bytes, what: str, skipped: bool
) -> None:
    file = tmp_path / "app.jsonl"
    file.write_bytes(line(start()) + bad + GOOD)
    log = load(file)
    assert problems(log, file) == [(2, what.replace("{file}", str(file)), skipped)]
    assert log.damaged == skipped
    assert [answer.root for answer in log.why()] == [Link(what="shutdown")]


def test_a_last_line_that_was_cut_off_is_named_as_such(tmp_path: Path) -> None:
    file = tmp_path / "app.jsonl"
    file.write_bytes(GOOD + line(start())[:30])
    log = load(file)
    assert problems(log, file) == [(2, "cut off: the last line has no end", True)]
    assert len(log.why()) == 1


def test_a_last_line_without_its_newline_is_read(tmp_path: Path) -> None:
    file = tmp_path / "app.jsonl"
    file.write_bytes(GOOD.rstrip())
    log = load(file)
    assert (log.problems, len(log.why())) == ([], 1)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "app.jsonl"
    file.touch()
    log = load(file)
    assert problems(log, file) == [(1, "the file is empty, nothing was recorded in it", False)]
    assert (log.events, log.damaged, log.why()) == (0, 0, [])


def test_events_and_keys_of_a_later_version_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "app.jsonl"
    unknown = line(start()).replace(b"process.start", b"task.pause")
    file.write_bytes(unknown + GOOD.replace(b'{"event"', b'{"mood":{"deep":[1]},"event"') + b"\n")
    log = load(file)
    assert (log.problems, log.events, len(log.why())) == ([], 2, 1)


def test_a_line_too_long_to_be_an_event_is_passed_over_without_keeping_it(tmp_path: Path) -> None:
    file = tmp_path / "app.jsonl"
    with file.open("wb") as stream:
        stream.write(GOOD + b"x" * (LONGEST + (3 << 20)) + b"\n" + b"oops\n" + GOOD)
    log = load(file)
    assert problems(log, file) == [
        (2, "a line of more than 16 MiB is no event", True),
        (3, "not a line of JSON (JSON is malformed: invalid character (byte 0))", True),
    ]
    assert log.events == 2


def test_all_damage_is_counted_and_only_the_first_of_it_kept(tmp_path: Path) -> None:
    file = tmp_path / "app.jsonl"
    file.write_bytes(b"oops\n" * 5000)
    log = load(file)
    assert (len(log.problems), log.damaged) == (100, 5000)


def test_a_problem_reads_as_file_line_and_what() -> None:
    assert str(Problem("a.jsonl", 3, "odd")) == "a.jsonl:3: odd"


def test_a_folder_gives_all_its_logs_and_several_paths_all_of_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for name in "dbeca":
        (folder / f"{name}.jsonl").write_bytes(b"oops\n")
    (folder / "f.jsonl").write_bytes(GOOD)
    (folder / "notes.txt").write_bytes(b"no log")
    other = tmp_path / "other.log"
    other.write_bytes(GOOD.replace(b"r1", b"r2"))
    log = load([folder, str(other)])
    assert [problem.file for problem in log.problems] == [
        str(folder / f"{name}.jsonl") for name in "abcde"
    ]
    assert [case.key for case in log.cases()] == ["r1:1", "r2:1"]


def test_a_folder_without_logs_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*\.jsonl file in this folder"):
        load(tmp_path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.jsonl")


def test_progress_is_told_in_bytes_of_all_files_together(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_bytes(GOOD)
    load(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(len(GOOD), 2 * len(GOOD)), (2 * len(GOOD), 2 * len(GOOD))]


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as stream:
        stream.write(GOOD)
    told: list[tuple[int, int | None]] = []
    try:
        log = load(f"/dev/fd/{read}", progress=lambda done, total: told.append((done, total)))
    finally:
        os.close(read)
    assert (len(log.why()), told) == (1, [(len(GOOD), None)])


def test_tasks_that_only_lived_and_returned_are_kept_as_names(tmp_path: Path) -> None:
    """A production log is made of them: ten thousand may cost no objects of their own."""
    file = tmp_path / "app.jsonl"
    with file.open("wb") as stream:
        for task in range(10_000):
            about: dict[str, Any] = {"task": task, "name": f"T{task}", "coro": "app:t"}
            stream.write(line(TaskCreate(**BASE, **about, seq=2 * task)))
            stream.write(line(TaskDone(**BASE, **about, seq=2 * task + 1, outcome="returned")))
    run = load(file).runs["r1"]
    assert len(run.returned) == 10_000
    assert [len(run.living), len(run.ends), len(run.requests)] == [0, 0, 0]
    assert sys.getsizeof(run.returned[1]) < 64


def tidy(schema: object) -> object:
    """Descriptions without the indentation that Python before 3.13 keeps in docstrings."""
    if isinstance(schema, str):
        return inspect.cleandoc(schema)
    if isinstance(schema, list):
        return [tidy(each) for each in cast("list[object]", schema)]
    if isinstance(schema, dict):
        return {key: tidy(value) for key, value in cast("dict[str, object]", schema).items()}
    return schema


def test_the_schema_in_the_tree_is_made_from_the_event_classes() -> None:
    file = ROOT / "docs" / "events.schema.json"
    assert json.loads(file.read_text(encoding="utf-8")) == tidy(json_schema()), (
        "run: python tools/events_schema.py"
    )


@pytest.mark.parametrize("event", [start(), CANCEL, FutureCancel(**BASE, seq=2, waiters=[1])])
def test_an_event_is_read_back_equal(event: Event) -> None:
    assert msgspec.json.decode(line(event), type=AnyEvent) == event


def begun(run: str, pid: int, at: int, **more: Any) -> ProcessStart:
    """The start of *run*, *at* microseconds after the others."""
    ts = f"2026-11-22T14:02:11.{at:06d}Z"
    more = {"ppid": 1, **more}
    return ProcessStart(
        ts=ts,
        seq=1,
        run=run,
        pid=pid,
        thread="MainThread",
        schema=SCHEMA,
        version="9",
        python="3",
        argv=["x"],
        coverage=[],
        **more,
    )


def over(run: str, pid: int, at: int) -> ProcessEnd:
    ts = f"2026-11-22T14:02:11.{at:06d}Z"
    return ProcessEnd(ts=ts, seq=9, run=run, pid=pid, thread="MainThread", written=2, dropped=0)


def parent(*events: Event) -> tuple[str, str] | None:
    """The parent of the run ``child``, and how sure that is, whatever the order of the lines."""
    found = set()
    for each in (events, events[::-1]):
        log = Log()
        for event in each:
            log.add(event)
        known = log.parent(log.runs["child"])
        found.add(None if known is None else (known.run.id, known.evidence))
    [answer] = found
    return answer


P, Q, C = "b-1-70-500", "b-1-80-600", "b-1-90-700"


def test_a_forked_child_names_the_run_that_it_was_forked_from() -> None:
    assert parent(
        begun("other", 70, 5, process=P),
        begun("boss", 70, 1, process=P),
        begun("child", 90, 9, ppid=70, process=C, ancestors=[P], parent_run="boss"),
    ) == ("boss", "observed")


def test_the_nearest_process_above_that_is_in_the_log_is_the_parent() -> None:
    child = begun("child", 90, 9, ppid=80, process=C, ancestors=[Q, P, "b-1-1-0"])
    boss = begun("boss", 70, 1, process=P)
    assert parent(boss, child) == ("boss", "inferred")
    assert parent(boss, begun("shell", 80, 2, process=Q), child) == ("shell", "inferred")


def test_a_number_that_was_used_again_makes_nobody_a_parent() -> None:
    child = begun("child", 90, 9, ppid=70, process=C, ancestors=[P])
    assert parent(begun("older", 70, 1, process="b-1-70-499"), child) is None
    assert parent(begun("elsewhere", 70, 1, process="c-2-70-500"), child) is None


def test_of_two_runs_of_one_process_the_one_under_way_is_the_parent() -> None:
    child = begun("child", 90, 9, ppid=70, process=C, ancestors=[P])
    runs = [begun(name, 70, at, process=P) for name, at in (("a", 1), ("b", 5), ("c", 12))]
    assert parent(*runs, child) == ("b", "inferred")


def test_where_processes_have_numbers_only_the_time_must_agree() -> None:
    child = begun("child", 90, 9, ppid=70)
    assert parent(begun("boss", 70, 1), child, over("boss", 70, 20)) == ("boss", "inferred")
    assert parent(begun("boss", 70, 1), child) == ("boss", "inferred")
    assert parent(begun("gone", 70, 1), over("gone", 70, 3), child) is None
    assert parent(begun("later", 70, 10), child) is None
