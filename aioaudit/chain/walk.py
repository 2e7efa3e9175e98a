"""From a request to cancel back to its root cause: the one rule, without I/O.

The same walk serves a log that was read and a program that is still running,
so that both give the same answer.  All it needs is the request's event and a
way to find the request that an event names as its cause.

The rule, for a request R:

- R's own link says that a task or future was ``cancelled``, and how.
- If R carries an ``origin``, that is the next link.  If R names a ``cause``
  too, the chain goes on with what follows that cause; the cause's own link is
  left out, because the origin tells the same step better (a failed child).
- If R carries none but names a cause, the chain goes on with the cause.
- If the cause is nowhere to be found, the chain ends there and says so.  Nothing
  is ever guessed: a wrong culprit is worse than none.

Only a damaged log can make causes run in a circle; where one closes, the chain
ends as if that cause was missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, Protocol, TypeAlias, TypeVar

import msgspec

from aioaudit.chain.links import (
    LEFT_OUT,
    Answer,
    AnswerOutcome,
    Link,
    RequestFate,
    RequestSummary,
    said,
    unflatten,
)
from aioaudit.chain.summary import summarise
from aioaudit.events import FutureCancel, TaskCancel

RequestEvent: TypeAlias = TaskCancel | FutureCancel
"""An event that asks for a cancellation."""

R = TypeVar("R")
"""A request, in whatever form it is kept."""

Resolve: TypeAlias = Callable[[RequestEvent], RequestEvent | None]
"""Gives the request that the given one names as its ``cause``; None if it is not known."""


class Step(msgspec.Struct, frozen=True):
    """A link, and the request that told it.

    ``own`` is true where the link is that request itself and false where it is
    the request's origin.  ``request`` is None where no request is known.
    ``concluded`` is true where it was not seen, but follows from what was, that it is
    this request which ended the task.
    """

    link: Link
    request: RequestEvent | None
    own: bool
    concluded: bool = False


def own_link(request: RequestEvent) -> Link:
    """The link that *request* itself is: a task, or a future, was cancelled."""
    task = request if isinstance(request, TaskCancel) else None
    return Link(
        what="cancelled",
        task=None if task is None else task.task,
        name=None if task is None else task.name,
        reason=request.reason,
        source=request.source,
        at=request.at,
        by_name=request.by_name,
        message=said(request.message),
        library=request.library,
        library_at=request.library_at,
        detail=request.detail,
    )


def origin_link(request: RequestEvent) -> Link | None:
    """The link that *request* carries as its origin, None if it carries none."""
    origin = unflatten(request)
    return None if origin is None else completed(origin, request)


def completed(origin: Link, request: RequestEvent) -> Link:
    """*origin* of *request*, with what it leaves out because *request* says it.

    Plain code that called is the same call as the request, so a ``called``
    origin that leaves something out repeats it from the request.
    """
    if origin.what != "called":
        return origin
    source, at = origin.source, origin.at
    library, library_at = origin.library, origin.library_at
    message = origin.message
    if source is None and at is None:
        source, at = request.source, request.at
        message = message or said(request.message)
        library, library_at = request.library, request.library_at
    return msgspec.structs.replace(
        origin,
        reason=origin.reason or request.reason,
        source=source,
        at=at,
        by_name=origin.by_name or request.by_name,
        message=message,
        library=library,
        library_at=library_at,
    )


class Reading(Protocol[R]):
    """How to read requests, whatever they are: lines of a log, or what is kept in memory."""

    def key(self, request: R) -> int:
        """A number that is *request*'s alone."""
        ...

    def event(self, request: R) -> RequestEvent:
        """The event that tells *request*."""
        ...

    def origin(self, request: R) -> Link | None:
        """The link that *request* carries as its origin, None if it carries none."""

    def cause(self, request: R) -> R | None:
        """The request that led to *request*, None where there is none, or where it is missing."""

    def missing(self, request: R) -> int | None:
        """The ``seq`` of the line that tells that request, should it be missing; None for none."""


class LogReading:
    """Requests that are their own events, as a log has them."""

    def __init__(self, resolve: Resolve) -> None:
        """*resolve* gives the request that the given one names as its cause."""
        self._resolve = resolve

    def key(self, request: RequestEvent) -> int:
        """The line's number."""
        return request.seq

    def event(self, request: RequestEvent) -> RequestEvent:
        """The line itself."""
        return request

    def origin(self, request: RequestEvent) -> Link | None:
        """What the line says of it."""
        return origin_link(request)

    def cause(self, request: RequestEvent) -> RequestEvent | None:
        """The line that this one names, if it is there."""
        return None if request.cause is None else self._resolve(request)

    def missing(self, request: RequestEvent) -> int | None:
        """The number that this line names."""
        return request.cause


def walk(request: RequestEvent, resolve: Resolve) -> list[Step]:
    """The steps from *request* of a log to its root cause; at least one, the request's own."""
    return Chains[RequestEvent](LogReading(resolve)).of(request).steps()


def back(request: R, cause: Callable[[R], R | None]) -> Iterator[R]:
    """*request*, what led to it according to *cause*, what led to that, and so on to the root."""
    step: R | None = request
    while step is not None:
        yield step
        step = cause(step)


SHORT = 16
"""Steps of a chain that is made again at little cost."""

MOST_NEAR = 1_000
"""Short chains that are at hand."""


class Chain:
    """A chain that shares its end with all those that lead into it.

    ``number`` is the same if it is made again.  ``length`` counts its steps, ``root`` is the last of
    them, ``last_request`` the last request that is known; ``inferred_request`` is one that was
    concluded rather than seen, if there is any.
    """

    __slots__ = ("inferred_request", "last_request", "length", "number", "rest", "root", "step")

    def __init__(self, number: int, step: Step, rest: Chain | None) -> None:
        self.number = number
        self.step = step
        self.rest = rest
        here = step.request
        self.inferred_request = here if here is not None and here.evidence == "inferred" else None
        self.length = 1
        self.root = step
        self.last_request = here
        if rest is not None:
            self.inferred_request = self.inferred_request or rest.inferred_request
            self.length += rest.length
            self.root = rest.root
            self.last_request = rest.last_request or here

    def steps(self, most: int | None = None) -> list[Step]:
        """Its steps; of one that is longer than *most* the first ones, a gap and the root."""
        if most is not None and self.length > most:
            count = max(most - 2, 1)
            left_out = self.length - count - 1
            gap = Link(what="cancelled", detail=f"{left_out:,}{LEFT_OUT}")
            first = [chain.step for chain in islice(self._along(), count)]
            return [*first, Step(gap, self.inferred_request, False), self.root]
        return [chain.step for chain in self._along()]

    def _along(self) -> Iterator[Chain]:
        chain: Chain | None = self
        while chain is not None:
            yield chain
            chain = chain.rest


class Chains(Generic[R]):
    """The chains of many requests, each step of a long one made once for all of them.

    A million may be short, and lie far apart: of those some are at hand.  This is the walk from a
    request to its root: of a log and of what is in memory alike.

    Args:
        reading: How the requests are read.
    """

    def __init__(self, reading: Reading[R]) -> None:
        self._reading = reading
        self._known: dict[tuple[int, bool], Chain] = {}
        self._near: dict[tuple[int, bool], Chain] = {}

    def clear(self) -> None:
        """Forget them: the requests have changed."""
        self._known.clear()
        self._near.clear()

    def of(self, request: R) -> Chain:
        """The chain from *request* to its root cause."""
        reading = self._reading
        known, near = self._known, self._near
        path: dict[int, tuple[R, Link | None, bool]] = {}
        shown = True  # whether the step's own link is to be told
        rest: Chain | None = None
        circle = False
        # Forth, as far as nothing is known yet.
        for step in back(request, reading.cause):
            key = reading.key(step)
            rest = known.get((key, shown)) or near.get((key, shown))
            circle = rest is None and key in path  # it ends as if this was missing
            if circle or rest is not None:
                break
            origin = reading.origin(step)
            path[key] = step, origin, shown
            # The origin tells the step to the cause better than the cause's own link.
            shown = origin is None
        # And back: each step is put before what follows it.
        made: dict[tuple[int, bool], Chain] = {}
        for key, (each, origin, own) in reversed(path.items()):
            rest = made[key, own] = self._before(rest, each, origin, own)
        assert rest is not None
        if len(near) > MOST_NEAR:
            near.clear()
        # Where a circle ends depends on where it was entered: that is said once for all.
        (known if circle or rest.length > SHORT else near).update(made)
        return rest

    def _before(self, rest: Chain | None, request: R, origin: Link | None, shown: bool) -> Chain:
        """The chain of *request*, which carries *origin*, and whose cause has the chain *rest*."""
        event = self._reading.event(request)
        lost = self._reading.missing(request) if rest is None else None
        own = Step(own_link(event), event, True)
        number = 6 * self._reading.key(request) + 3 * shown
        if origin is not None:
            if lost is not None:
                gap = Link(what="cancelled", reason="unknown", detail=missing(lost))
                rest = Chain(number + 2, Step(gap, None, False), None)
            rest = Chain(number + 1, Step(origin, event, False), rest)
            return Chain(number, own, rest) if shown else rest
        if rest is None:  # knowledge ends at this request, so it has to be seen
            if lost is not None:
                own = Step(_ends(own.link, lost), event, True)
            return Chain(number, own, None)
        return Chain(number, own, rest) if shown else rest


def missing(seq: int) -> str:
    """What is said where the line that would go on is not there."""
    return f"the line with seq {seq}, which would say why, is missing"


def _ends(link: Link, seq: int) -> Link:
    detail = missing(seq) if link.detail is None else f"{link.detail}; {missing(seq)}"
    return msgspec.structs.replace(link, detail=detail)


def steps_of(
    task: int,
    name: str,
    request: RequestEvent | None,
    resolve: Resolve,
    lost: int | None = None,
    *,
    concluded: bool = False,
) -> list[Step]:
    """The steps from a task to its root cause.

    *request* is the one that the task obeyed or, if it has not ended, the one
    it is to obey.  It may have been made to something that the task awaited;
    then the task's own link comes before it.  Without one, *lost* is its
    ``seq`` if that much is known.  *concluded* as in `Step`, of the first.
    """
    if request is None:
        detail = None if lost is None else missing(lost)
        link = Link(what="cancelled", task=task, name=name, reason="unknown", detail=detail)
        return [Step(link, None, True)]
    return from_task(task, name, request, walk(request, resolve), concluded=concluded)


def from_task(
    task: int, name: str, request: RequestEvent, steps: list[Step], *, concluded: bool = False
) -> list[Step]:
    """*steps* of *request*, after the task's own link where it was made to something else.

    *concluded* is as for `steps_of`.
    """
    steps[0] = msgspec.structs.replace(steps[0], concluded=concluded)
    if isinstance(request, TaskCancel) and request.task == task:
        return steps
    return [Step(Link(what="cancelled", task=task, name=name), None, True), *steps]


def answer_of(
    *,
    task: int,
    name: str,
    coro: str,
    outcome: AnswerOutcome,
    steps: list[Step],
    cancel_outcome: str | None = None,
    swallowed_at: str | None = None,
    kept: bool = False,
    requests: list[RequestSummary] | None = None,
) -> Answer:
    """The whole answer for one task whose chain is *steps* (see `steps_of`).

    *swallowed_at* is the line that kept the CancelledError, for the summary, and *kept* says
    that one did although the request was taken back;
    *requests* are all that were made to the task, where there were several.
    """
    chain = [step.link for step in steps]
    concluded = inferred(steps)
    return Answer(
        task=task,
        name=name,
        coro=coro,
        outcome=outcome,
        cancel_outcome=cancel_outcome,
        chain=chain,
        root=chain[-1],
        summary=summarise(
            name=name,
            coro=coro,
            outcome=outcome,
            cancel_outcome="swallowed" if kept else cancel_outcome,
            chain=chain,
            inferred=concluded,
            swallowed_at=swallowed_at,
        ),
        inferred=concluded,
        requests=requests or [],
    )


def summary_of(
    request: TaskCancel, became: RequestFate, absorbed_at: str | None = None
) -> RequestSummary:
    """*request* as one of several; *absorbed_at* is the line that took it back."""
    return RequestSummary(
        seq=request.seq,
        ts=request.ts,
        reason=request.reason,
        source=request.source,
        at=request.at,
        by_name=request.by_name,
        library=request.library,
        library_at=request.library_at,
        message=request.message,
        became=became,
        absorbed_at=absorbed_at,
        behind=request.behind,
    )


def inferred(steps: list[Step]) -> bool:
    """Whether any step of the chain was concluded rather than seen."""
    return any(
        step.concluded or (step.request is not None and step.request.evidence == "inferred")
        for step in steps
    )
