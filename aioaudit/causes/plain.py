"""Requests that a core may take in by itself: a line of the application calls, and that is all.

Or a timeout of asyncio's runs out, and its block takes that back (`FoundOut.expiry`).

A core knows such a line by the row of frames out to the task's own, each by its code and its
instruction.  Where the same row calls again, in the same thread and loop, what `classify` has
found before holds again, because all that it looks at is the same: whose code each frame
runs, and that each was called by the instruction of the one around it, by its name.  What it
looks at beside that, the core asks itself each time: that no exception is being handled, no
other ``cancel()`` runs, and no frame of the row was given to anybody, as to a signal's handler.
"""

from __future__ import annotations

import asyncio
from asyncio.base_events import BaseEventLoop
from contextlib import suppress
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit.chain.links import Link
from aioaudit.core.line import piece
from aioaudit.cpython import internals
from aioaudit.cpython.groups import TIMEOUT_EXIT
from aioaudit.cpython.internals import has
from aioaudit.cpython.loops import RUNS_HANDLE, running_loop
from aioaudit.recognisers.uncancels import OWN_ONLY
from aioaudit.stack.code import APPLICATION, OWN
from aioaudit.stack.frames import awaited_chain, suspended_at
from aioaudit.state.tasks import root_frame
from aioaudit.weak import dropping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aioaudit.events import TaskCancel
    from aioaudit.place import Place
    from aioaudit.state.cause import Cause
    from aioaudit.state.known import State

CAN_BE_SEEN = has(internals.FUT_WAITER, asyncio.Task) and has(internals.CALLBACKS, asyncio.Future)
"""Whether tasks say what they wait for, and futures who waits for them."""

_EXPIRES = "Timeout._on_timeout"


def _code(function: object, qualname: str) -> CodeType | None:
    """The code of *function*, if it is that which its class came with, as far as its name says."""
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) and code.co_qualname == qualname else None


EXPIRE_CODE = (
    _code(getattr(asyncio.Timeout, "_on_timeout", None), _EXPIRES)
    if has(internals.CANCELLING, asyncio.Timeout)
    else None
)
"""What a loop calls when a timeout runs out, None where a core is not to look at that."""

LEAVE_CODE = _code(asyncio.Timeout.__aexit__, TIMEOUT_EXIT)
"""What takes that back."""

RUN_CODE = _code(getattr(asyncio.Handle, internals.RUN_HANDLE.name, None), RUNS_HANDLE)
"""What calls it, for the loop."""

_MOST = 10_000
"""At most this many rows of frames are known."""


class FoundOut:
    """What is found out about rows of frames, for a core.

    *line_in* gives what all requests in one place say that are because of one cause, where
    there may be some of it by place: `aioaudit.recorder.inquiry.line_in`.
    """

    def __init__(
        self,
        state: State,
        line_in: Callable[[dict[Place, TaskCancel], Place, Cause], TaskCancel],
    ) -> None:
        self._state = state
        self._line_in = line_in
        self._asks: Any = state.cancellations.asks

    def line(self, key: int, frame: FrameType, current: Any) -> tuple[Any, ...] | None:
        """What is known of *frame*, which calls ``cancel()``, as `Taking.learn_line` says.

        Nothing where `classify` has not found before that its line is all there is to say.
        """
        known = self._state.codes.known
        info = known.get(id(frame.f_code))
        if info is None or info.owner != APPLICATION:
            return None
        said = info.calls.get(frame.f_lasti)
        if said is None:
            return None
        if self._state.handoffs.signal_of(current) is not None:
            return None
        root = root_frame(current)
        step, codes = frame, [frame.f_code]
        while True:
            if info.notable or info.owner == OWN:
                return None
            if step is root:
                break
            back = step.f_back
            below = None if back is None else known.get(id(back.f_code))
            if back is None or below is None or below.callers.get(back.f_lasti) is not info:
                return None
            step, info = back, below
            codes.append(step.f_code)
        cause, events = said
        place = self._state.places.place()
        if place.muted or not _calls_soon(running_loop()):
            return None
        # Found out in another place, perhaps, as in each loop of many: it is the same line here.
        event = self._line_in(events, place, cause)
        head, rest = _pieces_of(event)
        return place, head, rest, event, cause.origin, self._refs_here(key, codes)

    def wait(self, key: int, coro: Any) -> tuple[Any, ...] | None:
        """What is known of where *coro* waits, as `Taking.learn_wait` says."""
        at = suspended_at(self._state.codes, coro)
        if at is None:
            return None
        codes = [each.cr_code for each in awaited_chain(coro)]
        return b"," + piece(suspended_at=at), at, self._refs(self._asks.waits, key, codes)

    def expiry(self, key: int, frame: FrameType, note: Any) -> tuple[Any, ...] | None:
        """What is known of the timeouts that have this *note*, as `Taking.learn_expiry` says.

        Nothing where Python has not seen one run out in this place: its line is what is said.
        """
        known = self._state.codes.known
        back = frame.f_back
        info = known.get(id(frame.f_code))
        below = None if back is None else known.get(id(back.f_code))
        if info is None or info.source != f"asyncio.timeouts:{_EXPIRES}" or note.lines is None:
            return None
        # Else it is called by nobody: by the collector, perhaps.
        if back is None or below is None or not below.boundary or info.callee(frame) is None:
            return None
        place = self._state.places.place()
        event = note.lines.get(place)
        if event is None or place.muted or not _calls_soon(running_loop()):
            return None
        origin = Link(
            what=event.origin,
            reason=event.origin_reason,
            at=event.origin_at,
            source=event.origin_source,
            seconds=event.origin_seconds,
        )
        refs = self._refs_here(key, [frame.f_code, back.f_code])
        return place, _piece_of_expiry(event), b"", event, origin, note, refs

    def leaving(self, key: int, frame: FrameType) -> tuple[Any, ...] | None:
        """What is known of where *frame* takes a request back, as `Taking.learn_leaving` says."""
        known = self._state.codes.known
        outer = frame.f_back
        info = known.get(id(frame.f_code))
        by = None if outer is None else known.get(id(outer.f_code))
        if info is None or info.source not in OWN_ONLY or outer is None:
            return None
        if by is None or by.owner != APPLICATION:
            return None
        at = by.at(outer.f_lasti)
        refs = self._refs_here(key, [frame.f_code, outer.f_code])
        said = b"," + piece(source=info.source, at=at)
        return self._state.places.place(), said, at, info.source, refs

    def _refs_here(self, key: int, codes: Iterable[CodeType]) -> list[object]:
        """The same of what is so in the loop that runs: a program may have one after the other."""
        lines = self._asks.lines
        refs = self._refs(lines, key, codes)
        with suppress(TypeError):  # a loop that takes no weak reference
            refs.append(dropping(running_loop(), lines, key))
        return refs

    @staticmethod
    def _refs(table: Any, key: int, codes: Iterable[CodeType]) -> list[object]:
        """What keeps ``table[key]`` from being about other codes than *codes*."""
        if len(table) >= _MOST:
            table.clear()
        return [dropping(code, table, key) for code in codes]


def _calls_soon(loop: Any) -> bool:
    """Whether *loop* runs nothing of anybody's inside of ``call_soon()``, which a cancel() calls."""
    call_soon = getattr(loop, "call_soon", None)
    return (
        getattr(call_soon, "__func__", None) is BaseEventLoop.call_soon
        or type(loop).__module__ == "uvloop"
    )


def _piece_of_expiry(event: TaskCancel) -> bytes:
    """What lines like that of *event* have in common, before it is said how late it was."""
    like: Any = event
    like = like.__copy__()
    like.ts = like.name = like.coro = like.origin_detail = ""
    like.seq = like.task = 0
    like.accepted = True
    fields = msgspec.to_builtins(like)
    names = list(fields)
    late = names.index("origin_detail")
    if names[late + 1 :] != ["task", "name", "coro", "accepted"]:
        raise ValueError(f"the fields of a request are others: {names}")
    return b"," + piece(**{name: fields[name] for name in names[names.index("seq") + 1 : late]})


def _pieces_of(event: TaskCancel) -> tuple[bytes, bytes]:
    """What lines like that of *event* have in common: before who asked is named, and behind it."""
    like: Any = event
    like = like.__copy__()
    like.ts = like.name = like.coro = like.by_name = like.origin_by_name = ""
    like.seq = like.by = like.task = 0
    like.accepted = True
    fields = msgspec.to_builtins(like)
    names = list(fields)
    first, by, again, task = map(names.index, ("seq", "by", "origin_by_name", "task"))
    if names[by : by + 2] != ["by", "by_name"] or names[again:] != [
        "origin_by_name",
        "task",
        "name",
        "coro",
        "accepted",
    ]:
        raise ValueError(f"the fields of a request are others: {names}")
    assert task == again + 1
    return _piece_of(fields, names[first + 1 : by]), _piece_of(fields, names[by + 2 : again])


def _piece_of(fields: dict[str, Any], names: list[str]) -> bytes:
    return b"," + piece(**{name: fields[name] for name in names})
