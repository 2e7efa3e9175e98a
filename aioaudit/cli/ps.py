"""``aioaudit ps``: the audited processes of this user, and the living tasks of one.

This module asks and decides what is to be told; `aioaudit.cli.ps_text` says it to people, ``--json``
to programs.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import click
import msgspec

from aioaudit.cli import lacking
from aioaudit.cli.terminal import as_json, print_line, say
from aioaudit.live.client import HOW, LiveError, connect, processes
from aioaudit.live.protocol import LivingTask, ProcessFacts
from aioaudit.log import Case
from aioaudit.log.reading import load_stream
from aioaudit.log.store import LoggedRun

FOUND, NOTHING, BAD = 0, 1, 2
"""Exit statuses: an answer, no audited process, a process that cannot be asked."""

PATIENCE = 2.0
"""Seconds that each of many processes has to say how it is."""

MOST_LINKS = 10
"""A chain shows at most this many links with ``--json``."""


class Listed(NamedTuple):
    """A process and what it says; None where it does not answer."""

    pid: int
    facts: ProcessFacts | None


class Shown(NamedTuple):
    """A living task, and the request that it has not obeyed yet, as far as that is known."""

    task: LivingTask
    case: Case | None


@click.command("ps")
@click.argument("pid", type=click.IntRange(min=1), required=False)
@click.option("--awaits", is_flag=True, help="Who awaits whom, not who made whom.")
@click.option("--all", "show_all", is_flag=True, help="Show each task, also those that are alike.")
@click.option("--json", "in_json", is_flag=True, help="Write one JSON object a line.")
def command(pid: int | None, awaits: bool, show_all: bool, in_json: bool) -> int:
    """List audited processes, or the living tasks of one.

    Processes are listed that run as this user and with AIOAUDIT=recorder.  With
    PID, its tasks are shown as a tree: under each those that it made, with their
    age, where they wait now, and who asked them to cancel, if they do not end.

    Exit status: 0 with an answer, 1 where no process is audited, 2 where PID cannot
    be asked.
    """
    if not in_json and find_spec("rich") is None:
        return lacking("rich", "text for people (--json does without)")
    if pid is None:
        if awaits or show_all:
            raise click.UsageError("--awaits and --all are for the tasks of one process: PID")
        return _list(in_json=in_json)
    try:
        process = connect(pid)
        living = process.tasks()
        told = process.events(lives=False)
    except LiveError as error:
        say(str(error))
        return BAD
    with told.log as stream:
        log = load_stream(f"process {pid}", stream)
    run = log.runs.get(living.facts.run)
    shown = [each for task in living.tasks if (each := _shown(task, run)) is not None]
    if in_json:
        for each in shown:
            print_line(as_json(_as_object(each)))
        return FOUND
    from aioaudit.cli.ps_text import write_tasks

    write_tasks(pid, living, shown, awaits=awaits, show_all=show_all)
    return FOUND


def _list(*, in_json: bool) -> int:
    listed: list[Listed] = []
    for process in processes():
        try:
            listed.append(Listed(process.pid, process.facts(PATIENCE)))
        except LiveError:
            listed.append(Listed(process.pid, None))
    if not listed:
        say(f"no audited process of this user can be asked; start one with {HOW}")
        return NOTHING
    if in_json:
        for each in listed:
            print_line(as_json(_as_listed(each)))
        return FOUND
    from aioaudit.cli.ps_text import write_processes

    write_processes(listed)
    return FOUND


def _as_listed(each: Listed) -> dict[str, Any]:
    if each.facts is None:
        return {"pid": each.pid, "answers": False}
    told = msgspec.to_builtins(each.facts)
    inside = told.pop("pid")
    found = {"pid": each.pid, "answers": True, **told}
    if inside != each.pid:
        found["pid_inside"] = inside
    return found


def _shown(task: LivingTask, run: LoggedRun | None) -> Shown | None:
    """What is to be told of *task*; None where it has ended since."""
    if run is None or not task.task:
        return Shown(task, None)
    if task.task in run.ends:
        return None
    case = run.case(task.task)
    if case is None or case.outcome != "pending" or case.cancel_outcome == "absorbed":
        return Shown(task, None)
    return Shown(task, case)


def _as_object(each: Shown) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(each.task)
    if each.case is not None:
        told["asked_ts"] = each.case.ts
        told["why"] = msgspec.to_builtins(each.case.answer(MOST_LINKS))
    return told
