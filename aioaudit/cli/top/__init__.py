"""Private. ``aioaudit top``: a screen that shows who cancels what while it happens.

`sources` read, `model` knows, `board` says it in words, `screen` puts it into lines; `view` alone
has to do with a terminal.
"""

from aioaudit.cli.top.command import command

__all__ = ["command"]
