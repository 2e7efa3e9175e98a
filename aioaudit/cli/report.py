"""``aioaudit report``: a log as one HTML file, to be looked at in a browser.

This module reads the call and the log; `aioaudit.cli.report_model` decides what is drawn,
`aioaudit.cli.report_page` makes a page of it.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aioaudit.cli.processes import readable
from aioaudit.cli.report_model import draw
from aioaudit.cli.terminal import (
    OutputClosed,
    counted,
    is_one_of,
    named,
    plural,
    print_line,
    progress,
    report_gaps,
    report_problems,
    say,
)
from aioaudit.live.client import LiveError
from aioaudit.log.answering import load_to_answer
from aioaudit.opening import PlantedError, open_to_write

if TYPE_CHECKING:
    from aioaudit.cli.report_model import Report

DONE, NOTHING, BAD = 0, 1, 2
"""Exit statuses: a report was written, the log has nothing to show, a bad call or log."""

OUTPUT = "aioaudit-report.html"


@click.command("report")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default=OUTPUT,
    show_default=True,
    help="The file to write, - for standard output.",
)
def command(logs: tuple[str, ...], output: str) -> int:
    """Draw a log: one HTML file for any browser.

    LOG is a file, a folder (all *.jsonl files in it, also rotated and compressed), - for
    standard input, or the number of a process that runs with AIOAUDIT=recorder. The
    report needs no network, and is readable by you alone, as the log is. An older one of
    that name is replaced.

    Exit status: 0 if it was written, 1 where no cancellation and no finding is
    in the log, 2 for a bad call, an unreadable log or a file that cannot be
    written.
    """
    if find_spec("jinja2") is None:
        say("a report needs jinja2, which is not installed: pip install 'aioaudit[report]'")
        return BAD
    if output != "-" and any(is_one_of(log, Path(output)) for log in logs):
        raise click.UsageError(f"{output} is one of the logs; name another file to write")
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
        say(f"no event of aioaudit in {named(logs)}: there is nothing to draw")
        return BAD
    report_gaps(log, "what was asked for")
    drawn = draw(log, named(logs))
    if drawn.is_empty:
        runs = len(log.runs)
        say(
            f"no task was cancelled in this log, and nothing was found "
            f"({counted(log)} of {runs:,} {plural('run', runs)})"
        )
        return NOTHING
    return _write(drawn, output)


def _write(report: Report, output: str) -> int:
    from aioaudit.cli.report_page import pages

    try:
        if output == "-":
            for part in pages(report):
                sys.stdout.buffer.write(part)
            return DONE
        size = 0
        with os.fdopen(open_to_write(output, append=False), "wb") as file:
            for part in pages(report):
                size += file.write(part)
    except BrokenPipeError:  # whoever reads standard output has enough
        raise OutputClosed from None
    except (OSError, PlantedError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        say(f"cannot write {output}: {reason}")
        return BAD
    print_line(f"{report.headline}: {output} ({_bytes(size)})")
    return DONE


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(size // 1000, 1):,} kB"
