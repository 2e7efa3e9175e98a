"""Every number of a run is a line of a log, is known to be none of it, or is counted as lost.

Nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import pytest

import aioaudit
from aioaudit import session
from aioaudit.auditing import Auditing
from aioaudit.core import last_of, new_counter
from aioaudit.delivery.pipeline import Pipeline
from aioaudit.events import Event, ProcessDropped, ProcessEnd, ProcessStart, TaskCreate
from tests.waiting import PATIENCE, wait_until

FOREVER = 1e9


class Keeping:
    """An exporter that keeps everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def export(self, events: Sequence[Event]) -> None:
        """Keep *events*."""
        self.events += events

    def flush(self) -> None:
        """Nothing to do."""

    def shutdown(self) -> None:
        """Nothing to do."""

    @property
    def numbers(self) -> set[int]:
        """Those of all events."""
        return {each.seq for each in self.events}

    @property
    def end(self) -> ProcessEnd:
        """The last event."""
        end = self.events[-1]
        assert isinstance(end, ProcessEnd)
        return end

    @property
    def missing(self) -> set[int]:
        """The numbers between its first and its last event that are none of its own."""
        return set(range(self.events[0].seq, self.end.seq)) - self.numbers


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a number that is missing waits for ever."""
    kwdefaults = cast("dict[str, Any]", Pipeline.__init__.__kwdefaults__)
    monkeypatch.setitem(kwdefaults, "hold", FOREVER)


@pytest.fixture
def turn_on() -> Iterator[Callable[[Keeping], Auditing]]:
    """`aioaudit.enable`, taken back at the end."""
    handles: list[Auditing] = []

    def enable(exporter: Keeping) -> Auditing:
        handles.append(aioaudit.enable(exporter))
        return handles[-1]

    yield enable
    for handle in handles:
        handle.disable()


def make_a_task() -> None:
    """Have some events told."""

    async def nothing() -> None: ...

    asyncio.run(nothing())


def made(exporter: Keeping) -> int:
    """How many tasks it has seen made."""
    return sum(isinstance(each, TaskCreate) for each in exporter.events)


def has_many(exporter: Keeping) -> bool:
    """Whether it has seen many events."""
    return len(exporter.events) > 20


def drawn_in_vain() -> int:
    """Draw a number as if memory ran out before its event was put."""
    current = session.current()
    assert current is not None
    return current.run.next_seq()


TurnOn = Callable[[Keeping], Auditing]


def test_the_last_number_is_known_without_drawing_one() -> None:
    count = new_counter()
    assert last_of(count) == 0
    assert [count(), last_of(count), last_of(count), count(), last_of(count)] == [1, 1, 1, 2, 2]


@pytest.mark.usefixtures("patience")
def test_the_end_of_another_log_is_nothing_that_this_one_waits_for(turn_on: TurnOn) -> None:
    stays, goes = Keeping(), Keeping()
    here, there = turn_on(stays), turn_on(goes)
    make_a_task()
    there.disable()
    before = made(stays)
    make_a_task()
    wait_until(lambda: made(stays) > before)
    here.disable()
    assert stays.end.dropped == goes.end.dropped == 0
    assert stays.missing == {goes.end.seq}


@pytest.mark.usefixtures("patience")
def test_who_comes_late_waits_for_nothing_that_was_before(turn_on: TurnOn) -> None:
    early, late = Keeping(), Keeping()
    here = turn_on(early)
    make_a_task()
    there = turn_on(late)
    make_a_task()
    wait_until(lambda: made(late) > 0)
    there.disable()
    here.disable()
    assert isinstance(late.events[0], ProcessStart)
    assert late.end.dropped == early.end.dropped == 0


@pytest.mark.parametrize("after", [True, False])
def test_a_number_whose_event_never_came_is_counted(turn_on: TurnOn, after: bool) -> None:
    kept = Keeping()
    handle = turn_on(kept)
    make_a_task()
    lost = drawn_in_vain()
    if after:
        make_a_task()
    handle.disable()
    assert lost in kept.missing
    assert kept.end.dropped == 1
    if after:
        [told] = [each for each in kept.events if isinstance(each, ProcessDropped)]
        assert (told.count, told.events) == (1, [])


def test_what_was_lost_before_it_came_and_after_it_went_is_not_counted(turn_on: TurnOn) -> None:
    stays, between = Keeping(), Keeping()
    here = turn_on(stays)
    make_a_task()
    drawn_in_vain()
    there = turn_on(between)
    make_a_task()
    there.disable()
    drawn_in_vain()
    make_a_task()
    here.disable()
    assert (stays.end.dropped, between.end.dropped) == (2, 0)


def test_a_hook_that_is_interrupted_leaves_no_number_out(turn_on: TurnOn) -> None:
    kept = Keeping()
    handle = turn_on(kept)
    make_a_task()
    current = session.current()
    assert current is not None
    wait_until(lambda: made(kept) > 0)

    def hook(_event: str, _args: object) -> None:
        raise KeyboardInterrupt

    remove = aioaudit.addaudithook(hook)
    try:
        event = current.stamp(kept.events[1])
        with pytest.raises(KeyboardInterrupt):
            current.recorder.sender.emit_final(event)
    finally:
        remove()
    lost = drawn_in_vain()
    handle.disable()
    assert kept.end.dropped == 1
    assert kept.missing == {lost}


def test_who_is_slow_to_put_an_event_is_waited_for_as_long_as_it_takes(
    turn_on: TurnOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where threads are many and the machine is busy, a second may pass before one has its turn."""
    kept = Keeping()
    handle = turn_on(kept)
    make_a_task()
    current = session.current()
    assert current is not None
    [(journal, _)] = current.sinks
    pipeline = cast(Pipeline, journal)
    assert pipeline.flush()
    seen = made(kept)
    pipeline.ordering._hold = 0.0  # time alone is no reason to give it up
    monkeypatch.setattr("aioaudit.delivery.ordering.LOOKS", FOREVER)
    event = current.stamp(kept.events[1])  # its number is drawn
    make_a_task()
    wait_until(lambda: pipeline.ordering.has_gap)
    looks = pipeline.pace.steps
    wait_until(lambda: pipeline.pace.steps > looks + 3)
    assert made(kept) == seen
    journal.put(event)
    handle.disable()
    assert (kept.end.dropped, kept.missing) == (0, set())


@pytest.mark.usefixtures("patience")
def test_storms_while_exporters_come_and_go(turn_on: TurnOn) -> None:
    stays = Keeping()
    here = turn_on(stays)
    others: list[Keeping] = []
    over = threading.Event()

    async def storm() -> None:
        while not over.is_set():
            tasks = [asyncio.create_task(asyncio.sleep(FOREVER)) for _ in range(10)]
            await asyncio.sleep(0.01)  # so that no queue fills up
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    threads = [threading.Thread(target=asyncio.run, args=(storm(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            goes = Keeping()
            there = turn_on(goes)
            wait_until(partial(has_many, goes))
            there.disable()
            others.append(goes)
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    here.disable()
    ends = {each.end.seq for each in others}
    told = {
        event.seq for each in others for event in each.events if isinstance(event, ProcessDropped)
    }
    assert stays.missing - ends - told == set()
    assert ends <= stays.missing
    assert stays.end.dropped == 0
    assert [each.end.dropped for each in others] == [0] * len(others)
