"""``aioaudit ps``: the audited processes of this user, and the living tasks of one.

This module asks and decides what is to be told; `aioaudit.cli.ps_text` says it to people, ``--json``
to programs.
"""

from __future__ import annotations

from importlib.util import find_spec

import click

from aioaudit.cli import lacking
from aioaudit.cli.living import Listed, shown_of
from aioaudit.cli.numbers import Pid
from aioaudit.cli.terminal import as_json, print_line, say
from aioaudit.live.client import HOW, LiveError, connect, processes
from aioaudit.log.reading import load_stream

FOUND, NOTHING, BAD = 0, 1, 2
"""Exit statuses: an answer, no audited process, a process that cannot be asked."""

PATIENCE = 2.0
"""Seconds that each of many processes has to say how it is."""


@click.command("ps")
@click.argument("pid", type=Pid(), required=False)
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
    shown = [each for task in living.tasks if (each := shown_of(task, run)) is not None]
    if in_json:
        for each in shown:
            print_line(as_json(each.as_object()))
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
            print_line(as_json(each.as_object()))
        return FOUND
    from aioaudit.cli.ps_text import write_processes

    write_processes(listed)
    return FOUND
