"""anyio cancels: scopes, deadlines, task groups and portals, as they run on asyncio's loops."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.chain.links import Answer
from aioaudit.events import TaskCancel, TaskDone
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.log import Log
from aioaudit.session import current
from aioaudit.trail import Trail
from tests import serving
from tests.conftest import Runner
from tests.recognising import about, hang, links, name_task, trails
from tests.unit.test_recognisers_stdlib import host_with_two_addresses
from tests.waiting import PATIENCE

anyio = pytest.importorskip("anyio")
anyio_asyncio = pytest.importorskip("anyio._backends._asyncio")
from_thread = pytest.importorskip("anyio.from_thread")

REASONS = "reason" in inspect.signature(anyio_asyncio.CancelScope.cancel).parameters
with_reasons = pytest.mark.skipif(
    not REASONS, reason="this anyio takes no reason for a cancellation (before 4.11)"
)
GIVEN_UP = "scope" if hasattr(anyio, "TaskHandle") else "explicit"
"""Why a task is cancelled whose start is given up: before 4.14 no scope of its own does it."""


trail_of = trails()


def told(answer: Answer | None) -> list[dict[str, Any]]:
    """The links of *answer*, but for how late a timer was."""
    found = links(answer)
    for link in found:
        if link.get("detail", "").endswith(" s late"):
            del link["detail"]
    return found


def requests(trail: Trail, name: str) -> list[TaskCancel]:
    return [each for each in trail.events if isinstance(each, TaskCancel) and each.name == name]


def end(trail: Trail, name: str) -> tuple[str, str | None]:
    [done] = [each for each in trail.events if isinstance(each, TaskDone) and each.name == name]
    return done.outcome, done.cancel_outcome


async def boom() -> None:
    await asyncio.sleep(0.01)
    raise ValueError("bad thing")  # LINE boom


FAILED = {"what": "failed", "name": "boom", "error": "ValueError: bad thing", "at": "boom"}


def test_who_cancels_a_scope_is_named_with_line_and_reason(trail_of: Any) -> None:
    async def stop(scope: Any) -> None:
        scope.cancel(*(["enough"] if REASONS else []))  # LINE explicit

    async def scenario() -> None:
        with anyio.CancelScope() as scope:
            stopper = asyncio.create_task(stop(scope), name="stopper")
            await hang()
        await stopper

    trail = trail_of(scenario)
    said = {"reason": "scope", "at": "explicit", "by_name": "stopper"}
    if REASONS:
        said["detail"] = "enough"
    assert told(trail.why("host")) == [
        {"what": "cancelled", "name": "host", **said},
        {"what": "called", **said},
    ]
    assert end(trail, "host") == ("returned", "absorbed")
    [request] = requests(trail, "host")
    assert request.source is not None
    assert request.source.endswith("<locals>.stop")


def test_a_task_that_cancels_the_scope_it_is_in_gets_one_request(trail_of: Any) -> None:
    """anyio delivers from callbacks and again, as the task goes on waiting; nobody else asks."""

    def give_up(scope: Any) -> None:
        scope.cancel()  # LINE itself

    async def scenario() -> None:
        with anyio.CancelScope() as scope:
            give_up(scope)
            for _ in range(5):
                try:
                    await hang()
                except asyncio.CancelledError as error:
                    sources.append(getattr(error, "source", None))
            await hang()

    sources: list[str | None] = []
    trail = trail_of(scenario)
    said = {"reason": "scope", "at": "itself", "by_name": "host"}
    assert told(trail.why("host")) == [
        {"what": "cancelled", "name": "host", **said},
        {"what": "called", **said},
    ]
    assert len(requests(trail, "host")) == 1
    assert len(sources) == 5
    assert {str(source).rpartition(".")[2] for source in sources} == {"give_up"}
    assert end(trail, "host") == ("returned", "absorbed")


def test_what_a_task_awaits_gets_one_request_however_often_a_scope_delivers(trail_of: Any) -> None:
    async def stubborn(scope: Any) -> None:
        asyncio.get_running_loop().call_later(0.001, scope.cancel)  # LINE later
        for _ in range(4):
            try:
                await hang()
            except asyncio.CancelledError:
                continue

    async def scenario() -> None:
        with anyio.CancelScope() as scope:
            await asyncio.create_task(stubborn(scope), name="inner")
            await hang()

    trail = trail_of(scenario)
    given = {"reason": "scope", "at": "later", "detail": "given to call_later()"}
    assert told(trail.why("inner")) == [
        {"what": "cancelled", "name": "inner", "reason": "awaiter", "by_name": "host"},
        {"what": "cancelled", "name": "host", **given},
        {"what": "called", **given},
    ]
    assert (len(requests(trail, "inner")), len(requests(trail, "host"))) == (1, 1)
    assert end(trail, "inner") == ("returned", "swallowed")
    assert end(trail, "host") == ("returned", "absorbed")


@pytest.mark.parametrize("raises", [False, True], ids=["move_on_after", "fail_after"])
def test_a_deadline_names_the_line_that_entered_it_and_its_length(
    trail_of: Any, raises: bool
) -> None:
    async def scenario() -> None:
        if raises:
            with anyio.fail_after(0.05):  # LINE fail_after
                await hang()
        with anyio.move_on_after(0.05):  # LINE move_on_after
            await hang()

    trail = trail_of(scenario)
    label = "fail_after" if raises else "move_on_after"
    assert told(trail.why("host")) == [
        {"what": "cancelled", "name": "host", "reason": "scope", "at": label},
        {"what": "deadline", "reason": "timeout", "at": label, "seconds": about(0.05)},
    ]
    assert end(trail, "host") == ("raised" if raises else "returned", "absorbed")


def test_a_deadline_that_was_moved_keeps_its_line_and_counts_from_the_move(trail_of: Any) -> None:
    async def scenario() -> None:
        with anyio.move_on_after(30) as scope:  # LINE moved
            await asyncio.sleep(0.05)
            scope.deadline = anyio.current_time() + 0.1
            await hang()

    [_, root] = told(trail_of(scenario).why("host"))
    moved = root.pop("seconds")  # from the move on, which is a little later than it was counted
    assert root == {"what": "deadline", "reason": "timeout", "at": "moved"}
    assert 0 < moved <= 0.1


def test_a_deadline_that_was_moved_before_it_was_entered_counts_from_there(trail_of: Any) -> None:
    async def scenario() -> None:
        scope = anyio.move_on_after(30)
        scope.deadline = anyio.current_time() + 0.1
        with scope:  # LINE moved_before
            await hang()

    [_, root] = told(trail_of(scenario).why("host"))
    moved = root.pop("seconds")
    assert root == {"what": "deadline", "reason": "timeout", "at": "moved_before"}
    assert 0 < moved <= 0.1


def test_a_deadline_that_has_passed_on_entering_is_one(trail_of: Any) -> None:
    async def scenario() -> None:
        with anyio.move_on_after(0):  # LINE passed
            await hang()

    trail = trail_of(scenario)
    [link, root] = links(trail.why("host"))
    assert link == {"what": "cancelled", "name": "host", "reason": "scope", "at": "passed"}
    assert (root["what"], root["at"], root["seconds"]) == ("deadline", "passed", 0)


def test_an_outer_deadline_reaches_every_task_inside_as_one_request(trail_of: Any) -> None:
    async def child() -> None:
        in_time.append(not scopes[-1].cancel_called)
        with anyio.CancelScope():
            await hang()

    async def scenario(seconds: float) -> None:
        with anyio.move_on_after(seconds) as scope:  # LINE outer
            scopes.append(scope)
            async with anyio.create_task_group() as group:
                group.start_soon(child, name="child")

    scopes: list[Any] = []
    in_time: list[bool] = []
    for seconds in (0.05, 0.5, 5.0):
        trail = trail_of(partial(scenario, seconds))
        if any(in_time):
            break  # else a busy machine took all that time before it began
    for name in ("child", "host"):
        assert told(trail.why(name)) == [
            {"what": "cancelled", "name": name, "reason": "scope", "at": "outer"},
            {"what": "deadline", "reason": "timeout", "at": "outer", "seconds": about(seconds)},
        ]
        assert len(requests(trail, name)) == 1
    assert end(trail, "child") == ("cancelled", "obeyed")
    assert end(trail, "host") == ("returned", "absorbed")
    [of_host], [of_child] = requests(trail, "host"), requests(trail, "child")
    assert (of_host.taken_back, of_child.taken_back) == (True, False)


def test_a_failed_child_is_why_its_siblings_and_its_group_are_cancelled(trail_of: Any) -> None:
    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(hang, name="sibling")
            group.start_soon(boom, name="boom")

    trail = trail_of(scenario)
    for name in ("sibling", "host"):
        assert told(trail.why(name)) == [
            {"what": "cancelled", "name": name, "reason": "scope"},
            FAILED,
        ]
    assert end(trail, "sibling") == ("cancelled", "obeyed")
    assert end(trail, "host") == ("raised", "absorbed")


def test_the_chain_goes_through_groups_in_groups_to_the_first_failure(trail_of: Any) -> None:
    async def middle() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(boom, name="boom")
            group.start_soon(hang, name="cousin")

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(middle, name="middle")
            group.start_soon(hang, name="victim")

    [own, failed, root] = told(trail_of(scenario).why("victim"))
    assert own == {"what": "cancelled", "name": "victim", "reason": "scope"}
    assert (failed["what"], failed["name"]) == ("failed", "middle")
    assert failed["error"].startswith("ExceptionGroup: unhandled errors in a TaskGroup")
    assert root == FAILED


def test_a_child_whose_time_ran_out_leads_to_its_deadline(trail_of: Any) -> None:
    async def slow() -> None:
        with anyio.fail_after(0.05):  # LINE slow
            await hang()

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(slow, name="slow")
            group.start_soon(hang, name="sibling")

    assert told(trail_of(scenario).why("sibling")) == [
        {"what": "cancelled", "name": "sibling", "reason": "scope"},
        {"what": "failed", "name": "slow", "error": "TimeoutError", "at": "slow"},
        {"what": "deadline", "reason": "timeout", "at": "slow", "seconds": about(0.05)},
    ]


def test_a_body_that_raises_is_why_its_children_are_cancelled(trail_of: Any) -> None:
    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(hang, name="child")
            await asyncio.sleep(0.01)
            raise KeyError("lost")  # LINE body

    trail = trail_of(scenario)
    assert told(trail.why("child")) == [
        {"what": "cancelled", "name": "child", "reason": "scope", "by_name": "host"},
        {"what": "failed", "name": "host", "error": "KeyError: 'lost'", "at": "body"},
    ]


@pytest.mark.parametrize("where", ["body", "exit"])
def test_a_host_that_is_cancelled_is_why_its_children_are(trail_of: Any, where: str) -> None:
    async def owner() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(hang, name="child")
            if where == "body":
                await hang()

    async def scenario() -> None:
        task = asyncio.create_task(owner(), name="owner")
        await asyncio.sleep(0.01)
        task.cancel()  # LINE owner
        await asyncio.wait([task])

    trail = trail_of(scenario)
    said = {"reason": "explicit", "at": "owner", "by_name": "host"}
    chain = [{"what": "cancelled", "name": "owner", **said}, {"what": "called", **said}]
    assert told(trail.why("owner")) == chain
    assert told(trail.why("child")) == [
        {"what": "cancelled", "name": "child", "reason": "scope", "by_name": "owner"},
        *chain,
    ]
    assert end(trail, "owner") == ("cancelled", "obeyed")


def test_a_child_that_somebody_cancels_takes_its_group_with_it(trail_of: Any) -> None:
    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            before = asyncio.all_tasks()
            group.start_soon(hang, name="first")
            [first] = asyncio.all_tasks() - before
            group.start_soon(hang, name="second")
            await asyncio.sleep(0.01)
            first.cancel()  # LINE first
            await hang()

    trail = trail_of(scenario)
    said = {"reason": "explicit", "at": "first", "by_name": "host"}
    assert told(trail.why("second")) == [
        {"what": "cancelled", "name": "second", "reason": "scope"},
        {"what": "cancelled", "name": "first", **said},
        {"what": "called", **said},
    ]


def test_a_shield_keeps_a_request_away_until_it_ends(trail_of: Any) -> None:
    async def scenario() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()  # LINE shielded
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.05)
                reached.append("behind the shield")
            await hang()

    reached: list[str] = []
    trail = trail_of(scenario)
    assert reached == ["behind the shield"]
    said = {"reason": "scope", "at": "shielded", "by_name": "host"}
    assert told(trail.why("host")) == [
        {"what": "cancelled", "name": "host", **said},
        {"what": "called", **said},
    ]
    assert len(requests(trail, "host")) == 1


@with_reasons
def test_scopes_in_a_row_at_the_same_address_are_told_apart(trail_of: Any) -> None:
    async def scenario() -> None:
        for reason in ("one", "two", "three"):
            with anyio.CancelScope() as scope:
                scope.cancel(reason)
                await hang()
            del scope

    trail = trail_of(scenario)
    assert [each.detail for each in requests(trail, "host")] == ["one", "two", "three"]


def test_a_cancel_beside_a_scope_is_not_taken_for_the_scopes(trail_of: Any) -> None:
    """anyio lets a plain ``cancel()`` through that comes while its own is under way."""

    async def worker() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await hang()
        await hang()

    async def scenario() -> None:
        task = asyncio.create_task(worker(), name="worker")
        await asyncio.sleep(0.01)
        scopes[0].cancel()  # LINE by_scope
        await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()  # LINE plain
        await asyncio.wait([task])

    scopes: list[Any] = []
    trail = trail_of(scenario)
    said = {"reason": "explicit", "at": "plain", "by_name": "host"}
    assert told(trail.why("worker")) == [
        {"what": "cancelled", "name": "worker", **said},
        {"what": "called", **said},
    ]
    assert [each.reason for each in requests(trail, "worker")] == ["scope", "explicit"]
    assert end(trail, "worker") == ("cancelled", "obeyed")


def test_of_two_requests_at_once_the_one_that_is_not_taken_back_is_obeyed(trail_of: Any) -> None:
    async def worker() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await hang()

    async def scenario() -> None:
        task = asyncio.create_task(worker(), name="worker")
        await asyncio.sleep(0.01)
        scopes[0].cancel()
        task.cancel()  # LINE stays
        await asyncio.wait([task])
        cancelled.append(task.cancelled())

    scopes: list[Any] = []
    cancelled: list[bool] = []
    trail = trail_of(scenario)
    if cancelled == [False]:
        pytest.skip("this anyio takes both back: the task returns")
    assert end(trail, "worker") == ("cancelled", "obeyed")
    said = {"reason": "explicit", "at": "stays", "by_name": "host"}
    assert told(trail.why("worker")) == [
        {"what": "cancelled", "name": "worker", **said},
        {"what": "called", **said},
    ]


@with_reasons
def test_the_first_who_cancels_a_scope_is_the_one(trail_of: Any) -> None:
    async def scenario() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel("first")
            scope.cancel("second")
            await hang()

    assert told(trail_of(scenario).why("host"))[-1]["detail"] == "first"


def test_who_ends_a_shield_is_not_who_cancelled(trail_of: Any) -> None:
    async def worker() -> None:
        with anyio.CancelScope(shield=True) as inner:
            scopes.append(inner)
            await hang()

    async def owner() -> None:
        async with anyio.create_task_group() as group:
            groups.append(group)
            group.start_soon(worker, name="worker")
            group.start_soon(boom, name="boom")

    async def scenario() -> None:
        task = asyncio.create_task(owner(), name="owner")
        while not (scopes and groups[0].cancel_scope.cancel_called):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
        scopes[0].shield = False
        await asyncio.wait([task])

    groups: list[Any] = []
    scopes: list[Any] = []
    assert told(trail_of(scenario).why("worker")) == [
        {"what": "cancelled", "name": "worker", "reason": "scope"},
        FAILED,
    ]


def test_a_task_whose_start_was_given_up_goes_on_to_who_gave_up(trail_of: Any) -> None:
    async def never_ready(*, task_status: Any) -> None:
        await hang(task_status)

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            with anyio.move_on_after(0.05):  # LINE start
                await group.start(never_ready, name="service")

    trail = trail_of(scenario)
    [own, *_, root] = told(trail.why("service"))
    assert (own["what"], own["name"], own["reason"]) == ("cancelled", "service", GIVEN_UP)
    assert root == {"what": "deadline", "reason": "timeout", "at": "start", "seconds": about(0.05)}


@pytest.mark.parametrize("way", ["portal", "run_sync"])
@pytest.mark.parametrize("what", ["task", "scope"])
def test_what_a_thread_has_the_loop_call_names_its_function_and_line(
    trail_of: Any, way: str, what: str
) -> None:
    async def scenario() -> None:
        scopes: list[Any] = []

        async def scoped() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await hang()

        def by_portal(cancel: Any) -> None:
            portal.call(cancel)  # LINE by_portal

        def by_run_sync(cancel: Any) -> None:
            anyio.from_thread.run_sync(cancel)  # LINE by_run_sync

        async with anyio.from_thread.BlockingPortal() as portal:
            victim = asyncio.create_task(scoped(), name="victim")
            await asyncio.sleep(0.01)
            give = by_portal if way == "portal" else by_run_sync
            cancel = victim.cancel if what == "task" else scopes[0].cancel
            await anyio.to_thread.run_sync(give, cancel)
            await asyncio.wait([victim])

    answer = trail_of(scenario).why("victim")
    said = {"reason": "thread", "at": f"by_{way}", "by_name": "AnyIO worker thread"}
    assert told(answer) == [
        {"what": "cancelled", "name": "victim", **said},
        {"what": "called", **said},
    ]
    assert answer.root.source.endswith(f"scenario.<locals>.by_{way}")
    assert "probably" not in answer.summary


def test_a_scope_that_another_thread_cancels_names_thread_and_line(trail_of: Any) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as scope:

            def from_afar() -> None:
                time.sleep(0.02)
                loop.call_soon_threadsafe(scope.cancel)  # LINE thread

            thread = threading.Thread(target=from_afar, name="afar")
            thread.start()
            await hang()
        thread.join()

    trail = trail_of(scenario)
    said = {
        "reason": "thread",
        "at": "thread",
        "by_name": "afar",
        "detail": "given to call_soon_threadsafe()",
    }
    assert told(trail.why("host")) == [
        {"what": "cancelled", "name": "host", **said},
        {"what": "called", **said},
    ]


def test_a_portal_that_stops_says_so(trail_of: Any) -> None:
    async def called() -> None:
        begun.set()
        await hang()

    async def scenario() -> None:
        async with from_thread.BlockingPortal() as portal:

            def ask() -> None:
                portal.start_task_soon(called, name="called")

            await anyio.to_thread.run_sync(ask)
            await begun.wait()
            await portal.stop(cancel_remaining=True)  # LINE portal

    begun = asyncio.Event()
    trail = trail_of(scenario)
    said = {
        "reason": "scope",
        "at": "portal",
        "by_name": "host",
        "library": "anyio.from_thread:BlockingPortal.stop",
        "library_at": "anyio/from_thread.py",
    } | ({"detail": "the blocking portal is shutting down"} if REASONS else {})
    assert told(trail.why("called")) == [
        {"what": "cancelled", "name": "called", **said},
        {"what": "called", **said},
    ]


@pytest.mark.skipif(
    not hasattr(from_thread.BlockingPortal, "call_async"),
    reason="this anyio cancels the call in a task of its own, which knows no thread",
)
def test_a_call_through_a_portal_that_its_thread_gives_up_names_thread_and_line(
    trail_of: Any,
) -> None:
    async def called() -> None:
        begun.set()
        await hang()

    async def scenario() -> None:
        async with from_thread.BlockingPortal() as portal:

            def ask() -> None:
                future = portal.start_task_soon(called, name="called")
                begun.wait()
                future.cancel()  # LINE portal_future

            thread = threading.Thread(target=ask, name="asker")
            thread.start()
            await anyio.to_thread.run_sync(thread.join)

    begun = threading.Event()
    said = {
        "reason": "thread",
        "at": "portal_future",
        "by_name": "asker",
        "detail": "the future was cancelled",
    }
    [own, root] = told(trail_of(scenario).why("called"))
    assert own == {"what": "cancelled", "name": "called", **said}
    assert root == {"what": "called", **said}


def test_a_call_through_a_portal_ends_with_what_it_calls_into(trail_of: Any) -> None:
    """The thread that waits hears of it; the chain is that of the loop's own tasks."""

    async def called() -> None:
        name_task("called")
        await hang()

    def ask(portal: Any) -> None:
        try:
            portal.call(called)
        except BaseException as error:  # noqa: BLE001 - what the thread hears is looked at
            heard.append(type(error).__name__)

    async def scenario() -> None:
        async with from_thread.BlockingPortal() as portal:
            with anyio.CancelScope(shield=True):
                thread = asyncio.create_task(asyncio.to_thread(ask, portal), name="thread")
                await serving.begun("called")
                await portal.stop(cancel_remaining=True)  # LINE portal_call
                await asyncio.wait([thread])

    heard: list[str] = []
    trail = trail_of(scenario)
    assert heard == ["CancelledError"]
    said = {
        "reason": "scope",
        "at": "portal_call",
        "by_name": "host",
        "library": "anyio.from_thread:BlockingPortal.stop",
        "library_at": "anyio/from_thread.py",
    } | ({"detail": "the blocking portal is shutting down"} if REASONS else {})
    assert told(trail.why("called")) == [
        {"what": "cancelled", "name": "called", **said},
        {"what": "called", **said},
    ]


@pytest.mark.parametrize("how", ["handle", "group"])
def test_short_ways_to_cancel_a_scope_name_the_line_that_takes_them(
    trail_of: Any, how: str
) -> None:
    if not hasattr(anyio, "TaskHandle") and not hasattr(anyio.abc.TaskGroup, "cancel"):
        pytest.skip("this anyio has neither")

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            handle = group.start_soon(hang, name="child")
            await asyncio.sleep(0.01)
            if how == "handle":
                handle.cancel()  # LINE handle
            else:
                group.cancel("enough")  # LINE group

    said = {"reason": "scope", "at": how, "by_name": "host"}
    if how == "group":
        said["detail"] = "enough"
    assert told(trail_of(scenario).why("child")) == [
        {"what": "cancelled", "name": "child", **said},
        {"what": "called", **said},
    ]


@with_reasons
def test_a_scope_in_a_cancelled_scope_hands_its_request_on(trail_of: Any) -> None:
    """Leaving an inner scope starts the delivery of the outer one again: the same request."""

    async def scenario() -> None:
        with anyio.CancelScope() as outer:
            outer.cancel("outer")  # LINE outer_scope
            with anyio.CancelScope() as inner:
                inner.cancel("inner")  # LINE inner_scope
                with contextlib.suppress(asyncio.CancelledError):
                    await hang()
            with anyio.CancelScope(shield=True) as shield, anyio.CancelScope():
                await asyncio.sleep(0.01)
                shield.shield = False
            await hang()

    trail = trail_of(scenario)
    found = requests(trail, "host")
    assert {each.detail for each in found} <= {"outer", "inner"}
    assert len(found) == len({each.detail for each in found})
    said = {"reason": "scope", "at": "outer_scope", "by_name": "host", "detail": "outer"}
    assert told(trail.why("host")) == [
        {"what": "cancelled", "name": "host", **said},
        {"what": "called", **said},
    ]


def test_a_start_whose_caller_is_cancelled_goes_on_to_who_did(trail_of: Any) -> None:
    async def never_ready(*, task_status: Any) -> None:
        await hang(task_status)

    async def caller() -> None:
        async with anyio.create_task_group() as group:
            await group.start(never_ready, name="service")  # LINE starting

    async def scenario() -> None:
        task = asyncio.create_task(caller(), name="caller")
        await asyncio.sleep(0.01)
        task.cancel()  # LINE caller
        await asyncio.wait([task])

    trail = trail_of(scenario)
    said = {"reason": "explicit", "at": "caller", "by_name": "host"}
    chain = [{"what": "cancelled", "name": "caller", **said}, {"what": "called", **said}]
    assert told(trail.why("caller")) == chain
    [own, *rest] = told(trail.why("service"))
    assert (own["name"], own["reason"], own["by_name"]) == ("service", GIVEN_UP, "caller")
    assert rest == chain


def test_a_listener_that_closes_ends_what_accepts_from_it(trail_of: Any) -> None:
    async def scenario() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        [inner] = listener.listeners
        accepting = asyncio.create_task(inner.accept(), name="accepting")
        while inner._accept_scope is None:  # noqa: ASYNC110 - nothing tells when it accepts
            await asyncio.sleep(0.001)
        await listener.aclose()  # LINE listener
        await asyncio.wait([accepting])

    trail = trail_of(scenario)
    said = {
        "reason": "scope",
        "at": "listener",
        "by_name": "host",
        "library": "anyio._backends._asyncio:TCPSocketListener.aclose",
        "library_at": "anyio/_backends/_asyncio.py",
    }
    assert told(trail.why("accepting")) == [
        {"what": "cancelled", "name": "accepting", **said},
        {"what": "called", **said},
    ]
    assert end(trail, "accepting") == ("raised", "absorbed")


def test_closing_by_force_cancels_only_the_scope_that_it_makes(trail_of: Any) -> None:
    class Resource:
        async def aclose(self) -> None:
            await asyncio.sleep(0)

    async def scenario() -> None:
        await anyio.aclose_forcefully(Resource())  # LINE forced

    trail = trail_of(scenario)
    said = {
        "reason": "scope",
        "at": "forced",
        "by_name": "host",
        "library": "anyio._core._resources:aclose_forcefully",
        "library_at": "anyio/_core/_resources.py",
    }
    assert told(trail.why("host")) == [
        {"what": "cancelled", "name": "host", **said},
        {"what": "called", **said},
    ]
    assert end(trail, "host") == ("returned", "absorbed")


def test_an_attempt_to_connect_that_loses_says_that_another_won() -> None:
    async def main() -> Trail:
        with aioaudit.recording() as trail:
            async with host_with_two_addresses(second_answers=True) as port:
                stream = await anyio.connect_tcp("host.example", port, happy_eyeballs_delay=0.05)
                await stream.aclose()
        return trail

    trail = asyncio.run(main())
    log = Log()
    for event in trail.events:
        log.add(event)
    answers = [answer for answer in log.why() if answer.name.endswith(".try_connect")]
    assert answers
    for answer in answers:
        said = {"reason": "anyio.race", "detail": "another attempt to connect was faster"}
        [own, root] = told(answer)
        assert (own["what"], own["name"]) == ("cancelled", answer.name)
        assert own.items() >= said.items()
        assert root["what"] == "called"
        assert root.items() >= said.items()
        assert root["at"] == "anyio/_core/_sockets.py"


def test_a_scope_cancelled_before_auditing_began_is_said_to_be_one() -> None:
    async def worker() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            while not audited.is_set():
                begun.set()
                with contextlib.suppress(asyncio.CancelledError):
                    await hang()
            await hang()

    async def main() -> None:
        with aioaudit.recording():  # what an earlier recording knew is not this one's
            task = asyncio.create_task(worker(), name="worker")
            await begun.wait()
        with aioaudit.recording() as trail:
            audited.set()
            await asyncio.wait([task])
            assert told(trail.why("worker")) == [
                {
                    "what": "cancelled",
                    "name": "worker",
                    "reason": "scope",
                    "detail": "it was not seen who cancelled the scope",
                }
            ]

    begun, audited = asyncio.Event(), asyncio.Event()
    asyncio.run(main())


def test_anyio_is_left_as_it_was_found() -> None:
    before = dict(vars(anyio_asyncio.CancelScope)), list(sys.meta_path)
    with aioaudit.recording():
        assert vars(anyio_asyncio.CancelScope) != before[0]
        assert anyio_asyncio.CancelScope.cancel.__qualname__ == "CancelScope.cancel"
    assert (dict(vars(anyio_asyncio.CancelScope)), list(sys.meta_path)) == before


LATE = """\
import asyncio, sys
import aioaudit

async def main():
    import anyio
    assert "anyio._backends._asyncio" not in sys.modules
    with anyio.move_on_after(0.05):
        await asyncio.sleep(60)

finders = list(sys.meta_path)
with aioaudit.recording() as trail:
    assert len(sys.meta_path) == len(finders) + 1
    asyncio.run(main())
    import aiotools.taskscope, aiotools.timeouts  # the others that are waited for
    import PySide6.QtAsyncio.tasks
    import aiohttp.web_protocol, opentelemetry.context, websockets.protocol
    # An old OpenTelemetry imports importlib_metadata, which has one of its own.
    more = [type(each).__module__ for each in sys.meta_path if each not in finders]
    assert more in ([], ["importlib_metadata"])
    import anyio._backends._asyncio as backend
    assert "exec_module" not in vars(backend.__spec__.loader)
    root = trail.why("Task-1").root
    print(root.what, root.seconds, root.at.rpartition(":")[2])
"""

NEVER = """\
import sys
import aioaudit
before = list(sys.meta_path)
with aioaudit.recording():
    assert sys.meta_path != before
assert sys.meta_path == before
assert not [name for name in sys.modules if name.partition(".")[0] in ("anyio", "aiohttp", "aiotools")]
"""


def test_anyio_may_be_imported_after_auditing_began(
    run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    pytest.importorskip("websockets")
    # As much of Qt's as is waited for: the real thing is large.
    package = tmp_path / "PySide6" / "QtAsyncio"
    package.mkdir(parents=True)
    (package / "tasks.py").write_text(
        "class QAsyncioTask:\n"
        "    def cancel(self, msg=None): return True\n"
        "    def uncancel(self): return 0\n"
    )
    done = run_python("-c", LATE)
    assert (done.stdout, done.stderr) == ("deadline 0.05 7\n", "")


def test_a_library_is_never_imported_for_its_recogniser(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python("-c", NEVER)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_is_never_blamed_on_the_wrong_awaiter(trail_of: Any) -> None:
    """A scope that ends a wait of its own does nothing to a wait that comes later."""

    async def scenario() -> None:
        with anyio.move_on_after(0.02):
            await hang()
        waiting: Awaitable[None] = asyncio.create_task(hang(), name="later")
        with anyio.move_on_after(0.02):  # LINE second
            await waiting

    trail = trail_of(scenario)
    chain = told(trail.why("later"))
    assert [link["what"] for link in chain] == ["cancelled", "cancelled", "deadline"]
    assert chain[-1]["at"] == "second"


BEHIND_ANOTHER_FINDER = """
import asyncio, sys
from importlib.machinery import PathFinder

class First:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, path) if name.startswith("anyio") else None

sys.meta_path.insert(0, First)

async def hurry():
    with anyio.move_on_after(0.01):
        await anyio.sleep(5)

async def later():
    global anyio
    import anyio
    import anyio._backends._asyncio
    import this_and_that
    await hurry()

{start}
asyncio.run(asyncio.sleep(0))
import aiotools.taskscope, aiotools.timeouts  # the others that are waited for
assert sys.meta_path[0] is First
"""


@pytest.mark.parametrize("start", ["import anyio; anyio.run(hurry)", "asyncio.run(later())"])
def test_scopes_are_seen_where_another_finder_finds_anyio_before_ours_is_asked(
    run_python: Runner, tmp_path: Path, start: str
) -> None:
    """As pytest's does, which finds the modules of all its plugins."""
    (tmp_path / "this_and_that.py").touch()
    program = tmp_path / "program.py"
    program.write_text(BEHIND_ANOTHER_FINDER.format(start=start))
    done = run_python(str(program), AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    [answer] = aioaudit.load(tmp_path / "log.jsonl").why()
    line = program.read_text().splitlines().index("    with anyio.move_on_after(0.01):") + 1
    assert (answer.root.what, answer.root.at) == ("deadline", f"{program}:{line}")


def test_a_late_deadline_says_what_blocked_the_loop() -> None:
    async def main() -> None:
        with anyio.move_on_after(0.001):
            session = current()
            assert session is not None
            blocks, since = session.recorder.state.blocks, time.monotonic()
            while not blocks.explain(asyncio.get_running_loop(), time.monotonic() - since):
                wait(0.01)
            try:
                await anyio.sleep(PATIENCE)
            except asyncio.CancelledError as error:
                answers.append(aioaudit.why(error))
                raise

    answers: list[Answer | None] = []
    wait = time.sleep
    with aioaudit.enable(MemoryExporter(), blocked=0.05):
        asyncio.run(main())
    [answer] = answers
    assert answer is not None
    assert answer.root.what == "deadline"
    assert re.match(
        r"[\d.]+ s late: the loop was (probably )?blocked by ", answer.root.detail or ""
    )
