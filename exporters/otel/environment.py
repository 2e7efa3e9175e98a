"""What the standard ``OTEL_*`` variables ask for: an exporter, a resource, a number."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aioaudit.exporter import ExporterError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_EXTRAS = {"otlp_proto_http": "otel", "otlp_proto_grpc": "otel-grpc"}


def span_exporter() -> Callable[[], SpanExporter] | None:
    """What makes the exporter that the ``OTEL_*`` variables name; None if they say to send nothing.

    Raises:
        aioaudit.exporter.ExporterError: they name something that is not there.
    """
    name = _wanted("TRACES")
    if name is None:
        return None
    return otlp_exporter() if name == "otlp" else _entry_point(name, "TRACES")


def metric_exporter() -> Callable[[], MetricExporter] | None:
    """`span_exporter` for metrics."""
    name = _wanted("METRICS")
    return None if name is None else _entry_point(name, "METRICS")


def otlp_exporter() -> Callable[[], SpanExporter]:
    """What makes the exporter to a collector, by the protocol that the ``OTEL_*`` variables name.

    Raises:
        aioaudit.exporter.ExporterError: there is no such protocol, or it is not installed.
    """
    made: Callable[[], SpanExporter] = _entry_point("otlp", "TRACES")
    return made


def _wanted(signal: str) -> str | None:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    name = os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip() or "otlp"
    return None if name == "none" else name


def _entry_point(name: str, signal: str) -> Any:
    from importlib.metadata import entry_points

    if name == "otlp":
        name = _package_of_protocol(signal)
    group = f"opentelemetry_{signal.lower()}_exporter"
    for point in entry_points(group=group, name=name):
        return point.load()
    if name in _EXTRAS:
        raise ExporterError(
            f"the exporter {name} of OpenTelemetry is not installed: "
            f"pip install 'aioaudit[{_EXTRAS[name]}]'"
        )
    known = sorted({point.name for point in entry_points(group=group)} | {"otlp", "none"})
    variable = f"OTEL_{signal}_EXPORTER"
    raise ExporterError(f"{variable}={name!r}: no such exporter; allowed: {', '.join(known)}")


def _package_of_protocol(signal: str) -> str:
    protocol = "http/protobuf"
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        value = os.environ.get(variable, "").strip()
        if value:
            protocol = value
            break
    name = _PROTOCOLS.get(protocol)
    if name is None:
        raise ExporterError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: no such protocol; "
            f"allowed: {', '.join(_PROTOCOLS)}"
        )
    return name


def own_resource() -> Resource:
    """Who we are, by ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES`` and resource detectors."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.version import __version__ as sdk_version

    own = {"process.pid": os.getpid()}
    try:
        return Resource.create(own)
    except RuntimeError:  # it asks detectors in threads, and at the end of a process there are none
        basis = {
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": sdk_version,
            "service.name": "unknown_service",
        }
        return Resource(basis).merge(OTELResourceDetector().detect()).merge(Resource(own))


def number(variable: str, otherwise: int) -> int:
    """The positive number that *variable* holds; *otherwise* where it holds none."""
    value = os.environ.get(variable, "").strip()
    plain = value.isascii() and value.isdigit() and len(value) < 19  # of what fits into 64 bits
    return int(value) if plain and int(value) > 0 else otherwise
