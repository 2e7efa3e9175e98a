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
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from aioaudit.events import Event, ProcessDropped, ProcessStart
from aioaudit.log.portions import Progress, portions_of
from aioaudit.log.reading import read
from aioaudit.log.sources import STDIN, Paths, sources_of
from aioaudit.log.store import EventSink
from aioaudit.log.thinning import RunPart
from aioaudit.log.workers import cores, thinned


def read_in_order(
    path: Paths,
    take: Callable[[Sequence[Event]], None],
    *,
    progress: Progress | None = None,
    workers: int | None = None,
) -> EventSink:
    """Give every event of a log to *take*; the events of one run come in order, each once.

    *path*, *progress* and *workers* are as for `aioaudit.log.answering.load_to_answer`.  What could not be
    read is in the result.

    Raises:
        OSError: a file cannot be opened, or a folder holds no log.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    once = any(os.fspath(each) == STDIN for each in paths)
    look = _Look()
    if not once:
        portions = portions_of(sources_of(paths), _half(progress, 0))
        for _, found, _ in thinned(portions, None, cores() if workers is None else workers):
            look.take(found.runs)
    ordered = _Ordered(take, None if once else look.disordered)
    read(paths, ordered, progress=progress if once else _half(progress, 1))
    ordered.finish()
    ordered.set_back = look.set_back
    return ordered


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


class _Look:
    """Finds the runs whose events do not come in order, and those whose clock was set back."""

    def __init__(self) -> None:
        self.disordered: set[str] = set()
        self.set_back: dict[str, tuple[str, str]] = {}
        self._runs: dict[str, RunPart] = {}

    def take(self, parts: Iterable[RunPart]) -> None:
        """The next part of the log."""
        for part in parts:
            before = self._runs.setdefault(part.run, part)
            if before is not part:
                if part.begin is not None and part.begin <= before.end:
                    self.disordered.add(part.run)
                else:
                    before.clock.follow(part.clock)
                before.end = max(before.end, part.end)
            if not part.in_order:
                self.disordered.add(part.run)
            if before.clock.back is not None:
                self.set_back[part.run] = before.clock.back


class _Ordered(EventSink):
    """Passes events on; keeps those of the *disordered* runs (None: of all) to the end."""

    def __init__(
        self, take: Callable[[Sequence[Event]], None], disordered: set[str] | None
    ) -> None:
        super().__init__()
        self._take = take
        self._disordered = disordered
        self._last: dict[str, int] = {}
        self._kept: dict[str, list[Event]] = {}

    def add_all(self, events: Sequence[Event]) -> None:
        """Pass *events* on, or keep them."""
        self.events += len(events)
        if self._disordered is None or self._disordered:
            at_once: list[Event] = []
            for event in events:
                if self._disordered is None or event.run in self._disordered:
                    self._kept.setdefault(event.run, []).append(event)
                else:
                    at_once.append(event)
            events = at_once
        self._pass_on(events)

    def _pass_on(self, events: Sequence[Event]) -> None:
        new: list[Event] = []
        last = self._last
        for event in events:
            if event.seq > last.get(event.run, -1):
                last[event.run] = event.seq
                new.append(event)
            elif not isinstance(event, ProcessStart | ProcessDropped):
                self.repeats[event.run] = self.repeats.get(event.run, 0) + 1
        if new:
            self._take(new)

    def finish(self) -> None:
        """Pass on what was kept, sorted."""
        for events in self._kept.values():
            events.sort(key=attrgetter("seq"))
            self._pass_on(events)
        self._kept.clear()
