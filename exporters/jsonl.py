"""Writes events as lines of JSON, one file a process.

Goal: whatever happens, a line in the file is a whole line, and what was
exported is in the hands of the kernel.

- There is no buffer of our own.  A file gets a batch in one `os.write`: the kernel
  appends it as a whole, so processes that share a file never mix their lines.
  A pipe takes as much as a whole as it promises (``PIPE_BUF``), so it gets so many
  lines at once as fit.
- A write that was cut short is completed.  Where that fails (full disk) the
  half line is cut off again, or, where others may have written since, ended by
  a newline before the next line.  What was not written is offered again by the
  pipeline: see `NotTakenError`.
- The file is looked up once a batch.  If a log rotator moved it away, or the
  process forked, the batch goes into a new one, which begins with the run's
  ``process.start`` as well.
- A descriptor is used only while it is the file that we opened: programs that
  turn into daemons close all descriptors, and the number may be a socket next.
- What another user may have put at the path is not written to (`aioaudit.opening`).
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, TextIO, cast

from aioaudit.events import Event, ProcessStart
from aioaudit.exporter import ExporterError, NotTakenError, encode_events
from aioaudit.opening import PlantedError, open_to_write
from aioaudit.threads import allocate_lock, sleep

__all__ = ["JsonlExporter"]

# Bound now: a program, or its tests, may put something else in their place later,
# and the log is not what that is meant for.
_open, _close, _write, _truncate = os.open, os.close, os.write, os.ftruncate
_stat, _fstat, _getpid = os.stat, os.fstat, os.getpid

_PIPE = getattr(select, "PIPE_BUF", 512)  # what POSIX promises at the least

_IN_THE_MAKING = 0.1  # seconds after which a line that another process writes has grown
_HOLE: int | None = getattr(os, "SEEK_HOLE", None)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# What may pass while the process runs; anything else at the first open is a
# wrong path, and waiting for it would only hide that.
_PASSING = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.EINTR}
)


class JsonlExporter:
    """Writes each event as one line of JSON.

    Args:
        path_or_stream: A path, in which ``{pid}`` stands for the number of the
            process, or a stream to write to, for text or for bytes.
        folder: Where a relative path starts; by default the working directory
            at the moment when the exporter is made.
        setting: What messages call the setting that has the path, for whoever
            is to change it.

    A file is opened at the first export, and created with mode 0600; an
    existing one is appended to and keeps its mode.  Folders are not created.
    In a folder that others can write to, an existing file must be this user's,
    with mode 0600 and no other name.

    A stream is written to under a lock, flushed after each batch, and never
    closed.  It is the owner's: one that fails takes the exporter out of
    service.

    Raises:
        TypeError: *path_or_stream* is neither.
    """

    def __init__(
        self,
        path_or_stream: str | os.PathLike[str] | TextIO | BinaryIO,
        *,
        folder: str | os.PathLike[str] | None = None,
        setting: str = "path_or_stream",
    ) -> None:
        self._target: _File | _Stream
        if isinstance(path_or_stream, str | os.PathLike):
            self._target = _File(os.fspath(path_or_stream), folder, setting)
        elif callable(getattr(path_or_stream, "write", None)):
            self._target = _Stream(path_or_stream)
        else:
            raise TypeError(
                "JsonlExporter takes a path or a stream with a write method, "
                f"not {path_or_stream!r}"
            )
        self._lock = allocate_lock()
        self._pid = _getpid()

    def export(self, events: Sequence[Event]) -> None:
        """Write *events*, one whole line each.

        Raises:
            ExporterError: the path cannot be opened, and will not be soon.
            NotTakenError: not all could be written just now.
        """
        if not events:
            return
        if _getpid() != self._pid:  # a forked child: the parent's lock may be held for good
            self._pid = _getpid()
            self._lock = allocate_lock()
            self._target.forked()
        first = events[0]
        lines = encode_events(events)
        with self._lock:
            self._target.write(lines, opens_run=isinstance(first, ProcessStart))

    def flush(self) -> None:
        """Nothing to do: `export` leaves nothing behind."""

    def shutdown(self) -> None:
        """Close the file; a stream is left open.  Exporting again opens the file again."""
        with self._lock:
            self._target.close()


class _File:
    def __init__(self, path: str, folder: str | os.PathLike[str] | None, setting: str) -> None:
        self.given = path
        self.setting = setting
        # Relative to where the process is now at the latest: it may go elsewhere.
        self.template = _absolute(path, folder)
        self.own = "{pid}" in path
        self.opened_once = False
        self.header: bytes | None = None
        self.begin()

    def begin(self) -> None:
        self.path = self.template.replace("{pid}", str(_getpid()))
        self.fd: int | None = None
        self.identity = (0, 0)
        self.regular = False
        self.opened = False  # in this process
        self.used = False  # something was written to this descriptor
        self.header_due = False
        self.torn = False  # the file may end in the middle of a line

    def forked(self) -> None:
        self.close()  # the child's copy of the descriptor only
        self.header = None
        self.begin()

    def close(self) -> None:
        if self.fd is not None and self.is_ours():
            _close(self.fd)
        self.fd = None

    def is_ours(self) -> bool:
        try:
            found = _fstat(cast(int, self.fd))
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.identity

    def write(self, lines: bytes, *, opens_run: bool) -> None:
        """Write *lines*; the first opens a run or not.  Raises NotTakenError."""
        if opens_run:
            self.header = lines[: lines.index(b"\n") + 1]
        self.find_or_open()
        extra = 0
        if opens_run:
            self.header_due = False
        elif self.header_due and self.header is not None:
            lines = self.header + lines
            extra = 1
        written, error = self.write_lines(lines)
        if written:
            self.header_due = False
        if error is not None:
            text = f"cannot write to {self.path!r}: {error.strerror}"
            if error.errno in _FULL:
                text += f" (make room, or name another place in {self.setting})"
            raise NotTakenError(text, max(written - extra, 0))

    def write_lines(self, lines: bytes) -> tuple[int, OSError | None]:
        """How many of *lines* were written whole, where not all were, and what went wrong."""
        begin = 0
        if self.torn:
            begin = 1
            lines = b"\n" + lines
        size = 0
        error = None
        for piece in [lines] if self.own or self.regular else _pieces(lines):
            done, error = self.write_bytes(piece)
            size += done
            if error is not None:
                break
        if error is None:  # how many they are, nobody asks
            self.torn = False
            return 1, None
        whole = lines.rfind(b"\n", begin, size) + 1
        written = lines.count(b"\n", begin, whole)
        if written:
            self.torn = False
        if size > whole:
            self.cut_off(size - whole)
        return written, error

    def write_bytes(self, data: bytes) -> tuple[int, OSError | None]:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[_write(cast(int, self.fd), rest) :]
        except OSError as error:
            return len(data) - len(rest), error
        finally:
            self.used = self.used or len(rest) < len(data)
        return len(data), None

    def cut_off(self, size: int) -> None:
        """Take back *size* bytes of a line whose rest could not be written."""
        if self.own and self.regular:
            fd = cast(int, self.fd)
            try:
                _truncate(fd, _fstat(fd).st_size - size)
            except OSError:
                pass
            else:
                return
        self.torn = True

    def find_or_open(self) -> None:
        """Make sure that the descriptor is the file that the path names now."""
        if self.fd is not None and not self.is_ours():
            self.fd = None
        if self.fd is not None:
            try:
                found = _stat(self.path)
            except FileNotFoundError:
                self.close()
            except OSError:
                pass  # cannot be told: what is open still takes lines
            else:
                if (found.st_dev, found.st_ino) != self.identity:
                    self.close()
                elif self.regular and found.st_size == 0 and self.used:
                    self.header_due = True  # emptied in place by a log rotator
        if self.fd is None:
            self.open()

    def open(self) -> None:
        try:
            fd = open_to_write(self.path)
        except PlantedError as error:
            text = f"cannot open {self.path!r} for writing: {error}"
            if self.opened:  # put there in place of ours; it may go away again
                raise NotTakenError(text) from error
            raise ExporterError(
                f"{text}; {self.setting} (here {self.given!r}) must name another"
            ) from error
        except OSError as error:
            text = f"cannot open {self.path!r} for writing: {error.strerror}"
            if self.opened_once or error.errno in _PASSING:
                raise NotTakenError(text) from error
            raise ExporterError(
                f"{text}; {self.setting} (here {self.given!r}) must name a file that can be "
                "written, in a folder that exists"
            ) from error
        found = _fstat(fd)
        self.fd = fd
        self.identity = (found.st_dev, found.st_ino)
        self.regular = stat.S_ISREG(found.st_mode)
        self.torn = self.regular and found.st_size > 0 and self.is_torn()
        self.used = False
        self.header_due = True
        self.opened = self.opened_once = True

    def is_torn(self) -> bool:
        """Whether the file ends in the middle of a line; yes if it cannot be read.

        A line that another process is just writing looks so, too: Linux lets a file grow
        page by page while one ``write`` goes on (``generic_perform_write`` in mm/filemap.c).
        But that is ended by whoever writes it.  Who looks for a hole is let in when that is done
        (``ext4_llseek``, ``shmem_file_llseek`` and others take the lock of the inode); where a
        file system does not do so, it grows a moment later, unless the machine is very busy.
        """
        try:
            # The path may be something else by now, a pipe that would be waited for.
            fd = _open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            return True
        try:
            found = _fstat(fd)
            if (found.st_dev, found.st_ino) != self.identity:
                return True
            if os.pread(fd, 1, found.st_size - 1) == b"\n":
                return False
            if _HOLE is not None:
                with suppress(OSError):  # none to be found; emptied meanwhile
                    os.lseek(fd, 0, _HOLE)
                found = _fstat(fd)
                if found.st_size == 0 or os.pread(fd, 1, found.st_size - 1) == b"\n":
                    return False
            sleep(_IN_THE_MAKING)
            return _fstat(fd).st_size == found.st_size
        except OSError:
            return True
        finally:
            _close(fd)


def _absolute(path: str, folder: str | os.PathLike[str] | None) -> str:
    """*path*, relative to *folder*, relative to where the process is now."""
    # Not with pathlib, which takes its time to import.
    if folder is not None:
        path = os.path.join(folder, path)  # noqa: PTH118 - see above
    if not os.path.isabs(path):  # noqa: PTH117 - see above
        path = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118 - see above
    # As pathlib does it: without "." and empty parts; ".." may lead elsewhere through a link.
    root, rest = os.path.splitdrive(path)  # of Windows, where one may begin with two separators
    parts = [part for part in rest.split(os.sep) if part not in ("", ".")]  # noqa: PTH206 - see above
    return f"{root}{os.sep}{os.sep.join(parts)}"  # noqa: PTH118 - see above


def _pieces(lines: bytes) -> Iterator[bytes]:
    """*lines* in pieces that a pipe takes whole, whoever else writes to it: see pipe(7).

    A line that is longer than that is a piece of its own.
    """
    piece = b""
    for line in lines.splitlines(keepends=True):  # JSON has no line end inside a line
        if piece and len(piece) + len(line) > _PIPE:
            yield piece
            piece = b""
        piece += line
    if piece:
        yield piece


class _Stream:
    def __init__(self, stream: Any) -> None:
        import json  # a file needs none of it, and it takes long to import

        self.json = json
        self.stream = stream
        self.text = isinstance(stream, io.TextIOBase) or (
            not isinstance(stream, io.IOBase) and hasattr(stream, "encoding")
        )

    def forked(self) -> None:
        """A stream is the same in a child."""

    def close(self) -> None:
        """A stream is its owner's to close."""

    def write(
        self,
        lines: bytes,
        *,
        opens_run: bool,  # noqa: ARG002 - a stream is called like a file
    ) -> None:
        if self.text:
            self.write_text(lines)
        else:
            self.write_bytes(lines)
        flush = getattr(self.stream, "flush", None)
        if flush is not None:
            flush()

    def write_text(self, lines: bytes) -> None:
        try:
            self.stream.write(lines.decode())
        except UnicodeEncodeError:  # raised before anything is written
            dumps, loads = self.json.dumps, self.json.loads
            self.stream.write("".join(dumps(loads(line)) + "\n" for line in lines.splitlines()))

    def write_bytes(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            count = self.stream.write(rest)
            if not isinstance(count, int):  # takes everything, and does not say so
                return
            rest = rest[count:]
