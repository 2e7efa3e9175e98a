"""Cancel a coroutine at each point where it waits, and see what comes of it.

`cancel_everywhere` runs a coroutine once as it is, once for each of its suspension points,
cancelled there, and once more for each point that it comes to after that, cancelled there again.
What is wrong afterwards is found without a word of the user's: see `Coverage.faults`.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import msgspec

from aioaudit.cpython.loops import running_loop
from aioaudit.cpython.tasks import all_tasks, current_task
from aioaudit.errors import AioauditError
from aioaudit.session import recording
from aioaudit.testing.driving import (
    CHECK,
    KINDS,
    REPLACED,
    TEARDOWN,
    Driver,
    Options,
    Run,
    put_down,
)
from aioaudit.testing.points import Case, Point, Way, await_lines, case_of
from aioaudit.text import describe

__all__ = [
    "BaselineError",
    "Coverage",
    "Fault",
    "IncompleteError",
    "UnsafeError",
    "cancel_everywhere",
    "cancel_everywhere_async",
]

Made: TypeAlias = (
    Coroutine[Any, Any, Any]
    | AbstractAsyncContextManager[Any, Any]
    | AbstractContextManager[Any, Any]
)

T = TypeVar("T")

ARGUMENTS = (
    *("check", "patience", "limit", "tries", "cleanup", "children", "endless"),
    *("may_differ", "ignore", "only"),
)
"""What the mark takes of what `cancel_everywhere` does."""

_MOST_SHOWN = 3
_MOST_NAMES = 20


class BaselineError(AioauditError, AssertionError):
    """The coroutine fails already where nobody cancels it."""


class UnsafeError(AioauditError, AssertionError):
    """A cancellation at some point went wrong: *text* is the report of *coverage*."""

    def __init__(self, text: str, coverage: Coverage) -> None:
        super().__init__(text)
        self.coverage = coverage


class IncompleteError(AioauditError, AssertionError):
    """Nothing went wrong, but not all could be tried: *text* is the report of *coverage*."""

    def __init__(self, text: str, coverage: Coverage) -> None:
        super().__init__(text)
        self.coverage = coverage


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that went wrong in one case.

    Attributes:
        case: The case, as ``only=`` takes it: ``fetch:12#2`` or ``fetch:12#2+1``.
        kind: What went wrong, in one word.
        at: The ``path:line`` that broke it, None where it is not known.
        text: A sentence.
        cancelled_at: The ``path:line`` of the await that was cancelled.
        again_at: That of the one in the clean-up, None where it was cancelled once.
        inner: Where it waited there, in the innermost function.
    """

    case: str
    kind: str
    at: str | None
    text: str
    cancelled_at: str
    again_at: str | None
    inner: str


class Coverage(msgspec.Struct, kw_only=True):
    """How much was tried, and what came of it.

    Attributes:
        function: The coroutine's name.
        runs: How many runs there were, with the one that nobody cancelled.
        points: The suspension points of the coroutine: ``fetch:12#2`` is the second visit of
            line 12 of ``fetch``.
        covered: Those at which it was cancelled.
        again: The cases of a second cancel, in the clean-up, that were to be tried.
        covered_again: Those that were.
        skipped: How many of them were not, since the first cancel had gone wrong already.
        missing: What could not be tried, and why, by case.
        differing: Cases that were not tried, where runs may differ.
        never_waited: ``path:line`` of each await at which no run was ever suspended.
        faults: What went wrong, in the order in which it was found.
        ignored: How many faults of kinds that were to be ignored.
    """

    function: str = ""
    runs: int = 0
    points: list[str] = []
    covered: list[str] = []
    again: list[str] = []
    covered_again: list[str] = []
    skipped: int = 0
    missing: dict[str, str] = {}
    differing: list[str] = []
    never_waited: list[str] = []
    faults: list[Fault] = []
    ignored: int = 0

    def __str__(self) -> str:
        return _here("\n".join(self._lines()))

    def _lines(self) -> Generator[str, None, None]:
        bad = len({fault.case for fault in self.faults})
        cases = len(self.covered) + len(self.covered_again)
        if bad:
            yield f"cancel_everywhere({self.function}): {bad} of {_count(cases, 'case')} went wrong"
        elif self.missing:
            yield f"cancel_everywhere({self.function}): coverage is incomplete"
        else:
            yield f"cancel_everywhere({self.function}): all of {_count(cases, 'case')} went well"
        yield from self._told()
        if self.faults:
            case = self.faults[0].case
            yield f'  One case alone: only="{case}", or pytest --aioaudit-case="{case}"'
        if self.missing:
            yield "  not tried:"
            reasons: dict[str, list[str]] = {}
            for case, why in self.missing.items():
                reasons.setdefault(why, []).append(case)
            for why, names in reasons.items():
                yield f"    {_some(names)}: {why}" if any(names) else f"    {why}"
        yield (
            f"  covered: {len(self.covered)} of {_count(len(self.points), 'suspension point')}, and"
            f" {len(self.covered_again)} of {len(self.again)} in the clean-up,"
            f" in {_count(self.runs, 'run')}"
        )
        if self.skipped:
            yield f"  {self.skipped} in the clean-up of cases that went wrong are left out"
        if self.differing:
            yield f"  visits that only some runs make: {_some(self.differing)}"
        if self.ignored:
            yield f"  ignored: {_count(self.ignored, 'fault')}"
        if self.never_waited:
            yield f"  awaits at which it never waited: {', '.join(self.never_waited)}"

    def _told(self) -> Generator[str, None, None]:
        groups: dict[tuple[str, str], list[Fault]] = {}
        for fault in self.faults:  # no two runs have the same names of tasks
            groups.setdefault((fault.kind, fault.at or fault.text), []).append(fault)
        for (kind, _), faults in groups.items():
            yield f"  {kind}: {faults[0].text}"
            for fault in faults[:_MOST_SHOWN]:
                yield f"    {_where(fault)}"
            if len(faults) > _MOST_SHOWN:
                more = [fault.case for fault in faults[_MOST_SHOWN:]]
                yield f"    and in {_count(len(more), 'case')} more: {_some(more)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")


def _where(fault: Fault) -> str:
    text = f"{fault.case}: cancelled at {fault.cancelled_at}"
    if fault.again_at is not None:
        text += f", and again at {fault.again_at}"
    return (
        text if fault.inner in (fault.cancelled_at, fault.again_at) else f"{text} ({fault.inner})"
    )


def _here(text: str) -> str:
    """*text* with paths as they are from the working directory."""
    try:
        return text.replace(f"{Path.cwd()}{os.sep}", "")
    except OSError:  # the working directory was removed
        return text


class Plan:
    """Which runs are to be made, decided as they are made: give each to `feed`."""

    def __init__(
        self,
        *,
        limit: int,
        tries: int,
        cleanup: bool,
        endless: bool,
        may_differ: bool,
        ignore: frozenset[str],
        only: Case | None,
    ) -> None:
        self.coverage = Coverage()
        self._limit = limit
        self._tries = tries
        self._cleanup = cleanup
        self._endless = endless
        self._may_differ = may_differ
        self._ignore = ignore
        self._only = only
        self._queue: deque[Case] = deque()
        self._tried: dict[Case, int] = {}
        self._codes: dict[Any, set[int]] = {}
        self._names: list[str] = []
        """The points of the run that nobody cancelled."""
        self._ways: dict[str, Way] = {}
        self._covered_ways: set[tuple[bool, Way]] = set()
        self._elsewhere: set[Case] = set()
        """Cases that were tried, but at another place than the one that has given them their name."""

    def cases(self) -> Iterator[Case | None]:
        """The case of each run, None for the one that nobody cancels; `feed` is called between."""
        yield None
        while self._queue:
            if self._queue[0] in self._elsewhere and self._is_covered(self._queue[0]):
                self._queue.popleft()
                continue
            if self.coverage.runs >= self._limit:
                why = f"the limit of {_count(self._limit, 'run')} was reached"
                left = [case for case in self._queue if case not in self._elsewhere]
                self.coverage.missing.update((str(case), why) for case in left)
                return
            yield self._queue[0]

    def feed(self, run: Run) -> None:
        """Take in what a run of the last one of `cases` showed.

        Raises:
            BaselineError: nobody cancelled it, and it failed.
        """
        coverage = self.coverage
        coverage.runs += 1
        for code, lines in run.codes.items():
            self._codes.setdefault(code, set()).update(lines)
        if run.case is None:
            self._begin(run)
            return
        case = self._queue.popleft()
        self._add(run.points)
        if not run.reached:
            tried = self._again_later(case)
            if tried and case not in self._elsewhere:
                coverage.missing[str(case)] = self._why_not(run, case, tried)
            return
        last = run.asked_again or run.asked
        assert last is not None
        self._covered_ways.add((case.again > 0, last.spot.way))
        repeated = case in self._elsewhere
        if not repeated:
            (coverage.covered_again if case.again else coverage.covered).append(str(case))
        failed = self._judge(run, case)
        if not failed and not self._is_covered(case):
            self._elsewhere.add(case)
            self._again_later(case)
        if repeated:
            return
        if case.again or not self._cleanup or self._only is not None:
            return
        if failed:
            coverage.skipped += len(run.after)
            return
        for number, point in enumerate(run.after, 1):
            again = Case(case.point, number)
            self._ways[str(again)] = point.spot.way
            coverage.again.append(str(again))
            self._queue.append(again)

    def _again_later(self, case: Case) -> int:
        """Put *case* last, or tell how often it was tried where that was often enough."""
        tried = self._tried[case] = self._tried.get(case, 0) + 1
        if tried < self._tries:
            self._queue.append(case)
            return 0
        return tried

    def _is_covered(self, case: Case) -> bool:
        """Whether it was cancelled at the very place that has given *case* its name."""
        way = self._ways.get(str(case))
        return way is None or (case.again > 0, way) in self._covered_ways

    def _why_not(self, run: Run, case: Case, tried: int) -> str:
        why = f"{_count(tried, 'run')} did not come there"
        if self._only is not None and case.point not in self._names:
            return f"{why}: the points are {_some(self._names) or 'none'}"
        why += ": runs differ"
        if run.error is not None:
            why += f" (the last one ended with {describe(run.error)})"
        return why

    def _begin(self, run: Run) -> None:
        coverage = self.coverage
        self._names = [point.name for point in run.points]
        coverage.function = run.function
        if run.outcome in ("cancelled", "raised"):
            error = run.error
            what = "CancelledError" if error is None else describe(error)
            raise BaselineError(
                f"cancel_everywhere({run.function}): it fails already where nobody cancels it,"
                f" with {what}"
            ) from error
        kinds = (CHECK, TEARDOWN, REPLACED)  # the last: a task was to end the program
        failed = next((each for each in run.troubles if each.kind in kinds), None)
        if failed is not None:
            raise BaselineError(
                _here(f"cancel_everywhere({run.function}): where nobody cancels it, {failed.text}")
            )
        if run.outcome == "stuck" and run.stuck_at is not None and not self._endless:
            coverage.missing[""] = (
                f"it does not end by itself: it waits at {run.stuck_at.at} for what does not come"
                " (endless=True, if that is meant)"
            )
        if run.overrun:
            coverage.missing[""] = (
                f"it does not end by itself: it was suspended more than {self._limit} times, and"
                " that is the limit"
            )
        if self._only is not None:
            coverage.points.append(self._only.point)
            if self._only.again:
                coverage.again.append(str(self._only))
            self._queue.append(self._only)
            return
        self._add(run.points)
        if not run.points:
            coverage.missing[""] = "it was never suspended: there is nothing to cancel"

    def _add(self, points: list[Point]) -> None:
        if self._only is not None:
            return
        known = set(self.coverage.points)
        for point in points:
            if point.name not in known:
                self.coverage.points.append(point.name)
                self._ways[point.name] = point.spot.way
                self._queue.append(Case(point.name))

    def _judge(self, run: Run, case: Case) -> bool:
        assert run.asked is not None
        failed = False
        for each in run.troubles:
            if each.kind in self._ignore:
                self.coverage.ignored += 1
                continue
            failed = True
            last = run.asked_again or run.asked
            self.coverage.faults.append(
                Fault(
                    case=str(case),
                    kind=each.kind,
                    at=each.at,
                    text=each.text,
                    cancelled_at=run.asked.spot.at,
                    again_at=None if run.asked_again is None else run.asked_again.spot.at,
                    inner=last.spot.inner,
                )
            )
        return failed

    def result(self) -> Coverage:
        """What came of it all.

        Raises:
            UnsafeError: something went wrong.
            IncompleteError: nothing did, but not all was tried.
        """
        coverage = self.coverage
        for case in self._elsewhere:
            if not self._is_covered(case):
                name = str(case)
                (coverage.covered_again if case.again else coverage.covered).remove(name)
                coverage.missing[name] = "it waited at another place there: runs differ"
        if self._may_differ:
            for case in self._tried:
                tried = str(case) in self._ways and self._is_covered(case)
                if tried and coverage.missing.pop(str(case), None) is not None:
                    coverage.differing.append(str(case))
        found: list[tuple[str, int]] = []
        for code, lines in self._codes.items():
            found += [(code.co_filename, line) for line in await_lines(code) - lines]
        coverage.never_waited = [f"{path}:{line}" for path, line in sorted(set(found))]
        if coverage.faults:
            raise UnsafeError(str(coverage), coverage)
        if coverage.missing:
            raise IncompleteError(str(coverage), coverage)
        return coverage


def cancel_everywhere(
    make_coroutine: Callable[[], Made],
    *,
    check: Callable[[], Any] | None = None,
    patience: float = 5.0,
    limit: int = 1000,
    tries: int = 5,
    cleanup: bool = True,
    children: bool = True,
    endless: bool = False,
    may_differ: bool = False,
    ignore: Iterable[str] = (),
    only: str | None = None,
    loop_factory: Callable[[], AbstractEventLoop] | None = None,
) -> Coverage:
    """Run a coroutine again and again, each time cancelled at another point where it waits.

    The first run is not cancelled.  Each further one is cancelled at one suspension point: as
    soon as the task is suspended there, before the loop does anything else.  What it awaits in
    its clean-up are points of their own, at which it is cancelled for a second time.  A case has
    gone wrong where the task returns, fails or does not end instead of being cancelled, where
    auditing finds something (`aioaudit check`), and where tasks or asynchronous generators are
    left that are not left without a cancellation.

    Args:
        make_coroutine: Makes what is run, anew for each run: an async function without arguments,
            or a function that returns a coroutine or a context manager (sync or async) that gives
            one.  What such a manager sets up and takes down is not cancelled.
        check: Called after each run, in its loop, before such a manager takes down; may be
            async.  What it raises is a fault.
        patience: Seconds that the task may take to end once it is cancelled, and that a run
            which is not yet cancelled may wait for one thing.
        limit: At most this many runs.
        tries: How often a point is tried that a run does not come to.
        cleanup: Whether it is cancelled again in its clean-up.
        children: Whether the moments at which a task that it has made is suspended are points,
            too. It is the coroutine's own task that is cancelled then.
        endless: Whether it is meant to wait for ever in the end, as a worker does.
        may_differ: Whether a visit may be missing that only some runs make, where another visit
            of the very same place has been tried: what comes over a network comes in one piece
            or in two.
        ignore: Kinds of faults that are none here.
        only: One case, as a report names it: that alone is run, after the run without.
        loop_factory: Makes the loop of each run; `asyncio.new_event_loop` by default.

    Returns:
        What was covered: it prints as the report.

    Raises:
        UnsafeError: something went wrong; an `AssertionError`, whose text is the report.
        IncompleteError: nothing did, but not everything could be tried.
        BaselineError: it fails without being cancelled.
        RuntimeError: a loop runs in this thread: await `cancel_everywhere_async` there.
        ValueError: a kind, a case or a number means nothing.
        TypeError: an argument is of a type that no value of it has, or *make_coroutine* makes
            no coroutine.
    """
    driver, plan = prepare(
        make_coroutine,
        shared=False,
        check=check,
        patience=patience,
        limit=limit,
        tries=tries,
        cleanup=cleanup,
        children=children,
        endless=endless,
        may_differ=may_differ,
        ignore=ignore,
        only=only,
    )
    factory = asyncio.new_event_loop if loop_factory is None else loop_factory
    if not callable(factory):
        raise TypeError(f"loop_factory is to make a loop, not a {type(factory).__qualname__}")
    if running_loop() is not None:
        raise RuntimeError(
            "a loop runs in this thread: use `await cancel_everywhere_async(...)` there"
        )
    with recording() as trail:
        driver.hear(trail)
        for case in plan.cases():
            plan.feed(in_a_loop(factory, partial(_run, driver, case), patience))
    return plan.result()


async def cancel_everywhere_async(
    make_coroutine: Callable[[], Made],
    *,
    check: Callable[[], Any] | None = None,
    patience: float = 5.0,
    limit: int = 1000,
    tries: int = 5,
    cleanup: bool = True,
    children: bool = True,
    endless: bool = False,
    may_differ: bool = False,
    ignore: Iterable[str] = (),
    only: str | None = None,
) -> Coverage:
    """The same as `cancel_everywhere`, in the loop that is running.

    The runs follow each other, each in a task of its own.  Other tasks of the loop are left
    alone: of those that are left behind only the ones count that the coroutine has made, or a task
    that came of it.

    Args:
        make_coroutine: As there, and so are *check*, *patience*, *limit*, *tries*, *cleanup*,
            *children*, *endless*, *may_differ*, *ignore* and *only*.

    Returns:
        What was covered: it prints as the report.

    Raises:
        UnsafeError: something went wrong.
        IncompleteError: nothing did, but not everything could be tried.
        BaselineError: it fails without being cancelled.
        RuntimeError: another one is under way in this loop.
        ValueError: a kind, a case or a number means nothing.
        TypeError: an argument is of a type that no value of it has, or *make_coroutine* makes
            no coroutine.
    """
    driver, plan = prepare(
        make_coroutine,
        shared=True,
        check=check,
        patience=patience,
        limit=limit,
        tries=tries,
        cleanup=cleanup,
        children=children,
        endless=endless,
        may_differ=may_differ,
        ignore=ignore,
        only=only,
    )
    with recording() as trail:
        driver.hear(trail)
        for case in plan.cases():
            plan.feed(await _run(driver, case))
    return plan.result()


def prepare(
    make_coroutine: Callable[[], Any],
    *,
    shared: bool,
    check: Callable[[], Any] | None = None,
    patience: float = 5.0,
    limit: int = 1000,
    tries: int = 5,
    cleanup: bool = True,
    children: bool = True,
    endless: bool = False,
    may_differ: bool = False,
    ignore: Iterable[str] = (),
    only: str | None = None,
) -> tuple[Driver, Plan]:
    """What makes the runs, and what says which; *shared* says that the loop is others', too.

    Raises:
        ValueError: as `cancel_everywhere`.
        TypeError: as there.
    """
    if asyncio.iscoroutine(make_coroutine):
        make_coroutine.close()
        raise TypeError(
            "make_coroutine is to be a function, which is called anew for each run, and not the"
            " coroutine that it makes"
        )
    if not callable(make_coroutine):
        what = type(make_coroutine).__qualname__
        raise TypeError(f"make_coroutine is to be a function, not a {what}")
    if check is not None and not callable(check):
        raise TypeError(f"check is to be a function, not a {type(check).__qualname__}")
    words: dict[str, object] = {
        "cleanup": cleanup,
        "children": children,
        "endless": endless,
        "may_differ": may_differ,
    }
    for name, value in words.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} is to be True or False, not a {type(value).__qualname__}")
    _number("patience", patience, float)
    _number("limit", limit, int)
    _number("tries", tries, int)
    driver = Driver(make_coroutine, Options(check, patience, limit, children, shared))
    plan = Plan(
        limit=limit,
        tries=tries,
        cleanup=cleanup,
        endless=endless,
        may_differ=may_differ,
        ignore=_kinds(ignore),
        only=None if only is None else case_of(only),
    )
    return driver, plan


def _number(name: str, value: object, kind: type) -> None:
    allowed = "a whole number" if kind is int else "a number of seconds"
    kinds = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{name} is to be {allowed}, not a {type(value).__qualname__}")
    if not 0 < cast(float, value) < float("inf"):
        raise ValueError(f"{name} is to be {allowed} above 0, not {value!r}")


def _kinds(ignore: object) -> frozenset[str]:
    if not isinstance(ignore, Iterable):
        raise TypeError(f"ignore is to be a list of kinds, not a {type(ignore).__qualname__}")
    given = [ignore] if isinstance(ignore, str) else list(cast("Iterable[str]", ignore))
    unknown = sorted(str(kind) for kind in given if kind not in list(KINDS))
    if unknown:
        raise ValueError(
            f"ignore: no fault is called {', '.join(map(repr, unknown))}; there are"
            f" {', '.join(sorted(KINDS))}"
        )
    return frozenset(given)


async def _run(driver: Driver, case: Case | None) -> Run:
    try:
        return await driver.run(case)
    except BaseException as error:
        if case is not None:
            error.add_note(f"cancel_everywhere: in the run of the case {case}")
        raise


def in_a_loop(
    factory: Callable[[], AbstractEventLoop],
    make: Callable[[], Coroutine[Any, Any, T]],
    patience: float,
) -> T:
    """Run what *make* makes in a loop of its own.

    `asyncio.Runner` would wait for ever for a task that does not end.
    """
    loop: Any = factory()
    if not isinstance(loop, AbstractEventLoop):
        raise TypeError(f"loop_factory made a {type(loop).__qualname__}, which is no loop")
    try:
        return _complete(loop, make())
    finally:
        try:
            _complete(loop, _end(loop, patience))
        finally:
            loop.close()


def _complete(loop: AbstractEventLoop, coro: Coroutine[Any, Any, T]) -> T:
    """Run *coro* to its end, whichever task of *loop* that is left behind calls ``sys.exit()``."""
    task = loop.create_task(coro)
    while True:
        try:
            return loop.run_until_complete(task)
        except SystemExit:
            if task.done():
                raise


async def _end(loop: AbstractEventLoop, patience: float) -> None:
    """End what is left in *loop*, as far as it lets itself be ended."""
    me = current_task()
    await put_down([task for task in all_tasks(loop) if task is not me])
    for end in (loop.shutdown_asyncgens, loop.shutdown_default_executor):
        task = asyncio.ensure_future(end())
        await asyncio.wait({task}, timeout=patience)
        await put_down([task])
