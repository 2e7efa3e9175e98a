"""Requests to cancel, kept in memory: who asked for what, and what became of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import msgspec

from aioaudit.chain.links import Link
from aioaudit.events import CancelOutcome, FutureCancel, Outcome, Severity, TaskCancel


class Request(msgspec.Struct, eq=False):
    """One call of ``cancel()`` on a task or a future.

    ``event`` is what is told of it; ``cause`` the request that caused it.
    ``origin`` is the next link of the chain where that is no request; ``owner``
    is the `id` of the timeout or task group that asked, compared only while
    that object is alive.  ``via`` is the request that this one became when the
    task passed it on to what it was awaiting.  ``times`` is how often the same
    asker asked for it (``once`` stands for the asker), and ``pending`` how many
    of these calls ``uncancel()`` has not taken back.  ``heirs`` are the tasks
    that will end because what they await does.  ``victim`` is the `id` of the
    task, looked at only while its ``cancel()`` runs; ``waited`` refers to what
    the task waited for (before 3.12 only).  ``asked`` and ``felt`` are when it
    was made and delivered (`time.monotonic`; 0 where nobody asks for findings),
    ``unstarted`` is the level of a finding that the task had not begun.  ``told`` says
    that a finding was told of what became of it, ``slow`` that one says why it took
    long; ``kept_at`` is the line that kept what this request was passed on as.

    A struct with nothing but numbers and events in it, as most are, is nothing
    that the garbage collector need look at.
    """

    event: TaskCancel | FutureCancel
    cause: Request | None = None
    owner: int | None = None
    origin: Link | None = None
    once: object | None = None
    times: int = 1
    pending: int = 1
    taken_back: bool = False
    heirs: list[CancelState] | None = None
    via: Request | None = None
    victim: int = 0
    waited: Callable[[], Any] | None = None
    delivered: bool = False
    absorbed: bool = False
    lost: bool = False
    asked: float = 0.0
    felt: float = 0.0
    unstarted: Severity | None = None
    told: bool = False
    slow: bool = False
    kept_at: str | None = None

    @property
    def open(self) -> bool:
        """Not delivered yet, and on its way."""
        return not (self.delivered or self.absorbed or self.lost)

    @property
    def timed_out(self) -> bool:
        """Made because a timer ran out."""
        return self.origin is not None and self.origin.what == "deadline"

    def repeat(self) -> None:
        """It was asked for again, and is on its way again."""
        self.times += 1
        self.pending += 1
        self.delivered = self.absorbed = self.lost = False

    def logged(self) -> Request | None:
        """This request, or the nearest one before it, that is a line of the log."""
        request: Request | None = self
        while request is not None and request.event.seq == 0:
            request = request.cause
        return request

    @property
    def source(self) -> str | None:
        """``module:qualname`` of the caller at the root of this request's chain."""
        request = self
        for _ in range(10_000):
            event = request.event
            if request.cause is None:
                return event.origin_source or event.source
            request = request.cause
        return None


class Cleanup:
    """The handlers that a CancelledError passed in a task: which of them took longest."""

    __slots__ = ("at", "line", "seconds", "since")

    def __init__(self) -> None:
        self.line: str | None = None
        self.since = 0.0
        self.at: str | None = None
        self.seconds = 0.0

    def enter(self, line: str, now: float) -> None:
        """The handler at *line* was entered at *now*."""
        self.leave(now)
        self.line, self.since = line, now

    def leave(self, now: float) -> None:
        """The error left the handler, or was kept by it, at *now*."""
        if self.line is not None and now - self.since >= self.seconds:
            self.at, self.seconds = self.line, now - self.since
        self.line = None


class CancelState(msgspec.Struct, eq=False):
    """What cancellations have done to one task, as long as the task lives.

    ``current`` is the request whose CancelledError was delivered last,
    ``inherited`` one made to what the task was awaiting, about to reach it;
    ``absorbed_last`` is the one that the last ``uncancel()`` took back;
    ``cleanup`` says which handler took how long, once one of the program's own
    was entered.
    """

    ref: weakref.ref[Any]
    task: int
    coro: str
    preexisting: bool
    requests: list[Request] = []
    current: Request | None = None
    inherited: Request | None = None
    absorbed_last: Request | None = None
    swallowed_at: str | None = None
    cleanup: Cleanup | None = None
    ended: bool = False
    outcome: Outcome | None = None
    cancel_outcome: CancelOutcome | None = None

    def first_open(self) -> Request | None:
        """The request that the next delivery will be of."""
        for request in self.requests:
            if not (request.delivered or request.absorbed or request.lost):
                return request
        return None

    def repeated(self, once: object | None, nested: Request | None) -> Request | None:
        """The request that is made again: by the same asker, or by *nested* passed on again."""
        if nested is not None and nested.times == 1:
            nested = None
        if once is None and nested is None:
            return None
        for request in reversed(self.requests):
            if once is not None and request.once is once:
                return request
            if nested is not None and request.cause is nested:
                return request
        return None

    def deliver(self) -> Request | None:
        """A CancelledError reached the task: say of which request, and settle the rest.

        Requests made before one delivery are one cancellation; the first of
        them is the one that the task obeys.
        """
        first = self.first_open()
        if first is not None:
            for request in self.requests:
                if not (request.absorbed or request.lost):
                    request.delivered = True
            self.current = first
            self.swallowed_at = None
        return first


class Tie(msgspec.Struct, eq=False):
    """Ties a CancelledError, as long as it lives, to the request that it delivers."""

    ref: weakref.ref[BaseException]
    request: Request | None
    state: CancelState | None
