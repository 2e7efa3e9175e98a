"""A log as portions of whole lines, so that it may be much larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from aioaudit.log.sources import Bytes, CutOffError, Source, opened, size_of
from aioaudit.log.twins import Twins

LONGEST = 1 << 24
"""Bytes of the longest line that is looked at; no event comes near it."""

Progress: TypeAlias = Callable[[int, "int | None"], None]


class Portion(msgspec.Struct):
    """Whole lines of a file.

    ``cut`` says that the last one is the last of the file and has no end, ``ends`` that the
    file ends here.  ``note`` is to be said of the place behind them, of a line that was
    ``skipped`` or of the file.
    """

    file: str
    data: bytes = b""
    cut: bool = False
    ends: bool = False
    note: str = ""
    skipped: bool = False


def portions_of(sources: list[Source], progress: Progress | None) -> Iterator[Portion]:
    """What is in *sources*; of files that hold the same, one.

    *progress* is told how many bytes were read, and how many there are.

    Raises:
        OSError: a file that was asked for by its name cannot be opened.
    """
    total = size_of(sources)
    before = told = 0
    twins = Twins() if len(sources) > 1 else None
    for name, listed in sources:
        try:
            twin = None if twins is None else twins.is_same_file(name)
            if twin is not None:
                yield Portion(name, ends=True, note=twin)
                continue
            with opened(name) as file:
                for portion in _portions(file, twins):
                    yield portion
                    if progress is not None and before + file.done > told:
                        told = before + file.done
                        progress(told, total)
                before += file.done
        except OSError as error:
            if listed:
                raise
            yield Portion(name, ends=True, note=f"cannot be read ({error.strerror})", skipped=True)


def stream_portions(file: Bytes) -> Iterator[Portion]:
    """What is in *file*."""
    return _portions(file, None)


def _portions(file: Bytes, twins: Twins | None) -> Iterator[Portion]:
    rest: list[bytes] = []
    held = 0
    too_long = False
    note = ""
    first = True
    pieces = file.pieces()
    while True:
        try:
            piece = next(pieces, b"")
        except CutOffError as error:
            note = str(error)
            break
        if not piece:
            break
        if first and twins is not None:
            first = False
            twin = twins.is_copy(file.name, piece)
            if twin is not None:
                yield Portion(file.name, ends=True, note=twin)
                return
        if too_long:
            _, newline, piece = piece.partition(b"\n")
            too_long = not newline
        end = piece.rfind(b"\n") + 1
        if end:
            yield Portion(file.name, b"".join((*rest, piece[:end])))
            rest.clear()
            held = 0
        if end < len(piece):
            rest.append(piece[end:])
        held += len(piece) - end
        if held > LONGEST:
            what = f"a line of more than {LONGEST >> 20} MiB is no event"
            yield Portion(file.name, note=what, skipped=True)
            rest.clear()
            held = 0
            too_long = True
    data = b"".join(rest)
    yield Portion(file.name, data, cut=bool(data), ends=True, note=note)
