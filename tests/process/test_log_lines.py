"""What `logging` and `structlog` have in common: the same lines, of the same programs."""

from __future__ import annotations

import contextvars
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aioaudit.events import (
    Event,
    FutureCancel,
    ProcessDropped,
    ProcessEnd,
    TaskCancel,
    TaskCreate,
    TaskDone,
)
from aioaudit.exporter import MOST_NOTES, Exporter, Witness
from aioaudit.exporters.lines import TAKEN_BY_LOGGING
from aioaudit.exporters.logging import LoggingExporter
from aioaudit.identity import Run
from tests.conftest import Runner

RUN = Run()
AS_KEYS = {there: key for key, there in TAKEN_BY_LOGGING.items()}

INCIDENT = """
import asyncio, contextlib

async def handle():
    await asyncio.sleep(60)

async def stubborn():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        pass

async def fail():
    raise LookupError("no such row")

async def main():
    handler = asyncio.create_task(handle(), name="handler")
    other = asyncio.create_task(stubborn(), name="other")
    left = asyncio.create_task(handle(), name="left")
    await asyncio.sleep(0)
    handler.cancel("too late")
    other.cancel()
    await asyncio.wait([handler, other])
    handler.cancel()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(handle(), name="sibling")
            group.create_task(fail(), name="failing")

asyncio.run(main())
"""

LOGGING = """
import json, logging, sys
own = {"message", *vars(logging.makeLogRecord({}))}
class Json(logging.Formatter):
    def format(self, record):
        keys = {key: value for key, value in vars(record).items() if key not in own}
        return json.dumps({"level": record.levelname.lower(), **keys})
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(Json())
logger = logging.getLogger("aioaudit")
logger.addHandler(handler)
logger.setLevel(logging.DEBUG)
"""

LOGGING_REFUSES = """
def refuse(record):
    if record.event.startswith("task."):
        raise RuntimeError("no\\nway")
    return True
logger.addFilter(refuse)
"""

STRUCTLOG = """
import structlog
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.JSONRenderer(),
    ],
)
"""

STRUCTLOG_REFUSES = """
def refuse(logger, method, keys):
    if keys["event"].startswith("task."):
        raise RuntimeError("no\\nway")
    return keys
structlog.configure(processors=[refuse, *structlog.get_config()["processors"]])
"""


def make(kind: type[Event], seq: int, **more: Any) -> Any:
    """An event of *kind* with what every one needs."""
    keys: dict[str, Any] = {
        "ts": "2026-01-01T00:00:00.250000Z",
        "seq": seq,
        "run": RUN.id,
        "pid": RUN.pid,
        "thread": "MainThread",
    }
    if kind in (TaskCreate, TaskCancel, TaskDone):
        keys |= {"task": 7, "name": "worker", "coro": "app:work"}
    if kind is TaskCancel:
        keys |= {"accepted": True}
    return kind(**(keys | more))


class ByLogging:
    """An exporter, and what becomes of its lines: their keys are kept, and shown to nobody."""

    name = "logging"
    configured, refuses = LOGGING, LOGGING_REFUSES

    def __init__(self) -> None:
        self.exporter: Any = LoggingExporter()
        self.lines: list[dict[str, Any]] = []
        """The keys of each line, with its level and with the id of the request that is bound."""
        self._request: contextvars.ContextVar[str | None] = contextvars.ContextVar(
            "request", default=None
        )
        self._logger = logging.getLogger("aioaudit")

    def start(self) -> None:
        self._logger.addFilter(self._keep)
        self.lowest(logging.DEBUG)

    def stop(self) -> None:
        self._logger.removeFilter(self._keep)
        self.lowest(logging.NOTSET)

    def lowest(self, level: int) -> None:
        """Have nobody read what is below *level*."""
        self._logger.setLevel(level)

    def bind(self, request: str) -> None:
        """Have all lines of this context tell the id of *request*."""
        self._request.set(request)

    def bound(self) -> str | None:
        """What is bound here."""
        return self._request.get()

    def _keep(self, record: logging.LogRecord) -> bool:
        own = {"message", *vars(logging.makeLogRecord({}))}
        keys = {AS_KEYS.get(key, key): each for key, each in vars(record).items() if key not in own}
        self.lines.append(keys | {"level": record.levelname.lower(), "request": self.bound()})
        return False


class ByStructlog:
    """The same with structlog, where ids are bound with its own functions."""

    name = "structlog"
    configured, refuses = STRUCTLOG, STRUCTLOG_REFUSES

    def __init__(self) -> None:
        self._structlog = pytest.importorskip("structlog")
        from aioaudit.exporters.structlog import StructlogExporter

        self.exporter: Any = StructlogExporter()
        self.lines: list[dict[str, Any]] = []

    def start(self) -> None:
        merge = self._structlog.contextvars.merge_contextvars
        self._structlog.configure(processors=[merge, self._keep])

    def stop(self) -> None:
        self._structlog.reset_defaults()

    def lowest(self, level: int) -> None:
        bound = self._structlog.make_filtering_bound_logger(level)
        self._structlog.configure(wrapper_class=bound)

    def bind(self, request: str) -> None:
        # A key of the event is not to be taken over by what is bound.
        self._structlog.contextvars.bind_contextvars(request=request, seq="not ours")

    def bound(self) -> str | None:
        found: str | None = self._structlog.contextvars.get_contextvars().get("request")
        return found

    def _keep(self, _logger: object, method: str, keys: dict[str, Any]) -> dict[str, Any]:
        self.lines.append({"request": None, **keys, "level": method})
        raise self._structlog.DropEvent


Way = ByLogging | ByStructlog


@pytest.fixture(params=[ByLogging, ByStructlog], ids=lambda each: each.name)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    made: Way = request.param()
    made.start()
    yield made
    made.stop()


def logged(way: Way, *events: Event) -> list[dict[str, Any]]:
    """What becomes of *events*."""
    way.exporter.export(list(events))
    return way.lines


def printed(text: str) -> list[dict[str, Any]]:
    """The lines that a program printed, their keys called as in the log."""
    return [
        {AS_KEYS.get(key, key): value for key, value in json.loads(line).items()}
        for line in text.splitlines()
    ]


def test_it_is_an_exporter_and_a_witness(way: Way) -> None:
    assert isinstance(way.exporter, Exporter)
    assert isinstance(way.exporter, Witness)


def test_each_line_has_the_keys_of_the_log_and_lines_of_a_cancellation_its_root_and_a_sentence(
    run_python: Runner, tmp_path: Path, way: Way
) -> None:
    (tmp_path / "app.py").write_text(way.configured + INCIDENT)
    done = run_python("app.py", AIOAUDIT=f"jsonl,{way.name}", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    written = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    lines = printed(done.stdout)
    ends = ("process.end",)  # each pipeline makes one of its own
    for line, event in zip(lines, written, strict=True):
        if event["event"] in ends:
            continue
        extra = {key: line[key] for key in line.keys() - event.keys()}
        assert {key: line[key] for key in event} == event
        about = event["event"] in ("task.cancel", "future.cancel") or "cancel_outcome" in event
        assert extra.pop("level") in ("debug", "info", "warning")
        found = event["event"] == "finding"
        assert ("summary" in extra, "root_what" in extra) == (about or found, about)
        assert ("chain" in extra) == (about and event["event"] == "task.done")
    answers = run_python("-m", "aioaudit", "why", "log.jsonl", "--json").stdout.splitlines()
    told = {line["task"]: line for line in lines if "chain" in line}
    assert len(answers) == len(told) == 5
    for answer in map(json.loads, answers):
        line = told[answer["task"]]
        root = {key[5:]: value for key, value in line.items() if key.startswith("root_")}
        assert (line["summary"], root) == (answer["summary"], answer["root"])
        assert len(line["chain"]) == len(answer["chain"])


def test_levels_say_what_deserves_a_look(run_python: Runner, tmp_path: Path, way: Way) -> None:
    (tmp_path / "app.py").write_text(way.configured + INCIDENT)
    done = run_python("app.py", AIOAUDIT=way.name, AIOAUDIT_EVENTS="task.*")
    names = {"handler", "other", "left", "Task-1", "sibling", "failing"}
    assert [
        (line["event"], line["name"], line["level"])
        for line in printed(done.stdout)
        if line.get("name") in names
        and (line["event"] in ("task.cancel", "task.done") or line["level"] != "debug")
    ] == [
        ("task.cancel", "handler", "info"),
        ("task.cancel", "other", "info"),
        ("task.done", "handler", "info"),
        ("task.done", "other", "warning"),  # it swallowed the cancellation
        ("task.cancel", "handler", "debug"),  # had ended already
        ("task.cancel", "Task-1", "info"),
        ("task.done", "failing", "info"),
        ("task.cancel", "sibling", "debug"),  # told at its end
        ("task.cancel", "Task-1", "debug"),  # the group wakes its owner
        ("task.done", "sibling", "info"),
        ("task.done", "Task-1", "debug"),  # the timeout was handled
        ("task.cancel", "left", "debug"),  # the program ends
        ("task.done", "left", "debug"),
    ]


def test_what_nobody_can_explain_and_what_is_lost_is_a_warning(way: Way) -> None:
    lines = logged(
        way,
        make(TaskCancel, 1, reason="unknown"),
        make(TaskDone, 2, outcome="cancelled", cancel=1, cancel_outcome="obeyed"),
        make(TaskDone, 3, outcome="cancelled", cancel_outcome="obeyed"),
        make(TaskDone, 4, outcome="destroyed"),
        make(ProcessDropped, 5, count=3, events=["task.done"]),
        make(FutureCancel, 6, waiters=[7], reason="explicit", origin="called", at="a.py:1"),
    )
    assert [(line["seq"], line["level"]) for line in lines] == [
        (1, "warning"),
        (2, "warning"),
        (3, "warning"),
        (4, "warning"),
        (5, "warning"),
        (6, "info"),
    ]


def test_events_that_frame_a_log_are_for_debugging_only(way: Way) -> None:
    lines = logged(way, RUN.start_event([]), make(ProcessEnd, 2, written=1, dropped=0))
    assert [(line["event"], line["level"]) for line in lines] == [
        ("process.start", "debug"),
        ("process.end", "debug"),
    ]


def test_lines_below_the_lowest_level_are_not_made(way: Way) -> None:
    way.lowest(logging.WARNING)
    lines = logged(
        way,
        make(TaskCreate, 1),
        make(TaskDone, 2, outcome="raised", error="ValueError"),
        make(TaskDone, 3, outcome="returned", cancel=1, cancel_outcome="swallowed"),
        make(ProcessDropped, 4, count=1, events=["task.done"]),
    )
    assert [(line["seq"], line["level"]) for line in lines] == [(3, "warning"), (4, "warning")]


def test_a_chain_whose_requests_are_no_longer_kept_says_so(way: Way) -> None:
    [line] = logged(way, make(TaskDone, 9, outcome="cancelled", cancel=3, cancel_outcome="obeyed"))
    missing = "the line with seq 3, which would say why, is missing"
    assert line["root_detail"] == missing
    assert line["summary"] == f"work (worker) was cancelled, nobody knows why: {missing}"


def test_a_line_is_logged_in_a_copy_of_the_context_in_which_its_event_happened(way: Way) -> None:
    start = RUN.start_event([])
    cancel = make(TaskCancel, 1002, by_name="killer")
    done = make(TaskDone, 1003, outcome="cancelled", cancel=1002, cancel_outcome="obeyed")

    def happen(event: Event, request: str) -> None:
        way.bind(request)
        way.exporter.witness(event)
        way.bind("changed later")

    contextvars.copy_context().run(happen, cancel, "of the canceller")
    contextvars.copy_context().run(happen, done, "of the victim")
    assert [(line["seq"], line["request"]) for line in logged(way, start, cancel, done)] == [
        (start.seq, None),
        (1002, "of the canceller"),
        (1003, "of the victim"),
    ]
    assert way.bound() is None


def test_contexts_of_events_that_were_lost_and_of_another_run_are_let_go(way: Way) -> None:
    exporter = way.exporter
    exporter.export([RUN.start_event([])])
    event = make(TaskDone, 1, outcome="raised")
    for seq in range(MOST_NOTES + 10):
        event.seq = seq
        exporter.witness(event)
    exporter.export([make(TaskDone, 2 * MOST_NOTES, outcome="raised")])
    exporter.witness(make(TaskDone, 2 * MOST_NOTES + 1, outcome="raised"))
    exporter.export([make(TaskDone, 2 * MOST_NOTES + 2, outcome="raised")])
    contexts = exporter._emitter.contexts
    assert len(contexts._waiting) <= MOST_NOTES
    exporter.witness(event)
    exporter.export([Run().start_event([])])
    assert len(contexts._waiting) == 0
    exporter.witness(event)
    exporter.shutdown()
    exporter.witness(event)
    assert (len(contexts._waiting), len(contexts._seen)) == (0, 0)


def test_lives_without_incident_are_not_looked_at_where_nobody_reads_them(way: Way) -> None:
    way.lowest(logging.INFO)
    way.exporter.export([RUN.start_event([])])
    if can_be_asked(way):
        assert way.exporter._emitter.contexts.lives is False
    way.lowest(logging.DEBUG)
    way.exporter.export([make(TaskCreate, 5000)])
    assert way.exporter._emitter.contexts.lives is True


def can_be_asked(way: Way) -> bool:
    """Whether a logger says what it leaves out: structlog's do since 25.1."""
    if isinstance(way, ByLogging):
        return True
    structlog = pytest.importorskip("structlog")
    return hasattr(structlog.get_logger().bind(), "is_enabled_for")


def test_a_filter_or_processor_that_raises_is_named_once_and_hurts_nobody(
    run_python: Runner, tmp_path: Path, way: Way
) -> None:
    (tmp_path / "app.py").write_text(way.configured + way.refuses + INCIDENT)
    done = run_python("app.py", AIOAUDIT=f"jsonl,{way.name}", AIOAUDIT_JSONL_PATH="log.jsonl")
    written = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    refused = sum(event["event"].startswith("task.") for event in written)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"aioaudit: exporter '{way.name}': task.create could not be logged: RuntimeError: no way;"
        " further ones are counted",
        f"aioaudit: exporter '{way.name}': {refused} events could not be logged",
    ]
    assert [line["event"] for line in printed(done.stdout)] == [
        event["event"] for event in written if not event["event"].startswith("task.")
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_logs_its_own_run(run_python: Runner, tmp_path: Path, way: Way) -> None:
    program = """
import asyncio, os
asyncio.run(asyncio.sleep(0))
child = os.fork()
asyncio.run(asyncio.sleep(0))
if child:
    os.waitpid(child, 0)
"""
    (tmp_path / "app.py").write_text(way.configured + program)
    done = run_python("app.py", AIOAUDIT=way.name, AIOAUDIT_EVENTS="task.*")
    assert (done.returncode, done.stderr) == (0, "")
    runs: dict[str, list[str]] = {}
    for line in printed(done.stdout):
        runs.setdefault(line["run"], []).append(line["event"])
    assert sorted(len(events) for events in runs.values()) == [8, 14]
    assert {(events[0], events[-1]) for events in runs.values()} == {
        ("process.start", "process.end")
    }
