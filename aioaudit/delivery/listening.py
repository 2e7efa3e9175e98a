"""Hearing what happens where it happens: no queue, no thread, nothing kept.

For whoever looks at few kinds of records, and is part of the program itself: a test runner's
plugin.  A thread would be seen by tests that count threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aioaudit.delivery.journal import TIMEOUT, Waiting
from aioaudit.delivery.records import Record
from aioaudit.events import Event, ProcessStart
from aioaudit.identity import Run


class Listener:
    """A `Journal`, and the exporter behind it: calls a function with records of some kinds.

    Args:
        hears: By the record's type, what is called with each; in the thread where it happens,
            also inside of a finalizer or a signal's handler.  It is to be quick.
        on_fault: Is called with what one of these raised; nothing of it reaches the program.
    """

    name = "listener"
    is_journal = True
    """Says that nothing need stand between it and the program: see `Session.journal`."""

    def __init__(
        self,
        hears: Mapping[type[Any], Callable[[Any], object]],
        on_fault: Callable[[Exception], object],
    ) -> None:
        self._find = dict(hears).get
        self._on_fault = on_fault
        self.put: Callable[[Record], None] = self._hear

    def _hear(self, record: Record) -> None:
        hear = self._find(type(record))
        if hear is not None:
            try:
                hear(record)
            except Exception as error:  # noqa: BLE001 - whatever it is, the program goes on
                self._on_fault(error)

    @property
    def exporter(self) -> Listener:
        """Nobody else is behind it."""
        return self

    # -- as an exporter: all that it wants has been heard ------------------------------------

    def export(self, events: Sequence[Event]) -> None:
        """Nothing is given to it in this way."""

    def flush(self, timeout: float = TIMEOUT) -> Any:  # noqa: ARG002 - nothing waits
        """Nothing waits: all was heard as it happened."""
        return True

    def shutdown(self) -> None:
        """Nothing to close."""

    # -- as a journal --------------------------------------------------------------------------

    def skip(self, seq: int) -> None:
        """Numbers are nothing to it."""

    def join(self, upto: int, *, alone: bool) -> None:
        """As `skip`."""

    def leave(self, upto: int) -> None:
        """As `skip`."""

    def urge(self) -> None:
        """It was heard."""

    def open_now(self) -> None:
        """There is nothing to open."""

    def fail(self, error: Exception) -> None:
        """Tell whoever listens."""
        self._on_fault(error)

    def begin_flush(self) -> Waiting:
        """As `flush`."""
        return lambda _deadline: True

    def begin_shutdown(self, timeout: float, *, signal: str | None = None) -> Waiting:  # noqa: ARG002 - a protocol names them
        """Hear nothing more."""
        self.put = _deaf
        return lambda _deadline: True

    def before_fork(self) -> None:
        """It has no thread."""

    def after_fork_in_parent(self) -> None:
        """It has none."""

    def after_fork(self, run: Run, start: ProcessStart) -> None:  # noqa: ARG002 - a protocol names them
        """Hear nothing in the child: it is another run, and whoever listens is not told of that."""
        self.put = _deaf


def _deaf(_record: Record) -> None:
    """Hears nothing."""
