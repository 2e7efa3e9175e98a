"""``aioaudit why``: who cancelled a task, and why, from its log.

This module reads the call and the log and decides what is to be answered;
`aioaudit.cli.why_text` says it to people, ``--json`` to programs.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import islice

import click
import msgspec

from aioaudit.cli import lacking
from aioaudit.cli.processes import readable
from aioaudit.cli.terminal import (
    RelativePath,
    as_json,
    counted,
    named,
    plural,
    print_line,
    progress,
    report_gaps,
    report_problems,
    say,
)
from aioaudit.live.client import LiveError
from aioaudit.log import Case, Log
from aioaudit.log.answering import load_to_answer
from aioaudit.log.incidents import housekeeping
from aioaudit.log.senders import Sent, sender_of
from aioaudit.settings import suggestion

FOUND, NOTHING, BAD = 0, 1, 2
"""Exit statuses: an answer, no such task or cancellation, a bad call or log."""

MOST_LINKS = 1_000_000
"""Links that are written of all chains together; of those that follow only few each."""

FEW_LINKS = 10
"""Then a chain shows at most this many: the first links, how many are left out, and the root."""

MOST_NAMES = 10_000
"""Names that are compared with one that is not there."""

MOST_MISFITS = 10
"""At most this many pairs of runs are named whose clocks do not fit; more are counted."""

MOST_NEAR = 3
"""At most this many names that hold what was asked for are shown; more are counted."""


@click.command("why")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@click.option("--task", metavar="NAME_OR_ID", help="Ask for this task: its name, id or RUN:ID.")
@click.option("--all", "show_all", is_flag=True, help="List housekeeping, too.")
@click.option("--json", "in_json", is_flag=True, help="Write one JSON object a line.")
@click.pass_context
def command(
    ctx: click.Context, logs: tuple[str, ...], task: str | None, show_all: bool, in_json: bool
) -> int:
    """Say who cancelled a task, and why.

    LOG is a file, a folder (all *.jsonl files in it, also rotated and compressed), - for
    standard input, or the number of a process that runs with AIOAUDIT=recorder. Without
    --task, the root causes of all cancellations are listed, worst first; those that a
    program is none the worse for are counted in one last line.

    Exit status: 0 with an answer, 1 where no such task or no cancellation is in
    the log, 2 for a bad call or an unreadable log.
    """
    if not in_json and find_spec("rich") is None:
        return lacking("rich", "text for people (--json does without)")
    try:
        with readable(logs) as files, progress() as report:
            log = load_to_answer(files, task, progress=report)
    except LiveError as error:
        say(str(error))
        return BAD
    except OSError as error:
        say(f"cannot read {error.filename or 'standard input'}: {error.strerror}")
        return BAD
    report_problems(log)
    if not log.events:
        say(f"no event of aioaudit in {named(logs)}: there is nothing to answer from")
        return BAD
    report_gaps(log, "what was asked for")
    cases = log.cases(task)
    for misfit in _misfits(log):
        say(misfit)
    if not cases:
        say(_nothing(log, task))
        return NOTHING
    if in_json:
        _write_json(log, cases)
        return FOUND
    from aioaudit.cli.why_text import Text

    text = Text(log, " ".join([ctx.command_path, *map(shlex.quote, logs)]))
    if task is None:
        text.table(cases, show_all=show_all)
    elif len(cases) > 1:
        text.choice(task, cases)
    else:
        text.answer(cases[0])
    return FOUND


def _misfits(log: Log) -> Iterator[str]:
    """Which processes have connections in common, by clocks that do not fit; a sentence each."""
    misfits = log.joined().misfits
    for each in misfits[:MOST_MISFITS]:
        run, other = log.runs[each.run], log.runs[each.other]
        yield (
            f"{each.losses:,} {plural('peer', each.losses)} of run {run.id} (pid {run.pid}) may have been"
            f" run {other.id} (pid {other.pid}), but their clocks do not fit: not joined"
        )
    rest = len(misfits) - MOST_MISFITS
    if rest > 0:
        yield f"{rest:,} more {plural('pair', rest)} of runs whose clocks do not fit"


def _nothing(log: Log, task: str | None) -> str:
    if task is None:
        runs = len(log.runs)
        return (
            f"no task was cancelled in this log ({counted(log)} of {runs:,} {plural('run', runs)})"
        )
    known = log.find(task)
    if not known:
        return f"no task with the name or id {task!r} in this log{_near(log, task)}"
    told = f"the task {task!r} is in this log, but nobody cancelled it"
    ends = [end for run, each in known if (end := run.ends.get(each)) is not None]
    by_hand = next((end for end in ends if end.outcome == "cancelled"), None)
    if by_hand is None:
        return told
    place = "" if by_hand.error_at is None else f" at {RelativePath()(by_hand.error_at)}"
    return f"{told}: it ended with a CancelledError that was raised by hand{place}"


def _near(log: Log, task: str) -> str:
    """What *task* may have been meant for: a name that holds it, or that is spelled alike."""
    names = dict.fromkeys(case.name for case in log.cases())
    longer = [name for name in names if task.strip() and task.lower() in name.lower()]
    if not longer:
        return suggestion(task, islice((name for name in names if len(name) < 300), MOST_NAMES))
    shown = ", ".join(repr(name) for name in longer[:MOST_NEAR])
    more = len(longer) - MOST_NEAR
    return f"; there is {shown}" + (f" and {more:,} more" if more > 0 else "")


def _signalled(sent: Sent) -> dict[str, object]:
    """Who sent the signal that did it."""
    event = sent.event
    told = {
        "signal": event.signal,
        "to_run": None if sent.to is None else sent.to.id,
        "to_pid": None if sent.to is None else sent.to.pid,
        "run": sent.run.id,
        "pid": sent.run.pid,
        "relation": sent.relation,
        "because": sent.because,
        "source": event.source,
        "at": event.at,
        "library": event.library,
        "library_at": event.library_at,
        "ts": event.ts,
        "evidence": sent.evidence,
    }
    return {key: value for key, value in told.items() if value is not None}


def _write_json(log: Log, cases: Sequence[Case]) -> None:
    left = MOST_LINKS
    for case in cases:
        # Each task of a deep chain has all that is below it: of 100,000 that is 5,000,000,000.
        told = case.answer(None if left > 0 or len(cases) == 1 else FEW_LINKS)
        left -= len(told.chain)
        answer = msgspec.to_builtins(told)
        if housekeeping(case) is not None:
            answer["housekeeping"] = True
        if len(log.runs) > 1:
            answer["run"], answer["pid"] = case.run.id, case.run.pid
        parent = log.parent(case.run)
        if parent is not None:
            answer["parent_run"], answer["parent_pid"] = parent.run.id, parent.run.pid
            answer["parent_evidence"] = parent.evidence
        sent = sender_of(log, case)
        if sent is not None:
            answer["signalled"] = _signalled(sent)
        print_line(as_json(answer))
