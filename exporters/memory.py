"""Keeps events in a list: for tests, notebooks and the curious."""

from __future__ import annotations

from collections.abc import Sequence

from aioaudit.events import Event

__all__ = ["MemoryExporter"]


class MemoryExporter:
    """Keeps every event, typed, in `events`, the oldest first.

    Nothing is ever thrown away but by `clear`: not for a process that runs on
    for days.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def export(self, events: Sequence[Event]) -> None:
        """Append *events* to `events`."""
        self.events.extend(events)

    def flush(self) -> None:
        """Nothing to do: what was exported is in the list."""

    def shutdown(self) -> None:
        """Nothing to do: the list stays readable."""

    def clear(self) -> None:
        """Forget all events kept so far."""
        self.events.clear()
