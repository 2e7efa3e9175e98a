"""``python -m aioaudit``: the same as the ``aioaudit`` command.

``run`` is told apart before anything else is imported: it starts somebody's
program in this very process, which must find it as untouched as can be, and it
works without the extra ``cli``.
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
    from aioaudit.cli import main as command

    sys.exit(command(argv))


if __name__ == "__main__":
    main()
