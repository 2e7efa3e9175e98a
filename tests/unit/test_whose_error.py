"""Whose a CancelledError is in tasks that live long: what is forgotten, and what must not be."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import aioaudit
from aioaudit.events import TaskCancel, TaskDone, TaskUncancel
from aioaudit.log import Log
from tests.loops import every_loop
from tests.recognising import links
from tests.referee import DELIVERIES_ARE_SEEN

MANY = 300
"""More requests than a task keeps."""


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    aioaudit.disable()


async def stubborn(task: asyncio.Task[None], kept: asyncio.Event) -> None:
    """What *task* runs inside its own timeout: it keeps the timeout's error, and many others."""
    for _ in range(MANY):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if task.cancelling() > 1:
                task.uncancel()
            kept.set()
    await asyncio.sleep(60)


async def guarded(kept: asyncio.Event) -> None:
    task = asyncio.current_task()
    assert task is not None
    async with asyncio.timeout(0.01):  # LINE guard
        await stubborn(task, kept)


def log_of(trail: aioaudit.trail.Trail) -> Log:
    log = Log()
    for event in trail.events:
        log.add(event)
    return log


@every_loop
def test_a_timeout_takes_its_own_request_back_however_many_came_since(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    async def main() -> asyncio.Task[None]:
        kept = asyncio.Event()
        victim = asyncio.create_task(guarded(kept), name="victim")
        await kept.wait()  # the timeout's, which is the first
        for _ in range(MANY - 1):
            victim.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        victim.cancel("enough")  # LINE enough
        await asyncio.wait([victim])
        return victim

    with aioaudit.recording() as trail:
        victim = run(main())
        assert victim.cancelled()
        [first, *_, last] = [each for each in trail.events if isinstance(each, TaskCancel)]
        assert first.reason == "timeout"
        taken = [each for each in trail.events if isinstance(each, TaskUncancel)]
        assert taken[-1].source == "asyncio.timeouts:Timeout.__aexit__"
        assert taken[-1].cancel == first.seq
        assert len({each.cancel for each in taken}) == len(taken)
        call = {"reason": "explicit", "at": "enough", "by_name": last.by_name, "message": "enough"}
        wanted = [{"what": "cancelled", "name": "victim"} | call, {"what": "called"} | call]
        assert links(trail.why(victim)) == wanted
        assert links(log_of(trail).why("victim")[0]) == wanted


@every_loop
def test_each_end_may_be_the_cause_of_the_next_for_ever(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    async def relay(further: asyncio.Task[None] | None) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if further is not None:
                further.cancel()
            raise

    async def main() -> list[asyncio.Task[None]]:
        tasks: list[asyncio.Task[None]] = []
        for number in range(1_300):
            further = tasks[-1] if tasks else None
            tasks.append(asyncio.create_task(relay(further), name=str(number)))
        await asyncio.sleep(0)
        tasks[-1].cancel()  # LINE begin
        await asyncio.wait(tasks)
        return tasks

    with aioaudit.recording() as trail:
        tasks = run(main())
        live = trail.why(tasks[0])
        whole = log_of(trail).why("0")[0]
    assert live is not None
    assert len(whole.chain) == 1_301
    assert len(live.chain) < 600
    assert live.root.what == whole.root.what == "called"
    assert live.root.at == whole.root.at
    assert links(whole)[-1]["at"] == "begin"
    assert live.root.detail == "by way of more than 500 others, which the log tells"


def test_a_request_that_was_taken_back_long_ago_is_not_what_a_task_is_to_obey() -> None:
    async def main() -> None:
        async def worker() -> None:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                ready.set()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.02)

        ready = asyncio.Event()
        victim = asyncio.create_task(worker(), name="victim")
        await ready.wait()
        await asyncio.sleep(0)
        victim.cancel()  # LINE later
        for _ in range(3):
            live = links(aioaudit.why(victim))
            assert [each.get("at") for each in live] == ["later", "later"]
            assert links(log_of(trail).why("victim")[0]) == live
            await asyncio.sleep(0)
        await asyncio.wait([victim])

    with aioaudit.recording() as trail:
        asyncio.run(main())


def test_the_line_of_uncancel_says_which_request_it_took_back() -> None:
    async def main() -> None:
        async def worker() -> None:
            async with asyncio.timeout(0.01):
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                    task.uncancel()  # the program's own: not the timeout's request
                    raise

        with pytest.raises(TimeoutError):
            await asyncio.create_task(worker(), name="victim")

    with aioaudit.recording() as trail:
        asyncio.run(main())
    deadline, own = [each for each in trail.events if isinstance(each, TaskCancel)]
    taken = [each.cancel for each in trail.events if isinstance(each, TaskUncancel)]
    assert taken == [own.seq, deadline.seq]
    [done] = [each for each in trail.events if isinstance(each, TaskDone) and each.name == "victim"]
    assert (done.cancel_outcome, done.cancel) == ("absorbed", deadline.seq)


@every_loop
def test_a_limit_of_the_clean_up_is_not_told_for_the_timeout_that_ran_out(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    async def sibling() -> None:
        await asyncio.sleep(60)

    async def victim() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling(), name="sibling")
            async with asyncio.timeout(0.01):  # LINE outer
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    try:
                        async with asyncio.timeout(0.005):  # LINE cleanup
                            await asyncio.sleep(60)
                    except TimeoutError:
                        pass
                    raise

    async def main() -> None:
        task = asyncio.create_task(victim(), name="victim")
        await asyncio.wait([task])
        assert isinstance(task.exception(), ExceptionGroup)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("sibling")
    assert [(each["what"], each.get("at")) for each in links(answer)][-1] == ("deadline", "outer")


def by_hand(gone: asyncio.Future[None]) -> None:
    raise asyncio.CancelledError


def by_result(gone: asyncio.Future[None]) -> None:
    gone.result()


@every_loop
@pytest.mark.parametrize("end", [by_hand, by_result])
@pytest.mark.parametrize("itself", [True, False], ids=["the task", "what it awaits"])
def test_what_was_swallowed_is_not_what_a_later_error_of_nobody_ended(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    end: Callable[[asyncio.Future[None]], None],
    itself: bool,
) -> None:
    async def main() -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        awaited, gone = loop.create_future(), loop.create_future()
        gone.cancel()

        async def worker() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await awaited
            await asyncio.sleep(0)
            end(gone)

        victim = asyncio.create_task(worker(), name="victim")
        await asyncio.sleep(0)
        (victim if itself else awaited).cancel()
        await asyncio.wait([victim])
        return victim

    with aioaudit.recording() as trail:
        victim = run(main())
        assert victim.cancelled()
        logged = log_of(trail).answers("victim")
        live = trail.why(victim)
    if end is by_hand and itself:  # the one answer that there is: it kept what it was asked for
        assert live is not None
        assert live.cancel_outcome == logged[0].cancel_outcome == "swallowed"
        assert live.chain == logged[0].chain
    else:
        assert live is None
        assert [answer.root.reason for answer in logged] == ["unknown"] * (end is by_result)


@every_loop
def test_of_what_a_task_awaited_the_last_is_what_it_is_to_obey(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()

        async def worker() -> None:
            for each in (first, second):
                with contextlib.suppress(asyncio.CancelledError):
                    await each
            await asyncio.sleep(60)

        victim = asyncio.create_task(worker(), name="victim")
        await asyncio.sleep(0)
        first.cancel()  # LINE first
        for _ in range(2):
            live = trail.why(victim)
            assert links(live)[-1]["at"] == "first"
            assert live == log_of(trail).answers("victim")[0]
            await asyncio.sleep(0)
        second.cancel()  # LINE second
        for _ in range(3):
            live = trail.why(victim)
            assert links(live)[-1]["at"] == "second"
            assert live == log_of(trail).answers("victim")[0]
            await asyncio.sleep(0)
        victim.cancel()
        await asyncio.wait([victim])

    with aioaudit.recording() as trail:
        run(main())


@every_loop
def test_a_gather_ends_with_the_first_of_its_futures_that_was_cancelled(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    async def main() -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()

        async def worker() -> None:
            await asyncio.gather(first, second)

        victim = asyncio.create_task(worker(), name="victim")
        await asyncio.sleep(0)
        first.cancel()  # LINE one
        second.cancel()  # LINE other
        await asyncio.wait([victim])
        return victim

    with aioaudit.recording() as trail:
        victim = run(main())
        live = trail.why(victim)
        assert links(live)[-1]["at"] == "one"
        assert live == log_of(trail).answers("victim")[0]


def cancelled_before(own: asyncio.Future[None]) -> asyncio.Future[None]:
    """A future that somebody cancelled before the wait for it began."""
    gone = asyncio.get_running_loop().create_future()
    gone.cancel()
    return gone


def cancelled_by_handler(own: asyncio.Future[None]) -> asyncio.Future[None]:
    """One that the handler cancels itself, because of the error that it handles."""
    own.cancel()
    return own


@every_loop
@pytest.mark.parametrize("what", [cancelled_before, cancelled_by_handler])
@pytest.mark.parametrize("itself", [True, False], ids=["the task", "what it awaits"])
def test_an_error_that_comes_while_another_is_handled_is_no_more_than_a_conclusion(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    what: Callable[[asyncio.Future[None]], asyncio.Future[None]],
    itself: bool,
) -> None:
    async def main() -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        awaited, own = loop.create_future(), loop.create_future()

        async def worker() -> None:
            try:
                await awaited
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                await what(own)

        victim = asyncio.create_task(worker(), name="victim")
        await asyncio.sleep(0)
        (victim if itself else awaited).cancel()  # LINE handled
        await asyncio.wait([victim])
        return victim

    with aioaudit.recording() as trail:
        victim = run(main())
        live = trail.why(victim)
        [logged] = log_of(trail).answers("victim")
    [done] = [each for each in trail.events if isinstance(each, TaskDone) and each.name == "victim"]
    assert done.evidence == "inferred"
    assert live is not None
    assert live.chain == logged.chain
    assert live.summary == logged.summary
    assert "probably because" in live.summary
    assert links(live)[-1]["at"] == "handled"


class _OtherError(Exception):
    pass


async def _cleans_up_badly() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise _OtherError("no disk") from None


async def _asked_by_another() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60), name="sibling")
        victim = group.create_task(_cleans_up_badly(), name="victim")
        await asyncio.sleep(0)
        victim.cancel()


async def _timed_out() -> None:
    async def timed() -> None:
        async with asyncio.timeout(0.001):
            await _cleans_up_badly()

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60), name="sibling")
        group.create_task(timed(), name="victim")


async def _not_cancelled() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise _OtherError("no disk")

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60), name="sibling")
        group.create_task(fails(), name="victim")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            _asked_by_another,
            rf"{__name__}:_asked_by_another called cancel\(\) at .*:\d+ in task .*",
        ),
        (_timed_out, r"the timeout of 0\.001 s at .*:\d+ ran out.*"),
        (_not_cancelled, None),
    ],
)
def test_what_was_raised_in_place_of_a_cancelled_error_says_who_had_cancelled(
    program: Any, said: str | None
) -> None:
    with aioaudit.recording() as trail, contextlib.suppress(ExceptionGroup):
        asyncio.run(program())
    [answer] = log_of(trail).answers("sibling")
    root = answer.root
    assert (root.what, root.name, root.error) == ("failed", "victim", "_OtherError: no disk")
    if said is None or not DELIVERIES_ARE_SEEN:
        assert root.detail is None
    else:
        assert root.detail is not None
        assert re.fullmatch(f"raised when it was cancelled because {said}", root.detail)
