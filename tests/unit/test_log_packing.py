"""Events that are kept in few bytes are the same events, and what is at hand changes no answer."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioaudit.chain import walk
from aioaudit.cli.report_model import draw
from aioaudit.events import Event, FutureCancel, TaskCancel, TaskDone, TaskUncancel
from aioaudit.log import Log, load, packing
from aioaudit.log.answering import load_to_answer
from aioaudit.log.packing import LONGEST, Packed, Shapes
from aioaudit.log.runs import Maker
from tests.busy_logs import busy
from tests.logs import told
from tests.services import Busy, fleet, written

pytestmark = pytest.mark.any_python

numbers = st.integers(0, 9) | st.integers()
"""Also those of 65 bits, which only a log that was tampered with has."""

texts = st.sampled_from(["", "app:work", "Task-1"]) | st.text()
floats = st.sampled_from([0.0, -0.0, 2.0]) | st.floats(allow_nan=False)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": numbers,
    "str": texts,
    "float": floats,
    "bool": st.booleans(),
}


@st.composite
def events(draw: st.DrawFn) -> Event:
    """An event of a kind that is packed, of run ``r1``; whatever its fields hold."""
    kinds: list[type[Event]] = [TaskCancel, FutureCancel, TaskDone, TaskUncancel]
    kind = draw(st.sampled_from(kinds))
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        words = str(field.type)
        plain = next((each for name, each in VALUES.items() if name in words), texts)
        if "list" in words:
            plain = st.lists(plain, max_size=3)
        values[field.name] = draw(plain | st.none() if "None" in words else plain)
    return kind(**{**values, "run": "r1"})


@given(st.lists(events(), max_size=6))
def test_what_was_packed_is_the_same_event(found: list[Event]) -> None:
    packed = Packed[Event](Shapes(), "r1")
    plain: dict[int, Event] = {}
    for event in found:
        packed[event.seq] = plain[event.seq] = event
    for _ in range(2):  # the second time some are at hand
        for seq, event in plain.items():
            assert packed[seq] == event
            assert repr(packed[seq]) == repr(event)  # -0.0 == 0.0
    assert list(packed) == list(plain)


def request(seq: int, **more: Any) -> TaskCancel:
    head: dict[str, Any] = {"ts": "", "seq": seq, "run": "r1", "pid": 1, "thread": "MainThread"}
    return TaskCancel(**head, task=seq, name="T", coro="app:work", accepted=True, **more)


def test_what_is_told_with_an_event_comes_back_with_it() -> None:
    packed = Packed[TaskCancel](Shapes(), "r1")
    assert packed.put(1, request(1), ("app:main", False), (7,))
    assert Maker(*packed.told_with(1)) == Maker(7, "app:main", False)
    packed[1] = request(1)
    assert packed.told_with(1) == packed.told_with(2) == ()
    del packed[1]
    assert (packed.get(1), 1 in packed, len(packed)) == (None, False, 0)


def test_what_takes_no_fewer_bytes_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Packed[TaskCancel](Shapes(), "r1")
    monkeypatch.setattr(packing, "MOST_SHAPES", 2)
    known = request(1), request(2, at="/srv/a.py:1")
    another, long = request(3, at="/srv/a.py:2"), request(4, message="x" * LONGEST)
    assert [packed.put(each.seq, each) for each in (*known, another, long)] == [
        True,
        True,
        False,
        False,
    ]
    assert (packed[3] is another, packed[4] is long) == (True, True)


def test_a_cancelled_task_takes_little_memory(tmp_path: Path) -> None:
    """Of a log of 100 million events 0.66 million tasks were cancelled."""
    file = tmp_path / "a.jsonl"

    def taken(events: int) -> tuple[int, int]:
        file.write_bytes(b"".join(busy(events)))
        tracemalloc.start()
        try:
            log = load_to_answer(file, workers=0)
            return tracemalloc.get_traced_memory()[0], sum(1 for _ in log.runs["0" * 12].cases())
        finally:
            tracemalloc.stop()

    (few_bytes, few), (many_bytes, many) = taken(10_000), taken(60_000)
    assert (many_bytes - few_bytes) / (many - few) < 700


@pytest.mark.parametrize("short", [0, 2, 16])
def test_what_is_at_hand_changes_no_answer(
    short: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, fleet(Busy), random.Random(short))
    (tmp_path / "busy.jsonl").write_bytes(b"".join(busy(3000, 5)))

    def all_of(log: Log) -> object:
        return told(log), msgspec.json.encode(draw(log, "log"))

    expected = all_of(load(tmp_path))
    monkeypatch.setattr(walk, "MOST_NEAR", 0)
    monkeypatch.setattr(walk, "SHORT", short)
    monkeypatch.setattr(packing, "MOST_NEAR", 1)
    monkeypatch.setattr(packing, "MOST_SHAPES", 3)
    assert all_of(load(tmp_path)) == expected
