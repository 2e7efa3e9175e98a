"""Records of the standard library's logging: constant, flat, and of the moment of the event."""

from __future__ import annotations

import contextvars
import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from aioaudit.events import NAMES, Event, ProcessDropped, TaskCancel, TaskCreate, TaskDone
from aioaudit.exporter import Exporter
from aioaudit.exporters.lines import TAKEN_BY_LOGGING
from aioaudit.exporters.logging import LoggingExporter
from aioaudit.identity import Run

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

RUN = Run()

INCIDENT = """
import asyncio

async def handle():
    await asyncio.sleep(60)

async def main():
    handler = asyncio.create_task(handle(), name="handler")
    await asyncio.sleep(0)
    handler.cancel("too late")
    await asyncio.wait([handler])

asyncio.run(main())
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


class Keeping(logging.Handler):
    """Keeps its records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Keeping]:
    logger = logging.getLogger("aioaudit")
    handler = Keeping()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.filters.clear()


def test_it_is_an_exporter() -> None:
    assert isinstance(LoggingExporter(), Exporter)


def test_a_record_has_the_keys_of_the_event_and_is_of_its_time_place_and_thread(
    kept: Keeping,
) -> None:
    plain = {"message", *vars(logging.makeLogRecord({}))}  # any formatter adds the message
    event = make(
        TaskCancel,
        1,
        thread="io",
        message="too late",
        reason="explicit",
        at="/srv/app.py:12",
        source="app:stop",
        origin="called",
    )
    LoggingExporter().export([event])
    [record] = kept.records
    assert {key: value for key, value in vars(record).items() if key not in plain} == {
        "event": "task.cancel",
        "ts": "2026-01-01T00:00:00.250000Z",
        "seq": 1,
        "run": RUN.id,
        "pid": RUN.pid,
        "event_thread": "io",
        "task": 7,
        "task_name": "worker",
        "coro": "app:work",
        "accepted": True,
        "reason": "explicit",
        "evidence": "observed",
        "at": "/srv/app.py:12",
        "source": "app:stop",
        "cancel_message": "too late",
        "origin": "called",
        "root_what": "called",
        "root_reason": "explicit",
        "root_at": "/srv/app.py:12",
        "root_source": "app:stop",
        "summary": "work (worker) was asked to cancel because app:stop called cancel()"
        " at /srv/app.py:12",
    }
    assert (record.name, record.levelname, record.msg) == ("aioaudit", "INFO", "task.cancel: %s")
    assert record.getMessage() == f"task.cancel: {vars(record)['summary']}"
    assert (record.pathname, record.lineno, record.funcName) == ("/srv/app.py", 12, "app:stop")
    assert record.created == datetime.fromisoformat(event.ts).timestamp()
    assert (record.msecs, record.threadName) == (250, "io")


def test_records_below_the_level_of_the_logger_are_not_made(kept: Keeping) -> None:
    logging.getLogger("aioaudit").setLevel(logging.WARNING)
    LoggingExporter().export(
        [
            make(TaskCreate, 1),
            make(TaskDone, 2, outcome="raised", error="ValueError"),
            make(TaskDone, 3, outcome="returned", cancel=1, cancel_outcome="swallowed"),
            make(ProcessDropped, 4, count=1, events=["task.done"]),
        ]
    )
    assert [(vars(each)["seq"], each.levelname) for each in kept.records] == [
        (3, "WARNING"),
        (4, "WARNING"),
    ]


def test_filters_see_the_context_in_which_the_event_happened(kept: Keeping) -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    exporter = LoggingExporter()
    start = RUN.start_event([])
    event = make(TaskDone, 900, outcome="raised")

    def happen() -> None:
        request.set("r-17")
        exporter.witness(event)

    contextvars.copy_context().run(happen)
    seen: list[tuple[int, str]] = []

    def look(record: logging.LogRecord) -> bool:
        seen.append((vars(record)["seq"], request.get()))
        return True

    logging.getLogger("aioaudit").addFilter(look)
    exporter.export([start, event])
    assert seen == [(start.seq, "none"), (900, "r-17")]


def test_a_filter_that_raises_is_named_once_and_hurts_nobody(
    kept: Keeping, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        if vars(record)["seq"] < 3:
            raise KeyError("request_id")
        return True

    logging.getLogger("aioaudit").addFilter(refuse)
    exporter = LoggingExporter()
    exporter.export([make(TaskCreate, 1), make(TaskCreate, 2), make(TaskCreate, 3)])
    exporter.shutdown()
    assert [vars(each)["seq"] for each in kept.records] == [3]
    assert capsys.readouterr().err.splitlines() == [
        "aioaudit: exporter 'logging': task.create could not be logged: KeyError: 'request_id';"
        " further ones are counted",
        "aioaudit: exporter 'logging': 2 events could not be logged",
    ]


def test_a_logger_can_be_given(kept: Keeping) -> None:
    LoggingExporter(logging.getLogger("aioaudit.mine")).export([make(TaskCreate, 1)])
    assert [each.name for each in kept.records] == ["aioaudit.mine"]


def test_a_program_logs_who_cancelled_its_task(run_python: RunPython, tmp_path: Path) -> None:
    configured = """
import json, logging, sys
class Json(logging.Formatter):
    def format(self, record):
        return json.dumps([record.levelname, record.getMessage(), record.__dict__.get("root_source")])
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(Json())
logging.basicConfig(handlers=[handler], level=logging.INFO)
"""
    (tmp_path / "app.py").write_text(configured + INCIDENT)
    done = run_python("app.py", AIOAUDIT="logging")
    assert (done.returncode, done.stderr) == (0, "")
    because = f"because __main__:main called cancel() at {tmp_path}/app.py:18 in task Task-1"
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [
            "INFO",
            f"task.cancel: handle (handler) was asked to cancel {because}",
            "__main__:main",
        ],
        ["INFO", f"task.done: handle (handler) was cancelled {because}", "__main__:main"],
    ]


def test_without_a_configuration_warnings_go_to_stderr(
    run_python: RunPython, tmp_path: Path
) -> None:
    swallowing = INCIDENT.replace(
        "    await asyncio.sleep(60)",
        "    try:\n        await asyncio.sleep(60)\n    except asyncio.CancelledError:\n        pass",
    )
    (tmp_path / "app.py").write_text(swallowing)
    done = run_python("app.py", AIOAUDIT="logging")
    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (0, "")
    assert line.startswith("task.done: handle (handler) was asked to cancel because __main__:main")
    assert "; it swallowed the cancellation" in line


def test_filters_and_record_factories_of_a_program_see_the_victims_and_the_cancellers_context(
    run_python: RunPython, tmp_path: Path
) -> None:
    program = """
import asyncio, contextvars, logging, sys

request_id = contextvars.ContextVar("request_id", default="-")
make = logging.getLogRecordFactory()

def factory(*args, **keywords):
    record = make(*args, **keywords)
    record.request_id = request_id.get()
    return record

logging.setLogRecordFactory(factory)
logging.basicConfig(stream=sys.stdout, format="%(request_id)s %(filtered)s %(msg)s", level="INFO")

def look(record):
    record.filtered = request_id.get()
    return True

logging.getLogger().handlers[0].addFilter(look)

async def handle(id):
    request_id.set(id)
    await asyncio.sleep(60)

async def stop(task, id):
    request_id.set(id)
    task.cancel()

async def main():
    victim = asyncio.create_task(handle("r-1"))
    await asyncio.sleep(0)
    await asyncio.create_task(stop(victim, "r-2"))
    await asyncio.wait([victim])

asyncio.run(main())
"""
    (tmp_path / "app.py").write_text(program)
    done = run_python("app.py", AIOAUDIT="logging")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["r-2 r-2 task.cancel: %s", "r-1 r-1 task.done: %s"]


def test_no_key_of_an_event_is_one_that_a_record_has_for_itself() -> None:
    own = {*vars(logging.makeLogRecord({})), "message", "asctime"}
    keys = {field for kind in NAMES for field in kind.__struct_fields__}
    assert keys & own == TAKEN_BY_LOGGING.keys()
    assert not (keys | own) & set(TAKEN_BY_LOGGING.values())
