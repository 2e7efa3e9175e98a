"""What `aioaudit top` knows and shows, apart from the terminal: of logs whose truth is known."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len

import aioaudit
from aioaudit.cli.terminal import page
from aioaudit.cli.top import model as models
from aioaudit.cli.top import stories
from aioaudit.cli.top.model import Model
from aioaudit.cli.top.screen import Screen, text_of
from aioaudit.cli.top.sources import File, Folder, Lines, Stream, Turns, source_of
from aioaudit.cli.why_text import Text
from aioaudit.events import (
    NO_UNCANCELS,
    Event,
    FutureCancel,
    ProcessDropped,
    ProcessEnd,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.log import Log
from aioaudit.log.incidents import housekeeping

START = 1_795_000_000  # of every made log, in seconds since the epoch


def base(seq: int, second: float = 0.0, run: str = "r1") -> dict[str, Any]:
    when = datetime.fromtimestamp(START + second + seq / 1e6, UTC)
    ts = f"{when:%Y-%m-%dT%H:%M:%S.%f}Z"
    return {"ts": ts, "seq": seq, "run": run, "pid": 1, "thread": "MainThread"}


def task(number: int, **more: Any) -> dict[str, Any]:
    return {"task": number, "name": f"t{number}", "coro": "app:work", **more}


def asked(seq: int, number: int, second: float = 0.0, **more: Any) -> TaskCancel:
    more = {"accepted": True, "reason": "explicit", "at": "/app.py:3", "origin": "called", **more}
    more = {"source": "app:main", **more}
    run = more.pop("run", "r1")
    return TaskCancel(**base(seq, second, run), **task(number), **more)


def done(seq: int, number: int, second: float = 0.0, **more: Any) -> TaskDone:
    more = {"outcome": "cancelled", "cancel_outcome": "obeyed", **more}
    return TaskDone(**base(seq, second), **task(number), **more)


def begun(*coverage: str, run: str = "r1") -> ProcessStart:
    more: dict[str, Any] = {"version": "0", "python": "3", "ppid": 1, "argv": []}
    return ProcessStart(**base(0, 0, run), schema=1, coverage=list(coverage), **more)


def polled(seq: int, number: int, second: float = 0.0) -> list[Event]:
    """A wait with a deadline of its own, which ran out: housekeeping."""
    line = {"at": f"/app.py:{number}", "suspended_at": f"/app.py:{number + 1}"}
    more: dict[str, Any] = {"reason": "timeout", "origin": "deadline", "taken_back": True, **line}
    asks = asked(seq, number, second, **more, origin_reason="timeout", origin_at=line["at"])
    back = TaskUncancel(
        **base(seq + 1, second), **task(number), remaining=0, cancel=seq, at=line["at"]
    )
    ends = done(seq + 2, number, second, outcome="returned", cancel=seq, cancel_outcome="absorbed")
    return [asks, back, ends]


def model_of(*events: Event, **more: Any) -> Model:
    model = Model(clock=lambda: START + 10.0, **more)
    for event in events:
        model.add(event)
    return model


def shown(model: Model, width: int = 80, height: int = 23, **more: Any) -> tuple[Screen, str]:
    screen = Screen(model, "app.jsonl", cell_len)
    for name, value in more.items():
        setattr(screen, name, value)
    screen.refresh("live")
    return screen, said(screen, width, height)


def said(screen: Screen, width: int = 80, height: int = 23) -> str:
    lines = text_of(screen.lines(width, height))
    assert len(lines) == height
    assert all(cell_len(line) <= width for line in lines)
    return "\n".join(lines)


# -- what is known --------------------------------------------------------------------------------


async def everything() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("no such row")

    async def wait() -> None:
        await asyncio.sleep(60)

    async def poll() -> None:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        except TimeoutError:
            pass

    async def swallow() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async def outer() -> None:
        await asyncio.gather(wait(), wait())

    async def family() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(), name="failing")
                group.create_task(wait(), name="sibling")
        except* LookupError:
            pass

    await asyncio.create_task(family())
    await asyncio.create_task(poll())
    tasks = [asyncio.create_task(each(), name=each.__name__) for each in (outer, swallow, wait)]
    await asyncio.sleep(0.001)
    for each in tasks:
        each.cancel()
        each.cancel()
    await asyncio.wait(tasks)
    future = asyncio.get_running_loop().create_future()

    async def follow() -> None:
        await future

    follower = asyncio.create_task(follow(), name="follower")
    await asyncio.sleep(0)
    future.cancel()
    await asyncio.wait([follower])


@pytest.fixture(scope="module")
def recorded() -> list[Event]:
    exporter = MemoryExporter()
    aioaudit.enable(exporter)
    try:
        asyncio.run(everything())
    finally:
        aioaudit.disable()
    return list(exporter.events)


def test_every_answer_is_that_of_why(recorded: list[Event]) -> None:
    log = Log()
    for event in recorded:
        log.add(event)
    model = model_of(*recorded)
    theirs = {case.task: (case.answer(), housekeeping(case)) for case in log.cases()}
    assert len(theirs) >= 8
    model.judge()
    for incident in model.shelf:
        for case in model.cases(incident)[1]:
            answer, kind = theirs[case.task]
            assert case.answer() == answer
            assert incident.root == answer.root or case.task not in incident.tasks
            assert (incident.kind or None) == kind
    assert {number for each in model.shelf for number in each.tasks} == set(theirs)


def test_what_is_open_reads_as_why_does(recorded: list[Event]) -> None:
    log = Log()
    for event in recorded:
        log.add(event)
    (case,) = log.cases("sibling")
    with page(80) as lines:
        Text(log, "").answer(case)
    screen, _ = shown(model_of(*recorded), search="sibling")
    screen.enter()
    assert [line for line in said(screen).splitlines()[1:] if line] == [
        each for each in lines if each
    ]


def test_rates_and_counts_are_those_of_the_logs_own_time() -> None:
    makes = [TaskCreate(**base(seq, 0), **task(seq)) for seq in range(1, 101)]
    model = model_of(*makes, *(asked(200 + each, each, 8.0) for each in range(1, 31)))
    _, text = shown(model)
    assert "10/s made" in text
    assert "100 alive" in text
    assert "3.0/s asked   in 1 min 30   5 min 30   in all 30" in text


def test_a_task_that_was_asked_and_does_not_end_is_shown_until_it_ends() -> None:
    model = model_of(begun(), asked(1, 7, suspended_at="/srv/shop/api/db.py:9"))
    model.caught_up(ended=False)
    assert model.following
    model.add(TaskCreate(**base(2, 5), **task(8)))
    screen, text = shown(model, 120)
    assert "5 s  work (t7)" in text
    assert "at api/db.py:9; app:main called cancel() at /app.py:3" in text
    model.add(done(3, 7, 6, cancel=1))
    screen.refresh("live")
    assert "DO NOT END" not in said(screen)


@pytest.mark.parametrize("what", ["blind", "headless", "ended"])
def test_what_may_have_ended_is_not_said_to_be_stuck(what: str) -> None:
    events: list[Event] = [asked(1, 7)]
    if what == "blind":
        events.insert(0, begun(NO_UNCANCELS))
    if what == "ended":
        events = [begun(), *events, ProcessEnd(**base(3), written=1, dropped=0)]
    _, text = shown(model_of(*events, begun(run="r2")))
    assert "t7" not in text.partition("LAST INCIDENTS")[0]
    assert "DO NOT END" not in text
    assert ("does not tell how tasks end" in text) == (what != "ended")


def test_housekeeping_is_hidden_counted_and_shown_when_asked_for() -> None:
    events = [each for number in range(1, 21) for each in polled(10 * number, number)]
    screen, text = shown(model_of(*events, asked(900, 99), done(901, 99, cancel=900)))
    incidents = text.partition("LAST INCIDENTS")[2]
    assert "(h: 20 more)" in incidents
    assert "t99" in incidents
    assert "timeout" not in text
    screen.everything = True
    screen.refresh("live")
    assert "a timeout at /app.py:20 ran out" in said(screen)


def test_what_is_kept_is_bounded_and_what_went_is_told() -> None:
    model = model_of(limit=20_000)
    for number in range(1, 2_001):
        model.add(asked(10 * number, number, number, by=number))
        model.add(done(10 * number + 1, number, number, cancel=10 * number))
    assert model.shelf.size <= 20_000
    assert len(model.shelf) < 40
    run = model.runs["r1"]
    assert len(run.of_request) < 40
    assert len(run.of_task) < 40
    _, text = shown(model)
    assert f"{2_000 - len(model.shelf):,} older incidents not kept any more" in text
    assert "2,000" in text.partition("ROOT CAUSES")[2].partition("\n")[2].splitlines()[0]


def test_housekeeping_goes_before_incidents() -> None:
    model = model_of(asked(1, 5_000), done(2, 5_000, cancel=1), limit=40_000)
    for number in range(1, 500):
        for event in polled(10 * number, number, 1):
            model.add(event)
        if number % 5 == 0:
            model.judge()
    assert model.shelf.gone == 0
    assert any(5_000 in each.tasks for each in model.shelf)


def test_an_end_whose_request_was_thrown_away_is_no_unknown_cause() -> None:
    model = model_of(limit=3_000)
    for number in range(1, 50):
        model.add(asked(number, number, by=number))
    for number in range(1, 50):
        model.add(done(100 + number, number, cancel=number))
    assert not [each for each in model.shelf if each.root.reason == "unknown"]
    model.add(done(900, 900, cancel=800))
    assert [each for each in model.shelf if each.root.reason == "unknown"]


def test_one_cause_with_very_many_victims_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stories, "MOST_LINES", 100)
    monkeypatch.setattr(models, "MOST_NAMES", 50)
    model = model_of()
    for number in range(1, 1_001):
        model.add(asked(number, number))
    for number in range(1, 1_001):
        model.add(done(2_000 + number, number, 1, cancel=number))
    (incident,) = model.shelf
    assert incident.count == 1_000
    assert len(incident.lines) <= 100
    assert len(incident.tasks) == 50
    assert not model.runs["r1"].asked
    screen, _ = shown(model)
    screen.enter()
    assert "lines about this incident are not kept here" in said(screen)


def test_lost_and_damaged_lines_are_told() -> None:
    model = model_of(
        begun(), asked(1, 7), ProcessDropped(**base(2), count=12), asked(5, 8), asked(4, 9)
    )
    lines = Lines("app.jsonl")
    lines.take(b"garbage\n", model)
    screen, text = shown(model)
    assert "! 12 events lost before they were written" in text
    assert "(? shows 1 more)" in text
    screen.help()
    text = said(screen, height=60)
    assert "1 event came twice, or too late to be counted" in text
    assert "! app.jsonl:1: not a line of JSON" in text


def test_a_line_with_a_time_that_is_nobodys_does_not_stop_the_clock() -> None:
    wrong = msgspec.structs.replace(asked(2, 8), ts="2999-01-01T00:00:00Z")
    model = model_of(asked(1, 7), wrong, asked(3, 9, 1))
    assert int(model.last) == START + 1
    assert model.asked.last(10, START + 1) == 3


@pytest.mark.parametrize("blind", [True, False])
def test_who_awaited_a_future_that_was_cancelled_counts(blind: bool) -> None:
    future = FutureCancel(
        **base(1),
        reason="explicit",
        origin="called",
        at="/app.py:3",
        waiters=[7],
        waiter_names=["t7"],
    )
    start = begun(NO_UNCANCELS) if blind else begun()
    model = model_of(start, future, *(() if blind else (done(2, 7, cancel=1),)))
    (incident,) = model.shelf
    assert incident.count == 1
    assert "t7" in shown(model)[1]


# -- what is shown --------------------------------------------------------------------------------


def several() -> Model:
    events: list[Event] = []
    for number in range(1, 31):
        events += [
            asked(10 * number, number, number, by=number, at=f"/app.py:{number}"),
            done(10 * number + 1, number, number, cancel=10 * number),
        ]
    return model_of(*events)


@pytest.mark.parametrize("size", [(80, 23), (132, 50), (40, 10), (20, 4), (1, 1)])
def test_every_size_has_as_many_lines_and_columns_as_there_are(size: tuple[int, int]) -> None:
    screen, _ = shown(several(), *size)
    for key in (screen.enter, screen.help):
        key()
        said(screen, *size)


def test_the_chosen_row_stays_chosen_whatever_comes() -> None:
    model = several()
    screen, _ = shown(model)
    screen.move(1)
    screen.move(1)
    before = [line for line in said(screen).splitlines() if line.startswith(">")]
    for number in range(50, 60):
        model.add(asked(10 * number, number, number, by=number))
        model.add(done(10 * number + 1, number, number, cancel=10 * number))
    screen.refresh("live")
    assert [line for line in said(screen).splitlines() if line.startswith(">")] == before
    screen.end(last=True)
    assert ">" in said(screen)
    screen.part()
    assert ">" in said(screen)


def test_a_search_finds_tasks_and_causes_and_goes_by_name() -> None:
    screen, text = shown(several(), search="T17")
    assert "/ T17" in text
    incidents = text.partition("LAST INCIDENTS")[2]
    assert incidents.count("t") == incidents.count("t17") + text.partition("LAST")[2].count("at /")
    assert "/app.py:17" in text.partition("LAST INCIDENTS")[0]
    assert "/app.py:16" not in text
    screen, text = shown(several(), search="nobody")
    assert text.count("nothing found") == 2
    assert screen.back()
    assert screen.search == ""


def test_a_screen_that_stands_still_counts_what_comes() -> None:
    model = several()
    screen, before = shown(model)
    screen.pause()
    model.add(asked(900, 99, 40))
    screen.refresh("live")
    after = said(screen)
    assert before.splitlines()[1:] == after.splitlines()[1:]
    assert "PAUSED" in after
    assert "1 event since" in after
    screen.pause()
    screen.refresh("live")
    assert "t99" in said(screen)


def test_the_other_tasks_and_incidents_are_a_key_away() -> None:
    model = model_of(asked(1, 7), asked(2, 8), done(3, 7, cancel=1), done(4, 8, cancel=2))
    for event in (asked(11, 9, 1, at="/app.py:9"), done(12, 9, 1, cancel=11)):
        model.add(event)
    screen, _ = shown(model)
    screen.enter()
    assert "work (t9) was cancelled" in said(screen)
    screen.incident(1)
    assert "1 of 2 (left, right)" in said(screen)
    assert "work (t7) was cancelled" in said(screen)
    screen.task(1)
    assert "work (t8) was cancelled" in said(screen)
    assert screen.back()
    assert "LAST INCIDENTS" in said(screen)
    assert not screen.back()


HOSTILE = "\x1b[2J\x1b]0;owned\x07<b>[red]\u202e\u2066\r\n\x9b31m漢字" + "e" + "\u0301" * 40


def test_hostile_names_are_harmless() -> None:
    event = msgspec.structs.replace(asked(1, 7), name=HOSTILE, at=f"/{HOSTILE}.py:3")
    end = msgspec.structs.replace(done(2, 7, cancel=1), name=HOSTILE)
    screen, text = shown(model_of(event, end))
    screen.enter()
    screen.search = HOSTILE
    screen.refresh("live")
    for each in (text, said(screen), said(screen, 30, 12)):
        assert each.replace("\n", "").isprintable()
        assert "\u0301" * 3 not in each


# -- where it comes from --------------------------------------------------------------------------


def line_of(*events: Event) -> bytes:
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)


def read_all(source: Any, model: Model) -> None:
    while source.read(model):
        pass


def test_a_file_that_grows_is_followed_also_by_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "app.jsonl"
    path.write_bytes(line_of(asked(1, 7))[:50])
    model, source = model_of(), File(str(path))
    read_all(source, model)
    assert (model.events, source.behind()) == (0, 0)
    with path.open("ab") as file:
        file.write(line_of(asked(1, 7))[50:] + line_of(asked(2, 8)))
    assert source.behind()
    read_all(source, model)
    assert (model.events, model.damaged) == (2, 0)
    source.close()


@pytest.mark.parametrize("how", ["replaced", "cut"])
def test_a_file_that_is_rotated_loses_nothing(tmp_path: Path, how: str) -> None:
    path = tmp_path / "app.jsonl"
    path.write_bytes(line_of(asked(1, 7), asked(2, 8)))
    model, source = model_of(), File(str(path))
    read_all(source, model)
    if how == "replaced":
        with path.open("ab") as file:
            file.write(line_of(asked(3, 9)))
        path.rename(tmp_path / "app.jsonl.1")
        read_all(source, model)
        assert model.events == 3
        path.write_bytes(line_of(asked(4, 10)))
    else:
        path.write_bytes(line_of(asked(3, 9)))
        read_all(source, model)
        with path.open("ab") as file:
            file.write(line_of(asked(4, 10)))
    read_all(source, model)
    assert (model.events, model.damaged, model.repeated) == (4, 0, 0)
    assert how in source.notes[-1]
    source.close()


def test_new_files_of_a_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioaudit.cli.top.sources.LOOK_AGAIN", -1)
    (tmp_path / "a.jsonl").write_bytes(line_of(asked(1, 7)))
    model, source = model_of(), Folder(str(tmp_path))
    read_all(source, model)
    (tmp_path / "b.jsonl").write_bytes(line_of(asked(1, 8, run="r2")))
    read_all(source, model)
    assert set(model.runs) == {"r1", "r2"}
    source.close()


def test_an_empty_name_is_not_this_folder() -> None:
    with pytest.raises(FileNotFoundError, match="an empty name is no file"):
        source_of("")


def test_files_of_one_run_are_read_one_after_the_other(tmp_path: Path) -> None:
    events = [asked(seq, seq, at=f"/{'x' * 900}.py:3") for seq in range(1, 401)]
    for name, some in (("a", events[:200]), ("b", events[200:])):
        (tmp_path / f"{name}.jsonl").write_bytes(line_of(*some))
    model = model_of()
    turns = Turns([source_of(str(tmp_path / f"{name}.jsonl")) for name in "ab"])
    while turns.read(model):
        assert not turns.read_once
    assert turns.read_once
    assert (model.events, model.repeated) == (400, 0)
    turns.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, Callable[[bytes], None], Callable[[], None]]]:
    out, into = os.pipe()
    open_ = [out, into]

    def close() -> None:
        open_.remove(into)
        os.close(into)

    def write(data: bytes) -> None:
        os.write(into, data)

    yield out, write, close
    for each in open_:
        os.close(each)


def test_a_pipe_is_read_as_it_comes_and_its_end_is_told(
    pipe: tuple[int, Callable[[bytes], None], Callable[[], None]],
) -> None:
    out, write, close = pipe
    model, source = model_of(), Stream(out, "standard input")
    assert not source.read(model)
    write(line_of(asked(1, 7))[:-20])
    read_all(source, model)
    assert model.events == 0
    write(line_of(asked(1, 7))[-20:] + b'{"event":"task.c')
    read_all(source, model)
    assert model.events == 1
    close()
    read_all(source, model)
    assert source.ended
    assert model.damaged == 1
    assert "cut off" in model.problems[0].what
    assert source.notes == ["standard input has ended"]


def test_a_line_without_end_takes_no_more_memory_than_a_line_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aioaudit.cli.top.sources.LONGEST", 1_000)
    model = model_of()
    lines = Lines("x")
    for _ in range(100):
        lines.take(b"y" * 500, model)
    assert sum(map(len, lines._rest)) <= 1_000
    lines.take(b"\n" + line_of(asked(1, 7)), model)
    assert model.damaged == 1
    assert model.events == 1
