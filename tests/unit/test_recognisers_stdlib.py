"""asyncio cancels by itself: timeouts, attempts to connect that lose, groups as 3.15 ends them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.chain.links import Answer
from aioaudit.events import Finding, TaskCancel
from aioaudit.log import Log
from aioaudit.trail import Trail
from tests.recognising import links

# -- how long a timeout was to last ----------------------------------------------------


def seconds_of(runs_out: Callable[[], Awaitable[None]]) -> float | None:
    """The seconds that are told of the one timeout that runs out in *runs_out*."""

    async def main() -> Trail:
        with aioaudit.recording() as trail, contextlib.suppress(TimeoutError):
            await runs_out()
        return trail

    (request,) = [
        event
        for event in asyncio.run(main()).events
        if isinstance(event, TaskCancel) and event.reason == "timeout"
    ]
    return request.origin_seconds


def is_measured(told: float | None, *, most: float) -> bool:
    """Whether *told* is what was left of *most*: nothing, where the machine was busy."""
    return told is not None and 0 <= told <= most


def hold_up() -> None:
    """Let others have the processor for a while."""
    time.sleep(0.02)


def test_the_seconds_of_a_timeout_are_those_that_the_program_gave() -> None:
    async def runs_out() -> None:
        limit = asyncio.timeout(0.03)
        hold_up()
        async with limit:
            await forever()

    assert seconds_of(runs_out) == 0.03


def test_the_seconds_are_told_as_a_number_of_that_kind() -> None:
    async def runs_out() -> None:
        async with asyncio.timeout(0):
            await forever()

    told = seconds_of(runs_out)
    assert told == 0
    assert type(told) is float


def test_a_timeout_that_is_set_anew_has_the_seconds_that_were_left_then() -> None:
    async def runs_out() -> None:
        async with asyncio.timeout(30) as limit:
            limit.reschedule(asyncio.get_running_loop().time() + 0.01)
            await forever()

    assert is_measured(seconds_of(runs_out), most=0.01)


def test_of_timeouts_that_are_made_at_once_each_has_its_own_seconds() -> None:
    async def runs_out() -> None:
        first, second = asyncio.timeout(0.03), asyncio.timeout(30)
        hold_up()
        async with first, second:
            await forever()

    assert is_measured(seconds_of(runs_out), most=0.03)


def test_a_timeout_of_the_clock_at_the_place_of_another_has_seconds_of_its_own() -> None:
    async def runs_out() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(100):
            where = id(asyncio.timeout(30))
            limit = asyncio.timeout_at(loop.time() + 0.01)
            if id(limit) == where:
                break
        else:
            pytest.skip("no address is used again here")
        async with limit:
            await forever()

    assert is_measured(seconds_of(runs_out), most=0.01)


# -- happy eyeballs -------------------------------------------------------------------


@contextlib.asynccontextmanager
async def host_with_two_addresses(*, second_answers: bool) -> AsyncIterator[int]:
    """A port at two addresses of a host; the queue of the first is full, so it never answers."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port: int = first.getsockname()[1]
        stack.enter_context(socket.create_server(("127.0.0.2", port), backlog=0))
        for address in ("127.0.0.1",) if second_answers else ("127.0.0.1", "127.0.0.2"):
            for _ in range(3):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex((address, port))
        loop = asyncio.get_running_loop()

        async def getaddrinfo(*_: Any, **__: Any) -> Any:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
                for address in ("127.0.0.1", "127.0.0.2")
            ]

        loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]  # a name server that knows the host
        yield port


async def connect(port: int) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(
        asyncio.Protocol, "host.example", port, happy_eyeballs_delay=0.1
    )
    transport.close()


def losers(trail: Trail) -> list[Answer]:
    """The answers of the attempts to connect that were cancelled."""
    log = Log()
    for event in trail.events:
        log.add(event)
    return [answer for answer in log.why() if answer.coro.endswith(".run_one_coro")]


def test_an_attempt_to_connect_that_loses_says_that_another_won() -> None:
    async def main() -> Trail:
        with aioaudit.recording() as trail:
            async with host_with_two_addresses(second_answers=True) as port:
                await asyncio.create_task(connect(port), name="connecting")
        return trail

    trail = asyncio.run(main())
    # What waits for its turn to try has a timeout of its own, which is no reason to end.
    answers = [answer for answer in losers(trail) if answer.root.what != "deadline"]
    assert answers
    for answer in answers:
        [own, root] = links(answer)
        said = {
            "reason": "asyncio.race",
            "by_name": own["by_name"],
            "detail": "another attempt to connect was faster",
        }
        assert own == {"what": "cancelled", "name": answer.name, **said}
        assert root == {"what": "called", **said}
        assert answer.root.source == "asyncio.staggered:staggered_race.<locals>.run_one_coro"
        assert (answer.outcome, answer.cancel_outcome) == ("returned", "swallowed") or (
            answer.outcome == "cancelled"
        )


def test_attempts_to_connect_end_with_the_task_that_waits_for_them() -> None:
    async def main() -> Trail:
        with aioaudit.recording() as trail:
            asyncio.current_task().set_name("main")  # type: ignore[union-attr]  # a task runs this
            async with host_with_two_addresses(second_answers=False) as port:
                connecting = asyncio.create_task(connect(port), name="connecting")
                await asyncio.sleep(0.02)
                connecting.cancel()  # LINE given_up
                await asyncio.wait([connecting])
                await asyncio.sleep(0)
        return trail

    trail = asyncio.run(main())
    answers = losers(trail)
    assert answers
    said = {"reason": "explicit", "at": "given_up", "by_name": "main"}
    for answer in answers:
        assert links(answer) == [
            {
                "what": "cancelled",
                "name": answer.name,
                "reason": "awaiter",
                "by_name": "connecting",
            },
            {"what": "cancelled", "name": "connecting", **said},
            {"what": "called", **said},
        ]


# -- groups of Python 3.15 ---------------------------------------------------------------

GROUP_OF_3_15 = """
from asyncio.taskgroups import TaskGroup as _TaskGroup

class TaskGroup(_TaskGroup):
    early = False

    async def __aenter__(self):
        await super().__aenter__()
        if self.early:
            self.cancel()
        return self

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        return True

    def create_task(self, coro, **keywords):
        task = super().create_task(coro, **keywords)
        if self._aborting and not task.done():
            task.cancel()
        return task

    def cancel(self):
        if not self._entered:
            self.early = True
        elif not self._aborting:
            self._abort()
            if not self._parent_cancel_requested:
                self._parent_cancel_requested = True
                self._parent_task.cancel()
"""
"""What 3.15 adds to the group that is here, at the places in which it adds it.

An interpreter of that version takes its own.
"""


@pytest.fixture(scope="module")
def task_group() -> Any:
    if hasattr(asyncio.TaskGroup, "cancel"):
        return asyncio.TaskGroup
    # Callers are known by their module and name, in files of the standard library.
    file = asyncio.taskgroups.__file__
    module = types.ModuleType("asyncio.taskgroups")
    exec(compile(GROUP_OF_3_15, file, "exec"), vars(module))
    return module.TaskGroup


async def forever() -> None:
    await asyncio.sleep(3600)


def test_a_group_that_is_cancelled_names_the_line_that_did(task_group: Any) -> None:
    def end(group: Any) -> None:
        group.cancel()  # LINE cancelled

    async def scenario() -> None:
        async with task_group() as group:
            group.create_task(forever(), name="child")
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(end, group)
            await forever()

    async def main() -> Trail:
        with aioaudit.recording() as trail:
            await asyncio.create_task(scenario(), name="owner")
        return trail

    trail = asyncio.run(main())
    said = {"reason": "task_group", "at": "cancelled"}
    for name, outcome in {"child": "obeyed", "owner": "absorbed"}.items():
        answer = trail.why(name)
        assert links(answer) == [
            {"what": "cancelled", "name": name, **said},
            {"what": "called", **said},
        ]
        assert answer is not None
        assert answer.cancel_outcome == outcome


def test_a_group_cancelled_before_it_was_entered_and_before_auditing_began_blames_nobody(
    task_group: Any,
) -> None:
    group = task_group()
    group.cancel()

    async def scenario() -> None:
        async with group:
            await forever()

    async def main() -> Trail:
        with aioaudit.recording() as trail:
            await asyncio.create_task(scenario(), name="owner")
        return trail

    [link] = links(asyncio.run(main()).why("owner"))
    assert link == {
        "what": "cancelled",
        "name": "owner",
        "reason": "task_group",
        "by_name": "owner",
        "detail": "the group was cancelled before it was entered",
    }


def test_a_task_that_joins_a_cancelled_group_is_cancelled_because_the_group_was(
    task_group: Any,
) -> None:
    if sys.version_info < (3, 12):
        pytest.skip("no eager tasks before Python 3.12")

    async def ends_it(group: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("child")
        group.cancel()  # LINE joined
        await forever()

    async def scenario() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with task_group() as group:
            group.create_task(ends_it(group), name="child")
            await forever()

    async def main() -> Trail:
        with aioaudit.recording() as trail:
            await asyncio.create_task(scenario(), name="owner")
        return trail

    trail = asyncio.run(main())
    of_owner = [
        {
            "what": "cancelled",
            "name": "owner",
            "reason": "task_group",
            "at": "joined",
            "by_name": "child",
        },
        {"what": "called", "reason": "task_group", "at": "joined", "by_name": "child"},
    ]
    assert links(trail.why("owner")) == of_owner
    assert links(trail.why("child")) == [
        {"what": "cancelled", "name": "child", "reason": "task_group", "by_name": "owner"},
        *of_owner,
    ]


@pytest.fixture
def keeping_group(task_group: Any) -> Any:
    """A group that keeps cancellations from outside, as before gh-155433."""
    file = Path(asyncio.taskgroups.__file__)
    text = file.read_text()
    before = re.sub(r"( +)elif propagate_cancellation_error is None:\n(\1 +.*\n)+", "", text)
    before = re.sub(r" +pending_cancellation_error = .*\n", "", before)
    if before == text:
        return task_group
    module = types.ModuleType("asyncio.taskgroups")
    module.__package__ = "asyncio"
    exec(compile(before, file, "exec"), vars(module))
    return module.TaskGroup


def test_a_group_that_keeps_a_cancellation_from_outside_is_found(keeping_group: Any) -> None:
    if sys.version_info < (3, 13):
        # cancel() is 3.15's, and what stands in for it here is made of the group of this version.
        pytest.skip("before 3.13 a group takes its request back before it waits for its tasks")

    cleaning, over = asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await forever()
        finally:
            cleaning.set()
            await over.wait()

    async def owner() -> str:
        async with keeping_group() as group:
            group.create_task(slow_to_end(), name="child")
            await asyncio.sleep(0)
            group.cancel()
        return "as if nothing had been"

    async def main() -> Trail:
        with aioaudit.recording() as trail:
            task = asyncio.create_task(owner(), name="owner")
            await cleaning.wait()
            task.cancel()  # LINE from_outside
            await asyncio.sleep(0)
            over.set()
            assert await task == "as if nothing had been"
        return trail

    trail = asyncio.run(main())
    [found] = [event for event in trail.events if isinstance(event, Finding)]
    assert (found.kind, found.severity, found.name) == ("swallowed", "finding", "owner")
    assert str(found.at).startswith(f"{__file__}:")
    assert "gh-155433" in str(found.detail)
    assert "/asyncio/taskgroups.py:" in str(found.swallowed_at)
    answer = trail.why("owner")
    assert answer is not None
    assert (answer.outcome, answer.cancel_outcome) == ("returned", "swallowed")


def test_a_group_that_hands_a_cancellation_from_outside_on_is_no_finding(task_group: Any) -> None:
    if "gh-155433" not in Path(asyncio.taskgroups.__file__).read_text():
        pytest.skip("groups of this Python have no cancel(), or keep what comes from outside")

    cleaning, over = asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await forever()
        finally:
            cleaning.set()
            await over.wait()

    async def owner() -> None:
        async with task_group() as group:
            group.create_task(slow_to_end(), name="child")
            await asyncio.sleep(0)
            group.cancel()

    async def main() -> Trail:
        with aioaudit.recording() as trail:
            task = asyncio.create_task(owner(), name="owner")
            await cleaning.wait()
            task.cancel()  # LINE handed_on
            await asyncio.sleep(0)
            over.set()
            await asyncio.wait([task])
        return trail

    trail = asyncio.run(main())
    assert [event for event in trail.events if isinstance(event, Finding)] == []
    answer = trail.why("owner")
    assert answer is not None
    assert (answer.outcome, answer.cancel_outcome) == ("cancelled", "obeyed")
    assert links(answer)[-1]["at"] == "handed_on"


# -- python -m asyncio -----------------------------------------------------------------------
