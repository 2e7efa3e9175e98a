"""aiotools cancels: its timeouts, its scopes and shields, its groups."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aioaudit.events import TaskCancel
from aioaudit.trail import Trail
from tests.recognising import about, done_by, hang, links, trails

aiotools = pytest.importorskip("aiotools")
taskscope = pytest.importorskip("aiotools.taskscope")
timeouts = pytest.importorskip("aiotools.timeouts")

pytestmark = pytest.mark.filterwarnings("ignore:Use aiotools:DeprecationWarning")

trail_of = trails(TimeoutError, ValueError, quiet=True)


def deadline(trail: Trail, at: str) -> None:
    [own, root] = links(trail.why("host"), __file__)
    root.pop("detail", None)
    said = {"reason": "timeout", "at": at, "message": "timeout"}
    assert own == {"what": "cancelled", "name": "host", **said}
    assert root == {"what": "deadline", "reason": "timeout", "at": at, "seconds": about(0.05)}
    answer = trail.why("host")
    assert answer is not None
    assert (answer.outcome, answer.cancel_outcome) == ("raised", "absorbed")


def test_a_timeout_is_a_deadline_at_the_line_that_entered_it(trail_of: Any) -> None:
    async def scenario() -> None:
        async with timeouts.timeout(0.05):  # LINE timeout
            await hang()

    deadline(trail_of(scenario), "timeout")


def test_a_scope_with_a_timeout_is_a_deadline_for_its_host_and_its_tasks(trail_of: Any) -> None:
    async def scenario() -> None:
        async with aiotools.TaskScope(timeout=0.05) as scope:  # LINE scope
            scope.create_task(hang(), name="child")
            await hang()

    trail = trail_of(scenario)
    deadline(trail, "scope")
    [own, root] = links(trail.why("child"))
    said = {"reason": "aiotools.scope", "at": "scope", "message": "timeout"}
    assert own == {"what": "cancelled", "name": "child", **said}
    assert root == {"what": "deadline", "reason": "timeout", "at": "scope", "seconds": about(0.05)}


def test_a_scope_that_is_closed_names_the_line(trail_of: Any) -> None:
    scope: Any = None

    async def owner() -> None:
        nonlocal scope
        async with aiotools.TaskScope() as scope:
            scope.create_task(hang(), name="child")
            await hang()

    async def scenario() -> None:
        task = asyncio.create_task(owner(), name="owner")
        await asyncio.sleep(0.01)
        await scope.aclose()  # LINE closes
        await asyncio.wait([task])

    trail = trail_of(scenario)
    said = {"reason": "aiotools.closed", "at": "closes", "by_name": "host"}
    for name in ("owner", "child"):
        answer = trail.why(name)
        said |= done_by(answer, "aiotools.taskscope:TaskScope")
        told = links(answer)
        messages = [link.pop("message", None) for link in told]
        assert told == [{"what": "cancelled", "name": name, **said}, {"what": "called", **said}]
        assert messages[0] == messages[1]
        assert name == "owner" or str(messages[0]).endswith("> is closed")


def test_a_scope_that_is_aborted_names_the_line(trail_of: Any) -> None:
    async def scenario() -> None:
        async with aiotools.TaskScope() as scope:
            scope.create_task(hang(), name="child")
            await asyncio.sleep(0)
            scope.abort()  # LINE aborts

    answer = trail_of(scenario).why("child")
    said = {"reason": "aiotools.scope", "at": "aborts", "by_name": "host"}
    said |= done_by(answer, "aiotools.taskscope:TaskScope")
    assert links(answer) == [
        {"what": "cancelled", "name": "child", **said},
        {"what": "called", **said},
    ]


def test_a_scope_whose_body_fails_tells_the_failure(trail_of: Any) -> None:
    async def scenario() -> None:
        async with aiotools.TaskScope() as scope:
            scope.create_task(hang(), name="child")
            await asyncio.sleep(0)
            raise ValueError("body")  # LINE body

    assert links(trail_of(scenario).why("child")) == [
        {"what": "cancelled", "name": "child", "reason": "aiotools.scope", "by_name": "host"},
        {"what": "failed", "name": "host", "error": "ValueError: body", "at": "body"},
    ]


@pytest.mark.parametrize("where", ["body", "exit"])
def test_a_scope_whose_host_is_cancelled_tells_who_cancelled_it(trail_of: Any, where: str) -> None:
    async def owner() -> None:
        async with aiotools.TaskScope() as scope:
            scope.create_task(hang(), name="child")
            if where == "body":
                await hang()

    async def scenario() -> None:
        task = asyncio.create_task(owner(), name="owner")
        await asyncio.sleep(0.01)
        task.cancel()  # LINE cancels_owner
        await asyncio.wait([task])

    said = {"reason": "explicit", "at": "cancels_owner", "by_name": "host"}
    assert links(trail_of(scenario).why("child")) == [
        {"what": "cancelled", "name": "child", "reason": "aiotools.scope", "by_name": "owner"},
        {"what": "cancelled", "name": "owner", **said},
        {"what": "called", **said},
    ]


def test_what_a_shield_held_back_names_who_asked(trail_of: Any) -> None:
    async def owner() -> None:
        with taskscope.ShieldScope():
            await asyncio.sleep(0.05)
        await hang()

    async def scenario() -> None:
        task = asyncio.create_task(owner(), name="owner")
        await asyncio.sleep(0.01)
        task.cancel()  # LINE cancels_shielded
        await asyncio.wait([task])

    said = {"reason": "explicit", "at": "cancels_shielded", "by_name": "host"}
    detail = "a shield held it back"
    assert links(trail_of(scenario).why("owner")) == [
        {"what": "cancelled", "name": "owner", "detail": detail, **said},
        {"what": "called", **said},
    ]


def test_a_group_that_is_shut_down_names_the_line(trail_of: Any) -> None:
    async def scenario() -> None:
        group = aiotools.PersistentTaskGroup()
        result = group.create_task(hang(), name="child")
        waiting = asyncio.ensure_future(waits(result))
        waiting.set_name("waiting")
        await asyncio.sleep(0.01)
        await group.shutdown()  # LINE shuts_down
        await asyncio.wait([waiting])

    async def waits(result: Any) -> None:
        await result

    trail = trail_of(scenario)
    said = {"reason": "aiotools.group", "at": "shuts_down", "by_name": "host"}
    said |= done_by(trail.why("child"), "aiotools.taskgroup.persistent:PersistentTaskGroup")
    whole = [{"what": "cancelled", "name": "child", **said}, {"what": "called", **said}]
    assert links(trail.why("child")) == whole
    assert links(trail.why("waiting"))[-2:] == whole


def test_a_group_whose_owner_is_cancelled_tells_who_cancelled_it(trail_of: Any) -> None:
    async def owner() -> None:
        async with aiotools.PersistentTaskGroup() as group:
            group.create_task(hang(), name="child")
            await hang()

    async def scenario() -> None:
        task = asyncio.create_task(owner(), name="owner")
        await asyncio.sleep(0.01)
        task.cancel()  # LINE cancels_group
        await asyncio.wait([task])

    said = {"reason": "explicit", "at": "cancels_group", "by_name": "host"}
    assert links(trail_of(scenario).why("child")) == [
        {"what": "cancelled", "name": "child", "reason": "aiotools.group", "by_name": "owner"},
        {"what": "cancelled", "name": "owner", **said},
        {"what": "called", **said},
    ]


@pytest.mark.parametrize("many", [False, True])
def test_who_cancels_and_waits_is_named(trail_of: Any, many: bool) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(hang(), name="task")
        await asyncio.sleep(0)
        if many:
            await aiotools.cancel_and_wait([task])  # LINE several
        else:
            await aiotools.cancel_and_wait(task)  # LINE one

    said = {"reason": "explicit", "at": "several" if many else "one", "by_name": "host"}
    assert links(trail_of(scenario).why("task")) == [
        {"what": "cancelled", "name": "task", **said},
        {"what": "called", **said},
    ]


def test_a_context_that_is_closed_names_the_line(trail_of: Any) -> None:
    async def scenario() -> None:
        context = aiotools.TaskContext()
        context.create_task(hang(), name="task")
        await asyncio.sleep(0)
        await context.aclose()  # LINE closes_context

    said = {"reason": "explicit", "at": "closes_context", "by_name": "host"}
    assert links(trail_of(scenario).why("task")) == [
        {"what": "cancelled", "name": "task", **said},
        {"what": "called", **said},
    ]


def test_a_generator_that_is_closed_cancels_nothing(trail_of: Any) -> None:
    async def numbers() -> Any:
        yield 1
        await hang()

    async def scenario() -> None:
        async with aiotools.aclosing(numbers()) as all_numbers:
            async for number in all_numbers:
                assert number == 1
                break

    assert not [each for each in trail_of(scenario).events if isinstance(each, TaskCancel)]
