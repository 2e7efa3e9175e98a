"""Private. Which cancellations are incidents, and which are housekeeping: decided here alone.

An incident is one cause and all tasks that it reached.  It is housekeeping where the program
is surely none the worse for it, which takes two things.

The cause is one of these:

- a library's own word (``anyio.race``, ``websockets.closed``): what it had begun beside something
  is not needed any more;
- a timeout that ran out in a wait of its owner's own, who took the request back and went on;
- a peer that left while its connection waited for no more than the next request;
- a library that ends a group of its own by an error of its own, and goes on;
- the end of ``asyncio.run``, which ends what is left, where no task that it ran has failed;
- a task that ends what it had made beside its work: see `_Cleanups`.

And each task that it reached either took the request back and returned, or lives, or is a
helper of a library in which nothing of the application waits.  Only the last two may end the
application's own, once they have begun.

Whatever is not known is an incident: a log that lacks events, a cause that was concluded and not
seen, a task with a finding (but one that was just slow), a task that nobody knows how it ended.
A task of the application that was cancelled in the middle of somebody's work is always one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

from aioaudit.chain.links import Link
from aioaudit.chain.summary import RUN_OTHERS, is_known
from aioaudit.chain.walk import RequestEvent
from aioaudit.events import FutureCancel, TaskCancel
from aioaudit.log.runs import Case, LoggedRun
from aioaudit.recognisers.registry import OWN

TIMEOUT = "timeout"
SHUTDOWN = "shutdown"
IDLE = "idle"
GROUP = "group"
CLEANUP = "cleanup"
"""Kinds of housekeeping that have no word of a library: the causes above."""

WORD = re.compile(r"(\w+)\.(race|done|closed|poll|keepalive|timer)")
"""Words by which libraries say that something is not needed any more."""

JOBS = frozenset({"arq.closed"})
"""Words of the same form for what ends the application's work."""

LIBRARY_PATH = re.compile(
    r"[\\/](site|dist)-packages[\\/]|[\\/]lib(64)?[\\/]python3\.\d+t?[\\/]"
    r"|[\\/]Lib[\\/](asyncio|concurrent)[\\/]|^<frozen "
)
"""Paths that are no application's, on whichever machine they are."""

ERRORS = {"RequestAborted": None, "RequestProcessed": "django.done"}
"""By which Django ends the group that a view runs in: its client left, or the response was sent."""

IDLE_WORDS = frozenset({"aiohttp.closed", "aiohttp.keepalive"})
"""Words for the end of a connection that waits for the next request."""

CONNECTIONS = frozenset({"aiohttp.web_protocol:RequestHandler.start"})
"""Coroutines that serve a connection, and wait for a future of their own between its requests."""


def incident_of(case: Case) -> tuple[Link, int | None]:
    """What tells this cause from another one at the same line.

    A task fails once and a process ends once, but the same timeout or the same
    call happens again and again.
    """
    last = None if case.request is None else case.run.chains.of(case.request).last_request
    return incident_of_root(case.own_root(), last, case.task)


def incident_of_root(root: Link, last: RequestEvent | None, task: int) -> tuple[Link, int | None]:
    """The same, of a chain that ends in *root* after the request *last*, told of *task*."""
    if root.what in ("deadline", "cancelled"):
        return (root, task if last is None else last.seq)
    if root.what == "called" or (root.what == "failed" and root.task is None):
        return (root, None if last is None else last.by)
    return (root, None)


def may_be_housekeeping(root: Link, last: RequestEvent) -> bool:
    """Whether there is any housekeeping with such a *root*, after the request *last*.

    This much is known as soon as somebody asked.
    """
    if not is_known(root):
        return False
    if root.what in ("shutdown", "deadline") or _cause_alone(root) is not None:
        return True
    return root.what == "called" and last.reason == "explicit" and _cleans_up(last)


def _closely(case: Case) -> tuple[Link, *tuple[int | None, ...]]:
    """The same, where a loop's callback that called counts for each of its calls.

    Ten peers leave at the same line of the same library, and only one was waited for.
    """
    incident = incident_of(case)
    if case.request is not None and incident[0].what == "called" and incident[1] is None:
        last = case.run.chains.of(case.request).last_request
        return (*incident, None if last is None else last.seq)
    return incident


def housekeeping(case: Case) -> str | None:
    """What kind of housekeeping *case* is: a library's word or one of the kinds above; else None."""
    run = case.run
    if run.housekeeping is None:
        run.housekeeping = _housekeeping_of(run)
    return run.housekeeping.get(case.task)


def _housekeeping_of(run: LoggedRun) -> dict[int, str]:
    """The tasks of *run* whose cancellation is housekeeping, each with its kind."""
    if run.dropped or run.faults or run.thinned:
        return {}  # whom a request reached may be among what is missing
    faulty = {
        each.task for each in run.findings if each.severity == "finding" and each.kind != "slow"
    }
    incidents: dict[tuple[object, ...], list[Case]] = {}
    roots: dict[Link, Link] = {}
    for case in run.cases():
        root, *more = _closely(case)
        # A million may have the same root: it is kept once.
        incidents.setdefault((roots.setdefault(root, root), *more), []).append(case)
    kinds: dict[int, str] = {}
    cleanups: list[list[Case]] = []
    for cases in incidents.values():
        if any(case.task in faulty for case in cases):
            continue
        kind = _kind_of(run, cases)
        if kind is not None:
            kinds.update((case.task, kind) for case in cases)
        elif _asker(cases) is not None:
            cleanups.append(cases)
    for cases in _settled(run, cleanups, kinds):
        kinds.update((case.task, CLEANUP) for case in cases)
    return kinds


def _kind_of(run: LoggedRun, cases: Sequence[Case]) -> str | None:
    """What kind of housekeeping the incident of *cases* is, None where it is none."""
    root = cases[0].own_root()
    kind = _cause(run, root)
    if kind is None:
        return None
    unharmed = [case for case in cases if _went_on(case)]
    for case in cases:
        if case.request is None or not (_is_seen(case, case.request) and _is_over(run, case)):
            return None
        if _went_on(case):
            continue
        if kind == SHUTDOWN:
            if not _left_over(run, case, case.request):
                return None
        elif kind == IDLE:
            if not _is_idle(case, case.request):
                return None
        elif not (
            _is_helper(case, case.request, _package(root.reason if "." in kind else None))
            or (kind in IDLE_WORDS and _is_idle(case, case.request))
        ):
            return None
    if kind == TIMEOUT and not (unharmed and all(map(_polled, unharmed))):
        return None  # whoever had set it may have failed because of it
    if kind == GROUP and not any(_package(case.coro) == _package(root.source) for case in unharmed):
        return None
    return None if kind == IDLE and unharmed else kind


def _cause(run: LoggedRun, root: Link) -> str | None:
    """What kind of housekeeping something with the cause *root* may be."""
    if not is_known(root):
        return None
    if root.what == "shutdown" and root.reason == "shutdown" and _ended_well(run):
        return SHUTDOWN
    return _cause_alone(root)


def _cause_alone(root: Link) -> str | None:
    """The same, of what can be told without the rest of the log."""
    reason = root.reason
    if reason is not None and reason not in JOBS and WORD.fullmatch(reason):
        return reason
    if root.what == "deadline":
        return TIMEOUT if reason in ("timeout", "scope") else None
    if root.what == "called" and reason == "disconnect":
        return IDLE
    if root.what == "failed" and _package(root.source) in OWN and _in_library(root.at):
        return ERRORS.get(root.error or "", GROUP)
    return None


def _ended_well(run: LoggedRun) -> bool:
    """Whether none of the tasks failed that ``asyncio.run`` made: nobody's, at no line."""
    return not any(
        end.outcome != "returned" and (maker := run.maker_of(task)) is not None and maker.main
        for task, end in run.ends.items()
    )


def _is_seen(case: Case, request: RequestEvent) -> bool:
    """Whether nothing of the chain was concluded; without its steps, which are many of a deep one."""
    concluded = case.end is not None and case.end.evidence == "inferred"
    return not concluded and case.run.chains.of(request).inferred_request is None


def _went_on(case: Case) -> bool:
    """Whether the task took the request back, and returned or lives."""
    return case.cancel_outcome == "absorbed" and case.outcome in ("returned", "pending")


def _left_over(run: LoggedRun, case: Case, request: RequestEvent) -> bool:
    """Whether the task had begun, and ended as it was told to; that needs its making in the log."""
    begun = isinstance(request, FutureCancel) or request.suspended_at is not None
    return begun and case.cancel_outcome == "obeyed" and run.maker_of(case.task) is not None


def _is_idle(case: Case, request: RequestEvent) -> bool:
    """Whether the task served a connection and waited for the next request, in a line of its own.

    While it awaits a handler the same request reaches that, too, which is then no housekeeping.
    """
    if case.coro not in CONNECTIONS or case.cancel_outcome != "obeyed":
        return False
    if isinstance(request, FutureCancel):
        return True
    module = case.coro.partition(":")[0].replace(".", "[\\\\/]")
    at = request.suspended_at or ""
    return _in_library(at) and re.search(rf"[\\/]{module}\.py:\d+$", at) is not None


def _is_helper(case: Case, request: RequestEvent, package: str | None) -> bool:
    """Whether a library runs the task beside something, and nothing of the application is in it.

    Of *package*, or of any library that is known where that is None.
    """
    if not isinstance(request, TaskCancel) or request.task != case.task:
        return False
    if case.cancel_outcome == "swallowed":
        if case.outcome != "returned" or not _in_library(case.swallowed_at):
            return False
    elif case.cancel_outcome != "obeyed" and not _is_left(case):
        return False
    own = _package(case.coro)
    wraps = case.coro in RUN_OTHERS
    if request.suspended_at is None:  # it had not begun: what it would have run is all there is
        return own == package and not wraps
    if not _in_library(request.suspended_at):
        return False
    if package is None:
        return (own in OWN or own == "asyncio") and not wraps
    return own in (package, "anyio", "asyncio")


def _is_left(case: Case) -> bool:
    """Whether the task's library is known to leave it to the end of its loop, which has come."""
    return any(
        each.task == case.task and each.kind == "pending" and each.severity == "note"
        for each in case.run.findings
    )


def _is_over(run: LoggedRun, case: Case) -> bool:
    """Whether all other requests to the task were taken back or changed nothing, and are no incident.

    The answer is about one of them; what another one did must not be hidden with it.
    """
    seq = None if case.request is None else case.request.seq
    others = [each for each in run.requests_to(case.task) if each.accepted and each.seq != seq]
    back = run.taken_back(case.task) if others else {}
    for request in others:
        if request.seq not in back and request.behind is None:
            return False
        kind = _cause(run, run.chains.of(request).root.link)
        if kind is None or (kind == TIMEOUT and not _is_poll(request, back)):
            return False
    return True


def _polled(case: Case) -> bool:
    """Whether the task set a deadline to a wait of its own, and took that request back itself."""
    request = case.request
    return isinstance(request, TaskCancel) and _is_poll(request, case.run.taken_back(case.task))


BODY = 2
"""So many lines below its ``with`` the body of a block is surely still that block's own: a function
that it calls has a ``def`` in between."""


def _is_poll(request: TaskCancel, back: Mapping[int, str | None]) -> bool:
    """Whether a deadline ended a wait of the very block that had it, and nothing further in.

    What ends the work of functions that know nothing of the deadline is an incident, even if
    whoever set it goes on: the work was not done.
    """
    at, waited = request.at, request.suspended_at
    if request.cause is not None or at is None or waited is None or back.get(request.seq) != at:
        return False
    if _in_library(at):
        return _in_library(waited)
    (path, _, line), (where, _, below) = at.rpartition(":"), waited.rpartition(":")
    numbers = line.isdigit() and below.isdigit()
    return numbers and path == where and 0 <= int(below) - int(line) <= BODY


# What a task ends that it had made
#
# Nobody is the worse for it where all of this holds:
#
# - the line leaves a block whose other lines do not use the task (``cleanup``), and the task was made
#   in the same function; or it is in a method that closes an object, and the task was made by
#   another method of that class.  A method that just stops something may do so at any time: there
#   nothing must have been made by the task that asked, from then on;
# - it was asked by the very task that had made it, while no error was handled;
# - that one has returned, and nobody ever asked it to cancel: no deadline of its own ran out;
# - of all that it had made nothing failed, and nothing was cancelled but housekeeping: it was after
#   its work that it cleaned up;
# - each task ended as it was told to, and was asked by nobody else; and so did what those had made.

CLOSE = frozenset({"aexit", "aclose", "close", "shutdown", "disconnect", "cleanup"})
"""Methods that end an object, without the underscores around."""

STOP = "stop"

COMPREHENSION = re.compile(r"(\.<locals>\.<(list|set|dict)comp>|\.<locals>\.<genexpr>)+$")
"""What the source of a task ends with that was made in one: before 3.12 a list has a function too."""


def _asker(cases: Sequence[Case]) -> int | None:
    """The task that asked for all of *cases*, at a line that cleans up; None where there is none."""
    request = cases[0].request
    last = None if request is None else cases[0].run.chains.of(request).last_request
    if not isinstance(last, TaskCancel) or last.reason != "explicit" or last.detail is not None:
        return None
    root = cases[0].own_root()
    if root.what != "called" or root.detail is not None or root.library is not None:
        return None
    return last.by if _cleans_up(last) else None


def _cleans_up(request: RequestEvent) -> bool:
    """Whether the line that called leaves a block, or is in a method that ends an object."""
    return request.cleanup or _method(request.source)[1] in (*CLOSE, STOP)


def _method(source: str | None) -> tuple[str, str]:
    """The class of ``module:Class.method`` with its module, empty for a function, and the method."""
    owner, _, name = (source or "").rpartition(".")
    inside = ":" not in owner or owner.endswith("<locals>")
    return ("" if inside else owner, name.rpartition(":")[2].strip("_"))


def _settled(
    run: LoggedRun, cleanups: Sequence[list[Case]], kinds: dict[int, str]
) -> list[list[Case]]:
    """Those of *cleanups* (each an incident) that are housekeeping, as what is in *kinds* is."""
    if not cleanups:
        return []
    made: dict[int, list[int]] = {}
    for task, maker in run.all_makers():
        if maker.task is not None:
            made.setdefault(maker.task, []).append(task)
    good = [each for each in cleanups if _ended_as_told(run, each)]
    while True:
        ended = {case.task for cases in good for case in cases}
        left = [
            cases
            for cases in good
            if not any(
                (end := run.ends.get(each)) is not None
                and end.outcome != "returned"
                and not (each in ended or each in kinds)
                for each in made.get(cast(int, _asker(cases)), ())
            )
        ]
        if len(left) == len(good):
            return good
        good = left


def _ended_as_told(run: LoggedRun, cases: Sequence[Case]) -> bool:
    """Whether these tasks, all of one incident, ended because who had made them wanted it so."""
    asker = _asker(cases)
    if asker is None or not run.has_returned(asker) or run.requests_to(asker):
        return False
    tasks = {case.task for case in cases}
    for case in cases:
        request = case.request
        maker = run.maker_of(case.task)
        if not isinstance(request, TaskCancel) or request.task != case.task:
            return False
        if request.suspended_at is None or not (_is_seen(case, request) and _is_over(run, case)):
            return False
        if not (
            case.cancel_outcome == "obeyed"
            or (case.cancel_outcome == "swallowed" and case.outcome == "returned")
        ):
            return False
        if request.cause is not None:
            if maker is None or maker.task not in tasks:
                return False
        elif (
            maker is None
            or maker.task != asker
            or not _made_by_who_ends_it(run, request, maker.function)
        ):
            return False
    return True


def _made_by_who_ends_it(run: LoggedRun, request: TaskCancel, function: str | None) -> bool:
    """Whether the *function* that had made the task belongs to the line that asked."""
    if request.cleanup and COMPREHENSION.sub("", function or "") == request.source:
        return True
    owner, method = _method(request.source)
    if not owner or owner != _method(function)[0]:
        return False
    if method in CLOSE:
        return True
    # What it made later may have been forgotten where lines are in disorder.
    return not run.missed and run.last_made.get(request.by or 0, 0) < request.seq


def _package(name: str | None) -> str | None:
    """The outermost package of a ``module:qualname``, or of a library's word."""
    return None if name is None else re.split("[.:]", name, maxsplit=1)[0]


def _in_library(at: str | None) -> bool:
    return at is not None and LIBRARY_PATH.search(at) is not None
