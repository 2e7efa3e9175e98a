"""Private. Where a chain goes on in the log of another process, whose task was the peer that went away.

What the runs tell of connections and of spans is gathered here; whether two of them are about the same is
for `aioaudit.log.joining` and `aioaudit.log.tracing` to say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import cast

from aioaudit.chain.walk import RequestEvent
from aioaudit.events import TaskCancel
from aioaudit.log.joining import Close, Joined, Loss, join
from aioaudit.log.runs import Further, LoggedRun
from aioaudit.log.tracing import Asked, Left, Span
from aioaudit.log.tracing import join as join_by_trace
from aioaudit.timestamps import nanoseconds

PER_REQUEST = frozenset({"aiohttp.web_protocol:RequestHandler.start"})
"""What serves a connection, and awaits a task for each request that comes over it."""


def join_runs(runs: Mapping[str, LoggedRun]) -> Joined:
    """Which peers that went away are processes among *runs*; from now on chains go on there."""
    closes = [close for run in runs.values() for close in _closed(run)]
    lost = [loss for run in runs.values() for loss in losses(run)] if closes else []
    joined = join(closes, lost, {run.id: run.host for run in runs.values()})
    for run in runs.values():
        run.further.clear()
    for (run_id, seq), match in joined.of.items():
        other = runs[match.close.run]
        request = other.requests.get(match.close.request)
        if request is not None:
            line = other.closes[match.close.seq]
            runs[run_id].further[seq] = Further(other, line, request, match)
    _join_by_trace(runs)
    return joined


def _join_by_trace(runs: Mapping[str, LoggedRun]) -> None:
    """The same by the trace; where the connection says otherwise, neither is believed."""
    left = [each for run in runs.values() for each in clients_left(run)]
    spans = {(each.trace_id, each.sender) for each in left}
    asked = [each for run in runs.values() for each in _asked_in(run, spans)] if spans else []
    clocks = {run.id: run.host.clock for run in runs.values()}
    for (run_id, seq), found in join_by_trace(asked, left, clocks).items():
        other, further = runs[found.run], runs[run_id].further
        request = cast(TaskCancel, other.requests[found.seq])
        known = further.get(seq)
        if known is None:
            further[seq] = Further(other, request, request)
            continue
        last = known.run.chains.of(known.request).last_request
        if last is None or (known.run.id, last.seq) != (found.run, found.cause):
            del further[seq]


def _closed(run: LoggedRun) -> Iterator[Close]:
    """The connections that were closed because of a request.

    Without those that the other end had closed before: what this end was asked for was that loss.
    """
    for line in run.closes.values():
        at, request = nanoseconds(line.ts), run.requests.get(line.cancel)
        root = None if request is None else run.chains.of(request).last_request
        if root is not None and (root.local, root.peer) == (line.local, line.peer):
            continue
        asked = at if request is None else nanoseconds(request.ts)
        yield Close(run.id, line.seq, line.cancel, asked, at, line.local, line.peer)


def losses(run: LoggedRun) -> Iterator[Loss]:
    """The peers that went away, each as a task that was asked to cancel tells it."""
    awaited = _awaited_by(run, (run.requests[seq] for seq in run.lost_peers))
    for request in (run.requests[seq] for seq in run.lost_peers):
        since = _all_there(run, request, awaited)
        if since and request.origin == "failed" and request.origin_task is not None:
            # It had the connection; who is cancelled with it may have been there for many of them.
            # (Of the owner of a group, which may just return, that is not kept: it was there before.)
            since = max(since, _since(run, request.origin_task))
        at = nanoseconds(request.ts)
        if since and at and request.local is not None and request.peer is not None:
            yield Loss(run.id, request.seq, since, at, request.local, request.peer)


def _awaited_by(run: LoggedRun, asked: Iterable[RequestEvent]) -> dict[int, list[int]]:
    """By the ``seq`` of those of *asked* that were made to what serves a connection: the tasks
    that this awaited, which were asked with it."""
    found: dict[int, list[int]] = {
        each.seq: [] for each in asked if isinstance(each, TaskCancel) and each.coro in PER_REQUEST
    }
    for request in run.requests.values() if found else ():
        if request.cause in found and isinstance(request, TaskCancel):
            found[request.cause].append(request.task)
    return found


def _all_there(run: LoggedRun, request: RequestEvent, awaited: Mapping[int, list[int]]) -> int:
    """Since when all tasks were there that *request* was made to, and that those *awaited*; 0 for
    unknown."""
    tasks = [request.task] if isinstance(request, TaskCancel) else request.waiters
    tasks = [*tasks, *awaited.get(request.seq, ())]
    return max((_since(run, each) for each in tasks), default=0)


def clients_left(run: LoggedRun) -> Iterator[Left]:
    """The clients that left, where it is told in which trace they were, and in which span."""
    senders: dict[int, set[Span]] = {}
    for request in (run.requests[seq] for seq in run.sent_from):
        last = run.chains.of(request).last_request
        if last is not None and last.reason == "disconnect":
            sender = request.trace_id or "", request.parent_span_id or ""
            senders.setdefault(last.seq, set()).add(sender)
    awaited = _awaited_by(run, (run.requests[seq] for seq in senders))
    for seq, spans in senders.items():
        lost = run.requests[seq]
        at = nanoseconds(lost.ts)
        if len(spans) == 1 and at:
            yield Left(run.id, seq, _all_there(run, lost, awaited), at, *spans.pop())


def _asked_in(run: LoggedRun, spans: Collection[Span]) -> Iterator[Asked]:
    """The requests to tasks that were in one of *spans*, but for what a library does for itself."""
    closes: dict[int, list[int]] = {}
    for line in run.closes.values():
        told = run.requests.get(line.cancel)
        behind = None if told is None else run.chains.of(told).last_request
        if behind is not None:
            closes.setdefault(behind.seq, []).append(nanoseconds(line.ts))
    for request in run.requests.values():
        if not isinstance(request, TaskCancel) or not request.accepted or request.behind:
            continue
        span = request.trace_id or "", request.span_id or ""
        at = nanoseconds(request.ts) if span in spans else 0
        chain = run.chains.of(request) if at else None
        last = None if chain is None else chain.last_request
        if chain is not None and last is not None and "." not in last.reason:
            yield Asked(
                run=run.id,
                seq=request.seq,
                task=request.task,
                led_by=request.cause or 0,
                cause=last.seq,
                depth=chain.length,
                at=at,
                trace_id=span[0],
                span_id=span[1],
                sends=request.span_kind == "client",
                closes=tuple(closes.get(last.seq, ())),
            )


def _since(run: LoggedRun, task: int) -> int:
    """When *task* was made, or surely there, in nanoseconds; 0 where no line says so."""
    end = run.ends.get(task)
    if end is None:
        made = run.living.get(task)
        return 0 if made is None else nanoseconds(made.ts)
    if end.lifetime is None:
        return 0
    return max(nanoseconds(end.ts) - int(end.lifetime * 1e9), 0)
