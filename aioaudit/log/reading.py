"""Reading logs: what is in files comes to a `Log`, or to any other sink, and to nobody twice."""

from __future__ import annotations

from typing import BinaryIO

from aioaudit.log.parsing import Trouble, parse
from aioaudit.log.portions import Portion, Progress, portions_of, stream_portions
from aioaudit.log.sources import Bytes, Paths, sources_of
from aioaudit.log.store import EventSink, Log


def load(path: Paths, *, progress: Progress | None = None) -> Log:
    """Read a log.

    *path* is a file, a folder (every ``*.jsonl`` in it is read, and what became of those that
    were rotated), ``-`` for standard input, or several of these; any of them may be compressed with
    gzip, xz or zstd.  *progress* is called now and then with the bytes read so far and, where
    it is known, their number in all.

    Damaged lines are no error: they are in `Log.problems`.  Raises `OSError`
    if a file cannot be opened, or a folder holds no log.
    """
    log = Log()
    read(path, log, progress=progress)
    return log


def load_stream(name: str, stream: BinaryIO) -> Log:
    """Read a log from a *stream* that problems call *name*; else as `load`."""
    log = Log()
    place = Place(log)
    for portion in stream_portions(Bytes(name, stream)):
        _give(portion, log, place)
    return log


def read(path: Paths, log: EventSink, *, progress: Progress | None = None) -> None:
    """Give every event of a log to *log*, in the order of the lines; the rest as in `load`."""
    place = Place(log)
    for portion in portions_of(sources_of(path), progress):
        _give(portion, log, place)


def _give(portion: Portion, log: EventSink, place: Place) -> None:
    """Give what is in *portion* to *log*."""
    parsed = parse(portion.file, portion.data, cut=portion.cut)
    place.told(portion, parsed.count, parsed.damaged, parsed.problems, parsed.zone)
    log.add_all(parsed.events)
    log.skip_unknown(parsed.unknown)


class Place:
    """Where in a file the reading is, and what is said of it there."""

    def __init__(self, log: EventSink) -> None:
        self._log = log
        self._lines = 0
        self._other_zone = False

    def told(
        self,
        portion: Portion,
        count: int,
        damaged: int,
        problems: list[Trouble],
        zone: tuple[int, str] | None,
    ) -> None:
        """*portion* comes next, with so many lines; the rest as in `aioaudit.log.parsing.Parsed`."""
        log, file = self._log, portion.file
        for line, what, skipped in problems:
            log.problem(file, self._lines + line, what, skipped=skipped)
        log.damaged += damaged - sum(skipped for _, _, skipped in problems)
        if zone is not None and not self._other_zone:
            self._other_zone = True
            line, ts = zone
            what = f"its time is not in UTC ({ts}); all such are told in UTC"
            log.problem(file, self._lines + line, what, skipped=False)
        self._lines += count
        if portion.note:
            self._lines += portion.skipped
            log.problem(file, max(self._lines, 1), portion.note, skipped=portion.skipped)
        if portion.ends:
            if not (self._lines or portion.note):
                what = "the file is empty, nothing was recorded in it"
                log.problem(file, 1, what, skipped=False)
            self._lines = 0
            self._other_zone = False
