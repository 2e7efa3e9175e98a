"""Logs events through the application's own structlog.

Nothing is configured here, ever.  The configuration is looked at anew for
every batch, so what the application configures later counts from then on.
Where there is none, structlog would print to stdout, which may be the
program's data: then lines go to stderr.

structlog is imported at the first event, in the exporter's thread: it may be
the program's import of structlog that imports asyncio and thereby brings us in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from aioaudit.events import Event
from aioaudit.exporter import Record
from aioaudit.exporters.lines import DEBUG, INFO, TAKEN_BY_LOGGING, WARNING, Emitter, Line

__all__ = ["StructlogExporter"]

_METHODS = {DEBUG: "debug", INFO: "info", WARNING: "warning"}


class StructlogExporter:
    """Logs each event with structlog: its name as the event, its keys as they are.

    Args:
        logger: The logger to use; ``structlog.get_logger("aioaudit")`` by default.

    Lines are logged in a copy of the context in which the event happened, so
    context variables are those of the task that called ``cancel()``
    (``task.cancel``) and of the task that ended (``task.done``).

    Raises:
        ModuleNotFoundError: structlog is not installed.
    """

    def __init__(self, logger: Any = None) -> None:
        if logger is None and find_spec("structlog") is None:
            raise ModuleNotFoundError(
                "StructlogExporter needs the package structlog: pip install 'aioaudit[structlog]'",
                name="structlog",
            )
        self._given = logger
        self._emitter = Emitter("structlog")
        self.witness = self._emitter.contexts.witness

    witness: Callable[[Record], None]
    """Called where an event happens, before it is queued: keeps its context."""

    def export(self, events: Sequence[Event]) -> None:
        """Log *events*."""
        bound = self._bound()
        enabled = getattr(bound, "is_enabled_for", None) or getattr(bound, "isEnabledFor", None)
        lowest = DEBUG
        if enabled is not None:
            lowest = next((level for level in _METHODS if enabled(level)), WARNING + 1)
        methods = {level: getattr(bound, name) for level, name in _METHODS.items()}
        renamed = self._given is None and _ends_in_logging()

        def log(line: Line) -> None:
            keys = line.keys
            if renamed:
                keys = {TAKEN_BY_LOGGING.get(key, key): value for key, value in keys.items()}
            methods[line.level](line.event, **keys)

        self._emitter.emit(events, lowest, log)

    def flush(self) -> None:
        """Nothing to do: what was exported is logged."""

    def shutdown(self) -> None:
        """Say on stderr how many lines the application's processors refused, if any."""
        self._emitter.end()

    def _bound(self) -> Any:
        import structlog

        logger = self._given
        if logger is None:
            if not structlog.is_configured():
                return self._on_stderr()
            config = structlog.get_config()
            if config["wrapper_class"] is structlog.stdlib.AsyncBoundLogger:
                # Can only be made inside a running loop; its plain counterpart logs the same.
                logger = structlog.wrap_logger(
                    config["logger_factory"]("aioaudit"), wrapper_class=structlog.stdlib.BoundLogger
                )
            else:
                logger = structlog.get_logger("aioaudit")
        bind = getattr(logger, "bind", None)
        bound = logger if bind is None else bind()
        # A given logger for ``await`` has the one for plain calls inside.
        return getattr(bound, "sync_bl", bound)

    def _on_stderr(self) -> Any:
        import structlog

        stream = sys.stderr
        return structlog.wrap_logger(
            # Without a stream a PrintLogger prints to stdout.
            structlog.ReturnLogger() if stream is None else structlog.PrintLogger(stream),
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.dev.ConsoleRenderer(colors=stream is not None and stream.isatty()),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(INFO),
        ).bind()


def _ends_in_logging() -> bool:
    """Whether the application's last processor puts our keys into a `logging.LogRecord`."""
    import structlog

    processors = structlog.get_config()["processors"]
    names = {getattr(processor, "__name__", "") for processor in processors}
    return not names.isdisjoint({"render_to_log_kwargs", "render_to_log_args_and_kwargs"})
