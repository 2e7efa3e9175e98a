"""Private. The command line: one module for each subcommand.

Importing this package imports nothing else, so that ``run`` stays light.  The
others need click, and rich for their text; both belong to the extra ``cli``.
"""

from __future__ import annotations

import os
import sys

from aioaudit.version import __version__


def main(argv: list[str]) -> int:
    """Run the subcommand in *argv* (without the program's name).

    Returns the exit status: 0 with an answer, 1 where there is none, 2 for a
    bad call or an unreadable log, 130 when interrupted.
    """
    if argv == ["--version"]:
        sys.stdout.write(f"aioaudit {__version__}\n")
        return 0
    try:
        import click
    except ImportError:
        return lacking("click", "this command")
    from aioaudit.cli.commands import commands
    from aioaudit.cli.terminal import OutputClosed

    try:
        status: object = commands.main(argv, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except (OutputClosed, BrokenPipeError):
        # Whoever read has enough.  What is left in the buffer has nowhere to go,
        # and the interpreter would complain about that at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status if isinstance(status, int) else 0


def lacking(package: str, what: str, extra: str = "cli") -> int:
    """Say on stderr that *what* needs *package* (of *extra*), and return the exit status."""
    sys.stderr.write(
        f"aioaudit: {what} needs {package}, which is not installed: "
        f"pip install 'aioaudit[{extra}]'\n"
    )
    return 2
