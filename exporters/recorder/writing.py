"""A dump as a file: whole or not at all, readable by this user alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from aioaudit.opening import open_to_write

# Bound now, as in the jsonl exporter.
_open, _close, _write, _replace, _unlink = os.open, os.close, os.write, os.replace, os.unlink
_lstat = os.lstat

_FLAGS = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)


def write_whole(path: str, portions: Iterable[bytes]) -> None:
    """Write *portions* to *path*, with mode 0600; a file that is there is replaced.

    It is written under another name beside it, and gets its own when it is complete, so nobody
    sees half of it.  A pipe, a device or a link is written to as it is.

    Raises:
        OSError: it cannot be written, or is a pipe that nobody reads from; a file that was there
            is there still.
        PlantedError: another user may have put there what is there.
    """
    if not _is_file_or_nothing(path):
        _write_all(open_to_write(path, append=False, wait=False), portions)
        return
    folder, name = os.path.split(path)
    partly = os.path.join(folder, f".{name}.{os.getpid()}.part")  # noqa: PTH118 - pathlib takes its time to import
    with suppress(FileNotFoundError):  # of a process of this number that was killed
        _unlink(partly)
    fd = _open(partly, _FLAGS, 0o600)
    try:
        _write_all(fd, portions)
        _replace(partly, path)
    except BaseException:
        with suppress(OSError):
            _unlink(partly)
        raise


def _is_file_or_nothing(path: str) -> bool:
    try:
        return stat.S_ISREG(_lstat(path).st_mode)
    except FileNotFoundError:
        return True


def _write_all(fd: int, portions: Iterable[bytes]) -> None:
    try:
        write_to(fd, portions)
    finally:
        _close(fd)


def write_to(fd: int, portions: Iterable[bytes]) -> int:
    """Write *portions* to a regular file that somebody else has opened; how many bytes it was.

    Raises:
        OSError: it cannot be written.
    """
    written = 0
    for portion in portions:
        written += len(portion)
        rest = memoryview(portion)
        while rest:
            rest = rest[_write(fd, rest) :]
    return written
