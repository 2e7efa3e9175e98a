"""Three services behind nginx, one trace: a request dies in the last one because the first lost patience."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("opentelemetry.instrumentation.aiohttp_server")

from aioaudit.log import load
from tests.collectors import Received, Receiver
from tests.conftest import clean_environ
from tests.servers import free_port, nginx
from tests.waiting import PATIENCE, wait_until

SERVICE = """
import asyncio, os, signal, sys
from aiohttp import ClientSession, web
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")
AioHttpServerInstrumentor().instrument()
port, upstream, patience = sys.argv[1:]

async def fetch(session):
    # As an instrumentation of a client does it.
    with tracer.start_as_current_span("GET", kind=trace.SpanKind.CLIENT):
        headers = {}
        propagate.inject(headers)
        async with session.get(f"http://127.0.0.1:{upstream}/", headers=headers) as response:
            return await response.text()

async def page(request):
    if upstream == "0":
        open("asked", "w").close()
        await asyncio.sleep(600)
    async with ClientSession() as session:
        try:
            async with asyncio.timeout(float(patience) or None):
                return web.Response(text=await fetch(session))
        except TimeoutError:
            return web.Response(status=504, text=str(os.path.exists("asked")))

async def main():
    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(port)).start()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    print("ready", flush=True)
    await over.wait()
    await runner.cleanup()

asyncio.run(main())
"""

NAMES = ("shop-web", "shop-orders", "shop-stock")


class Incident:
    """What happened: the folder has a log of each service, by its name."""

    def __init__(self, folder: Path, patience: int) -> None:
        self.folder = folder
        self.patience = patience
        """Seconds that the first service waits."""

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The log of the service *name*."""
        log = self.folder / f"{name}.jsonl"
        text = log.read_text() if log.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def left(self, name: str) -> dict[str, Any] | None:
        """The line that says that the client of *name* left."""
        found = [line for line in self.lines(name) if line.get("reason") == "disconnect"]
        return found[0] if found else None

    def happens(self, python: str, variables: dict[str, str]) -> bool:
        """Let it happen; whether the request had reached the last service when its time ran out."""
        (self.folder / "service.py").write_text(SERVICE)
        with ExitStack() as stack:
            ports = [free_port() for _ in NAMES]
            proxies = stack.enter_context(nginx(*ports))
            processes: list[subprocess.Popen[str]] = []
            for name, port, upstream in zip(NAMES, ports, [*proxies[1:], 0], strict=True):
                patience = str(self.patience) if name == NAMES[0] else "0"
                process = subprocess.Popen(
                    [python, "service.py", str(port), str(upstream), patience],
                    cwd=self.folder,
                    env=clean_environ(
                        **variables,
                        AIOAUDIT="otel,jsonl",
                        AIOAUDIT_JSONL_PATH=f"{name}.jsonl",
                        OTEL_SERVICE_NAME=name,
                    ),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                stack.callback(process.kill)
                processes.append(stack.enter_context(process))
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            with pytest.raises(urllib.error.HTTPError, match="504") as refused:
                urllib.request.urlopen(f"http://127.0.0.1:{proxies[0]}/", timeout=PATIENCE)
            reached = refused.value.read() == b"True"
            refused.value.close()
            if reached:
                wait_until(lambda: self.left(NAMES[2]), "that the last service hears of it")
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                _, err = process.communicate(timeout=PATIENCE)
                assert (err, process.returncode) == ("", 0)
        return reached


@pytest.fixture
def incident(
    audited_python: str, tmp_path: Path, over_http: dict[str, str], receiver: Receiver
) -> Incident:
    """A request to the first of three services, each behind nginx, whose time runs out."""
    for patience in (1, 10, 100):
        (tmp_path / str(patience)).mkdir()
        incident = Incident(tmp_path / str(patience), patience)
        receiver.spans.clear()
        if incident.happens(audited_python, over_http):
            break  # else a busy machine took all that time for the way
    return incident


def test_a_deadline_is_found_from_what_died_of_it_behind_two_proxies(
    incident: Incident, receiver: Receiver
) -> None:
    """In one test, for an incident takes its time."""
    lines_name_the_span_that_sent_each_request(incident)
    one_trace_shows_the_deadline_and_who_left_because_of_it(receiver, incident.patience)
    the_logs_together_say_the_same(incident)


def the_logs_together_say_the_same(incident: Incident) -> None:
    """Joined by the spans: nginx has connections of its own."""
    web, orders, stock = NAMES
    left = incident.left(stock)
    assert left is not None
    log = load([incident.folder / f"{name}.jsonl" for name in NAMES])
    [answer] = log.why(f"{left['run']}:{left['task']}")
    parts = answer.summary.split("its client left: ")
    assert len(parts) == len(NAMES)
    assert "probably because" in parts[0]
    assert f" in {orders} (pid " in parts[1]
    assert f" in {web} (pid " in parts[2]
    assert f"the timeout of {incident.patience} s at" in parts[2]
    assert (answer.root.what, answer.root.service) == ("deadline", web)


def lines_name_the_span_that_sent_each_request(incident: Incident) -> None:
    """As far as it takes to join the logs."""
    web, orders, stock = NAMES
    [ran_out] = [each for each in incident.lines(web) if each.get("reason") == "timeout"]
    asked = ran_out
    for name in (orders, stock):
        left = incident.left(name)
        assert left is not None
        assert left["trace_id"] == ran_out["trace_id"]
        assert (left["parent_span_id"], asked["span_kind"]) == (asked["span_id"], "client")
        asked = left
    assert ran_out["origin"] == "deadline"


def one_trace_shows_the_deadline_and_who_left_because_of_it(
    receiver: Receiver, patience: int
) -> None:
    """The chain, read back from the collector."""
    web, orders, stock = NAMES
    spans = {(span.trace, span.id): span for span in receiver.spans}

    def requests(name: str, reason: str) -> list[Received]:
        return [
            span
            for span in receiver.spans
            if span.resource["service.name"] == name
            and span.attributes.get("aioaudit.cancel.reason") == reason
            and span.name == "asyncio.cancel"
        ]

    # From who died to who sent the request, and whose client left, and so on: by links and parents.
    [step] = requests(stock, "disconnect")
    for name in (orders, web):
        [client] = [spans[trace, span] for kind, trace, span in step.links if kind == "client"]
        assert (client.resource["service.name"], client.name) == (name, "GET")
        [step] = [span for span in requests(name, "disconnect") if span.parent == client.id] or [
            span for span in requests(name, "timeout") if span.trace == client.trace
        ]
    assert step.attributes["aioaudit.cancel.root.what"] == "deadline"
    assert step.attributes["aioaudit.cancel.root.seconds"] == patience
    # All of it in the trace of the request, and the deadline below the span of who had set it.
    assert len({client.trace, step.trace, requests(stock, "disconnect")[0].trace}) == 1
    assert spans[step.trace, step.parent].resource["service.name"] == web
    assert spans[step.trace, step.parent].id == client.parent
