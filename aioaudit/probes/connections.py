"""A probe on ``close`` and ``abort`` of connections: was it a cancellation that closed this one?

Whoever is at the other end may be cancelled because of that, in a process of its own, where nothing
says why.  So one line tells the two addresses, by which the logs of both can be tied together.

And which end was the first is noted: who cancels when asyncio closes a connection since its peer has
has lost that peer (`aioaudit.recognisers.losses`).

No data passes through here.  Where no exception is being handled, which is how most connections
are closed, that, who calls, and whether it is closed already is all that is looked at.
"""

from __future__ import annotations

import sys
import time
from asyncio import CancelledError
from collections.abc import Callable
from types import FrameType
from typing import Any

from aioaudit.addresses import Connection, of_transport
from aioaudit.cpython.frames import caller_of
from aioaudit.cpython.tasks import current_task
from aioaudit.cpython.transports import OVERRIDES_CLOSE, READS_EOF
from aioaudit.events import ConnectionClose
from aioaudit.recognisers import losses
from aioaudit.recorder.recorder import Recorder
from aioaudit.stack.frames import caller, frame_handling
from aioaudit.state.requests import Request
from aioaudit.state.tasks import root_frame
from aioaudit.state.verdict import leading_to
from aioaudit.timestamps import nanoseconds

SOON = 1_000_000_000
"""Nanoseconds within which a connection is closed because of a cancellation that is over, as where a
``TimeoutError`` is handled that came of it.  Who does that may go on to other things, and stay there."""


class Closing:
    """Tells of the connections that are closed because of a cancellation."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._told: tuple[int, Connection] | None = None

    def make(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """What stands for ``close`` or ``abort`` of a transport."""

        def close(self_: Any) -> Any:
            try:
                error, frame = sys.exception(), caller_of()
                if frame is not None and frame.f_code.co_qualname == OVERRIDES_CLOSE:
                    frame = caller_of(2)
                by_peer = frame is not None and frame.f_code.co_qualname == READS_EOF
                losses.note_close(self_, by_peer=by_peer)
                if error is not None and not by_peer:
                    self.look(self_, error, frame)
            except Exception as fault:  # noqa: BLE001 - an internal error must not keep a connection open
                self._recorder.report_fault(fault)
            return original(self_)

        return close

    def look(self, transport: Any, error: BaseException, frame: FrameType | None) -> None:
        """*transport* is closed by *frame*, while *error* is being handled."""
        recorder = self._recorder
        if "connection.close" not in recorder.sender.active_events:
            return
        task = current_task()
        if task is None or recorder.muted() or not _is_handled(error, frame, root_frame(task)):
            return
        request, concluded = self._request_behind(error, task)
        if request is None or transport.is_closing():
            return
        told = request.nearest_logged()
        connection = of_transport(transport)
        if told is None or connection is None:
            return
        over = not issubclass(type(error), CancelledError)
        if over and time.time_ns() - nanoseconds(told.event.ts) > SOON:
            return
        # Before 3.12 TLS closes what is below it by the same call, and that has the same addresses.
        if self._told == (told.event.seq, connection):
            return
        self._told = told.event.seq, connection
        known = recorder.state
        state = known.tasks.state(task)
        event = recorder.sender.new_event(ConnectionClose, known.places.place())
        event.task, event.coro, event.preexisting = state.task, state.coro, state.preexisting
        event.name = known.tasks.name(task)
        event.cancel = told.event.seq
        event.local, event.peer = str(connection.local), str(connection.peer)
        found = caller(known.codes, frame)
        if found is not None:
            event.at, event.source = found[0].at(found[1]), found[0].source
        if concluded:
            event.evidence = "inferred"
        recorder.sender.emit_final(event)

    def _request_behind(self, error: BaseException, task: Any) -> tuple[Request | None, bool]:
        """The request that *error* stands for, or one that led to it; and whether that was not seen."""
        cancellations = self._recorder.state.cancellations
        for each in leading_to(error):
            if issubclass(type(each), CancelledError):
                request = cancellations.request_of(each, task)
                if request is not None:
                    tie = cancellations.tie_of(each)
                    return request, tie is not None and tie.concluded
        return None, False


def _is_handled(error: BaseException, frame: FrameType | None, root: FrameType | None) -> bool:
    """Whether a frame from *frame* to *root* handles *error*, and not one that runs the loop."""
    handler = frame_handling(error)
    while frame is not None:
        if frame is handler:
            return True
        if frame is root:
            return False
        frame = frame.f_back
    return False
