"""The events of a log in the order in which they happened, run by run.

What an exporter is to see afterwards must come as it came to the program's own
exporters: in the order of ``seq``, each event once.  Files are written that
way, so they are looked through first, and then read a second time without
keeping anything.  Only the runs whose lines are in disorder (files of one run
in another order, lines that were shuffled) are kept in memory and sorted, and
so is standard input, which cannot be read twice.

Who can do with the rest of a part in brief (`aioaudit.log.brief`) is given that: then other processes
have most of the work.  And who can begin again is given all at the first reading; only where that
comes upon a disorder all is done once more, as above.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import compress
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias

from aioaudit.events import Event, ProcessDropped, ProcessStart
from aioaudit.log.brief import Brief, RunInBrief
from aioaudit.log.parsing import parse
from aioaudit.log.portions import Portion, Progress, portions_of
from aioaudit.log.reading import Place, read
from aioaudit.log.sources import STDIN, Paths, opened, sources_of
from aioaudit.log.store import EventSink
from aioaudit.log.thinning import RunPart
from aioaudit.log.workers import Found, Wanted, cores, thinned

Take: TypeAlias = Callable[[Sequence[Event]], None]
"""Takes events."""

TakeBrief: TypeAlias = Callable[[Sequence[Event], Brief], bool]
"""Takes the events that were kept of a part, and the brief of the rest; or does nothing and says False:
all of the part is to be taken."""


def read_in_order(
    path: Paths,
    take: Take,
    *,
    take_brief: TakeBrief | None = None,
    again: Callable[[], None] | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> EventSink:
    """Give every event of a log to *take*; the events of one run come in order, each once.

    *path*, *progress* and *workers* are as for `aioaudit.log.answering.load_to_answer`.  What could not be
    read is in the result.

    Args:
        take_brief: Is given what it can take, instead of *take*.
        again: Is called where all that *take_brief* and *take* were given is void, and comes once more.

    Raises:
        OSError: a file cannot be opened, or a folder holds no log.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    helpers = cores() if workers is None else workers
    if any(os.fspath(each) == STDIN for each in paths):
        ordered = _Ordered(take, None)
        read(paths, ordered, progress=progress)
        ordered.finish()
        return ordered
    if take_brief is not None and again is not None:
        ordered = _Ordered(take, set(), take_brief)
        if _read_at_once(paths, ordered, progress, helpers):
            return ordered
        again()
    look = _Look()
    portions = portions_of(sources_of(paths), _half(progress, 0))
    for _, found, _ in thinned(portions, Wanted("order"), helpers):
        look.take(found.runs)
    ordered = _Ordered(take, look.disordered, take_brief)
    if look.disordered or take_brief is None:
        read(paths, ordered, progress=_half(progress, 1))
    else:
        for portion, found, events in _found(paths, ordered, _half(progress, 1), helpers):
            ordered.add_part(portion, found, events)
    ordered.finish()
    ordered.set_back = look.set_back
    return ordered


def _read_at_once(
    paths: Sequence[str | os.PathLike[str]],
    ordered: _Ordered,
    progress: Progress | None,
    helpers: int,
) -> bool:
    """Give all to *ordered*; False, and not all of it, where it is in disorder."""
    for name, listed in sources_of(paths):
        if listed and not Path(name).is_fifo():
            with opened(name):  # so that nothing is given where a file is not there
                pass
    look = _Look()
    with closing(_found(paths, ordered, progress, helpers)) as parts:
        for portion, found, events in parts:
            look.take(found.brief.runs)
            if look.disordered:
                return False
            ordered.add_part(portion, found, events)
    ordered.set_back = look.set_back
    return True


def _found(
    paths: Paths, ordered: _Ordered, progress: Progress | None, helpers: int
) -> Generator[tuple[Portion, Found, list[Event]]]:
    """What is in the log in brief; *ordered* is told of the rest."""
    place = Place(ordered)
    with closing(
        thinned(portions_of(sources_of(paths), progress), Wanted("spans"), helpers)
    ) as parts:
        for portion, found, events in parts:
            place.told(portion, found.count, found.damaged, found.problems, found.zone)
            yield portion, found, events
            ordered.skip_unknown(found.unknown)


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
        self._runs: dict[str, RunPart | RunInBrief] = {}

    def take(self, parts: Iterable[RunPart | RunInBrief]) -> None:
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
        self, take: Take, disordered: set[str] | None, take_brief: TakeBrief | None = None
    ) -> None:
        super().__init__()
        self._take = take
        self._take_brief = take_brief
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

    def add_part(self, portion: Portion, found: Found, events: Sequence[Event]) -> None:
        """Pass on what is in *portion*: the *events* that were kept, and what was *found*."""
        last = self._last
        runs = found.brief.runs
        if not all(
            each.in_order and (each.begin is None or each.begin > last.get(each.run, -1))
            for each in runs
        ):
            self._take_brief = None  # somebody has put other files there meanwhile
        if self._take_brief is not None:
            # A process.start is told again where a file begins: nothing comes between it and that.
            new = [event.seq > last.get(event.run, -1) for event in events]
            brief = Brief(runs, list(compress(found.brief.before, new)))
            if self._take_brief(list(compress(events, new)), brief):
                self.events += found.events
                for each in runs:
                    last[each.run] = max(each.end, last.get(each.run, -1))
                return
        self.add_all(parse(portion.file, portion.data, cut=portion.cut).events)

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
