"""Where events come from, while they come: files that grow, folders, standard input.

Nothing here waits.  Whoever reads asks every source in turn for what has come since, up to so many
bytes, and goes on with something else.
"""

from __future__ import annotations

import os
import queue
import select
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from aioaudit.cli.processes import is_process
from aioaudit.errors import AioauditError
from aioaudit.live.client import connect
from aioaudit.log.parsing import take_line
from aioaudit.log.portions import LONGEST
from aioaudit.log.sources import refuse_empty
from aioaudit.log.store import EventSink

if TYPE_CHECKING:
    from aioaudit.live.client import Process, Told
    from aioaudit.live.protocol import ProcessFacts

PORTION = 1 << 16
"""Bytes that are read at a time: little enough that keys are answered meanwhile."""

LOOK_AGAIN = 2.0
"""Seconds after which a folder is looked through for new files."""

ASK_AGAIN = 1.0
"""Seconds after which a process is asked again..."""

TRY_AGAIN = 5.0
"""... and where it did not answer."""

_READ = os.O_RDONLY | os.O_CLOEXEC


class Sink(EventSink):
    """What takes events, and counts of those that are not told one by one."""

    def count(self, run: str, now: str, made: int, living: int | None) -> None:
        """It is *now*, and in *run* so many tasks were *made* so far; so many live, if that is known."""


class Source(Protocol):
    """Something that events come from.

    Attributes:
        name: What it is called in a sentence.
        ended: Whether nothing can come any more.
        notes: What happened to it that somebody who looks should know, the last ones.
    """

    name: str
    ended: bool
    notes: list[str]

    def read(self, sink: Sink) -> bool:
        """Give some of what has come to *sink*; False where there was nothing."""
        ...

    def behind(self) -> int | None:
        """How many bytes are there that were not read yet, None where nobody knows."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Lines:
    """Pieces of a stream cut into lines; what has no end yet is kept until it has.

    Args:
        name: What the stream is called where a line of it is damaged.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest: list[bytes] = []
        self._length = 0
        self._too_long = False
        self.number = 0

    def take(self, piece: bytes, sink: EventSink) -> None:
        """Give the lines that end in *piece* to *sink*."""
        lines = piece.split(b"\n")
        last = lines.pop()
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest.clear()
            self._length = 0
            for line in lines:
                self.number += 1
                if self._too_long:
                    self._too_long = False
                else:
                    take_line(line, self._name, self.number, sink)
        if last and not self._too_long:
            self._rest.append(last)
            self._length += len(last)
            if self._length > LONGEST:
                what = f"a line of more than {LONGEST >> 20} MiB is no event"
                sink.problem(self._name, self.number + 1, what)
                self._too_long = True
                self._rest.clear()
                self._length = 0

    def finish(self, sink: EventSink) -> None:
        """Nothing follows: what is left is a line without an end."""
        rest = b"".join(self._rest)
        self._rest.clear()
        self._length = 0
        self._too_long = False
        if rest:
            self.number += 1
            take_line(rest, self._name, self.number, sink, last=True)


class File:
    """A file that may grow, be cut, or be replaced by another one of its name.

    Args:
        path: The file; it is opened at once.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self.ended = False
        self.notes: list[str] = []
        self._lines = Lines(path)
        self._fd = os.open(path, _READ | os.O_NONBLOCK)
        self._position = 0
        self._gone = False

    def read(self, sink: Sink) -> bool:
        """Give some of what has come to *sink*; False where there was nothing."""
        if self.ended:
            return False
        try:
            piece = os.read(self._fd, PORTION)
            if not piece:
                return self._look(sink)
        except OSError as error:
            self._end(f"cannot be read any more ({error.strerror})")
            return False
        self._position += len(piece)
        self._lines.take(piece, sink)
        return True

    def _look(self, sink: Sink) -> bool:
        """All was read: is it still the file of this name, and as long as it was?"""
        here = os.fstat(self._fd)
        if here.st_size < self._position:
            self._lines.finish(sink)
            self._lines = Lines(self.name)
            self._note("was cut: read again from its begin")
            self._position = os.lseek(self._fd, 0, os.SEEK_SET)
            return True
        try:
            named = Path(self.name).stat()
            if (named.st_dev, named.st_ino) == (here.st_dev, here.st_ino):
                return False
            fd = os.open(self.name, _READ | os.O_NONBLOCK)
        except OSError:
            if not self._gone:
                self._gone = True
                self._note("is not there any more; a new one of that name is read when it comes")
            return False
        os.close(self._fd)
        self._fd = fd
        self._lines.finish(sink)
        self._lines = Lines(self.name)
        self._position = 0
        self._gone = False
        self._note("was replaced: the new one is read")
        return True

    def behind(self) -> int | None:
        """How many bytes are there that were not read yet."""
        return 0 if self.ended else max(os.fstat(self._fd).st_size - self._position, 0)

    def close(self) -> None:
        """Let go of it."""
        if not self.ended:
            self.ended = True
            os.close(self._fd)

    def _end(self, why: str) -> None:
        self._note(why)
        self.close()

    def _note(self, what: str) -> None:
        _note(self.notes, f"{self.name} {what}")


class Stream:
    """What comes through a pipe, until its end.

    Args:
        fd: The pipe, which is left open.
        name: What it is called in a sentence.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.ended = False
        self.notes: list[str] = []
        self._fd = fd
        self._lines = Lines(name)

    def read(self, sink: Sink) -> bool:
        """Give some of what has come to *sink*; False where there was nothing."""
        if self.ended or not select.select([self._fd], [], [], 0)[0]:
            return False
        try:
            piece = os.read(self._fd, PORTION)
        except BlockingIOError:  # somebody else was faster
            return False
        except OSError as error:
            _note(self.notes, f"{self.name} cannot be read any more ({error.strerror})")
            self.ended = True
            return False
        if not piece:
            self._lines.finish(sink)
            _note(self.notes, f"{self.name} has ended")
            self.ended = True
            return False
        self._lines.take(piece, sink)
        return True

    def behind(self) -> int | None:
        """Nobody knows what is still to come through a pipe."""
        return None

    def close(self) -> None:
        """Whoever gave it closes it."""
        self.ended = True


class Turns:
    """Several sources, of which each has its turn.

    Args:
        sources: What is read; more may be added.  Each is read to its present end before the next
            one, so files of one run that are named in order come in order; from then on a
            portion of each.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        self._at = 0
        self._known: set[Source] = set()
        """Those that were read to their end once."""

    def read(self, sink: Sink) -> bool:
        """Give a portion of one of them to *sink*; False where nothing was there, in any."""
        for _ in range(len(self.sources)):
            self._at %= len(self.sources)
            source = self.sources[self._at]
            came = source.read(sink)
            if not came:
                self._known.add(source)
            if source in self._known:
                self._at += 1
            if came:
                return True
        return False

    @property
    def ended(self) -> bool:
        """Whether nothing can come any more."""
        return all(each.ended for each in self.sources)

    @property
    def read_once(self) -> bool:
        """Whether all that was there at first was read."""
        return len(self._known) >= len(self.sources)

    def behind(self) -> int:
        """How many bytes are there that were not read yet, as far as is known."""
        return sum(each.behind() or 0 for each in self.sources)

    def notes(self) -> list[str]:
        """What happened to them."""
        return [note for each in self.sources for note in each.notes]

    def close(self) -> None:
        """Let go of them."""
        for each in self.sources:
            each.close()


class Folder:
    """All ``*.jsonl`` files of a folder, also those that come later.

    Args:
        path: The folder.

    Raises:
        OSError: It cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self.ended = False
        self.notes: list[str] = []
        self._turns = Turns(())
        self._seen: set[str] = set()
        next(Path(path).iterdir(), None)  # an error of it is to be told at once
        self._look()

    def _look(self) -> bool:
        """Whether there are new files."""
        self._looked = time.monotonic()
        before = len(self._turns.sources)
        for file in sorted(map(str, Path(self.name).glob("*.jsonl"))):
            if file in self._seen:
                continue
            try:
                if Path(file).is_file():
                    each = File(file)
                    each.notes = self.notes
                    self._turns.sources.append(each)
                    self._seen.add(file)
            except OSError as error:
                self._seen.add(file)
                _note(self.notes, f"{file} cannot be read ({error.strerror})")
        return len(self._turns.sources) > before

    def read(self, sink: Sink) -> bool:
        """Give some of what has come to *sink*; False where there was nothing."""
        if self.ended:
            return False
        if self._turns.read(sink):
            return True
        return time.monotonic() - self._looked > LOOK_AGAIN and self._look()

    def behind(self) -> int:
        """How many bytes are there that were not read yet."""
        return self._turns.behind()

    def close(self) -> None:
        """Let go of them."""
        self.ended = True
        self._turns.close()


class Asked:
    """A process that is asked, again and again, by a thread of its own: an answer takes its time.

    Args:
        process: The process.
    """

    def __init__(self, process: Process) -> None:
        self.name = f"process {process.pid}"
        self.ended = False
        self.notes: list[str] = []
        self._process = process
        self._lines = Lines(self.name)
        self._answers: queue.SimpleQueue[Told | Exception] = queue.SimpleQueue()
        self._asking = False
        self._next = 0.0
        self._since = 0
        self._run: str | None = None
        self._log: BinaryIO | None = None
        self._facts: ProcessFacts | None = None

    def read(self, sink: Sink) -> bool:
        """Give some of what it answered to *sink*; False where there was nothing."""
        if self.ended:
            return False
        if self._log is not None:
            return self._read(self._log, sink)
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            if not self._asking and time.monotonic() >= self._next:
                self._asking = True
                threading.Thread(target=self._ask, name="aioaudit-top", daemon=True).start()
            return False
        self._asking = False
        if isinstance(answer, Exception):
            return self._failed(answer)
        self._next = time.monotonic() + ASK_AGAIN
        self._facts, self._log = answer
        return True

    def _ask(self) -> None:
        try:
            self._answers.put(self._process.events(self._since, self._run, lives=False))
        except (AioauditError, OSError) as error:
            self._answers.put(error)

    def _failed(self, error: Exception) -> bool:
        _note(self.notes, str(error))
        self._next = time.monotonic() + TRY_AGAIN
        with suppress(PermissionError):
            try:
                os.kill(self._process.pid, 0)
            except ProcessLookupError:
                self.ended = True
        return False

    def _read(self, log: BinaryIO, sink: Sink) -> bool:
        piece = log.read(PORTION)
        if piece:
            self._lines.take(piece, sink)
            return True
        facts = self._facts
        assert facts is not None
        self._since, self._run = facts.seq, facts.run
        sink.count(facts.run, facts.now, facts.made, facts.tasks)
        log.close()
        self._log = None
        return False

    def behind(self) -> int | None:
        """Nobody knows what it has to say until it was asked."""
        return None

    def close(self) -> None:
        """Ask no more."""
        self.ended = True
        if self._log is not None:
            self._log.close()


def _note(notes: list[str], what: str) -> None:
    if what not in notes[-1:]:
        notes.append(what)
        del notes[:-10]


def source_of(log: str) -> Source:
    """What *log* of the command line means: a file, a folder, ``-``, a pipe or a process.

    Raises:
        OSError: It cannot be read.
        LiveError: The process cannot be asked.
    """
    if log == "-":
        return Stream(0, "standard input")
    if is_process(log):
        return Asked(connect(int(log)))
    refuse_empty(log)
    mode = Path(log).stat().st_mode
    if stat.S_ISDIR(mode):
        return Folder(log)
    if stat.S_ISREG(mode):
        return File(log)
    return Stream(os.open(log, _READ), log)  # waits until somebody writes to it
