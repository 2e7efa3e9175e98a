"""Lines through the application's own structlog, in its configuration and in the right context."""

from __future__ import annotations

import contextvars
import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

structlog = pytest.importorskip("structlog")

from aioaudit.events import (  # noqa: E402 - after the question whether structlog is there
    Event,
    FutureCancel,
    ProcessDropped,
    ProcessEnd,
    TaskCancel,
    TaskCreate,
    TaskDone,
)
from aioaudit.exporter import MOST_NOTES, Witness  # noqa: E402
from aioaudit.exporters.structlog import StructlogExporter  # noqa: E402
from aioaudit.identity import Run  # noqa: E402

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

RUN = Run()

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

CONFIGURED = """
import structlog
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.JSONRenderer(),
    ],
)
"""


def make(kind: type[Event], seq: int, **more: Any) -> Any:
    """An event of *kind* with what every one needs."""
    keys: dict[str, Any] = {
        "ts": "2026-01-01T00:00:00.000000Z",
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


def logged(*events: Event) -> list[dict[str, Any]]:
    """What becomes of *events* under a configuration that keeps the dictionaries."""
    with structlog.testing.capture_logs() as lines:
        StructlogExporter().export(list(events))
    return [dict(line) for line in lines]


@pytest.fixture(autouse=True)
def _configuration() -> Any:
    structlog.configure(processors=[structlog.contextvars.merge_contextvars])
    yield
    structlog.reset_defaults()


def test_it_is_an_exporter() -> None:
    assert isinstance(StructlogExporter(), Witness)


def test_each_line_has_the_keys_of_the_log_and_lines_of_a_cancellation_its_root_and_a_sentence(
    run_python: RunPython, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(CONFIGURED + INCIDENT)
    done = run_python("app.py", AIOAUDIT="jsonl,structlog", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    written = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
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


def test_levels_say_what_deserves_a_look(run_python: RunPython, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CONFIGURED + INCIDENT)
    done = run_python("app.py", AIOAUDIT="structlog", AIOAUDIT_EVENTS="task.*")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    names = {"handler", "other", "left", "Task-1", "sibling", "failing"}
    assert [
        (line["event"], line["name"], line["level"])
        for line in lines
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


def test_what_nobody_can_explain_and_what_is_lost_is_a_warning() -> None:
    lines = logged(
        make(TaskCancel, 1, reason="unknown"),
        make(TaskDone, 2, outcome="cancelled", cancel=1, cancel_outcome="obeyed"),
        make(TaskDone, 3, outcome="cancelled", cancel_outcome="obeyed"),
        make(TaskDone, 4, outcome="destroyed"),
        make(ProcessDropped, 5, count=3, events=["task.done"]),
        make(FutureCancel, 6, waiters=[7], reason="explicit", origin="called", at="a.py:1"),
    )
    assert [(line["seq"], line["log_level"]) for line in lines] == [
        (1, "warning"),
        (2, "warning"),
        (3, "warning"),
        (4, "warning"),
        (5, "warning"),
        (6, "info"),
    ]


def test_a_chain_whose_requests_are_no_longer_kept_says_so() -> None:
    [line] = logged(make(TaskDone, 9, outcome="cancelled", cancel=3, cancel_outcome="obeyed"))
    missing = "the line with seq 3, which would say why, is missing"
    assert line["root_detail"] == missing
    assert line["summary"] == f"work (worker) was cancelled, nobody knows why: {missing}"


def test_without_a_configuration_lines_go_to_stderr_and_nothing_is_configured(
    run_python: RunPython, tmp_path: Path
) -> None:
    check = "import structlog; print(structlog.is_configured())"
    (tmp_path / "app.py").write_text(INCIDENT + check)
    done = run_python("app.py", AIOAUDIT="structlog")
    assert (done.returncode, done.stdout) == (0, "False\n")
    assert "handle (handler) was cancelled because __main__:main called cancel()" in done.stderr
    assert "\x1b" not in done.stderr
    assert "task.create" not in done.stderr


def test_what_is_configured_later_counts_from_then_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    structlog.reset_defaults()
    exporter = StructlogExporter()
    exporter.export([make(TaskCancel, 1)])
    out = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    exporter.export([make(TaskCancel, 2)])
    later = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(later))
    exporter.export([make(TaskCancel, 3)])
    seen = [json.loads(each.getvalue())["seq"] for each in (out, later)]
    captured = capsys.readouterr()
    assert (captured.out, "seq=1" in captured.err, seen) == ("", True, [2, 3])


def test_a_line_is_logged_in_a_copy_of_the_context_in_which_its_event_happened() -> None:
    exporter = StructlogExporter()
    start = RUN.start_event([])
    cancel = make(TaskCancel, 1002, by_name="killer")
    done = make(TaskDone, 1003, outcome="cancelled", cancel=1002, cancel_outcome="obeyed")

    def happen(event: Event, request: str) -> None:
        structlog.contextvars.bind_contextvars(request_id=request, seq="not ours")
        exporter.witness(event)
        structlog.contextvars.bind_contextvars(request_id="changed later")

    contextvars.copy_context().run(happen, cancel, "of the canceller")
    contextvars.copy_context().run(happen, done, "of the victim")
    lines: list[dict[str, Any]] = []

    def keep(_logger: object, _method: str, keys: dict[str, Any]) -> dict[str, Any]:
        lines.append(dict(keys))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    exporter.export([start, cancel, done])
    assert [(line["seq"], line.get("request_id")) for line in lines] == [
        (start.seq, None),
        (1002, "of the canceller"),
        (1003, "of the victim"),
    ]
    assert structlog.contextvars.get_contextvars() == {}


def test_contexts_of_events_that_were_lost_and_of_another_run_are_let_go() -> None:
    exporter = StructlogExporter()
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


def test_lives_without_incident_are_not_looked_at_where_nobody_reads_them() -> None:
    exporter = StructlogExporter()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))
    exporter.export([RUN.start_event([])])
    if hasattr(structlog.get_logger().bind(), "is_enabled_for"):  # since 25.1
        assert exporter._emitter.contexts.lives is False
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    exporter.export([make(TaskCreate, 5000)])
    assert exporter._emitter.contexts.lives is True


def test_a_processor_that_raises_is_named_once_and_hurts_nobody(
    run_python: RunPython, tmp_path: Path
) -> None:
    broken = """
import structlog
def refuse(logger, method, keys):
    if keys["event"].startswith("task."):
        raise RuntimeError("no\\nway")
    return keys
structlog.configure(processors=[refuse, structlog.processors.JSONRenderer()])
"""
    (tmp_path / "app.py").write_text(broken + INCIDENT)
    done = run_python("app.py", AIOAUDIT="jsonl,structlog", AIOAUDIT_JSONL_PATH="log.jsonl")
    written = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    refused = sum(event["event"].startswith("task.") for event in written)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "aioaudit: exporter 'structlog': task.create could not be logged: RuntimeError: no way;"
        " further ones are counted",
        f"aioaudit: exporter 'structlog': {refused} events could not be logged",
    ]
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == [
        event["event"] for event in written if not event["event"].startswith("task.")
    ]


LOGGING = """
import logging, structlog, sys
class Json(logging.Formatter):
    def format(self, record):
        return f"{record.levelname} {record.name} {record.getMessage()} {record.__dict__.get('task_name')}"
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(Json())
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel(logging.INFO)
structlog.configure(
    processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BOUND,
)
"""


@pytest.mark.parametrize("bound", ["BoundLogger", "AsyncBoundLogger"])
def test_configurations_that_end_in_logging_work_also_those_for_await(
    run_python: RunPython, tmp_path: Path, bound: str
) -> None:
    (tmp_path / "app.py").write_text(LOGGING.replace("BOUND", bound) + INCIDENT)
    done = run_python("-W", "error", "app.py", AIOAUDIT="structlog")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "INFO aioaudit task.cancel handler",
        "INFO aioaudit task.cancel other",
        "INFO aioaudit task.done handler",
        "WARNING aioaudit task.done other",
        "INFO aioaudit task.cancel Task-1",
        "INFO aioaudit task.done failing",
        "INFO aioaudit task.done sibling",
    ]


def test_a_logger_can_be_given() -> None:
    lines: list[dict[str, Any]] = []

    def keep(_logger: object, method: str, keys: dict[str, Any]) -> str:
        lines.append(keys | {"method": method})
        return ""

    logger = structlog.wrap_logger(structlog.ReturnLogger(), processors=[keep], mine=1)
    StructlogExporter(logger).export([make(TaskCreate, 1)])
    assert [(line["event"], line["method"], line["mine"]) for line in lines] == [
        ("task.create", "debug", 1)
    ]


def test_it_may_be_structlog_itself_that_imports_asyncio_first(run_python: RunPython) -> None:
    program = (
        "import sys, structlog; loaded = 'asyncio' in sys.modules; import asyncio;"
        "asyncio.run(asyncio.sleep(0)); print(loaded)"
    )
    done = run_python("-c", program, AIOAUDIT="structlog")
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_where_structlog_is_missing_one_line_says_how_to_get_it(run_python: RunPython) -> None:
    program = "import sys; sys.modules['structlog'] = None; import asyncio; print('runs')"
    done = run_python("-c", program, AIOAUDIT="structlog")
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert done.stderr == (
        "aioaudit: exporter 'structlog' cannot be loaded: StructlogExporter needs the package"
        " structlog: pip install 'aioaudit[structlog]'; the program runs on, unaudited by it\n"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_logs_its_own_run(run_python: RunPython, tmp_path: Path) -> None:
    program = """
import asyncio, os
asyncio.run(asyncio.sleep(0))
child = os.fork()
asyncio.run(asyncio.sleep(0))
if child:
    os.waitpid(child, 0)
"""
    (tmp_path / "app.py").write_text(CONFIGURED + program)
    done = run_python("app.py", AIOAUDIT="structlog", AIOAUDIT_EVENTS="task.*")
    assert (done.returncode, done.stderr) == (0, "")
    runs: dict[str, list[str]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        runs.setdefault(line["run"], []).append(line["event"])
    assert sorted(len(events) for events in runs.values()) == [8, 14]
    assert {(events[0], events[-1]) for events in runs.values()} == {
        ("process.start", "process.end")
    }


def test_events_that_frame_a_log_are_for_debugging_only() -> None:
    lines = logged(RUN.start_event([]), make(ProcessEnd, 2, written=1, dropped=0))
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("process.start", "debug"),
        ("process.end", "debug"),
    ]


SERVICE = """
import asyncio, json, sys
import structlog
from aiohttp import web

structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.JSONRenderer(),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(20),
)
jobs = {}

async def query():
    await asyncio.sleep(60)

@web.middleware
async def bind(request, handler):
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request.headers["X-Request-Id"])
    return await handler(request)

async def slow(request):
    jobs[request.query["job"]] = job = asyncio.create_task(query(), name="query")
    try:
        await job
    except asyncio.CancelledError:
        if asyncio.current_task().cancelling():
            raise
        return web.Response(status=503)

async def stop(request):
    jobs[request.query["job"]].cancel("by the operator")
    return web.Response(status=204)

async def ask(port, path, id):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\nX-Request-Id: {id}\\r\\n\\r\\n".encode())
    await writer.drain()
    return reader, writer

async def answered(reader, writer):
    status = (await reader.readline()).split()[1].decode()
    writer.close()
    return status

async def main():
    app = web.Application(middlewares=[bind])
    app.add_routes([web.get("/slow", slow), web.get("/stop", stop)])
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    first = await ask(port, "/slow?job=1", "r-first")
    second = await ask(port, "/slow?job=2", "r-second")
    while len(jobs) < 2:
        await asyncio.sleep(0.01)
    assert await answered(*await ask(port, "/stop?job=2", "r-operator")) == "204"
    assert await answered(*second) == "503"
    first[1].close()
    while not jobs["1"].done():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    await runner.cleanup()

asyncio.run(main())
"""


def line_of(source: str, code: str) -> int:
    """The number of the only line of *source* that holds *code*."""
    [found] = [number for number, line in enumerate(source.splitlines(), 1) if code in line]
    return found


def test_one_line_of_a_service_says_who_cancelled_the_request_whose_id_it_bound(
    run_python: RunPython, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "app.py").write_text(SERVICE)
    done = run_python("app.py", AIOAUDIT="structlog")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ends = [line for line in lines if line["event"] == "task.done" and line["name"] == "query"]
    stopped, left = sorted(ends, key=lambda line: str(line["request_id"]), reverse=True)
    called = line_of(SERVICE, 'jobs[request.query["job"]].cancel(')
    assert {
        "request_id": "r-second",
        "outcome": "cancelled",
        "root_what": "called",
        "root_source": "__main__:stop",
        "root_at": f"{tmp_path}/app.py:{called}",
        "level": "info",
    }.items() <= stopped.items()
    assert {
        "request_id": "r-first",
        "outcome": "cancelled",
        "root_what": "called",
        "root_reason": "disconnect",
    }.items() <= left.items()
    # The line of the request to cancel has the id of whoever made it.
    [asked] = [line for line in lines if line.get("message") == "by the operator"]
    assert (asked["event"], asked["request_id"]) == ("task.cancel", "r-operator")
    # aiohttp handles a request in a task of its own, which bound the id.
    [handled] = [
        line
        for line in lines
        if line["event"] == "task.done" and line["coro"].endswith("._handle_request")
    ]
    assert (handled["outcome"], handled["root_reason"]) == ("cancelled", "disconnect")
    assert handled["request_id"] == "r-first"
