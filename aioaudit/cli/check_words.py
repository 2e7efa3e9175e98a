"""What ``aioaudit check`` says of a group of findings beside their sentences; without rich."""

from __future__ import annotations

from aioaudit.cli.terminal import clock, plural
from aioaudit.findings.groups import Group

MOST_NAMES = 5
"""At most this many tasks of a group are named; more are counted."""


def when(group: Group, *, date: bool, several: bool) -> str:
    """When *group* was found, of which tasks; with the *date*, and runs where there are *several*."""
    first, last = group.first, group.last
    task = f", task {first.run}:{first.task}" if several else f", task {first.task}"
    if not first.task:
        task = ""
    if group.count == 1:
        return f"at {clock(first.ts, date=date)} UTC{task}, pid {first.pid}"
    text = (
        f"{group.count:,} times, from {clock(first.ts, date=date)} to "
        f"{clock(last.ts, date=date)} UTC"
    )
    if not group.tasks:
        return text
    keys = list(group.tasks) if several else [key.partition(":")[2] for key in group.tasks]
    rest = len(keys) - MOST_NAMES
    text += f", {plural('task', len(keys))} {', '.join(keys[:MOST_NAMES])}"
    return text if rest <= 0 else f"{text} and more"
