"""``python -m aioaudit``: the same as the ``aioaudit`` command.

``run`` is told apart before anything else is imported: it starts somebody's
program in this very process, which must find it as untouched as can be, and it
works without the extra ``cli``.  The other commands are about programs, and never
audited themselves, whatever the environment says.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command that `sys.argv` names and leave with its exit status."""
    argv = sys.argv[1:]
    if argv[:1] == ["run"]:
        from aioaudit.cli.run import run

        sys.exit(run(argv[1:]))
    _unaudited()
    from aioaudit.cli import main as command

    sys.exit(command(argv))


def _unaudited() -> None:
    """Take back what the start-up file may have begun."""
    if "aioaudit.startup" in sys.modules:
        from aioaudit.startup import stop_waiting

        stop_waiting()
    if "aioaudit.session" in sys.modules:  # another start-up file has imported asyncio
        from aioaudit.session import disable

        disable()


if __name__ == "__main__":
    main()
