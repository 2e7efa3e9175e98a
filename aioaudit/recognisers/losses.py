"""Whose connection was closed by its peer, where no recogniser knows the server that hears of it.

A task group that ends by an error of a connection cancels what is left in it, and a protocol may call
``cancel()`` when it is told that its connection is lost.  The reason stays what it is: that error, that
line.  But whoever closed the connection at its other end may be why.

Nothing is said where this end may have closed it: it hears of that by the same errors and calls.
So who closes is noted, and where nobody wants to hear of that, nothing is said at all.
"""

from __future__ import annotations

from asyncio import CancelledError, IncompleteReadError
from types import FrameType
from typing import Any

from aioaudit.addresses import Connection, of_transport
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.loops import RUNS_HANDLE
from aioaudit.cpython.transports import LOSS, TELLING, TELLS_LOSS, transport_of, wrote_eof
from aioaudit.recognisers.registry import find_loss, say_failed
from aioaudit.stack.frames import local
from aioaudit.state.verdict import leading_to
from aioaudit.text import describe
from aioaudit.weak import WeakIdMap

_RESETS = (ConnectionResetError, BrokenPipeError)
_DEEP = 20
"""So many frames away from whoever calls ``cancel()`` it is looked for what told a protocol."""

_closed_by_peer: WeakIdMap[bool] = WeakIdMap()
"""Of transports that were closed: whether because their peer had said that nothing more comes."""


_noting = False


def note_closes(on: bool) -> None:
    """Whether from now on `note_close` is told of those of asyncio's and uvloop's loops."""
    global _noting
    _noting = on


def note_close(transport: Any, *, by_peer: bool) -> None:
    """*transport* is about to be closed: what counts is who was the first."""
    if by_peer or not transport.is_closing():
        try:
            _closed_by_peer[transport] = by_peer
        except TypeError:  # it takes no weak references: of such a one nothing is known
            return


def _closed_here(transport: Any) -> bool:
    """Whether this end closed it first, or said that it sends nothing more."""
    return _closed_by_peer.get(transport) is False or wrote_eof(transport)


def lost_in(frame: FrameType | None) -> Connection | None:
    """The connection whose peer went away, of which its protocol is just being told further out."""
    if not _noting:
        return None
    for _ in range(_DEEP):
        # What a loop runs inside of that call is not done because of it.
        if frame is None or frame.f_code.co_qualname == RUNS_HANDLE:
            return None
        if frame.f_code.co_qualname == TELLS_LOSS and _is_in(frame, TELLING):
            transport, error = local(frame, "self"), local(frame, LOSS)
            theirs = _closed_by_peer.get(transport) if error is None else type(error) in _RESETS
            return of_transport(transport) if theirs and not _closed_here(transport) else None
        frame = frame.f_back
    return None


def lost_with(error: BaseException) -> Connection | None:
    """The connection whose peer's going made a task fail with *error*; None where none is known to.

    Never raises: what is looked at is the program's.
    """
    if not _noting:
        return None
    kind = type(error)
    try:
        for _ in range(_DEEP):
            if not isinstance(error, BaseExceptionGroup):
                break
            if len(error.exceptions) != 1:
                return None
            error = error.exceptions[0]
            kind = type(error)
        explain = find_loss(kind.__module__, kind.__qualname__)
        if explain is None and kind is not IncompleteReadError and kind not in _RESETS:
            return None
        if any(isinstance(each, CancelledError) for each in leading_to(error)):
            return None  # it came of the cancellation that the task was handling
        return _of_stream(error) if explain is None else explain(error)
    except Exception as fault:  # noqa: BLE001 - attributes of another version, or of a stranger's class, may be any
        say_failed(f"{kind!r}", f"its connection is not told: {describe(fault)}")
        return None


def _is_in(frame: FrameType, module: str) -> bool:
    return bool(frame.f_globals.get("__name__") == module)


def raised_in(error: BaseException, module: str) -> list[tuple[FrameType, Any]]:
    """The frames of functions in *module* that *error* went through, each with its ``self``.

    The innermost first, which is where it was raised: it may then have gone through another connection,
    that sent what came by this one, or was given the error of it.
    """
    found: list[tuple[FrameType, Any]] = []
    step = error.__traceback__
    while step is not None:
        if _is_in(step.tb_frame, module):
            found.append((step.tb_frame, local(step.tb_frame, "self")))
        step = step.tb_next
    return found[::-1]


def _of_stream(error: BaseException) -> Connection | None:
    """What `asyncio.StreamReader` raises, or ``drain()`` of the writer beside it."""
    for frame, stream in raised_in(error, "asyncio.streams"):
        name = frame.f_code.co_qualname
        if name.startswith("StreamReader."):
            transport = transport_of(stream)
            if transport is None or transport is UNKNOWN or _closed_here(transport):
                return None
            # The end of data comes of a ``close()`` at this end, too.  What has been reset is closed at
            # once: else the error was given to the stream by hand.
            if transport.is_closing() is isinstance(error, IncompleteReadError):
                return None
            return of_transport(transport)
    return None
