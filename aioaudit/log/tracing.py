"""Private. Which cancellation, in one process, made the client of another one leave: by the trace.

A pure function over what logs say, for what addresses do not tell: proxies and load balancers have
connections of their own, and hand the header ``traceparent`` on.  It names the span that sent a
request.  So what was handled for that request came of the span, and where a task was asked to
cancel while it was in that very span, its client had reason to leave.

What has to hold for a client that left and a request to cancel elsewhere:

- the span that the request was made in is the one that sent what the client waited for;
- what was handled was there before that request was made, and lost its client after it.  By a clock of
  each, that has to be so by clocks that agree, or differ as at least three spans say, and most;
- where the span is not that of a request which the task had sent (``client``), but is about more, it
  has to be the same clock, and a connection was closed because of that request, at once before;
- all that fits came of one cause, and no more clients left than were in the span: one for a request
  that was sent, else one for each task.  A proxy that asks twice has left one server itself.

A span that is in no log joins nothing, also where the trace is the same: the client of two
services that are in one trace may be a third one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from aioaudit.log.joining import AGREE, FEWEST, MOST, SECOND

SOON = 10 * SECOND
"""Within this time a server hears that its client left."""
AT_ONCE = SECOND
"""Tasks of one process that are asked to cancel within this time have lost one client; and so soon
after a connection was closed a client has left because of that."""


class Asked(NamedTuple):
    """A request to cancel a task that was in a span.

    ``led_by`` is the ``seq`` of the request that led to it, 0 for none, ``cause`` that of the one
    at the end of its chain, and ``depth`` the length of that;
    ``sends`` says that the span is that of a request which the task has sent, ``closes`` is when
    connections were closed that came of the same cause.  Times are in nanoseconds.
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
    closes: tuple[int, ...] = ()


class Left(NamedTuple):
    """A request to cancel that was made because a client left, and the span that ``sender`` names.

    ``since`` is when all was there that was asked, 0 where that is not known.
    """

    run: str
    seq: int
    since: int
    at: int
    trace_id: str
    sender: str


Span = tuple[str, str]
Clocks = tuple[str, str]
Interval = tuple[int, int]


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
    for span, lost in list(losses.items()):
        # Ids that somebody has hidden since are all alike; and no request has a thousand clients.
        if not all(map(str.isalnum, span)) or len(lost) * len(in_span.get(span, ())) > MOST**2:
            del losses[span]
    clock_of = {run: clock or run for run, clock in clocks.items()}
    differences: dict[Clocks, dict[Span, list[Interval]]] = {}
    for span, lost in losses.items():
        for loss in lost:
            for each in in_span.get(span, ()):
                pair = _clocks(each, loss, clock_of)
                if pair[0] != pair[1] and each.sends:
                    of_pair = differences.setdefault(pair, {})
                    of_pair.setdefault(span, []).append(_difference(each, loss))
    ahead = {
        pair: _ahead([_hull(each) for each in of_pair.values()])
        for pair, of_pair in differences.items()
    }
    found: dict[tuple[str, int], Asked] = {}
    for span, lost in losses.items():
        for loss, request in _joined(lost, in_span.get(span, ()), clock_of, ahead):
            found[loss.run, loss.seq] = request
    return found


def _clocks(request: Asked, loss: Left, clock_of: Mapping[str, str]) -> Clocks:
    """By whose clocks the times of the two are."""
    return clock_of.get(request.run, request.run), clock_of.get(loss.run, loss.run)


def _difference(request: Asked, loss: Left) -> Interval:
    """By how much the clock of *loss* may be ahead, where it came of *request*: that was made while all
    was there that then was asked."""
    latest = loss.at - request.at
    since = loss.since or loss.at - SOON
    return min(since - request.at, latest), latest


def _hull(intervals: Iterable[Interval]) -> Interval:
    low, high = zip(*intervals, strict=True)
    return min(low), max(high)


def _ahead(intervals: Sequence[Interval]) -> int | None:
    """By how much a clock is ahead of another one, of which *intervals* tell, one for each span.

    0 where the clocks agree, for all that most of them say; None where nothing is sure.
    """
    agreeing = sum(_allows(each, 0) for each in intervals)
    if 2 * (len(intervals) - agreeing) <= agreeing:
        return 0
    most, ahead, inside = 0, 0, 0
    for point, ends in sorted(
        [(low, False) for low, _ in intervals] + [(high, True) for _, high in intervals]
    ):
        inside += -1 if ends else 1
        if inside > most:
            most, ahead = inside, point
    return ahead if most >= FEWEST and 2 * (len(intervals) - most) <= most else None


def _allows(interval: Interval, ahead: int) -> bool:
    low, high = interval
    return low <= ahead <= high + AGREE


def _joined(
    lost: Iterable[Left],
    there: Iterable[Asked],
    clock_of: Mapping[str, str],
    ahead: Mapping[Clocks, int | None],
) -> Iterable[tuple[Left, Asked]]:
    """Those of *lost*, all sent from one span, that one cause in that span explains."""
    by_cause: dict[tuple[str, int], list[tuple[Left, list[Asked]]]] = {}
    for loss in lost:
        fitting = [each for each in there if _fits(each, loss, clock_of)]
        causes = {(each.run, each.cause) for each in fitting}
        if len(causes) == 1:
            by_cause.setdefault(causes.pop(), []).append((loss, fitting))
    for pairs in by_cause.values():
        if _clients(loss for loss, _ in pairs) <= _most(
            {a for _, fitting in pairs for a in fitting}
        ):
            for loss, fitting in pairs:
                # What it led to last: that is the nearest to the connection.
                request = max(fitting, key=lambda each: (each.depth, -each.seq))
                pair = _clocks(request, loss, clock_of)
                known = ahead.get(pair) if pair[0] != pair[1] else 0
                if known is not None and _allows(_difference(request, loss), known):
                    yield loss, request


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


def _fits(request: Asked, loss: Left, clock_of: Mapping[str, str]) -> bool:
    """Whether *loss* may have come of *request*, by who they are and by the times of one clock."""
    if (request.run, request.cause) == (loss.run, loss.seq):
        return False
    here, there = _clocks(request, loss, clock_of)
    if here != there:
        return request.sends  # and whether by their clocks is asked last, for those may be wrong
    if not loss.since <= request.at <= loss.at:
        return False
    return request.sends or any(0 <= loss.at - at <= AT_ONCE for at in request.closes)
