"""The recorder's ring: what it keeps, what goes first, and that its answers are those of a log."""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import aioaudit
from aioaudit.chain.links import Answer
from aioaudit.events import (
    Event,
    Finding,
    FutureCancel,
    ProcessDropped,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskFound,
    TaskUncancel,
)
from aioaudit.exporter import Batch, encode_events
from aioaudit.exporters.recorder import RecorderExporter
from aioaudit.exporters.recorder.ring import Ring
from aioaudit.log import Log
from tests.random_trees import (
    PROGRAMS,
    Plan,
    World,
    as_many_as_wanted,
    blamed_wrongly,
    patience,
    perform,
    plans,
)
from tests.waiting import PATIENCE

NOW = "2026-11-30T12:00:00.000000Z"
ROOMY = 10**9


class Batches:
    """Keeps what an exporter gets, as it gets it."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def export(self, events: Sequence[Event]) -> None:
        assert isinstance(events, Batch)
        self.records += events.records

    def flush(self) -> None:
        """It is there."""

    def shutdown(self) -> None:
        """It stays."""

    def into(self, ring: Ring, sizes: random.Random) -> Ring:
        """Give all of it to *ring*, in pieces of any sizes."""
        left = self.records
        while left:
            count = sizes.randint(1, 40)
            ring.take(Batch(left[:count]))
            left = left[count:]
        return ring


def dumped(ring: Ring) -> bytes:
    return b"".join(ring.lines(NOW))


def log_of(lines: bytes) -> Log:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        path.write_bytes(lines)
        log = aioaudit.load(path)
    assert (log.damaged, log.problems) == (0, [])
    return log


def events_in(lines: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def recorded(main: Any) -> Batches:
    """What is told of *main*, run by asyncio."""

    async def named() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("main")
        await main()

    batches = Batches()
    with aioaudit.enable(batches):
        asyncio.run(named())
    return batches


async def nothing() -> None:
    await asyncio.sleep(0)


async def make_lives(count: int) -> None:
    for _ in range(0, count, 50):
        await asyncio.gather(*(nothing() for _ in range(50)))


async def cancel_one(name: str) -> None:
    task = asyncio.create_task(asyncio.sleep(60), name=name)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


# -- answers -----------------------------------------------------------------------------


@patience
@settings(as_many_as_wanted, max_examples=PROGRAMS or 40)
@given(plans)
def test_a_random_program_has_the_same_answers_as_its_log(plan: Plan) -> None:
    note(str(plan))
    batches = Batches()
    with aioaudit.enable(batches):
        world = perform(plan, "asyncio")
    whole = encode_events(Batch(batches.records))
    chance = random.Random(plan.order)
    ring = batches.into(Ring(ROOMY), chance)
    assert dumped(ring) == whole
    for share in (0.7, 0.3):
        check_what_is_left(world, whole, batches.into(Ring(int(ring.size * share)), chance))


def check_what_is_left(world: World, whole: bytes, ring: Ring) -> None:
    lines = dumped(ring)
    kept = lines.splitlines()
    told = [line for line in kept if b'"process.dropped"' not in line]
    assert set(told) <= set(whole.splitlines())
    assert ring.lost == len(whole.splitlines()) - len(told)
    seqs = [event["seq"] for event in events_in(lines)]
    assert seqs == sorted(set(seqs))
    full, left = answers(whole), answers(lines)
    wanted = [line for line in whole.splitlines() if is_relevant(line)]
    if set(wanted) <= set(kept):
        assert left == full
        return
    assert blamed_wrongly(world, left, lost=True) == []
    for task, answer in left.items():
        # What is left of a task is the last of it.
        assert (answer.outcome, answer.cancel_outcome) == (
            full[task].outcome,
            full[task].cancel_outcome,
        )


def is_relevant(line: bytes) -> bool:
    """Whether *line* is of those that go last."""
    event = json.loads(line)
    return event["event"] in ("task.cancel", "future.cancel", "task.uncancel", "finding") or (
        event["event"] == "task.done" and event["outcome"] != "returned"
    )


def answers(lines: bytes) -> dict[int, Answer]:
    return {each.task: each for each in log_of(lines).answers()}


# -- what goes first -----------------------------------------------------------------------


def test_lives_without_incident_go_first_and_an_old_incident_stays() -> None:
    async def main() -> None:
        await asyncio.create_task(cancel_one("early"), name="asker")
        await make_lives(2_000)

    batches = recorded(main)
    ring = batches.into(Ring(30_000), random.Random(1))
    assert ring.size <= 30_000
    lines = dumped(ring)
    [answer] = log_of(lines).answers()
    assert (answer.name, answer.root.what, answer.outcome) == ("early", "called", "cancelled")
    events = events_in(lines)
    [dropped] = [event for event in events if event["event"] == "process.dropped"]
    assert dropped["count"] == len(batches.records) - (len(events) - 1) > 3_000
    assert set(dropped["events"]) == {"task.create", "task.done"}
    assert dropped["unneeded"] == dropped["count"]
    assert [run.dropped for run in log_of(lines).runs.values()] == [0]
    # Who asked is kept as long, although it just returned.
    [asker] = {event["by"] for event in events if event["event"] == "task.cancel"}
    about = [event["event"] for event in events if event.get("task") == asker]
    assert about == ["task.create", "task.done"]


def test_the_oldest_incident_goes_where_there_is_room_for_nothing_else() -> None:
    async def main() -> None:
        for number in range(200):
            await cancel_one(f"victim-{number}")

    ring = recorded(main).into(Ring(100_000), random.Random(1))
    assert ring.size <= 100_000
    names = [answer.name for answer in log_of(dumped(ring)).answers()]
    assert names == [f"victim-{number}" for number in range(200 - len(names), 200)]
    assert 20 < len(names) < 200
    [run] = log_of(dumped(ring)).runs.values()
    assert run.dropped >= 2 * (200 - len(names))


def test_a_root_stays_as_long_as_what_came_of_it() -> None:
    async def main() -> None:
        async def parent() -> None:
            await asyncio.create_task(child(), name="child")

        async def child() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                # The loop goes on for long before the rest of the chain comes.
                for number in range(100):
                    await cancel_one(f"other-{number}")
                last = asyncio.create_task(asyncio.sleep(60), name="last")
                await asyncio.sleep(0)
                last.cancel()
                await asyncio.wait([last])

        task = asyncio.create_task(parent(), name="first")
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])

    batches = recorded(main)
    full = {each.name: each for each in log_of(encode_events(Batch(batches.records))).answers()}
    ring = batches.into(Ring(64_000), random.Random(1))
    left = {each.name: each for each in log_of(dumped(ring)).answers()}
    assert ring.lost
    assert "other-1" not in left
    assert len(left["last"].chain) > 2
    assert left["last"].chain == full["last"].chain


def test_a_task_that_is_asked_again_and_again_leaves_room_for_others() -> None:
    async def main() -> None:
        await cancel_one("early")
        for number in range(70):
            try:
                async with asyncio.timeout(0):
                    await asyncio.sleep(60)
            except TimeoutError:
                pass
            if number == 65:
                await cancel_one("late")

    ring = recorded(main).into(Ring(100_000), random.Random(1))
    assert ring.size <= 100_000
    left = {each.name: each for each in log_of(dumped(ring)).answers()}
    assert left["late"].root.what == "called"
    assert left["main"].root.what == "deadline"
    assert left["main"].cancel_outcome == "absorbed"
    assert 25 < len(left["main"].requests) < 70


class Told:
    """Events made by hand: of tasks that do what is told."""

    def __init__(self) -> None:
        self.events: list[Event] = [
            self.event(ProcessStart, schema=1, version="1", python="3", **ARGS)
        ]

    def event(self, kind: type[Any], /, **keys: Any) -> Any:
        seq = len(getattr(self, "events", ())) + 1
        if kind in (TaskCreate, TaskFound, TaskCancel, TaskUncancel, TaskDone, Finding):
            keys = {"name": f"t{keys['task']}", "coro": "m:f"} | keys
        return kind(ts=NOW, seq=seq, run="r", pid=1, thread="t", loop=1, **keys)

    def tell(self, kind: type[Any], /, **keys: Any) -> int:
        self.events.append(self.event(kind, **keys))
        return self.events[-1].seq

    def ask(self, task: int, **keys: Any) -> int:
        keys = {"reason": "explicit", "accepted": True} | keys
        return self.tell(TaskCancel, task=task, **keys)

    def obey(self, task: int, request: int) -> int:
        return self.tell(
            TaskDone, task=task, outcome="cancelled", cancel=request, cancel_outcome="obeyed"
        )

    def agrees(self, limit: int) -> tuple[dict[int, Answer], bytes]:
        """What a ring of *limit* bytes answers; of each task it knows the last, or nothing."""
        ring = Ring(limit)
        for event in self.events:
            ring.take([event])
        lines = dumped(ring)
        full, left = answers(encode_events(self.events)), answers(lines)
        ends = {task: (each.outcome, each.cancel_outcome) for task, each in full.items()}
        assert {task: (each.outcome, each.cancel_outcome) for task, each in left.items()} == {
            task: ends[task] for task in left
        }
        assert ring.lost
        return left, lines


ARGS: dict[str, Any] = {"ppid": 0, "argv": [], "coverage": []}


def test_what_is_older_of_a_task_goes_with_what_is_newer() -> None:
    told = Told()
    first = told.ask(1, origin="called", taken_back=True)
    told.tell(TaskUncancel, task=1, remaining=0, cancel=first)
    told.obey(1, told.ask(1, origin="called"))
    for task in range(2, 60):  # which keep the first request, and not the second
        told.obey(task, told.ask(task, cause=first))
    left, lines = told.agrees(40_000)
    assert 1 not in left
    assert b'"task":1,' not in lines


def test_an_older_task_that_was_found_stays_with_what_is_known_of_it() -> None:
    told = Told()
    told.tell(TaskFound, task=1, preexisting=True, suspended_at="app.py:7")
    first = told.ask(1, origin="called")
    second = told.ask(2, origin="called")
    told.tell(TaskFound, task=2, preexisting=True, suspended_at="app.py:8")
    told.tell(TaskFound, task=3, preexisting=True, suspended_at="app.py:9")
    for task in range(4, 60):
        told.obey(task, told.ask(task, cause=first))
        told.obey(task, told.ask(task, cause=second))
    told.obey(1, first)
    told.obey(2, second)
    left, lines = told.agrees(40_000)
    assert {1, 2} <= left.keys()
    assert b"app.py:7" in lines
    assert b"app.py:8" in lines
    assert b"app.py:9" not in lines  # nobody asked anything of it


def test_those_who_waited_for_one_future_go_together() -> None:
    told = Told()
    told.tell(TaskCreate, task=2)
    future = told.tell(FutureCancel, waiters=[1, 2], reason="explicit", origin="called")
    told.obey(1, future)
    told.obey(2, future)
    for task in range(3, 60):  # which keep the second of them
        told.obey(task, told.ask(task, by=2, origin="called"))
    left, _ = told.agrees(40_000)
    assert {1, 2} <= left.keys()
    assert 3 not in left


def test_what_is_found_of_a_request_stays_with_it_also_in_a_story_of_several() -> None:
    told = Told()
    told.ask(1, origin="called")
    request = told.ask(2, origin="called")
    told.tell(FutureCancel, waiters=[1, 2], reason="explicit", origin="called")
    told.tell(Finding, task=2, kind="lost", severity="finding", cancel=request)
    for task in range(3, 60):
        told.obey(task, told.ask(task, origin="called"))
    left, lines = told.agrees(40_000)
    assert not {1, 2} & left.keys()
    assert b'"event":"finding"' not in lines


def test_what_is_lost_before_it_came_is_told_too() -> None:
    batches = recorded(lambda: cancel_one("victim"))
    run = batches.records[0]
    lost = ProcessDropped(
        ts=NOW,
        seq=batches.records[-1].seq + 1,
        run=run.run,
        pid=run.pid,
        thread="x",
        count=7,
        events=["loop.start"],
        faults=["KeyError at x"],
    )
    batches.records.append(lost)
    events = events_in(dumped(batches.into(Ring(ROOMY), random.Random(1))))
    [dropped] = [event for event in events if event["event"] == "process.dropped"]
    assert (dropped["count"], dropped["events"], dropped["faults"]) == (
        7,
        ["loop.start"],
        ["KeyError at x"],
    )


def test_names_of_any_length_take_no_more_than_they_may() -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(nothing(), name="n" * 100_000) for _ in range(100)]
        await asyncio.wait(tasks)

    ring = recorded(main).into(Ring(ROOMY), random.Random(1))
    assert ring.size < 200_000
    names = [len(event["name"]) for event in events_in(dumped(ring)) if "name" in event]
    assert names.count(201) == 200


def test_another_run_begins_with_nothing() -> None:
    first = recorded(lambda: cancel_one("first"))
    second = recorded(lambda: cancel_one("second"))
    ring = first.into(Ring(ROOMY), random.Random(1))
    assert dumped(second.into(ring, random.Random(1))) == encode_events(Batch(second.records))


# -- files ---------------------------------------------------------------------------------


def test_dump_writes_all_that_had_happened(tmp_path: Path) -> None:
    path, log = tmp_path / "dump.jsonl", tmp_path / "log.jsonl"

    async def main() -> None:
        await cancel_one("victim")
        await make_lives(500)
        assert aioaudit.dump(path) == str(path)

    with aioaudit.enable("recorder", "jsonl", jsonl_path=log):
        asyncio.run(main())
    lines = path.read_bytes()
    assert log.read_bytes().startswith(lines)
    assert b'"name":"victim"' in lines
    assert path.stat().st_mode & 0o777 == 0o600
    assert {each.name for each in tmp_path.iterdir()} == {"dump.jsonl", "log.jsonl"}


def test_dump_replaces_a_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "dump.jsonl"
    path.write_text("what was there\n")
    path.chmod(0o644)
    with aioaudit.enable("recorder"):
        asyncio.run(nothing())
        aioaudit.dump(path)
        assert events_in(path.read_bytes())[0]["event"] == "process.start"
        assert path.stat().st_mode & 0o777 == 0o600
        before = path.read_bytes()
        with pytest.raises(IsADirectoryError):
            aioaudit.dump(tmp_path)
        with pytest.raises(FileNotFoundError):
            aioaudit.dump(tmp_path / "no" / "dump.jsonl")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    target.touch(0o600)
    link.symlink_to(target)
    with aioaudit.enable("recorder"):
        with pytest.raises(BlockingIOError):
            aioaudit.dump(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            aioaudit.dump(pipe)
            read = os.read(reader, 100_000)
        finally:
            os.close(reader)
        aioaudit.dump(link)
    assert link.is_symlink()
    assert [event["event"] for event in events_in(read)] == ["process.start"]
    assert target.read_bytes() == read


def test_a_dump_that_nobody_waits_for_any_more_is_not_written(tmp_path: Path) -> None:
    recorder = RecorderExporter()
    hold = threading.Event()

    def slow(events: Sequence[Event]) -> None:
        hold.wait(PATIENCE)
        RecorderExporter.export(recorder, events)

    recorder.export = slow  # type: ignore[method-assign]
    with aioaudit.enable(recorder):
        with pytest.raises(aioaudit.DumpError, match=r"no dump within 0\.01 s"):
            aioaudit.dump(tmp_path / "late", timeout=0.01)
        hold.set()
        aioaudit.dump(tmp_path / "in time")
    assert [each.name for each in tmp_path.iterdir()] == ["in time"]


def test_dump_without_a_recorder_says_so(tmp_path: Path) -> None:
    with pytest.raises(aioaudit.DumpError, match="no recorder is on"):
        aioaudit.dump(tmp_path / "a")
    with aioaudit.enable(Batches()), pytest.raises(aioaudit.DumpError, match="no recorder is on"):
        aioaudit.dump(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_dump_before_anything_happened_is_a_log_already(tmp_path: Path) -> None:
    with aioaudit.enable("recorder"):
        aioaudit.dump(tmp_path / "a")
    assert [event["event"] for event in events_in((tmp_path / "a").read_bytes())] == [
        "process.start"
    ]


def test_two_dumps_of_a_run_read_together_are_the_second_one(tmp_path: Path) -> None:
    async def main() -> None:
        for number in range(100):
            try:
                async with asyncio.timeout(0):
                    await asyncio.sleep(60)
            except TimeoutError:
                pass
            done = asyncio.create_task(nothing())
            await done
            done.cancel()  # too late, which is found
            if number in (50, 99):
                aioaudit.dump(tmp_path / f"{number}.jsonl")

    with aioaudit.enable(RecorderExporter(100_000)):
        asyncio.run(main())
    first, second = tmp_path / "50.jsonl", tmp_path / "99.jsonl"
    alone, both = aioaudit.load(second), aioaudit.load([second, first, second])
    [run], [together] = alone.runs.values(), both.runs.values()
    assert run.dropped == together.dropped > 0
    assert run.findings
    assert {each.seq for each in together.findings} >= {each.seq for each in run.findings}
    assert len({each.seq for each in together.findings}) == len(together.findings)
    assert [each.root for each in both.answers()] == [each.root for each in alone.answers()]


@settings(max_examples=10)
@given(st.lists(st.sampled_from(["cancel", "lives"]), max_size=4))
def test_each_dump_has_what_the_one_before_had(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, aioaudit.enable(RecorderExporter()):
        before: list[bytes] = []
        for number, step in enumerate(steps):
            asyncio.run(cancel_one("victim") if step == "cancel" else make_lives(50))
            path = Path(folder) / f"{number}.jsonl"
            aioaudit.dump(path)
            lines = path.read_bytes().splitlines()
            assert lines[: len(before)] == before
            assert len(lines) > len(before)
            before = lines
