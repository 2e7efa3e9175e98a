"""``aioaudit doctor``: what of aioaudit works in the environment that it is run in."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from aioaudit.cli import lacking
from aioaudit.cli.terminal import as_json, console, plural, print_line, write
from aioaudit.text import escape_unprintable

if TYPE_CHECKING:
    from aioaudit.doctor.diagnosis import Diagnosis

FINE, WRONG = 0, 1
"""Exit statuses: no warning and no problem, or some."""

MARKS = {"ok": "ok", "none": "-", "note": "note", "warning": "WARNING", "problem": "PROBLEM"}
_STYLES = {"ok": "green", "none": "dim", "note": "", "warning": "yellow", "problem": "bold red"}


@click.command("doctor")
@click.option("--json", "in_json", is_flag=True, help="Write one JSON object a line.")
def command(in_json: bool) -> int:
    """Say what of aioaudit works in this environment, and what does not.

    To be run as the audited program is: by the same Python, in the same folder,
    with the same environment variables.

    Exit status: 0 if all is well, 1 with a warning or a problem, 2 for a bad call.
    """
    for package in ("packaging", "rich"):
        if find_spec(package) is None and not (in_json and package == "rich"):
            return lacking(package, "this command")
    from aioaudit.doctor import examine
    from aioaudit.doctor.diagnosis import WRONG as WRONG_STATES

    findings: list[Diagnosis] = []
    for finding in examine():
        findings.append(finding)
        if in_json:
            print_line(as_json(finding))
    if not in_json:
        _show(findings)
    return WRONG if any(each.state in WRONG_STATES for each in findings) else FINE


def _show(findings: list[Diagnosis]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    section = None
    for each in findings:
        if each.section != section:
            if section is not None:
                table.add_row()
            section = each.section
            table.add_row(Text(section, "bold"))
        table.add_row(
            Text(f"  {MARKS[each.state]}", _STYLES[each.state]),
            escape_unprintable(each.subject),
            escape_unprintable(each.text),
        )
    shown = console()
    write(shown, table)
    print_line()
    write(shown, Text(_verdict(findings), "bold"))


def _verdict(findings: list[Diagnosis]) -> str:
    counts = Counter(each.state for each in findings)
    wrong = [
        f"{counts[state]} {plural(state, counts[state])}"
        for state in ("problem", "warning")
        if counts[state]
    ]
    return ", ".join(wrong) if wrong else "All is well."
