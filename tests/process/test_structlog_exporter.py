"""What only structlog has: its configurations, its absence, a service that binds ids.

What it has in common with `logging` is in `test_log_lines`.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

structlog = pytest.importorskip("structlog")

from aioaudit.events import TaskCancel, TaskCreate  # noqa: E402 - as structlog is asked for
from aioaudit.exporters.structlog import StructlogExporter  # noqa: E402
from tests.conftest import Runner  # noqa: E402
from tests.process.test_log_lines import INCIDENT, make  # noqa: E402


@pytest.fixture(autouse=True)
def _configuration() -> Any:
    structlog.configure(processors=[structlog.contextvars.merge_contextvars])
    yield
    structlog.reset_defaults()


def test_without_a_configuration_lines_go_to_stderr_and_nothing_is_configured(
    run_python: Runner, tmp_path: Path
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
    run_python: Runner, tmp_path: Path, bound: str
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


def test_it_may_be_structlog_itself_that_imports_asyncio_first(run_python: Runner) -> None:
    program = (
        "import sys, structlog; loaded = 'asyncio' in sys.modules; import asyncio;"
        "asyncio.run(asyncio.sleep(0)); print(loaded)"
    )
    done = run_python("-c", program, AIOAUDIT="structlog")
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_where_structlog_is_missing_one_line_says_how_to_get_it(run_python: Runner) -> None:
    program = "import sys; sys.modules['structlog'] = None; import asyncio; print('runs')"
    done = run_python("-c", program, AIOAUDIT="structlog")
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert done.stderr == (
        "aioaudit: exporter 'structlog' cannot be loaded: StructlogExporter needs the package"
        " structlog: pip install 'aioaudit[structlog]'; the program runs on, unaudited by it\n"
    )


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
    run_python: Runner, tmp_path: Path
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
