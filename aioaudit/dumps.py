"""Private. Asking a recorder for what it keeps: who asks, for what, and how it went.

A recorder writes in its own thread (`aioaudit.exporters.recorder`).  What triggers it from
outside, a signal or an error that a loop reports, only leaves a `Dump` there and wakes it.

A signal is taken only where its disposition is the default one, and from the main thread, as
`aioaudit.lifecycle` does it with SIGTERM.  A program that sets a handler later replaces ours.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from aioaudit.errors import AioauditError
from aioaudit.text import say
from aioaudit.threads import get_ident, main_ident
from aioaudit.timestamps import timestamp

if TYPE_CHECKING:
    from aioaudit.live.protocol import ProcessFacts

FINDING = "finding"
ERROR = "error"
EXIT = "exit"
SIGNAL = "signal"
"""What may have a recorder write a file by itself; the first and the last with a word behind ``:``."""


def name_of_dump(ns: int, pid: int) -> str:
    """What a dump is called that was given no name: after the time and the process."""
    stamp = timestamp(ns).replace("-", "").replace(":", "")
    return f"aioaudit-{stamp}-{pid}.jsonl"


class DumpError(AioauditError, RuntimeError):
    """There is nothing to write, or it was not written in time."""


class Dump:
    """A file that somebody wants.

    Attributes:
        path: Where to; None for a name of the recorder's own.
        why: The trigger that wants it; None where code asks.
        written: Where it is, once it was written.
        error: Why it was not.
        given_up: Whether nobody waits for it any more: it is not to be written then.
    """

    __slots__ = ("error", "given_up", "path", "why", "written")

    def __init__(self, path: str | None, why: str | None = None) -> None:
        self.path = path
        self.why = why
        self.written: str | None = None
        self.error: Exception | None = None
        self.given_up = False


class Source(Protocol):
    """What a recorder says of the process beside what it keeps."""

    def facts(self) -> ProcessFacts:
        """How the process is; what the recorder knows itself is left out."""
        ...

    def tasks(self, most: int) -> tuple[Iterable[bytes], int]:
        """A line for each living task, in portions, and how many there are above *most*."""
        ...


@runtime_checkable
class Dumper(Protocol):
    """An exporter that keeps events and writes them when asked."""

    dump_on: frozenset[str]
    """When it does so by itself."""

    source: Source | None
    """Whom it asks about the process."""

    door: Any
    """By which it is asked from outside of the process; None where it is not."""

    def ask(self, dump: Dump) -> None:
        """Have *dump* made at the next ``flush``; may be called in any thread."""


def is_dumper(exporter: object) -> TypeGuard[Dumper]:
    """Whether *exporter* is one that can be asked for a dump."""
    return isinstance(exporter, Dumper)


class Signals:
    """The signals that ask for a dump.

    Args:
        ask: Called with the trigger (``signal:USR2``), in the main thread.
    """

    def __init__(self, ask: Callable[[str], object]) -> None:
        self._ask = ask
        self._taken: set[int] = set()
        self._refused: set[int] = set()

    def follow(self, triggers: Iterable[str]) -> None:
        """Take those that *triggers* name, and leave all others as they were."""
        names = {each.partition(":")[2] for each in triggers if each.startswith(f"{SIGNAL}:")}
        wanted = {int(signal.Signals[f"SIG{name}"]) for name in names}
        for number in self._taken - wanted:
            self._leave(number)
        for number in sorted(wanted - self._taken - self._refused):
            self._take(number)
        self._refused &= wanted

    def _take(self, number: int) -> None:
        try:
            free = signal.getsignal(number) is signal.SIG_DFL
            if free and get_ident() == main_ident():
                signal.signal(number, self._on_signal)
                self._taken.add(number)
                return
        except ValueError:  # a sub-interpreter: signals are the main interpreter's
            free = True
        self._refused.add(number)
        name = signal.Signals(number).name
        why = "auditing began in another thread" if free else "the program has a handler for it"
        say(f"recorder: {name} asks for no dump: {why}")

    def _leave(self, number: int) -> None:
        """Give it back, unless it is somebody else's by now.

        In another thread that cannot be done: the handler stays, and does nothing.
        """
        self._taken.discard(number)
        with suppress(ValueError):
            if get_ident() == main_ident() and signal.getsignal(number) == self._on_signal:
                signal.signal(number, signal.SIG_DFL)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number in self._taken and signal.getsignal(number) == self._on_signal:
            self._ask(f"{SIGNAL}:{signal.Signals(number).name.removeprefix('SIG')}")
