"""A real service with OpenTelemetry's own instrumentation on top: one incident, told three times."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("structlog")
pytest.importorskip("opentelemetry.instrumentation.aiohttp_server")
pytest.importorskip("opentelemetry.instrumentation.starlette")

from tests.collectors import Received, Receiver, tasks, walk

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

HEAD = """
import asyncio, os, sys
import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")

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

async def ask(port, path, id):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\nX-Request-Id: {id}\\r\\n\\r\\n".encode())
    await writer.drain()
    return reader, writer

async def answered(reader, writer):
    status = (await reader.readline()).split()[1].decode()
    writer.close()
    return status

async def incident(port):
    first = await ask(port, "/slow?job=1", "r-first")
    while len(jobs) < 1:
        await asyncio.sleep(0.01)
    second = await ask(port, "/slow?job=2", "r-second")
    while len(jobs) < 2:
        await asyncio.sleep(0.01)
    assert await answered(*await ask(port, "/stop?job=2", "r-operator")) == "204"
    assert await answered(*second) == "503"
    first[1].close()
    while not jobs["1"].done():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)

def bind(id):
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=id)

async def work(job):
    with tracer.start_as_current_span("work"):
        jobs[job] = task = asyncio.create_task(query(), name=f"query {job}")
        await asyncio.wait([task])
        return 503 if task.cancelled() else 200
"""

AIOHTTP = (
    HEAD
    + """
from aiohttp import web
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor

AioHttpServerInstrumentor().instrument()

async def slow(request):
    bind(request.headers["X-Request-Id"])
    try:
        return web.Response(status=await work(request.query["job"]))
    except asyncio.CancelledError:
        jobs[request.query["job"]].cancel("the client left")
        raise

async def stop(request):
    bind(request.headers["X-Request-Id"])
    jobs[request.query["job"]].cancel("by the operator")
    return web.Response(status=204)

async def main():
    app = web.Application()
    app.add_routes([web.get("/slow", slow), web.get("/stop", stop)])
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await incident(site._server.sockets[0].getsockname()[1])
    await runner.cleanup()

asyncio.run(main())
"""
)

STARLETTE = (
    HEAD
    + """
import socket
import uvicorn
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def slow(request):
    bind(request.headers["X-Request-Id"])
    job = request.query_params["job"]

    async def watch():
        while (await request.receive())["type"] != "http.disconnect":
            pass
        jobs[job].cancel("the client left")

    watching = asyncio.create_task(watch(), name=f"watch {job}")
    status = await work(job)
    watching.cancel()
    return Response(status_code=status)

async def stop(request):
    bind(request.headers["X-Request-Id"])
    jobs[request.query_params["job"]].cancel("by the operator")
    return Response(status_code=204)

app = Starlette(routes=[Route("/slow", slow), Route("/stop", stop)])
StarletteInstrumentor().instrument_app(app)

async def main():
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve([listening]), name="server")
    while not server.started:
        await asyncio.sleep(0.01)
    await incident(listening.getsockname()[1])
    server.should_exit = True
    await serving

asyncio.run(main())
"""
)


def three_accounts(
    run_python: RunPython, tmp_path: Path, program: str, variables: dict[str, str]
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """What the JSONL log says of each query, by its name, and the lines of structlog."""
    (tmp_path / "app.py").write_text(program)
    wanted = {"AIOAUDIT": "jsonl,structlog,otel", "AIOAUDIT_JSONL_PATH": "log.jsonl"}
    done = run_python("app.py", **wanted, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    why = run_python("-m", "aioaudit", "why", "log.jsonl", "--json").stdout.splitlines()
    answers = [json.loads(line) for line in why]
    queries = {each["name"]: each for each in answers if each["coro"] == "__main__:query"}
    return queries, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("program", [AIOHTTP, STARLETTE], ids=["aiohttp", "starlette"])
def test_the_trace_of_a_cancelled_request_shows_who_cancelled_it_as_all_three_accounts_say(
    run_python: RunPython,
    tmp_path: Path,
    over_http: dict[str, str],
    receiver: Receiver,
    program: str,
) -> None:
    answers, lines = three_accounts(run_python, tmp_path, program, over_http)
    spans = {(span.trace, span.id): span for span in receiver.spans}
    assert len(spans) == len(receiver.spans)
    assert {span.resource["service.name"] for span in receiver.spans} == {"shop"}

    # The application's own spans have the shape that they have without us.
    ours = {span.id for span in receiver.spans if span.scope == "aioaudit"}
    theirs = [span for span in receiver.spans if span.scope != "aioaudit"]
    assert not {span.parent for span in theirs} & ours
    servers = [span for span in theirs if span.name in ("GET /slow", "GET /stop")]
    works = {span.id: span for span in theirs if span.name == "work"}
    assert {span.parent for span in works.values()} <= {span.id for span in servers}
    assert (len(servers), len(works)) == (3, 2)
    [stopping] = [span for span in servers if span.name == "GET /stop"]

    victims = {name: tasks(receiver)[name] for name in answers}
    assert set(victims) == {"query 1", "query 2"}
    for name, request_id in (("query 1", "r-first"), ("query 2", "r-second")):
        answer, span = answers[name], victims[name]
        # Under the span that was current, in the trace of the request.
        assert works[span.parent].trace == span.trace
        # The three accounts, field by field.
        [end] = [line for line in lines if line["event"] == "task.done" and line["name"] == name]
        root = {key: end.get(f"root_{key}") for key in answer["root"]}
        assert (end["request_id"], end["task"], end["outcome"]) == (
            request_id,
            answer["task"],
            answer["outcome"],
        )
        assert (root, end["summary"]) == (answer["root"], answer["summary"])
        assert walk(span, spans) == answer["chain"]
        attributes = span.attributes
        assert {key: attributes[f"aioaudit.cancel.root.{key}"] for key in root} == root
        assert attributes["aioaudit.cancel.summary"] == answer["summary"]
        assert attributes["aioaudit.task.id"] == answer["task"]
        assert attributes["aioaudit.task.outcome"] == answer["outcome"] == "cancelled"
        assert attributes["aioaudit.task.cancel_outcome"] == end["cancel_outcome"] == "obeyed"

    # What the operator's request asked for stands in its trace, under its span.
    [asked] = [
        span
        for span in receiver.spans
        if span.attributes.get("aioaudit.cancel.message") == "by the operator"
    ]
    assert (asked.trace, asked.parent) == (stopping.trace, stopping.id)
    assert ("cancels", victims["query 2"].trace, victims["query 2"].id) in asked.links
    assert ("cancelled_by", asked.trace, asked.id) in victims["query 2"].links
    [line] = [line for line in lines if line.get("message") == "by the operator"]
    assert (line["request_id"], line["at"]) == (
        "r-operator",
        asked.attributes["aioaudit.cancel.at"],
    )


def test_what_an_unsampled_trace_of_the_application_leads_to_is_not_sent(
    run_python: RunPython, tmp_path: Path, over_http: dict[str, str], receiver: Receiver
) -> None:
    three_accounts(
        run_python, tmp_path, AIOHTTP, over_http | {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    )
    assert receiver.spans == []


def parents(spans: list[Received]) -> list[tuple[str, str]]:
    """Each span of the application and its parent's name."""
    names = {span.id: span.name for span in spans}
    return sorted(
        (span.name, names.get(span.parent, "")) for span in spans if span.scope != "aioaudit"
    )


def test_the_traces_of_the_application_are_the_same_with_and_without_it(
    run_python: RunPython, tmp_path: Path, over_http: dict[str, str], receiver: Receiver
) -> None:
    (tmp_path / "app.py").write_text(AIOHTTP)
    run_python("app.py", **over_http)
    without = parents(receiver.spans)
    receiver.spans.clear()
    three_accounts(run_python, tmp_path, AIOHTTP, over_http)
    assert parents(receiver.spans) == without
    assert len(without) == 5
