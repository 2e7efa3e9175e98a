"""Asking audited processes: `connect` to one, or all of this user's (`processes`).

A process is asked by a connection for each question, so there is nothing to keep open and nothing
to close.  What another user may have put in the place of a socket is not believed: the folder must
be this user's alone, and the kernel says whose process listens.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import msgspec

from aioaudit.errors import AioauditError
from aioaudit.live import folder
from aioaudit.live.protocol import (
    MOST_SAID,
    MOST_TASKS,
    VERSION,
    Answer,
    Events,
    Facts,
    LivingTask,
    ProcessFacts,
    Question,
    Tasks,
    decode_answer,
    decode_task,
    line_of,
)
from aioaudit.settings import OFF_WORDS, RECORDER_SOCKET_VARIABLE, VARIABLE

TIMEOUT = 10.0
"""Seconds that a process has for its answer unless told otherwise."""

_TRIES = 5  # where the answer breaks off
_PAUSE = 0.05
_IN_THE_MAKING = 60.0  # seconds after which a socket on which nobody listens yet is left over

HOW = f"{VARIABLE}=recorder"


class LiveError(AioauditError):
    """A process cannot be asked, or does not answer; the text says what to do."""


class Told(NamedTuple):
    """Events of a process.

    Attributes:
        facts: How the process is; its `seq` is what to ask from the next time (`since`).
        log: What happened, as an ordinary log: a file that is open at its begin, and gone
            once it is closed.
    """

    facts: ProcessFacts
    log: BinaryIO


class Living(NamedTuple):
    """The living tasks of a process.

    Attributes:
        facts: How the process is.
        tasks: The tasks, the oldest first.
        left_out: How many more there are.
    """

    facts: ProcessFacts
    tasks: list[LivingTask]
    left_out: int


class Process:
    """An audited process that can be asked.

    Attributes:
        pid: Its number as this process sees it.
    """

    def __init__(self, pid: int, place: str, name: str) -> None:
        self.pid = pid
        self._place = place
        self._name = name

    def facts(self, timeout: float = TIMEOUT) -> ProcessFacts:
        """How it is.

        Raises:
            LiveError: it does not answer within *timeout* seconds.
        """
        return self._facts(self.ask(Facts(), None, timeout))

    def tasks(self, most: int = MOST_TASKS, timeout: float = TIMEOUT) -> Living:
        """Its living tasks, at most *most*.

        Raises:
            LiveError: as `facts`.
        """
        with room() as file:
            answer = self.ask(Tasks(most=most), file, timeout)
            file.seek(0)
            found = [decode_task(line) for line in file]
        found.sort(key=lambda each: each.task)
        return Living(self._facts(answer), found, answer.left_out)

    def events(
        self,
        since: int = 0,
        run: str | None = None,
        *,
        lives: bool = True,
        timeout: float = 6 * TIMEOUT,
    ) -> Told:
        """What happened there, as far as it is kept.

        Args:
            since: Only what has a higher number (`ProcessFacts.seq`)...
            run: ... if the process is still in this run; what happened in another one counts anew.
            lives: Also that tasks were made, and that they just returned.
            timeout: Seconds to wait.

        Raises:
            LiveError: as `facts`.
        """
        log = roomy()
        try:
            facts = self.write_events(log, since, run, lives=lives, timeout=timeout)
        except BaseException:
            log.close()
            raise
        log.seek(0)
        return Told(facts, log)

    def write_events(
        self,
        file: BinaryIO,
        since: int = 0,
        run: str | None = None,
        *,
        lives: bool = True,
        timeout: float = 6 * TIMEOUT,
    ) -> ProcessFacts:
        """Have it write what happened to *file*, a regular one that is empty; else as `events`."""
        question = Events(since=since, run=run, lives=lives)
        return self._facts(self.ask(question, file, timeout))

    def ask(self, question: Question, file: BinaryIO | None, timeout: float = TIMEOUT) -> Answer:
        """Ask it anything.

        Raises:
            LiveError: it does not answer within *timeout* seconds, or says that it cannot.
        """
        deadline = time.monotonic() + timeout
        tries = _TRIES
        while tries and time.monotonic() < deadline:
            try:
                said = self._said(line_of(question), file, deadline)
            except TimeoutError:
                break
            except OSError as error:
                if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                    raise LiveError(
                        f"process {self.pid} has ended, or is not audited any more"
                    ) from None
                tries -= error.errno != errno.EAGAIN  # where others crowd, for as long as it takes
            else:
                if said.endswith(b"\n"):
                    return self._answer(said)
                tries -= 1  # others came, and made it give up this connection
            time.sleep(_PAUSE)
            if file is not None:
                file.seek(0)
                file.truncate()
        raise LiveError(
            _of_another_user(self.pid)
            or f"process {self.pid} does not answer within {timeout:g} s: it is stopped, or very"
            " busy; ask again"
        )

    def _said(self, question: bytes, file: BinaryIO | None, deadline: float) -> bytes:
        with connected(self._place, self._name, deadline) as line:
            if file is None:
                line.sendall(question)
            else:
                socket.send_fds(line, [question], [file.fileno()])
            said = b""
            while not said.endswith(b"\n") and len(said) <= MOST_SAID:
                line.settimeout(max(deadline - time.monotonic(), 0.001))
                piece = line.recv(MOST_SAID)
                if not piece:
                    break
                said += piece
            return said

    def _answer(self, said: bytes) -> Answer:
        try:
            answer = decode_answer(said)
        except msgspec.MsgspecError as error:
            raise LiveError(
                f"process {self.pid} answers what means nothing here ({error})"
            ) from None
        if answer.error is not None:
            raise LiveError(f"process {self.pid} cannot answer: {answer.error}")
        if answer.version != VERSION:
            raise LiveError(
                f"process {self.pid} has another version of aioaudit: use that one to ask it"
            )
        return answer

    def _facts(self, answer: Answer) -> ProcessFacts:
        if answer.facts is None:
            raise LiveError(f"process {self.pid} does not say how it is")
        return answer.facts


def connect(pid: int) -> Process:
    """The process with the number *pid*.

    Raises:
        LiveError: there is none, or it cannot be asked; the text says why, and what to do.
    """
    places = [*folder.candidates(), *_candidates_of(pid)]
    for process in _found(places, pid):
        if process.pid == pid:
            return process
    raise LiveError(_why_not(pid))


def processes() -> list[Process]:
    """Every audited process of this user that can be asked, in the order of their numbers.

    What dead ones left is removed.
    """
    found = {(each.pid, each._name): each for each in _found(folder.candidates())}
    return [found[key] for key in sorted(found)]


# -- finding them ------------------------------------------------------------------------------


def _found(places: list[str], pid: int | None = None) -> Iterator[Process]:
    """The processes that listen in *places*; those that call themselves *pid* first."""
    seen: set[tuple[int, int]] = set()
    known: list[tuple[bool, str, str]] = []
    for place in places:
        try:
            fd = folder.opened(place)
        except OSError:
            continue  # not there, or not ours
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            names = folder.names_in(fd)
        finally:
            os.close(fd)
        known += [(folder.pid_in(name) != pid, place, name) for name in names]
    for _, place, name in sorted(known):
        process = _looked_up(place, name)
        if process is not None:
            yield process


def _looked_up(place: str, name: str) -> Process | None:
    """Who listens on a socket; nobody's is removed."""
    own = folder.pid_in(name)
    try:
        with connected(place, name, time.monotonic() + 1) as line:
            pid = _peer(line)
    except ConnectionRefusedError:
        _sweep(place, name)
        return None
    except OSError as error:
        if error.errno != errno.EAGAIN and not isinstance(error, TimeoutError):
            return None
        pid = None  # others crowd there
    if pid is None:
        pid = own
    return None if pid is None else Process(pid, place, name)


def _sweep(place: str, name: str) -> None:
    with suppress(OSError):
        fd = folder.opened(place)
        try:
            if name.startswith(folder.HIDDEN):
                made = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime
                if time.time() - made < _IN_THE_MAKING:
                    return
            folder.remove(fd, name)
        finally:
            os.close(fd)


@contextmanager
def connected(place: str, name: str, deadline: float) -> Generator[socket.socket]:
    """A connection to the socket *name* in the folder *place*.

    Raises:
        OSError: there is none; a `TimeoutError` where it took until *deadline*.
    """
    fd = folder.opened(place)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(max(deadline - time.monotonic(), 0.001))
            with folder.address(place, fd, name) as address:
                line.connect(address)
            yield line
    finally:
        os.close(fd)


def _peer(line: socket.socket) -> int | None:
    """The number of the process that listens, as the kernel says it; None where it does not.

    Raises:
        PermissionError: it is another user's.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    pid, uid, _ = struct.unpack("iII", line.getsockopt(socket.SOL_SOCKET, option, 12))
    if uid != folder.me():
        raise PermissionError(errno.EPERM, f"another user ({uid}) listens there")
    return pid or None  # 0: it is not in this namespace


def _candidates_of(pid: int) -> list[str]:
    """Where the process *pid* may have its socket: its environment and root may be other ones."""
    environ = _environ_of(pid)
    if environ is None:
        return []
    root = f"/proc/{pid}/root"
    inside = folder.candidates(environ)
    return [*inside, *(root + each for each in inside)]


def _environ_of(pid: int) -> dict[str, str] | None:
    try:
        text = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return None
    pairs = (each.partition("=") for each in text.split("\0") if each)
    return {name: value for name, _, value in pairs}


def _of_another_user(pid: int) -> str | None:
    """That *pid* is another user's, where it is: also one that has become so while it ran."""
    with suppress(OSError):
        owner = Path(f"/proc/{pid}").stat().st_uid
        if owner != folder.me():
            return f"process {pid} is another user's ({owner}): ask as that user"
    return None


def _why_not(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return f"there is no process {pid}; aioaudit ps lists those that can be asked"
    except PermissionError:
        return f"process {pid} is another user's: ask as that user"
    foreign = _of_another_user(pid)
    if foreign is not None:
        return foreign
    environ = _environ_of(pid) or {}
    asked = environ.get(VARIABLE, "").strip()
    names = [each.strip().lower() for each in asked.split(",")]
    if environ.get(RECORDER_SOCKET_VARIABLE, "").strip().lower() in OFF_WORDS:
        return f"process {pid} cannot be asked: {RECORDER_SOCKET_VARIABLE} is off there"
    if "recorder" in names:
        return (
            f"process {pid} cannot be asked: no loop has run in it yet, it could make no socket"
            " (its stderr says why), or somebody has removed that"
        )
    if asked and names[0] not in OFF_WORDS:
        return f"process {pid} is audited without a recorder: start it with {VARIABLE}=recorder,{asked}"
    return f"process {pid} is not audited: start it with {HOW}"


# -- where answers are written -----------------------------------------------------------------


def roomy() -> BinaryIO:
    """A file that has no name, for what a process has to say."""
    try:
        return cast(BinaryIO, tempfile.TemporaryFile())
    except OSError:
        make = getattr(os, "memfd_create", None)
        if make is None:
            raise
        return cast(BinaryIO, os.fdopen(make("aioaudit"), "w+b"))


@contextmanager
def room() -> Generator[BinaryIO]:
    """The same, closed at the end of the block."""
    file = roomy()
    try:
        yield file
    finally:
        file.close()
