"""The events of a log in the order in which they happened, run by run.

What an exporter is to see afterwards must come as it came to the program's own
exporters: in the order of ``seq``, each event once.  Files are written that
way, so they are looked through first, and then read a second time without
keeping anything.  Only the runs whose lines are in disorder (files of one run
in another order, lines that were shuffled) are kept in memory and sorted, and
so is standard input, which cannot be read twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from operator import attrgetter

from aioaudit.events import Event, ProcessStart
from aioaudit.log.reading import Paths, Progress, read
from aioaudit.log.store import EventSink


def read_in_order(
    path: Paths, take: Callable[[Event], None], *, progress: Progress | None = None
) -> EventSink:
    """Give every event of a log to *take*; the events of one run come in order, each once.

    *path* and *progress* are as in `aioaudit.log.load`.  What could not be read
    is in the result.

    Raises:
        OSError: a file cannot be opened, or a folder holds no log.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    once = any(os.fspath(each) == "-" for each in paths)
    look = _Look()
    if not once:
        read(paths, look, progress=_half(progress, 0))
    found = _Ordered(take, None if once else look.disordered)
    read(paths, found, progress=progress if once else _half(progress, 1))
    found.finish()
    return found


def _half(progress: Progress | None, half: int) -> Progress | None:
    """What tells *progress* of the first (0) or the second (1) reading of two."""
    if progress is None:
        return None

    def report(done: int, total: int | None) -> None:
        if total is None:
            progress(done, None)
        else:
            progress(half * total + done, 2 * total)

    return report


class _Look(EventSink):
    """Finds the runs whose events do not come in order."""

    def __init__(self) -> None:
        super().__init__()
        self.disordered: set[str] = set()
        self._last: dict[str, int] = {}

    def add(self, event: Event) -> None:
        super().add(event)
        last = self._last.get(event.run, -1)
        if event.seq > last:
            self._last[event.run] = event.seq
        elif not isinstance(event, ProcessStart):  # a rotated file repeats its header
            self.disordered.add(event.run)


class _Ordered(EventSink):
    """Passes events on; keeps those of the *disordered* runs (None: of all) to the end."""

    def __init__(self, take: Callable[[Event], None], disordered: set[str] | None) -> None:
        super().__init__()
        self._take = take
        self._disordered = disordered
        self._last: dict[str, int] = {}
        self._kept: dict[str, list[Event]] = {}

    def add(self, event: Event) -> None:
        super().add(event)
        if self._disordered is None or event.run in self._disordered:
            self._kept.setdefault(event.run, []).append(event)
        else:
            self._pass_on(event)

    def _pass_on(self, event: Event) -> None:
        if event.seq > self._last.get(event.run, -1):
            self._last[event.run] = event.seq
            self._take(event)

    def finish(self) -> None:
        """Pass on what was kept, sorted."""
        for events in self._kept.values():
            events.sort(key=attrgetter("seq"))
            for event in events:
                self._pass_on(event)
        self._kept.clear()
