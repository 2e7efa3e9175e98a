"""The table of subcommands.  Each is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import click

from aioaudit.version import __version__

RUN = "run"

COMMANDS = {
    RUN: "Run a program with auditing on.",
    "why": "Say who cancelled a task, and why.",
    "check": "Say what went wrong with cancellations.",
    "top": "Show who cancels what while it happens.",
    "report": "Draw a log: one HTML file for any browser.",
    "export": "Show a log in a trace view.",
    "sql": "Print SQL that answers what a log says.",
    "ps": "List audited processes, or the living tasks of one.",
    "dump": "Write what a process has kept to a file.",
    "attach": "Turn the recorder on in a process that runs.",
    "doctor": "Say what of aioaudit works in this environment.",
}
"""The name of each subcommand, which is its module's too, and what it does."""


class Commands(click.Group):
    """A group that imports a subcommand's module when that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Every subcommand, in the order of the table."""
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """The subcommand of that name, None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name == RUN:  # never called from here: it is started before click is imported
            return click.Command(RUN, help=COMMANDS[RUN])
        return cast(click.Command, import_module(f"aioaudit.cli.{cmd_name}").command)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aioaudit", message="%(prog)s %(version)s")
def commands() -> None:
    """Who cancelled an asyncio task, and why."""
