"""Loops that are blocked, really, and healthy ones; what is told of them.

Nothing here lasts for a fixed time: what blocks a loop goes on until it was seen to do so.  On a
busy machine the looks come late, and what was not seen is not told; then it takes longer.
``# LINE label`` marks the lines that have to be named.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import functools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit import bus, threads
from aioaudit.chain.links import Link
from aioaudit.chain.summary import cause
from aioaudit.core.choice import CORE
from aioaudit.events import Event, Finding, LoopBlocked, LoopStart, TaskCancel
from aioaudit.exporters.lines import Lines
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.findings.groups import grouped, report_of
from aioaudit.findings.words import particulars, sentence
from aioaudit.recorder.watcher import Watcher
from aioaudit.session import current
from tests.logs import made
from tests.loops import needs_uvloop, uvloop
from tests.waiting import PATIENCE, wait_until

LIMIT = 0.05

block_for = time.sleep
"""By a name that linters do not know: a coroutine should not call it, and here they do."""


@functools.cache
def at(label: str) -> str:
    """``path:line`` of the line with this label."""
    for number, text in enumerate(Path(__file__).read_text().splitlines(), 1):
        if text.endswith(f"# LINE {label}"):
            return f"{__file__}:{number}"
    raise AssertionError(label)


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    """Whatever a test turns on is off after it, and its threads are gone from the system, too."""
    yield
    aioaudit.disable()
    wait_until(lambda: threads.count_living() == 0)


class Told:
    """What is told while it is on."""

    def __init__(self, limit: float | None = LIMIT) -> None:
        self.exporter = MemoryExporter()
        aioaudit.enable(self.exporter, blocked=limit)

    def of(self, kind: type[Event]) -> list[Any]:
        """The events of *kind* so far."""
        return [each for each in self.exporter.events if isinstance(each, kind)]

    @property
    def blocks(self) -> list[LoopBlocked]:
        """The blocks that are over."""
        return [each for each in self.of(LoopBlocked) if not each.ongoing]

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop run until *condition* holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    def after_the_end(self, *by: str) -> list[LoopBlocked]:
        """The same when all is written, of those *by* functions of this file, if any are named.

        A machine that is busy itself may stop a loop elsewhere.
        """
        aioaudit.disable()
        sources = {f"{__name__}:{name}" for name in by}
        return [each for each in self.blocks if not by or each.source in sources]


def seen(loop: Any, since: float) -> bool:
    """Whether it was seen what has blocked *loop* since then."""
    session = current()
    assert session is not None
    return bool(session.recorder.state.blocks.explain(loop, time.monotonic() - since))


def sleeps(loop: Any) -> None:
    since = time.monotonic()
    while not seen(loop, since):  # LINE looks
        time.sleep(0.01)  # LINE sleeps


def computes(loop: Any) -> None:
    since = time.monotonic()
    while not seen(loop, since):  # LINE computes
        sum(range(1000))


@pytest.mark.parametrize("blocks", [sleeps, computes])
def test_the_function_the_line_and_the_task_that_block_a_loop_are_told(
    blocks: Callable[[Any], None],
) -> None:
    told = Told()
    numbers: list[int] = []

    async def step() -> None:
        blocks(asyncio.get_running_loop())
        numbers.append(current().recorder.state.tasks.number(asyncio.current_task()))  # type: ignore[union-attr]

    async def main() -> None:
        await asyncio.create_task(step(), name="worker")
        await told.until(lambda: any(each.task == numbers[0] for each in told.of(Finding)))

    asyncio.run(main())
    # `seen` is called by both of them, and may be where it was.
    [event] = told.after_the_end(blocks.__name__, "seen")
    assert event.source is not None
    assert event.at is not None
    assert event.at.startswith(__file__)
    if event.source.endswith("sleeps"):
        assert event.at in {at("looks"), at("sleeps")}
    assert (event.task, event.name) == (numbers[0], "worker")
    assert event.coro is not None
    assert event.coro.endswith("step")
    assert event.seconds >= LIMIT
    assert (event.thread, event.loop) == ("MainThread", told.of(LoopStart)[0].loop)
    [found] = [each for each in told.of(Finding) if each.task == numbers[0]]
    assert (found.kind, found.severity, found.task) == ("blocked", "finding", numbers[0])
    assert (found.source, found.at, found.seconds) == (event.source, event.at, event.seconds)


NO_CALL = "test_a_step_of_a_task_without_a_call_is_seen_as_well"


def test_a_step_of_a_task_without_a_call_is_seen_as_well() -> None:
    told = Told()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        since = time.monotonic()
        while not seen(loop, since):
            block_for(0.01)
        await told.until(lambda: told.blocks)

    asyncio.run(main())
    [event] = told.after_the_end(f"{NO_CALL}.<locals>.main", "seen")
    assert event.coro is not None
    assert event.coro.endswith("main")


async def why_cancelled() -> Any:
    """Wait until this task is cancelled, and say why; the error goes no further."""
    try:
        await asyncio.sleep(PATIENCE)
    except asyncio.CancelledError as error:
        return aioaudit.why(error)


def test_a_late_timeout_says_what_blocked_the_loop() -> None:
    told = Told()

    async def blocker() -> None:
        sleeps(asyncio.get_running_loop())

    async def main() -> Any:
        keep = answer = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                keep = asyncio.create_task(blocker(), name="blocker")
                answer = await why_cancelled()
        assert keep is not None
        await keep
        await told.until(lambda: told.blocks)
        return answer

    answer = asyncio.run(main())
    assert answer is not None
    assert answer.root.what == "deadline"
    detail = re.fullmatch(
        r"[\d.]+ s late: the loop was (?:probably )?blocked by (\S+) at (.+)", answer.root.detail
    )
    assert detail is not None, answer.root.detail
    assert detail[1] in {f"{__name__}:sleeps", f"{__name__}:seen"}
    assert detail[2].startswith(__file__)
    assert f"ran out ({answer.root.detail})" in answer.summary
    shown = cause(answer.root, lambda text: text.replace(__file__, "b.py"))
    assert re.search(r" at b\.py:\d+\)$", shown), shown


class Parser:
    """A function that blocks the loop until that was seen."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def parse(self) -> None:
        loop, since = asyncio.get_running_loop(), time.monotonic()
        self.over.clear()
        thread = threading.Thread(target=self.look, args=(loop, since))
        thread.start()
        assert self.over.wait(PATIENCE)  # LINE parses
        thread.join()

    def look(self, loop: Any, since: float) -> None:
        while not seen(loop, since) and time.monotonic() - since < PATIENCE:
            time.sleep(0.005)
        self.over.set()


async def by_timeout(block: Callable[[], object]) -> Any:
    """What a timeout says that runs out while *block* blocks the loop."""
    answer = None
    asyncio.get_running_loop().call_soon(block)  # a timer that is due meanwhile comes after it
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.002):  # LINE timeout
            answer = await why_cancelled()
    return answer


async def by_wait_for(block: Callable[[], object]) -> Any:
    """The same."""
    answers: list[Any] = []

    async def asks() -> None:
        answers.append(await why_cancelled())
        raise asyncio.CancelledError

    asyncio.get_running_loop().call_soon(block)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asks(), 0.002)  # LINE wait_for
    return answers[0]


@pytest.mark.parametrize("limited", [by_timeout, by_wait_for])
def test_a_late_timeout_names_the_line_that_blocked_the_loop(limited: Callable[[Any], Any]) -> None:
    told = Told()
    answer = asyncio.run(limited(Parser().parse))
    assert_blamed(answer, at(limited.__name__.removeprefix("by_")))
    assert len(told.after_the_end("Parser.parse")) == 1
    [request] = [each for each in told.of(TaskCancel) if each.origin == "deadline"]
    assert request.origin_detail == answer.root.detail


def test_timeouts_that_a_core_took_in_by_itself_are_python_s_while_somebody_looks() -> None:
    told = Told(limit=None)
    taken: list[int] = []

    def note() -> None:
        session = current()
        assert session is not None
        taken.append(session.recorder.state.cancellations.asks.changes)

    async def main() -> Any:
        for _ in range(6):
            await asyncio.create_task(by_timeout(lambda: block_for(0.01)))
        note()
        with aioaudit.enable(blocked=LIMIT):
            answer = await asyncio.create_task(by_timeout(Parser().parse))
        note()
        for _ in range(3):
            await asyncio.create_task(by_timeout(lambda: block_for(0.01)))
        note()
        return answer

    assert_blamed(asyncio.run(main()), at("timeout"))
    told.after_the_end()
    details = [each.origin_detail for each in told.of(TaskCancel) if each.origin == "deadline"]
    assert len(details) == 10
    blamed = details.pop(6)
    assert blamed is not None
    assert "blocked by" in blamed
    assert all(re.fullmatch(r"[\d.]+ s late", each or "") for each in details), details
    if CORE.name == "native" and sys.version_info >= (3, 12):
        assert 0 < taken[0] == taken[1] < taken[2]
    else:
        assert taken == [0, 0, 0]


def assert_blamed(answer: Any, limit: str) -> None:
    """*answer* says that the timeout of the line *limit* was late because of `Parser.parse`."""
    late = re.fullmatch(
        rf"[\d.]+ s late: the loop was (?:probably )?blocked by {__name__}:Parser\.parse at (.+)",
        answer.root.detail or "",
    )
    assert late is not None, answer.root
    assert late[1] == at("parses")
    assert (answer.root.what, answer.root.at) == ("deadline", limit)
    assert f"the timeout of 0.002 s at {limit} ran out ({answer.root.detail})" in answer.summary


def test_a_timer_that_is_late_because_of_nothing_seen_says_only_that() -> None:
    told = Told(limit=PATIENCE)
    answer = asyncio.run(by_timeout(lambda: block_for(0.02)))
    assert answer is not None
    assert re.fullmatch(r"[\d.]+ s late", answer.root.detail)
    assert told.after_the_end() == []


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="nobody knows who computed")
def test_c_code_that_keeps_the_gil_is_found_when_it_lets_go() -> None:
    told = Told()

    def match(length: int) -> float:
        before = time.thread_time()
        re.match(r"(a+)+$", "a" * length + "b")
        return time.thread_time() - before

    length = 12
    while match(length) < 4 * LIMIT:
        length += 1

    async def step() -> None:
        match(length)
        match(length)

    async def main() -> None:
        deadline = time.monotonic() + PATIENCE
        while not told.blocks and time.monotonic() < deadline:
            await asyncio.create_task(step(), name="matcher")
            await asyncio.sleep(0.1)

    asyncio.run(main())
    event = told.after_the_end()[0]
    assert event.seconds >= LIMIT
    if event.name is not None:  # another thread may have been given the GIL first
        assert event.name == "matcher"
        assert event.at is not None
        assert event.at.startswith(__file__)


def test_a_loop_that_is_idle_or_busy_with_many_short_callbacks_is_healthy() -> None:
    told = Told()
    longest = 0.0
    last = 0.0

    def note() -> None:
        nonlocal longest, last
        now = time.monotonic()
        longest, last = max(longest, now - last), now

    async def busy(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            note()
            sum(range(2000))
            await asyncio.sleep(0)

    async def main() -> None:
        nonlocal last
        last = time.monotonic()
        await asyncio.gather(*(busy(1.0) for _ in range(5)))
        await asyncio.sleep(4 * LIMIT)  # it waits
        note()

    asyncio.run(main())
    # A machine that is busy itself may stop it in the middle of a callback.
    assert all(event.seconds <= longest for event in told.after_the_end())


def test_what_is_written_in_c_and_given_to_the_loop_has_a_name_and_is_told_while_it_goes_on() -> (
    None
):
    told = Told()
    lock = _thread.allocate_lock()
    lock.acquire()

    def is_the_lock(found: Any) -> bool:
        return str(found.source).endswith("lock.acquire")

    def hook(name: str, args: tuple[Any, ...]) -> None:
        if name == "loop.blocked" and args[0].ongoing and is_the_lock(args[0]):
            lock.release()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(lock.acquire)
        await asyncio.sleep(0)
        await told.until(lambda: any(map(is_the_lock, told.blocks)))

    aioaudit.addaudithook(hook)
    try:
        asyncio.run(main())
    finally:
        bus.remove(hook)
    [event] = filter(is_the_lock, told.after_the_end())
    first, second = filter(is_the_lock, told.of(LoopBlocked))
    assert (first.ongoing, second.ongoing) == (True, False)
    assert first.seconds >= 1
    assert second.seconds >= first.seconds
    assert (event.at, event.task, event.name, event.coro) == (None, None, None, None)
    [found] = filter(is_the_lock, told.of(Finding))
    assert (found.task, found.name) == (0, "")
    assert sentence(found).startswith("lock.acquire blocked the loop for ")
    assert "it was still at it" in particulars(found)[-1]
    assert report_of(grouped([found])[0]).tasks == []


def test_of_two_loops_the_one_that_is_blocked_is_told() -> None:
    told = Told()
    over = threading.Event()
    number: list[int | None] = []

    async def healthy() -> None:
        while not over.is_set():  # noqa: ASYNC110 - set in another thread
            await asyncio.sleep(0.001)

    async def blocked() -> None:
        loop = asyncio.get_running_loop()
        session = current()
        assert session is not None
        number.append(session.recorder.state.places.loop_number(loop))
        sleeps(loop)

    thread = threading.Thread(target=asyncio.run, args=(blocked(),), name="second")

    async def main() -> None:
        beside = asyncio.create_task(healthy())
        thread.start()
        await told.until(lambda: any(each.loop == number[0] for each in told.blocks if number))
        over.set()
        await beside

    asyncio.run(main())
    thread.join()
    blocks = told.after_the_end("sleeps", "seen")
    [event] = [each for each in blocks if each.loop == number[0]]
    assert event.thread == "second"


def test_a_loop_that_ends_right_after_it_was_blocked_is_told_at_the_end() -> None:
    told = Told()

    async def main() -> None:
        sleeps(asyncio.get_running_loop())

    asyncio.run(main())
    assert len(told.after_the_end("sleeps", "seen")) == 1


def test_what_was_seen_is_told_also_where_the_thread_is_late_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told()
    tell = Watcher._look_no_more

    def late(self: Watcher) -> None:
        time.sleep(0.5)
        tell(self)

    async def main() -> None:
        sleeps(asyncio.get_running_loop())
        monkeypatch.setattr(Watcher, "_look", lambda *_: True)  # it does not look once more
        monkeypatch.setattr(Watcher, "_look_no_more", late)

    asyncio.run(main())
    assert len(told.after_the_end("sleeps", "seen")) == 1


def test_a_loop_that_runs_already_is_looked_at() -> None:
    told = Told(limit=0)

    async def main() -> None:
        with aioaudit.enable(blocked=LIMIT):
            sleeps(asyncio.get_running_loop())
        assert threads.count_living() <= 1  # the exporter's

    asyncio.run(main())
    assert len(told.after_the_end("sleeps", "seen")) == 1


def test_without_the_setting_there_is_no_thread_and_nothing_is_looked_at() -> None:
    told = Told(limit=None)

    async def main() -> None:
        block_for(4 * LIMIT)
        session = current()
        assert session is not None
        assert session.recorder.watcher._thread is None
        assert threads.count_living() <= 1  # the exporter's
        await asyncio.sleep(0)

    asyncio.run(main())
    assert told.after_the_end() == []
    wait_until(lambda: threads.count_living() == 0)


def test_the_thread_ends_with_auditing() -> None:
    Told()
    asyncio.run(asyncio.sleep(0))
    session = current()
    assert session is not None
    assert session.recorder.watcher._thread is not None
    aioaudit.disable()
    wait_until(lambda: session.recorder.watcher._thread is None)
    wait_until(lambda: threads.count_living() == 0)


@needs_uvloop
def test_of_a_loop_that_shows_no_rounds_nothing_is_told() -> None:
    told = Told()

    async def main() -> Any:
        answer = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.002):
                # In here: uvloop runs timers that are due before the callbacks that are ready,
                # and on a busy machine this one is, as soon as the loop comes round.
                block_for(4 * LIMIT)
                answer = await why_cancelled()
        await asyncio.sleep(4 * LIMIT)
        return answer

    answer = uvloop.run(main())
    assert told.after_the_end() == []
    assert re.fullmatch(r"[\d.]+ s late", answer.root.detail), answer.root


def test_it_is_logged_as_a_warning() -> None:
    event = LoopBlocked(
        ts="2026-01-01T00:00:00.000000Z",
        seq=1,
        run="r",
        pid=1,
        thread="MainThread",
        seconds=0.6,
        evidence="observed",
        source="app:parse",
        at="b.py:7",
        task=3,
        name="worker",
        coro="app:work",
    )
    line = Lines().line(event)
    assert line is not None
    assert line.sentence == "work (worker) blocked the loop for 0.600 s in app:parse at b.py:7"
    assert line.keys["seconds"] == 0.6


def test_a_finding_of_no_task_says_so() -> None:
    found = made("blocked", task=0, name="", coro="time:sleep", source="time:sleep", seconds=0.25)
    assert sentence(found) == "sleep blocked the loop for 250.0 ms in time:sleep"
    link = Link(what="deadline", detail="0.6 s late: the loop was blocked by a:b at /x y/b.py:7")
    assert cause(link, lambda text: text.replace("/x y/", "")) == (
        "a timeout ran out (0.6 s late: the loop was blocked by a:b at b.py:7)"
    )


def test_the_stack_of_another_thread_is_that_of_the_system() -> None:
    assert set(sys._current_frames()) >= {threads.get_ident()}
