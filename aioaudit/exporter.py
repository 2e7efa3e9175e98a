"""What an exporter is: the three verbs, and how it says that it is in trouble.

An exporter takes events somewhere: into a file, a logging library, a tracer.
It stands behind a queue and runs in a thread of its own (`aioaudit.pipeline`),
so it may take its time and it may fail; neither is felt by the program.

Write one by giving a class these three methods, and register it under the
entry-point group ``aioaudit.exporters`` to make it available by name.  Of
help to know:

- The first event is the run's `ProcessStart`, the last, where the process ends
  in order, its `ProcessEnd`.  ``seq`` rises strictly from one to the next.
- All three methods are called from one thread, never two at a time.
- What an exporter does with asyncio in that thread is not recorded.
- In a forked child the same object is used on, from a new thread and for a new
  run.  One that holds locks, threads or connections compares `os.getpid`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from aioaudit.events import Event


class ExporterError(Exception):
    """The exporter cannot work and will not recover: it is taken out of service.

    The text is shown to the user as it is, on one line of stderr; it names what
    is at fault and says what would be right.  Any other exception has the same
    effect, with its class name before its text.
    """


class NotTakenError(Exception):
    """The exporter cannot take events just now, but may well again: a full disk.

    It stays in service.  The first *taken* events of the batch were taken; the
    others are offered again, together with what came meanwhile, until they are
    taken or the process ends.  The text is shown once for each burst of trouble.
    """

    def __init__(self, text: str, taken: int = 0) -> None:
        super().__init__(text)
        self.taken = taken


@runtime_checkable
class Exporter(Protocol):
    """Takes events somewhere."""

    def export(self, events: Sequence[Event]) -> None:
        """Take *events*, in order.

        The sequence makes its events typed one by one as they are looked at;
        it may be kept.  Raises `NotTakenError` for trouble that passes; any other
        exception takes the exporter out of service.
        """

    def flush(self) -> None:
        """Bring what was taken to where it belongs before returning."""

    def shutdown(self) -> None:
        """Release everything.  Called once, at the end, also after a failure."""
