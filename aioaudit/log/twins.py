"""Files that hold the same: one given twice, a copy, a rotated file and what it was compressed to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b

from aioaudit.log.parsing import is_event
from aioaudit.log.sources import STDIN, CutOffError, opened, stat_of_file

_BEGINNING = 4096
"""Files that have so many first bytes in common are looked at closely."""


class Twins:
    """The files that were read."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], str] = {}
        self._beginnings: dict[bytes, list[str]] = {}

    def is_same_file(self, name: str) -> str | None:
        """What is to be said if *name* is a file that was read; None if it is to be read."""
        stat = _stat_of(name)
        if stat is None:
            return None
        file = stat.st_dev, stat.st_ino
        before = self._files.get(file)
        if before is None:
            self._files[file] = name
            return None
        return (
            "it is given twice, and read once" if before == name else f"it is {before}, read once"
        )

    def is_copy(self, name: str, first: bytes) -> str | None:
        """The same, if the file *name* whose *first* bytes are these holds what another one does."""
        if not is_event(first.partition(b"\n")[0]) or _stat_of(name) is None:
            return None
        key = blake2b(first[:_BEGINNING], digest_size=16).digest()
        alike = self._beginnings.setdefault(key, [])
        for other in alike:
            shorter = _is_beginning(name, other)
            if shorter is not None:
                same = "begins with the same" if shorter else "holds the same"
                return f"{other} {same}, and was read: nothing is counted twice"
        alike.append(name)
        return None


def _stat_of(name: str) -> os.stat_result | None:
    """What the system says of the file *name*; None if it is none that can be read twice."""
    return None if name == STDIN else stat_of_file(name)


def _is_beginning(name: str, other: str) -> bool | None:
    """Whether *other* goes on where *name* ends, False if they are the same, None if neither."""
    with opened(name) as mine, opened(other) as its:
        here, there = _pieces(mine.pieces()), _pieces(its.pieces())
        a = b = b""
        while True:
            a, b = a or next(here, b""), b or next(there, b"")
            if not a:
                return bool(b)
            size = min(len(a), len(b))
            if not size or a[:size] != b[:size]:
                return None
            a, b = a[size:], b[size:]


def _pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """*pieces*, up to where a compressed file gives no more."""
    try:
        yield from pieces
    except CutOffError:
        return
