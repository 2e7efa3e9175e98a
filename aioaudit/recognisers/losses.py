"""Whose connection was closed by its peer, where no recogniser knows the server that hears of it.

A task group that ends by an error of a connection cancels what is left in it, and a protocol may call
``cancel()`` when it is told that its connection is lost.  The reason stays what it is: that error, that
line.  But whoever closed the connection at its other end may be why.

Nothing is said where this end may have closed it: it hears of that by the same errors and calls.
"""

from __future__ import annotations

from asyncio import CancelledError, IncompleteReadError
from collections.abc import Iterator
from types import FrameType
from typing import Any

from aioaudit.addresses import Connection, of_transport
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.transports import LOSS, TELLS_LOSS, transport_of
from aioaudit.recognisers.registry import find_loss, say_failed
from aioaudit.stack.frames import local
from aioaudit.state.verdict import leading_to
from aioaudit.text import describe
from aioaudit.weak import WeakIdMap

_RESETS = (ConnectionResetError, BrokenPipeError)
_DEEP = 20
"""So many frames away from whoever calls ``cancel()`` it is looked for what told a protocol."""

closed_by_peer: WeakIdMap[bool] = WeakIdMap()
"""The transports that were closed because their peer had said that nothing more comes."""


def lost_in(frame: FrameType | None) -> Connection | None:
    """The connection whose peer went away, of which its protocol is just being told further out."""
    for _ in range(_DEEP):
        if frame is None:
            return None
        if frame.f_code.co_qualname == TELLS_LOSS:
            transport, error = local(frame, "self"), local(frame, LOSS)
            theirs = transport in closed_by_peer if error is None else type(error) in _RESETS
            return of_transport(transport) if theirs else None
        frame = frame.f_back
    return None


def lost_with(error: BaseException) -> Connection | None:
    """The connection whose peer's going made a task fail with *error*; None where none is known to.

    Never raises: what is looked at is the program's.
    """
    kind = type(error)
    try:
        while isinstance(error, BaseExceptionGroup):
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


def raised_in(error: BaseException, module: str) -> Iterator[tuple[FrameType, Any]]:
    """The frames of functions in *module* that *error* went through, outwards in, each with its ``self``."""
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals.get("__name__") == module:
            yield step.tb_frame, local(step.tb_frame, "self")
        step = step.tb_next


def _of_stream(error: BaseException) -> Connection | None:
    """What `asyncio.StreamReader` raises, or ``drain()`` of the writer beside it."""
    for frame, stream in raised_in(error, "asyncio.streams"):
        name = frame.f_code.co_qualname
        if name.startswith("StreamReader."):
            transport = transport_of(stream)
            # The end of data comes of a ``close()`` at this end, too; another error never does.
            if transport in (None, UNKNOWN) or (
                isinstance(error, IncompleteReadError) and transport.is_closing()
            ):
                return None
            return of_transport(transport)
    return None
