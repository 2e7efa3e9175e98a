"""Private. Which cancellation, in one process, made the client of another one leave: by the trace.

A pure function over what logs say, for what addresses do not tell: proxies and load balancers have
connections of their own, and hand the header ``traceparent`` on.  It names the span that sent a
request.  So what was handled for that request came of the span, and where a task was asked to
cancel while it was in that very span, its client had reason to leave.

What has to hold for a client that left and a request to cancel elsewhere:

- the span that the request was made in is the one that sent what the client waited for;
- on one machine, the client left after that request was made.  Where the span is that of a request which
  the task had sent (``client``), nothing else can have been meant by it, and clocks need not agree;
  where it is any other, it has to be the same clock, and a short time;
- all that fits came of one cause, and no more clients left than were in the span: one for a request
  that was sent, else one for each task.  A proxy that asks twice has left one server itself.

A span that is in no log joins nothing, also where the trace is the same: the client of two
services that are in one trace may be a third one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

SECOND = 1_000_000_000
SOON = 10 * SECOND
"""Within this time a server hears that its client left, where the span may be about more than that."""
AT_ONCE = SECOND
"""Tasks of one process that are asked to cancel within this time have lost one client."""


class Asked(NamedTuple):
    """A request to cancel a task that was in a span.

    ``led_by`` is the ``seq`` of the request that led to it, 0 for none, ``cause`` that of the one
    at the end of its chain, and ``depth`` the length of that;
    ``sends`` says that the span is that of a request which the task has sent.  ``at`` is in
    nanoseconds.
    """

    run: str
    seq: int
    task: int
    led_by: int
    cause: int
    depth: int
    at: int
    trace_id: str
    span_id: str
    sends: bool


class Left(NamedTuple):
    """A request to cancel that was made because a client left, and the span that ``sender`` names."""

    run: str
    seq: int
    at: int
    trace_id: str
    sender: str


Span = tuple[str, str]


def join(
    asked: Iterable[Asked], left: Iterable[Left], clocks: Mapping[str, str | None]
) -> dict[tuple[str, int], Asked]:
    """Which of *asked* each of *left* came of, by its run and ``seq``.

    *clocks* has by run the clock that its times are of, None where that is not known.
    """
    in_span: dict[Span, list[Asked]] = {}
    for each in asked:
        in_span.setdefault((each.trace_id, each.span_id), []).append(each)
    losses: dict[Span, list[Left]] = {}
    for loss in left:
        losses.setdefault((loss.trace_id, loss.sender), []).append(loss)
    found: dict[tuple[str, int], Asked] = {}
    for span, lost in losses.items():
        for loss, request in _joined(lost, in_span.get(span, ()), clocks):
            found[loss.run, loss.seq] = request
    return found


def _joined(
    lost: Iterable[Left], there: Iterable[Asked], clocks: Mapping[str, str | None]
) -> Iterable[tuple[Left, Asked]]:
    """Those of *lost*, all sent from one span, that one cause in that span explains."""
    by_cause: dict[tuple[str, int], list[tuple[Left, list[Asked]]]] = {}
    for loss in lost:
        fitting = [each for each in there if _fits(each, loss, clocks)]
        causes = {(each.run, each.cause) for each in fitting}
        if len(causes) == 1:
            by_cause.setdefault(causes.pop(), []).append((loss, fitting))
    for pairs in by_cause.values():
        if _clients(loss for loss, _ in pairs) <= _most(
            {a for _, fitting in pairs for a in fitting}
        ):
            for loss, fitting in pairs:
                # What it led to last: that is the nearest to the connection.
                yield loss, max(fitting, key=lambda each: (each.depth, -each.seq))


def _clients(losses: Iterable[Left]) -> int:
    """How many clients left, of which *losses* tell: several tasks may have worked for one."""
    count = 0
    last: dict[str, int] = {}
    for loss in sorted(losses, key=lambda each: each.at):
        if loss.at - last.get(loss.run, -AT_ONCE - 1) > AT_ONCE:
            count += 1
        last[loss.run] = loss.at
    return count


def _most(requests: set[Asked]) -> int:
    """How many clients may have left because of *requests*, which one span was about."""
    if any(each.sends for each in requests):
        return 1
    # Who awaits a task that is in the span, is not there itself.
    led_by = {each.led_by for each in requests}
    return len({each.task for each in requests if each.seq not in led_by})


def _fits(request: Asked, loss: Left, clocks: Mapping[str, str | None]) -> bool:
    """Whether *loss* may have come of *request*, by who they are and by their times."""
    if (request.run, request.cause) == (loss.run, loss.seq):
        return False
    clock = clocks.get(request.run)
    if request.run != loss.run and (clock is None or clock != clocks.get(loss.run)):
        return request.sends
    passed = loss.at - request.at
    return passed >= 0 and (request.sends or passed <= SOON)
