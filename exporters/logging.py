"""Logs events with the standard library's logging, on the logger ``aioaudit``.

A record says when, where and in which thread its event happened, not when and
where it was logged: ``created``, ``pathname``, ``lineno`` and ``funcName`` are
the event's.  Nothing is configured here; without any configuration logging
itself prints warnings to stderr.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from aioaudit.events import Event
from aioaudit.exporter import Record
from aioaudit.exporters.lines import DEBUG, INFO, TAKEN_BY_LOGGING, WARNING, Emitter, Line
from aioaudit.text import path_and_line

__all__ = ["LoggingExporter"]


class LoggingExporter:
    """Logs each event: a constant message with a sentence, its keys in ``extra``.

    Args:
        logger: The logger to use; ``logging.getLogger("aioaudit")`` by default.

    ``extra`` has the event's name as ``event`` and its keys as they are, apart
    from those that a record has for itself: ``name``, ``thread``, ``process`` and
    ``message`` are ``task_name``, ``event_thread``, ``event_process`` and
    ``cancel_message``.

    Records are handled in a copy of the context in which the event happened,
    so filters see the context variables of the task that called ``cancel()``
    (``task.cancel``) and of the task that ended (``task.done``).
    """

    witness: Callable[[Record], None]
    """Called where an event happens, before it is queued: keeps its context."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logging.getLogger("aioaudit") if logger is None else logger
        self._emitter = Emitter("logging")
        self.witness = self._emitter.contexts.witness

    def export(self, events: Sequence[Event]) -> None:
        """Log *events*."""
        enabled = self._logger.isEnabledFor
        lowest = next((level for level in (DEBUG, INFO, WARNING) if enabled(level)), WARNING + 1)
        self._emitter.emit(events, lowest, self._log)

    def flush(self) -> None:
        """Nothing to do: what was exported is logged."""

    def shutdown(self) -> None:
        """Say on stderr how many records the application's filters refused, if any."""
        self._emitter.end()

    def _log(self, line: Line) -> None:
        keys = line.keys
        extra = {TAKEN_BY_LOGGING.get(key, key): value for key, value in keys.items()}
        extra["event"] = line.event
        path, number = path_and_line(keys.get("at") or keys.get("error_at")) or (
            "(unknown file)",
            0,
        )
        record = self._logger.makeRecord(
            self._logger.name,
            line.level,
            path,
            number,
            f"{line.event}: %s" if line.sentence else line.event,
            (line.sentence,) if line.sentence else (),
            None,
            keys.get("source"),
            extra,
        )
        happened = datetime.fromisoformat(keys["ts"]).timestamp()
        record.relativeCreated += (happened - record.created) * 1000
        record.created = happened
        record.msecs = happened % 1 * 1000 // 1
        record.threadName = keys["thread"]
        self._logger.handle(record)
