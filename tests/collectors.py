"""Collectors that are nothing but the official protobuf services, and what they received.

The fixtures that start them are in `conftest`.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from aioaudit.chain.links import said
from tests.waiting import PATIENCE

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
grpc = pytest.importorskip("grpc")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")

from opentelemetry.proto.collector.metrics.v1 import (  # noqa: E402 - after the questions above
    metrics_service_pb2,
    metrics_service_pb2_grpc,
)
from opentelemetry.proto.collector.trace.v1 import (  # noqa: E402
    trace_service_pb2,
    trace_service_pb2_grpc,
)

INCIDENT = """
import asyncio, contextlib

async def fetch():
    await asyncio.sleep(60)

async def handle():
    await asyncio.create_task(fetch(), name="fetch-1")

async def fail():
    await asyncio.sleep(0)
    raise LookupError("no such row")

async def killer(victim):
    victim.cancel("too late")

async def quiet():
    await asyncio.sleep(0)

async def main():
    victim = asyncio.create_task(handle(), name="handler")
    await asyncio.create_task(quiet(), name="quiet")
    await asyncio.sleep(0.01)
    await asyncio.create_task(killer(victim), name="killer")
    await asyncio.wait([victim])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.create_task(fetch(), name="slow")
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fetch(), name="sibling")
            group.create_task(fail(), name="failing")

asyncio.run(main())
"""
"""Every kind of root cause but a signal; 13 spans, of which 7 are of tasks."""

Request: Any = trace_service_pb2.ExportTraceServiceRequest
Response: Any = trace_service_pb2.ExportTraceServiceResponse
MetricsRequest: Any = metrics_service_pb2.ExportMetricsServiceRequest
MetricsResponse: Any = metrics_service_pb2.ExportMetricsServiceResponse


class Received(NamedTuple):
    """A span as it arrived."""

    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    status: int
    message: str
    attributes: dict[str, Any]
    links: list[tuple[str, str, str]]
    resource: dict[str, Any]
    scope: str


class Metric(NamedTuple):
    """A metric as it arrived: a value, or count and sum of a histogram, by its attributes."""

    name: str
    unit: str
    kind: str
    points: dict[frozenset[tuple[str, Any]], Any]
    boundaries: tuple[float, ...]
    resource: dict[str, Any]


class Receiver:
    """Keeps what arrives; ``fault`` is a status to answer, ``partial`` or ``silent``.

    ``metrics`` are those of the last report of each process.
    """

    def __init__(self) -> None:
        self.fault = ""
        self.requests = 0
        self.spans: list[Received] = []
        self.headers: list[dict[str, str]] = []
        self.metric_requests = 0
        self.metrics: dict[int, dict[str, Metric]] = {}
        self.over = threading.Event()

    def take(self, request: Any) -> Any:
        self.requests += 1
        if self.fault == "silent":
            self.over.wait(PATIENCE)
        for group in request.resource_spans:
            resource = values(group.resource.attributes)
            for scoped in group.scope_spans:
                for span in scoped.spans:
                    self.spans.append(
                        Received(
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            span.status.code,
                            span.status.message,
                            values(span.attributes),
                            [
                                (
                                    values(link.attributes)["aioaudit.link"],
                                    link.trace_id.hex(),
                                    link.span_id.hex(),
                                )
                                for link in span.links
                            ],
                            resource,
                            scoped.scope.name,
                        )
                    )
        response = Response()
        if self.fault == "partial":
            response.partial_success.rejected_spans = 1
            response.partial_success.error_message = "too many"
        return response

    def take_metrics(self, request: Any) -> Any:
        self.metric_requests += 1
        if self.fault == "silent":
            self.over.wait(PATIENCE)
        for group in request.resource_metrics:
            resource = values(group.resource.attributes)
            for scoped in group.scope_metrics:
                if scoped.scope.name == "aioaudit":
                    found = {each.name: _metric(each, resource) for each in scoped.metrics}
                    self.metrics[resource.get("process.pid", 0)] = found
        return MetricsResponse()


def _metric(metric: Any, resource: dict[str, Any]) -> Metric:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    points: dict[frozenset[tuple[str, Any]], Any] = {}
    boundaries: tuple[float, ...] = ()
    for point in data.data_points:
        key = frozenset(values(point.attributes).items())
        if kind == "histogram":
            points[key] = (point.count, point.sum)
            boundaries = tuple(point.explicit_bounds)
        else:
            points[key] = point.as_int
    if kind == "sum":
        kind = "counter" if data.is_monotonic else "updowncounter"
    return Metric(metric.name, metric.unit, kind, points, boundaries, resource)


def value(any_value: Any) -> Any:
    kind = any_value.WhichOneof("value")
    found = getattr(any_value, kind)
    return [value(each) for each in found.values] if kind == "array_value" else found


def values(pairs: Any) -> dict[str, Any]:
    return {pair.key: value(pair.value) for pair in pairs}


@contextmanager
def over_http(receiver: Receiver) -> Iterator[dict[str, str]]:
    """Variables that name a collector which speaks HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if not self.path.endswith("/v1/metrics"):
                receiver.headers.append(dict(self.headers))
            metrics = self.path.endswith("/v1/metrics")
            if receiver.fault.isdigit():
                if metrics:
                    receiver.metric_requests += 1
                else:
                    receiver.requests += 1
                self.send_response(int(receiver.fault))
                if receiver.fault == "503":
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if metrics:
                answer = receiver.take_metrics(MetricsRequest.FromString(body)).SerializeToString()
            else:
                answer = receiver.take(Request.FromString(body)).SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass  # a client that went away is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    receiver.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def over_grpc(receiver: Receiver) -> Iterator[dict[str, str]]:
    """Variables that name a collector which speaks gRPC."""

    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the call
            if receiver.fault == "503":
                receiver.requests += 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            return receiver.take(request)

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the call
            if receiver.fault == "503":
                receiver.metric_requests += 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            return receiver.take_metrics(request)

    server = grpc.server(futures.ThreadPoolExecutor(4))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(Service(), server)
    add = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
    add(Metrics(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    receiver.over.set()
    server.stop(0).wait()


def tasks(receiver: Receiver) -> dict[str, Received]:
    """The spans of tasks by the task's name, each there once."""
    found = [span for span in receiver.spans if span.name.startswith("asyncio.task ")]
    named = {span.attributes["aioaudit.task.name"]: span for span in found}
    assert len(named) == len(found)
    return named


def own(span: Received) -> dict[str, Any]:
    """The link that the span of a request is."""
    told = {
        key: span.attributes.get(f"aioaudit.cancel.{name}")
        for key, name in {
            "task": "target.task.id",
            "name": "target.task.name",
            "reason": "reason",
            "source": "source",
            "at": "at",
            "by_name": "by.name",
            "message": "message",
            "detail": "detail",
        }.items()
    }
    told["message"] = said(told["message"])
    return {"what": "cancelled"} | {key: each for key, each in told.items() if each is not None}


def origin(span: Received) -> dict[str, Any] | None:
    """The link that the span of a request has as its origin."""
    prefix = "aioaudit.cancel.origin."
    found = {
        key.removeprefix(prefix): each
        for key, each in span.attributes.items()
        if key.startswith(prefix)
    }
    return found or None


_VICTIM = {"task": "id", "name": "name"}


def walk(span: Received, spans: dict[tuple[str, str], Received]) -> list[dict[str, Any]]:
    """The chain of the victim *span*, rebuilt by following links from span to span."""
    [(_, trace, request)] = [link for link in span.links if link[0] == "cancelled_by"]
    step = spans[trace, request]
    chain = [own(step)]
    if chain[0].get("task") != span.attributes["aioaudit.task.id"]:  # made to what it awaited
        victim = {key: span.attributes[f"aioaudit.task.{name}"] for key, name in _VICTIM.items()}
        chain.insert(0, {"what": "cancelled"} | victim)
    while True:
        told = origin(step)
        if told is not None:
            chain.append(told)
        following = [
            spans[trace, request]
            for kind, trace, request in step.links
            if kind == "caused_by" and spans[trace, request].name == "asyncio.cancel"
        ]
        if not following:
            return chain
        step = following[0]
        if told is None:
            chain.append(own(step))
