"""Auditing as an instrumentation of OpenTelemetry: ``opentelemetry-instrument python app.py``.

The one module that needs the package opentelemetry-instrumentation, which calls
it by the entry point ``aioaudit`` in the group ``opentelemetry_instrumentor``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from importlib import import_module
from typing import Any

try:
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # the module tells mypy to look away
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "AioauditInstrumentor needs opentelemetry-instrumentation:"
        " pip install 'aioaudit[otel-instrument]'",
        name=error.name,
    ) from error

from aioaudit.exporters.otel import OpenTelemetryExporter
from aioaudit.settings import VARIABLE, SettingsError, build, is_off
from aioaudit.text import describe, say

__all__ = ["AioauditInstrumentor"]


class AioauditInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # for the same reason
    """Adds the exporter ``otel``, unless it is there already; turns auditing on if it is off.

    ``AIOAUDIT=0`` (or ``off``, ``false``, ``no``) keeps it from doing anything;
    the other settings of aioaudit hold as they do for ``AIOAUDIT=otel``.
    """

    _undo: Callable[[], None] | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: asyncio is always there."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        """Audit this process.

        Args:
            kwargs: ``tracer_provider`` and ``meter_provider``: who gets spans and
                metrics; by default those that the application has set.

        A setting that cannot be used, or an interpreter that cannot be
        instrumented, is one line on stderr: other instrumentations go on.
        """
        value = os.environ.get(VARIABLE, "")
        if value.strip() and is_off(value):
            return
        try:
            self._undo = _add(kwargs.get("tracer_provider"), kwargs.get("meter_provider"))
        except Exception as error:  # noqa: BLE001 - auditing must never stop a program
            text = str(error) if isinstance(error, SettingsError) else describe(error)
            say(f"{text}; the program runs on without the instrumentation aioaudit")

    def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002 - as the base class has it
        """Take out what was added; what the environment or the program added stays."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()


def _add(tracer_provider: Any, meter_provider: Any) -> Callable[[], None] | None:
    """Add an exporter; what takes it out again, None where another is used on."""
    import_module("asyncio")  # AIOAUDIT=otel waits for it, and is to come first
    from aioaudit import session

    settings = build("otel", environ=os.environ)
    current = session.current()
    for pipeline, _ in () if current is None else current.sinks:
        if isinstance(pipeline.exporter, OpenTelemetryExporter):
            pipeline.exporter.use(tracer_provider, meter_provider)
            return None
    exporter = OpenTelemetryExporter(
        tracer_provider,
        tasks=settings.otel_tasks,
        status=settings.otel_status,
        meter_provider=meter_provider,
    )
    return session.attach(exporter, "otel", settings.events)
