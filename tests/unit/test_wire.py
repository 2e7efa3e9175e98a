"""What is queued becomes lines by a shortcut: they are the lines of the typed events, byte by byte."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from types import CodeType
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioaudit.core import Created, Returned
from aioaudit.delivery.encoding import Batch, encode_event, encode_events
from aioaudit.delivery.records import CreationSite, Record, event_of
from aioaudit.events import AnyEvent, Event, ProcessDropped, TaskCancel, TaskCreate, TaskDone
from aioaudit.identity import Run
from aioaudit.place import Place
from aioaudit.stack.code import CodeInfo
from aioaudit.timestamps import timestamp
from tests.conftest import ROOT

NASTY = {
    "plain": "Task-1",
    "empty": "",
    "quotes": 'she said "no" \\ and left',
    "line ends": "a\nb\r\nc\x85d\u2028e\u2029f",
    "controls": "".join(map(chr, range(32))) + "\x7f",
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "lone surrogate": "half \ud83d of it",
    "pair": "whole \U0001f600 of it",
    "accents": "zażółć gęślą jaźń",
    "10 kB": "x" * 10_240,
    "10 kB of accents": "ż" * 10_240,
    "exactly as long as allowed": "y" * 200,
    "json": '{"event":"task.cancel"}\n{"event":"task.cancel"}',
}
BEGAN = 1_795_375_220_123_456_789
SCHEMA = jsonschema.Draft202012Validator(
    json.loads((ROOT / "docs" / "events.schema.json").read_text())
)
READ = msgspec.json.Decoder(AnyEvent)


def here() -> CodeType:
    return here.__code__


def a_place(thread: str = "MainThread", loop: int | None = 1) -> Place:
    return Place(Run(), thread, loop, 0, lambda: None)


def a_kind(place: Place, coro: str = "shop.orders:refresh", *, known: bool = True) -> CreationSite:
    return CreationSite(place, coro, None, CodeInfo(here(), "shop", {}) if known else None, 4)


def a_task(
    kind: CreationSite, name: str, *, ns: int = BEGAN, lived: int = 1_234_567
) -> list[Record]:
    made = Created(2, 1, ns, kind, name, 7)
    return [made, Returned(3, ns + lived, made, 1)]


def check(items: list[Record]) -> list[dict[str, Any]]:
    """The lines of *items*, once each was found to be that of its typed event."""
    data = Batch(items).encode()
    lines = data.splitlines(keepends=True)
    assert lines == [encode_event(event_of(item)) for item in items]
    for item, line in zip(items, lines, strict=True):
        assert line.endswith(b"}\n")
        found = json.loads(line)
        SCHEMA.validate(found)
        if not isinstance(item, Event):
            assert READ.decode(line) == event_of(item)
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
def test_a_line_reads_back_as_its_event_whatever_the_task_is_called(name: str) -> None:
    create, done = check(a_task(a_kind(a_place()), name))
    assert create["name"] == done["name"]
    if len(name) <= 200 and name.isprintable():
        assert create["name"] == name
    assert len(create["name"]) <= 201


@pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
def test_a_line_reads_back_as_its_event_whatever_thread_and_coroutine_are_called(name: str) -> None:
    # Both are made harmless before they get here, but for what only JSON minds.
    text = name.encode("utf-8", "backslashreplace").decode()
    check(a_task(a_kind(a_place(thread=text), coro=text), "Task-1"))


def test_what_is_not_known_is_left_out() -> None:
    kind = a_kind(a_place(loop=None), known=False)
    [line] = check([Created(1, 1, BEGAN, kind, "Task-1", None)])
    assert set(line) == {"event", "ts", "seq", "run", "pid", "thread", "task", "name", "coro"}


def test_the_whole_line_of_a_task_made_and_returned() -> None:
    place = a_place()
    create, done = check(a_task(a_kind(place), "refresh"))
    shared = {
        "run": place.run.id,
        "pid": place.run.pid,
        "thread": "MainThread",
        "loop": 1,
        "task": 1,
        "name": "refresh",
        "coro": "shop.orders:refresh",
    }
    line = here().co_firstlineno
    assert create == {
        **shared,
        "event": "task.create",
        "ts": "2026-11-22T19:20:20.123456Z",
        "seq": 2,
        "parent": 7,
        "at": f"{here().co_filename}:{line + 1}",
        "source": "shop:here",
    }
    assert done == {
        **shared,
        "event": "task.done",
        "ts": "2026-11-22T19:20:20.124691Z",
        "seq": 3,
        "outcome": "returned",
        "lifetime": 0.001234,
    }


@pytest.mark.parametrize("lived", [0, 999, 1000, -1, -5_000_000_000, 3_600_000_000_000])
def test_no_life_is_negative_though_the_clock_be_set_back(lived: int) -> None:
    _, done = check(a_task(a_kind(a_place()), "Task-1", lived=lived))
    assert done["lifetime"] == max(0, lived // 1000) / 1e6


def test_kinds_and_times_may_follow_one_another_in_any_order() -> None:
    chance = random.Random(5)
    places = [a_place(), a_place("worker", 2), a_place("plain", None)]
    kinds = [a_kind(place, f"shop:c{n}", known=n != 2) for place in places for n in range(3)]
    items: list[Record] = []
    for number in range(500):
        ns = BEGAN + chance.choice([-1, 1]) * chance.randrange(10 ** chance.randrange(1, 13))
        name = chance.choice(list(NASTY.values()))
        made = Created(number * 2, number, ns, chance.choice(kinds), name, chance.choice([None, 3]))
        items += [made, Returned(number * 2 + 1, ns + chance.randrange(10**10), made, 0)]
    chance.shuffle(items)
    check(items)


def test_typed_events_stand_between_the_others_in_their_order() -> None:
    place = a_place()
    create, done = a_task(a_kind(place), "Task-1")
    cancel = place.new_event(TaskCancel)
    cancel.ts, cancel.seq, cancel.task, cancel.name, cancel.coro = timestamp(BEGAN), 9, 1, "a", "b"
    cancel.accepted = True
    lines = check([create, cancel, done])
    assert [line["event"] for line in lines] == ["task.create", "task.cancel", "task.done"]
    assert lines[1]["reason"] == "unknown"


def test_text_that_is_no_utf_8_in_somebodys_own_event_is_escaped_and_loses_no_line() -> None:
    place = a_place()
    own = TaskCreate(
        ts=timestamp(BEGAN),
        seq=8,
        run=place.run.id,
        pid=place.run.pid,
        thread="MainThread",
        task=5,
        name="half \ud83d",
        coro="a:b",
    )
    dropped = ProcessDropped(
        ts=own.ts, seq=9, run=own.run, pid=own.pid, thread="\udcff", count=1, events=["\udcfe"]
    )
    items: list[Record] = [*a_task(a_kind(place), "half \ud83d too"), own, dropped]
    lines = [json.loads(line) for line in encode_events(Batch(items)).splitlines()]
    assert [line.get("name") for line in lines] == [
        "half \\ud83d too",
        "half \\ud83d too",
        "half \\ud83d",
        None,
    ]
    assert (lines[3]["thread"], lines[3]["events"]) == ("\\udcff", ["\\udcfe"])
    assert encode_events([own, dropped]) == b"".join(map(encode_event, [own, dropped]))


def test_a_name_given_after_the_making_is_the_one_in_the_lines() -> None:
    create, done = a_task(a_kind(a_place()), "Task-1")
    assert isinstance(create, Created)
    create.name = "renamed"
    assert [line["name"] for line in check([create, done])] == ["renamed", "renamed"]


def test_an_empty_batch_has_no_lines() -> None:
    assert Batch([]).encode() == b""


def test_a_batch_shows_typed_events() -> None:
    create, done = a_task(a_kind(a_place()), "Task-1")
    batch = Batch([create, done])
    assert [type(event) for event in batch] == [TaskCreate, TaskDone]
    assert batch[1] == event_of(done)
    assert list(batch[:1]) == [event_of(create)]
    assert len(batch) == 2


def test_blanks_share_nothing() -> None:
    place = a_place()
    first, second = place.new_event(TaskCancel), place.new_event(TaskCancel)
    first.reason = "timeout"
    assert (second.reason, second.run, second.loop) == ("unknown", place.run.id, 1)


@given(st.lists(st.integers(min_value=0, max_value=4_000_000_000 * 10**9), min_size=1, max_size=20))
def test_a_timestamp_is_what_datetime_says_whatever_was_asked_before(moments: list[int]) -> None:
    for ns in [each + step for each in moments for step in (0, 1, 999, 1000, 999_999, 10**6)]:
        moment = datetime.fromtimestamp(ns // 10**9, UTC).replace(microsecond=ns % 10**9 // 1000)
        assert timestamp(ns) == moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
