"""What ``aioaudit why`` says, apart from how it is shown: which causes are one, and every sentence.

Nothing here needs rich, so that whoever shows answers otherwise says the same.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec

from aioaudit.chain import summary
from aioaudit.chain.links import Link, RequestFate, RequestSummary, said
from aioaudit.chain.summary import Show
from aioaudit.chain.walk import Step, inferred
from aioaudit.cli.terminal import clock, plural, since, span
from aioaudit.events import FutureCancel, TaskCancel
from aioaudit.findings.words import particulars, sentence
from aioaudit.log import Case
from aioaudit.log.incidents import CLEANUP, GROUP, IDLE, SHUTDOWN, TIMEOUT, housekeeping
from aioaudit.log.senders import ENDING, Sent
from aioaudit.text import clean, escape_unprintable

MOST_NAMES = 5
"""At most this many siblings or waiters are named; more are counted."""

MOST_REQUESTS = 10
"""At most this many lines tell of other requests to the same task; more requests are counted."""

BECAME: dict[RequestFate, str] = {
    "obeyed": "it obeyed",
    "swallowed": "it swallowed it",
    "absorbed": "taken back with uncancel()",
    "replaced": "it raised another error instead",
    "pending": "its end is not in the log",
    "coalesced": "changed nothing, an earlier one was still to be delivered",
    "delivered": "it was delivered, and the task went on",
    "late": "changed nothing, the task had ended",
}

HOUSEKEEPING = {
    TIMEOUT: ("timeout that its owner handled", "timeouts that their owners handled"),
    SHUTDOWN: ("left over at the end of asyncio.run",) * 2,
    IDLE: ("idle connection whose peer left", "idle connections whose peers left"),
    CLEANUP: ("ended by the task that had made it", "ended by the tasks that had made them"),
    GROUP: ("of a library that ended its own group",) * 2,
}
"""Kinds of housekeeping in words, of one task and of several; the others are a library's own."""

OTHERWISE = {
    "swallowed": "swallowed it",
    "absorbed": "absorbed it",
    "replaced": "raised another error instead",
}


class Row(NamedTuple):
    """A root cause, and the tasks that it hit in so many runs."""

    tasks: int
    runs: set[str]
    root: Link
    first: Case
    last: Case


def by_cause(cases: list[Case]) -> list[Row]:
    """*cases* by root cause, worst first."""
    rows: dict[tuple[str | None, ...], Row] = {}
    for case in cases:
        root = case.root()
        kind = kind_of(root)
        row = rows.get(kind)
        if row is None:
            rows[kind] = Row(1, {case.run.id}, root, case, case)
        else:
            row.runs.add(case.run.id)
            rows[kind] = Row(row.tasks + 1, row.runs, common(row.root, root), row.first, case)
    return sorted(rows.values(), key=lambda row: -row.tasks)


def housekeeping_line(cases: list[Case]) -> str:
    """One line that counts what is no incident, by kind."""
    kinds = Counter(housekeeping(case) or "" for case in cases)
    parts = [
        f"{count:,} {HOUSEKEEPING.get(kind, (kind, kind))[count > 1]}"
        for kind, count in kinds.most_common()
    ]
    return f"Housekeeping: {len(cases):,} {plural('task', len(cases))} ({', '.join(parts)})"


def headline(cases: list[Case], rows: list[Row]) -> str:
    """How many of *cases*, which have the causes *rows*, and what became of them."""
    if not cases:
        return "Nothing happened: no task was cancelled but for housekeeping"
    runs = len({case.run.id for case in cases})
    text = f"{len(cases):,} {plural('task', len(cases))} cancelled"
    text += "" if runs == 1 else f" in {runs:,} runs"
    text += f", {len(rows):,} root {plural('cause', len(rows))}"
    became = Counter("swallowed" if case.kept else case.cancel_outcome for case in cases)
    for outcome, words in OTHERWISE.items():
        if became[outcome]:
            text += f"; {became[outcome]:,} {words}"
    unknown = sum(row.tasks for row in rows if not summary.is_known(row.root))
    return text + (f"; {unknown:,} of unknown cause" if unknown else "")


def kind_of(root: Link) -> tuple[str | None, ...]:
    """What roots have in common that make one row: the same line did the same thing."""
    error = None if root.error is None else root.error.partition(":")[0]
    return (root.what, root.reason, root.source, root.at, root.library_at, root.signal, error)


def common(one: Link, other: Link) -> Link:
    """What two roots of one kind both say."""
    name = one.name if one.name == other.name else "a task"
    error = one.error
    if error is not None and error != other.error:
        error = error.partition(":")[0]
    same = one.seconds == other.seconds or (
        one.seconds is not None
        and other.seconds is not None
        and f"{one.seconds:g}" == f"{other.seconds:g}"
    )
    return msgspec.structs.replace(
        one,
        task=None,
        name=name,
        error=error,
        by_name=one.by_name if one.by_name == other.by_name else None,
        seconds=one.seconds if same else None,
        message=one.message if one.message == other.message else None,
        detail=one.detail if one.detail == other.detail else None,
    )


def cause_in_words(root: Link, show: Show) -> str:
    """What a row says of its *root*."""
    if summary.is_known(root):
        return summary.cause(root, show)
    return f"unknown: {summary.unknown(root, show)}"


def listed(names: list[str]) -> str:
    """The first of *names*, and how many more there are."""
    shown = ", ".join(escape_unprintable(name) for name in names[:MOST_NAMES])
    rest = len(names) - MOST_NAMES
    return shown if rest <= 0 else f"{shown} and {rest:,} more"


def sentence_of(case: Case, steps: list[Step], show: Show) -> str:
    """What became of the task of *case*, and why: its *steps* lead to the root cause."""
    kept = case.kept
    return summary.summarise(
        name=case.name,
        coro=case.coro,
        outcome=case.outcome,
        cancel_outcome=case.cancel_outcome if kept is None else "swallowed",
        chain=[step.link for step in steps],
        inferred=inferred(steps),
        swallowed_at=case.swallowed_at if kept is None else kept.swallowed_at,
        show=show,
    )


def told(step: Step, case: Case, show: Show) -> list[str]:
    """What *step* says: a line, and lines of particulars below it."""
    link, request = step.link, step.request
    if link.what != "cancelled":
        text = summary.cause(link, show)
        if link.source is not None and link.what != "called":
            text += f", in {escape_unprintable(link.source)}"
        return [text]
    own = link.run is None and link.task == case.task
    if request is None:
        text = summary.who(case.name, case.coro) if own else "a request"
        if link.coro is not None:
            text = summary.who(link.name or "", link.coro) + summary.process(link)
        text += " was cancelled" if own or link.coro is not None else ""
        return [text + ("" if link.detail is None else f": {escape_unprintable(link.detail)}")]
    text = "a future"
    if isinstance(request, TaskCancel):
        text = summary.who(request.name, request.coro)
    text += f"{summary.process(link)} was cancelled, reason {escape_unprintable(request.reason)}"
    if request.at is not None:
        text += f", at {escape_unprintable(show(request.at))}"
    if request.source is not None:
        text += f" in {escape_unprintable(request.source)}"
    if request.by_name is not None:
        by = "thread" if request.reason == "thread" else "task"
        text += f", by {by} {escape_unprintable(request.by_name)}"
    return [text, *_particulars(link, request, case.root(), show)]


def _particulars(
    link: Link, request: TaskCancel | FutureCancel, root: Link, show: Show
) -> list[str]:
    """Lines below that of *request*, without what the *root* cause tells."""
    lines: list[str] = []
    if isinstance(request, TaskCancel):
        if request.suspended_at is not None:
            lines.append(f"it was suspended at {show(request.suspended_at)}")
        if request.peer is not None and root.run == link.run:  # else its other end tells of it
            here = "" if request.local is None else f", this end {request.local}"
            lines.append(f"the peer was {request.peer}{here}")
    else:
        names = request.waiter_names or [f"task {task}" for task in request.waiters]
        if names:
            lines.append(f"awaited by {listed(names)}")
    message = said(request.message)
    if message is not None and (root.what != "called" or message != root.message):
        lines.append(f"message: {clean(message)}")
    if link.library is not None and request.origin != "called":  # else the root says it
        lines.append(f"{summary.library(link.library, link.library_at)} called cancel()")
    if link.detail is not None:
        lines.append(show(link.detail))
    return [escape_unprintable(line) for line in lines]


def signalled(sent: Sent | None, show: Show) -> list[str]:
    """Who sent the signal that did it, where a log says so."""
    if sent is None:
        return []
    event, pid = sent.event, sent.run.pid
    who = {
        "itself": "by itself",
        "parent": f"by its parent, pid {pid}",
        "ancestor": f"by a process above its parent, pid {pid}",
        "other": f"by another process, pid {pid}",
    }[sent.relation]
    because = "" if sent.because is None else f", because {sent.because}"
    if sent.because == event.detail:
        because = "" if event.detail is None else f", {event.detail}"
    caller = event.source if event.library is None else event.library
    at = event.at if event.library is None else event.library_at
    place = "" if at is None else f" at {show(at)}"
    called = "" if caller is None else f"; {caller} sent it{place}"
    killed = event.signal in ENDING or event.signal == "SIGKILL"
    process = "Its process"
    if sent.to is not None:
        process = f"The process of {sent.to.service or 'its client'} (pid {sent.to.pid})"
    what = f"{process} was probably killed" if killed else "The signal was probably sent"
    return [escape_unprintable(f"{what} {who} ({event.signal}){because}{called}.")]


def ending(case: Case, show: Show) -> list[str]:
    """What became of the request."""
    end = case.end
    if end is None:
        if case.outcome == "returned":
            return ["It returned all the same."]
        return ["Its end is not in the log."]
    when = f"at {clock(end.ts)}"
    if case.request is not None:
        when += f" ({since(case.request.ts, end.ts)} after the request)"
    if end.lifetime is not None:
        when += f", after a life of {span(end.lifetime).removeprefix('+')}"
    error = "" if end.error is None else f" with {escape_unprintable(end.error)}"
    if end.error_at is not None:
        error += f" at {escape_unprintable(show(end.error_at))}"
    if end.outcome == "destroyed":
        return [f"It was destroyed while pending {when}."]
    if end.cancel_outcome == "swallowed":
        place = "" if end.swallowed_at is None else f" at {show(end.swallowed_at)}"
        return [
            f"It swallowed the cancellation{escape_unprintable(place)} and {end.outcome}{error} {when}."
        ]
    if end.cancel_outcome == "absorbed":
        place = _absorbed_at(case, show)
        if case.kept is not None:  # the finding below says where
            return [
                f"It swallowed the cancellation, which was then taken back{place};"
                f" it {end.outcome}{error} {when}."
            ]
        return [f"It absorbed the cancellation{place} and {end.outcome}{error} {when}."]
    if end.cancel_outcome == "replaced":
        return [f"It raised another error instead: it ended{error} {when}."]
    if end.outcome == "cancelled":
        return [f"It obeyed and ended {when}."]
    return [f"It {end.outcome}{error} {when}."]


def _absorbed_at(case: Case, show: Show) -> str:
    after = -1 if case.request is None else case.request.seq
    for event in sorted(case.run.uncancels_of(case.task), key=lambda event: event.seq):
        if event.seq > after and event.remaining == 0 and event.at is not None:
            return f" with uncancel() at {escape_unprintable(show(event.at))}"
    return " with uncancel()"


def found_of(case: Case, show: Show) -> list[str]:
    """What else went wrong with the task's cancellations; notes are for `aioaudit check`."""
    return [
        f"Finding: {'; '.join([sentence(finding, show), *particulars(finding, show)])}."
        for finding in case.run.findings_of(case.task)
        if finding.severity == "finding"
    ]


def asked_more(case: Case, show: Show) -> list[str]:
    """The other requests that were made to the task while it lived, a line each."""
    answered = None if case.request is None else case.request.seq
    others = [each for each in case.requests() if each.seq != answered and each.became != "late"]
    if not others:
        return []
    lines = [f"It was asked {len(others):,} more {plural('time', len(others))}:"]
    alike: dict[tuple[str | None, ...], list[RequestSummary]] = {}
    for each in others:
        line = each.source, each.at, each.library_at
        kind = (each.reason, *line, each.became, each.absorbed_at)
        alike.setdefault(kind, []).append(each)
    groups = list(alike.values())
    date = len({each.ts[:10] for each in others}) > 1
    lines += [f"  {_asked_line(each, date, show)}" for each in groups[:MOST_REQUESTS]]
    rest = sum(map(len, groups[MOST_REQUESTS:]))
    if rest:
        lines.append(f"  and {rest:,} more (--json has them all)")
    return lines


def _asked_line(asked: list[RequestSummary], date: bool, show: Show) -> str:
    """One request, or how often and from when to when there were some that are alike."""
    first, last = asked[0], asked[-1]
    text = clock(first.ts, date=date)
    if last is not first:
        text += f" to {clock(last.ts, date=date)}  {len(asked):,} times"
    text += f"  reason {first.reason}"
    if first.at is not None:
        text += f", at {show(first.at)}"
    if first.library is not None:
        text += f", through {summary.library(first.library, first.library_at)}"
    names = {each.by_name: None for each in asked if each.by_name is not None}
    if names:
        by = "thread" if first.reason == "thread" else "task"
        text += f", by {by} {first.by_name}" if len(names) == 1 else ""
        text += f", by {len(names):,} {by}s" if len(names) > 1 else ""
    messages = {said(each.message) for each in asked}
    if messages != {None}:
        only = said(first.message) if len(messages) == 1 else None
        text += f", message: {clean(only)}" if only is not None else ", with messages"
    text += f": {BECAME[first.became]}"
    if first.absorbed_at is not None:
        text += f" at {show(first.absorbed_at)}"
    return escape_unprintable(text)
