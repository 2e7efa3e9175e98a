"""``aioaudit sql``: statements with which an SQL engine answers what a log says."""

from __future__ import annotations

import re
from pathlib import Path

import click

from aioaudit.cli.terminal import print_line, say
from aioaudit.sql import DIALECTS, Dialect, script

DONE, BAD = 0, 2
"""Exit statuses: the statements are there, or a bad call."""

_LOG = re.compile(r"\.jsonl([.-][\d-]+)?(\.(gz|zst|xz))?$")
"""How the files of a folder are called that are logs, or what became of them when they were rotated."""

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
    try:
        files = [file for log in logs for file in _files(log)]
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


def _files(log: str) -> list[str]:
    """The files of *log*, in the order of their names."""
    path = Path(log)
    if not path.is_dir():
        path.stat()  # raises where it is not there
        return [log]
    inside = [file for file in path.iterdir() if file.is_file()]
    found = sorted(str(file) for file in inside if _LOG.search(file.name))
    if not found:
        raise FileNotFoundError(2, "no *.jsonl file in this folder", log)
    return found
