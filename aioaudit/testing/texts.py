"""Private. What a test's report says: chains of cancellations, findings, tasks that wait.

Plain text, at most `WIDTH` columns wide where words allow it.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from aioaudit.chain import summary
from aioaudit.chain.links import Answer, Link
from aioaudit.findings.catalogue import CATALOGUE
from aioaudit.findings.words import particulars, sentence
from aioaudit.text import escape_unprintable

if TYPE_CHECKING:
    from aioaudit.events import Finding

WIDTH = 80
"""Columns."""

MOST_CHAINS = 5
"""Of so many CancelledErrors of one report the chain is shown; more are counted."""

MOST_STEPS = 12
"""Of a longer chain only the two ends are shown."""

MOST_ERRORS = 1_000
"""So many errors of a group, and of what led to them, are looked at."""

_ANYIO = "anyio._backends._asyncio:TestRunner."

_RUNNERS = ("pytest_asyncio.", "anyio.pytest_plugin:", _ANYIO)
"""How the names of coroutines begin in which others run tests and fixtures."""

_RUNS_ALL = f"{_ANYIO}_run_tests_and_fixtures"
"""The one whose task runs all tests of a loop."""

_DEEPEST = 6
"""From this step on a chain moves no further to the right."""

Show = Callable[[str], str]


def relative_to(folder: str | os.PathLike[str]) -> Show:
    """What shortens each path inside of *folder*, of installed packages and of Python's library.

    What is left is the same on each machine.  It may stand in a sentence.
    """
    installed = [each for each in sys.path if each.endswith(("site-packages", "dist-packages"))]
    paths = sysconfig.get_paths()
    found = {os.fspath(folder), *installed, paths["stdlib"], paths["platstdlib"]}
    inside = {os.path.join(each, "") for each in found}  # noqa: PTH118 - it is to end with a separator
    # The longest first: packages may be inside of the project, and of Python's library.
    prefixes = sorted((each for each in inside if len(each) > 1), key=len, reverse=True)
    begins = re.compile(rf"(?<![^\s(\"'=])(?:{'|'.join(map(re.escape, prefixes))})")

    def show(text: str) -> str:
        return begins.sub("", text)

    return show


def runs_others(coro: str) -> bool:
    """Whether *coro* runs others' tests and fixtures; its task may well outlive a test."""
    return coro.startswith(_RUNNERS)


def wrapped(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """*text* in lines that begin with *first*, from the second one on with *rest*."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first) if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


# -- cancellations -------------------------------------------------------------------------


def errors_of(error: BaseException) -> Iterator[BaseException]:
    """*error*, those that it groups, and what led to each of them; each once."""
    left, seen = [error], set[int]()
    while left and len(seen) < MOST_ERRORS:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        led = [each.__context__, each.__cause__]
        if isinstance(each, BaseExceptionGroup):
            led += reversed(cast("BaseExceptionGroup[BaseException]", each).exceptions)
        left += [one for one in led if one is not None]


def why_text(
    error: BaseException, why: Callable[[BaseException], Answer | None], show: Show
) -> str | None:
    """The chain of each CancelledError that *error* is, groups or came from; None where none has."""
    texts: dict[str, None] = {}
    for each in errors_of(error):
        answer = why(each)
        if answer is not None:
            texts.setdefault("\n".join(chain_lines(answer, show)))
    if not texts:
        return None
    shown = list(texts)[:MOST_CHAINS]
    if len(texts) > MOST_CHAINS:
        shown.append(f"and {len(texts) - MOST_CHAINS:,} more")
    return "\n\n".join(shown)


def chain_lines(answer: Answer, show: Show) -> list[str]:
    """What ``aioaudit why`` says: one sentence, then the chain from its root cause to the task."""
    lines = wrapped(show(answer.summary.removesuffix("; its end is not recorded")))
    lines += _runs_all(answer.name, answer.coro, "  ")
    steps = [_step(link, show, first=link is answer.chain[0]) for link in answer.chain[-2::-1]]
    left_out = len(steps) - MOST_STEPS
    if left_out > 0:
        half = MOST_STEPS // 2
        steps[half : half + left_out] = [f"{left_out:,} more steps"]
    known = summary.is_known(answer.root)
    root = summary.cause(answer.root, show) if known else summary.unknown(answer.root, show)
    lines += wrapped(f"{'root cause' if known else 'root cause unknown'}: {root}", "  ", "    ")
    for depth, step in enumerate(steps):
        indent = "    " * min(depth, _DEEPEST)
        lines += wrapped(step, f"  {indent}└── ")
    return lines


def _runs_all(name: str, coro: str, indent: str) -> list[str]:
    """What a reader who does not know *coro* wants to know of it."""
    if coro != _RUNS_ALL:
        return []
    return wrapped(
        escape_unprintable(f"{name} is the task in which anyio's plugin runs tests"), indent
    )


def _step(link: Link, show: Show, *, first: bool) -> str:
    """What *link* says; *first* is that of the task itself."""
    if link.what != "cancelled":
        return summary.cause(link, show)
    name = link.name or ("it" if first else "a future")
    text = f"{name} was cancelled"
    if link.reason is not None:
        text += f", reason {link.reason}"
    if link.at is not None:
        text += f", at {show(link.at)}"
    if link.source is not None:
        text += f" in {link.source}"
    if link.by_name is not None:
        text += f", by {'thread' if link.reason == 'thread' else 'task'} {link.by_name}"
    if link.library is not None:
        text += f", through {summary.library(link.library, link.library_at)}"
    if link.detail is not None:
        text += f" ({link.detail})"
    return escape_unprintable(text)


# -- findings --------------------------------------------------------------------------------


def finding_lines(finding: Finding, show: Show, made_in: str | None) -> list[str]:
    """What was found, its particulars and what to do; *made_in* is the test that made the task."""
    lines = wrapped(f"{finding.kind}: {sentence(finding, show)}")
    lines += _runs_all(finding.name, finding.coro, "    ")
    for each in particulars(finding, show):
        lines += wrapped(each, "    ")
    if made_in is not None:
        lines += wrapped(f"its task was made in {made_in}", "    ")
    kind = CATALOGUE.get(finding.kind)
    if kind is not None:
        lines += wrapped(kind.remedy, "    ")
    return lines


# -- tasks that wait ---------------------------------------------------------------------------


def task_line(name: str, coro: str, made_at: str | None, at: str | None, show: Show) -> str:
    """Which task it is, where it was made and where it waits."""
    text = summary.who(name, coro)
    if made_at is not None:
        text += f", made at {show(made_at)}"
    return escape_unprintable(
        text + (", is not suspended" if at is None else f", waits at {show(at)}")
    )


def waiting_lines(
    tasks: list[tuple[Any, ...]], show: Show, why: Callable[[Any], Answer | None]
) -> list[str]:
    """What each of *tasks* was waiting for: ``(task, name, coro, made_at, waits_at)``."""
    lines: list[str] = []
    for task, name, coro, made_at, at in tasks:
        lines += wrapped(task_line(name, coro, made_at, at, show), "", "    ")
        answer = why(task)
        if answer is not None and answer.outcome == "pending":
            lines += wrapped(f"it was asked to cancel: {summary.cause(answer.root, show)}", "    ")
    return lines
