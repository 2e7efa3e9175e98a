"""What ``aioaudit ps`` says to people: a table of processes, a tree of tasks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from aioaudit.chain import summary
from aioaudit.chain.walk import inferred
from aioaudit.cli.living import Listed, Shown
from aioaudit.cli.terminal import RelativePath, console, moment, plural, print_line, write
from aioaudit.findings.catalogue import SWALLOWED
from aioaudit.live import protocol
from aioaudit.live.client import Living
from aioaudit.live.protocol import ProcessFacts
from aioaudit.text import escape_unprintable

MOST_LINES = 1_000
"""At most this many tasks are shown; more are counted.  ``--all`` shows all."""

MOST_DEPTH = 20
"""What lies deeper in the tree is counted."""

ALIKE = 3
"""More than so many tasks side by side that run and wait for the same are shown as one."""

DOES_NOT_END = 1.0
"""Seconds after which a task that was asked and lives is said not to end."""


def write_processes(listed: Sequence[Listed]) -> None:
    """The processes, one a row."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column("PID", no_wrap=True)
    table.add_column("AGE", no_wrap=True)
    table.add_column("TASKS", no_wrap=True, justify="right")
    table.add_column("ON", overflow="fold")
    table.add_column("COMMAND", overflow="fold")
    for each in listed:
        facts = each.facts
        if facts is None:
            table.add_row(str(each.pid), "", "", "", "does not answer")
            continue
        tasks = "?" if facts.tasks is None else f"{facts.tasks:,}"
        on = escape_unprintable(", ".join(facts.on))
        inside = "" if facts.pid == each.pid else f" (calls itself {facts.pid})"
        age = _age(facts.started, facts)
        table.add_row(str(each.pid), age, tasks, on, f"{_command(facts)}{inside}")
    write(console(), table)


def write_tasks(
    pid: int, living: Living, shown: Sequence[Shown], *, awaits: bool, show_all: bool
) -> None:
    """The living tasks of a process as a tree."""
    shown_on = console()
    count = len(shown) + living.left_out
    facts = living.facts
    age = _age(facts.started, facts)
    head = f"pid {pid}, {_command(facts)}: {count:,} {plural('task', count)}, audited for {age}"
    write(shown_on, Text(head, "bold"))
    if not shown:
        return
    print_line()
    forest = _Forest(shown, facts, awaits=awaits, show_all=show_all)
    for tree in forest.trees():
        write(shown_on, tree)
    more = forest.hidden + living.left_out
    if more:
        print_line()
        print_line(f"{more:,} more {plural('task', more)}")


class _Forest:
    """The tasks, under each those that it made, or that it awaits."""

    def __init__(
        self, shown: Sequence[Shown], facts: ProcessFacts, *, awaits: bool, show_all: bool
    ) -> None:
        self._facts = facts
        self._show = RelativePath()
        self._awaits = awaits
        self._fold = not show_all
        self._left = MOST_LINES if self._fold else len(shown) * 2 + 1
        self._shown = shown
        self._told: set[int] = set()  # by the place in `shown`
        self.hidden = 0
        by_number = {each.task.task: index for index, each in enumerate(shown) if each.task.task}
        self._children: dict[int, list[int]] = {}
        self._roots: list[int] = []
        for index, each in enumerate(shown):
            above = each.task.awaited_by if awaits else [each.task.parent]
            known = [by_number[number] for number in above if number in by_number]
            for parent in known:
                self._children.setdefault(parent, []).append(index)
            if not known:
                self._roots.append(index)

    def trees(self) -> Iterator[Tree]:
        """A tree for each task that stands under none."""
        for index, more in self._folded(self._roots):
            if self._left > 0:
                yield self._tree(index, more, 0)
        # Those that wait for each other stand under none: each circle is told from its oldest on.
        for index in range(len(self._shown)):
            if index not in self._told and self._left > 0:
                yield self._tree(index, [], 0)
        self.hidden = len(self._shown) - len(self._told)

    def _tree(self, index: int, more: list[int], depth: int) -> Tree:
        again = index in self._told
        self._told.add(index)
        self._told.update(more)
        self._left -= 1
        tree = Tree(self._line(index, len(more), again=again), guide_style="dim")
        if again:
            return tree
        if depth >= MOST_DEPTH:
            below = self._below(index)
            if below:
                tree.add(Text(f"{below:,} more {plural('task', below)} below", "dim"))
            return tree
        for child, rest in self._folded(self._children.get(index, ())):
            if self._left > 0:
                tree.children.append(self._tree(child, rest, depth + 1))
        return tree

    def _below(self, index: int) -> int:
        """How many stand under *index* that were not told; they are now."""
        count = 0
        todo = list(self._children.get(index, ()))
        while todo:
            each = todo.pop()
            if each not in self._told:
                self._told.add(each)
                count += 1
                todo += self._children.get(each, ())
        return count

    def _folded(self, indices: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Those of *indices*, each with those that are like it and are not shown themselves."""
        alike: dict[object, list[int]] = {}
        for index in indices:
            task, case = self._shown[index]
            plain = self._fold and case is None and not task.asked and index not in self._children
            key = (task.coro, task.does, task.at) if plain else index
            alike.setdefault(key, []).append(index)
        for group in alike.values():
            if len(group) > ALIKE:
                yield group[0], group[1:]
            else:
                yield from ((each, []) for each in group)

    # -- one task ------------------------------------------------------------------------------

    def _line(self, index: int, more: int, *, again: bool) -> Text:
        task, _ = self._shown[index]
        text = Text(summary.who(task.name, task.coro) or "?", "bold")
        if again:
            text.append(" (above)", "dim not bold")
            return text
        if more:
            text.append(f" and {more:,} more like it", "not bold")
        age = "" if task.made is None else f"{_age(task.made, self._facts)}, "
        text.append(f"  {age}{self._where(index)}", "not bold")
        for line in self._asked(index):
            text.append(f"\n  {line}", "red not bold")
        return text

    def _where(self, index: int) -> str:
        task, _ = self._shown[index]
        at = None if task.at is None else escape_unprintable(self._show(task.at))
        place = "" if at is None else f" at {at}"
        if task.does == protocol.WAITS:
            return f"waits{place}"
        if task.does == protocol.RUNS:
            return f"runs{place}"
        if task.does == protocol.READY:
            return "is to go on" if at is None else f"is to go on from {at}"
        return "has not begun" if task.does == protocol.NEW else "does not stay in one place"

    def _asked(self, index: int) -> Iterator[str]:
        task, case = self._shown[index]
        if case is None:
            if task.asked:
                yield "asked to cancel; the recorder does not know by whom"
            return
        begin, now = moment(case.ts), moment(self._facts.now)
        ago = 0.0 if begin is None or now is None else max((now - begin).total_seconds(), 0.0)
        steps = case.steps()
        root = steps[-1].link
        text = f"asked to cancel {lasted(ago)} ago"
        if not summary.is_known(root):
            text += f", nobody knows why: {summary.unknown(root, self._show)}"
        else:
            probably = "probably " if inferred(steps) else ""
            text += f", {probably}because {summary.cause(root, self._show)}"
        yield f"{text}; it does not end" if ago >= DOES_NOT_END else text
        for each in case.run.findings_of(case.task):
            if each.kind == SWALLOWED and each.cancel == getattr(case.request, "seq", None):
                at = "" if each.swallowed_at is None else f" at {self._show(each.swallowed_at)}"
                yield f"it swallowed that{escape_unprintable(at)} and went on"
                break


def _command(facts: ProcessFacts) -> str:
    return escape_unprintable(shlex.join(facts.argv)) or "?"


def _age(since: str, facts: ProcessFacts) -> str:
    begin, now = moment(since), moment(facts.now)
    return "?" if begin is None or now is None else lasted((now - begin).total_seconds())


def lasted(seconds: float) -> str:
    """``0.3 s``, ``12 s``, ``5 min``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = int(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days:,} d {hours} h" if hours else f"{days:,} d"
