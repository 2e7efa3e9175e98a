"""Cancellations in a trace view: everything here that has to do with OpenTelemetry.

The modules in here are private, but for `instrumentor`.
"""

from aioaudit.exporters.otel.exporter import OpenTelemetryExporter

__all__ = ["OpenTelemetryExporter"]
