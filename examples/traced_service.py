"""The service as somebody runs it who wants to see what it does: with JSON logs and traces.

    python traced_service.py UPSTREAM_URL

`service.py` stays as it is.  Around it are structlog, which logs JSON to
stderr with the id of the request that a task works for, and OpenTelemetry with
its own instrumentation of aiohttp, which makes a span of each request.
Nothing in here knows of aioaudit either: ``AIOAUDIT=jsonl,structlog,otel``
finds both.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

import structlog
from aiohttp import web
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aiohttp_server import (  # pyright: ignore[reportMissingTypeStubs]  # it has none
    AioHttpServerInstrumentor,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


@web.middleware
async def with_request_id(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Bind the request's id, so that whatever is logged for it has it."""
    with structlog.contextvars.bound_contextvars(request_id=request.headers.get("X-Request-Id")):
        return await handler(request)


def give_ids_to_requests(service: Any) -> None:
    """Let the application that *service* makes bind them."""
    make = service.Shop.application

    def application(shop: Any) -> web.Application:
        app: web.Application = make(shop)
        app.middlewares.append(with_request_id)
        return app

    service.Shop.application = application


def configure() -> None:
    """Set up logs and traces, as every application does in its own way."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    provider = TracerProvider()  # the service's name is in OTEL_SERVICE_NAME
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    AioHttpServerInstrumentor().instrument()  # before the application is made


if __name__ == "__main__":
    configure()
    service: Any = import_module("service")  # beside this file, in no package
    give_ids_to_requests(service)
    try:
        asyncio.run(service.main(sys.argv[1]))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
