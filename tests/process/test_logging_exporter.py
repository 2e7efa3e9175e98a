"""What only the standard library's logging has: its records, its default, its factories.

What it has in common with `structlog` is in `test_log_lines`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from aioaudit.events import NAMES, TaskCancel, TaskCreate
from aioaudit.exporters.lines import TAKEN_BY_LOGGING
from aioaudit.exporters.logging import LoggingExporter
from tests.conftest import Runner
from tests.process.test_log_lines import RUN, make

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


def test_a_record_has_the_keys_of_the_event_and_is_of_its_time_place_and_thread(
    kept: Keeping,
) -> None:
    # Any formatter adds the message, and those of others the time in words.
    plain = {"message", "asctime", *vars(logging.makeLogRecord({}))}
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
        "root_message": "too late",
        "summary": "work (worker) was asked to cancel because app:stop called cancel()"
        " at /srv/app.py:12 (message: too late)",
    }
    assert (record.name, record.levelname, record.msg) == ("aioaudit", "INFO", "task.cancel: %s")
    assert record.getMessage() == f"task.cancel: {vars(record)['summary']}"
    assert (record.pathname, record.lineno, record.funcName) == ("/srv/app.py", 12, "app:stop")
    assert record.created == datetime.fromisoformat(event.ts).timestamp()
    assert (record.msecs, record.threadName) == (250, "io")


def test_a_logger_can_be_given(kept: Keeping) -> None:
    LoggingExporter(logging.getLogger("aioaudit.mine")).export([make(TaskCreate, 1)])
    assert [each.name for each in kept.records] == ["aioaudit.mine"]


def test_a_program_logs_who_cancelled_its_task(run_python: Runner, tmp_path: Path) -> None:
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
    because += " (message: too late)"
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [
            "INFO",
            f"task.cancel: handle (handler) was asked to cancel {because}",
            "__main__:main",
        ],
        ["INFO", f"task.done: handle (handler) was cancelled {because}", "__main__:main"],
    ]


def test_without_a_configuration_warnings_go_to_stderr(run_python: Runner, tmp_path: Path) -> None:
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
    run_python: Runner, tmp_path: Path
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
