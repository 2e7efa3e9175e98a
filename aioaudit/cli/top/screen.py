"""The screen: what of the board is where, what is chosen, what is open.

Lines are lists of pieces, each a style and a text.  Keys come in as calls of methods; nothing
here reads or draws.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aioaudit.cli.terminal import page, plural
from aioaudit.cli.top.board import Board, Part, Row, Words
from aioaudit.cli.top.model import LIMIT, MOST_INCIDENTS, SLOW, Model
from aioaudit.cli.top.rates import WINDOW
from aioaudit.cli.top.stories import MOST_LINES, Incident
from aioaudit.cli.why_text import Text
from aioaudit.log import Case, Log
from aioaudit.text import MARK, escape_unprintable

Line: TypeAlias = list[tuple[str, str]]

BAR, HEAD, CHOSEN, BAD, DIM, WARN, PLAIN = "bar", "head", "chosen", "bad", "dim", "warn", ""
"""Styles of pieces."""

MOST_WARNINGS = 2
"""So many warnings have a line of their own; help shows all."""

MOST_MARKS = 2
"""So many marks may stand above or below one character."""

KEYS = "enter open  tab part  / search  p pause  h housekeeping  ? help  q quit"
KEYS_SEARCHING = "enter done  esc search no more"
KEYS_OPEN = "up/down scroll  left/right task  n/b incident  q back"
KEYS_HELP = "up/down scroll  q back"

HELP = (
    "up, down, j, k      choose a row",
    "tab                 the next part",
    "pages, home, end    many rows, the first, the last one",
    "enter               open it: who was cancelled, and why",
    "left, right         in what is open: the other tasks of that incident",
    "n, b                in what is open: the next incident, the one before",
    "/                   only rows with what you type: a task, a function, a cause",
    "p                   the screen stands still, while what comes is counted",
    "h                   housekeeping, too: cancellations that hurt nobody",
    "q, esc              back; q leaves in the end, and Ctrl-C at once",
    "",
    "Rates are those of the last 10 seconds; times are the log's, in UTC. A cancellation counts when"
    " a task was asked to cancel, or died because what it awaited was cancelled. A task is said"
    f" not to end {SLOW:g} s after it was asked. With ! something went wrong: see aioaudit check.",
    "",
    f"Kept are the counts of the last {WINDOW // 60} minutes, and {MOST_INCIDENTS:,} incidents with up"
    f" to {MOST_LINES:,} lines each, {LIMIT >> 20} MiB in all: housekeeping goes first, then what is"
    " over, the oldest first. What went for want of room is counted.",
)


@dataclass
class Open:
    """An incident that is open.

    Attributes:
        row: The row that it was opened with.
        incident: The incident.
        log: Its lines.
        cases: The tasks that it reached.
        at: Which of them is shown.
        seen: What the incident was like when its lines were read.
    """

    row: Row
    incident: Incident
    log: Log
    cases: list[Case]
    at: int
    seen: tuple[int, int]


class Screen:
    """What is on the screen.

    Args:
        model: What is shown.
        title: Whose log it is.
        width_of: Gives the columns that a text takes on the terminal.
    """

    def __init__(self, model: Model, title: str, width_of: Callable[[str], int]) -> None:
        self._model = model
        self._words = Words(model)
        self._title = title
        self._width_of = width_of
        self.search = ""
        self.searching = False
        self.everything = False
        """Whether housekeeping is shown, too."""
        self.paused = False
        self._paused_at = 0
        self.board = Board("", "", [], [])
        self._notes: list[str] = []
        self.chosen: Hashable = None
        self._index = 0
        self._starts: dict[str, int] = {}
        self.open: Open | None = None
        self.helping = False
        self._scroll = 0
        self._pages: tuple[object, list[str]] = (None, [])
        self._height = 24

    # -- what is told --------------------------------------------------------------------------

    def refresh(self, state: str, notes: Sequence[str] = (), *, anyway: bool = False) -> None:
        """Look at the model again, unless the screen is to stand still; *anyway*: even then."""
        self._notes = list(notes)
        if self.paused and not anyway:
            return
        self.board = self._words.board(
            state=state, search=self.search, everything=self.everything, notes=notes
        )
        rows = self.board.rows()
        keys = [row.key for row in rows]
        if self.chosen in keys:
            self._index = keys.index(self.chosen)
        elif self.chosen is not None:
            self._index = min(self._index, max(len(rows) - 1, 0))
            self.chosen = keys[self._index] if keys else None
        opened = self.open
        if (
            opened is not None
            and not opened.incident.gone
            and opened.seen != _seen(opened.incident)
        ):
            self._read(opened)

    @property
    def keys(self) -> str:
        """The keys that mean something now."""
        if self.searching:
            return KEYS_SEARCHING
        if self.helping:
            return KEYS_HELP
        return KEYS if self.open is None else KEYS_OPEN

    # -- keys ----------------------------------------------------------------------------------

    def move(self, by: int) -> None:
        """Choose the row that is so many further down, or scroll what is open."""
        if self.open is not None or self.helping:
            self._scroll = max(self._scroll + by, 0)
            return
        rows = self.board.rows()
        if rows:
            start = self._index if self.chosen is not None else self._first(rows) - (by > 0)
            self._choose(rows, min(max(start + by, 0), len(rows) - 1))

    def page(self, by: int) -> None:
        """The same, by screens."""
        self.move(by * max(self._height - 4, 1))

    def end(self, *, last: bool) -> None:
        """The first or the last row, or line."""
        self.move(1_000_000 if last else -1_000_000)

    def part(self) -> None:
        """Choose the first row of the next part that has any."""
        if self.open is not None or self.helping:
            return
        rows = self.board.rows()
        ends = list(itertools.accumulate(len(part.rows) for part in self.board.parts))
        starts = [end - len(part.rows) for end, part in zip(ends, self.board.parts, strict=True)]
        filled = [start for start, end in zip(starts, ends, strict=True) if end > start]
        if filled:
            here = self._index if self.chosen is not None else -1
            self._choose(rows, next((start for start in filled if start > here), filled[0]))

    def enter(self) -> None:
        """Open what is chosen; the last incident where nothing is."""
        rows = self.board.rows()
        if self.open is not None or self.helping or not rows:
            return
        if self.chosen is None:
            self._choose(rows, self._first(rows))
        self._open(rows[self._index])

    def back(self) -> bool:
        """Close what is open; False where nothing is."""
        self._scroll = 0
        if self.helping:
            self.helping = False
        elif self.open is not None:
            self.open = None
        elif self.search:
            self.search = ""
        else:
            return False
        return True

    def task(self, by: int) -> None:
        """Another task of the open incident."""
        if self.open is not None and self.open.cases:
            self.open.at = (self.open.at + by) % len(self.open.cases)
            self._scroll = 0

    def incident(self, by: int) -> None:
        """Another incident, while one is open."""
        if self.open is None or self.helping:
            return
        rows = self.board.rows()
        at = self._index + by
        while 0 <= at < len(rows) and rows[at].incident is None:
            at += by
        if 0 <= at < len(rows):
            self._choose(rows, at)
            self._open(rows[at])

    def pause(self) -> None:
        """Have the screen stand still, or go on."""
        self.paused = not self.paused
        self._paused_at = self._model.events

    def help(self) -> None:
        """Say what keys do, and all that is wrong."""
        self.helping = True
        self._scroll = 0

    def _choose(self, rows: Sequence[Row], index: int) -> None:
        self._index = index
        self.chosen = rows[index].key

    def _first(self, rows: Sequence[Row]) -> int:
        """The row that is meant where none was chosen: the last incident."""
        return next((at for at, row in enumerate(rows) if isinstance(row.key, Incident)), 0)

    def _open(self, row: Row) -> None:
        if row.incident is not None and not row.incident.gone:
            self.open = Open(row, row.incident, Log(), [], 0, (0, 0))
            self._scroll = 0
            self._read(self.open)

    def _read(self, what: Open) -> None:
        shown = what.cases[what.at].task if what.cases else what.row.task
        what.seen = _seen(what.incident)
        what.log, what.cases = self._model.cases(what.incident)
        tasks = [case.task for case in what.cases]
        what.at = tasks.index(shown) if shown in tasks else 0
        self._pages = (None, [])

    # -- lines ---------------------------------------------------------------------------------

    def lines(self, width: int, height: int) -> list[Line]:
        """The whole screen but for its last line, as so many lines of so many columns."""
        self._height = height
        if height < 1 or width < 1:
            return []
        head = [(BAR, self._both(self._headline(), self._state(), width))]
        found: list[Line] = [head]
        if self.helping:
            found += self._scrolled(self._help(width), width, height - 1)
        elif self.open is not None:
            found += self._opened(self.open, width, height - 1)
        else:
            found += self._overview(width, height - 1)
        return [*found, *([] for _ in range(height - len(found)))][:height]

    def _headline(self) -> str:
        if self.helping:
            return "aioaudit top: help"
        if self.open is None:
            search = f"  / {escape_unprintable(self.search)}" if self.search else ""
            return f"aioaudit top  {escape_unprintable(self._title)}{search}"
        count = len(self.open.cases)
        which = f", {self.open.at + 1:,} of {count:,} (left, right)" if count > 1 else ""
        return f"aioaudit top: why it was cancelled{which}"

    def _state(self) -> str:
        board = self.board
        if self.paused:
            since = self._model.events - self._paused_at
            events = plural("event", since)
            return f"PAUSED at {board.clock} UTC, {since:,} {events} since"
        return f"{board.state}  {board.clock} UTC" if board.clock else board.state

    def _overview(self, width: int, height: int) -> list[Line]:
        board = self.board
        found: list[Line] = [[(PLAIN, self._cut(fact, width))] for fact in board.facts]
        warnings = board.warnings
        shown = warnings[:MOST_WARNINGS]
        for at, warning in enumerate(shown, 1):
            rest = len(warnings) - at if at == len(shown) else 0
            more = f"  (? shows {rest} more)" if rest else ""
            found.append([(WARN, self._cut(f"! {warning}", width - len(more)) + more)])
        parts = [part for part in board.parts if part.rows or part.empty]
        room = max(height - len(found) - 2 * len(parts), 0)
        at = 0
        for part, rows in zip(
            parts, _shared([len(part.rows) or 1 for part in parts], room), strict=True
        ):
            found.append([])
            found += self._part(part, at, rows, width)
            at += len(part.rows)
        return found[:height]

    def _part(self, part: Part, at: int, room: int, width: int) -> list[Line]:
        """The heading of *part*, whose first row is the one with the number *at*, and *room* rows."""
        start = self._starts.get(part.columns[-1][0], 0)
        start = min(start, max(len(part.rows) - room, 0))
        chosen = self._index - at if self.chosen is not None else -1
        if 0 <= chosen < len(part.rows) and room:
            start = min(max(start, chosen - room + 1), chosen)
        self._starts[part.columns[-1][0]] = start
        title = part.title
        total = len(part.rows) + part.more
        if total > room:
            title += f" {start + 1:,}-{start + min(room, len(part.rows)):,} of {total:,}"
        if part.hidden:
            title += f"  (h: {part.hidden:,} more)"
        names = [name for name, _ in part.columns[:-1]]
        found: list[Line] = [[(HEAD, self._row(part, (*names, title), width, " "))]]
        for number, row in enumerate(part.rows[start : start + room], start):
            is_chosen = number == chosen
            style = CHOSEN if is_chosen else row.style
            found.append([(style, self._row(part, row.cells, width, ">" if is_chosen else " "))])
        if not part.rows:
            found.append([(DIM, self._cut(f"  {part.empty}", width))])
        return found

    def _row(self, part: Part, cells: Sequence[str], width: int, mark: str) -> str:
        text = mark
        for cell, (_, columns) in zip(cells, part.columns, strict=True):
            if columns == 0:
                text += self._cut(cell, max(width - self._width_of(text), 0))
            elif columns < 0:
                text += self._pad(cell, -columns, right=True) + "  "
            else:
                wide = columns + max(width - 80, 0) // 4 if columns >= 20 else columns
                text += self._pad(cell, min(wide, max(width // 4, 8)), right=False) + "  "
        return self._pad(self._cut(text, width), width, right=False)

    def _opened(self, what: Open, width: int, height: int) -> list[Line]:
        key = (id(what), what.at, width, what.seen)
        if self._pages[0] != key:
            self._pages = (key, self._answer(what, width))
        return self._scrolled(self._pages[1], width, height)

    def _answer(self, what: Open, width: int) -> list[str]:
        """What ``aioaudit why`` says of the task."""
        lines: list[str] = []
        if what.incident.before:
            lines += [
                f"The first {what.incident.before:,} lines about this incident are not kept here: the "
                "log itself may know more.",
                "",
            ]
        if not what.cases:
            return [*lines, "Nothing more is known of it here."]
        with page(width) as written:
            Text(what.log, "aioaudit why").answer(what.cases[what.at])
        return [*lines, *written]

    def _help(self, width: int) -> list[str]:
        lines = list(HELP)
        warnings = [*self.board.warnings]
        warnings += [str(each) for each in self._model.problems[:10]]
        if warnings:
            lines += ["", "What is wrong:", *(f"! {escape_unprintable(each)}" for each in warnings)]
        return list(itertools.chain.from_iterable(self._wrapped(line, width) for line in lines))

    def _scrolled(self, lines: Sequence[str], width: int, height: int) -> list[Line]:
        wrapped = list(itertools.chain.from_iterable(self._wrapped(line, width) for line in lines))
        self._scroll = min(self._scroll, max(len(wrapped) - height, 0))
        shown = wrapped[self._scroll : self._scroll + height]
        found: list[Line] = [[(PLAIN, line)] for line in shown]
        below = len(wrapped) - self._scroll - len(shown)
        if below and found:
            found[-1] = [(DIM, self._cut(f"({below + 1:,} more lines: down)", width))]
        return found

    # -- text ----------------------------------------------------------------------------------

    def _both(self, left: str, right: str, width: int) -> str:
        """*left* and *right* at the two ends of a line."""
        right = self._cut(right, width)
        left = self._cut(left, max(width - self._width_of(right) - 2, 0))
        return self._pad(left, width - self._width_of(right), right=False) + right

    def _cut(self, text: str, width: int) -> str:
        """*text*, if it is too long for *width* columns with a mark at its end."""
        text = _bare(text)
        if self._width_of(text) <= width:
            return text
        if width < 1:
            return ""
        kept, taken = [], 0
        for each in text:
            taken += self._width_of(each)
            if taken > width - 1:
                break
            kept.append(each)
        return "".join(kept) + MARK

    def _pad(self, text: str, width: int, *, right: bool) -> str:
        text = self._cut(text, width)
        blanks = " " * (width - self._width_of(text))
        return blanks + text if right else text + blanks

    def _wrapped(self, line: str, width: int) -> list[str]:
        """*line* on as many lines as it takes, those after the first as far in as that."""
        line = _bare(line)
        found: list[str] = []
        indent = ""
        while self._width_of(line) > width > len(indent) + 1:
            head = self._cut(line, width + 1)[:-1]
            cut = head.rfind(" ", len(indent) + 1)
            if cut <= len(indent):
                cut = len(head)
            found.append(line[:cut])
            if not indent:
                indent = " " * min(_hang(line), width // 2)
            line = indent + line[cut:].lstrip(" ")
        return [*found, line]


def _seen(incident: Incident) -> tuple[int, int]:
    return incident.before + len(incident.lines), len(incident.waiting)


def _shared(wanted: Sequence[int], room: int) -> list[int]:
    """How many rows each part gets of *room*, where each wants so many: an equal share or less."""
    given = [0] * len(wanted)
    left = room
    open_ = [at for at, each in enumerate(wanted) if each]
    while left > 0 and open_:
        share = max(left // len(open_), 1)
        for at in list(open_):
            more = min(share, wanted[at] - given[at], left)
            given[at] += more
            left -= more
            if given[at] == wanted[at]:
                open_.remove(at)
    return given


def _hang(line: str) -> int:
    """How far in a line goes on: where it begins, or its second column does."""
    column = re.match(r" *(\S+ )*\S+ {3,}", line)
    return len(line) - len(line.lstrip(" ")) if column is None else column.end()


_MARKS = re.compile(r"[^\x00-\u02ff]{3,}")


def _bare(text: str) -> str:
    """*text* without towers of marks, which would reach into other lines."""
    if _MARKS.search(text) is None:
        return text
    kept: list[str] = []
    marks = 0
    for each in text:
        marks = marks + 1 if unicodedata.category(each) in ("Mn", "Me") else 0
        if marks <= MOST_MARKS:
            kept.append(each)
    return "".join(kept)


def text_of(lines: Iterable[Line]) -> list[str]:
    """*lines* as they read."""
    return ["".join(text for _, text in line) for line in lines]
