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
from typing import NamedTuple, TypeAlias

import msgspec

from aioaudit.chain.links import LEFT_OUT, Answer, AnswerOutcome, Asked, Link
from aioaudit.chain.summary import summarise
from aioaudit.events import FutureCancel, TaskCancel

Request: TypeAlias = TaskCancel | FutureCancel
"""An event that asks for a cancellation."""

Resolve: TypeAlias = Callable[[Request], Request | None]
"""Gives the request that the given one names as its ``cause``; None if it is not known."""


class Step(NamedTuple):
    """A link, and the request that told it.

    ``own`` is true where the link is that request itself and false where it is
    the request's origin.  ``request`` is None where no request is known.
    ``concluded`` is true where it was not seen, but follows from what was, that it is
    this request which ended the task.
    """

    link: Link
    request: Request | None
    own: bool
    concluded: bool = False


def own_link(request: Request) -> Link:
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
        detail=request.detail,
    )


def origin_link(request: Request) -> Link | None:
    """The link that *request* carries as its origin, None if it carries none.

    Plain code that called is the same call as the request, so a ``called``
    origin that leaves something out repeats it from the request.
    """
    if request.origin is None:
        return None
    reason, source = request.origin_reason, request.origin_source
    at, by_name = request.origin_at, request.origin_by_name
    if request.origin == "called":
        reason = reason or request.reason
        if source is None and at is None:
            source, at = request.source, request.at
        by_name = by_name or request.by_name
    return Link(
        what=request.origin,
        task=request.origin_task,
        name=request.origin_name,
        reason=reason,
        source=source,
        at=at,
        by_name=by_name,
        error=request.origin_error,
        signal=request.origin_signal,
        seconds=request.origin_seconds,
        detail=request.origin_detail,
    )


def walk(request: Request, resolve: Resolve) -> list[Step]:
    """The steps from *request* to its root cause; at least one, the request's own."""
    steps = [Step(own_link(request), request, True)]
    seen = {id(request)}
    shown = True  # whether the current request's own link is the last step
    while True:
        cause = None if request.cause is None else resolve(request)
        if cause is not None and id(cause) in seen:
            cause = None
        origin = origin_link(request)
        if origin is not None:
            steps.append(Step(origin, request, False))
            if request.cause is None:
                return steps
            if cause is None:
                gap = Link(what="cancelled", reason="unknown", detail=missing(request.cause))
                steps.append(Step(gap, None, False))
                return steps
        elif cause is None:
            if not shown:  # knowledge ends at this request, so it has to be seen
                steps.append(Step(own_link(request), request, True))
            if request.cause is not None:
                steps[-1] = Step(_ends(steps[-1].link, request.cause), request, True)
            return steps
        else:
            steps.append(Step(own_link(cause), cause, True))
        shown = origin is None
        seen.add(id(cause))
        request = cause


class Chain:
    """A chain that shares its end with all those that lead into it.

    ``length`` counts its steps, ``root`` is the last of them, ``asked`` the last request
    that is known; ``guess`` is one that was concluded rather than seen, if there is any.
    """

    __slots__ = ("asked", "guess", "length", "rest", "root", "step")

    def __init__(self, step: Step, rest: Chain | None) -> None:
        self.step = step
        self.rest = rest
        here = step.request
        self.guess = here if here is not None and here.evidence == "inferred" else None
        self.length = 1
        self.root = step
        self.asked = here
        if rest is not None:
            self.guess = self.guess or rest.guess
            self.length += rest.length
            self.root = rest.root
            self.asked = rest.asked or here

    def steps(self, most: int | None = None) -> list[Step]:
        """Its steps; of one that is longer than *most* the first ones, a gap and the root."""
        if most is not None and self.length > most:
            count = max(most - 2, 1)
            left_out = self.length - count - 1
            gap = Link(what="cancelled", detail=f"{left_out:,}{LEFT_OUT}")
            first = [chain.step for chain in islice(self._along(), count)]
            return [*first, Step(gap, self.guess, False), self.root]
        return [chain.step for chain in self._along()]

    def _along(self) -> Iterator[Chain]:
        chain: Chain | None = self
        while chain is not None:
            yield chain
            chain = chain.rest


class Chains:
    """The chains of many requests, each step made once: what `walk` gives, for all of them.

    Args:
        resolve: Gives the request that a request names as its cause.
    """

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._known: dict[tuple[int, bool], Chain] = {}

    def clear(self) -> None:
        """Forget them: the requests have changed."""
        self._known.clear()

    def of(self, request: Request) -> Chain:
        """The chain from *request* to its root cause."""
        known = self._known
        path: dict[int, tuple[Request, bool]] = {}
        step: Request | None = request
        shown = True
        rest: Chain | None = None
        while step is not None:
            rest = known.get((step.seq, shown))
            if rest is not None or step.seq in path:  # a circle: it ends as if this was missing
                break
            path[step.seq] = (step, shown)
            shown = origin_link(step) is None
            step = None if step.cause is None else self._resolve(step)
        for each, own in reversed(path.values()):
            rest = self._extended(each, own, rest)
            known[each.seq, own] = rest
        assert rest is not None
        return rest

    def _extended(self, request: Request, shown: bool, rest: Chain | None) -> Chain:
        """The chain of *request*, whose cause has the chain *rest*."""
        own = Step(own_link(request), request, True)
        origin = origin_link(request)
        if origin is not None:
            if rest is None and request.cause is not None:
                gap = Link(what="cancelled", reason="unknown", detail=missing(request.cause))
                rest = Chain(Step(gap, None, False), None)
            rest = Chain(Step(origin, request, False), rest)
            return Chain(own, rest) if shown else rest
        if rest is None:
            if request.cause is not None:
                own = Step(_ends(own.link, request.cause), request, True)
            return Chain(own, None)
        return Chain(own, rest) if shown else rest


def missing(seq: int) -> str:
    """What is said where the line that would go on is not there."""
    return f"the line with seq {seq}, which would say why, is missing"


def _ends(link: Link, seq: int) -> Link:
    detail = missing(seq) if link.detail is None else f"{link.detail}; {missing(seq)}"
    return msgspec.structs.replace(link, detail=detail)


def steps_of(
    task: int,
    name: str,
    request: Request | None,
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
    task: int, name: str, request: Request, steps: list[Step], *, concluded: bool = False
) -> list[Step]:
    """*steps* of *request*, after the task's own link where it was made to something else.

    *concluded* is as for `steps_of`.
    """
    steps[0] = steps[0]._replace(concluded=concluded)
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
    requests: list[Asked] | None = None,
) -> Answer:
    """The whole answer for one task whose chain is *steps* (see `steps_of`).

    *swallowed_at* is the line that kept the CancelledError, for the summary;
    *requests* are all that were made to the task, where there were several.
    """
    chain = [step.link for step in steps]
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
            cancel_outcome=cancel_outcome,
            chain=chain,
            inferred=inferred(steps),
            swallowed_at=swallowed_at,
        ),
        requests=requests or [],
    )


def inferred(steps: list[Step]) -> bool:
    """Whether any step of the chain was concluded rather than seen."""
    return any(
        step.concluded or (step.request is not None and step.request.evidence == "inferred")
        for step in steps
    )
