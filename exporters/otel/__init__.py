"""Cancellations in a trace view: everything here that has to do with OpenTelemetry."""

from aioaudit.exporters.otel.exporter import OpenTelemetryExporter

__all__ = ["OpenTelemetryExporter"]
