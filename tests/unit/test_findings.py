"""What goes wrong with cancellations: each fault made on purpose, and what healthy programs do.

The programs stand in the tests; ``# LINE label`` marks the lines that a finding has to name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future as ThreadFuture
from pathlib import Path
from typing import Any, Self

import pytest

import aioaudit
from aioaudit.events import (
    NAMES,
    Finding,
    TaskCancel,
)
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.findings.catalogue import CATALOGUE
from aioaudit.findings.groups import grouped, report_of
from aioaudit.findings.words import particulars, sentence
from aioaudit.session import current
from tests.logs import made
from tests.loops import MAKERS, every_loop, uvloop

Run = Callable[[Coroutine[Any, Any, Any]], Any]
SEEN = sys.version_info >= (3, 12)
"""Whether the arrival of a CancelledError is seen."""


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    """Whatever a test turns on is off after it."""
    yield
    aioaudit.disable()


@functools.cache
def lines() -> dict[str, int]:
    """The numbers of this file's lines by label."""
    found: dict[str, int] = {}
    for number, text in enumerate(Path(__file__).read_text().splitlines(), 1):
        match = re.search(r"# LINE (\w+)$", text)
        if match:
            assert match[1] not in found, f"the label {match[1]} is there twice"
            found[match[1]] = number
    return found


def at(label: str) -> str:
    """``path:line`` of the line with this label."""
    return f"{__file__}:{lines()[label]}"


def findings(run: Callable[[Any], Any], what: Any, slow: float | None = None) -> list[Finding]:
    """What is found while *run* runs *what*; every finding must be one that people can read."""
    with aioaudit.recording() as trail:
        session = current()
        assert session is not None
        session.recorder.rules.slow_after = 1000.0 if slow is None else slow
        run(what)
        events = trail.events
    requests = {event.seq: event for event in events if isinstance(event, TaskCancel)}
    found = [event for event in events if isinstance(event, Finding)]
    for each in found:
        assert each.kind in CATALOGUE
        assert sentence(each)
        assert all(particulars(each))
        if each.cancel is not None:
            assert requests[each.cancel].seq < each.seq
    return found


def said(found: list[Finding]) -> list[tuple[str, str, str]]:
    """Kind, severity and task of each finding."""
    return [(each.kind, each.severity, each.name) for each in found]


async def forever() -> None:
    await asyncio.sleep(3600)  # LINE forever


def spawn(name: str, coro: Coroutine[Any, Any, Any] | None = None) -> asyncio.Task[Any]:
    return asyncio.create_task(forever() if coro is None else coro, name=name)


def call_me(name: str) -> None:
    """Name the current task."""
    task = asyncio.current_task()
    assert task is not None
    task.set_name(name)


async def steps(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def settle(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


# -- swallowed -------------------------------------------------------------------------


@every_loop
def test_a_task_that_goes_on_has_swallowed_its_cancellation(run: Run) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)  # LINE before
        except asyncio.CancelledError:  # LINE kept
            kept.append("kept")
        await asyncio.sleep(3600)  # LINE after

    kept: list[str] = []

    async def main() -> None:
        call_me("main")
        victim = spawn("victim", stubborn())
        await steps()
        victim.cancel()  # LINE asked
        await steps()
        victim.cancel()
        await settle(victim)

    [found] = findings(run, main())
    assert said([found]) == [("swallowed", "finding", "victim")]
    assert (found.at, found.reason, found.by_name) == (at("asked"), "explicit", "main")
    assert found.source == f"{__name__}:{main.__qualname__}"
    assert (found.suspended_at, found.waits_at) == (at("before"), at("after"))
    assert found.swallowed_at == (at("kept") if SEEN else None)
    assert found.outcome is None


@every_loop
def test_what_is_told_while_the_program_runs_is_told_before_the_end(run: Run) -> None:
    """A task that never ends is found out as well."""
    told_live: list[str] = []

    async def deaf() -> None:
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):  # LINE deaf
                await forever()

    async def main() -> None:
        victim = spawn("victim", deaf())
        await steps()
        for _ in range(2):
            victim.cancel()
            await steps()
        told_live.extend(kinds)
        victim.cancel()
        await settle(victim)

    kinds: list[str] = []
    remove = aioaudit.addaudithook(
        lambda name, args: kinds.append(args[0].kind) if name == "finding" else None
    )
    try:
        found = findings(run, main())
    finally:
        remove()
    if SEEN:
        assert told_live == ["swallowed", "swallowed"]
        assert [each.swallowed_at for each in found[:2]] == [at("deaf")] * 2
    else:
        assert told_live == ["swallowed"]
    assert kinds == [each.kind for each in found]


@pytest.mark.parametrize("result", [None, "alive"])
@every_loop
def test_to_return_at_once_is_a_note_and_to_return_a_result_is_none(
    run: Run, result: str | None
) -> None:
    async def worker() -> str | None:
        try:
            await forever()
        except asyncio.CancelledError:  # LINE worker
            await asyncio.sleep(0)
        return result

    async def main() -> None:
        victim = spawn("victim", worker())
        await steps()
        victim.cancel()
        await settle(victim)

    [found] = findings(run, main())
    severity = "note" if result is None else "finding"
    assert said([found]) == [("swallowed", severity, "victim")]
    assert found.outcome == "returned"
    assert found.swallowed_at == (at("worker") if SEEN else None)


@every_loop
def test_a_timeout_whose_block_swallows_is_found(run: Run) -> None:
    async def main() -> None:
        call_me("main")
        async with asyncio.timeout(0.01):  # LINE timeout
            with contextlib.suppress(asyncio.CancelledError):  # LINE guarded
                await forever()

    [found] = findings(run, main())
    assert said([found]) == [("swallowed", "finding", "main")]
    assert (found.reason, found.at) == ("timeout", at("timeout"))
    assert found.swallowed_at == (at("guarded") if SEEN else None)


@every_loop
def test_an_error_that_was_translated_and_forgotten_is_swallowed(run: Run) -> None:
    async def translate() -> None:
        try:
            await forever()
        except asyncio.CancelledError as error:  # LINE translated
            raise LookupError("nothing") from error

    async def caller() -> None:
        with contextlib.suppress(LookupError):
            await translate()
        await forever()

    async def main() -> None:
        victim = spawn("victim", caller())
        await steps()
        victim.cancel()
        await steps()
        victim.cancel()
        await settle(victim)

    [found] = findings(run, main())
    assert said([found]) == [("swallowed", "finding", "victim")]
    assert found.swallowed_at == (at("translated") if SEEN else None)


# -- lost, coalesced ---------------------------------------------------------------------


@every_loop
def test_a_request_that_the_awaited_task_keeps_is_lost(run: Run) -> None:
    async def keeps() -> None:
        with contextlib.suppress(asyncio.CancelledError):  # LINE keeps
            await forever()

    async def main() -> None:
        inner = spawn("inner", keeps())

        async def awaits() -> None:
            await inner  # LINE awaits
            await asyncio.sleep(3600)  # LINE goes_on

        outer = spawn("outer", awaits())
        await steps()
        outer.cancel()  # LINE lost
        await steps()
        outer.cancel()
        await settle(outer)

    found = findings(run, main())
    assert said(found) == [("swallowed", "note", "inner"), ("lost", "finding", "outer")]
    lost = found[1]
    assert (lost.at, lost.suspended_at, lost.other_name) == (at("lost"), at("awaits"), "inner")
    assert lost.swallowed_at == (at("keeps") if SEEN else None)
    assert lost.waits_at == at("goes_on")


@every_loop
def test_a_task_that_fails_before_it_feels_its_own_request_has_lost_it(run: Run) -> None:
    async def fails(main_task: Any) -> None:
        main_task.append(asyncio.current_task())
        callback()  # LINE calls
        raise LookupError("nothing")

    def callback() -> None:
        tasks[0].cancel()  # LINE cancels

    tasks: list[asyncio.Task[Any]] = []

    async def main() -> None:
        await settle(spawn("victim", fails(tasks)))

    found = findings(run, main())
    assert said(found) == [("self_cancel", "finding", "victim"), ("lost", "finding", "victim")]
    assert [each.at for each in found] == [at("cancels")] * 2
    assert (found[1].outcome, found[1].error) == ("raised", "LookupError: nothing")


@every_loop
def test_a_task_that_is_cancelled_after_its_end_is_called_by_what_it_ran(run: Run) -> None:
    async def runs() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        task = spawn("late", runs())
        await steps()
        task.cancel()

    [found] = findings(run, main())
    assert (found.kind, found.coro.rpartition(".")[2]) == ("already_done", "runs")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_task_that_ends_the_program_has_lost_nothing(error: type[BaseException]) -> None:
    async def ends() -> None:
        tasks[0].cancel()
        raise error

    async def main() -> None:
        tasks.append(spawn("victim", ends()))
        await settle(tasks[0])

    def run(what: Any) -> None:
        with pytest.raises(error):
            asyncio.run(what)

    tasks: list[asyncio.Task[Any]] = []
    found = findings(run, main())
    assert [each for each in said(found) if each[0] == "lost"] == []


@every_loop
def test_two_requests_before_one_delivery_are_both_named_in_order(run: Run) -> None:
    async def main() -> None:
        victim = spawn("victim")
        await steps()

        async def other() -> None:
            victim.cancel("second")  # LINE second

        first = spawn("first", other())
        victim.cancel("first")  # LINE first
        await settle(victim, first)

    async def both() -> None:
        victim = spawn("victim")
        await steps()
        victim.cancel("one")  # LINE one
        victim.cancel("two")  # LINE two
        await settle(victim)

    async def same() -> None:
        victim = spawn("victim")
        await steps()
        victim.cancel()
        victim.cancel()
        await settle(victim)

    [found] = findings(run, both())
    assert said([found]) == [("coalesced", "finding", "victim")]
    assert (found.at, found.other_at) == (at("one"), at("two"))
    assert found.cancel is not None
    assert found.other_cancel is not None
    assert found.cancel < found.other_cancel
    assert said(findings(run, same())) == [("coalesced", "note", "victim")]
    # The other task runs only after the first request was delivered: nothing is coalesced.
    assert said(findings(run, main())) in ([], [("coalesced", "finding", "victim")])


# -- slow --------------------------------------------------------------------------------


@every_loop
def test_a_slow_cleanup_is_found_with_its_line(run: Run) -> None:
    async def slowly() -> None:
        try:
            await forever()
        finally:
            try:
                await asyncio.sleep(0)
            finally:  # the bytecode of the outer one begins with the inner one's first line
                await asyncio.sleep(0.3)

    async def main() -> None:
        victim = spawn("victim", slowly())
        await steps()
        victim.cancel()  # LINE slowly
        await settle(victim)

    [found] = findings(run, main(), slow=0.2)
    assert said([found]) == [("slow", "finding", "victim")]
    assert found.at == at("slowly")
    assert found.seconds is not None
    assert found.seconds >= 0.29
    if SEEN:
        assert found.delivered_after is not None
        assert found.waited is not None
        assert found.delivered_after + found.waited <= found.seconds
        assert found.waited >= 0.29
        assert str(found.waits_at).startswith(f"{__file__}:")


@every_loop
def test_what_waits_for_a_slow_task_is_not_told_as_well(run: Run) -> None:
    async def inner() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.3)

    async def outer() -> None:
        await spawn("inner", inner())

    async def main() -> None:
        victim = spawn("outer", outer())
        await steps()
        victim.cancel()  # LINE outer
        await settle(victim)

    [found] = findings(run, main(), slow=0.2)
    assert said([found]) == [("slow", "finding", "inner")]
    assert (found.reason, found.at) == ("awaiter", at("outer"))


@pytest.mark.skipif(not SEEN, reason="nobody sees a CancelledError arrive before 3.12")
@every_loop
def test_a_loop_that_is_busy_is_found(run: Run) -> None:
    async def main() -> None:
        victim = spawn("victim")
        await steps()
        victim.cancel()
        time.sleep(0.3)  # noqa: ASYNC251 - the fault
        await settle(victim)

    [found] = findings(run, main(), slow=0.2)
    assert said([found]) == [("slow", "finding", "victim")]
    assert found.delivered_after is not None
    assert found.delivered_after >= 0.29
    assert found.detail == "the loop came round to it as late: it was busy, or the machine was"


@every_loop
def test_a_block_that_does_not_heed_its_timeout_in_time_is_found(run: Run) -> None:
    async def main() -> None:
        call_me("main")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):  # LINE late
                try:
                    await forever()
                finally:
                    await asyncio.sleep(0.3)

    [found] = findings(run, main(), slow=0.2)
    assert said([found]) == [("slow", "finding", "main")]
    assert (found.at, found.outcome) == (at("late"), None)


# -- requests that should not be -----------------------------------------------------------


@every_loop
def test_a_request_to_a_finished_task_is_a_note(run: Run) -> None:
    async def fails() -> None:
        raise LookupError("nothing")

    async def main() -> None:
        ended = spawn("ended", steps(1))
        failed = spawn("failed", fails())
        await settle(ended, failed)
        ended.cancel()  # LINE finished
        failed.cancel()

    found = findings(run, main())
    assert said(found) == [("already_done", "note", "ended"), ("already_done", "note", "failed")]
    assert [each.outcome for each in found] == ["returned", "raised"]
    assert (found[0].at, found[1].error) == (at("finished"), "LookupError: nothing")


@every_loop
def test_a_task_that_cancels_itself_is_found(run: Run) -> None:
    async def gives_up() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # LINE itself
        await forever()

    async def main() -> None:
        await settle(spawn("victim", gives_up()))

    [found] = findings(run, main())
    assert said([found]) == [("self_cancel", "finding", "victim")]
    assert (found.at, found.by_name) == (at("itself"), "victim")


@every_loop
def test_a_call_from_another_thread_is_found_unless_the_loop_is_asked(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wrong, right = spawn("wrong"), spawn("right")
        await steps()

        def ask() -> None:
            wrong.cancel()  # LINE foreign
            loop.call_soon_threadsafe(right.cancel)

        thread = threading.Thread(target=ask, name="asker")
        thread.start()
        await settle(wrong, right)
        thread.join()

    [found] = findings(run, main())
    assert said([found]) == [("wrong_thread", "finding", "wrong")]
    assert (found.at, found.thread) == (at("foreign"), "asker")


@every_loop
def test_a_task_cancelled_before_its_first_step_is_found(run: Run) -> None:
    async def main() -> None:
        victim = spawn("victim")
        victim.cancel()  # LINE unstarted
        await settle(victim)

    [found] = findings(run, main())
    assert said([found]) == [("never_started", "finding", "victim")]
    assert found.at == at("unstarted")


@every_loop
def test_what_a_group_cancels_before_its_first_step_is_a_note(run: Run) -> None:
    async def main() -> None:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(forever(), name="sibling")
                raise LookupError("nothing")

    assert said(findings(run, main())) == [("never_started", "note", "sibling")]


@every_loop
def test_what_is_closed_before_its_first_step_is_a_note(run: Run) -> None:
    """As aiojobs does: a job that has no task yet is given one, which is cancelled at once."""

    class Job:
        async def _close(self) -> None:
            task = spawn("job")
            task.cancel()
            await settle(task)

    async def main() -> None:
        await asyncio.gather(Job()._close())

    assert said(findings(run, main())) == [("never_started", "note", "job")]


@every_loop
def test_cancelling_left_above_zero_is_found(run: Run) -> None:
    async def absorbs() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            assert task.uncancel() == 1
        await asyncio.sleep(3600)  # LINE absorbed_and

    async def main() -> None:
        victim = spawn("victim", absorbs())
        await steps()
        victim.cancel("one")
        victim.cancel("two")
        await steps()
        victim.cancel()
        await settle(victim)

    found = findings(run, main())
    assert said(found) == [
        ("coalesced", "finding", "victim"),
        ("uncancel_unbalanced", "finding", "victim"),
    ]
    assert found[1].remaining == 1
    assert found[1].waits_at == at("absorbed_and")


@every_loop
def test_cancelling_left_above_zero_at_the_end_is_found(run: Run) -> None:
    async def absorbs() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        return "done"

    async def main() -> None:
        victim = spawn("victim", absorbs())
        await steps()
        victim.cancel()
        victim.cancel()
        await settle(victim)

    found = findings(run, main())
    assert said(found) == [
        ("coalesced", "note", "victim"),
        ("uncancel_unbalanced", "finding", "victim"),
    ]
    assert (found[1].remaining, found[1].outcome) == (1, "returned")


# -- what is left behind ---------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_tasks_that_are_pending_when_their_loop_closes_are_found(make: Any) -> None:
    kept: list[Any] = []

    def run(_: None) -> None:
        loop = make()

        async def cleans_up() -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(3600)  # LINE cleans_up

        async def main() -> None:
            left = spawn("left")  # LINE made
            asked = spawn("asked", cleans_up())
            await steps()
            kept.extend([left, asked])
            asked.cancel()  # LINE asked_at_last

        loop.run_until_complete(main())
        loop.close()

    found = findings(run, None)
    by_name = {each.name: each for each in found}
    assert [(each.kind, each.severity) for each in found] == [("pending", "finding")] * 2
    assert by_name["left"].waits_at == at("forever")
    assert by_name["left"].made_at is not None
    assert (by_name["asked"].at, by_name["asked"].waits_at) == (
        at("asked_at_last"),
        at("cleans_up"),
    )
    for task in kept:
        task._log_destroy_pending = False


@every_loop
def test_a_task_that_vanishes_is_found(run: Run) -> None:
    async def waits_for_itself() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        victim = spawn("victim", waits_for_itself())
        await steps()
        del victim
        gc.collect()

    [found] = findings(run, main())
    assert said([found]) == [("destroyed", "finding", "victim")]
    assert found.made_at is not None


@every_loop
def test_what_is_awaited_when_the_program_ends_is_found(run: Run) -> None:
    async def main() -> None:
        wanted = spawn("wanted")

        async def wants() -> None:
            await wanted  # LINE wants

        _ = spawn("wants", wants()), spawn("nobody wants this")
        await steps()

    [found] = findings(run, main())
    assert said([found]) == [("awaited_at_exit", "finding", "wanted")]
    assert (found.reason, found.other_name, found.other_at) == ("shutdown", "wants", at("wants"))


@every_loop
def test_what_a_thread_waits_for_when_the_program_ends_is_found(run: Run) -> None:
    results: list[str] = []
    threads: list[threading.Thread] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def ask() -> None:
            future: ThreadFuture[None] = asyncio.run_coroutine_threadsafe(forever(), loop)
            futures.append(future)
            try:
                future.result()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
                results.append(type(error).__name__)

        futures: list[Any] = []
        threads.append(threading.Thread(target=ask))
        threads[0].start()
        while not futures or not futures[0]._condition._waiters:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)
        await steps()

    [found] = findings(run, main())
    threads[0].join()
    assert results == ["CancelledError"]
    assert (found.kind, found.severity, found.other_name) == (
        "awaited_at_exit",
        "finding",
        "another thread",
    )


def test_a_scope_that_spins_is_found() -> None:
    turns = 0

    async def deaf() -> None:
        nonlocal turns
        while turns < 1200:
            turns += 1
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    anyio = pytest.importorskip("anyio")

    async def main() -> None:
        with anyio.move_on_after(0.01):  # LINE scope
            await deaf()

    found = [each for each in findings(asyncio.run, main()) if each.kind == "spinning"]
    assert [each.times for each in found] == [100, 1000]
    assert {each.at for each in found} == {at("scope")}


# -- what healthy programs do ------------------------------------------------------------------


async def _first_completed() -> None:
    winner = spawn("winner", steps(1))
    losers = [spawn("loser"), spawn("loser too")]
    _, pending = await asyncio.wait([winner, *losers], return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


async def _finally_cancel() -> None:
    task = spawn("helper", steps(1))
    try:
        await steps()
    finally:
        task.cancel()
    running = spawn("running")
    try:
        await steps()
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


class _Service:
    """Ends its worker twice over, like many libraries."""

    def __init__(self) -> None:
        self.worker = spawn("worker")

    async def close(self) -> None:
        self.worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.worker

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _closed_twice() -> None:
    async with _Service() as service:
        await steps()
        await service.close()


async def _groups() -> None:
    async def fails() -> None:
        await steps(1)
        raise LookupError("nothing")

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(forever())
            await forever()
    with contextlib.suppress(LookupError):
        await asyncio.gather(fails(), forever())


async def _timeouts() -> None:
    for _ in range(2):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                async with asyncio.timeout(10):
                    await forever()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(forever(), 0.001)
    async with asyncio.timeout(None):
        await steps()


async def _cancelled_in_a_group_that_fails() -> None:
    """The owner is cancelled while its group is ending already."""

    async def fails() -> None:
        raise LookupError("nothing")

    async def lingers() -> None:
        try:
            await forever()
        finally:
            await steps(6)

    async def owns() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(lingers())
            await steps(1)
            group.create_task(fails())

    owner = spawn("owner", owns())
    await steps(4)
    owner.cancel()
    await settle(owner)


async def _cleanup_that_awaits() -> None:
    async def works() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            with contextlib.suppress(ValueError):
                int("nothing")
            raise

    victim = spawn("victim", works())
    await steps()
    victim.cancel()
    await settle(victim)


async def _replaced() -> None:
    async def works() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise ConnectionResetError("closed") from None

    victim = spawn("victim", works())
    await steps()
    victim.cancel()
    await settle(victim)


async def _shielded() -> None:
    inner = spawn("inner", asyncio.sleep(0.01))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.shield(inner)
    await inner


async def _absorbed() -> None:
    async def lives_on() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        await steps()

    victim = spawn("victim", lives_on())
    await steps()
    victim.cancel()
    await victim


async def _awaits_a_cancelled_one() -> None:
    async def watches(task: asyncio.Task[None]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await steps()

    victim = spawn("victim")
    watcher = spawn("watcher", watches(victim))
    await steps()
    victim.cancel()
    await watcher


async def _left_for_the_end() -> None:
    async def serves() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forever())

    _ = spawn("daemon"), spawn("server", serves())
    await steps()


async def _streams() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "localhost", 0)
    port = server.sockets[0].getsockname()[1]
    eyes: dict[str, Any] = {"happy_eyeballs_delay": 0.01}
    if uvloop is not None and isinstance(asyncio.get_running_loop(), uvloop.Loop):
        eyes = {}  # it has eyes of its own
    reader, writer = await asyncio.open_connection("localhost", port, **eyes)
    writer.write(b"hello\n")
    await reader.readline()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def _generators() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            for each in range(10):
                yield each
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)

    async def reads() -> None:
        async for _ in numbers():
            await forever()

    victim = spawn("victim", reads())
    await steps()
    victim.cancel()
    await settle(victim)


async def _anyio() -> None:
    anyio = pytest.importorskip("anyio")
    with anyio.move_on_after(0.001):
        await anyio.sleep(3600)
    with contextlib.suppress(TimeoutError), anyio.fail_after(0.001):
        await anyio.sleep(3600)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 3600)
        group.start_soon(anyio.sleep, 3600)
        await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    with anyio.CancelScope() as scope:
        scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.001)
        await anyio.sleep(3600)
    await anyio.to_thread.run_sync(time.sleep, 0.001)


async def _ends_by_hand() -> None:
    async def worker() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        raise asyncio.CancelledError("by hand")

    victim = spawn("victim", worker())
    await steps()
    victim.cancel()
    await settle(victim)


HEALTHY = [
    _ends_by_hand,
    _first_completed,
    _finally_cancel,
    _closed_twice,
    _groups,
    _timeouts,
    _cancelled_in_a_group_that_fails,
    _cleanup_that_awaits,
    _replaced,
    _shielded,
    _absorbed,
    _awaits_a_cancelled_one,
    _left_for_the_end,
    _streams,
    _generators,
    _anyio,
]


@pytest.mark.parametrize("program", HEALTHY, ids=lambda program: program.__name__)
@every_loop
def test_a_healthy_program_has_no_finding_and_no_note(run: Run, program: Any) -> None:
    assert said(findings(run, program())) == []


def test_a_blocking_portal_has_no_finding_and_no_note() -> None:
    anyio_from_thread = pytest.importorskip("anyio.from_thread")

    def run(_: None) -> None:
        with anyio_from_thread.start_blocking_portal() as portal:
            future = portal.start_task_soon(asyncio.sleep, 3600)
            portal.call(steps)
            future.cancel()

    assert said(findings(run, None)) == []


# -- what is made of them ------------------------------------------------------------------------


def test_the_names_of_kinds_stay() -> None:
    # They stand in people's logs and behind --ignore in their CI: none is ever renamed.
    assert list(CATALOGUE) == [
        "swallowed",
        "lost",
        "coalesced",
        "slow",
        "already_done",
        "self_cancel",
        "wrong_thread",
        "never_started",
        "uncancel_unbalanced",
        "pending",
        "destroyed",
        "awaited_at_exit",
        "spinning",
        "blocked",
    ]


@pytest.mark.parametrize("kind", [*CATALOGUE, "of a later version"])
def test_every_kind_has_a_sentence_whatever_it_lacks(kind: str) -> None:
    told: list[dict[str, Any]] = [
        {},
        {"times": 100, "outcome": "raised", "error": "E", "waits_at": "/a.py:1"},
    ]
    for more in told:
        text = sentence(made(kind, **more))
        assert "worker" in text
        assert "None" not in text
        assert "None" not in " ".join(particulars(made(kind, **more)))


def test_the_same_lines_are_told_once_and_findings_first() -> None:
    groups = grouped(
        [
            made("already_done", 3, severity="note"),
            made("slow", 5, task=8, seconds=2.0),
            made("slow", 4, seconds=3.0),
            made("slow", 6, at="/a.py:1"),
        ]
    )
    assert [(group.first.kind, group.count) for group in groups] == [
        ("slow", 2),
        ("slow", 1),
        ("already_done", 1),
    ]
    answer = report_of(groups[0])
    assert (answer.first, answer.last) == (groups[0].first.ts, groups[0].last.ts)
    assert answer.tasks == ["r1:7", "r1:8"]
    assert answer.finding.seconds == 3.0


# -- the command -----------------------------------------------------------------------------------


def test_nothing_is_looked_for_where_nobody_hears_of_it() -> None:
    async def main() -> None:
        victim = spawn("victim")
        victim.cancel()
        await settle(victim)

    exporter = MemoryExporter()
    aioaudit.enable(exporter, events="task.*")
    asyncio.run(main())
    aioaudit.disable()
    assert "finding" not in {NAMES[type(event)] for event in exporter.events}
