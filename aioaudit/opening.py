"""Private. Opening a file to write; what another user put in its place is not written to.

In a folder that others can write to (``/tmp``), any of them may have made the file
before us: a link to a file of ours, a file that they can read, a pipe that nobody
reads from.  There only two things are taken: a new file, and a regular one of this
user that nobody else can read, under one name.  Links and pipes are taken from
whoever owns them, if that is this user or root: those were put there on purpose.

The path is walked one name after the other, each opened below the one before.  What
is judged is then what is used, however fast others move things about.  Where the
system cannot do that (no ``O_PATH``), the path is simply opened.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack

from aioaudit.errors import AioauditError

# Bound now, as in the jsonl exporter: a program, or its tests, may put something else in
# their place later.
_open, _close, _fstat, _stat, _readlink = os.open, os.close, os.fstat, os.stat, os.readlink
_set_blocking = os.set_blocking
_euid = getattr(os, "geteuid", None)
_O_PATH: int | None = getattr(os, "O_PATH", None)

MOST_LINKS = 40
"""Symbolic links on the way to a file, as Linux allows them."""

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MORE_THAN_OWNER = 0o177
"""What mode 0600 leaves out."""


class PlantedError(AioauditError):
    """What is there may be somebody else's doing; the text says what is wrong with it."""


def open_to_write(
    path: str | os.PathLike[str],
    *,
    append: bool = True,
    mode: int = 0o600,
    create: bool = True,
    wait: bool = True,
) -> int:
    """A descriptor to write to *path* with.

    Args:
        path: The file; folders are not made.
        append: Add to what is there, else begin anew.
        mode: Of a new file; in a folder that others can write to it is always 0600.
        create: Make the file where there is none.
        wait: Wait for the reader of a named pipe.

    Raises:
        PlantedError: another user may have put it there.
        OSError: it cannot be opened; `BlockingIOError` for a pipe that nobody reads
            from, where that is not waited for.
    """
    flags = os.O_WRONLY | (os.O_APPEND if append else 0)
    if _O_PATH is None or _euid is None:
        flags |= (os.O_CREAT if create else 0) | (0 if append else os.O_TRUNC)
        return _open(path, flags, mode)
    with ExitStack() as closing:
        way = _Way(os.fspath(path), closing)
        while True:
            try:
                fd = _open_last(way, flags, mode, create=create, wait=wait)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                way.follow_last()
            else:
                break
    if not append and stat.S_ISREG(_fstat(fd).st_mode):
        os.ftruncate(fd, 0)  # not before it was looked at
    return fd


class _Way:
    """The folder that holds the file, open, and the file's name in it."""

    def __init__(self, path: str, closing: ExitStack) -> None:
        self._path = path
        self._closing = closing
        self._links = 0
        self._folder = -1
        self._enter("." if not path.startswith("/") else "/", None)
        self._go(path.split("/"))

    def _go(self, names: list[str]) -> None:
        """Walk along *names* up to the last one."""
        left = [name for name in names if name not in ("", ".")]
        if not left or names[-1] in ("", ".", ".."):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._path)
        left.reverse()
        while len(left) > 1:
            name = left.pop()
            fd = self._held(_open(name, _path_flags(), dir_fd=self._folder))
            found = _fstat(fd)
            if not stat.S_ISLNK(found.st_mode):
                self._use(fd)
            elif self.in_proc:  # a link that only the kernel can follow
                self._enter(name, self._folder)
            else:
                target = self._target(name, found, fd)
                if target.startswith("/"):
                    self._enter("/", None)
                left.extend(each for each in reversed(target.split("/")) if each not in ("", "."))
        self.name = left[0]

    def follow_last(self) -> None:
        """Go where the link leads that the last name is."""
        fd = self._held(_open(self.name, _path_flags(), dir_fd=self._folder))
        found = _fstat(fd)
        if not stat.S_ISLNK(found.st_mode):
            return  # replaced meanwhile: it is opened again
        target = self._target(self.name, found, fd)
        if target.startswith("/"):
            self._enter("/", None)
        self._go(target.split("/"))

    def _target(self, name: str, link: os.stat_result, fd: int) -> str:
        self._links += 1
        if self._links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)
        if self.shared and not _trusted(link):
            raise PlantedError(
                f"{name!r} is a symbolic link of another user ({link.st_uid}), "
                "in a folder that others can write to"
            )
        return _readlink("", dir_fd=fd)

    def _enter(self, name: str, folder: int | None) -> None:
        flags = os.O_DIRECTORY | os.O_CLOEXEC | (_O_PATH or 0)
        self._use(self._held(_open(name, flags, dir_fd=folder)))

    def _held(self, fd: int) -> int:
        self._closing.callback(_close, fd)
        return fd

    def _use(self, folder: int) -> None:
        self._folder = folder
        found = _fstat(folder)
        # Its owner may write to it, whatever its mode is now.
        self.shared = bool(found.st_mode & _WRITABLE_BY_OTHERS) or not _trusted(found)
        self.in_proc = found.st_dev == _proc_device()

    def open(self, flags: int, mode: int = 0o600) -> int:
        """Open the file; a link there is not followed, unless it is one of the kernel's."""
        follow = 0 if self.in_proc else os.O_NOFOLLOW
        return _open(self.name, flags | follow, mode, dir_fd=self._folder)

    def look(self) -> os.stat_result:
        """What the name stands for now, for a message only."""
        return _stat(self.name, dir_fd=self._folder, follow_symlinks=False)


def _open_last(way: _Way, flags: int, mode: int, *, create: bool, wait: bool) -> int:
    if not way.shared:
        try:
            return way.open(
                flags | (os.O_CREAT if create else 0) | (0 if wait else os.O_NONBLOCK), mode
            )
        except OSError as error:
            raise _nobody_reads(error, way) from None
    if create:
        try:
            return way.open(flags | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            pass
    try:
        fd = _judged(way.open(flags | os.O_NONBLOCK))
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EACCES, errno.EPERM):
            _judge(way.look())  # a pipe that nobody reads from, a socket, or nothing of ours
        if error.errno == errno.ENXIO and wait:
            return _judged(way.open(flags))
        raise _nobody_reads(error, way) from None
    _set_blocking(fd, True)
    return fd


def _judged(fd: int) -> int:
    try:
        _judge(_fstat(fd))
    except BaseException:
        _close(fd)
        raise
    return fd


def _judge(found: os.stat_result) -> None:
    """Raise `PlantedError` unless *found*, in a folder of many, is ours to write to."""
    where = "in a folder that others can write to"
    if stat.S_ISLNK(found.st_mode):
        return  # followed, if it may be
    if stat.S_ISFIFO(found.st_mode):
        if not _trusted(found):
            raise PlantedError(f"this is a named pipe of another user ({found.st_uid}), {where}")
        return
    if not stat.S_ISREG(found.st_mode):
        raise PlantedError(f"this is no regular file, {where}")
    if found.st_uid != _me():
        raise PlantedError(f"this file is another user's ({found.st_uid}), {where}")
    if found.st_mode & _MORE_THAN_OWNER:
        mode = stat.S_IMODE(found.st_mode)
        raise PlantedError(
            f"this file has mode {mode:04o}, so that others may read or change it, {where}; "
            "allowed there: 0600"
        )
    if found.st_nlink > 1:
        raise PlantedError(f"this file has another name, too (a hard link), {where}")


def _nobody_reads(error: OSError, way: _Way) -> OSError:
    """What *error* means, which came of opening a pipe without waiting."""
    if error.errno == errno.ENXIO and stat.S_ISFIFO(way.look().st_mode):
        return BlockingIOError(errno.ENXIO, "nobody reads from this named pipe", error.filename)
    return error


def _path_flags() -> int:
    return os.O_NOFOLLOW | os.O_CLOEXEC | (_O_PATH or 0)


def _me() -> int:
    return 0 if _euid is None else int(_euid())


def _trusted(found: os.stat_result) -> bool:
    """Whether it is this user's, or root's."""
    return found.st_uid in (0, _me())


def _proc_device() -> int:
    try:
        return _stat("/proc/self/fd").st_dev
    except OSError:
        return -1
