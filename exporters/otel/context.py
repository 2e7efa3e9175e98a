"""The application's current span where an event happens, as OpenTelemetry's context has it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from aioaudit.exporter import ContextNotes, Record, Returned
from aioaudit.exporters.otel.facts import Outside
from aioaudit.recognisers.opentelemetry import variable_of


class CurrentSpans(ContextNotes[Any]):
    """The application's current spans at the events that may become children of them."""

    def __init__(self) -> None:
        super().__init__()
        self._get_current: Callable[[], Any] = self._find

    def witness(self, item: Record) -> None:
        """Keep OpenTelemetry's context at *item* where the application has a current span."""
        if type(item) is not Returned:
            context = self._get_current()
            if context:  # empty for whoever traces nothing: nothing more to do
                self.keep(item, context)

    def _find(self) -> Any:
        """OpenTelemetry's context, once the application has imported it in full."""
        module: Any = sys.modules.get("opentelemetry.context")
        found = getattr(module, "get_current", None)
        if not callable(found) or "opentelemetry.trace" not in sys.modules:
            return None
        # Two calls on the way to a context variable are a third of what all this costs.
        variable = variable_of(module)
        self._get_current = found if variable is None else variable.get
        return self._get_current()

    def outside(self, seq: int) -> Outside | None:
        """The application's span at the event with this number."""
        context = self.take(seq)
        if context is None:
            return None
        from opentelemetry.trace import get_current_span

        found: Any = get_current_span(context).get_span_context()
        return found if found.is_valid else None
