"""``aioaudit sql``: statements with which an SQL engine answers what a log says."""

from __future__ import annotations

import re
from pathlib import Path

import click

from aioaudit.cli.processes import is_process
from aioaudit.cli.terminal import print_line, say
from aioaudit.log.sources import STDIN, sources_of
from aioaudit.sql import DIALECTS, Dialect, script

DONE, BAD = 0, 2
"""Exit statuses: the statements are there, or a bad call."""

_UNREAD: dict[Dialect, str] = {"duckdb": ".xz"}
"""How a file ends that an engine does not read."""


@click.command("sql")
@click.argument("logs", metavar="[LOG]...", nargs=-1)
@click.option(
    "--dialect",
    type=click.Choice(DIALECTS),
    required=True,
    metavar=f"({' | '.join(DIALECTS)})",
    help="Which engine is to understand them.",
)
def command(logs: tuple[str, ...], dialect: Dialect) -> int:
    """Print SQL that answers what a log says.

    The statements make tables and views: who was cancelled and why, the chain to the root
    cause, incidents, findings, slow cancellations.  With LOG (a file, or a folder) they
    also read it; without, ship lines into the table aioaudit_events.
    """
    for log in logs:
        if log == STDIN:
            say("cannot read standard input: the engine itself reads the log; name a file")
            return BAD
        if is_process(log):
            say(f"{log}: the engine itself reads the log; aioaudit dump {log} writes it to a file")
            return BAD
    try:
        files = _files(logs)
    except OSError as error:
        say(f"cannot read {error.filename}: {error.strerror}")
        return BAD
    for file in files:
        if file.endswith(_UNREAD.get(dialect, "\0")):
            say(f"{file}: {dialect} does not read {_UNREAD[dialect]}; gzip and zstd it does")
            return BAD
        if dialect == "clickhouse" and re.search(r"[*?{}]", file):
            say(f"{file}: clickhouse takes * ? {{ }} for patterns; give the file another name")
            return BAD
    print_line(script(dialect, files).rstrip("\n"))
    return DONE


def _files(logs: tuple[str, ...]) -> list[str]:
    """The files of *logs*, of one log the oldest first.

    Raises:
        OSError: one is not there, or a folder holds no log.
    """
    files = [source.name for source in sources_of(logs)]
    for file in files:
        Path(file).stat()
    return files
