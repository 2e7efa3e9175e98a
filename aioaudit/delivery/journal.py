"""What takes down the events of a run: the narrow side of the queue, its thread and its encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from aioaudit.delivery.records import Record
from aioaudit.events import ProcessStart
from aioaudit.exporter import Exporter
from aioaudit.identity import Run
from aioaudit.threads import monotonic

TIMEOUT = 3.0
"""Seconds that a flush and a shutdown wait unless told otherwise."""

Waiting = Callable[[float], bool]
"""Waits until a time (`aioaudit.threads.monotonic`) and says whether all was done."""


class Journal(Protocol):
    """Takes down what happens, in the order of its numbers, and never makes the program wait.

    It is all that the recorder, its probes and the session know of how events get to an
    exporter, so that something else than `Pipeline` may do it: a queue of C code, say,
    that has lines written without the GIL.

    Whoever notes an event draws its number first (`Run.next_seq`), and then calls `put` or
    `skip` with it, from any thread, also from a signal's handler that interrupted another
    call.  Nothing here may raise, but for Ctrl-C, while somebody waits.
    """

    name: str
    """What messages on stderr call it."""

    @property
    def exporter(self) -> Exporter:
        """What gets the events."""
        ...

    @property
    def put(self) -> Callable[[Record], None]:
        """Takes a record down; what finds no room is counted as lost.  The hot path."""
        ...

    def skip(self, seq: int) -> None:
        """*seq* was drawn but no record with it will come."""
        ...

    def join(self, upto: int, *, alone: bool) -> None:
        """All that has a higher number than *upto* is put from now on: what is not is missed.

        *alone* says that there was no other journal before, to which something may go still.
        """
        ...

    def leave(self, upto: int) -> None:
        """What has a higher number than *upto* need not be put any more: others take it."""
        ...

    def urge(self) -> None:
        """What was put last is waited for: a request to cancel is to be on disk soon."""
        ...

    def open_now(self) -> None:
        """Let the exporter have the `ProcessStart`, although no event came yet."""
        ...

    def fail(self, error: Exception) -> None:
        """Take the exporter out of service, because of what it did where an event happened."""
        ...

    def flush(self, timeout: float = TIMEOUT) -> bool:
        """Have all that was put before written within *timeout* seconds; whether it was."""
        ...

    def begin_flush(self) -> Waiting:
        """The same, to be waited for together with others."""
        ...

    def begin_shutdown(self, timeout: float, *, signal: str | None = None) -> Waiting:
        """Have what is left and a `ProcessEnd` written, and close; to ask again changes nothing.

        It waits for nothing, and calls nothing of the exporter's: who calls may hold a lock.
        *timeout* is for the line on stderr that says that it took longer, *signal* the
        name of the signal that ends the process.
        """
        ...

    def before_fork(self) -> None:
        """Leave nothing behind that a forked child could wait for: no thread, no lock."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on."""
        ...

    def after_fork(self, run: Run, start: ProcessStart) -> None:
        """In the child: forget what is the parent's, and begin as *run*."""
        ...


def flush_all(journals: Iterable[Journal], timeout: float = TIMEOUT) -> bool:
    """Flush all *journals* at once, *timeout* seconds in all; whether each was."""
    deadline = monotonic() + timeout
    waiting = [each.begin_flush() for each in journals]
    answers = [wait(deadline) for wait in waiting]  # wait for each
    return all(answers)


def shutdown_all(
    journals: Iterable[Journal], timeout: float = TIMEOUT, *, signal: str | None = None
) -> bool:
    """Shut all *journals* down at once, *timeout* seconds in all; whether each was."""
    deadline = monotonic() + timeout
    waiting = [each.begin_shutdown(timeout, signal=signal) for each in journals]
    answers = [wait(deadline) for wait in waiting]  # wait for each
    return all(answers)
