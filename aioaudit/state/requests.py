"""Requests to cancel, kept in memory: who asked for what, and what became of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from aioaudit.chain.links import Link
from aioaudit.chain.obeyed import first_undelivered, stands, stands_for, successor_of, to_obey
from aioaudit.chain.walk import back
from aioaudit.events import CancelOutcome, FutureCancel, Outcome, Severity, TaskCancel


class Request(msgspec.Struct, eq=False):
    """One call of ``cancel()`` on a task or a future.

    ``event`` is what is told of it; ``cause`` the request that caused it.
    ``origin`` is the next link of the chain where that is no request; ``owner``
    is the `id` of the timeout or task group that asked, compared only while
    that object is alive.  ``forwarded_as`` is the request that this one became when the
    task passed it on to what it was awaiting.  ``times`` is how often the same
    asker asked for it (``dedup_key`` stands for the asker), and ``pending`` how many
    of these calls ``uncancel()`` has not taken back.  ``awaiting_tasks`` are the tasks
    that will end because what they await does.  ``victim`` is the `id` of the
    task, looked at only while its ``cancel()`` runs; ``awaited_ref`` refers to what
    the task waited for (before 3.12 only).  ``requested_at`` and ``delivered_at`` are when it
    was made and delivered (`time.monotonic`; 0 where nobody asks for findings),
    ``never_started`` is the severity of a finding that the task had not begun.  ``finding_sent`` says
    that a finding was sent about what became of it, ``slow_reported`` that one says why it took
    long; ``kept_at`` is the line that kept what this request was passed on as.
    ``coalesced`` says that another one waited to be delivered when it was made, ``absorbed_at``
    is the line that took it back last.
    ``taken_over`` says that not its own scope took it back, but the one around that.
    ``successor`` is the request for which a CancelledError of this one went on when this one
    was taken back (`aioaudit.chain.obeyed`); ``depth`` is how many requests lie before it in its chain.
    ``passed_on`` are those that were passed on to its task behind it, and made no request of their own.

    A struct with nothing but numbers and events in it, as most are, is nothing
    that the garbage collector need look at.
    """

    event: TaskCancel | FutureCancel
    cause: Request | None = None
    owner: int | None = None
    origin: Link | None = None
    dedup_key: object | None = None
    times: int = 1
    pending: int = 1
    taken_back: bool = False
    awaiting_tasks: list[CancelState] | None = None
    forwarded_as: Request | None = None
    victim: int = 0
    awaited_ref: Callable[[], Any] | None = None
    delivered: bool = False
    absorbed: bool = False
    lost: bool = False
    requested_at: float = 0.0
    delivered_at: float = 0.0
    never_started: Severity | None = None
    finding_sent: bool = False
    slow_reported: bool = False
    kept_at: str | None = None
    taken_over: bool = False
    successor: Request | None = None
    depth: int = 0
    coalesced: bool = False
    absorbed_at: str | None = None
    passed_on: list[Request] | None = None

    @property
    def stands(self) -> bool:
        """Whether it was neither taken back nor lost on its way."""
        return stands(self)

    @property
    def effective(self) -> Request:
        """The request that a CancelledError of this one stands for now."""
        return stands_for(self)

    @property
    def undelivered(self) -> bool:
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
        self.delivered = self.absorbed = self.lost = self.taken_over = False
        self.successor = None

    def pass_on_again(self, above: Request) -> None:
        """*above* is passed on to the same task, and goes with this one from now on."""
        self.pending += 1
        if above.forwarded_as is not None:
            return  # it goes with one of a task nearer to its own already
        above.forwarded_as = self
        if self.passed_on is None:
            self.passed_on = []
        self.passed_on.append(above)
        del self.passed_on[_OPEN:-_OPEN]  # what its own task keeps of them, too

    def nearest_logged(self) -> Request | None:
        """This request, or the nearest one before it, that is a line of the log."""
        if self.event.seq:
            return self
        for step in self.back():
            if step.event.seq:
                return step
        return None

    def back(self) -> Iterator[Request]:
        """This request, and each that led to the one before, to the root.

        Their number is bounded (`aioaudit.recorder.inquiry`).
        """
        return back(self, _CAUSE)

    @property
    def root(self) -> Request:
        """The request at the root of this one's chain."""
        *_, root = self.back()
        return root

    @property
    def source(self) -> str | None:
        """``module:qualname`` of the caller at the root of this request's chain."""
        root = self.root
        origin = None if root.origin is None else root.origin.source
        return origin or root.event.source


_CAUSE: Callable[[Request], Request | None] = attrgetter("cause")


def results_from(request: Request, cause: Request) -> bool:
    """Whether *request* is *cause*, or was made because of it."""
    for step in request.back():
        if step.depth <= cause.depth:  # nothing before it has more
            return step is cause
    return False


class HandlerTimer:
    """The handlers that a CancelledError passed in a task: which of them took longest."""

    __slots__ = ("at", "line", "seconds", "since")

    def __init__(self) -> None:
        self.line: str | None = None
        self.since = 0.0
        self.at: str | None = None
        self.seconds = 0.0

    def enter(self, line: str, now: float) -> None:
        """The handler at *line* was entered at *now*."""
        if self.line is not None:
            self.leave(now)
        self.line, self.since = line, now

    def leave(self, now: float) -> None:
        """The error left the handler, or was kept by it, at *now*."""
        if self.line is not None and now - self.since >= self.seconds:
            self.at, self.seconds = self.line, now - self.since
        self.line = None


class CancelState(msgspec.Struct, eq=False):
    """What cancellations have done to one task, as long as the task lives.

    ``requests`` are those that an answer may still need, in the order they were made.
    ``current`` is the request whose CancelledError was delivered last,
    ``inherited`` one made to what the task was awaiting, about to reach it while
    ``inherited_arriving`` is true and it waits for ``awaited_ref``; ``concluded`` says that which request ended it was not seen, and
    there were several; ``errors`` counts the CancelledErrors of this task that live;
    ``last_absorbed`` is the one that the last ``uncancel()`` took back;
    ``handler_timer`` says which handler took how long, once one of the program's own
    was entered; ``late`` are the last requests that came when it had ended; ``noted`` refers to
    the CancelledErrors of this task that carry a note.
    """

    ref: weakref.ref[Any]
    task: int
    coro: str
    preexisting: bool
    requests: list[Request] = []
    current: Request | None = None
    inherited: Request | None = None
    awaited_ref: Callable[[], Any] | None = None
    last_absorbed: Request | None = None
    swallowed_at: str | None = None
    handler_timer: HandlerTimer | None = None
    late: list[Request] | None = None
    ended: bool = False
    outcome: Outcome | None = None
    cancel_outcome: CancelOutcome | None = None
    inherited_arriving: bool = False
    concluded: bool = False
    errors: int = 0
    room: int = 16
    noted: list[weakref.ref[BaseException]] | None = None

    def add(self, request: Request) -> None:
        """Keep *request*, the newest; forget what no answer needs any more.

        A task that lives for a year must not remember each timeout that it has had.
        """
        self.requests.append(request)
        if len(self.requests) > self.room:
            self.requests = _needed(self.requests)
            self.room = 2 * max(len(self.requests), 8)

    def add_late(self, request: Request) -> None:
        """Keep *request*, which came when the task had ended."""
        self.late = [*(self.late or ())[-_LATE + 1 :], request]

    def take_back(self, request: Request, since: int | None) -> None:
        """*request* is taken back, and an error of it goes on or not; *since* as in `successor_of`."""
        request.pending -= 1
        request.absorbed = True
        # What stands now is taken back later, if at all: so this never leads in a circle.
        request.successor = successor_of(self.requests, request, since)

    @property
    def answer(self) -> Request | None:
        """The request that the task obeyed, is to obey, or else lived through last."""
        # What ended it was decided when it did, by its error, and stands in the log as ``cancel``.
        # That nobody saw it is an answer, too: what came before may have been swallowed since.
        return self.current if self.ended else to_obey(self.requests, self.current, self.inherited)

    def find_repeated(self, once: object | None, nested: Request | None) -> Request | None:
        """The request that is made again: by the same asker, or by *nested* passed on again."""
        if nested is not None and nested.times == 1:
            nested = None
        if once is None and nested is None:
            return None
        for request in reversed(self.requests):
            if once is not None and request.dedup_key is once:
                return request
            if nested is not None and request.cause is nested:
                return request
        return None

    def deliver(self) -> Request | None:
        """A CancelledError reached the task: say of which request, and settle the rest.

        Requests made before one delivery are one cancellation; the first of
        them is the one that the task obeys.
        """
        first = first_undelivered(self.requests)
        if first is not None:
            for request in self.requests:
                if not (request.absorbed or request.lost):
                    request.delivered = True
            self.current = first
            self.swallowed_at = None
        return first


_ABSORBED = 8
"""Maximum number of requests kept that were taken back: those of the last error are among them."""

_DELIVERED = 32
"""Maximum number of requests kept that were delivered, and that nobody took back."""

_OPEN = 32
"""Maximum number of requests kept that wait for one delivery: so many first ones, so many last."""

_LATE = 8
"""Maximum number of requests kept that came too late."""

_OWNED = 64
"""Maximum number of requests kept whose asker is about to take them back."""


def _needed(requests: list[Request]) -> list[Request]:
    """Those of *requests* that an answer may still need, in order."""
    absorbed = [each for each in requests if each.absorbed]
    owned = [each for each in requests if each.taken_back and not each.absorbed]
    others = [each for each in requests if not (each.taken_back or each.absorbed)]
    delivered = [each for each in others if each.delivered or each.lost]
    waiting = [each for each in others if not (each.delivered or each.lost)]
    kept = {
        id(each)
        for each in (
            *absorbed[-_ABSORBED:],
            *owned[-_OWNED:],
            *delivered[-_DELIVERED:],
            *waiting[:_OPEN],
            *waiting[-_OPEN:],
        )
    }
    return [each for each in requests if id(each) in kept]


class Note(NamedTuple):
    """A note on an error: the request that it tells of, and its text."""

    request: Request
    text: str


class Tie(msgspec.Struct, eq=False):
    """Ties a CancelledError, as long as it lives, to the request that it delivers.

    ``beneath`` is what it stood for when it came out of what the task awaited, where
    a request of the task's own was delivered with it; ``timeout`` the request of the
    timeout that made a TimeoutError of it.  ``concluded`` says that its arrival was not seen,
    and that other requests could have been delivered with it.  ``note`` is what was put on
    it (`aioaudit.recorder.notes`).
    """

    ref: weakref.ref[BaseException]
    request: Request | None
    state: CancelState | None
    beneath: Request | None = None
    timeout: Request | None = None
    concluded: bool = False
    note: Note | None = None

    @property
    def effective(self) -> Request | None:
        """The request that the error stands for now."""
        request = self.request
        # As it is most often: nothing took it back, and the rule need not be asked.
        if request is None or (request.successor is None and self.beneath is None):
            return request
        return stands_for(request, self.beneath)
