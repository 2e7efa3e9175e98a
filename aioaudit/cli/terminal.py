"""Writing for people: consoles, clocks, paths, progress and complaints.

Everything that more than one subcommand needs to talk to a terminal.  rich is
imported where it is used: what is written for programs does not need it.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit import text
from aioaudit.log.sources import is_log
from aioaudit.text import escape_unprintable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from aioaudit.log.portions import Progress
    from aioaudit.log.store import EventSink, Log

MOST_PROBLEMS_SHOWN = 10
"""At most this many problems of a log are shown; the rest is counted."""

MOST_KINDS = 3
"""At most this many kinds of internal errors are shown of one run."""

PATIENCE = 1.0
"""Seconds that reading may take before a progress bar shows."""

WIDE = 100_000
"""Columns where no terminal is: nothing is wrapped or cut for a pipe."""


_encode = msgspec.json.Encoder().encode


class _Page:
    """Lines of so many columns that are kept instead of being written to stdout."""

    current: _Page | None = None

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[str] = []


@contextmanager
def page(width: int) -> Generator[list[str]]:
    """Has what is written within the block end in the list that it gives, without colour."""
    before = _Page.current
    _Page.current = page = _Page(width)
    try:
        yield page.lines
    finally:
        _Page.current = before


def console() -> Console:
    """A console for stdout: colour on a terminal only, and never under NO_COLOR."""
    from rich.console import Console

    onto = _Page.current
    terminal = onto is None and sys.stdout.isatty()
    plain = not terminal or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Console(
        # What is printed is captured and written by `print_line`: rich must not touch stdout, it ends
        # the process where nobody reads it.
        file=io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding or "utf-8"),
        force_terminal=terminal,
        color_system=None if plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
        width=None if terminal else WIDE if onto is None else onto.width,
    )


def write(console: Console, renderable: RenderableType) -> None:
    """Print *renderable* without the blanks that would fill up its lines."""
    with console.capture() as captured:
        console.print(renderable)
    for line in captured.get().splitlines():
        print_line(line.rstrip())


class OutputClosed(Exception):  # noqa: N818 - no error: whoever reads stdout has seen enough
    """Nobody reads stdout any more.

    Not a `BrokenPipeError`, which click would take for a failure.
    """


def print_line(line: str = "") -> None:
    """One line on stdout; what its encoding has no place for is escaped.

    Raises `OutputClosed` if nobody reads it.
    """
    encoding = sys.stdout.encoding
    if _Page.current is not None:
        _Page.current.lines.append(line)
        return
    try:
        sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    except BrokenPipeError:
        raise OutputClosed from None


def as_json(answer: Any) -> str:
    """*answer* as a line of JSON that is harmless on a terminal, and the same when parsed."""
    line = _encode(answer).decode("utf-8")
    if line.isprintable() and _fits(line):
        return line
    wrong = {each for each in set(line) if not (each.isprintable() and _fits(each))}
    return line.translate({ord(each): _escaped(each) for each in wrong})


def _fits(text: str) -> bool:
    """Whether stdout's encoding has a place for *text*."""
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(
        f"\\u{int.from_bytes(units[at : at + 2], 'big'):04x}" for at in range(0, len(units), 2)
    )


def say(message: str) -> None:
    """One line on stderr, in which nothing of *message* is left out."""
    text.say(escape_unprintable(message))


def report_problems(log: EventSink) -> None:
    """Say on stderr what of *log* could not be read, at most ten times, then how much more."""
    for problem in problems(log):
        say(problem)


def problems(log: EventSink) -> Generator[str]:
    """What of *log* could not be read, at most ten times, then how much more; a line each.

    After that, of at most ten runs each, what was there twice and whose times do not compare.
    """
    shown = log.problems[:MOST_PROBLEMS_SHOWN]
    for problem in shown:
        yield f"{problem}{'; skipped' if problem.skipped else ''}"
    rest = log.damaged - sum(problem.skipped for problem in shown)
    if rest:
        yield f"{rest:,} more damaged {plural('line', rest)} skipped"
    for run, count in islice(log.repeats.items(), MOST_PROBLEMS_SHOWN):
        yield (
            f"{count:,} {plural('event', count)} of run {run} came more than once: "
            f"{'it is' if count == 1 else 'each is'} counted once"
        )
    for run, (before, after) in islice(log.set_back.items(), MOST_PROBLEMS_SHOWN):
        yield (
            f"the clock of run {run} was set back from {clock(before, date=True)} to "
            f"{clock(after, date=True)} UTC: times before and after that do not compare"
        )


def report_gaps(log: Log, what: str) -> None:
    """Say on stderr which runs lack events, or may: `gaps`."""
    for gap in gaps(log, what):
        say(gap)


def gaps(log: Log, what: str) -> Generator[str]:
    """Which runs of *log* lack events, or may, as the log itself tells; a sentence each.

    *what* may be among what is lost.  What is not there cannot be answered from: a chain
    may end early, a task be missing.
    """
    incomplete = [run for run in log.runs.values() if run.dropped or run.faults]
    for run in incomplete[:MOST_PROBLEMS_SHOWN]:
        if run.dropped:
            lost = f"{run.dropped:,} {plural('event', run.dropped)}"
            yield f"run {run.id} lost {lost}: {what} may be among them"
        if run.faults:
            shown = "; ".join(list(run.faults)[:MOST_KINDS])
            rest = len(run.faults) - MOST_KINDS
            yield (
                f"run {run.id} (pid {run.pid}) may lack events: internal errors of aioaudit:"
                f" {shown}" + (f"; {rest} more" if rest > 0 else "")
            )
    rest = len(incomplete) - MOST_PROBLEMS_SHOWN
    if rest > 0:
        yield f"{rest:,} more {plural('run', rest)} may lack events"


def counted(log: EventSink) -> str:
    """How many events are in *log*, in words."""
    events = log.events - sum(log.repeats.values())
    return f"{events:,} {plural('event', events)}"


def named(logs: Sequence[str]) -> str:
    """What *logs* on the command line are called in a sentence."""
    return ", ".join("standard input" if log == "-" else log for log in logs)


def is_one_of(log: str, file: Path) -> bool:
    """Whether *file* is the *log*, or one of those in it."""
    if log == "-" or not file.exists() or not Path(log).exists():
        return False
    return file.samefile(log) or (Path(log).is_dir() and is_log(file) and file.parent.samefile(log))


def plural(noun: str, count: int) -> str:
    """*noun* as it is said of *count* things."""
    return noun if count == 1 else f"{noun}s"


class RelativePath:
    """Paths as seen from the working directory, where they are inside of it."""

    def __init__(self) -> None:
        try:
            inside = str(Path.cwd() / "_")[:-1]
        except OSError:  # the working directory was removed: no path is inside of it
            inside = "\0"
        self._inside = re.compile(rf"(?<![^\s(]){re.escape(inside)}")

    def __call__(self, place: str) -> str:
        """*place*, a ``path:line`` or words with some in them, with paths relative if that is shorter."""
        return self._inside.sub("", place)


def moment(ts: str) -> datetime | None:
    """The time that *ts* (RFC 3339) says, None where it says none."""
    try:
        return datetime.fromisoformat(ts)
    except ValueError:
        return None


def clock(ts: str, *, date: bool = False) -> str:
    """``14:02:11.873`` of *ts*, with the date before it on demand; UTC like the log."""
    when = moment(ts)
    if when is None:
        return escape_unprintable(ts) or "?"
    text = f"{when:%H:%M:%S}.{when.microsecond // 1000:03d}"
    return f"{when:%Y-%m-%d} {text}" if date else text


def since(start: str, ts: str) -> str:
    """``+0.2 ms``: how much later than *start* is *ts*."""
    begin, end = moment(start), moment(ts)
    if begin is None or end is None or (begin.tzinfo is None) != (end.tzinfo is None):
        return "?"
    return span((end - begin).total_seconds())


def span(seconds: float) -> str:
    """``+0.2 ms`` or ``+2.001 s``, with its sign."""
    return f"{seconds * 1000:+.1f} ms" if abs(seconds) < 1 else f"{seconds:+.3f} s"


@contextmanager
def progress() -> Generator[Progress | None]:
    """What tells a progress bar on stderr how far reading is; it shows after a second.

    Gives None where no bar could be shown: stderr is no terminal, or rich is
    not there.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn
        from rich.progress import Progress as Bar
    except ImportError:
        yield None
        return
    plain = bool(os.environ.get("NO_COLOR"))
    bar = Bar(
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(),
        console=Console(stderr=True, color_system=None if plain else "auto"),
        transient=True,
    )
    task = bar.add_task("reading", total=None)
    started = time.monotonic()

    def report(done: int, total: int | None) -> None:
        if not bar.live.is_started and time.monotonic() - started > PATIENCE:
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        bar.stop()
