"""A coroutine is cancelled at each point where it waits: exactly there, and what is wrong is found.

``# LINE label`` marks the lines that a report has to name.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import itertools
import re
import selectors
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aioaudit
from aioaudit.testing import (
    BaselineError,
    Coverage,
    Fault,
    IncompleteError,
    UnsafeError,
    cancel_everywhere,
    cancel_everywhere_async,
)
from aioaudit.testing.driving import KINDS
from tests.loops import uvloop

Make = Callable[[], Coroutine[Any, Any, Any]]


class _Selector(selectors.DefaultSelector):
    """Waits for nothing: it says that the time is over."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0 if timeout is not None else None)
        if timeout is not None and not ready:
            self.passed += max(timeout, 0)
        return ready


class QuickLoop(asyncio.SelectorEventLoop):
    """A loop in which time goes by only when there is nothing to do: no machine is too slow."""

    def __init__(self) -> None:
        self.quick = _Selector()
        super().__init__(self.quick)

    def time(self) -> float:
        return self.quick.passed


quickly: Any = functools.partial(cancel_everywhere, loop_factory=QuickLoop)


@functools.cache
def lines() -> dict[str, int]:
    """The numbers of this file's lines by label."""
    found: dict[str, int] = {}
    for number, text in enumerate(Path(__file__).read_text().splitlines(), 1):
        match = re.search(r"# LINE (\w+)$", text)
        if match:
            found[match[1]] = number
    return found


def at(label: str) -> str:
    return f"{__file__}:{lines()[label]}"


def case(function: str, label: str, visit: int = 1, again: int = 0) -> str:
    return f"{function}:{lines()[label]}#{visit}" + (f"+{again}" if again else "")


def unsafe(make: Any, **options: Any) -> Coverage:
    """What is covered of what is not safe."""
    with pytest.raises(UnsafeError) as caught:
        quickly(make, **options)
    assert str(caught.value.coverage) == str(caught.value)
    return caught.value.coverage


def told(coverage: Coverage) -> set[tuple[str, str]]:
    """Case and kind of each fault."""
    return {(fault.case, fault.kind) for fault in coverage.faults}


async def forever() -> None:
    await asyncio.sleep(1e6)


# -- where it is cancelled -------------------------------------------------------------


def test_each_suspension_is_hit_once_and_the_awaits_that_do_not_wait_are_told() -> None:
    hit: Counter[int] = Counter()

    async def nothing() -> None:
        pass

    async def steps() -> None:
        number = 0
        try:
            for each in range(3):
                number = each
                await nothing()  # LINE nothing
                await asyncio.sleep(0)  # LINE zero
            number = 3
            await asyncio.sleep(0.5)  # LINE half
        except asyncio.CancelledError:
            hit[number] += 1
            raise

    coverage = quickly(steps)
    assert hit == {0: 1, 1: 1, 2: 1, 3: 1}
    names = [*(case("steps", "zero", visit) for visit in (1, 2, 3)), case("steps", "half")]
    assert coverage.points == coverage.covered == names
    assert coverage.runs == 5
    assert coverage.never_waited == [at("nothing")]
    assert not coverage.again


def test_the_request_comes_before_anything_else_that_the_loop_runs() -> None:
    seen: list[int] = []

    async def steps() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(lambda: seen.append(task.cancelling()))
        await asyncio.sleep(0)

    quickly(steps)
    assert seen == [0, 1]


def test_what_is_awaited_in_the_clean_up_is_cancelled_for_a_second_time() -> None:
    hit: list[str] = []

    async def steps() -> None:
        try:
            await asyncio.sleep(0)  # LINE body
        finally:
            try:
                await asyncio.sleep(0)  # LINE clean_1
                await asyncio.sleep(0)  # LINE clean_2
            except asyncio.CancelledError:
                hit.append("again")
                raise

    coverage = quickly(steps)
    assert coverage.points == [
        *(case("steps", "body"), case("steps", "clean_1"), case("steps", "clean_2"))
    ]
    again = [case("steps", "body", again=1), case("steps", "body", again=2)]
    assert coverage.again == coverage.covered_again == again
    assert len(hit) == 4
    hit.clear()
    assert quickly(steps, cleanup=False).again == []
    assert len(hit) == 2


def test_moments_at_which_a_child_waits_are_points_of_its_parent() -> None:
    hit: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.sleep(0)  # LINE child_1
            await asyncio.sleep(1)  # LINE child_2
        except asyncio.CancelledError:
            hit.append(name)
            raise

    async def parent() -> None:
        await asyncio.gather(child("one"), child("two"))  # LINE gather

    coverage = quickly(parent)
    assert coverage.points == [
        case("parent", "gather"),
        *(case("child", "child_1", 1), case("child", "child_1", 2)),
        *(case("child", "child_2", 1), case("child", "child_2", 2)),
    ]
    # Before its first step a task is cancelled without a trace.
    assert Counter(hit) == {"one": 4, "two": 3}
    assert quickly(parent, children=False).points == [case("parent", "gather")]


def test_a_scope_that_delivers_again_and_again_makes_no_more_points() -> None:
    async def child() -> None:
        try:
            await anyio.sleep(1)  # LINE any_child
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)  # LINE any_shield

    async def parent() -> None:
        async with anyio.create_task_group() as group:  # LINE any_group
            group.start_soon(child)

    coverage = quickly(parent)
    first = case("child", "any_child")
    assert first in coverage.covered
    # The parent waits in the group's end, the child in its clean-up: with what the scope
    # does in each turn meanwhile these are no more than two.
    assert [name for name in coverage.again if name.startswith(first)] == [
        *(f"{first}+1", f"{first}+2")
    ]


def test_a_generator_that_waits_in_a_library_is_named_by_the_line_of_the_application() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(2):
            await asyncio.sleep(0)  # LINE in_generator
            yield number

    async def steps() -> None:
        async for _ in numbers():
            await asyncio.wait_for(asyncio.sleep(1), 3)  # LINE wait_for

    coverage = quickly(steps, children=False)
    assert coverage.points == [
        *(case("numbers", "in_generator", 1), case("steps", "wait_for", 1)),
        *(case("numbers", "in_generator", 2), case("steps", "wait_for", 2)),
    ]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are of 3.12")
def test_an_eager_first_step_is_a_point_as_well() -> None:
    async def steps() -> None:
        await asyncio.sleep(0)  # LINE eager_1
        await asyncio.sleep(0)  # LINE eager_2

    def make_loop() -> QuickLoop:
        loop = QuickLoop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))
        return loop

    coverage = cancel_everywhere(steps, loop_factory=make_loop)
    assert coverage.covered == [case("steps", "eager_1"), case("steps", "eager_2")]


@pytest.mark.skipif(uvloop is None, reason="there is no uvloop here")
def test_other_loops_and_other_classes_of_tasks_are_followed_as_well() -> None:
    async def steps() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    def make_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        kind: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]
        loop.set_task_factory(lambda loop, coro, **more: kind(coro, loop=loop, **more))
        return loop

    assert uvloop is not None
    for factory in (uvloop.new_event_loop, make_loop):
        coverage = cancel_everywhere(steps, loop_factory=factory)
        assert len(coverage.covered) == 2


# -- what is found ---------------------------------------------------------------------


async def swallows() -> str:
    await asyncio.sleep(0)
    try:
        await asyncio.sleep(0)  # LINE swallow_await
    except ValueError:
        pass
    except asyncio.CancelledError:  # LINE swallow
        pass
    return "a result"


async def loses() -> None:
    async def child() -> None:
        try:
            await asyncio.sleep(0)  # LINE lose_await
        except asyncio.CancelledError:  # LINE lose
            return

    await asyncio.create_task(child())


async def replaces() -> None:
    try:
        await asyncio.sleep(0)  # LINE replace_await
    except asyncio.CancelledError:
        raise KeyError("gone") from None  # LINE replace


async def hangs() -> None:
    try:
        await asyncio.sleep(0)  # LINE hang_await
    except asyncio.CancelledError:
        await asyncio.Event().wait()  # LINE hang
        raise


async def leaves_a_task() -> None:
    task = asyncio.create_task(forever())  # LINE left
    await asyncio.sleep(0)  # LINE left_await
    task.cancel()


async def leaves_a_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1  # LINE generator
        finally:
            await asyncio.sleep(0)

    async for _ in numbers():
        await asyncio.sleep(0)  # LINE generator_await


async def absorbs_too_little() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    task.uncancel()
    try:
        await asyncio.sleep(0)  # LINE uncancel_await
    except asyncio.CancelledError:
        task.cancel()
        task.uncancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("make", "await_at", "kind", "broken_at"),
    [
        (swallows, "swallow_await", "swallowed", "swallow"),
        (loses, "lose_await", "lost", "lose"),
        (replaces, "replace_await", "replaced", "replace"),
        (hangs, "hang_await", "hangs", "hang"),
        (leaves_a_task, "left_await", "left_task", "left"),
        (leaves_a_generator, "generator_await", "left_generator", "generator"),
    ],
    ids=lambda each: each if isinstance(each, str) else getattr(each, "__name__", ""),
)
def test_what_is_wrong_is_found_where_it_is(
    make: Make, await_at: str, kind: str, broken_at: str
) -> None:
    coverage = unsafe(make, children=make is loses)
    [fault] = [fault for fault in coverage.faults if fault.kind == kind]
    assert isinstance(fault, Fault)
    assert fault.at == at(broken_at)
    assert fault.cancelled_at == at(await_at)
    assert fault.again_at is None
    assert {each.case for each in coverage.faults} == {fault.case}
    shown = fault.text.replace(f"{Path.cwd()}/", "")
    assert shown in str(coverage)
    assert f'only="{fault.case}"' in str(coverage)
    assert kind in KINDS
    # Alone it goes wrong in the same way, and nothing else is run.
    alone = unsafe(make, children=make is loses, only=fault.case)
    assert alone.runs == 2
    assert kind in {each.kind for each in alone.faults}
    # Whoever wants it so can have it so.
    kinds = {each.kind for each in coverage.faults}
    coverage = quickly(make, children=make is loses, ignore=kinds)
    assert not coverage.faults
    assert coverage.ignored == len(kinds)


async def _numbers(kind: str) -> AsyncGenerator[int, None]:
    """Waits in a block of this kind to be asked for more."""
    if kind == "finally":
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
    elif kind == "with":
        async with contextlib.AsyncExitStack():
            yield 1
    elif kind == "everything":
        try:
            yield 1
        except BaseException:
            await asyncio.sleep(0)
            raise
    elif kind == "around":
        try:
            try:
                yield 1
            except ValueError:
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
    elif kind == "error":
        try:
            yield 1
        except ValueError:
            await asyncio.sleep(0)
    else:
        for number in range(2):
            yield number


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        *(("finally", True), ("with", True), ("everything", True), ("around", True)),
        *(("error", False), ("nothing", False)),
    ],
)
def test_a_generator_is_left_only_where_it_has_something_to_do(kind: str, left: bool) -> None:
    async def steps() -> None:
        async for _ in _numbers(kind):
            await asyncio.sleep(0)

    async def closes() -> None:
        async with contextlib.aclosing(_numbers(kind)) as numbers:
            async for _ in numbers:
                await asyncio.sleep(0)

    quickly(closes)
    if left:
        assert {fault.kind for fault in unsafe(steps).faults} == {"left_generator"}
    else:
        quickly(steps)


def test_what_goes_wrong_in_the_clean_up_alone_is_found_there() -> None:
    async def steps() -> None:
        task = asyncio.create_task(forever())
        try:
            await asyncio.sleep(0)  # LINE cut_body
        finally:
            await asyncio.sleep(0)  # LINE cut_clean
            task.cancel()

    coverage = unsafe(steps, children=False)
    assert told(coverage) == {
        (case("steps", "cut_body", again=1), "left_task"),
        (case("steps", "cut_clean"), "left_task"),
    }
    assert coverage.faults[-1].again_at == at("cut_clean")
    assert unsafe(steps, children=False, only=case("steps", "cut_body", again=1)).runs == 2
    [fault] = unsafe(steps, children=False, cleanup=False).faults
    assert fault.case == case("steps", "cut_clean")


def test_a_finding_about_another_task_counts() -> None:
    async def child() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "went on"

    async def steps() -> None:
        task = asyncio.create_task(child())
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            task.cancel()
            await asyncio.wait([task])

    coverage = unsafe(steps)
    assert {fault.kind for fault in coverage.faults} == {"swallowed"}
    assert {"child" in fault.text for fault in coverage.faults} == {True}


def test_what_is_found_of_tasks_of_others_is_not_held_against_it() -> None:
    runs = 0

    async def steps() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)

    async def swallows() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await asyncio.sleep(0)

    async def others() -> None:
        while True:
            await asyncio.sleep(0)
            if runs > 1:  # in the run that nobody cancels it is not seen
                task = asyncio.create_task(swallows())
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])

    async def beside_others() -> Coverage:
        task = asyncio.create_task(others())
        try:
            return await cancel_everywhere_async(steps)
        finally:
            task.cancel()

    assert len(asyncio.run(beside_others()).covered) == 2

    runs = 0
    over = threading.Event()

    async def until_it_is_over() -> None:
        task = asyncio.create_task(others())
        await asyncio.to_thread(over.wait)
        task.cancel()

    thread = threading.Thread(target=asyncio.run, args=(until_it_is_over(),))
    with aioaudit.recording():  # the thread's tasks are all known
        thread.start()
        try:
            assert len(cancel_everywhere(steps).covered) == 2
        finally:
            over.set()
            thread.join()


def test_to_absorb_a_request_on_purpose_is_no_fault() -> None:
    async def steps() -> str:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            task.uncancel()
        return "so be it"

    assert len(quickly(steps).covered) == 1


def test_what_is_left_without_a_cancellation_is_not_held_against_one() -> None:
    kept: set[asyncio.Task[None]] = set()

    async def steps() -> None:
        kept.add(asyncio.create_task(forever()))
        await asyncio.sleep(0)

    assert len(quickly(steps).covered) == 2
    assert all(task.done() for task in kept)


def test_a_task_that_was_asked_to_end_may_take_its_time() -> None:
    async def child() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(3)

    async def steps() -> None:
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
        try:
            await asyncio.sleep(1)  # LINE own_time
        finally:
            task.cancel()

    quickly(steps, cleanup=False, patience=4.0, only=case("steps", "own_time"))


def test_what_has_its_result_already_has_swallowed_nothing() -> None:
    async def child() -> int:
        await asyncio.sleep(0)
        return 5

    async def steps() -> int:
        task = asyncio.create_task(child())
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def pass_on(_: object) -> None:
            if not waiter.done():
                waiter.set_result(task.result())

        task.add_done_callback(pass_on)
        other = asyncio.create_task(asyncio.sleep(0, waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                return waiter.result()
            raise
        finally:
            task.cancel()
            other.cancel()

    assert len(quickly(steps).covered) > 1


def test_the_check_of_the_user_is_asked_after_each_run() -> None:
    opened = 0

    async def steps() -> None:
        nonlocal opened
        opened += 1
        await asyncio.sleep(0)  # LINE check_await
        opened -= 1

    def check() -> None:
        nonlocal opened
        now, opened = opened, 0
        assert not now, "it is open still"  # LINE check

    async def check_later() -> None:
        await asyncio.sleep(0)
        check()

    for each in (check, check_later):
        [fault] = unsafe(steps, check=each).faults
        assert (fault.case, fault.kind, fault.at) == (
            *(case("steps", "check_await"), "check"),
            at("check"),
        )
        assert "it is open still" in fault.text


@pytest.mark.parametrize("error", [SystemExit(0), pytest.fail.Exception("it is open still")])
def test_a_check_that_ends_more_than_itself_has_failed(error: BaseException) -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise error

    [fault] = unsafe(_awaited, check=check).faults
    assert fault.kind == "check"
    assert type(error).__name__ in fault.text


def test_who_ends_the_program_in_its_clean_up_has_not_passed() -> None:
    async def leaves() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            sys.exit(0)  # LINE leaves

    [fault] = unsafe(leaves).faults
    assert (fault.kind, fault.at) == ("replaced", at("leaves"))
    assert "SystemExit: 0" in fault.text

    async def child() -> None:
        try:
            await forever()
        finally:
            sys.exit(0)  # LINE child_leaves

    async def steps() -> None:
        task = asyncio.create_task(child(), name="child")
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            task.cancel()
            with contextlib.suppress(SystemExit):
                await task
            raise

    coverage = unsafe(steps, ignore=["left_task"])
    assert {(fault.kind, fault.at) for fault in coverage.faults} == {
        ("replaced", at("child_leaves"))
    }
    assert "the task child was to end the program" in str(coverage)

    async def always() -> None:
        task = asyncio.create_task(child(), name="child")
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(SystemExit):
            await task

    with pytest.raises(BaselineError, match="was to end the program with SystemExit: 0"):
        quickly(always)


def test_neither_what_it_returns_nor_where_it_runs_breaks_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError("says nothing")

    async def keeps() -> Silent:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return Silent()

    class Loud:
        def __repr__(self) -> str:
            return "\x1b[31mLoud"

    async def is_loud() -> Loud:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return Loud()

    [fault] = unsafe(is_loud).faults
    assert fault.text.endswith(r"returned \x1b[31mLoud")

    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    [fault] = unsafe(keeps).faults
    assert fault.kind == "swallowed"
    assert "returned <" in fault.text


def test_what_is_set_up_anew_for_each_run_is_taken_down_and_may_assert() -> None:
    told: list[str] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")

    @contextlib.asynccontextmanager
    async def prepared() -> AsyncIterator[Make]:
        told.append("up")
        await asyncio.sleep(0)
        variable.set("set up")
        done: list[int] = []
        server = asyncio.create_task(forever())

        async def steps() -> None:
            assert variable.get() == "set up"
            done.append(1)
            await asyncio.sleep(0)  # LINE prepared
            done.clear()

        yield steps
        server.cancel()
        told.append("down")
        assert not done  # LINE prepared_down

    [fault] = unsafe(prepared).faults
    assert (fault.kind, fault.at) == ("teardown", at("prepared_down"))
    assert told == ["up", "down"] * 2

    @contextlib.contextmanager
    def plainly() -> Iterator[Coroutine[Any, Any, None]]:
        yield asyncio.sleep(0)
        told.append("plain")

    told.clear()
    quickly(plainly)
    assert told == ["plain"] * 2


def test_a_set_up_that_fails_later_says_in_which_case() -> None:
    tries: list[int] = []

    def make() -> Coroutine[Any, Any, None]:
        tries.append(1)
        if len(tries) > 1:
            raise OSError("address in use")
        return asyncio.sleep(0)

    with pytest.raises(OSError, match="in use") as caught:
        quickly(make)
    assert "in the run of the case __sleep0:" in caught.value.__notes__[0]


def test_what_does_not_end_whatever_one_does_keeps_nobody_waiting() -> None:
    async def steps() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)

    with pytest.raises(UnsafeError) as caught:
        quickly(steps, endless=True, limit=3)
    assert "hangs" in {fault.kind for fault in caught.value.coverage.faults}


def test_what_a_generator_handles_still_is_no_swallowed_cancellation() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 1)
                await anyio.sleep(2)
        except BaseException:
            await asyncio.sleep(0)
            raise
        yield 1

    async def steps() -> None:
        async for _ in numbers():
            pass

    assert len(quickly(steps).covered_again) > 1


# -- what is not covered ---------------------------------------------------------------


def incomplete(make: Any, **options: Any) -> Coverage:
    with pytest.raises(IncompleteError) as caught:
        quickly(make, **options)
    coverage = caught.value.coverage
    assert not coverage.faults
    assert "coverage is incomplete" in str(caught.value)
    return coverage


def test_a_limit_that_is_hit_is_no_pass() -> None:
    async def steps() -> None:
        for _ in range(5):
            await asyncio.sleep(0)  # LINE limit

    coverage = incomplete(steps, limit=5)
    assert coverage.missing == {case("steps", "limit", 5): "the limit of 5 runs was reached"}
    assert coverage.runs == 5
    assert len(quickly(steps, limit=6).covered) == 5


def test_what_is_never_suspended_is_no_pass() -> None:
    async def steps() -> None:
        pass

    assert "never suspended" in str(incomplete(steps))


def test_what_does_not_end_by_itself_is_a_pass_only_if_that_is_meant() -> None:
    async def worker() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        queue.put_nowait(1)
        while True:
            await queue.get()  # LINE worker
            await asyncio.sleep(0)

    assert f"waits at {at('worker')}" in incomplete(worker).missing[""]
    assert len(quickly(worker, endless=True).covered) == 2

    async def poll() -> None:
        for _ in itertools.count():
            await asyncio.sleep(1)

    coverage = incomplete(poll, limit=10)
    assert "more than 10 times" in coverage.missing[""]
    assert coverage.runs == 10


def test_where_runs_differ_what_could_not_be_tried_is_told() -> None:
    runs = 0

    async def steps() -> None:
        nonlocal runs
        runs += 1
        for _ in range(2 if runs == 1 else 1):
            await asyncio.sleep(0)  # LINE differ
        if runs == 2:
            await asyncio.sleep(0)  # LINE once

    coverage = incomplete(steps, tries=3)
    gone = case("steps", "differ", 2)
    assert coverage.missing == {gone: "3 runs did not come there: runs differ"}
    assert coverage.runs == 1 + 1 + 3
    runs = 0
    assert quickly(steps, may_differ=True).differing == [gone]
    runs = 0
    assert "not come" in incomplete(steps, only=gone).missing[gone]


def test_another_place_on_the_same_line_is_not_the_one_that_was_to_be_tried() -> None:
    runs = 0

    async def steps() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0 if runs == 1 else 1)  # LINE other_place

    name = case("steps", "other_place")
    for options in ({}, {"may_differ": True}):
        runs = 0
        coverage = incomplete(steps, tries=3, **options)
        assert coverage.missing == {name: "it waited at another place there: runs differ"}
        assert not coverage.covered
        assert coverage.runs == 1 + 3

    async def turns() -> None:
        nonlocal runs
        runs += 1
        for each in (0, 1) if runs % 2 else (1, 0):
            await asyncio.sleep(each)  # LINE turns

    runs = 0
    assert len(quickly(turns).covered) == 2

    async def made_anew() -> None:
        made: dict[str, Any] = {}
        exec("async def waits(sleep):\n    await sleep(0)", made)
        await made["waits"](asyncio.sleep)

    assert len(quickly(made_anew).covered) == 1


def test_a_case_that_there_is_not_is_told_with_those_that_there_are() -> None:
    [name] = quickly(_awaited).points
    assert f"did not come there: the points are {name}" in str(
        incomplete(_awaited, only="_awaited:1#1").missing
    )
    made = _awaited()
    [why] = incomplete(lambda: made).missing.values()
    assert "cannot reuse already awaited coroutine" in why


def test_what_only_some_other_run_comes_to_is_tried_too() -> None:
    runs = 0

    async def steps() -> None:
        nonlocal runs
        runs += 1
        if runs > 1:
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert len(quickly(steps).covered) == 2


def test_what_fails_by_itself_is_not_tried() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise LookupError("by itself")

    with pytest.raises(BaselineError, match="LookupError: by itself") as caught:
        quickly(fails)
    assert isinstance(caught.value.__cause__, LookupError)

    async def ends() -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    with pytest.raises(BaselineError, match="with CancelledError"):
        quickly(ends)

    def check() -> None:
        raise AssertionError("not even once")

    with pytest.raises(BaselineError, match="not even once"):
        quickly(forever, check=check, endless=True)


# -- how it is called ------------------------------------------------------------------


def test_in_a_loop_that_runs_the_tasks_of_others_are_left_alone() -> None:
    async def main() -> None:
        other = asyncio.create_task(forever())

        async def helper() -> None:
            asyncio.get_running_loop().call_soon(made.append, None)
            await asyncio.sleep(0)

        def make_another(_: object = None) -> None:
            others.append(asyncio.get_running_loop().create_task(forever()))

        async def steps() -> None:
            asyncio.get_running_loop().call_soon(make_another, context=contextvars.Context())
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        made: list[None] = []
        others: list[asyncio.Task[None]] = []
        coverage = await cancel_everywhere_async(steps)
        assert len(coverage.covered) == 2
        with pytest.raises(UnsafeError) as caught:
            await cancel_everywhere_async(leaves_a_task)
        assert {fault.kind for fault in caught.value.coverage.faults} == {"left_task"}
        with pytest.raises(RuntimeError, match="await cancel_everywhere_async"):
            cancel_everywhere(helper)
        assert not other.done()
        assert len(others) == 3
        for task in (other, *others):
            assert not task.done()
            task.cancel()
        await asyncio.wait([other, *others])
        assert "call_soon" not in vars(asyncio.get_running_loop())

    asyncio.run(main())


def test_two_at_once_in_a_loop_are_refused() -> None:
    async def inside() -> None:
        await cancel_everywhere_async(_awaited)

    async def main() -> list[Any]:
        both = await asyncio.gather(
            cancel_everywhere_async(_awaited),
            cancel_everywhere_async(_awaited),
            return_exceptions=True,
        )
        with pytest.raises(BaselineError, match="in this loop already") as caught:
            await cancel_everywhere_async(inside)
        assert isinstance(caught.value.__cause__, RuntimeError)
        return [*both, await cancel_everywhere_async(_awaited)]

    first, second, afterwards = asyncio.run(main())
    assert first.covered == afterwards.covered
    assert isinstance(second, RuntimeError)
    assert "one after the other" in str(second)


def test_afterwards_auditing_is_as_it_was() -> None:
    quickly(lambda: asyncio.sleep(0))
    from aioaudit.session import current

    assert current() is None
    with aioaudit.recording() as trail:
        quickly(lambda: asyncio.sleep(0))
        assert trail.events


async def _awaited() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"patience": 0}, ValueError, "patience is to be a number of seconds above 0"),
        ({"patience": float("nan")}, ValueError, "above 0, not nan"),
        ({"patience": "5"}, TypeError, "patience is to be a number of seconds, not a str"),
        ({"limit": 1.5}, TypeError, "limit is to be a whole number, not a float"),
        ({"limit": 0}, ValueError, "limit"),
        ({"tries": True}, TypeError, "tries"),
        ({"ignore": ["swalowed"]}, ValueError, "no fault is called 'swalowed'; there are"),
        ({"ignore": "slows"}, ValueError, "'slows'"),
        ({"only": "fetch"}, ValueError, "'fetch' names no case: one is written as"),
        ({"only": "fetch:12#0"}, ValueError, "names no case"),
        ({"only": 12}, TypeError, "a case is to be a text, as in a report, not a int"),
        ({"ignore": 5}, TypeError, "ignore is to be a list of kinds, not a int"),
        ({"ignore": [5]}, ValueError, "no fault is called '5'; there are"),
        ({"cleanup": "no"}, TypeError, "cleanup is to be True or False, not a str"),
        ({"children": None}, TypeError, "children is to be True or False, not a NoneType"),
        ({"endless": 1}, TypeError, "endless is to be True or False, not a int"),
        ({"may_differ": "yes"}, TypeError, "may_differ is to be True or False, not a str"),
        ({"check": 5}, TypeError, "check is to be a function, not a int"),
        ({"loop_factory": 5}, TypeError, "loop_factory is to make a loop, not a int"),
        ({"loop_factory": dict}, TypeError, "made a dict, which is no loop"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_clear_error(
    options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        quickly(_awaited, **options)


def test_what_makes_no_coroutine_is_told() -> None:
    wrong: Any = _awaited()
    with pytest.raises(TypeError, match="is to be a function, which is called anew"):
        quickly(wrong)
    with pytest.raises(TypeError, match="is to be a function, not a int"):
        quickly(5)
    with pytest.raises(TypeError, match="make_coroutine gave a int: it has to return a coroutine"):
        quickly(lambda: 5)


def test_a_factory_of_tasks_that_runs_something_else_is_told() -> None:
    async def around(coro: Any) -> Any:
        return await coro

    def factory(loop: Any, coro: Any, **more: Any) -> Any:
        inner = around(coro) if coro.__qualname__.endswith("_awaited") else coro
        return asyncio.Task(inner, loop=loop, **more)

    def make_loop() -> QuickLoop:
        loop = QuickLoop()
        loop.set_task_factory(factory)
        return loop

    with pytest.raises(TypeError, match="task factory runs something else"):
        cancel_everywhere(_awaited, loop_factory=make_loop)


# -- random programs whose fault is known ----------------------------------------------

STEPS = ("pause", "pauses", "group", "timeout", "clean_up", "gather")
FAULTS = ("swallowed", "replaced", "hangs", "left_task", "left_generator", "check")


class Program:
    """Steps one after the other; one of them may be in a block that does one thing wrong.

    Each time that it is about to wait it notes under the name of the function whether it is
    inside that block, so that the expected cases are known: the visits are numbered alike.
    """

    def __init__(self, steps: list[str], fault: str | None, where: int) -> None:
        self.steps = steps
        self.fault = fault
        self.where = where % len(steps)
        self.waits: list[tuple[str, bool]] = []
        self.inside = False
        self.open = False

    async def __call__(self) -> str:
        self.waits, self.inside, self.open = [], False, False
        for number, step in enumerate(self.steps):
            if self.fault is not None and number == self.where:
                await getattr(self, f"with_{self.fault}")(getattr(self, step))
            else:
                await getattr(self, step)()
        return "the end"

    def check(self) -> None:
        assert not self.open

    def note(self, function: str) -> None:
        self.waits.append((function, self.inside))

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    # Steps

    async def pause(self) -> None:
        self.note("Program.pause")
        await asyncio.sleep(0)

    async def pauses(self) -> None:
        await self.pause()
        await self.pause()

    async def group(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pauses())
            await self.pause()
            group.create_task(self.pause())
            self.note("Program.group")

    async def timeout(self) -> None:
        async with asyncio.timeout(5):
            await self.pauses()

    async def clean_up(self) -> None:
        try:
            await self.pause()
        finally:
            await self.pause()

    async def gather(self) -> None:
        self.note("Program.gather")
        await asyncio.gather(self.pause(), self.pauses())

    # Faults

    async def with_swallowed(self, step: Make) -> None:
        try:
            with self.block():
                await step()
        except asyncio.CancelledError:
            pass

    async def with_replaced(self, step: Make) -> None:
        try:
            with self.block():
                await step()
        except asyncio.CancelledError:
            raise LookupError from None

    async def with_hangs(self, step: Make) -> None:
        try:
            with self.block():
                await step()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async def with_left_task(self, step: Make) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def wait() -> None:
            await asyncio.shield(future)

        context = contextvars.copy_context()
        made: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        with self.block():
            # Made by the loop, so that it is nobody's child, and its waiting no point.
            loop.call_soon(lambda: made.append(loop.create_task(wait())), context=context)
            await step()
            await self.pause()
        made[0].cancel()

    async def with_left_generator(self, step: Make) -> None:
        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                self.open = False

        async for _ in numbers():
            with self.block():
                await step()

    async def with_check(self, step: Make) -> None:
        with self.block():
            self.open = True
            await step()
        self.open = False


def expected(program: Program, points: list[str]) -> set[str]:
    """Those of *points*, all in order, at which *program* waits inside its faulty block."""
    visits: dict[str, list[bool]] = {}
    for function, inside in program.waits:
        visits.setdefault(function, []).append(inside)
    found: set[str] = set()
    for point in points:
        label, _, visit = point.partition("#")
        function = label.partition(":")[0]
        if visits[function][int(visit) - 1]:
            found.add(point)
    return found


@settings(max_examples=40)
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=4),
    fault=st.sampled_from((None, *FAULTS)),
    where=st.integers(0, 3),
)
def test_exactly_the_known_faults_of_a_random_program_are_found(
    steps: list[str], fault: str | None, where: int
) -> None:
    program = Program(steps, fault, where)
    waits: list[tuple[str, bool]] = []

    def make() -> Coroutine[Any, Any, str]:
        return program()

    async def once() -> str:
        return await program()

    assert quickly_run(once) == "the end"
    waits = program.waits
    try:
        coverage = quickly(make, check=program.check)
    except UnsafeError as error:
        coverage = error.coverage
    program.waits = waits
    assert not coverage.missing
    assert coverage.covered == coverage.points
    assert Counter(name.partition(":")[0] for name in coverage.points) == Counter(
        name for name, _ in waits
    )
    first = {(name, kind) for name, kind in told(coverage) if "+" not in name}
    wrong = expected(program, coverage.points) if fault is not None else set()
    assert first == {(name, fault) for name in wrong}
    # A second cancel goes wrong only where the block is left by way of its own clean-up.
    again = told(coverage) - first
    assert {name.partition("+")[0] for name, _ in again} <= wrong


def quickly_run(make: Make) -> Any:
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(make())
