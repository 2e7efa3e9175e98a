"""What a recorder keeps: so many bytes of events, of which those that answers need go last.

Three rooms, which are cleared in this order where there is no space left:

- *lives* that are over and had no incident: made and returned, and nobody asked them to cancel;
- what is told of loops and by programs, and the making of tasks that live and that nobody asked;
- *stories*: all that is known of a task that had to do with a cancellation, or that failed, and
  of whoever asked.  The one goes first that nothing was added to, and that nothing new refers
  to, for the longest time.

What is in these rooms, and what goes, is the core's: `aioaudit.core.native.new_kept`, or the same
in Python, `kept`.  It takes what is plain by itself; of all else it is told here what it has to
do with.  What was thrown away is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from aioaudit.core.choice import CORE
from aioaudit.events import (
    ConnectionClose,
    Event,
    Finding,
    FutureCancel,
    ProcessDropped,
    ProcessEnd,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskFound,
    TaskUncancel,
)
from aioaudit.exporter import encode_events
from aioaudit.exporters.recorder.kept import Line

if TYPE_CHECKING or CORE.name == "python":
    from aioaudit.exporters.recorder.kept import new_kept
else:
    from aioaudit.core.native import new_kept

_LARGEST = 1_300  # bytes: no record of a plain life takes more

Taking: TypeAlias = Callable[[Any, int, bytes], None]


class Ring:
    """The last events of a run.

    Args:
        limit: How many bytes all of it may take, about.

    All is done in one thread.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Room is made before it is needed: so much may come until it is made again.
        reserve = limit // 32
        self._most = limit - reserve
        self._piece = max(reserve // _LARGEST, 4)
        self._kept = new_kept(limit)
        self._take_one: dict[type[Any], Taking] = {
            ProcessStart: self._take_start,
            ProcessEnd: self._take_end,
            ProcessDropped: self._take_dropped,
            TaskCreate: self._take_create,
            TaskFound: self._take_found,
            TaskDone: self._take_done,
            TaskCancel: self._take_cancel,
            FutureCancel: self._take_future,
            TaskUncancel: self._take_uncancel,
            ConnectionClose: self._take_close,
            Finding: self._take_finding,
        }
        self.start: ProcessStart | None = None
        self._clear()

    def _clear(self) -> None:
        self._kept.clear()
        self._header = b""
        self._end: Line | None = None
        self._faults: dict[str, None] = {}

    @property
    def size(self) -> int:
        """The bytes that are taken now, about."""
        return self._kept.size

    @property
    def lost(self) -> int:
        """How many events of this run are not here any more, or never came."""
        return self._kept.lost

    # -- what comes ------------------------------------------------------------------------

    def take(self, events: Sequence[Event]) -> None:
        """Keep *events*, of which there may be more than there is room for."""
        records = cast("list[Any]", getattr(events, "records", events))
        for begin in range(0, len(records), self._piece):
            self._take_piece(records[begin : begin + self._piece])

    def _take_piece(self, records: list[Any]) -> None:
        kept = self._kept
        at = 0
        while (at := kept.take(records, at)) < len(records):
            event = records[at]
            line = encode_events([event])
            take = self._take_one.get(type(event))
            if take is None:
                kept.other(event.seq, line)
            else:
                take(event, event.seq, line)
            at += 1
            if kept.size > self._most:
                kept.make_room(self._most)
        if kept.size > self._most:
            kept.make_room(self._most)

    def _take_start(self, event: ProcessStart, _seq: int, line: bytes) -> None:
        if self.start is None or event.run != self.start.run:
            self._clear()
        self.start = event
        self._header = line

    def _take_end(self, _event: ProcessEnd, seq: int, line: bytes) -> None:
        self._end = seq, line

    def _take_dropped(self, event: ProcessDropped, seq: int, _line: bytes) -> None:
        self._kept.lose(event.count, seq, event.events)
        self._faults.update(dict.fromkeys(event.faults))

    def _take_create(self, event: TaskCreate, seq: int, line: bytes) -> None:
        self._kept.made(event.task, seq, line)

    def _take_found(self, event: TaskFound, seq: int, line: bytes) -> None:
        """It stands for the making of a task that was not seen."""
        self._kept.made(event.task, seq, line)

    def _take_done(self, event: TaskDone, seq: int, line: bytes) -> None:
        if event.outcome == "returned" and event.cancel is None and event.cancel_outcome is None:
            self._kept.returned(event.task, seq, line)
        else:
            self._kept.ended(event.task, seq, line, event.cancel or 0)

    def _take_cancel(self, event: TaskCancel, seq: int, line: bytes) -> None:
        self._kept.asked(
            event.task,
            seq,
            line,
            event.by or 0,
            event.cause or 0,
            event.behind is None,
            event.origin_task or 0,
        )

    def _take_future(self, event: FutureCancel, seq: int, line: bytes) -> None:
        self._kept.future(
            tuple(event.waiters),
            seq,
            line,
            event.cause or 0,
            event.by or 0,
            event.origin_task or 0,
        )

    def _take_uncancel(self, event: TaskUncancel, seq: int, line: bytes) -> None:
        self._kept.took_back(event.task, seq, line, event.remaining == 0)

    def _take_close(self, event: ConnectionClose, seq: int, line: bytes) -> None:
        """It goes with the request because of which the task closed the connection."""
        self._kept.found(seq, line, event.cancel, event.task, 0, 0, 0)

    def _take_finding(self, event: Finding, seq: int, line: bytes) -> None:
        self._kept.found(
            seq,
            line,
            event.cancel or 0,
            event.task or 0,
            event.other_cancel or 0,
            event.by or 0,
            event.other_task or 0,
        )

    # -- what is told ------------------------------------------------------------------------

    def lines(self, ts: str) -> Iterator[bytes]:
        """All that is kept, in order, in portions of whole lines; *ts* is the time now.

        It begins with the ``process.start``.  Nothing may be taken meanwhile.
        """
        yield self._header
        yield from self._kept.lines(
            [line for line in (self._told_losses(ts), self._end) if line is not None]
        )

    def _told_losses(self, ts: str) -> Line | None:
        """The line that says what is not here; its number is that of one of these."""
        start, kept = self.start, self._kept
        if start is None or not (kept.lost or self._faults):
            return None
        seq = start.seq if kept.lost_at is None else kept.lost_at
        event = ProcessDropped(
            ts=ts,
            seq=seq,
            run=start.run,
            pid=start.pid,
            thread="aioaudit-recorder",
            count=kept.lost,
            events=sorted(kept.names_of_lost()),
            faults=list(self._faults),
            unneeded=kept.unneeded,
        )
        return seq, encode_events([event])
