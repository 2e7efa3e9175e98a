"""What ``aioaudit why`` says to people.

The answer comes first, in one sentence, then the evidence: the chain as a tree
in the order of time, the root cause on top.  Whatever comes out of the log
passes through `escape_unprintable` and is never read as markup.
"""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from typing import TypeAlias

from rich import text as rich_text
from rich.padding import Padding
from rich.table import Table
from rich.tree import Tree

from aioaudit.chain import summary
from aioaudit.chain.links import Link
from aioaudit.chain.walk import Step
from aioaudit.cli.terminal import (
    WIDE,
    RelativePath,
    clock,
    console,
    plural,
    print_line,
    since,
    write,
)
from aioaudit.cli.why_words import (
    OTHERWISE,
    Row,
    asked_more,
    by_cause,
    cause_in_words,
    ending,
    found_of,
    headline,
    housekeeping_line,
    listed,
    sentence_of,
    signalled,
    told,
)
from aioaudit.log import Case, Log
from aioaudit.log.incidents import (
    housekeeping,
    incident_of,
)
from aioaudit.log.senders import sender_of
from aioaudit.text import escape_unprintable

MOST_STEPS = 12
"""Of a longer chain only the two ends are shown."""

MOST_ROWS = 1_000
"""At most this many root causes are shown, worst first; more are counted."""

NARROW = 100
"""On a screen with fewer columns a root cause has a line of its own, below its row."""

LONGEST_NAME = 40
"""A task with a longer name is asked for by its number."""


class Text:
    """Answers from *log* on stdout; *call* is the command to repeat for a further question."""

    def __init__(self, log: Log, call: str) -> None:
        self._log = log
        self._call = call
        self._show = RelativePath()
        self._console = console()

    # One task

    def answer(self, case: Case) -> None:
        """The whole answer for one task."""
        steps = case.steps()
        self._line(sentence_of(case, steps, self._show), "bold")
        print_line()
        write(self._console, self._tree(steps, case))
        print_line()
        parts = (
            ending(case, self._show),
            signalled(sender_of(self._log, case), self._show),
            asked_more(case, self._show),
            found_of(case, self._show),
            self._siblings(case),
        )
        for line in itertools.chain(*parts):
            self._line(line)
        self._line(
            f"task {case.task} of run {case.run.id}, pid {case.run.pid}{self._parent(case)}", "dim"
        )

    def _tree(self, steps: list[Step], case: Case) -> Tree:
        start = _ts(steps[-1], case)
        tree = branch = Tree(self._node(steps[-1], case, start, root=True), guide_style="dim")
        rest = steps[-2::-1]
        left_out = len(rest) - MOST_STEPS
        for index, step in enumerate(rest):
            if left_out > 0 and index == MOST_STEPS // 2:
                more = f"{left_out:,} more {plural('step', left_out)} (--json has them all)"
                branch = branch.add(rich_text.Text(more, "dim"))
            if left_out <= 0 or not MOST_STEPS // 2 <= index < MOST_STEPS // 2 + left_out:
                branch = branch.add(self._node(step, case, start))
        return tree

    def _node(self, step: Step, case: Case, start: str, *, root: bool = False) -> rich_text.Text:
        ts = _ts(step, case)
        node = rich_text.Text()
        if root:
            node.append(f"{clock(ts, date=True)} UTC  ", "dim")
            known = summary.is_known(step.link)
            node.append("root cause: " if known else "root cause unknown: ", "bold red")
        elif ts:
            node.append(f"{since(start, ts)}  ", "dim")
        first, *more = told(step, case, self._show)
        node.append(first)
        if step.concluded:
            node.append(" [inferred]", "yellow")
        elif step.request is not None and step.request.evidence != "observed":
            node.append(f" [{escape_unprintable(step.request.evidence)}]", "yellow")
        for line in more:
            node.append("\n" + line)
        return node

    def _siblings(self, case: Case) -> list[str]:
        same, root = incident_of(case), case.root()
        names = [
            each.name
            for each in self._log.cases()
            if each.key != case.key
            and each.outcome in ("cancelled", "pending")
            and each.run is case.run
            and incident_of(each) == same
            and each.root() == root  # two clients may have left, of which only one is known
        ]
        if not names:
            return []
        tasks = plural("task", len(names))
        return [f"{len(names):,} other {tasks} died of the same cause: {listed(names)}"]

    def _parent(self, case: Case) -> str:
        parent = self._log.parent(case.run)
        if parent is None:
            return ""
        how = "forked from" if parent.evidence == "observed" else "probably started by"
        return f", {how} run {parent.run.id}, pid {parent.run.pid}"

    # Several tasks

    def choice(self, task: str, cases: list[Case]) -> None:
        """The tasks that *task* may mean, one line each."""
        self._line(f"{len(cases):,} cancelled tasks match {task!r}; which one?", "bold")
        print_line()
        date = _several_days(cases)
        rows: list[_Cells] = [
            (
                escape_unprintable(case.key),
                str(case.run.pid),
                summary.who(case.name, case.coro),
                clock(case.ts, date=date),
                OTHERWISE.get(
                    "swallowed" if case.kept else case.cancel_outcome or "", case.outcome
                ),
                self._cause(case.root()),
            )
            for case in cases[:MOST_ROWS]
        ]
        self._table(("ASK FOR", "PID", "TASK", "CANCELLED", "BECAME", "ROOT CAUSE"), rows)
        if len(cases) > MOST_ROWS:
            self._line(f"and {len(cases) - MOST_ROWS:,} more (--json has them all)")
        self._further(cases[0].key)

    def table(self, cases: list[Case], *, show_all: bool = False) -> None:
        """All cancellations by root cause, worst first; housekeeping only if *show_all*."""
        incidents: list[Case] = []
        rest: list[Case] = []
        for case in cases:
            (incidents if housekeeping(case) is None else rest).append(case)
        shown, hidden = by_cause(incidents), by_cause(rest)
        named = {row.first.name for rows in (shown, hidden) for row in rows[:MOST_ROWS]}
        names = Counter(name for case in cases if (name := case.name) in named)
        self._line(headline(incidents, shown), "bold")
        if shown:
            print_line()
            self._rows(shown, names)
        if hidden:
            print_line()
            self._line(housekeeping_line(rest) + ("" if show_all else "; --all shows it"))
            if show_all:
                print_line()
                self._rows(hidden, names)
        self._further(self._example((shown or hidden)[0].first, names))

    def _rows(self, worst: list[Row], names: Counter[str]) -> None:
        # What happened at one line in several processes is one row, and several incidents.
        several = len(self._log.runs) > 1
        runs = ["RUNS"] if several else []
        date = len({case.ts[:10] for row in worst for case in (row.first, row.last)}) > 1
        rows: list[_Cells] = [
            (
                f"{row.tasks:,}",
                *([f"{len(row.runs):,}"] if several else []),
                clock(row.first.ts, date=date),
                clock(row.last.ts, date=date),
                escape_unprintable(self._example(row.first, names)),
                self._cause(row.root),
            )
            for row in worst[:MOST_ROWS]
        ]
        self._table(("TASKS", *runs, "FIRST", "LAST", "ASK FOR", "ROOT CAUSE"), rows)
        if len(worst) > MOST_ROWS:
            self._line(f"and {len(worst) - MOST_ROWS:,} more (--json has them all)")

    def _table(self, columns: tuple[str, ...], rows: list[_Cells]) -> None:
        """*rows* in *columns*; on a narrow screen the last cell of each is on lines of its own."""
        if self._console.width >= NARROW:
            table = _table(*columns)
            for row in rows:
                table.add_row(*row)
            write(self._console, table)
            return
        # One table, so that the columns are as wide in every row; a screen wraps what it has no
        # room for, and what is to be asked for is never cut.
        table = _table(*columns[:-1], last=False)
        for row in rows:
            table.add_row(*row[:-1])
        with self._console.capture() as captured:
            self._console.print(table, width=WIDE, crop=False)
        head, *lines = captured.get().splitlines()
        print_line(head.rstrip())
        for line, row in zip(lines, rows, strict=True):
            print_line(line.rstrip())
            write(self._console, Padding(row[-1], (0, 0, 0, 4)))

    def _cause(self, root: Link) -> rich_text.Text:
        style = "" if summary.is_known(root) else "yellow"
        return rich_text.Text(cause_in_words(root, self._show), style)

    def _example(self, case: Case, names: Counter[str]) -> str:
        """What to ask for: a name that means one task, is short and needs no quotes, else the id."""
        name = case.name
        plain = shlex.quote(name) == name and not name.isdigit() and name[0] != "-"
        if plain and names[name] == 1 and len(name) <= LONGEST_NAME:
            return name
        return case.key if len(self._log.runs) > 1 else str(case.task)

    def _further(self, example: str) -> None:
        print_line()
        self._line(f"Ask further: {self._call} --task {shlex.quote(example)}")

    def _line(self, text: str, style: str = "") -> None:
        write(self._console, rich_text.Text(escape_unprintable(text), style))


_Cells: TypeAlias = tuple[str | rich_text.Text, ...]


def _table(*columns: str, last: bool = True) -> Table:
    """A table with *columns*, the last of which is wrapped if *last*."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        wraps = last and column == columns[-1]
        table.add_column(
            column,
            no_wrap=not wraps,
            overflow="fold",
            justify="right" if column in ("TASKS", "RUNS") else "left",
        )
    return table


def _ts(step: Step, case: Case) -> str:
    if step.request is not None:
        return step.request.ts
    return case.ts if step.link.task == case.task else ""


def _several_days(cases: list[Case]) -> bool:
    return len({case.ts[:10] for case in cases}) > 1
