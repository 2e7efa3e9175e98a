"""The assertions of `aioaudit.testing`: what they let pass, and what they say where they do not."""

from __future__ import annotations

import asyncio
import contextlib
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.cpython.behaviour import HAS_MONITORING
from aioaudit.settings import SettingsError
from aioaudit.testing import (
    NotRecordedError,
    assert_cancelled,
    assert_no_findings,
    assert_not_cancelled,
)
from aioaudit.trail import Trail, innermost

HERE = Path(__file__).name
FOLDER = Path(__file__).parent.name
LINES = Path(__file__).read_text().splitlines()


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    aioaudit.disable()


def at(mark: str) -> str:
    [line] = [n for n, text in enumerate(LINES, 1) if text.endswith(f"# LINE {mark}")]
    return f"{HERE}:{line}"


async def wait() -> None:
    await asyncio.sleep(60)


async def price() -> None:
    await asyncio.sleep(0)
    raise ConnectionResetError("hung up")  # LINE failed


async def reviews() -> None:
    await asyncio.create_task(wait(), name="inner")


async def page() -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(reviews(), name="reviews")
            await asyncio.sleep(0)
            group.create_task(price(), name="price")
    except* ConnectionResetError:
        pass


@pytest.fixture
def trail() -> Iterator[Trail]:
    with aioaudit.recording() as recorded:
        asyncio.run(page())
        yield recorded


def failure(check: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as caught:
        check()
    return str(caught.value)


# -- assert_cancelled -----------------------------------------------------------------------


@pytest.mark.usefixtures("trail")
def test_what_is_so_passes_and_gives_the_answer() -> None:
    answer = assert_cancelled("reviews", by="failed", at=at("failed"), reason="task_group", via=[])
    assert answer.root.error == "ConnectionResetError: hung up"
    assert_cancelled("inner", by="failed", at=HERE, reason="awaiter", via=["reviews"])
    assert_cancelled("inner", at=f"{FOLDER}/{at('failed')}")
    assert_cancelled("inner", at=f"./{HERE}")
    assert_cancelled("inner")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"by": "deadline"}, "by: 'deadline' was asserted, it is 'failed'"),
        ({"at": "other.py"}, "at: 'other.py' was asserted, it is '"),
        ({"at": f"{HERE}:1"}, f"at: '{HERE}:1' was asserted, it is '"),
        ({"at": HERE[1:]}, f"at: '{HERE[1:]}' was asserted, it is '"),
        ({"reason": "timeout"}, "reason: 'timeout' was asserted, it is 'awaiter'"),
        ({"via": []}, "via: [] was asserted, it is ['reviews']"),
        ({"via": ["price"]}, "via: ['price'] was asserted, it is ['reviews']"),
        ({"reason": "grpc.deadline"}, "reason: 'grpc.deadline' was asserted, it is 'awaiter'"),
    ],
)
@pytest.mark.usefixtures("trail")
def test_what_is_not_so_is_told_with_the_chain(given: dict[str, Any], told: str) -> None:
    first, second, third, root, *steps = failure(
        lambda: assert_cancelled("inner", **given)
    ).splitlines()
    assert first == "wait (inner) was cancelled, but not as asserted:"
    assert second.strip().startswith(told)
    assert third.startswith("wait (inner) was cancelled because price failed with ")
    assert root.startswith("  root cause: price failed with ConnectionResetError: hung up at ")
    assert root.endswith(at("failed"))
    assert steps == [
        "  └─ reviews was cancelled, reason task_group",
        "     └─ inner was cancelled, reason awaiter, by reviews",
    ]


@pytest.mark.usefixtures("trail")
def test_all_that_is_different_is_told_at_once() -> None:
    text = failure(lambda: assert_cancelled("inner", by="signal", at="x.py", via=[]))
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:4]] == ["by", "at", "via"]


@pytest.mark.usefixtures("trail")
def test_a_name_that_no_task_had_is_no_answer() -> None:
    for check in (assert_cancelled, assert_not_cancelled):
        text = failure(lambda check=check: check("review"))  # type: ignore[misc]
        assert text.startswith(
            "no task 'review' was recorded (did you mean 'reviews'?); there were"
        )
        assert ", reviews, inner, price, " in text


@pytest.mark.usefixtures("trail")
def test_a_task_that_nobody_cancelled_was_not_cancelled() -> None:
    assert_not_cancelled("price")
    assert failure(lambda: assert_cancelled("price")) == (
        "'price' was not cancelled: nobody asked it to"
    )
    text = failure(lambda: assert_not_cancelled("reviews"))
    assert text.startswith("reviews was cancelled because price failed with ")


def test_tasks_and_errors_are_asked_about_while_auditing_is_on() -> None:
    async def main() -> None:
        task = asyncio.create_task(wait(), name="waiter")
        idle = asyncio.create_task(wait(), name="idle")
        await asyncio.sleep(0)
        assert_not_cancelled(task)
        task.cancel()  # LINE called
        assert "it has not ended" in failure(lambda: assert_cancelled(task))
        try:
            await task
        except asyncio.CancelledError as error:
            assert_cancelled(error, by="called", at=at("called"), reason="explicit")
            with pytest.raises(AssertionError, match="was asked to cancel because"):
                assert_not_cancelled(error)
        assert_cancelled(task, by="called", at=at("called"))
        assert failure(lambda: assert_cancelled(idle)) == (
            "the task 'idle' was not cancelled: nobody asked it to"
        )

    with aioaudit.enable():
        asyncio.run(main())


def test_an_error_stands_for_the_cancelled_error_behind_it() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.01):  # LINE timeout
                await wait()
        assert_cancelled(caught.value, by="deadline", at=at("timeout"), reason="timeout")
        with pytest.raises(AssertionError):
            assert_not_cancelled(caught.value)
        task = asyncio.current_task()
        assert task is not None
        assert_not_cancelled(task)  # the timeout took its request back
        assert_not_cancelled(ValueError("of something else"))

    with aioaudit.enable():
        asyncio.run(main())


def test_one_that_swallowed_it_was_asked_and_did_not_end_so() -> None:
    async def stubborn() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await wait()

    async def main() -> None:
        task = asyncio.create_task(stubborn(), name="stubborn")
        for _ in range(2):
            await asyncio.sleep(0.01)
            task.cancel()
        await asyncio.wait([task])

    with aioaudit.recording():
        asyncio.run(main())
        text = failure(lambda: assert_cancelled("stubborn"))
        assert text.startswith("stubborn did not end cancelled: it returned\nstubborn was asked to")
        assert "it swallowed the cancellation" in failure(lambda: assert_not_cancelled("stubborn"))
        text = failure(assert_no_findings)
        assert text.startswith("1 finding\n  swallowed: ")
        assert_no_findings(ignore=["swallowed"])


def test_of_tasks_of_one_name_one_has_to_be_as_asserted() -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(wait(), name="worker") for _ in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # LINE one
        await asyncio.sleep(0)
        tasks[1].cancel()  # LINE other
        await asyncio.wait(tasks)

    with aioaudit.recording():
        asyncio.run(main())
        assert_cancelled("worker", at=at("one"))
        assert_cancelled("worker", at=at("other"))
        text = failure(lambda: assert_cancelled("worker", by="deadline"))
    assert text.startswith("none of 2 tasks 'worker' is as asserted\n")


# -- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: assert_cancelled("inner", by="deadlin"),
            "by='deadlin': there is no such kind of cause (did you mean 'deadline'?); allowed:"
            " cancelled, failed, signal, deadline, shutdown, called",
        ),
        (
            lambda: assert_cancelled("inner", reason="time_out"),
            "reason='time_out': there is no such reason (did you mean 'timeout'?); allowed: awaiter,",
        ),
        (
            lambda: assert_cancelled("inner", reason=3),  # type: ignore[arg-type]
            "reason=3: there is no such reason; allowed: awaiter,",
        ),
        (
            lambda: assert_no_findings(ignore=["swalowed"]),
            "ignore='swalowed': there is no such kind of finding (did you mean 'swallowed'?);",
        ),
    ],
    ids=["by", "reason", "a number", "ignore"],
)
@pytest.mark.usefixtures("trail")
def test_what_there_is_not_is_one_clear_error(check: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check()
    assert str(caught.value).startswith(message)


UNFIT: list[tuple[Callable[[], object], str]] = [
    (lambda: assert_cancelled(3.5), "or a task's name is wanted, not 3.5"),  # type: ignore[arg-type]
    (lambda: assert_cancelled(True), "or a task's name is wanted, not True"),
    (lambda: assert_cancelled("inner", via="reviews"), "via is a list of names, not 'reviews'"),
    (lambda: assert_cancelled("inner", via=3), "via is a list of names, not 3"),  # type: ignore[arg-type]
    (lambda: assert_cancelled("inner", at=3), "at is the end of a path, with its line"),  # type: ignore[arg-type]
    (lambda: assert_cancelled("inner", trail="it"), "trail is what recording() gives, not 'it'"),  # type: ignore[arg-type]
    (lambda: assert_not_cancelled("price", trail=3), "trail is what recording() gives"),  # type: ignore[arg-type]
    (lambda: assert_no_findings(ignore="swallowed"), "ignore is a list of kinds, not 'swallowed'"),
    (lambda: assert_no_findings(ignore=3), "ignore is a list of kinds, not 3"),  # type: ignore[arg-type]
    (lambda: assert_no_findings(trail=3), "trail is what recording() gives, not 3"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("check", "message"), UNFIT, ids=[each[1] for each in UNFIT])
@pytest.mark.usefixtures("trail")
def test_another_type_is_a_type_error(check: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        check()
    assert message in str(caught.value)


class EmptyError(Exception):
    """One that counts as nothing: it is a collection of errors, and has none."""

    def __len__(self) -> int:
        return 0


@pytest.mark.usefixtures("trail")
def test_an_error_of_which_nothing_is_known_is_not_said_to_have_no_cause() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_cancelled(ValueError("from elsewhere"))
    assert str(caught.value) == (
        "what raised ValueError('from elsewhere') was not cancelled: no request is known that it"
        " came of"
    )


@pytest.mark.skipif(not HAS_MONITORING, reason="an error that is caught again is not known there")
def test_an_error_that_counts_as_nothing_still_leads_to_what_it_came_of() -> None:
    async def empties() -> None:
        try:
            await wait()
        except asyncio.CancelledError as error:
            raise EmptyError from error

    async def main() -> None:
        task = asyncio.create_task(empties())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except EmptyError as error:
            try:
                raise LookupError from error
            except LookupError as last:
                last.__context__ = None
                assert_cancelled(last, by="called")

    with aioaudit.recording():
        asyncio.run(main())


def test_where_nothing_is_recorded_the_error_says_what_to_do() -> None:
    with aioaudit.recording() as trail:
        asyncio.run(page())
    assert_cancelled("inner", by="failed", trail=trail)
    assert_no_findings(trail=trail)

    async def main() -> None:
        task = asyncio.create_task(wait())
        for check in (
            lambda: assert_cancelled(task),
            lambda: assert_not_cancelled("Task-1"),
            assert_no_findings,
        ):
            with pytest.raises(NotRecordedError, match=r"with aioaudit\.recording\(\) as trail"):
                check()
        task.cancel()

    asyncio.run(main())


def test_a_name_needs_a_recording() -> None:
    with aioaudit.enable(), pytest.raises(NotRecordedError, match="on, but nothing is recorded"):
        assert_cancelled("Task-1")
    with aioaudit.enable(), pytest.raises(NotRecordedError, match="on, but nothing is recorded"):
        assert_no_findings()


def test_the_innermost_recording_is_asked() -> None:
    with aioaudit.recording() as outer:
        with aioaudit.recording() as inner:
            assert innermost() is inner
        assert innermost() is outer
    assert innermost() is None
    with aioaudit.recording():
        assert innermost() is not None  # also where nobody holds it


# -- unittest ---------------------------------------------------------------------------------


class Told(unittest.IsolatedAsyncioTestCase):
    """A test case as others write them; it is run below."""

    __test__ = False

    async def test_who_cancelled(self) -> None:
        with aioaudit.recording():
            task = asyncio.create_task(wait(), name="waiter")
            await asyncio.sleep(0)
            task.cancel()  # LINE unittest
            await asyncio.wait([task])
            assert_cancelled(task, by="called", at=at("unittest"))
            assert_cancelled("waiter", by="deadline")


def test_in_unittest_a_failure_shows_the_chain_and_none_of_our_lines() -> None:
    result = unittest.TestResult()
    Told("test_who_cancelled").run(result)
    assert result.errors == []
    [(_, text)] = result.failures
    assert "wait (waiter) was cancelled, but not as asserted:" in text
    assert "by: 'deadline' was asserted, it is 'called'" in text
    assert 'assert_cancelled("waiter", by="deadline")' in text
    assert "aioaudit/testing" not in text.replace("\\", "/")
