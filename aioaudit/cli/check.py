"""``aioaudit check``: what went wrong with cancellations, from the findings in a log."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import click

from aioaudit.cli import lacking
from aioaudit.cli.processes import readable
from aioaudit.cli.terminal import (
    as_json,
    named,
    plural,
    print_line,
    progress,
    report_gaps,
    report_problems,
    say,
)
from aioaudit.findings.catalogue import CATALOGUE
from aioaudit.findings.groups import Group, grouped, report_of
from aioaudit.live.client import LiveError
from aioaudit.log import Log
from aioaudit.log.answering import load_to_answer
from aioaudit.settings import suggestion

HEALTHY, FOUND, BAD = 0, 1, 2
"""Exit statuses: no finding, findings, a bad call or a log that cannot be checked."""


def _kinds(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in CATALOGUE:
            known = ", ".join(CATALOGUE)
            hint = suggestion(name, CATALOGUE)
            raise click.BadParameter(f"{name!r} is no kind of finding{hint}; there are: {known}")
    return names


@click.command("check")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@click.option("--notes", is_flag=True, help="Show also what is harmless most of the time.")
@click.option(
    "--ignore", metavar="KIND", multiple=True, callback=_kinds, help="Leave this kind out."
)
@click.option("--json", "wants_json", is_flag=True, help="Write one JSON object a line.")
def command(logs: tuple[str, ...], notes: bool, ignore: tuple[str, ...], wants_json: bool) -> int:
    """Say what went wrong with cancellations.

    LOG is a file, a folder (all *.jsonl files in it, also rotated and compressed), - for
    standard input, or the number of a process that runs with AIOAUDIT=recorder. The same
    finding at the same lines is shown once, with a count.  If nothing went wrong,
    nothing is printed.

    Exit status: 0 without a finding (notes do not count), 1 with one, 2 for a bad
    call or a log that cannot be checked.
    """
    if not wants_json and find_spec("rich") is None:
        return lacking("rich", "text for people (--json does without)")
    try:
        with readable(logs) as files, progress() as report:
            log = load_to_answer(files, progress=report)
    except LiveError as error:
        say(str(error))
        return BAD
    except OSError as error:
        say(f"cannot read {error.filename or 'standard input'}: {error.strerror}")
        return BAD
    report_problems(log)
    if not log.events:
        say(f"no event of aioaudit in {named(logs)}: there is nothing to check")
        return BAD
    report_gaps(log, "findings")
    if not _can_be_checked(log):
        return BAD
    groups = grouped(
        each for run in log.runs.values() for each in run.findings if each.kind not in ignore
    )
    wrong = [group for group in groups if group.first.severity == "finding"]
    shown = groups if notes else wrong
    if wants_json:
        for group in shown:
            print_line(as_json(report_of(group)))
    elif shown:
        _write(log, shown)
    hidden = sum(group.count for group in groups) - sum(group.count for group in shown)
    if hidden and not wants_json and sys.stderr.isatty():
        say(f"{hidden:,} {plural('note', hidden)} not shown; --notes shows {_them(hidden)}")
    return FOUND if wrong else HEALTHY


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def _can_be_checked(log: Log) -> bool:
    """Whether any run looked for findings; says on stderr what is missing."""
    blind = [run for run in log.runs.values() if run.blind]
    if len(blind) < len(log.runs):
        for run in blind:
            say(f"run {run.id} is not checked: AIOAUDIT_EVENTS left out its findings")
        return True
    say(
        "nothing can be checked: AIOAUDIT_EVENTS left out the findings of this log;"
        " add finding to it"
    )
    return False


def _write(log: Log, groups: list[Group]) -> None:
    from aioaudit.cli.check_text import write_groups

    write_groups(log, groups)
