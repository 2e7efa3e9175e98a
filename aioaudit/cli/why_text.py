"""What ``aioaudit why`` says to people.

The answer comes first, in one sentence, then the evidence: the chain as a tree
in the order of time, the root cause on top.  Whatever comes out of the log
passes through `escape_unprintable` and is never read as markup.
"""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from typing import NamedTuple, TypeAlias

import msgspec
from rich import text as rich_text
from rich.padding import Padding
from rich.table import Table
from rich.tree import Tree

from aioaudit.chain import summary
from aioaudit.chain.links import Link, RequestFate, RequestSummary, said
from aioaudit.chain.walk import Step, inferred
from aioaudit.cli.terminal import (
    WIDE,
    RelativePath,
    clock,
    console,
    plural,
    print_line,
    since,
    span,
    write,
)
from aioaudit.events import FutureCancel, TaskCancel
from aioaudit.findings.words import particulars, sentence
from aioaudit.log import Case, Log
from aioaudit.log.incidents import (
    CLEANUP,
    GROUP,
    IDLE,
    SHUTDOWN,
    TIMEOUT,
    housekeeping,
    incident_of,
)
from aioaudit.text import clean, escape_unprintable

MOST_STEPS = 12
"""Of a longer chain only the two ends are shown."""

MOST_ROWS = 1_000
"""At most this many root causes are shown, worst first; more are counted."""

MOST_NAMES = 5
"""At most this many siblings or waiters are named; more are counted."""

MOST_REQUESTS = 10
"""At most this many lines tell of other requests to the same task; more requests are counted."""

BECAME: dict[RequestFate, str] = {
    "obeyed": "it obeyed",
    "swallowed": "it swallowed it",
    "absorbed": "taken back with uncancel()",
    "replaced": "it raised another error instead",
    "pending": "its end is not in the log",
    "coalesced": "changed nothing, an earlier one was still to be delivered",
    "delivered": "it was delivered, and the task went on",
    "late": "changed nothing, the task had ended",
}

NARROW = 100
"""On a screen with fewer columns a root cause has a line of its own, below its row."""

LONGEST_NAME = 40
"""A task with a longer name is asked for by its number."""

HOUSEKEEPING = {
    TIMEOUT: ("timeout that its owner handled", "timeouts that their owners handled"),
    SHUTDOWN: ("left over at the end of asyncio.run",) * 2,
    IDLE: ("idle connection whose peer left", "idle connections whose peers left"),
    CLEANUP: ("ended by the task that had made it", "ended by the tasks that had made them"),
    GROUP: ("of a library that ended its own group",) * 2,
}
"""Kinds of housekeeping in words, of one task and of several; the others are a library's own."""

OTHERWISE = {
    "swallowed": "swallowed it",
    "absorbed": "absorbed it",
    "replaced": "raised another error instead",
}


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
        kept = case.kept
        self._line(
            summary.summarise(
                name=case.name,
                coro=case.coro,
                outcome=case.outcome,
                cancel_outcome=case.cancel_outcome if kept is None else "swallowed",
                chain=[step.link for step in steps],
                inferred=inferred(steps),
                swallowed_at=case.swallowed_at if kept is None else kept.swallowed_at,
                show=self._show,
            ),
            "bold",
        )
        print_line()
        write(self._console, self._tree(steps, case))
        print_line()
        told = (self._became(case), self._asked(case), self._found(case), self._siblings(case))
        for line in itertools.chain(*told):
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
        first, *more = self._told(step, case)
        node.append(first)
        if step.concluded:
            node.append(" [inferred]", "yellow")
        elif step.request is not None and step.request.evidence != "observed":
            node.append(f" [{escape_unprintable(step.request.evidence)}]", "yellow")
        for line in more:
            node.append("\n" + line)
        return node

    def _told(self, step: Step, case: Case) -> list[str]:
        """What *step* says: a line, and lines of particulars below it."""
        link, request = step.link, step.request
        if link.what != "cancelled":
            text = summary.cause(link, self._show)
            if link.source is not None and link.what != "called":
                text += f", in {escape_unprintable(link.source)}"
            return [text]
        if request is None:
            text = summary.who(case.name, case.coro) if link.task == case.task else "a request"
            text += " was cancelled" if link.task == case.task else ""
            return [text + ("" if link.detail is None else f": {escape_unprintable(link.detail)}")]
        text = "a future"
        if isinstance(request, TaskCancel):
            text = summary.who(request.name, request.coro)
        text += f" was cancelled, reason {escape_unprintable(request.reason)}"
        if request.at is not None:
            text += f", at {escape_unprintable(self._show(request.at))}"
        if request.source is not None:
            text += f" in {escape_unprintable(request.source)}"
        if request.by_name is not None:
            by = "thread" if request.reason == "thread" else "task"
            text += f", by {by} {escape_unprintable(request.by_name)}"
        root = case.root()
        known = root.message if root.what == "called" else None
        return [text, *self._particulars(link, request, known)]

    def _particulars(
        self, link: Link, request: TaskCancel | FutureCancel, known: str | None
    ) -> list[str]:
        """Lines below that of *request*; *known* is the message that the root cause has told."""
        lines: list[str] = []
        if isinstance(request, TaskCancel):
            if request.suspended_at is not None:
                lines.append(f"it was suspended at {self._show(request.suspended_at)}")
        else:
            names = request.waiter_names or [f"task {task}" for task in request.waiters]
            if names:
                lines.append(f"awaited by {_listed(names)}")
        message = said(request.message)
        if message is not None and message != known:
            lines.append(f"message: {clean(message)}")
        if link.library is not None and request.origin != "called":  # else the root says it
            lines.append(f"{summary.library(link.library, link.library_at)} called cancel()")
        if link.detail is not None:
            lines.append(self._show(link.detail))
        return [escape_unprintable(line) for line in lines]

    def _became(self, case: Case) -> list[str]:
        """What became of the request."""
        end = case.end
        if end is None:
            if case.outcome == "returned":
                return ["It returned all the same."]
            return ["Its end is not in the log."]
        when = f"at {clock(end.ts)}"
        if case.request is not None:
            when += f" ({since(case.request.ts, end.ts)} after the request)"
        if end.lifetime is not None:
            when += f", after a life of {span(end.lifetime).removeprefix('+')}"
        error = "" if end.error is None else f" with {escape_unprintable(end.error)}"
        if end.error_at is not None:
            error += f" at {escape_unprintable(self._show(end.error_at))}"
        if end.outcome == "destroyed":
            return [f"It was destroyed while pending {when}."]
        if end.cancel_outcome == "swallowed":
            place = "" if end.swallowed_at is None else f" at {self._show(end.swallowed_at)}"
            return [
                f"It swallowed the cancellation{escape_unprintable(place)} and {end.outcome}{error} {when}."
            ]
        if end.cancel_outcome == "absorbed":
            place = self._absorbed_at(case)
            if case.kept is not None:  # the finding below says where
                return [
                    f"It swallowed the cancellation, which was then taken back{place};"
                    f" it {end.outcome}{error} {when}."
                ]
            return [f"It absorbed the cancellation{place} and {end.outcome}{error} {when}."]
        if end.cancel_outcome == "replaced":
            return [f"It raised another error instead: it ended{error} {when}."]
        if end.outcome == "cancelled":
            return [f"It obeyed and ended {when}."]
        return [f"It {end.outcome}{error} {when}."]

    def _found(self, case: Case) -> list[str]:
        """What else went wrong with the task's cancellations; notes are for `aioaudit check`."""
        return [
            "Finding: "
            f"{'; '.join([sentence(finding, self._show), *particulars(finding, self._show)])}."
            for finding in case.run.findings_of(case.task)
            if finding.severity == "finding"
        ]

    def _absorbed_at(self, case: Case) -> str:
        after = -1 if case.request is None else case.request.seq
        for event in sorted(case.run.uncancels.get(case.task, []), key=lambda event: event.seq):
            if event.seq > after and event.remaining == 0 and event.at is not None:
                return f" with uncancel() at {escape_unprintable(self._show(event.at))}"
        return " with uncancel()"

    def _asked(self, case: Case) -> list[str]:
        """The other requests that were made to the task while it lived, a line each."""
        answered = None if case.request is None else case.request.seq
        others = [
            each for each in case.requests() if each.seq != answered and each.became != "late"
        ]
        if not others:
            return []
        lines = [f"It was asked {len(others):,} more {plural('time', len(others))}:"]
        alike: dict[tuple[str | None, ...], list[RequestSummary]] = {}
        for each in others:
            line = each.source, each.at, each.library_at
            kind = (each.reason, *line, each.became, each.absorbed_at)
            alike.setdefault(kind, []).append(each)
        groups = list(alike.values())
        date = len({each.ts[:10] for each in others}) > 1
        lines += [f"  {self._asked_line(each, date)}" for each in groups[:MOST_REQUESTS]]
        rest = sum(map(len, groups[MOST_REQUESTS:]))
        if rest:
            lines.append(f"  and {rest:,} more (--json has them all)")
        return lines

    def _asked_line(self, asked: list[RequestSummary], date: bool) -> str:
        """One request, or how often and from when to when there were some that are alike."""
        first, last = asked[0], asked[-1]
        text = clock(first.ts, date=date)
        if last is not first:
            text += f" to {clock(last.ts, date=date)}  {len(asked):,} times"
        text += f"  reason {first.reason}"
        if first.at is not None:
            text += f", at {self._show(first.at)}"
        if first.library is not None:
            text += f", through {summary.library(first.library, first.library_at)}"
        names = {each.by_name: None for each in asked if each.by_name is not None}
        if names:
            by = "thread" if first.reason == "thread" else "task"
            text += f", by {by} {first.by_name}" if len(names) == 1 else ""
            text += f", by {len(names):,} {by}s" if len(names) > 1 else ""
        messages = {said(each.message) for each in asked}
        if messages != {None}:
            only = said(first.message) if len(messages) == 1 else None
            text += f", message: {clean(only)}" if only is not None else ", with messages"
        text += f": {BECAME[first.became]}"
        if first.absorbed_at is not None:
            text += f" at {self._show(first.absorbed_at)}"
        return escape_unprintable(text)

    def _siblings(self, case: Case) -> list[str]:
        same = incident_of(case)
        names = [
            each.name
            for each in self._log.cases()
            if each.key != case.key
            and each.outcome in ("cancelled", "pending")
            and each.run is case.run
            and incident_of(each) == same
        ]
        if not names:
            return []
        tasks = plural("task", len(names))
        return [f"{len(names):,} other {tasks} died of the same cause: {_listed(names)}"]

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
        names = Counter(case.name for case in cases)
        shown = _by_cause(incidents)
        self._line(_headline(incidents, shown), "bold")
        if shown:
            print_line()
            self._rows(shown, names)
        hidden = _by_cause(rest)
        if hidden:
            print_line()
            self._line(_housekeeping(rest) + ("" if show_all else "; --all shows it"))
            if show_all:
                print_line()
                self._rows(hidden, names)
        self._further(self._example((shown or hidden)[0].first, names))

    def _rows(self, worst: list[_Row], names: Counter[str]) -> None:
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
        if summary.is_known(root):
            return rich_text.Text(summary.cause(root, self._show))
        return rich_text.Text(f"unknown: {summary.unknown(root, self._show)}", "yellow")

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


class _Row(NamedTuple):
    """A root cause, and the tasks that it hit in so many runs."""

    tasks: int
    runs: set[str]
    root: Link
    first: Case
    last: Case


_Cells: TypeAlias = tuple[str | rich_text.Text, ...]


def _by_cause(cases: list[Case]) -> list[_Row]:
    """*cases* by root cause, worst first."""
    rows: dict[tuple[str | None, ...], _Row] = {}
    for case in cases:
        root = case.root()
        kind = _kind(root)
        row = rows.get(kind)
        if row is None:
            rows[kind] = _Row(1, {case.run.id}, root, case, case)
        else:
            row.runs.add(case.run.id)
            rows[kind] = _Row(row.tasks + 1, row.runs, _common(row.root, root), row.first, case)
    return sorted(rows.values(), key=lambda row: -row.tasks)


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


def _housekeeping(cases: list[Case]) -> str:
    """One line that counts what is no incident, by kind."""
    kinds = Counter(housekeeping(case) or "" for case in cases)
    parts = [
        f"{count:,} {HOUSEKEEPING.get(kind, (kind, kind))[count > 1]}"
        for kind, count in kinds.most_common()
    ]
    return f"Housekeeping: {len(cases):,} {plural('task', len(cases))} ({', '.join(parts)})"


def _headline(cases: list[Case], rows: list[_Row]) -> str:
    if not cases:
        return "Nothing happened: no task was cancelled but for housekeeping"
    runs = len({case.run.id for case in cases})
    text = f"{len(cases):,} {plural('task', len(cases))} cancelled"
    text += "" if runs == 1 else f" in {runs:,} runs"
    text += f", {len(rows):,} root {plural('cause', len(rows))}"
    became = Counter("swallowed" if case.kept else case.cancel_outcome for case in cases)
    for outcome, words in OTHERWISE.items():
        if became[outcome]:
            text += f"; {became[outcome]:,} {words}"
    unknown = sum(row.tasks for row in rows if not summary.is_known(row.root))
    return text + (f"; {unknown:,} of unknown cause" if unknown else "")


def _kind(root: Link) -> tuple[str | None, ...]:
    """What roots have in common that make one row: the same line did the same thing."""
    error = None if root.error is None else root.error.partition(":")[0]
    return (root.what, root.reason, root.source, root.at, root.library_at, root.signal, error)


def _common(one: Link, other: Link) -> Link:
    """What two roots of one kind both say."""
    name = one.name if one.name == other.name else "a task"
    error = one.error
    if error is not None and error != other.error:
        error = error.partition(":")[0]
    same = one.seconds == other.seconds or (
        one.seconds is not None
        and other.seconds is not None
        and f"{one.seconds:g}" == f"{other.seconds:g}"
    )
    return msgspec.structs.replace(
        one,
        task=None,
        name=name,
        error=error,
        by_name=one.by_name if one.by_name == other.by_name else None,
        seconds=one.seconds if same else None,
        message=one.message if one.message == other.message else None,
        detail=one.detail if one.detail == other.detail else None,
    )


def _ts(step: Step, case: Case) -> str:
    if step.request is not None:
        return step.request.ts
    return case.ts if step.link.task == case.task else ""


def _listed(names: list[str]) -> str:
    shown = ", ".join(escape_unprintable(name) for name in names[:MOST_NAMES])
    rest = len(names) - MOST_NAMES
    return shown if rest <= 0 else f"{shown} and {rest:,} more"


def _several_days(cases: list[Case]) -> bool:
    return len({case.ts[:10] for case in cases}) > 1
