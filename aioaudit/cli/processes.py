"""Where a LOG is asked for, the number of a process may stand: what it has kept is the log then."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO, cast

from aioaudit.live.client import connect

_OPEN = "/proc/self/fd"
"""The folder in which Linux shows the open files of whoever looks."""


def is_process(log: str) -> bool:
    """Whether *log* is the number of a process: digits, and no file of that name is there."""
    return log.isascii() and log.isdigit() and len(log) < 11 and not Path(log).exists()


@contextmanager
def readable(logs: Sequence[str]) -> Generator[list[str]]:
    """*logs* as names of files, those of processes as files that are gone at the end of the block.

    Raises:
        aioaudit.live.client.LiveError: a process cannot be asked.
    """
    with ExitStack() as closing:
        names: list[str] = []
        for log in logs:
            if is_process(log):
                process = connect(int(log))
                if Path(_OPEN).exists():
                    file = closing.enter_context(process.events().log)
                    names.append(f"{_OPEN}/{file.fileno()}")
                else:
                    named = closing.enter_context(NamedTemporaryFile())
                    process.write_events(cast("BinaryIO", named))
                    names.append(named.name)
            else:
                names.append(log)
        yield names
