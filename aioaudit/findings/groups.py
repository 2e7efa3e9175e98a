"""Findings of the same kind at the same lines are one, and counted."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from aioaudit.events import Finding, Severity
from aioaudit.findings.catalogue import CATALOGUE
from aioaudit.findings.words import sentence

MOST_TASKS = 100
"""At most this many tasks of a group are named to programs."""


class Group(msgspec.Struct):
    """Findings that differ in their tasks and times only; ``first`` is the oldest of them."""

    first: Finding
    last: Finding
    count: int
    tasks: dict[str, str]
    """Names of the tasks by ``RUN:ID``, those of the first `MOST_TASKS`."""


class GroupReport(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A group as ``--json`` gives it; ``finding`` is the event of the first one."""

    kind: str
    severity: Severity
    count: int
    title: str
    summary: str
    remedy: str
    first: str
    last: str
    tasks: list[str]
    finding: Finding


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """The groups of *findings*: findings before notes, otherwise the oldest first."""
    groups: dict[tuple[object, ...], Group] = {}
    for each in sorted(findings, key=lambda each: (each.ts, each.run, each.seq)):
        group = groups.get(_key(each))
        if group is None:
            group = groups[_key(each)] = Group(each, each, 0, {})
        group.last = each
        group.count += 1
        if each.task and len(group.tasks) < MOST_TASKS:
            group.tasks[f"{each.run}:{each.task}"] = each.name
    return sorted(groups.values(), key=lambda group: group.first.severity != "finding")


def report_of(group: Group) -> GroupReport:
    """*group* for programs."""
    first = group.first
    kind = CATALOGUE.get(first.kind)
    return GroupReport(
        kind=first.kind,
        severity=first.severity,
        count=group.count,
        title=first.kind if kind is None else kind.title,
        summary=sentence(first),
        remedy="" if kind is None else kind.remedy,
        first=first.ts,
        last=group.last.ts,
        tasks=list(group.tasks),
        finding=first,
    )


def _key(each: Finding) -> tuple[object, ...]:
    return (
        each.kind,
        each.severity,
        each.coro,
        each.reason,
        each.source,
        each.at,
        each.suspended_at,
        each.swallowed_at,
        each.waits_at,
        each.made_at,
        each.outcome,
        each.other_reason,
        each.other_source,
        each.other_at,
        None if each.error is None else each.error.partition(":")[0],
    )
