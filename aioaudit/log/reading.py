"""From files to events: the one place that meets damaged input.

A log may be cut off by a crash, be mixed with somebody else's output, come
from a newer version, or be no log at all.  Every such line is noted with its
file and number and skipped; everything else is used.

Files are read in pieces and lines are decoded one by one, so that a log may be
much larger than memory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import msgspec

from aioaudit.events import BY_NAME, SCHEMA, AnyEvent, Event
from aioaudit.log.store import EventSink, Log

PIECE = 1 << 20
"""Bytes read at a time."""

LONGEST = 1 << 24
"""Bytes of the longest line that is looked at; no event comes near it."""

Paths: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]]"
Progress: TypeAlias = Callable[[int, int | None], None]

_decode = msgspec.json.Decoder[Event](AnyEvent).decode


class _Head(msgspec.Struct):
    """What every event has, whatever its name: enough to know one of ours."""

    event: str
    ts: str
    seq: int
    run: str
    pid: int
    schema: int | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


def load(path: Paths, *, progress: Progress | None = None) -> Log:
    """Read a log.

    *path* is a file, a folder (every ``*.jsonl`` in it is read, in the order of
    their names), ``-`` for standard input, or several of these.  *progress* is
    called now and then with the bytes read so far and, where it is known, their
    number in all.

    Damaged lines are no error: they are in `Log.problems`.  Raises `OSError`
    if a file cannot be opened, or a folder holds no log.
    """
    log = Log()
    read(path, log, progress=progress)
    return log


def load_stream(name: str, stream: BinaryIO) -> Log:
    """Read a log from a *stream* that problems call *name*; else as `load`."""
    log = Log()
    for _ in _read_stream(name, stream, log):
        pass
    return log


def read(path: Paths, log: EventSink, *, progress: Progress | None = None) -> None:
    """Give every event of a log to *log*, in the order of the lines; the rest as in `load`."""
    files = list(files_of(path))
    total = _size(files)
    done = 0
    for file, listed in files:
        try:
            for more in _read(file, log):
                done += more
                if progress is not None:
                    progress(done, total)
        except OSError as error:
            if listed:
                raise
            log.problem(file, 1, f"cannot be read ({error.strerror})")


def files_of(path: Paths) -> Iterator[tuple[str, bool]]:
    """The files to read, and of each whether it was asked for by its own name.

    Raises `OSError` for a folder that holds no log.
    """
    for each in [path] if isinstance(path, str | os.PathLike) else path:
        name = os.fspath(each)
        if name != "-" and Path(name).is_dir():
            inside = sorted(str(file) for file in Path(name).glob("*.jsonl") if file.is_file())
            if not inside:
                raise FileNotFoundError(errno.ENOENT, "no *.jsonl file in this folder", name)
            yield from ((file, False) for file in inside)
        else:
            yield name, True


def _size(files: list[tuple[str, bool]]) -> int | None:
    """The bytes of all files together; None if one of them has no end to ask for."""
    paths = [Path(file) for file, _ in files]
    if not all(path.is_file() for path in paths):
        return None
    return sum(path.stat().st_size for path in paths)


def _read(file: str, log: EventSink) -> Iterator[int]:
    """Read one file into *log*; yields the bytes read, piece by piece."""
    if file == "-":
        with open(0, "rb", closefd=False) as stream:
            yield from _read_stream("<stdin>", stream, log)
        return
    with Path(file).open("rb") as stream:
        yield from _read_stream(file, stream, log)


def _read_stream(file: str, stream: BinaryIO, log: EventSink) -> Iterator[int]:
    number = 0
    rest = b""
    too_long = False
    while piece := stream.read(PIECE):
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        if too_long and lines:
            del lines[0]
            too_long = False
        for line in lines:
            number += 1
            take_line(line, file, number, log)
        if too_long:
            rest = b""
        elif len(rest) > LONGEST:
            number += 1
            log.problem(file, number, f"a line of more than {LONGEST >> 20} MiB is no event")
            rest = b""
            too_long = True
        yield len(piece)
    if rest:
        number += 1
        take_line(rest, file, number, log, last=True)
    if number == 0:
        log.problem(file, 1, "the file is empty, nothing was recorded in it", skipped=False)


def take_line(line: bytes, file: str, number: int, log: EventSink, *, last: bool = False) -> None:
    """Give the event in *line*, the one with this *number* in *file*, to *log*, or say what it is.

    *last* says that the file ends with it, without an end of the line.
    """
    try:
        event = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if not line.strip():
            return
        what = "cut off: the last line has no end" if last and _is_cut(line) else None
        _take_other(line, file, number, log, what, error)
        return
    if getattr(event, "schema", SCHEMA) > SCHEMA:
        log.problem(file, number, _newer(getattr(event, "schema", SCHEMA)), skipped=False)
    log.add(event)


def _take_other(
    line: bytes, file: str, number: int, log: EventSink, what: str | None, error: Exception
) -> None:
    """A line that is none of the events known here: say what it is."""
    if what is None and line.startswith(b"\x1f\x8b"):
        what = f"compressed, not text; try: gzip -dc {file} | aioaudit why -"
    elif what is None and not _is_text(line):
        what = "binary data, not a line of JSON"
    elif what is None and not isinstance(error, msgspec.ValidationError):
        what = f"not a line of JSON ({error})"
    if what is not None:
        log.problem(file, number, what)
        return
    try:
        head = _decode_head(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as not_ours:
        log.problem(file, number, f"JSON, but no event of aioaudit ({not_ours})")
        return
    if head.schema is not None and head.schema > SCHEMA and head.event == "process.start":
        log.problem(file, number, _newer(head.schema), skipped=False)
        log.skip_unknown()
    elif head.event in BY_NAME:
        log.problem(file, number, f"damaged {head.event} ({error})")
    else:  # an event of a later version: a reader accepts it
        log.skip_unknown()


def _is_text(line: bytes) -> bool:
    """Whether *line* may be text; msgspec's error does not say, since 0.23 it is as any other."""
    try:
        return "\0" not in line.decode()
    except UnicodeDecodeError:
        return False


def _is_cut(line: bytes) -> bool:
    """Whether *line* begins like an event and stops in the middle."""
    return line.startswith(b"{") and b"\0" not in line and not line.rstrip().endswith(b"}")


def _newer(schema: int) -> str:
    return (
        f"written with schema {schema}, this version reads up to schema {SCHEMA}: "
        "what it knows is used, a newer aioaudit may know more"
    )
