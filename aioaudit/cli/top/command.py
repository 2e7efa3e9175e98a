"""``aioaudit top``: what goes on in a running service, seen through its log or by asking it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.util import find_spec

import click

from aioaudit.cli import lacking
from aioaudit.cli.terminal import named, say
from aioaudit.cli.top.sources import Source, source_of
from aioaudit.live.client import LiveError

BAD = 2
"""Exit status for a bad call, a log that cannot be read, or no terminal."""


@click.command("top")
@click.argument("logs", metavar="(PID | LOG)...", nargs=-1, required=True)
def command(logs: tuple[str, ...]) -> int:
    """Show who cancels what while it happens.

    PID is an audited process with AIOAUDIT=recorder.  LOG is a file, which may grow, be cut or be
    replaced, a folder (all *.jsonl files in it, also those that come) or - for standard input:
    kubectl logs -f POD | aioaudit top -

    On the screen ? says which keys there are, q leaves.

    Exit status: 0, 2 for a bad call or a log that cannot be read, 130 after Ctrl-C.
    """
    for package in ("prompt_toolkit", "rich"):
        if find_spec(package) is None:
            return lacking(package, "this command", extra="top")
    wrong = _wrong_with_terminal(logs)
    if wrong is not None:
        say(f"top {wrong}; aioaudit why and aioaudit check say on any output what happened")
        return BAD
    _let_open_many()
    # A shell that exports AIOAUDIT means its programs, and not who watches them.
    session = sys.modules.get("aioaudit.session")
    if session is not None:
        session.disable()
    sources: list[Source] = []
    try:
        sources.extend(map(source_of, logs))
    except LiveError as error:
        say(str(error))
        return BAD
    except OSError as error:
        say(f"cannot read {error.filename or 'standard input'}: {error.strerror}")
        return BAD
    from aioaudit.cli.top.view import show

    return show(sources, named(logs))


def _wrong_with_terminal(logs: tuple[str, ...]) -> str | None:
    """Why there can be no screen, as it follows the name of the command."""
    term = os.environ.get("TERM", "")
    if not sys.stdout.isatty():
        return "needs a terminal to show its screen on"
    if term in ("", "dumb", "unknown"):
        return f"needs a terminal with a screen, and TERM is {term or 'not set'}"
    if "-" in logs and sys.stdin.isatty():
        return "- reads a log from standard input, which is the keyboard here"
    return None


def _let_open_many() -> None:
    """Have a folder of many logs open at once."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        if soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
