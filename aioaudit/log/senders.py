"""Who sent the signal because of which a task was cancelled, where the sender's own log says so.

A process that receives a signal does not learn from whom.  So this is a conclusion, and `Sent` says
so: a process in these logs told that it sent that signal to this very process, shortly before; and
no other one did.  Where there are two who may have done it nobody is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from aioaudit.events import Evidence, ProcessStart, SignalSent
from aioaudit.timestamps import nanoseconds

if TYPE_CHECKING:
    from aioaudit.log.runs import Case, LoggedRun
    from aioaudit.log.store import Store

ENDING = frozenset({"SIGABRT", "SIGINT", "SIGQUIT", "SIGTERM"})
"""The signals that ask a process to end, so that what it has left is cancelled."""

AT_ONCE = 10.0
"""Seconds within which a signal's handler runs, in a process that is not stuck..."""

GRACE = 120.0
"""... and within which a server that was asked to end ends, with what it has left."""

Relation = Literal["itself", "parent", "ancestor", "other"]
"""What the sender is to the process that got the signal."""

BECAUSE = {
    "asyncio.base_subprocess:BaseSubprocessTransport.close": "its transport was closed",
    "concurrent.futures.process:ProcessPoolExecutor._force_shutdown": (
        "the pool was told to end its workers"
    ),
    "concurrent.futures.process:_ExecutorManagerThread.terminate_broken": (
        "another worker of the pool had died"
    ),
    "gunicorn.arbiter:Arbiter.manage_workers": "there were more workers than wanted",
    "gunicorn.arbiter:Arbiter.murder_workers": (
        "it had given no sign of life for as long as gunicorn's timeout allows"
    ),
    "gunicorn.arbiter:Arbiter.reload": "gunicorn was told to reload",
    "gunicorn.arbiter:Arbiter.stop": "gunicorn ended",
    "multiprocessing.pool:Pool._terminate_pool": "the pool was terminated",
    "multiprocessing.util:_exit_function": "its parent ended, and it was a daemon",
    "subprocess:run": "subprocess.run() gave up waiting for it",
    "uvicorn.supervisors.basereload:BaseReload.restart": "uvicorn reloads: a file has changed",
    "uvicorn.supervisors.basereload:BaseReload.shutdown": "uvicorn ended",
    "uvicorn.supervisors.multiprocess:Multiprocess.handle_ttou": (
        "uvicorn was told to have one worker less"
    ),
    "uvicorn.supervisors.multiprocess:Multiprocess.keep_subprocess_alive": (
        "it did not answer uvicorn in time, or had died"
    ),
    "uvicorn.supervisors.multiprocess:Multiprocess.restart_all": "uvicorn was told to restart its workers",
    "uvicorn.supervisors.multiprocess:Multiprocess.terminate_all": "uvicorn ended",
}
"""By the function that decided it: why a supervisor sends a signal.  The outermost one counts."""


class Sent(msgspec.Struct, frozen=True):
    """A signal that ``run`` sent to the process of a run.

    That is ``to`` where it is another one than the task's, which lost its client: the client was
    killed.  ``relation`` is what the sender is to that process, ``because`` why it did so, where that is known
    of the function that called.
    """

    run: LoggedRun
    event: SignalSent
    relation: Relation
    because: str | None
    evidence: Evidence = "inferred"
    to: LoggedRun | None = None


def because(event: SignalSent) -> str | None:
    """Why *event* came to be, None where nothing is known of those who called."""
    known = [BECAUSE[each] for each in event.callers if each in BECAUSE]
    return known[-1] if known else event.detail


def sender_of(log: Store, case: Case) -> Sent | None:
    """Who sent the signal because of which the task of *case* was cancelled, or its process killed."""
    run = case.run
    if case.outcome == "pending" and not run.ended:
        killed = _only(log, run, {"SIGKILL"}, case.ts, None)
        if killed is not None:
            return killed
    further = case.further()
    if further:
        run = further[-1].run  # whose line the root is, and whose clock its time
    root = case.steps()[-1]
    until = case.ts if root.request is None else root.request.ts
    reason = root.link.reason or ""
    sent: Sent | None = None
    if root.link.what == "signal":
        sent = _only(log, run, {root.link.signal}, until, AT_ONCE)
    elif root.link.what == "shutdown" or reason == "shutdown" or reason.endswith(".shutdown"):
        sent = _only(log, run, ENDING, until, GRACE)
    if sent is not None and run is not case.run:
        return msgspec.structs.replace(sent, to=run)
    return sent


def _only(
    log: Store, run: LoggedRun, names: Iterable[str | None], when: str, span: float | None
) -> Sent | None:
    """The one who sent *run*'s process one of these signals, up to *span* seconds before *when*.

    Without a *span*, at any time after it.
    """
    start = run.start
    if start is None or not when:
        return None
    found = [
        (by, event)
        for by, event in _to(start, log.signals_to(run.pid))
        if event.signal in names
        and start.ts <= event.ts
        and (
            event.ts >= when
            if span is None
            else event.ts <= when and nanoseconds(when) - nanoseconds(event.ts) <= span * 1e9
        )
    ]
    until = _next_with_number(log, start) if found else None
    if until is not None:
        found = [(by, event) for by, event in found if event.ts < until]
    who = {(by.id, event.signal, event.at, event.to > 0, *event.callers) for by, event in found}
    if len(who) != 1 or found[0][1].to <= 0:
        return None  # nobody, one of several, or a group of which nobody says who is in it
    by, event = max(found, key=lambda each: each[1].ts)
    return Sent(by, event, _relation(run, start, by), because(event))


def _next_with_number(log: Store, start: ProcessStart) -> str | None:
    """When another process began that got the number of the one of *start*, which was gone by then."""
    process = start.process
    began = [
        other.ts
        for each in log.runs_of(start.pid)
        if (other := each.start) is not None
        and other.ts > start.ts
        and (
            process is not None
            and other.process is not None
            and other.process != process
            and _world(other.process) == _world(process)
        )
    ]
    return min(began, default=None)


def _to(
    start: ProcessStart, sent: Iterable[tuple[LoggedRun, SignalSent]]
) -> Iterator[tuple[LoggedRun, SignalSent]]:
    """Those of *sent* that may have reached the process that began with *start*."""
    for by, event in sent:
        other = by.start
        if other is None:
            continue
        if start.process is None or other.process is None:
            # Where the system does not tell processes apart: of the parent its number says it.
            if by.pid in (start.ppid, start.pid):
                yield by, event
        elif _world(start.process) == _world(other.process):
            yield by, event


def _world(process: str) -> str:
    """The boot and the namespace in which the number of *process* means something."""
    return process.rpartition("-")[0].rpartition("-")[0]


def _relation(run: LoggedRun, start: ProcessStart, by: LoggedRun) -> Relation:
    if by is run:
        return "itself"
    process = None if by.start is None else by.start.process
    above = start.ancestors or []
    if process is None or start.process is None:
        return "parent" if by.pid == start.ppid else "other"
    if process not in above:
        return "other"
    return "parent" if above[0] == process else "ancestor"
