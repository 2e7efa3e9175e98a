"""What the screen says, in words and rows: made from the model, and still the same while it stands.

Nothing here knows how wide the screen is, nor how it is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aioaudit.chain import summary
from aioaudit.chain.links import Link
from aioaudit.cli.terminal import RelativePath, plural
from aioaudit.cli.top.model import SLOW, Model
from aioaudit.cli.top.stories import Asked, Cause, Incident
from aioaudit.text import escape_unprintable

MOST_ROWS = 200
"""Rows of one part that one can go through; more are counted."""

_FOLDERS = re.compile(r"(?<![^\s(])/(?:[^\s/]+/)+(?=[^\s/]+/[^\s/]+:\d)")
"""What is left out of a path before its last two parts."""

RECENTLY = 10
"""Seconds over which rates are taken."""


@dataclass
class Row:
    """A line that can be chosen.

    Attributes:
        key: Names what it is about, whatever moves.
        cells: What it says; the last one has all the room that is left.
        incident: What is opened with it; None where that is not kept any more.
        task: The task that is shown first then.
        style: What it looks like: empty, ``bad`` or ``dim``.
    """

    key: Hashable
    cells: tuple[str, ...]
    incident: Incident | None
    task: int | None = None
    style: str = ""


@dataclass
class Part:
    """Rows under a heading.

    Attributes:
        title: The heading.
        columns: What is in the cells, and how wide they are; negative for numbers, 0 for the last one.
        rows: The rows.
        more: How many more there are that are not among them.
        empty: What is said where there are none.
        hidden: How many more there are of housekeeping, which is not shown.
    """

    title: str
    columns: tuple[tuple[str, int], ...]
    rows: list[Row]
    more: int = 0
    empty: str = ""
    hidden: int = 0


@dataclass
class Board:
    """All that is shown.

    Attributes:
        state: Whether it goes on: ``live``, ``reading``, ``ended``, ...
        clock: The time of the log.
        facts: Lines of figures.
        warnings: What is wrong with what is shown.
        parts: The rows.
    """

    state: str
    clock: str
    facts: list[str]
    warnings: list[str]
    parts: list[Part] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """All rows, in order."""
        return [row for part in self.parts for row in part.rows]


class Words:
    """Makes boards of a model.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._relative = RelativePath()

    def board(
        self,
        *,
        state: str,
        search: str = "",
        everything: bool = False,
        notes: Sequence[str] = (),
    ) -> Board:
        """What is to be shown now.

        Args:
            state: How far reading is.
            search: Only rows that hold this.
            everything: Housekeeping as well.
            notes: What else is to be known, beside what the model itself has to say.
        """
        model = self._model
        model.judge()
        now = int(model.now())
        board = Board(
            state=state,
            clock=_clock(now) if now else "",
            facts=self._facts(now),
            warnings=[*self._warnings(), *notes],
        )
        needle = search.casefold()
        found = self._found(needle, everything=everything)
        board.parts = [
            self._causes(now, needle, found, everything=everything),
            self._waiting(model.now(), needle),
            self._incidents(found, needle, everything=everything),
        ]
        return board

    def _found(self, needle: str, *, everything: bool) -> list[Incident]:
        """The incidents that are to be shown, the last first."""
        shelf = self._model.shelf
        found = shelf.loud()
        if everything:
            found = sorted([*found, *shelf.quiet()], key=_latest, reverse=True)
        return [
            each for each in found if each.count and (not needle or self._matches(each, needle))
        ]

    # -- figures -------------------------------------------------------------------------------

    def _facts(self, now: int) -> list[str]:
        model = self._model
        living = model.living()
        tasks = "tasks    "
        if living is None:
            tasks += "the log does not tell how they are made"
        else:
            tasks += f"{_rate(model.made.last(RECENTLY, now))} made"
            tasks += f"   {_rate(model.ended.last(RECENTLY, now))} ended"
            tasks += f"   {_rate(model.failed.last(RECENTLY, now))} failed   {living:,} alive"
        asked = model.asked
        cancels = f"cancels  {_rate(asked.last(RECENTLY, now))} asked"
        cancels += f"   in 1 min {asked.last(60, now):,}   5 min {asked.last(300, now):,}"
        cancels += f"   in all {asked.total:,}"
        return [tasks, cancels]

    def _warnings(self) -> list[str]:
        model = self._model
        found: list[str] = []
        lost = sum(run.dropped for run in model.runs.values())
        if lost:
            found.append(f"{lost:,} {plural('event', lost)} lost before they were written")
        faults = [each for run in model.runs.values() for each in run.faults]
        if faults:
            found.append(f"events may be missing: internal errors of aioaudit: {faults[0]}")
        if model.damaged:
            last = next((each for each in model.problems if each.skipped), None)
            where = "" if last is None else f", the first: {last}"
            found.append(f"{model.damaged:,} damaged {plural('line', model.damaged)}{where}")
        found += [str(each) for each in model.problems if not each.skipped][:1]
        if model.repeated:
            what = plural("event", model.repeated)
            found.append(f"{model.repeated:,} {what} came twice, or too late to be counted")
        shelf = model.shelf
        if shelf.gone:
            incidents = plural("older incident", shelf.gone)
            found.append(f"{shelf.gone:,} {incidents} not kept any more: no room")
        if model.causes_gone:
            causes = plural("older root cause", model.causes_gone)
            found.append(f"{model.causes_gone:,} {causes} not kept any more: no room")
        if model.runs_gone:
            found.append(
                f"{model.runs_gone:,} older {plural('run', model.runs_gone)} forgotten: no room"
            )
        if any(run.blind and run.asked for run in model.runs.values()):
            found.append(
                "the log does not tell how tasks end, so nor which do not (AIOAUDIT_EVENTS)"
            )
        return [escape_unprintable(each) for each in found]

    # -- rows ----------------------------------------------------------------------------------

    def _causes(
        self, now: int, needle: str, found: Sequence[Incident], *, everything: bool
    ) -> Part:
        of_tasks = {each.cause for each in found} if needle else set[Cause]()
        rows: list[tuple[tuple[int, int, int, int], Row]] = []
        quiet = 0
        for kind, cause in self._model.causes.items():
            if not (cause.loud or everything):
                quiet += 1
                continue
            text = self._cause(cause.root)
            if needle and needle not in text.casefold() and cause not in of_tasks:
                continue
            minute, five = cause.times.last(60, now), cause.times.last(300, now)
            cells = (_count(minute), _count(five), _count(cause.times.total), text)
            row = Row(("cause", kind), cells, cause.incident, style=_style(cause))
            rows.append(((minute, five, cause.times.total, cause.last), row))
        rows.sort(key=_rank, reverse=True)
        return Part(
            title="ROOT CAUSES",
            hidden=quiet,
            columns=(("1 min", -6), ("5 min", -6), ("all", -6), ("cause", 0)),
            rows=[row for _, row in rows[:MOST_ROWS]],
            more=max(len(rows) - MOST_ROWS, 0),
            empty="nothing found" if needle else "no task was cancelled",
        )

    def _waiting(self, now: float, needle: str) -> Part:
        found: list[tuple[float, Asked]] = []
        for asked in self._model.waiting():
            age = now - asked.since
            ended_log = not self._model.following
            if age >= SLOW or ended_log:
                found.append((max(age, 0.0), asked))
        rows = [row for age, asked in found if (row := self._waits(age, asked, needle)) is not None]
        more = sum(run.more_asked for run in self._model.runs.values() if not run.blind)
        return Part(
            title="ASKED TO CANCEL, AND DO NOT END",
            columns=(("since", -6), ("task", 20), ("where it was, and why", 0)),
            rows=rows[:MOST_ROWS],
            more=max(len(rows) - MOST_ROWS, 0) + more,
        )

    def _waits(self, age: float, asked: Asked, needle: str) -> Row | None:
        name = summary.who(asked.name, asked.coro)
        why = self._cause(asked.incident.root)
        if needle and needle not in f"{name}\n{why}".casefold():
            return None
        at = "" if asked.at is None else f"at {escape_unprintable(self._show(asked.at))}; "
        unsure = "its end may be lost; " if asked.unsure else ""
        cells = (_age(age), name, f"{unsure}{at}{why}")
        return Row(("asked", asked.run.id, asked.task), cells, asked.incident, asked.task, "bad")

    def _incidents(self, found: Sequence[Incident], needle: str, *, everything: bool) -> Part:
        shelf = self._model.shelf
        return Part(
            title="LAST INCIDENTS",
            hidden=0 if everything else len(shelf.quiet()),
            columns=(("at", 8), ("tasks", -5), ("task", 20), ("why", 0)),
            rows=[self._incident(each) for each in found[:MOST_ROWS]],
            more=max(len(found) - MOST_ROWS, 0),
            empty="nothing found" if needle else "none",
        )

    def _incident(self, incident: Incident) -> Row:
        name = summary.who(*next(iter(incident.tasks.values()), ("?", "")))
        why = self._cause(incident.root)
        if incident.findings:
            why = f"! {why}"
        cells = (_clock(incident.last), _count(incident.count), name, why)
        style = "dim" if incident.kind else "bad" if incident.findings else ""
        return Row(incident, cells, incident, None, style)

    def _matches(self, incident: Incident, needle: str) -> bool:
        if any(needle in f"{name}\n{coro}".casefold() for name, coro in incident.tasks.values()):
            return True
        return needle in self._cause(incident.root).casefold()

    def _show(self, place: str) -> str:
        """*place* with paths short enough for a row: the file and the folder that it is in."""
        return _FOLDERS.sub("", self._relative(place))

    def _cause(self, root: Link) -> str:
        if summary.is_known(root):
            return summary.cause(root, self._show)
        return f"unknown: {summary.unknown(root, self._show)}"


def _style(cause: Cause) -> str:
    return "" if cause.loud else "dim"


def _rank(found: tuple[tuple[int, int, int, int], Row]) -> tuple[int, int, int, int]:
    return found[0]


def _latest(incident: Incident) -> int:
    return incident.last


def _clock(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%H:%M:%S}"


def _rate(times: int) -> str:
    """*times* in `RECENTLY` seconds, as so many a second."""
    rate = times / RECENTLY
    return f"{rate:,.0f}/s" if rate >= 10 or not times else f"{rate:.1f}/s"


def _count(count: int) -> str:
    return f"{count:,}" if count < 100_000 else f"{count // 1000:,}k"


def _age(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
