"""From outside: have a process run a few lines, and wait for what it answers.

Both talk by files in a folder that is made for the purpose, for this user alone: the lines that
the process runs, and its answers.  `sys.remote_exec` says neither when the lines were run nor whether:
that is when the process comes to an instruction of Python's in its main thread, and one that waits in
the system does not.  Whoever no longer waits for that withdraws the lines, and leaves some that only
take the folder away: the process would complain on its stderr about a file that is not there.

Root may attach to a process of another user.  That user owns the folder then, so nothing in it is
believed: no link is followed, and an answer is a file of that user's, and short.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from aioaudit.attach.target import AttachError, Target
from aioaudit.text import clean

LINES = """\
def aioaudit_attach(folder, words):
    import os, sys, _signal, _thread

    def reply(name, how, text):
        try:
            hidden = folder + "/." + name
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            fd = os.open(hidden, flags, 0o600)
            try:
                os.write(fd, (how + "\\n" + text).encode("utf-8", "backslashreplace"))
            finally:
                os.close(fd)
            os.rename(hidden, folder + "/" + name)
        except OSError:
            pass

    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    loop = None if running is None else running()

    importing = _thread.allocate_lock()

    def wait():
        if importing.acquire(timeout=10):
            importing.release()

    def work():
        try:
            reply("here", "", "")
            if "asyncio" not in sys.modules:
                return reply("done", "no asyncio", "")
            if words["do"] == "detach" and "aioaudit.attach.inside" not in sys.modules:
                return reply("done", "not attached", "{}")
            with importing:
                if "aioaudit.attach.inside" not in sys.modules:
                    os.register_at_fork(before=wait)
                try:
                    import aioaudit
                    from aioaudit.attach import inside
                except ImportError as error:
                    return reply("done", "missing", sys.executable + "\\n" + str(error))
                inside.prepare()
            inside.work(words, reply, loop)
        except BaseException as error:
            reply("done", "failed", type(error).__name__ + ": " + str(error))

    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
    try:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        _thread.start_new_thread(work, ())
    except Exception as error:
        reply("done", "failed", type(error).__name__ + ": " + str(error))
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)

"""
"""What the process runs: it needs nothing but what every process has imported, and raises nothing."""

WITHDRAWN = """\
def aioaudit_attach(folder, name):
    import os

    try:
        os.unlink(folder + "/" + name)
        os.rmdir(folder)
    except OSError:
        pass

"""

SCRIPT = "lines.py"
ANSWERS = ("here", "done", "older")
_MOST = 100_000  # bytes of an answer
_LONGEST = 200.0  # seconds for what the process has begun to do
_LOOK = 0.01  # seconds between two looks for one
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


class Answer(msgspec.Struct):
    """What the process has answered: how it went, and what it says of that."""

    how: str
    text: str


class Letters:
    """The folder by which both talk; a context manager that takes it away at the end.

    Args:
        target: Whose it is.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, target: Target) -> None:
        owner = target.owner
        self._theirs = os.geteuid() if owner is None else owner
        # As the process sees it, whose root and whose temporary folder may be others.
        root = target.root
        self._outside = tempfile.mkdtemp(prefix="aioaudit-", dir=root + _place(root, self._theirs))
        self.folder = self._outside.removeprefix(root)
        self._fd = os.open(self._outside, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        self.pending = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*ANSWERS, *(f".{name}" for name in ANSWERS)):
            self._remove(name)
        if self.pending:
            self._write(
                f"{SCRIPT}.new", f"{WITHDRAWN}aioaudit_attach({self.folder!r}, {SCRIPT!r})\n"
            )
            os.rename(f"{SCRIPT}.new", SCRIPT, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        else:
            self._remove(SCRIPT)
            with suppress(OSError):
                Path(self._outside).rmdir()
        os.close(self._fd)

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self._fd)

    def _write(self, name: str, text: str) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=self._fd)
        try:
            if self._theirs != os.geteuid():
                os.fchown(fd, self._theirs, -1)
            os.write(fd, text.encode("utf-8", "surrogateescape"))
        finally:
            os.close(fd)

    def send(self, words: dict[str, Any]) -> str:
        """Put down the lines that the process is to run; where they are for it."""
        self._write(SCRIPT, f"{LINES}aioaudit_attach({self.folder!r}, {words!r})\n")
        if self._theirs != os.geteuid():
            os.fchown(self._fd, self._theirs, -1)
        self.pending = True
        return f"{self.folder}/{SCRIPT}"

    def read(self, name: str) -> Answer | None:
        """The answer *name*, None where it is not there yet."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AttachError(f"{name} in {self.folder} is no answer: {error.strerror}") from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != self._theirs:
                raise AttachError(f"{name} in {self.folder} is not that process's answer")
            how, _, text = os.read(fd, _MOST).decode("utf-8", "replace").partition("\n")
        finally:
            os.close(fd)
        self.pending = False
        return Answer(how, text)


def _place(root: str, owner: int) -> str:
    """Where the folder is made: in the user's runtime directory, else where all may."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not root and owner == os.geteuid() and runtime.startswith("/"):
        with suppress(OSError):
            found = os.lstat(runtime)
            private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
            if private and found.st_uid == owner:
                return runtime
    return "/tmp" if root or owner != os.geteuid() else tempfile.gettempdir()  # noqa: S108 - the folder in there is new, and of one user


def ask(
    target: Target,
    words: dict[str, Any],
    timeout: float,
    waiting: Callable[[], object],
) -> tuple[Answer, Answer | None]:
    """Have *target* do what *words* say; what it answers, and of tasks that are older.

    Args:
        target: The process.
        words: What `aioaudit.attach.inside.work` is given.
        timeout: Seconds in which it has to come to an instruction of Python's.
        waiting: Called once, where that takes more than a second.

    Raises:
        AttachError: it cannot be, or it did not come to it.
    """
    target.check()
    try:
        letters = Letters(target)
    except OSError as error:
        raise AttachError(f"no folder can be made to talk by: {error}") from None
    with letters:
        try:
            sys.remote_exec(target.pid, letters.send(words))  # type: ignore[attr-defined,unused-ignore]  # 3.14+
        except (OSError, RuntimeError, ValueError, UnicodeError) as error:
            letters.pending = False
            if not target.is_there():
                raise AttachError(f"there is no process {target.pid}") from None
            raise AttachError(target.why_not(error)) from None
        _wait(letters, target, "here", timeout, waiting)
        done = _wait(letters, target, "done", _LONGEST)
        older = None
        if words["do"] == "attach" and done.how == "on":
            older = _wait(letters, target, "older", _LONGEST)
        return done, older


def _wait(
    letters: Letters,
    target: Target,
    name: str,
    timeout: float,
    waiting: Callable[[], object] | None = None,
) -> Answer:
    begin = time.monotonic()
    while True:
        answer = letters.read(name)
        if answer is not None:
            return answer
        waited = time.monotonic() - begin
        if not target.is_there():
            raise AttachError(f"{target.pid} has ended meanwhile")
        if waiting is not None and waited >= 1.0:
            waiting()
            waiting = None
        if waited >= timeout and name != "here":
            raise AttachError(f"{target} has begun, and has not ended it within {timeout:g} s")
        if waited >= timeout:
            raise AttachError(
                f"{target} has not run a line of Python in its main thread for {timeout:g} s, it waits"
                " in the system or in C code: have it do something (a request), or wait longer"
                " (--timeout)"
            )
        time.sleep(_LOOK)


def said(text: str) -> str:
    """What the process says, as one line that a terminal can be given."""
    return clean(" ".join(text.split()), 500)
