"""The socket by which a recorder is asked from outside of the process: `aioaudit.live`.

The exporter's thread sleeps here and answers, so nobody else need wait for a client, and there is
no thread more.  What a client can cost is bounded:

- A question is short, and read when it is there; an answer goes into the socket's own room, or
  into a regular file that the client has opened.  So nobody is ever waited for.
- Only so many may be here at once: who comes when there is no room takes the place of the one who
  has been silent for the longest time.  Who says nothing for `_PATIENCE` seconds is sent away.
- After answers the thread rests as long as they took, so at most half of its time goes there.
- Only this user is heard: the folder and the socket let nobody else in, and the kernel says who
  is at the other end.

A descriptor is used only while it is ours, as in the jsonl exporter: programs that turn into
daemons close all of them, and the number may be another socket next, whose clients are not ours.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from aioaudit.live import folder
from aioaudit.live.protocol import (
    MOST_ASKED,
    MOST_SAID,
    VERSION,
    Answer,
    Question,
    decode_question,
    line_of,
    version_of,
)
from aioaudit.text import describe, say
from aioaudit.threads import monotonic, original
from aioaudit.version import __version__

_MOST_HERE = 16  # connections at once
_BACKLOG = 64  # more may wait until they are let in
_ATTEMPTS = 3  # to open: the program may close all descriptors in the middle of one
_PATIENCE = 2.0  # seconds that a question may take to come
_LEAST_REST = 0.002  # seconds between two rounds of answers...
_MOST_REST = 0.5
_SHORT_OF = 1.0  # ... and where the program has no descriptor to spare

# The system's own: gevent and eventlet put others in their place.
_Socket: Any = original("_socket", "socket")
_poll: Callable[[], Any] | None = getattr(select, "poll", None) and original("select", "poll")
_fstat, _close, _read, _write, _pipe = os.fstat, os.close, os.read, os.write, os.pipe
_set_blocking, _set_inheritable, _urandom = os.set_blocking, os.set_inheritable, os.urandom
_rename, _chmod, _getpid = os.rename, os.chmod, os.getpid

_PEER: int | None = getattr(socket, "SO_PEERCRED", None)
_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0) | getattr(socket, "MSG_DONTWAIT", 0)
_QUIETLY = getattr(socket, "MSG_NOSIGNAL", 0) | getattr(socket, "MSG_DONTWAIT", 0)

Identity = tuple[int, int]


class _Asked(NamedTuple):
    """A question that is complete, and the file that came with it."""

    visitor: _Visitor
    question: bytes


class _Visitor:
    """A connection."""

    def __init__(self, line: Any, now: float) -> None:
        self.line = line
        self.fd: int = line.fileno()
        self.identity = _identity(self.fd)
        self.since = now
        self.said = b""
        self.file: int | None = None

    def is_ours(self) -> bool:
        return _is(self.fd, self.identity)

    def close(self) -> None:
        file, self.file = self.file, None
        if file is not None:
            with suppress(OSError):
                _close(file)
        _let_go(self.line, self.fd, self.identity)


class Door:
    """The socket; all of it but `wake` is for the exporter's thread.

    Args:
        respond: Gives the answer to a question; the descriptor is that of the file to write to,
            or None where none came.
    """

    def __init__(self, respond: Callable[[Question, int | None], Answer]) -> None:
        self._respond = respond
        self._given_up = False
        self._clear()

    def _clear(self) -> None:
        self.is_open = False
        """Whether anybody may come."""
        self._listener: Any = None
        self._identity: Identity = (0, 0)
        self._fd = -1
        self._pipe: tuple[int, int] = (-1, -1)
        self._pipe_identity: Identity = (0, 0)
        self._place: tuple[str, int, str] | None = None
        self._visitors: list[_Visitor] = []
        self._asked: list[_Asked] = []
        self._asleep = False
        self._rest_until = 0.0
        self._none_before = 0.0

    # -- open and closed -----------------------------------------------------------------------

    def open(self) -> None:
        """Let clients come; where that cannot be, one line on stderr says why, once."""
        if self.is_open or self._given_up:
            return
        for more in reversed(range(_ATTEMPTS)):
            try:
                self._open()
                return
            except Exception as error:  # noqa: BLE001 - the recorder goes on without a socket
                self.close()
                if not more:
                    self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        text = error.strerror if isinstance(error, OSError) and error.strerror else describe(error)
        say(
            f"recorder: nobody can ask this process, no socket could be made: {text};"
            " AIOAUDIT_RECORDER_SOCKET=off does without"
        )

    def _open(self) -> None:
        if _poll is None or not hasattr(socket, "AF_UNIX"):
            self._given_up = True  # not on this platform
            return
        place, fd = folder.make_one()
        identity = _identity(fd)
        try:
            name = f"{_getpid()}-{_urandom(4).hex()}{folder.SUFFIX}"
            hidden = folder.HIDDEN + name
            self._listener = listener = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._fd = listener.fileno()
            self._identity = _identity(self._fd)
            listener.setblocking(False)
            with folder.address(place, fd, hidden) as address:
                listener.bind(address)
            self._place = place, _inode(fd), hidden
            _chmod(hidden, 0o600, dir_fd=fd)
            listener.listen(_BACKLOG)
            # Nobody knows it by this name before it is listened on: who finds a socket on which
            # nobody listens removes it.
            _rename(hidden, name, src_dir_fd=fd, dst_dir_fd=fd)
            self._place = place, _inode(fd), name
            self._pipe = ends = _pipe()
            self._pipe_identity = _identity(ends[0])
            for end in ends:
                _set_blocking(end, False)
            self._sweep(fd)
            self.is_open = True
        finally:
            if _is(fd, identity):
                _close(fd)

    def _sweep(self, fd: int) -> None:
        """Remove the sockets of processes that have died."""
        for name in folder.names_in(fd):
            pid = folder.pid_in(name)
            if pid is None or name.startswith(folder.HIDDEN):
                continue
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                pass
            except OSError:
                continue
            else:
                continue
            # It may be that of a process in another container, with numbers of its own.
            probe = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                probe.setblocking(False)
                assert self._place is not None
                with folder.address(self._place[0], fd, name) as address:
                    probe.connect(address)
            except ConnectionRefusedError:
                folder.remove(fd, name)
            except OSError:
                pass
            finally:
                probe.close()

    def close(self) -> None:
        """Let nobody come any more, and remove the socket."""
        place = self._place
        self._drop()
        if place is not None:
            with suppress(OSError):
                fd = folder.opened(place[0])
                try:
                    if _inode(fd) == place[1]:
                        folder.remove(fd, place[2])
                finally:
                    _close(fd)

    def forget(self) -> None:
        """This is a forked child: the socket is the parent's."""
        self._drop()
        self._given_up = False

    def _drop(self) -> None:
        visitors, ends, identity = self._visitors, self._pipe, self._pipe_identity
        listener, listening = self._listener, (self._fd, self._identity)
        self._clear()  # first: who wakes us must not write to what is closed
        for visitor in visitors:
            visitor.close()
        if listener is not None:
            _let_go(listener, *listening)
        for end in ends:
            if _is(end, identity):
                _close(end)

    # -- sleeping ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let `sleep` end; may be called in any thread, and in a signal's handler."""
        if self._asleep:
            end = self._pipe[1]
            with suppress(OSError):
                if _is(end, self._pipe_identity):
                    _write(end, b"\0")

    def sleep(self, timeout: float, woken: Callable[[], bool]) -> None:
        """Sleep until somebody asks, or wakes, or *timeout* seconds have passed (-1: for good).

        *woken* says whether somebody has woken the thread before.
        """
        self._asleep = True
        try:
            if not woken():
                self._sleep(timeout)
        finally:
            self._asleep = False

    def _sleep(self, timeout: float) -> None:
        now = monotonic()
        if not self._is_ours():
            self.close()  # somebody has closed all descriptors; it is opened anew at the next look
            return
        assert _poll is not None
        poll = _poll()
        poll.register(self._pipe[0], select.POLLIN)
        ends = [now + timeout] if timeout >= 0 else []
        if now < self._rest_until:
            ends.append(self._rest_until)
        else:
            if now >= self._none_before:
                poll.register(self._fd, select.POLLIN)
            else:
                ends.append(self._none_before)
            for visitor in self._visitors:
                poll.register(visitor.fd, select.POLLIN)
            ends += [now] if self._asked else [each.since + _PATIENCE for each in self._visitors]
        poll.poll(max(0.0, min(ends) - now) * 1000 + 0.5 if ends else None)
        with suppress(OSError):  # nothing is in there
            while len(_read(self._pipe[0], 4096)) == 4096:
                pass

    def _is_ours(self) -> bool:
        """Whether our descriptors are what they were."""
        ours = _is(self._fd, self._identity) and _is(self._pipe[0], self._pipe_identity)
        return ours and _is(self._pipe[1], self._pipe_identity)

    # -- hearing -------------------------------------------------------------------------------

    def hear(self) -> bool:
        """Let in who has come, and hear what they ask; whether there is anything to answer."""
        now = monotonic()
        if not self.is_open or now < self._rest_until or not self._is_ours():
            return False
        for visitor in self._silent():
            if not self._hear(visitor) or now - visitor.since > _PATIENCE:
                self._send_away(visitor)
        if now >= self._none_before:
            self._let_in(now)
        return bool(self._asked)

    def _silent(self) -> list[_Visitor]:
        """Those who have not asked yet, the oldest first."""
        asked = {id(each.visitor) for each in self._asked}
        return [each for each in self._visitors if id(each) not in asked]

    def _let_in(self, now: float) -> None:
        for _ in range(_MOST_HERE):
            silent = self._silent()
            if len(self._visitors) >= _MOST_HERE and not silent:
                return
            try:
                fd, _ = self._listener._accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    self._none_before = now + _SHORT_OF
                return
            line = _Socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
            line.setblocking(False)
            if not _is_me(line):
                line.close()
                continue
            if len(self._visitors) >= _MOST_HERE:
                self._send_away(silent[0])
            visitor = _Visitor(line, now)
            self._visitors.append(visitor)
            if not self._hear(visitor):
                self._send_away(visitor)

    def _hear(self, visitor: _Visitor) -> bool:
        """Take what *visitor* has said; whether it may stay."""
        if not visitor.is_ours():
            return False
        try:
            said, more, _, _ = visitor.line.recvmsg(
                MOST_ASKED, socket.CMSG_SPACE(struct.calcsize("i")), _FLAGS
            )
        except BlockingIOError:
            return True
        except OSError:
            return False
        for level, kind, data in more:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._take_files(visitor, data)
        if not said:
            return False  # it has gone
        visitor.said += said
        if len(visitor.said) > MOST_ASKED:
            return False
        if visitor.said.endswith(b"\n"):
            self._asked.append(_Asked(visitor, visitor.said))
        return True

    @staticmethod
    def _take_files(visitor: _Visitor, data: bytes) -> None:
        for (fd,) in struct.iter_unpack("i", data[: len(data) // 4 * 4]):
            if visitor.file is None:
                visitor.file = fd
                _set_inheritable(fd, False)
            else:
                _close(fd)

    def _send_away(self, visitor: _Visitor) -> None:
        visitor.close()
        self._visitors.remove(visitor)
        self._asked = [each for each in self._asked if each.visitor is not visitor]

    # -- answering -----------------------------------------------------------------------------

    def answer(self) -> None:
        """Answer one of those that have asked; all that happened before was taken already."""
        begin = monotonic()
        asked = self._asked.pop(0)
        visitor = asked.visitor
        answer = self._answer_to(asked.question, visitor.file)
        line = line_of(answer)
        if len(line) > MOST_SAID:
            line = line_of(Answer(error="the answer is too long"))
        with suppress(OSError):
            if visitor.is_ours():
                visitor.line.send(line, _QUIETLY)
        visitor.close()
        self._visitors.remove(visitor)
        took = monotonic() - begin
        self._rest_until = begin + took + min(max(took, _LEAST_REST), _MOST_REST)

    def _answer_to(self, said: bytes, file: int | None) -> Answer:
        try:
            version = version_of(said)
            if version != VERSION:
                return Answer(
                    error=f"it has aioaudit {__version__}, which speaks version {VERSION} and not"
                    f" {version}: ask with that one"
                )
            question = decode_question(said)
        except msgspec.MsgspecError as error:
            return Answer(error=f"this is no question to aioaudit {__version__} ({error})")
        if file is not None and not stat.S_ISREG(_fstat(file).st_mode):
            return Answer(error="the file to write to is no regular one")
        try:
            return self._respond(question, file)
        except Exception as error:  # noqa: BLE001 - whatever it is, the recorder goes on
            return Answer(error=describe(error))


def _identity(fd: int) -> Identity:
    found = _fstat(fd)
    return found.st_dev, found.st_ino


def _inode(fd: int) -> int:
    return _fstat(fd).st_ino


def _is(fd: int, identity: Identity) -> bool:
    """Whether *fd* is what it was."""
    try:
        return fd >= 0 and _identity(fd) == identity
    except OSError:
        return False


def _let_go(line: Any, fd: int, identity: Identity) -> None:
    """Close *line*, unless its number is somebody else's by now."""
    if _is(fd, identity):
        line.close()
    else:
        line.detach()


def _is_me(line: Any) -> bool:
    """Whether this user is at the other end."""
    if _PEER is None:
        return True
    try:
        _, uid, _ = struct.unpack("iII", line.getsockopt(socket.SOL_SOCKET, _PEER, 12))
    except OSError:
        return False
    return bool(uid == folder.me())
