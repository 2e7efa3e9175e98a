"""What ``aioaudit check`` says to people: a sentence for each finding, and its lines."""

from __future__ import annotations

from collections import Counter

from rich import text as rich_text

from aioaudit.cli.check_words import when
from aioaudit.cli.terminal import RelativePath, console, plural, print_line, write
from aioaudit.findings.catalogue import CATALOGUE
from aioaudit.findings.groups import Group
from aioaudit.findings.words import particulars, sentence
from aioaudit.log import Log
from aioaudit.text import escape_unprintable

MOST_GROUPS = 1_000
"""At most this many groups are told of; more are counted."""


def write_groups(log: Log, groups: list[Group]) -> None:
    """*groups* of *log* on stdout."""
    show = RelativePath()
    paper = console()
    several = len(log.runs) > 1
    date = len({group.first.ts[:10] for group in groups}) > 1

    def line(text: str, style: str = "") -> None:
        write(paper, rich_text.Text(escape_unprintable(text), style))

    line(_headline(groups), "bold")
    for group in groups[:MOST_GROUPS]:
        first = group.first
        kind = CATALOGUE.get(first.kind)
        print_line()
        heading = rich_text.Text()
        heading.append(
            f"{escape_unprintable(first.kind)}",
            "bold red" if first.severity == "finding" else "bold",
        )
        if first.severity != "finding":
            heading.append(f" ({escape_unprintable(first.severity)})", "dim")
        heading.append(f"  {sentence(first, show)}")
        write(paper, heading)
        for each in particulars(first, show):
            line(f"    {each}")
        line(f"    {when(group, date=date, several=several)}", "dim")
        if kind is not None:
            line(f"    {kind.remedy}", "green")
    if len(groups) > MOST_GROUPS:
        print_line()
        line(f"and {len(groups) - MOST_GROUPS:,} more (--json has them all)")


def _headline(groups: list[Group]) -> str:
    counts = Counter(group.first.severity for group in groups)
    parts = [
        f"{count:,} {plural(level, count)}"
        for level in ("finding", "note")
        if (count := counts[level])
    ]
    return ", ".join(parts)
