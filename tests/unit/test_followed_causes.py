"""Causes that can be known are followed: what had failed, ended, come or run out before somebody called."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import pytest

import aioaudit
from aioaudit import session
from aioaudit.events import TaskCancel
from aioaudit.state import handoffs
from tests.loops import every_loop

Run = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    aioaudit.disable()


def here(label: str) -> str:
    """``path:line`` of this file's line that ends in the comment *label*."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [number for number, each in enumerate(lines, 1) if each.endswith(f"# {label}")]
    return f"{__file__}:{number}"


class Told(NamedTuple):
    """All that an answer says of why."""

    what: str
    at: str | None
    reason: str
    """Of the request to the task itself."""
    evidence: str
    summary: str


def told(trail: Any, name: str) -> Told:
    """What *trail* answers for the task *name*."""
    answer = trail.why(name)
    assert answer is not None
    requests = [each for each in trail.events if isinstance(each, TaskCancel) and each.name == name]
    (request,) = [each for each in requests if each.accepted]
    root = answer.root
    assert answer.chain[0].at == request.at
    return Told(root.what, root.at, request.reason, request.evidence, answer.summary)


def function(of: Callable[..., Any]) -> str:
    return f"{of.__module__}:{of.__qualname__}"


async def waits() -> None:
    await asyncio.sleep(60)


async def fails() -> None:
    await asyncio.sleep(0.01)
    raise RuntimeError("boom")  # FAILS


async def returns() -> None:
    await asyncio.sleep(0.01)


async def runs_out() -> None:
    async with asyncio.timeout(0.01):  # RUNS OUT
        await asyncio.sleep(60)


def task(coro: Any, name: str) -> asyncio.Task[Any]:
    return asyncio.create_task(coro, name=name)


async def ended(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


# -- asyncio.wait() that came back with what had failed --------------------------------------

ends_are_seen = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="uvloop shows no queue, and 3.11 no ends"
)
SEEN = [
    pytest.param(each.values[0], id=each.id, marks=(*each.marks, ends_are_seen))
    if each.id == "uvloop"
    else each
    for each in every_loop.args[1]
]
where_ends_are_seen = pytest.mark.parametrize("run", SEEN)


def end_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for each in tasks:
        each.cancel()  # END ALL


async def supervise(first: Any, when: str, *names: str) -> None:
    tasks = [task(first, "first"), *(task(waits(), name) for name in names)]
    _, pending = await asyncio.wait(tasks, return_when=when)
    end_all(pending)
    await ended(*tasks)


CALLED = Told(
    "called",
    here("END ALL"),
    "explicit",
    "observed",
    f"waits (job) was cancelled because {function(end_all)} called cancel() at "
    f"{here('END ALL')} in task main",
)


@where_ends_are_seen
@pytest.mark.parametrize("when", [asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION])
def test_who_waited_for_what_failed_cancels_the_others_because_of_that(run: Run, when: str) -> None:
    async def main() -> None:
        asyncio.current_task().set_name("main")  # type: ignore[union-attr]  # one runs
        for number in range(5):  # a line that is well known
            await supervise(returns(), asyncio.FIRST_COMPLETED, f"well {number}")
        await supervise(fails(), when, "job", "job too")
        await supervise(runs_out(), when, "in time")
        await supervise(returns(), asyncio.FIRST_COMPLETED, "afterwards")

    with aioaudit.recording() as trail:
        run(main())
        found = {name: told(trail, name) for name in ("job", "job too", "in time", "afterwards")}
        own = trail.why("job").chain[0]  # type: ignore[union-attr]  # there is one
    failed = Told(
        "failed",
        here("FAILS"),
        "explicit",
        "inferred",
        "waits (job) was cancelled, probably because first failed with RuntimeError: boom at "
        + here("FAILS"),
    )
    assert found == {
        "job": failed,
        "job too": failed._replace(summary=failed.summary.replace("(job)", "(job too)")),
        "in time": Told(
            "deadline",
            here("RUNS OUT"),
            "explicit",
            "inferred",
            f"waits (in time) was cancelled, probably because the timeout of 0.01 s at "
            f"{here('RUNS OUT')} ran out{late(found['in time'])}, by way of first",
        ),
        "afterwards": CALLED._replace(summary=CALLED.summary.replace("(job)", "(afterwards)")),
    }
    assert (own.at, own.source) == (here("END ALL"), function(end_all))
    assert own.detail == "asyncio.wait() had come back with first, which had failed"


def late(answer: Told) -> str:
    """What *answer* says of how late a timeout was, if it was."""
    before, found, _ = answer.summary.partition(" s late)")
    return f" ({before.rpartition('(')[2]}{found}" if found else ""


async def wins(go: asyncio.Event) -> None:
    await go.wait()


async def loses(go: asyncio.Event) -> None:
    await go.wait()  # with the one that wins, in one turn of the loop
    raise RuntimeError("boom")


@every_loop
@pytest.mark.parametrize("first", [returns, fails])
@pytest.mark.parametrize(
    "when", [asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED]
)
def test_a_race_that_was_won_or_that_time_ended_is_nobodys_failure(
    run: Run, first: Callable[[], Any], when: str
) -> None:
    async def main() -> None:
        asyncio.current_task().set_name("main")  # type: ignore[union-attr]  # one runs
        go = asyncio.Event()
        loser = task(loses(go), "loser")
        winner = task(wins(go), "winner")
        asyncio.get_running_loop().call_later(0.01, go.set)
        both = [loser, winner] if first is fails else [winner]
        job = task(waits(), "job")
        if first is fails and when != asyncio.FIRST_COMPLETED:
            # It failed before, and was waited for then.
            await asyncio.wait([*both])
            both = [task(returns(), "winner again")]
        await asyncio.wait([*both, job], return_when=when, timeout=0.05)
        end_all([job])
        await ended(job, loser, winner)

    with aioaudit.recording() as trail:
        run(main())
        assert told(trail, "job") == CALLED


@where_ends_are_seen
def test_only_those_that_it_waited_for_are_cancelled_because_of_it(run: Run) -> None:
    async def main() -> None:
        asyncio.current_task().set_name("main")  # type: ignore[union-attr]  # one runs
        other, member = task(waits(), "job"), task(waits(), "member")
        await asyncio.wait([task(fails(), "first"), member], return_when=asyncio.FIRST_COMPLETED)
        end_all([other])
        end_all([member])
        await ended(other, member)

    with aioaudit.recording() as trail:
        run(main())
        assert told(trail, "job") == CALLED
        assert told(trail, "member").what == "failed"


@where_ends_are_seen
def test_who_cancels_one_after_the_other_still_does_so_because_of_the_failure(run: Run) -> None:
    async def main() -> None:
        jobs = [task(waits(), f"job {number}") for number in range(3)]
        _, pending = await asyncio.wait(
            [task(fails(), "first"), *jobs], return_when=asyncio.FIRST_EXCEPTION
        )
        for each in pending:
            each.cancel()
            await ended(each)

    with aioaudit.recording() as trail:
        run(main())
        found = [told(trail, f"job {number}") for number in range(3)]
    assert [(each.what, each.at, each.evidence) for each in found] == [
        ("failed", here("FAILS"), "inferred")
    ] * 3


@where_ends_are_seen
def test_one_that_somebody_else_cancelled_is_followed_to_that_one(run: Run) -> None:
    async def watch(one: asyncio.Task[Any], job: asyncio.Task[Any]) -> None:
        await asyncio.wait([one, job], return_when=asyncio.FIRST_COMPLETED)
        end_all([job])

    async def main() -> None:
        one, job = task(waits(), "one"), task(waits(), "job")
        watcher = task(watch(one, job), "watcher")
        await asyncio.sleep(0.01)
        one.cancel()  # SOMEBODY
        await ended(one, job, watcher)

    with aioaudit.recording() as trail:
        run(main())
        found = told(trail, "job")
    assert (found.what, found.at, found.evidence) == ("called", here("SOMEBODY"), "inferred")
    assert found.summary.startswith("waits (job) was cancelled, probably because ")
    assert found.summary.endswith(", by way of one")


@where_ends_are_seen
def test_what_it_cancelled_itself_is_no_reason_for_more(run: Run) -> None:
    async def main() -> None:
        asyncio.current_task().set_name("main")  # type: ignore[union-attr]  # one runs
        one, job = task(waits(), "one"), task(waits(), "job")
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.wait([one, job], return_when=asyncio.FIRST_COMPLETED)
        end_all([job])
        await ended(one, job)

    with aioaudit.recording() as trail:
        run(main())
        assert told(trail, "job") == CALLED


@where_ends_are_seen
def test_nothing_is_left_of_a_wait_once_its_task_waits_again(run: Run) -> None:
    async def main() -> list[int]:
        on = session.current()
        assert on is not None
        doubts = on.recorder.state.cancellations.doubts
        job = task(waits(), "job")
        await asyncio.wait([task(fails(), "first"), job], return_when=asyncio.FIRST_COMPLETED)
        counts = [len(doubts)]
        await asyncio.sleep(0)
        counts.append(len(doubts))
        job.cancel()
        await ended(job)
        return counts

    with aioaudit.recording():
        assert run(main()) == [1, 0]


# -- futures that end with others, by a done callback -----------------------------------------


class Follower:
    def __init__(self, victim: asyncio.Future[Any]) -> None:
        self.victim = victim

    def done(self, _ended: asyncio.Future[Any]) -> None:
        self.victim.cancel()


def cancel_first(victim: asyncio.Future[Any], _ended: asyncio.Future[Any]) -> None:
    victim.cancel()


FOLLOW: dict[str, Callable[[asyncio.Future[Any], asyncio.Future[Any]], None]] = {
    "lambda": lambda one, other: one.add_done_callback(lambda _: other.cancel()),
    "partial": lambda one, other: one.add_done_callback(functools.partial(cancel_first, other)),
    "method": lambda one, other: one.add_done_callback(Follower(other).done),
    "cancel": lambda one, other: one.add_done_callback(other.cancel),
    "partial cancel": lambda one, other: one.add_done_callback(functools.partial(other.cancel)),
}
"""Ways to have one end with another; of the last two it is seen who gave them."""


@every_loop
@pytest.mark.parametrize("way", FOLLOW)
@pytest.mark.parametrize("kind", ["task", "future"])
def test_what_ends_with_another_is_followed_to_who_cancelled_that(
    run: Run, way: str, kind: str
) -> None:
    async def main() -> None:
        asyncio.current_task().set_name("main")  # type: ignore[union-attr]  # one runs
        job = task(waits(), "job")
        one = task(waits(), "one") if kind == "task" else job.get_loop().create_future()
        FOLLOW[way](one, job)
        await asyncio.sleep(0)
        one.cancel()  # ONE
        await ended(job)

    with aioaudit.recording() as trail:
        run(main())
        found = told(trail, "job")
        own = trail.why("job").chain[0]  # type: ignore[union-attr]  # there is one
    given = "given to add_done_callback(); " if "cancel" in way else ""
    seen = given and run is asyncio.run  # uvloop does not show what it calls
    by, way_there = (" in task main", ", by way of one") if kind == "task" else ("", "")
    assert found == Told(
        "called",
        here("ONE"),
        "explicit",
        "observed" if seen else "inferred",
        f"waits (job) was cancelled{'' if seen else ', probably'} because {function(main)} called "
        f"cancel() at {here('ONE')}{by}{way_there}",
    )
    what = "one" if kind == "task" else "a future"
    assert own.detail == f"{given}in a callback of {what}, which was cancelled"


@every_loop
@pytest.mark.parametrize("way", FOLLOW)
def test_what_follows_another_that_was_not_cancelled_is_who_called(run: Run, way: str) -> None:
    async def main() -> None:
        job, one = task(waits(), "job"), task(returns(), "one")
        FOLLOW[way](one, job)
        await ended(job)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("job")
    assert answer is not None
    given = "given to add_done_callback(); " if "cancel" in way else ""
    assert (answer.root.what, answer.root.detail) == (
        "called",
        f"{given}in a callback of one, which had returned",
    )
    assert ("probably" in answer.summary) == (bool(given) and run is not asyncio.run)


@every_loop
def test_a_row_of_futures_is_followed_to_its_beginning(run: Run) -> None:
    async def awaits(future: asyncio.Future[None]) -> None:
        await future

    async def main() -> None:
        futures = [asyncio.get_running_loop().create_future() for _ in range(4)]
        for one, other in itertools.pairwise(futures):
            one.add_done_callback(functools.partial(cancel_first, other))
        job = task(awaits(futures[-1]), "job")
        await asyncio.sleep(0)
        futures[0].cancel()  # BEGINNING
        await ended(job)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("job")
    assert answer is not None
    assert (answer.root.what, answer.root.at) == ("called", here("BEGINNING"))
    assert answer.summary == (
        f"{function(awaits)[len(awaits.__module__) + 1 :].rpartition('.')[2]} (job) was cancelled, "
        f"probably because {function(main)} called cancel() at {here('BEGINNING')}"
    )


@every_loop
def test_a_timer_is_not_a_callback_of_the_task_that_it_is_given(run: Run) -> None:
    async def main() -> None:
        job, one = task(waits(), "job"), task(waits(), "one")
        await asyncio.sleep(0)
        one.cancel()
        await ended(one)
        asyncio.get_running_loop().call_later(0.01, cancel_first, job, one)
        await ended(job)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("job")
    assert answer is not None
    if run is asyncio.run:  # uvloop does not show what it calls
        assert (answer.root.what, answer.root.source) == ("called", function(cancel_first))
        assert answer.root.detail is None


# -- the error that is handled ---------------------------------------------------------------


async def within_a_timeout() -> None:
    await runs_out()


async def waiting_for() -> None:
    await asyncio.wait_for(asyncio.sleep(60), 0.01)  # WAIT FOR


async def awaiting_a_task() -> None:
    await task(fails(), "first")


async def awaiting_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails(), name="first")


async def failing_itself() -> None:
    raise TimeoutError("by hand")  # BY HAND


HANDLED = [
    (within_a_timeout, "TimeoutError: the timeout of 0.01 s at {RUNS OUT} ran out"),
    (waiting_for, "TimeoutError: the timeout of 0.01 s at {WAIT FOR} ran out"),
    (awaiting_a_task, "RuntimeError: boom, raised at {FAILS}"),
    (
        awaiting_a_group,
        "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception): "
        "first failed with RuntimeError: boom at {FAILS}",
    ),
    (failing_itself, "TimeoutError: by hand, raised at {BY HAND}"),
]


@every_loop
@pytest.mark.parametrize(("does", "expected"), HANDLED, ids=[each.__name__ for each, _ in HANDLED])
def test_the_error_that_is_handled_has_its_line_or_the_deadline_behind_it(
    run: Run, does: Callable[[], Any], expected: str
) -> None:
    async def main() -> None:
        asyncio.current_task().set_name("main")  # type: ignore[union-attr]  # one runs
        job = task(waits(), "job")
        try:
            await does()
        except Exception:  # noqa: BLE001 - whatever it is
            job.cancel()  # HANDLING
        await ended(job)

    with aioaudit.recording() as trail:
        run(main())
        found = told(trail, "job")
    for label in ("RUNS OUT", "WAIT FOR", "FAILS", "BY HAND"):
        if "{" + label + "}" in expected:
            expected = expected.replace("{" + label + "}", here(label))
    assert found == Told(
        "called",
        here("HANDLING"),
        "explicit",
        "observed",
        f"waits (job) was cancelled because {function(main)} called cancel() at "
        f"{here('HANDLING')} in task main (while handling {expected})",
    )


# -- what a signal's handler made, gave or woke --------------------------------------------------

Loop = asyncio.AbstractEventLoop
Tasks = list[asyncio.Task[Any]]
_kept: list[Any] = []


async def shut_down(tasks: Tasks) -> None:
    await asyncio.sleep(0)
    end_all(tasks)


async def stops(event: asyncio.Event, tasks: Tasks) -> None:
    await event.wait()
    end_all(tasks)


async def stops_by(future: asyncio.Future[None], tasks: Tasks) -> None:
    await future
    for each in tasks:
        each.cancel()  # on a line that is new: a line that is known is not looked at for this


def keep(kept: Any) -> Any:
    _kept.append(kept)
    return kept


def by_task(loop: Loop, tasks: Tasks) -> None:
    def make() -> None:
        keep(loop.create_task(shut_down(tasks), name="asks"))  # MAKES

    loop.add_signal_handler(signal.SIGUSR1, make)


def by_lambda(loop: Loop, tasks: Tasks) -> None:
    loop.add_signal_handler(
        signal.SIGUSR1,
        lambda: keep(asyncio.create_task(shut_down(tasks), name="asks")),  # LAMBDA MAKES
    )


def by_task_of_a_plain_handler(loop: Loop, tasks: Tasks) -> None:
    def make(_number: int, _frame: Any) -> None:
        keep(loop.create_task(shut_down(tasks), name="asks"))  # PLAIN MAKES
        loop.call_soon_threadsafe(int)  # as what a plain handler gives does not wake a loop

    signal.signal(signal.SIGUSR1, make)


def by_thread_safe_task(loop: Loop, tasks: Tasks) -> None:
    def make(_number: int, _frame: Any) -> None:
        asyncio.run_coroutine_threadsafe(named(shut_down(tasks)), loop)  # GIVES COROUTINE

    signal.signal(signal.SIGUSR1, make)


async def named(coro: Any) -> None:
    asyncio.current_task().set_name("asks")  # type: ignore[union-attr]  # one runs
    await coro


def by_callback(loop: Loop, tasks: Tasks) -> None:
    def give(_number: int, _frame: Any) -> None:
        loop.call_soon_threadsafe(end_all, tasks)

    signal.signal(signal.SIGUSR1, give)


def by_timer(loop: Loop, tasks: Tasks) -> None:
    def give() -> None:
        loop.call_later(0.01, tasks[0].cancel)  # GIVES TIMER

    loop.add_signal_handler(signal.SIGUSR1, give)


def by_event(loop: Loop, tasks: Tasks) -> None:
    event = asyncio.Event()
    keep(loop.create_task(stops(event, tasks), name="asks"))
    loop.add_signal_handler(signal.SIGUSR1, event.set)  # GIVES SET


def by_event_of_a_function(loop: Loop, tasks: Tasks) -> None:
    event = asyncio.Event()
    keep(loop.create_task(stops(event, tasks), name="asks"))

    def sets() -> None:
        event.set()  # SETS

    loop.add_signal_handler(signal.SIGUSR1, sets)


def by_event_of_a_plain_handler(loop: Loop, tasks: Tasks) -> None:
    event = asyncio.Event()
    keep(loop.create_task(stops(event, tasks), name="asks"))

    def give(_number: int, _frame: Any) -> None:
        loop.call_soon_threadsafe(event.set)  # PLAIN GIVES SET

    signal.signal(signal.SIGUSR1, give)


def by_future(loop: Loop, tasks: Tasks) -> None:
    future: asyncio.Future[None] = keep(loop.create_future())
    keep(loop.create_task(stops_by(future, tasks), name="asks"))
    loop.add_signal_handler(signal.SIGUSR1, future.set_result, None)  # GIVES FUTURE


SIGNALS = [
    (by_task, "MAKES", "inferred"),
    (by_lambda, "LAMBDA MAKES", "inferred"),
    (by_task_of_a_plain_handler, "PLAIN MAKES", "inferred"),
    (by_thread_safe_task, "GIVES COROUTINE", "inferred"),
    (by_callback, "END ALL", "observed"),
    (by_timer, "GIVES TIMER", "observed"),
    (by_event, "GIVES SET", "inferred"),
    (by_event_of_a_function, "SETS", "inferred"),
    (by_event_of_a_plain_handler, "PLAIN GIVES SET", "inferred"),
    (by_future, "GIVES FUTURE", "inferred"),
]


@every_loop
@pytest.mark.parametrize(
    ("way", "label", "evidence"), SIGNALS, ids=[each.__name__ for each, _, _ in SIGNALS]
)
def test_what_a_signals_handler_made_or_gave_or_woke_acts_for_the_signal(
    run: Run, way: Callable[[Loop, Tasks], None], label: str, evidence: str
) -> None:
    if way is by_future and run is not asyncio.run:
        pytest.skip("uvloop does not show which future wakes a task")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(4):  # the line is well known
            end_all([task(waits(), f"before {number}")])
        await asyncio.sleep(0)
        jobs = [task(waits(), "job"), task(waits(), "job too")]
        await asyncio.sleep(0)
        before = signal.getsignal(signal.SIGUSR1)
        way(loop, jobs)
        loop.call_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
        try:
            await ended(jobs[0])
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)
            signal.signal(signal.SIGUSR1, before)
        await asyncio.sleep(0)
        end_all([task(waits(), "afterwards"), jobs[1]])
        await asyncio.sleep(0)

    with aioaudit.recording() as trail:
        run(main())
        found, afterwards = told(trail, "job"), told(trail, "afterwards")
    _kept.clear()
    probably = "" if evidence == "observed" else ", probably"
    if run is not asyncio.run and way is by_timer:
        evidence, probably = "inferred", ", probably"  # uvloop does not show what it calls
    assert found == Told(
        "signal",
        here(label),
        "signal",
        evidence,
        f"waits (job) was cancelled{probably} because the process received SIGUSR1 "
        f"(handler at {here(label)})",
    )
    assert (afterwards.what, afterwards.at) == ("called", here("END ALL"))


@every_loop
def test_what_else_sets_an_event_is_no_signal(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        event, job = asyncio.Event(), task(waits(), "job")
        stopper = task(stops(event, [job]), "main")
        loop.add_signal_handler(signal.SIGUSR1, event.set)
        try:
            await asyncio.sleep(0.01)
            event.set()
            await ended(job, stopper)
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)

    with aioaudit.recording() as trail:
        run(main())
        assert told(trail, "job") == CALLED


@every_loop
def test_a_task_that_was_woken_by_a_signal_carries_it_no_further_than_that(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        event, job = asyncio.Event(), task(waits(), "job")

        async def goes_on() -> None:
            await event.wait()
            await asyncio.sleep(0.01)
            end_all([job])

        loop.add_signal_handler(signal.SIGUSR1, event.set)
        loop.call_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
        try:
            await ended(task(goes_on(), "main"), job)
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)

    with aioaudit.recording() as trail:
        run(main())
        assert told(trail, "job") == CALLED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["ends", "reloads"])
def test_what_a_handler_made_carries_a_signal_that_ends_nothing_for_a_moment_only(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = monotonic()
    made: list[Any] = []

    async def serves(job: Any) -> None:
        await asyncio.sleep(0)
        monkeypatch.setattr(handoffs, "monotonic", lambda: now + 60)  # a minute has gone by
        end_all([job])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        job = task(waits(), "job")
        loop.add_signal_handler(number, lambda: made.append(task(serves(job), "serves")))
        loop.call_later(0.01, os.kill, os.getpid(), number)
        try:
            await ended(job)
        finally:
            loop.remove_signal_handler(number)

    with aioaudit.recording() as trail:
        asyncio.run(main())
        found = told(trail, "job")
    assert (found.what, found.evidence) == (
        ("signal", "inferred") if number == signal.SIGTERM else ("called", "observed")
    )
