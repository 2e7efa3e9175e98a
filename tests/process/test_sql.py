"""`aioaudit sql`: what engines answer is what `aioaudit why` does, row by row.

The logs are those of the scenarios, real programs, and those that other tests make up by hand, whole
and with lines missing; each is a run of its own, and all of them are asked at once.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("click")

from aioaudit.chain.links import Link
from aioaudit.chain.walk import inferred
from aioaudit.cli.why_words import by_cause, cause_in_words, kind_of
from aioaudit.events import Event, Finding, TaskCancel, TaskCreate, TaskDone, TaskFound
from aioaudit.log import Case, Log, load
from aioaudit.log.incidents import housekeeping, incident_of
from aioaudit.sql import DIALECTS, MOST_STEPS, columns, script
from tests.conftest import ROOT, clean_environ
from tests.report_logs import base
from tests.sql_engines import Engine, Row
from tests.waiting import PATIENCE

pytestmark = pytest.mark.any_python

PROGRAMS = ROOT / "tests" / "scenarios"
OF_OTHERS = ("run", "pid", "service", "coro")
"""Keys of links of other processes: no view joins those."""

LINK = tuple(name for name in Link.__struct_fields__ if name not in OF_OTHERS)

HAND_MADE = (
    "tests/unit/test_incidents.py",
    "tests/unit/test_log_why.py",
    "tests/unit/test_log_joined.py",
)
"""Tests that make up logs in which everything occurs that the rules know."""

UNCLEAR = "the log does not say which request was taken back"
"""What is told of a log that no version has written: there `aioaudit why` goes by the lines."""


def scenarios(python: str, folder: Path) -> list[Path]:
    """Logs of real programs, on both loops, some with lines about cancellations alone."""

    def run(program: Path, loop: str, events: str) -> None:
        plain = program.stem == "older"  # it turns auditing on from code
        how = [] if plain else ["-m", "aioaudit", "run"]
        log = folder / f"{program.stem}-{loop}-{len(events)}-{{pid}}.jsonl"
        environ = {"AIOAUDIT_EVENTS": events} if events else {}
        subprocess.run(
            [python, *how, program, loop],
            cwd=folder,
            env=clean_environ(AIOAUDIT_JSONL_PATH=str(log), **environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
        )

    programs = [each for each in sorted(PROGRAMS.glob("*.py")) if each.stem != "harness"]
    with ThreadPoolExecutor(2) as pool:
        for number, program in enumerate(programs):
            pool.submit(run, program, ("asyncio", "uvloop")[number % 2], "")
            if number % 3 == 0:
                pool.submit(run, program, "asyncio", "task.cancel,future.cancel")
    return sorted(folder.glob("*.jsonl"))


def made_by_hand(folder: Path) -> list[Path]:
    """Logs that other tests make up."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.kept_logs", "-p", "no:cacheprovider",
         "-p", "no:randomly", *HAND_MADE],
        cwd=ROOT,
        env=clean_environ(PYTHONPATH=str(ROOT), KEPT_LOGS=str(folder)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return sorted(folder.glob("*.jsonl"))


def told_apart(logs: Iterable[Path], out: Path, chance: random.Random | None = None) -> None:
    """*logs* as one, in which every run is one of its own; by *chance* lines are missing."""
    with out.open("w") as file:
        for number, log in enumerate(logs):
            keep = 1.0 if chance is None else chance.choice([0.6, 0.9, 0.97])
            for line in log.read_text().splitlines():
                event = json.loads(line)
                event["run"] = f"{out.stem}-{number}-{event['run']}"
                copies = 1 if chance is None else chance.choice([1] * 20 + [2])
                if chance is None or chance.random() < keep:
                    file.write(f"{json.dumps(event)}\n" * copies)


@dataclass
class Corpus:
    """Files of logs, and what they say."""

    files: list[str]
    log: Log
    cases: dict[tuple[str, int], Case]


@pytest.fixture(scope="module")
def corpus(audited_python: str, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("scenarios", "hand", "logs"):
        (folder / name).mkdir()
    real = scenarios(audited_python, folder / "scenarios")
    hand = made_by_hand(folder / "hand")
    assert real, "no scenario was recorded"
    hand.append(write(folder / "slow.jsonl", *slow()))
    told_apart(real, folder / "logs" / "real.jsonl")
    told_apart(hand, folder / "logs" / "hand.jsonl")
    told_apart([*real, *hand], folder / "logs" / "lossy.jsonl", random.Random(14))
    files = sorted(map(str, (folder / "logs").iterdir()))
    log = load(files)
    cases = {(case.run.id, case.task): case for case in log.cases()}
    for run in log.runs.values():
        run.further.clear()  # no view goes on in another process
    return Corpus(files, log, cases)


QUERIES = {
    "cancelled": "SELECT * FROM aioaudit_cancelled",
    "chain": "SELECT * FROM aioaudit_chain ORDER BY run, of_task, position",
    "incidents": "SELECT * FROM aioaudit_incidents",
    "causes": "SELECT * FROM aioaudit_root_causes",
    "findings": "SELECT * FROM aioaudit_findings",
    "slow": "SELECT * FROM aioaudit_slow_cancels",
    "runs": "SELECT * FROM aioaudit_runs",
    "requests": "SELECT * FROM aioaudit_requests",
}


@pytest.fixture(scope="module")
def told(engine: Engine, corpus: Corpus) -> dict[str, list[Row]]:
    """What the engine answers to `QUERIES`."""
    [*rows] = asked(engine, *QUERIES.values(), logs=corpus.files)
    return dict(zip(QUERIES, rows, strict=True))


def present(row: Row, names: Iterable[str], prefix: str = "") -> Row:
    """The keys of *row* that say something."""
    return {name: row[prefix + name] for name in names if row[prefix + name] is not None}


def link(link: Link) -> Row:
    """*link* as a row that says no more than it does."""
    return {name: getattr(link, name) for name in LINK if getattr(link, name) is not None}


def moment(text: str | None) -> datetime | None:
    """A time of a log, or of an engine."""
    if not text:
        return None
    whole = text.replace(" ", "T").rstrip("Z")
    return datetime.fromisoformat(whole if "." in whole else f"{whole}.000000")


def is_unclear(row: Row) -> bool:
    """Whether *row* is of one of the logs that SQL does not answer."""
    return bool(row["root_detail"] == UNCLEAR)


def test_the_same_tasks_were_cancelled(corpus: Corpus, told: dict[str, list[Row]]) -> None:
    rows = told["cancelled"]
    assert len(rows) > 1500
    assert sorted((row["run"], row["task"]) for row in rows) == sorted(corpus.cases)


def test_each_row_is_the_answer_of_why(corpus: Corpus, told: dict[str, list[Row]]) -> None:
    kinds: set[str | None] = set()
    unclear = 0
    for row in told["cancelled"]:
        case = corpus.cases[row["run"], row["task"]]
        if is_unclear(row):
            assert not row["known"]
            unclear += 1
            continue
        answer = case.answer()
        assert {key: row[key] for key in ("name", "coro", "outcome", "cancel_outcome", "pid")} == {
            "name": answer.name,
            "coro": answer.coro,
            "outcome": answer.outcome,
            "cancel_outcome": answer.cancel_outcome,
            "pid": case.run.pid,
        }, row
        assert present(row, LINK, "root_") == link(answer.root), row
        assert row["cancel"] == (None if case.request is None else case.request.seq)
        assert moment(row["ts"]) == moment(case.ts)
        assert bool(row["inferred"]) == inferred(case.steps()), row
        assert bool(row["kept"]) == (case.kept is not None)
        assert row["cause"] == cause_in_words(answer.root, str), row
        assert row["housekeeping"] == housekeeping(case), row
        kinds.add(row["housekeeping"])
    assert kinds >= {None, "timeout", "shutdown", "idle", "group", "cleanup", "starlette.done"}
    assert 0 < unclear < 10


def test_each_chain_is_that_of_why(corpus: Corpus, told: dict[str, list[Row]]) -> None:
    chains: dict[tuple[str, int], list[Row]] = {}
    for row in told["chain"]:
        chain = chains.setdefault((row["run"], row["of_task"]), [])
        assert row["position"] == len(chain) + 1
        chain.append(present(row, LINK))
    unclear = {(row["run"], row["task"]) for row in told["cancelled"] if is_unclear(row)}
    assert max(map(len, chains.values())) > 4
    for key, case in corpus.cases.items():
        if key not in unclear:
            assert chains[key] == [link(each) for each in case.answer().chain], key


def test_the_same_tasks_belong_to_the_same_incident(
    corpus: Corpus, told: dict[str, list[Row]]
) -> None:
    unclear = {(row["run"], row["task"]) for row in told["cancelled"] if is_unclear(row)}
    ours: dict[object, set[int]] = {}
    for (run, task), case in corpus.cases.items():
        if (run, task) not in unclear and housekeeping(case) is None:
            ours.setdefault((run, incident_of(case)), set()).add(task)
    rows = [
        row
        for row in told["incidents"]
        if row["root_detail"] != UNCLEAR
    ]  # fmt: skip
    assert sorted((len(tasks), min(tasks)) for tasks in ours.values()) == sorted(
        (int(row["tasks"]), row["first_task"]) for row in rows
    )


def test_root_causes_are_the_list_of_why(corpus: Corpus, told: dict[str, list[Row]]) -> None:
    unclear = {(row["run"], row["task"]) for row in told["cancelled"] if is_unclear(row)}
    listed = [
        case
        for key, case in corpus.cases.items()
        if key not in unclear and housekeeping(case) is None
    ]
    ours = {
        kind_of(row.root): (row.tasks, len(row.runs), moment(row.first.ts), moment(row.last.ts))
        for row in by_cause(listed)
    }
    keys = ("what", "reason", "source", "at", "library_at", "signal", "error")
    theirs = {
        tuple(row[key] for key in keys): (
            int(row["tasks"]),
            int(row["runs"]),
            moment(row["first_ts"]),
            moment(row["last_ts"]),
        )
        for row in told["causes"]
        if not row["cause"].endswith(UNCLEAR)
    }
    # Those of unknown cause without a line are told together, unclear ones among them.
    lone = ("cancelled", "unknown", None, None, None, None, None)
    ours.pop(lone, None)
    theirs.pop(lone, None)
    assert theirs == ours


def test_findings_are_those_of_check(corpus: Corpus, told: dict[str, list[Row]]) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(Finding) if field.name != "ts"]
    ours = {
        (run.id, each.seq): {name: getattr(each, name) for name in names}
        for run in corpus.log.runs.values()
        for each in run.findings
    }
    assert len(ours) > 50
    for row in told["findings"]:
        found = ours.pop((row["run"], row["seq"]))
        told_ = {name: row[name] for name in names}
        told_["preexisting"] = bool(told_["preexisting"])
        assert told_ == found
    assert not ours


def test_how_long_each_took_is_what_why_says(corpus: Corpus, told: dict[str, list[Row]]) -> None:
    ours = {
        key: (moment(case.end.ts), moment(case.request.ts))
        for key, case in corpus.cases.items()
        if case.end is not None and case.request is not None
    }
    slow = 0
    for row in told["slow"]:
        end, asked = ours.pop((row["run"], row["task"]))
        assert end is not None
        assert asked is not None
        assert row["seconds"] == pytest.approx((end - asked).total_seconds(), abs=1e-9)
        slow += bool(row["found"])
    assert not ours
    assert slow


def test_each_request_has_all_its_keys(corpus: Corpus, told: dict[str, list[Row]]) -> None:
    ours = {
        (run.id, seq): request
        for run in corpus.log.runs.values()
        for seq, request in run.requests.items()
    }
    keys: set[str] = set()
    for row in told["requests"]:
        request = ours.pop((row["run"], row["seq"]))
        fields = set(request.__struct_fields__) - {"ts", "thread", "loop", "preexisting"}
        assert fields <= set(row)
        for name in fields:
            told_ = [] if name == "waiter_names" and row[name] is None else row[name]
            assert told_ == getattr(request, name), (name, row)
            keys |= {name} if row[name] else set()
    assert not ours
    assert keys >= {"local", "peer", "trace_id", "span_id", "parent_span_id", "span_kind"}


def test_a_run_says_what_it_lacks(corpus: Corpus, told: dict[str, list[Row]]) -> None:
    rows = {row["run"]: row for row in told["runs"]}
    assert set(rows) >= set(corpus.log.runs)
    for name, run in corpus.log.runs.items():
        row = rows[name]
        assert (row["dropped"], bool(row["thinned"]), bool(row["faulty"])) == (
            *(run.dropped, run.thinned, bool(run.faults)),
        )
        assert bool(row["tells_uncancels"]) == run.uncancels_told
        assert bool(row["tells_findings"]) == (not run.blind)


def cancelled(seq: int, task: int, run: str = "a", **more: Any) -> TaskCancel:
    more = {"reason": "awaiter", "accepted": True, **more}
    return TaskCancel(**base(seq, run), task=task, name=f"t{task}", coro="app:work", **more)


def obeyed(seq: int, task: int, cancel: int, run: str = "a") -> TaskDone:
    return TaskDone(
        **base(seq, run),
        task=task,
        name=f"t{task}",
        coro="app:work",
        outcome="cancelled",
        cancel=cancel,
        cancel_outcome="obeyed",
    )


def slow() -> list[Event]:
    """A task that took long to end, and what was found of it."""
    found: dict[str, Any] = {"task": 1, "name": "t1", "coro": "app:work", "cancel": 1}
    found |= {"kind": "slow", "severity": "finding", "seconds": 2.5, "waits_at": "/a.py:9"}
    return [cancelled(1, 1), Finding(**base(2, "a"), **found, reason="awaiter"), obeyed(3, 1, 1)]


def asked(engine: Engine, *queries: str, logs: Iterable[Path | str]) -> list[list[Row]]:
    text = script(engine.dialect, [str(log) for log in logs])
    return engine.ask(text, queries)


def test_numbers_of_one_run_mean_nothing_in_another(engine: Engine, tmp_path: Path) -> None:
    """Two processes count alike; what one asked is no cause of anything in the other."""
    one, other = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    called = cancelled(1, 1, reason="explicit", origin="called", at="/a.py:1")
    write(one, called, cancelled(2, 2, cause=1), obeyed(3, 2, 2))
    write(other, cancelled(2, 2, "b", cause=1), obeyed(3, 2, 2, "b"))
    query = "SELECT run, task, root_what, root_at, known FROM aioaudit_cancelled ORDER BY run, task"
    [rows] = asked(engine, query, logs=[one, other])
    assert [(*list(row.values())[:4], bool(row["known"])) for row in rows] == [
        ("a", 1, "called", "/a.py:1", True),
        ("a", 2, "called", "/a.py:1", True),
        ("b", 2, "cancelled", None, False),
    ]


def test_what_another_service_did_is_for_why_alone(engine: Engine, tmp_path: Path) -> None:
    """Neither by the connection nor by the trace: a chain ends where its process does."""
    from tests.services import chain, traced

    for services in (chain(), traced()):
        logs = [write(tmp_path / f"{at}.jsonl", *each.events) for at, each in enumerate(services)]
        cases = {(case.run.id, case.task): case for case in load(logs).cases()}
        assert any(case.further() for case in cases.values())
        rows, links = asked(
            engine,
            "SELECT * FROM aioaudit_cancelled",
            "SELECT * FROM aioaudit_chain ORDER BY run, of_task, position",
            logs=logs,
        )
        assert len(rows) == len(cases)
        for row in rows:
            case = cases[row["run"], row["task"]]
            assert present(row, LINK, "root_") == link(case.own_root())
            own = [link(each) for each in case.answer().chain if each.run is None]
            of_task = [each for each in links if each["of_task"] == case.task]
            assert [present(each, LINK) for each in of_task if each["run"] == case.run.id] == own


def test_a_chain_that_is_too_long_has_no_root(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "deep.jsonl"
    deep = MOST_STEPS + 3
    first = cancelled(1, 1, reason="explicit", origin="called", at="/a.py:1")
    write(log, first, *(cancelled(seq, seq, cause=seq - 1) for seq in range(2, deep)))
    rows, links = asked(
        engine,
        "SELECT task, cause FROM aioaudit_cancelled WHERE known = false ORDER BY task",
        f"SELECT of_task, count(*) AS links FROM aioaudit_chain WHERE of_task >= {MOST_STEPS - 1}"
        " GROUP BY of_task ORDER BY of_task",
        logs=[log],
    )
    assert [row["task"] for row in rows] == list(range(MOST_STEPS + 1, deep))
    assert {row["cause"] for row in rows} == {
        f"unknown: the chain has more than {MOST_STEPS} steps"
    }
    # The last one is the call; of who has no root there is the task alone.
    lengths = [MOST_STEPS, MOST_STEPS + 1, 1, 1]
    assert [row["links"] for row in links] == lengths


def test_causes_in_a_circle_lead_nowhere(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "circle.jsonl"
    write(log, cancelled(1, 1, cause=2), cancelled(2, 2, cause=1), cancelled(3, 3, cause=3))
    [rows, chain] = asked(
        engine,
        "SELECT task, known FROM aioaudit_cancelled ORDER BY task",
        "SELECT of_task FROM aioaudit_chain",
        logs=[log],
    )
    assert [(row["task"], bool(row["known"])) for row in rows] == [(n, False) for n in (1, 2, 3)]
    assert len(chain) == 4


def write(file: Path, *events: Any) -> Path:
    file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    return file


def test_damaged_lines_are_counted_and_the_rest_is_used(engine: Engine, tmp_path: Path) -> None:
    log = write(tmp_path / "it's [1].jsonl", obeyed(2, 1, 1))
    whole = msgspec.json.encode(cancelled(1, 1, origin="called", at="/a.py:1")).decode()
    more = msgspec.json.encode(TaskFound(**base(3, "a"), task=9, name="n", coro="c")).decode()
    log.write_text(f'no JSON\n\n{whole}\n{{"other": 1}}\n{log.read_text()}{more[:40]}')
    (tmp_path / "empty.jsonl").touch()
    [rows, damaged, runs] = asked(
        engine,
        "SELECT task, root_at FROM aioaudit_cancelled",
        "SELECT file, lines FROM aioaudit_damaged",
        "SELECT run FROM aioaudit_runs",
        logs=[log, tmp_path / "empty.jsonl"],
    )
    assert runs == [{"run": "a"}]
    assert rows == [{"task": 1, "root_at": "/a.py:1"}]
    assert [(Path(row["file"]).name, row["lines"]) for row in damaged] == [(log.name, 3)]


def test_who_cleans_up_twice_and_made_what_failed_did_no_housekeeping(
    engine: Engine, tmp_path: Path
) -> None:
    """Each of the two speaks against the other: an engine that followed that would never end."""

    def made(seq: int, task: int, parent: int | None = None) -> TaskCreate:
        at = None if parent is None else "/app.py:2"
        told: dict[str, Any] = {"task": task, "name": f"t{task}", "coro": "app:work"}
        told["source"] = "app:main"
        return TaskCreate(**base(seq, "a"), **told, parent=parent, at=at)

    def ended(seq: int, task: int, error: str | None) -> TaskDone:
        told: dict[str, Any] = {"task": task, "name": f"t{task}", "coro": "app:work"}
        told |= {"outcome": "returned" if error is None else "raised", "error": error}
        return TaskDone(**base(seq, "a"), **told)

    def cleaned_up(seq: int, task: int, at: str) -> list[Event]:
        keys: dict[str, Any] = {"reason": "explicit", "origin": "called", "by": 1, "cleanup": True}
        keys |= {"source": "app:main", "at": at}
        return [cancelled(seq, task, suspended_at="/app.py:9", **keys), obeyed(seq + 1, task, seq)]

    for error, kind in ((None, "cleanup"), ("ValueError", None)):
        log = write(
            tmp_path / "twice.jsonl",
            made(1, 1),
            *(made(number, number, 1) for number in (2, 3, 4)),
            ended(5, 4, error),
            *cleaned_up(6, 2, "/app.py:5"),
            *cleaned_up(8, 3, "/app.py:6"),
            ended(10, 1, None),
        )
        assert [housekeeping(case) for case in load(log).cases()] == [kind, kind]
        [rows] = asked(engine, "SELECT housekeeping FROM aioaudit_cancelled", logs=[log])
        assert rows == [{"housekeeping": kind}] * 2


def test_shipped_lines_are_answered_from_as_they_come(engine: Engine, tmp_path: Path) -> None:
    """Tables are made anew from what is in the table of lines; a line that came twice counts once."""
    log = tmp_path / "a.jsonl"
    first = cancelled(1, 1, reason="explicit", origin="called", at="/a.py:1")
    write(log, first, first, obeyed(2, 1, 1), obeyed(2, 1, 1))
    table, begins, views = script(engine.dialect).partition("\n-- What a log")
    if engine.dialect == "clickhouse":
        insert = f"INSERT INTO aioaudit_events SELECT * FROM file('{log}', JSONEachRow)"
        insert += " SETTINGS date_time_input_format = 'best_effort';\n"
        assert views.count("MATERIALIZED VIEW") > 5
    else:
        insert = f"INSERT INTO aioaudit_events BY NAME SELECT * FROM read_json('{log}');\n"
    rows, causes = engine.ask(
        table + insert + begins + views,
        [
            "SELECT task, cause FROM aioaudit_cancelled",
            "SELECT tasks, cause FROM aioaudit_root_causes",
        ],
    )
    assert rows == [{"task": 1, "cause": "plain code called cancel() at /a.py:1"}]
    assert causes == [{"tasks": 1, "cause": "plain code called cancel() at /a.py:1"}]


@pytest.mark.parametrize("engine", ["clickhouse"], indirect=True)
def test_tables_that_are_made_anew_answer_as_those_made_once(
    engine: Engine, corpus: Corpus, told: dict[str, list[Row]]
) -> None:
    lines, head, views = script(engine.dialect).partition("\n-- What a log")
    of_files = script(engine.dialect, corpus.files)
    inserts = re.findall(r"^INSERT INTO aioaudit_events[^;]*;$", of_files, re.MULTILINE)
    assert len(inserts) == len(corpus.files)
    [*rows] = engine.ask("\n".join([lines, *inserts, head + views]), list(QUERIES.values()))

    def in_order(some: list[Row]) -> list[str]:
        return sorted(json.dumps(row, sort_keys=True) for row in some)

    for name, found in zip(QUERIES, rows, strict=True):
        assert in_order(found) == in_order(told[name]), name


def test_a_table_of_an_older_version_is_brought_up_to_date(engine: Engine) -> None:
    """Lines that it has stay there, and shippers may send the new keys."""
    lines, head, views = script(engine.dialect).partition("\n-- What a log")
    table, _, _ = lines.partition("\n-- What a table")
    older = re.sub(r'^    "(?:origin\w*|peer|waiters|faults)" .*\n', "", table, flags=re.MULTILINE)
    assert table.count("\n") > older.count("\n") + 10
    ts = {
        "clickhouse": "toDateTime64('2026-11-22 14:00:00', 6, 'UTC')",
        "duckdb": "TIMESTAMP '2026-11-22 14:00:00'",
    }[engine.dialect]

    def insert(task: int, **more: str) -> str:
        keys = "".join(f", {key}" for key in more)
        values = "".join(f", '{value}'" for value in more.values())
        return (
            f"INSERT INTO aioaudit_events (event, ts, run, seq, pid, task, name, accepted{keys})"
            f" VALUES ('task.cancel', {ts}, 'r', {task}, 7, {task}, 't', true{values});\n"
        )

    new = insert(2, origin="called", origin_at="/a.py:1")
    rows, told = engine.ask(
        f"{older}\n{insert(1)}{lines}\n{new}{head}{views}",
        [
            "SELECT task, root_at FROM aioaudit_cancelled ORDER BY task",
            "SELECT * FROM aioaudit_events",
        ],
    )
    assert rows == [{"task": 1, "root_at": None}, {"task": 2, "root_at": "/a.py:1"}]
    assert set(told[0]) >= set(columns(engine.dialect))


def test_every_key_of_an_event_is_a_column() -> None:
    for name in DIALECTS:
        told = columns(name)
        assert list(told)[:5] == ["event", "ts", "seq", "run", "pid"]
        assert {field.encode_name for field in msgspec.structs.fields(TaskCancel)} <= set(told)


def command(*args: str, cwd: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "aioaudit", "sql", *args],
        cwd=cwd,
        env=clean_environ(PYTHONPATH=os.environ.get("PYTHONPATH", "") or str(ROOT)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_folder_is_all_logs_in_it_and_what_became_of_them(tmp_path: Path) -> None:
    logs = ("a.jsonl-20261122.zst", "a.jsonl.10.gz", "a.jsonl.2.gz", "a.jsonl", "b.jsonl")
    for name in (*logs, "x.json", "b.jsonl.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "c.jsonl").mkdir()
    status, out, err = command("--dialect", "duckdb", ".", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert re.findall(r"^    '([^':]*)',?$", out, re.MULTILINE) == [*logs]
    assert not re.search(r"\{[a-z_]+\}", out)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--dialect", "duckdb", "none"], "cannot read none: No such file or directory"),
        (["--dialect", "duckdb", "."], "cannot read .: no *.jsonl file in this folder"),
        (["--dialect", "duckdb", ""], "cannot read '': an empty name is no file"),
        (
            ["--dialect", "duckdb", "-"],
            "cannot read standard input: the engine itself reads the log; name a file",
        ),
        (
            ["--dialect", "clickhouse", "4711"],
            "4711: the engine itself reads the log; aioaudit dump 4711 writes it to a file",
        ),
        (["--dialect", "duckdb", "a.xz"], "a.xz: duckdb does not read .xz; gzip and zstd it does"),
        (
            ["--dialect", "clickhouse", "{a}"],
            "{a}: clickhouse takes * ? { } for patterns; give the file another name",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, args: list[str], said: str) -> None:
    for name in ("a.xz", "{a}"):
        (tmp_path / name).touch()
    assert command(*args, cwd=tmp_path) == (2, "", f"aioaudit: {said}\n")
