"""``aioaudit why`` as users call it: real processes, real files, the whole output."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import aioaudit.log
from aioaudit.cli.commands import COMMANDS
from aioaudit.events import (
    Event,
    Finding,
    FutureCancel,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from tests.waiting import PATIENCE

CLI = [sys.executable, "-m", "aioaudit"]


def base(seq: int, run: str = "r1", micros: int = 0) -> dict[str, Any]:
    return {
        "ts": f"2026-11-22T14:02:11.{873000 + micros:06d}Z",
        "run": run,
        "pid": {"r2": 4212}.get(run, 4211),
        "thread": "MainThread",
        "seq": seq,
    }


def environment(**more: str) -> dict[str, str]:
    unwanted = ("AIOAUDIT", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    root = str(Path(aioaudit.log.__file__).parents[2])
    return {**kept, "PYTHONPATH": root, "TERM": "xterm-256color", "PYTHONUTF8": "1", **more}


def why(cwd: Path, *args: str, stdin: bytes = b"", **env: Any) -> tuple[int, str, str]:
    result = subprocess.run(
        [*CLI, "why", *args],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=environment(**env),
        timeout=PATIENCE,
        check=False,
    )
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def write(file: Path, *events: Event) -> Path:
    file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    return file


def incident(cwd: Path, run: str = "r1", first: int = 1) -> list[Event]:
    """A timeout in ``handle`` that takes a gather and three children with it."""
    app = f"{cwd}/app"
    handle: dict[str, Any] = {"task": first, "name": "req-91", "coro": "app.api:handle"}
    events: list[Event] = [
        TaskCancel(
            **base(1, run),
            **handle,
            accepted=True,
            reason="timeout",
            at=f"{app}/api.py:41",
            source="app.api:handle",
            suspended_at=f"{app}/api.py:43",
            origin="deadline",
            origin_at=f"{app}/api.py:41",
            origin_source="app.api:handle",
            origin_seconds=2.0,
        ),
        FutureCancel(
            **base(2, run, 200),
            waiters=[first],
            waiter_names=["req-91"],
            reason="gather",
            cause=1,
        ),
    ]
    for index, name in enumerate(["prices", "stock", "fx"]):
        child: dict[str, Any] = {
            "task": first + 1 + index,
            "name": f"Task-{first + 1 + index}",
            "coro": f"app.shop:Shop.fetch_{name}",
        }
        seq = 3 + index
        events.append(
            TaskCancel(
                **base(seq, run, 300),
                **child,
                accepted=True,
                reason="gather",
                by=first,
                by_name="req-91",
                cause=2,
                evidence="inferred",
                suspended_at="/usr/lib/shop.py:88",
                message="enough\nof [bold]this[/]",
            )
        )
        events.append(
            TaskDone(
                **base(10 + index, run, 1400),
                **child,
                outcome="cancelled",
                cancel=seq,
                cancel_outcome="obeyed",
                lifetime=1.99,
            )
        )
    events.append(
        TaskDone(
            **base(20, run, 2000),
            **handle,
            outcome="raised",
            error="TimeoutError",
            error_at=f"{app}/api.py:41",
            cancel=1,
            cancel_outcome="absorbed",
        )
    )
    events.append(TaskUncancel(**base(9, run, 1000), **handle, remaining=0, at=f"{app}/api.py:41"))
    return events


ANSWER = """\
Shop.fetch_prices (Task-2) was cancelled, probably because the timeout of 2 s at app/api.py:41 \
ran out, by way of req-91

2026-11-22 14:02:11.873 UTC  root cause: the timeout of 2 s at app/api.py:41 ran out, \
in app.api:handle
└── +0.0 ms  handle (req-91) was cancelled, reason timeout, at app/api.py:41 in app.api:handle
    it was suspended at app/api.py:43
    └── +0.2 ms  a future was cancelled, reason gather
        awaited by req-91
        └── +0.3 ms  Shop.fetch_prices (Task-2) was cancelled, reason gather, by task req-91 \
[inferred]
            it was suspended at /usr/lib/shop.py:88
            message: enough\\nof [bold]this[/]

It obeyed and ended at 14:02:11.874 (+1.1 ms after the request), after a life of 1.990 s.
2 other tasks died of the same cause: Task-3, Task-4
task 2 of run r1, pid 4211
"""


@pytest.mark.parametrize("asked", ["Task-2", "2", "r1:2"])
def test_one_task_is_answered_in_a_sentence_and_then_a_tree(tmp_path: Path, asked: str) -> None:
    write(tmp_path / "app.jsonl", *incident(tmp_path))
    assert why(tmp_path, "app.jsonl", "--task", asked) == (0, ANSWER, "")


def test_what_became_of_a_request_that_was_absorbed_is_said(tmp_path: Path) -> None:
    write(tmp_path / "app.jsonl", *incident(tmp_path))
    status, text, _ = why(tmp_path, "app.jsonl", "--task", "req-91")
    assert (status, text.splitlines()[0], text.splitlines()[-3:]) == (
        0,
        "handle (req-91) was asked to cancel because the timeout of 2 s at app/api.py:41 ran out; "
        "it absorbed the cancellation with uncancel()",
        [
            "It absorbed the cancellation with uncancel() at app/api.py:41 and raised with "
            "TimeoutError at app/api.py:41 at 14:02:11.875 (+2.0 ms after the request).",
            "3 other tasks died of the same cause: Task-2, Task-3, Task-4",
            "task 1 of run r1, pid 4211",
        ],
    )


def lone(seq: int, task: int, name: str, **more: Any) -> TaskCancel:
    more = {"accepted": True, "coro": "app:work", **more}
    return TaskCancel(**base(seq, more.pop("run", "r1")), task=task, name=name, **more)


def ended(seq: int, task: int, name: str, outcome: Any, **more: Any) -> TaskDone:
    return TaskDone(
        **base(seq, micros=5000), task=task, name=name, coro="app:work", outcome=outcome, **more
    )


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (None, "Its end is not in the log."),
        (ended(2, 1, "w", "returned"), "It returned all the same."),
        (
            ended(2, 1, "w", "returned", cancel=1, cancel_outcome="swallowed", swallowed_at="/j:9"),
            "It swallowed the cancellation at /j:9 and returned at 14:02:11.878 "
            "(+5.0 ms after the request).",
        ),
        (
            ended(
                2,
                1,
                "w",
                "raised",
                cancel=1,
                cancel_outcome="replaced",
                error="E: x",
                error_at="/j:3",
            ),
            "It raised another error instead: it ended with E: x at /j:3 at 14:02:11.878 "
            "(+5.0 ms after the request).",
        ),
        (
            ended(2, 1, "w", "destroyed"),
            "It was destroyed while pending at 14:02:11.878 (+5.0 ms after the request).",
        ),
    ],
)
def test_every_way_to_take_a_cancellation_is_told(
    tmp_path: Path, end: Event | None, said: str
) -> None:
    file = write(tmp_path / "a.jsonl", lone(1, 1, "w"), *([] if end is None else [end]))
    assert why(tmp_path, str(file), "--task", "w")[1].splitlines()[-2] == said


def test_a_library_that_called_for_the_application_is_told_with_both_lines(tmp_path: Path) -> None:
    by: dict[str, Any] = {"reason": "explicit", "at": f"{tmp_path}/app.py:50", "source": "app:main"}
    by |= {
        "library": "saq.worker:Worker.process",
        "library_at": "/venv/lib/site-packages/saq/worker.py:374",
    }
    both = {f"origin_{key}": value for key, value in by.items()}
    other = by | {"library_at": "/venv/lib/site-packages/saq/worker.py:90"}
    otherwise = both | {"origin_library_at": other["library_at"]}
    file = write(
        tmp_path / "a.jsonl",
        lone(1, 1, "w", **by, origin="called", **both),
        lone(2, 2, "x", **by, cause=1),
        lone(3, 3, "y", **other, origin="called", **otherwise),
    )
    status, out, err = why(tmp_path, str(file), "--task", "x")
    assert (status, err) == (0, "")
    did = "saq.worker:Worker.process (saq/worker.py:374)"
    said = f"{did} cancelled it, called from app:main at app.py:50"
    assert f"work (x) was asked to cancel because {said}, by way of w" in out
    assert f"root cause: {said}\n" in out
    # Where it is the root's own call, it is not said twice.
    assert out.count(f"{did} called cancel()") == 1
    _, out, _ = why(tmp_path, str(file))
    assert out.startswith(
        "3 tasks cancelled, 2 root causes"
    )  # the same line, and two of the library
    _, out, _ = why(tmp_path, str(file), "--task", "x", "--json")
    for link in json.loads(out)["chain"]:
        assert (link["library"], link["library_at"]) == (by["library"], by["library_at"])


def test_only_tasks_of_the_same_incident_count_as_siblings(tmp_path: Path) -> None:
    """The same line times out, or calls, or is missing, again and again."""
    deadline: dict[str, Any] = {"origin": "deadline", "origin_at": "/a:1"}
    call: dict[str, Any] = {"origin": "called", "origin_at": "/a:2"}
    failure: dict[str, Any] = {"origin": "failed", "origin_task": 99, "origin_name": "bad"}
    write(
        tmp_path / "a.jsonl",
        lone(1, 1, "d1", **deadline),
        lone(2, 2, "d2", **deadline),
        lone(3, 3, "d1-child", cause=1),
        lone(4, 4, "c1", by=50, **call),
        lone(5, 5, "c1-too", by=50, **call),
        lone(6, 6, "c2", by=51, **call),
        lone(7, 7, "f1", **failure),
        lone(8, 8, "f1-too", **failure),
        lone(8, 8, "f-elsewhere", run="r2", **failure),
        lone(9, 9, "u1"),
        lone(10, 10, "u2"),
    )

    def siblings(task: str) -> str:
        lines = why(tmp_path, "a.jsonl", "--task", task)[1].splitlines()
        return lines[-2].partition("cause: ")[2]

    assert [siblings(task) for task in ("d1", "d2", "c1", "c2", "f1", "u1")] == [
        "d1-child",
        "",
        "c1-too",
        "",
        "f1-too",
        "",
    ]


def test_a_timeout_that_code_kept_from_ending_its_block_was_swallowed(tmp_path: Path) -> None:
    """So the finding says, and the answer says the same."""
    found = Finding(
        **base(3),
        task=1,
        name="w",
        coro="app:poll",
        kind="swallowed",
        severity="finding",
        cancel=1,
        reason="timeout",
        swallowed_at="/r:7",
    )
    end = ended(4, 1, "w", "returned", cancel=1, cancel_outcome="absorbed")
    write(tmp_path / "a.jsonl", *handled(1, 1, "w"), found, end)
    text = why(tmp_path, "a.jsonl", "--task", "w")[1].splitlines()
    assert text[0].endswith("; it swallowed the cancellation at /r:7")
    assert text[-3].startswith(
        "It swallowed the cancellation, which was then taken back with uncancel() at /p:1; "
        "it returned at "
    )
    assert text[-2].startswith("Finding: poll (w) swallowed the timeout's cancellation at /r:7")
    told = json.loads(why(tmp_path, "a.jsonl", "--json")[1])
    assert told["summary"].endswith("; it swallowed the cancellation at /r:7")
    assert told["cancel_outcome"] == "absorbed"
    assert why(tmp_path, "a.jsonl")[1].startswith("1 task cancelled, 1 root cause; 1 swallowed it")


def test_the_run_that_a_process_came_from_is_told(tmp_path: Path) -> None:
    def start(run: str, micros: int, **more: Any) -> ProcessStart:
        shape: dict[str, Any] = {
            "schema": 1,
            "version": "9",
            "python": "3",
            "ppid": 1,
            "argv": [],
            "coverage": [],
        }
        return ProcessStart(**base(1, run, micros), **shape, **more)

    write(
        tmp_path / "a.jsonl",
        start("r0", 1, process="b-1-4211-5"),
        start("r1", 2, process="b-1-9-9", ancestors=["b-1-4211-5"]),
        start("r2", 3, parent_run="r0"),
        lone(7, 1, "started"),
        lone(7, 1, "forked", run="r2"),
    )
    last = {
        name: why(tmp_path, "a.jsonl", "--task", name)[1].splitlines()[-1]
        for name in ("started", "forked")
    }
    assert last == {
        "started": "task 1 of run r1, pid 4211, probably started by run r0, pid 4211",
        "forked": "task 1 of run r2, pid 4212, forked from run r0, pid 4211",
    }


def test_of_40_000_requests_to_one_task_those_that_are_alike_are_one_line(tmp_path: Path) -> None:
    """A poller with a timeout of its own, that two others cancel in the end, each more than once."""
    poll: dict[str, Any] = {"task": 1, "name": "poll", "coro": "app:poll"}
    events: list[Event] = []
    for turn in range(40_000):
        asked = TaskCancel(
            **base(2 * turn + 1, micros=turn),
            **poll,
            accepted=True,
            taken_back=True,
            reason="timeout",
            at="/a.py:3",
            origin="deadline",
            origin_at="/a.py:3",
            origin_seconds=0.5,
        )
        back = TaskUncancel(
            **base(2 * turn + 2, micros=turn), **poll, remaining=0, at="/a.py:3", cancel=asked.seq
        )
        events += [asked, back]
    for turn, by in enumerate(["one", "two", "two", "three"]):
        more: dict[str, Any] = {"behind": 90_000} if turn else {}
        told: dict[str, Any] = {"reason": "explicit", "at": "/a.py:9", "by": turn, "by_name": by}
        events.append(
            TaskCancel(**base(90_000 + turn, micros=90_000), **poll, accepted=True, **told, **more)
        )
    write(tmp_path / "a.jsonl", *events)
    text = why(tmp_path, "a.jsonl", "--task", "poll")[1]
    assert text.splitlines()[5:9] == [
        "It was asked 40,003 more times:",
        "  14:02:11.873 to 14:02:11.912  40,000 times  reason timeout, at /a.py:3:"
        " taken back with uncancel() at /a.py:3",
        "  14:02:11.963 to 14:02:11.963  3 times  reason explicit, at /a.py:9, by 2 tasks:"
        " changed nothing, an earlier one was still to be delivered",
        "task 1 of run r1, pid 4211",
    ]
    assert len(text.splitlines()) < 24
    assert len(json.loads(why(tmp_path, "a.jsonl", "--json")[1])["requests"]) == 40_004


def test_requests_of_two_lines_of_a_library_are_two_lines_that_name_it(tmp_path: Path) -> None:
    """The application's line is the same: it awaits a library, which cancels here and there."""
    asked: dict[str, Any] = {
        "task": 1,
        "name": "w",
        "coro": "app:work",
        "accepted": True,
        "reason": "explicit",
        "source": "app:main",
        "at": "/a.py:9",
        "library": "saq.worker:Worker.stop",
    }
    at = "/venv/lib/python3.13/site-packages/saq/worker.py"
    lines = [f"{at}:{number}" for number in (374, 374, 390, 374)]
    write(
        tmp_path / "a.jsonl",
        *(
            TaskCancel(**base(n, micros=n), **asked, library_at=each)
            for n, each in enumerate(lines)
        ),
        TaskCancel(**base(9, micros=9), **{**asked, "library": None}),
    )
    text = why(tmp_path, "a.jsonl", "--task", "w")[1].splitlines()
    through = "reason explicit, at /a.py:9, through saq.worker:Worker.stop (saq/worker.py:{}): {}"
    went_on = "it was delivered, and the task went on"
    first = text.index("It was asked 4 more times:")
    assert [each.partition("  ")[2].lstrip() for each in text[first + 1 : first + 3]] == [
        f"14:02:11.873 to 14:02:11.873  3 times  {through.format(374, went_on)}",
        f"14:02:11.873  {through.format(390, went_on)}",
    ]


def test_an_unknown_root_is_marked_as_unknown(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", lone(7, 1, "w", reason="awaiter", cause=3))
    assert why(tmp_path, "a.jsonl", "--task", "w")[1] == (
        "work (w) was asked to cancel, nobody knows why: the line with seq 3, which would say "
        "why, is missing; the last that is known is a request with reason awaiter; its end is "
        "not recorded\n"
        "\n"
        "2026-11-22 14:02:11.873 UTC  root cause unknown: work (w) was cancelled, reason awaiter\n"
        "the line with seq 3, which would say why, is missing\n"
        "\n"
        "Its end is not in the log.\n"
        "task 1 of run r1, pid 4211\n"
    )


def test_a_long_chain_shows_its_two_ends(tmp_path: Path) -> None:
    links = [lone(n, n, f"t{n}", reason="awaiter", cause=n - 1) for n in range(2, 40)]
    write(tmp_path / "a.jsonl", lone(1, 1, "t1", origin="shutdown"), *links)
    tree = why(tmp_path, "a.jsonl", "--task", "t39")[1].split("\n\n")[1]
    assert [
        line.strip(" └─").partition("work ")[2][:5] or line.strip(" └─")
        for line in tree.split("\n")[1:]
    ] == [
        *["(t1) ", "(t2) ", "(t3) ", "(t4) ", "(t5) ", "(t6) "],
        "27 more steps (--json has them all)",
        *["(t34)", "(t35)", "(t36)", "(t37)", "(t38)", "(t39)"],
    ]


def test_without_a_task_the_root_causes_are_listed_worst_first(tmp_path: Path) -> None:
    write(
        tmp_path / "my log.jsonl",
        *incident(tmp_path),
        lone(30, 30, "w", reason="native"),
        lone(31, 31, "w", origin="failed", origin_name="a", origin_error="E: 1", origin_at="/j:3"),
        lone(32, 32, "w", origin="failed", origin_name="b", origin_error="E: 2", origin_at="/j:3"),
        ended(33, 32, "w", "returned", cancel=32, cancel_outcome="swallowed"),
    )
    assert why(tmp_path, "my log.jsonl") == (
        0,
        "7 tasks cancelled, 3 root causes; 1 swallowed it; 1 absorbed it; 1 of unknown cause\n"
        "\n"
        "TASKS  FIRST         LAST          ASK FOR  ROOT CAUSE\n"
        "    4  14:02:11.873  14:02:11.873  req-91   the timeout of 2 s at app/api.py:41 ran out\n"
        "    2  14:02:11.873  14:02:11.873  31       a task failed with E at /j:3\n"
        "    1  14:02:11.873  14:02:11.873  30       unknown: the log does not say who asked; "
        "the last that is known is a request with reason native\n"
        "\n"
        "Ask further: python -m aioaudit why 'my log.jsonl' --task req-91\n",
        "",
    )


def handled(seq: int, task: int, name: str, **more: Any) -> list[Event]:
    """A timeout whose owner took its request back and went on: housekeeping."""
    about: dict[str, Any] = {"task": task, "name": name, "coro": "app:poll"}
    asked = TaskCancel(
        **base(seq, **more),
        **about,
        accepted=True,
        taken_back=True,
        reason="timeout",
        at="/p:1",
        suspended_at="/p:2",
        origin="deadline",
        origin_reason="timeout",
        origin_at="/p:1",
        origin_seconds=0.5,
    )
    back = TaskUncancel(**base(seq + 1, **more), **about, at="/p:1", remaining=0, cancel=seq)
    return [asked, back]


def test_housekeeping_is_one_last_line_unless_it_is_asked_for(tmp_path: Path) -> None:
    quiet = [event for n in (40, 50, 60) for event in handled(n, n, f"p{n}")]
    write(tmp_path / "a.jsonl", *quiet, *incident(tmp_path))
    incidents = [
        "4 tasks cancelled, 1 root cause; 1 absorbed it",
        "",
        "TASKS  FIRST         LAST          ASK FOR  ROOT CAUSE",
        "    4  14:02:11.873  14:02:11.873  req-91   the timeout of 2 s at app/api.py:41 ran out",
        "",
    ]
    further = ["", "Ask further: python -m aioaudit why a.jsonl --task req-91"]
    status, text, err = why(tmp_path, "a.jsonl")
    assert (status, text.splitlines(), err) == (
        0,
        [
            *incidents,
            "Housekeeping: 3 tasks (3 timeouts that their owners handled); --all shows it",
            *further,
        ],
        "",
    )
    assert why(tmp_path, "a.jsonl", "--all")[1].splitlines() == [
        *incidents,
        "Housekeeping: 3 tasks (3 timeouts that their owners handled)",
        "",
        "TASKS  FIRST         LAST          ASK FOR  ROOT CAUSE",
        "    3  14:02:11.873  14:02:11.873  p40      the timeout of 0.5 s at /p:1 ran out",
        *further,
    ]
    told = {
        each["task"]: each.get("housekeeping")
        for each in map(json.loads, why(tmp_path, "a.jsonl", "--json")[1].splitlines())
    }
    assert told == {1: None, 2: None, 3: None, 4: None, 40: True, 50: True, 60: True}
    [alone] = why(tmp_path, "a.jsonl", "--json", "--task", "p40")[1].splitlines()
    assert json.loads(alone)["housekeeping"] is True


def test_where_there_was_only_housekeeping_nothing_happened(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *handled(1, 1, "poll"))
    assert why(tmp_path, "a.jsonl") == (
        0,
        "Nothing happened: no task was cancelled but for housekeeping\n"
        "\n"
        "Housekeeping: 1 task (1 timeout that its owner handled); --all shows it\n"
        "\n"
        "Ask further: python -m aioaudit why a.jsonl --task poll\n",
        "",
    )


def test_on_a_screen_of_80_columns_each_root_cause_stands_below_its_row(tmp_path: Path) -> None:
    long = "request of /orders/1234567890/positions/1234567890"
    asked = {
        "reason": "explicit",
        "origin": "called",
        "origin_source": "app.orders:Orders.close",
        "origin_at": "/j:3",
    }
    write(
        tmp_path / "a.jsonl",
        lone(31, 1, long, **asked),
        lone(32, 2, "short", **{**asked, "origin_source": f"app.{'x' * 60}:close"}),
        *incident(tmp_path, first=3),
    )
    environ: dict[str, Any] = {"columns": "80", "NO_COLOR": "1"}
    text = on_a_terminal(tmp_path, "a.jsonl", **environ)[0]
    lines = text.replace("\r", "").splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[2:9] == [
        "TASKS  FIRST         LAST          ASK FOR",
        "    4  14:02:11.873  14:02:11.873  req-91",
        "    the timeout of 2 s at app/api.py:41 ran out",
        "    1  14:02:11.873  14:02:11.873  1",
        "    app.orders:Orders.close called cancel() at /j:3",
        "    1  14:02:11.873  14:02:11.873  short",
        f"    app.{'x' * 60}:close",
    ]
    text = on_a_terminal(tmp_path, "a.jsonl", "--task", "Task-4", **environ)[0]
    assert "ROOT CAUSE" not in text


def test_hostile_messages_are_harmless_and_cut_on_a_screen_of_80_columns(tmp_path: Path) -> None:
    """A log may come from anybody: what is in it is no shorter than its writer likes."""
    messages = [
        "\x1b[2J\x07",
        "one\ntwo\r\u2028three",
        "x" * 10_000,
        "a b " * 3_000,
        "\\ud800 \u202e",
    ]
    events = [
        lone(
            at,
            at,
            f"t{at}",
            reason="explicit",
            origin="called",
            origin_source=f"app:stop{at}",
            origin_at=f"/j:{at}",
            message=message,
            origin_message=message,
        )
        for at, message in enumerate(messages, 1)
    ]
    write(tmp_path / "a.jsonl", *events)
    environ: dict[str, Any] = {"columns": "80", "NO_COLOR": "1"}
    for args in ((), ("--task", "t3")):
        text, _ = on_a_terminal(tmp_path, "a.jsonl", *args, **environ)
        lines = text.replace("\r\n", "\n").splitlines()
        assert all(line.isprintable() and len(line) <= 80 for line in lines)
        assert sum(line.count("x") for line in lines) < 500
        assert "(message:" in text
    assert len(lines) < 20
    code, stdout, _ = why(tmp_path, "a.jsonl", "--json")
    assert code == 0
    told = [json.loads(line) for line in stdout.splitlines()]
    assert [each["root"]["message"] for each in told] == messages
    assert all(each["summary"].isprintable() and len(each["summary"]) < 2_000 for each in told)


def test_one_line_in_several_processes_is_one_row_that_says_so(tmp_path: Path) -> None:
    failed = {"origin": "failed", "origin_name": "a", "origin_at": "/j:3"}
    write(
        tmp_path / "a.jsonl",
        *incident(tmp_path, "r1"),
        lone(30, 30, "w", **failed, origin_error="E"),
    )
    write(tmp_path / "b.jsonl", *incident(tmp_path, "r2"))
    code, stdout, _ = why(tmp_path, ".")
    assert code == 0
    assert stdout.split("\n")[:6] == [
        "9 tasks cancelled in 2 runs, 2 root causes; 2 absorbed it",
        "",
        "TASKS  RUNS  FIRST         LAST          ASK FOR  ROOT CAUSE",
        "    8     2  14:02:11.873  14:02:11.873  r1:1     the timeout of 2 s at app/api.py:41 ran out",
        "    1     1  14:02:11.873  14:02:11.873  w        a failed with E at /j:3",
        "",
    ]


def test_several_matches_are_listed_and_not_guessed_at(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *incident(tmp_path, "r1"))
    write(tmp_path / "b.jsonl", *incident(tmp_path, "r2"), lone(50, 9, "Task-2", run="r2"))
    assert why(tmp_path, ".", "--task", "Task-2") == (
        0,
        "3 cancelled tasks match 'Task-2'; which one?\n"
        "\n"
        "ASK FOR  PID   TASK                        CANCELLED     BECAME     ROOT CAUSE\n"
        "r2:9     4212  work (Task-2)               14:02:11.873  pending    unknown: the log does "
        "not say who asked\n"
        "r1:2     4211  Shop.fetch_prices (Task-2)  14:02:11.873  cancelled  the timeout of 2 s at "
        "app/api.py:41 ran out\n"
        "r2:2     4212  Shop.fetch_prices (Task-2)  14:02:11.873  cancelled  the timeout of 2 s at "
        "app/api.py:41 ran out\n"
        "\n"
        "Ask further: python -m aioaudit why . --task r2:9\n",
        "",
    )


def test_json_is_what_the_contract_says_and_the_same_as_the_library_gives(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *incident(tmp_path))
    status, out, err = why(tmp_path, "a.jsonl", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert lines == [msgspec.to_builtins(answer) for answer in aioaudit.log.load(file).why()]
    at, root = f"{tmp_path}/app/api.py:41", {"what": "deadline", "seconds": 2.0}
    assert lines[0] == {
        "task": 1,
        "name": "req-91",
        "coro": "app.api:handle",
        "outcome": "raised",
        "cancel_outcome": "absorbed",
        "chain": [
            {
                "what": "cancelled",
                "task": 1,
                "name": "req-91",
                "reason": "timeout",
                "source": "app.api:handle",
                "at": at,
            },
            {**root, "source": "app.api:handle", "at": at},
        ],
        "root": {**root, "source": "app.api:handle", "at": at},
        "summary": f"handle (req-91) was asked to cancel because the timeout of 2 s at {at} ran "
        "out; it absorbed the cancellation with uncancel()",
    }


def test_json_for_one_task_gives_that_one_and_for_several_one_line_each(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *incident(tmp_path), lone(50, 9, "Task-2"))

    def asked(task: str) -> list[int]:
        return [
            json.loads(line)["task"]
            for line in why(tmp_path, "a.jsonl", "--json", "--task", task)[1].splitlines()
        ]

    assert asked("3") == [3]
    assert asked("Task-2") == [9, 2]


NASTY = 'x\x1b[31m[bold]\n\x9b\u202e"\\ü😀'


def test_nasty_names_reach_no_terminal_and_lose_nothing_in_json(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", lone(1, 1, NASTY, coro="", origin="shutdown"))
    for encoding in ("utf-8", "ascii"):
        env: dict[str, Any] = {"PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
        json_text = why(tmp_path, "a.jsonl", "--json", **env)[1]
        assert json_text.rstrip("\n").isprintable()
        assert json.loads(json_text)["name"] == NASTY
        text = why(tmp_path, "a.jsonl", "--task", "1", **env)[1]
        assert text.replace("\n", "").isprintable()
        shown = r'x\x1b[31m[bold]\n\x9b\u202e"\ü😀'
        if encoding == "ascii":
            shown = shown.encode("ascii", "backslashreplace").decode()
            assert "`-- " in text or "+-- " in text
        assert text.startswith(f"{shown} was asked to cancel because asyncio.run ended")


def test_several_files_a_folder_and_standard_input_are_read_alike(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file = write(folder / "a.jsonl", *incident(tmp_path)[:5])
    rest = write(folder / "b.jsonl", *incident(tmp_path)[5:])
    whole = file.read_bytes() + rest.read_bytes()
    outputs = {
        why(tmp_path, "--json", "logs"),
        why(tmp_path, "--json", "logs/b.jsonl", "logs/a.jsonl"),
        why(tmp_path, "--json", "-", stdin=whole),
    }
    assert len(outputs) == 1
    assert len(next(iter(outputs))[1].splitlines()) == 4


@pytest.mark.parametrize(
    ("content", "args", "status", "said"),
    [
        (b"", ["x.jsonl"], 2, "aioaudit: x.jsonl:1: the file is empty, nothing was recorded in it"),
        (b"\0\1", ["x.jsonl"], 2, "aioaudit: x.jsonl:1: binary data, not a line of JSON; skipped"),
        (
            b'{"a": 1}\n',
            ["x.jsonl"],
            2,
            "aioaudit: x.jsonl:1: JSON, but no event of aioaudit "
            "(Object missing required field `event`); skipped",
        ),
    ],
)
def test_a_log_without_any_event_cannot_be_answered_from(
    tmp_path: Path, content: bytes, args: list[str], status: int, said: str
) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    last = "aioaudit: no event of aioaudit in x.jsonl: there is nothing to answer from"
    assert why(tmp_path, *args) == (status, "", f"{said}\n{last}\n")


def test_damage_is_told_ten_times_and_then_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", lone(1, 1, "w", origin="shutdown"))
    file.write_bytes(b"oops \x1b[31m\n" * 2000 + file.read_bytes())
    status, out, err = why(tmp_path, "x.jsonl", "--json")
    told = "not a line of JSON (JSON is malformed: invalid character (byte 0)); skipped"
    assert (status, len(out.splitlines())) == (0, 1)
    assert err.splitlines() == [
        *(f"aioaudit: x.jsonl:{number}: {told}" for number in range(1, 11)),
        "aioaudit: 1,990 more damaged lines skipped",
    ]


def test_a_newer_schema_is_told_and_what_is_known_of_it_used(tmp_path: Path) -> None:
    header = ProcessStart(
        **base(1), schema=2, version="9", python="3", ppid=1, argv=[], coverage=[]
    )
    write(tmp_path / "x.jsonl", header, lone(2, 1, "w", origin="shutdown"))
    status, out, err = why(tmp_path, "x.jsonl", "--json")
    assert (status, len(out.splitlines()), err) == (
        0,
        1,
        "aioaudit: x.jsonl:1: written with schema 2, this version reads up to schema 1: what it "
        "knows is used, a newer aioaudit may know more\n",
    )


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["x.jsonl"], 1, "no task was cancelled in this log (2 events of 1 run)"),
        (
            ["x.jsonl", "--task", "calm"],
            1,
            "the task 'calm' is in this log, but nobody cancelled it",
        ),
        (
            ["x.jsonl", "--task", "nobody\x1b"],
            1,
            r"no task with the name or id 'nobody\x1b' in this log",
        ),
        (["none.jsonl"], 2, "cannot read none.jsonl: No such file or directory"),
        (["empty"], 2, "cannot read empty: no *.jsonl file in this folder"),
        ([""], 2, "cannot read '': an empty name is no file"),
    ],
)
@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_no_answer_has_its_status_and_says_why(
    tmp_path: Path, args: list[str], status: int, said: str, json_too: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    calm: dict[str, Any] = {"task": 1, "name": "calm", "coro": "app:calm"}
    write(
        tmp_path / "x.jsonl",
        TaskCreate(**base(1), **calm),
        TaskDone(**base(2), **calm, outcome="returned"),
    )
    assert why(tmp_path, *args, *json_too) == (status, "", f"aioaudit: {said}\n")


@pytest.mark.parametrize(
    ("task", "near"),
    [
        ("REQ-9", "; there is 'req-91', 'req-92', 'req-93' and 1 more"),
        ("rek-92", " (did you mean 'req-92'?)"),
        (" ", ""),
        ("zzz", ""),
    ],
)
def test_a_name_that_nothing_has_is_answered_with_those_that_are_near(
    tmp_path: Path, task: str, near: str
) -> None:
    write(tmp_path / "x.jsonl", *(lone(n, n, f"req-{90 + n}") for n in range(1, 5)))
    said = f"aioaudit: no task with the name or id {task!r} in this log{near}\n"
    assert why(tmp_path, "x.jsonl", "--task", task) == (1, "", said)


def test_standard_input_is_called_by_its_name(tmp_path: Path) -> None:
    for command in ("why", "check"):
        done = subprocess.run(
            [*CLI, command, "-"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment(),
            cwd=tmp_path,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "aioaudit: no event of aioaudit in standard input: there is nothing" in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["why"], "Error: Missing argument 'LOG...'."),
        (["why", "x", "--tusk"], "--tusk"),
        (["wherefore"], "wherefore"),
        ([], "Usage: python -m aioaudit [OPTIONS] COMMAND [ARGS]..."),
    ],
)
def test_a_bad_call_is_explained_with_status_two(
    tmp_path: Path, args: list[str], said: str
) -> None:
    result = subprocess.run(
        [*CLI, *args], cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False
    )
    assert (result.returncode, result.stdout, said in result.stderr) == (2, "", True)


def test_version_and_help_are_there(tmp_path: Path) -> None:
    def call(*args: str) -> str:
        return subprocess.run(
            [*CLI, *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment(),
            check=True,
        ).stdout

    from aioaudit.version import __version__

    assert call("--version") == f"aioaudit {__version__}\n"
    commands = call("--help").partition("Commands:\n")[2].split("\n")
    assert [line.split()[0] for line in commands if line] == list(COMMANDS)
    assert "Exit status: 0 with an answer" in call("why", "--help")


def test_a_reader_that_had_enough_is_no_error(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", *(lone(n, n, f"t{n}" + "x" * 150) for n in range(1, 3000)))
    for extra in ([], ["--json"]):
        process = subprocess.Popen(
            [*CLI, "why", "x.jsonl", *extra],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10 if extra else 1)
        process.stdout.close()
        complaint = process.stderr.read()
        process.stderr.close()
        assert (process.wait(PATIENCE), complaint) == (0, b"")


BARE = """
import runpy, sys
sys.path[:0] = {paths!r}
sys.argv = ["aioaudit", *{args!r}]
runpy.run_module("aioaudit", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("present", "args", "said"),
    [
        ([], ["why", "x.jsonl"], "this command needs click"),
        (["click"], ["why", "x.jsonl"], "text for people (--json does without) needs rich"),
        (["click"], ["why", "x.jsonl", "--json"], None),
        ([], ["--version"], None),
    ],
)
def test_without_the_extra_the_missing_package_is_named(
    tmp_path: Path, present: list[str], args: list[str], said: str | None
) -> None:
    """Without site-packages, and with links to what is to be there."""
    write(tmp_path / "x.jsonl", lone(1, 1, "w"))
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ["msgspec", *present]:
        module = __import__(name)
        (packages / name).symlink_to(Path(str(module.__file__)).parent)
    (packages / "aioaudit").symlink_to(Path(aioaudit.log.__file__).parents[1])
    script = BARE.format(paths=[str(packages)], args=args)
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    if said is None:
        assert (result.returncode, result.stderr, bool(result.stdout)) == (0, "", True)
    else:
        assert (result.returncode, result.stdout, result.stderr) == (
            2,
            "",
            f"aioaudit: {said}, which is not installed: pip install 'aioaudit[cli]'\n",
        )


def on_a_terminal(
    cwd: Path, *args: str, pause: float = 0, log: bytes = b"", columns: str = "100", **env: Any
) -> tuple[str, str]:
    """What stdout and stderr get when each is a terminal; the log comes in two pieces."""
    ends = [pty.openpty(), pty.openpty()]
    process = subprocess.Popen(
        [*CLI, "why", *args],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=ends[0][1],
        stderr=ends[1][1],
        env=environment(COLUMNS=columns, **env),
    )
    for _, theirs in ends:
        os.close(theirs)
    assert process.stdin is not None
    half = len(log) // 2
    process.stdin.write(log[:half])
    process.stdin.flush()
    time.sleep(pause)
    process.stdin.write(log[half:])
    process.stdin.close()
    read: list[str] = []
    for ours, _ in ends:
        data = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the terminal is gone with the last process that had it
                break
            if not piece:
                break
            data += piece
        os.close(ours)
        read.append(data.decode())
    assert process.wait(PATIENCE) == 0
    return read[0], read[1]


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colour_is_for_terminals_and_never_under_no_color(
    tmp_path: Path, env: dict[str, Any], coloured: bool
) -> None:
    write(tmp_path / "x.jsonl", lone(1, 1, "w", origin="shutdown"))
    out, err = on_a_terminal(tmp_path, "x.jsonl", "--task", "w", **env)
    assert ("\x1b[" in out, err) == (coloured, "")
    assert why(tmp_path, "x.jsonl", "--task", "w", FORCE_COLOR="1")[1].count("\x1b") == 0


def test_a_progress_bar_shows_on_stderr_once_reading_takes_long(tmp_path: Path) -> None:
    log = write(tmp_path / "x.jsonl", *(lone(n, n, "w" * 200) for n in range(1, 9000))).read_bytes()
    assert len(log) > 3 << 20
    slow = on_a_terminal(tmp_path, "-", "--json", "--task", "1", pause=1.3, log=log)
    fast = on_a_terminal(tmp_path, "-", "--json", "--task", "1", log=log)
    dumb = on_a_terminal(tmp_path, "-", "--json", "--task", "1", pause=1.3, log=log, TERM="dumb")
    assert ("reading" in slow[1], fast[1], dumb[1]) == (True, "", "")
    assert slow[0] == fast[0] == dumb[0]


def test_run_is_dispatched_without_importing_click_or_rich(
    tmp_path: Path,
) -> None:
    (tmp_path / "app.py").write_text(
        "import sys\nprint(sys.argv[1:], [m for m in ('click', 'rich') if m in sys.modules])\n"
    )
    result = subprocess.run(
        [*CLI, "run", "app.py", "--json", "x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "['--json', 'x'] []\n")
