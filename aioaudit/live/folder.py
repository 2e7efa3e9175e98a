"""Where the sockets of this user's audited processes are, and what they are called.

In the user's runtime directory (``XDG_RUNTIME_DIR``), else in a folder of the user's own in the
temporary directory, else in one in shared memory, which also a container with a file system that
cannot be written to has.  A folder that is not this user's, or that others may look into, is not
used, and what is in there is not believed.

A socket's path may have some hundred bytes only.  So it is bound and connected to by way of the
open folder (``/proc/self/fd``), where the system has that: then the folder that was looked at is
also the one that is used.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress

NAME = "aioaudit"
SUFFIX = ".sock"
HIDDEN = "."
"""What the name of a socket begins with on which nobody listens yet."""

MOST_PATH = 100
"""Bytes of a socket's path that every system takes."""

_OTHERS = 0o077

# Bound now, as in the jsonl exporter.
_lstat, _fstat, _open, _close, _mkdir = os.lstat, os.fstat, os.open, os.close, os.mkdir
_listdir, _unlink, _exists = os.listdir, os.unlink, os.path.exists
_join = os.path.join
_euid = getattr(os, "geteuid", None)
_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def me() -> int:
    """This user, as the kernel sees what this process does."""
    return 0 if _euid is None else int(_euid())


def candidates(environ: dict[str, str] | os._Environ[str] | None = None) -> list[str]:
    """The folders that may have sockets, the best first; none need be there.

    Args:
        environ: The environment of whoever listens; by default this process's.
    """
    known = os.environ if environ is None else environ
    found: list[str] = []
    runtime = known.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        found.append(_join(runtime, NAME))
    shared = (known.get("TMPDIR", ""), "/tmp", "/dev/shm")  # noqa: S108 - what is in there is looked at
    found += [_join(place, f"{NAME}-{me()}") for place in shared if place.startswith("/")]
    return list(dict.fromkeys(found))


def wrong_with(found: os.stat_result) -> str | None:
    """Why a folder is not to be used."""
    if not stat.S_ISDIR(found.st_mode):
        return "it is no folder"
    if found.st_uid != me():
        return f"it is another user's ({found.st_uid})"
    if found.st_mode & _OTHERS:
        return f"others may look into it (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def opened(path: str, *, make: bool = False) -> int:
    """A descriptor of the folder *path*, which is this user's alone; *make* makes it.

    Raises:
        OSError: there is none, or it is not only this user's.
    """
    if make:
        with suppress(FileExistsError):
            _mkdir(path, 0o700)
    fd = _open(path, _FLAGS)
    wrong = wrong_with(_fstat(fd))
    if wrong is not None:
        _close(fd)
        raise PermissionError(errno.EPERM, wrong, path)
    return fd


def make_one() -> tuple[str, int]:
    """The folder for a socket of this process, and a descriptor of it.

    Raises:
        OSError: there is none that could be used; the text says why of each.
    """
    why: list[str] = []
    for path in candidates():
        runtime = os.path.dirname(path)  # noqa: PTH120 - pathlib takes its time to import
        try:
            if path.endswith(f"/{NAME}"):
                wrong = wrong_with(_lstat(runtime))
                if wrong is not None:
                    raise PermissionError(errno.EPERM, wrong, runtime)
            return path, opened(path, make=True)
        except OSError as error:
            why.append(f"{error.filename or path}: {error.strerror}")
    raise OSError(errno.ENOENT, "; ".join(why))


@contextmanager
def address(folder: str, fd: int, name: str) -> Generator[str]:
    """What to bind or connect to for the socket *name* in *folder*, which is open as *fd*.

    Raises:
        OSError: its path is too long for this system.
    """
    short = f"/proc/self/fd/{fd}"
    if _exists(short):
        yield f"{short}/{name}"
        return
    path = _join(folder, name)
    if len(os.fsencode(path)) > MOST_PATH:
        raise OSError(errno.ENAMETOOLONG, "its path is too long for a socket", path)
    yield path


def names_in(fd: int) -> list[str]:
    """The names of the sockets in an open folder."""
    return sorted(name for name in _listdir(fd) if name.endswith(SUFFIX))


def pid_in(name: str) -> int | None:
    """The number of the process in the name of its socket, as it sees itself."""
    word = name.lstrip(HIDDEN).partition("-")[0]
    return int(word) if word.isascii() and word.isdigit() and len(word) < 11 else None


def remove(fd: int, name: str) -> None:
    """Remove a socket from an open folder, if it is there."""
    with suppress(OSError):
        _unlink(name, dir_fd=fd)
