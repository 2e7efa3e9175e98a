"""What is forgotten while a log is read changes no answer, wherever it is divided."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioaudit.events import Event, TaskCancel, TaskCreate, TaskDone, TaskFound
from aioaudit.log import load, sources
from aioaudit.log.answering import load_to_answer
from aioaudit.log.numbers import Numbers, pairs, stretches
from aioaudit.log.thinning import making_of, thin
from tests.busy_logs import busy
from tests.logs import told
from tests.services import Busy, fleet, written

BUSY = b"".join(busy(1500, 5))


def base(seq: int) -> dict[str, Any]:
    return {
        "ts": f"2026-11-22T14:02:{seq:02d}.000000Z",
        "seq": seq,
        "run": "r1",
        "pid": 1,
        "thread": "MainThread",
    }


def about(task: int, name: str | None = None) -> dict[str, Any]:
    return {"task": task, "name": name or f"T{task}", "coro": "app:work"}


def lines(*events: Event) -> bytes:
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)


@pytest.mark.parametrize("size", [700, 5000, 1 << 20])
def test_wherever_a_log_is_divided_it_gives_the_same_answers(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(BUSY + b"oops\n")
    expected = load(file)
    monkeypatch.setattr(sources, "PIECE", size)
    log = load_to_answer(file, workers=0)
    assert told(log) == told(expected)
    assert len(log.why()) == 11
    [run] = log.runs.values()
    assert len(run.returned) < 10


def test_a_log_in_disorder_is_read_again_and_gives_the_same_answers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    order = BUSY.splitlines(keepends=True)
    random.Random(3).shuffle(order)
    file.write_bytes(b"".join(order))
    assert told(load_to_answer(file, workers=0)) == told(load(file))


@pytest.mark.any_python
@pytest.mark.parametrize("seed", range(6))
def test_logs_of_several_services_give_the_same_answers_however_they_are_divided(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    services = fleet(Busy)
    written(tmp_path, services, chance)
    expected = load(tmp_path)
    monkeypatch.setattr(sources, "PIECE", chance.randrange(300, 20_000))
    log = load_to_answer(tmp_path, workers=0)
    assert told(log) == told(expected)
    assert sum(len(run.further) for run in log.runs.values()) == 10
    kept, all_kept = (
        sum(len(run.returned) for run in each.runs.values()) for each in (log, expected)
    )
    assert kept < all_kept  # so it was thinned


@pytest.mark.any_python
@pytest.mark.parametrize("seed", range(6))
def test_logs_of_several_services_whose_lines_are_in_disorder_give_the_same_answers(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    services = fleet(Busy)
    for service in services:
        if seed % 2:
            near = {id(each): each.seq + chance.randrange(9) for each in service.events}
            service.events.sort(key=lambda each, near=near: near[id(each)])  # type: ignore[misc]
        else:
            chance.shuffle(service.events)
        service.events += chance.sample(service.events, 5)
    written(tmp_path, services, chance)
    monkeypatch.setattr(sources, "PIECE", chance.randrange(300, 20_000))
    assert told(load_to_answer(tmp_path, workers=0)) == told(load(tmp_path))


def test_a_name_that_was_forgotten_too_early_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    request = TaskCancel(**base(2), **about(7, "before"), accepted=True, origin="shutdown")
    end = TaskDone(**base(3), **about(7, "after"), outcome="returned")
    file.write_bytes(lines(TaskCreate(**base(1), **about(7, "before")), end, request))
    [answer] = load_to_answer(file, workers=0).why()
    assert (answer.name, answer.outcome) == ("after", "returned")


def test_who_is_asked_for_by_name_is_known_although_nobody_cancelled_it(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    events: list[Event] = []
    for task in (1, 2):
        events.append(TaskCreate(**base(len(events)), **about(task)))
        events.append(TaskDone(**base(len(events)), **about(task), outcome="returned"))
    file.write_bytes(lines(*events))
    log = load_to_answer(file, "T2", workers=0)
    assert [task for _, task in log.find("T2")] == [2]
    assert log.find("T1") == []
    assert [task for _, task in log.find("1")] == [1]


def test_only_lives_that_nothing_has_to_do_with_are_left_out() -> None:
    def made(seq: int, task: int) -> TaskCreate:
        return TaskCreate(**base(seq), **about(task), parent=1)

    def done(seq: int, task: int) -> TaskDone:
        return TaskDone(**base(seq), **about(task), outcome="returned")

    asked = TaskCancel(**base(9), **about(4), accepted=False, by=5, origin_task=6)
    events: list[Event] = [
        *(made(task, task) for task in range(2, 8)),
        asked,
        *(done(10 + task, task) for task in range(2, 7)),
        TaskFound(**base(20), **about(8)),
    ]
    kept, [part] = thin(events, "T3")
    tasks: list[int] = [getattr(events[place], "task") for place in kept]  # noqa: B009 - all have it
    assert sorted(set(tasks)) == [3, 4, 5, 6, 8]
    assert part.born == [making_of(made(7, 7))]  # of that nothing more is told
    assert (part.returned, part.made, part.seqs) == ([2, 2], {1: 7}, [2, 7, 9, 9, 12, 16, 20, 20])
    assert (part.begin, part.end, part.in_order) == (2, 20, True)


@given(st.lists(st.tuples(st.integers(-5000, 20_000), st.integers(0, 9000)), max_size=20))
def test_a_set_of_numbers_is_one_however_they_came(found: list[tuple[int, int]]) -> None:
    numbers, plain = Numbers(), set[int]()
    for first, length in found:
        new = set(range(first, first + length + 1)) - plain
        assert numbers.add_stretch(first, first + length) == len(new)
        plain |= new
    numbers.add(3)
    plain.add(3)
    assert len(numbers) == len(plain)
    assert all((each in numbers) == (each in plain) for each in range(-5005, 5000, 7))
    again = Numbers()
    for first, last in pairs(stretches(sorted(plain))):
        again.add_stretch(first, last)
    assert len(again) == len(plain)
