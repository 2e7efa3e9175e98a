"""What a log looks like on a time line: which tracks, what is on them, which arrows."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest

from aioaudit.events import (
    Event,
    Finding,
    FutureCancel,
    LoopBlocked,
    LoopStart,
    ProcessDropped,
    ProcessEnd,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.exporters.perfetto import picture
from aioaudit.exporters.perfetto.picture import Picture, Shape, Slice, Track
from aioaudit.identity import Run
from aioaudit.timestamps import nanoseconds
from tests.story import Story


class Drawn:
    """The shapes of some events, to be asked."""

    def __init__(self, *events: Iterable[Event]) -> None:
        self.shapes: list[Shape] = []
        self.made = Picture(self.shapes.append)
        for each in events:
            for event in each:
                self.made.take(event)
        self.made.finish()
        self.tracks = {each.id: each for each in self.shapes if isinstance(each, Track)}
        self.slices = [each for each in self.shapes if isinstance(each, Slice)]

    def named(self, name: str) -> Slice:
        [found] = [each for each in self.slices if each.name == name]
        return found

    def of(self, kind: str) -> list[Slice]:
        return [each for each in self.slices if each.kind == kind]

    def track(self, shape: Slice) -> str:
        """Where *shape* is, from the process down."""
        names: list[str] = []
        track: Track | None = self.tracks[shape.track]
        while track is not None:
            names.append(track.name)
            track = None if track.parent is None else self.tracks[track.parent]
        return " > ".join(reversed(names[:-1]))

    def arrows(self) -> list[tuple[str, str]]:
        begins = {number: each.name for each in self.slices for number in each.out}
        ends = {number: each.name for each in self.slices for number in each.into}
        assert begins.keys() == ends.keys()
        return [(begins[number], ends[number]) for number in sorted(begins)]

    def check_nesting(self) -> None:
        """On one track what begins later ends earlier, or begins after the end."""
        for number in self.tracks:
            edges = [
                (each.start, each.end if each.end is not None else 2**64)
                for each in self.slices
                if each.track == number and each.end != each.start
            ]
            for (_, end), (start, later) in pairwise(sorted(edges)):
                assert start >= end or later <= end


def test_a_task_is_a_slice_on_a_lane_of_its_coroutine() -> None:
    story = Story()
    story.tell(
        TaskCreate, task=1, name="t1", coro="app:work", loop=1, at="app.py:3", source="app:main"
    )
    story.tell(TaskCreate, task=2, name="t2", coro="app:work", loop=1, parent=1)
    story.tell(TaskDone, task=2, name="renamed", coro="app:work", loop=1, outcome="returned")
    story.tell(TaskCreate, task=3, name="t3", coro="app:work", loop=1)
    story.tell(TaskDone, task=1, name="t1", coro="app:work", loop=1, outcome="returned")
    drawn = Drawn(story.events)
    lives = {each.name: each for each in drawn.of("task")}
    assert lives.keys() == {"work (t1)", "work (renamed)", "work (t3)"}
    assert {drawn.track(each) for each in lives.values()} == {"loop 1 (MainThread) > work"}
    # The lane of one that ended is taken again; two that live at a time have two.
    assert lives["work (renamed)"].track == lives["work (t3)"].track != lives["work (t1)"].track
    first = lives["work (t1)"]
    assert (first.start, first.end) == (
        nanoseconds(story.events[1].ts),
        nanoseconds(story.events[5].ts),
    )
    assert first.facts == {
        "made_at": "app.py:3",
        "made_by": "app:main",
        "task": 1,
        "outcome": "returned",
    }
    assert lives["work (renamed)"].facts["parent"] == "work (t1)"
    assert lives["work (t3)"].end is None
    assert (drawn.made.tasks, drawn.made.requests) == (3, 0)


def test_arrows_go_from_who_asked_to_who_was_asked_and_on() -> None:
    story = Story()
    for task in (1, 2, 3):
        story.make(task)
    first = story.cancel(2, by=1, by_name="t1", at="app.py:9", source="app:boss", message="enough")
    second = story.cancel(3, by=2, by_name="t2", cause=first, origin=None, suspended_at="app.py:20")
    story.obey(3, second)
    story.obey(2, first)
    drawn = Drawn(story.events)
    assert drawn.arrows() == [
        ("cancel() on work (t2)", "asked to cancel"),
        ("asked to cancel", "cancel() on work (t3)"),
        ("cancel() on work (t3)", "asked to cancel"),
    ]
    asks = drawn.named("cancel() on work (t2)")
    assert asks.facts == {
        "reason": "explicit",
        "at": "app.py:9",
        "source": "app:boss",
        "message": "enough",
        "thread": "MainThread",
        "evidence": "observed",
        "seq": first,
    }
    lives = {each.name: each for each in drawn.of("task")}
    asked = {each.track: each for each in drawn.of("asked")}
    assert asks.track == lives["work (t1)"].track
    of_third = asked[lives["work (t3)"].track]
    assert of_third.end == lives["work (t3)"].end
    assert of_third.facts["suspended_at"] == "app.py:20"
    assert of_third.facts["why"] == (
        "work (t3) was asked to cancel because app:boss called cancel() at app.py:9 in task t1 "
        "(message: enough), by way of t2"
    )
    assert of_third.facts["evidence"] == "observed"
    assert str(lives["work (t3)"].facts["why"]).startswith("work (t3) was cancelled because ")
    drawn.check_nesting()


def test_what_no_task_did_stands_beside_the_tasks_and_a_failure_where_it_was() -> None:
    story = Story()
    for task in (1, 2):
        story.tell(TaskCreate, task=task, name=f"t{task}", coro="app:work", loop=1)
    deadline = {"origin": "deadline", "origin_at": "app.py:5", "origin_seconds": 0.5}
    story.cancel(1, reason="timeout", loop=1, **deadline)
    failed = story.tell(
        TaskDone, task=2, name="t2", coro="app:work", loop=1, outcome="raised", error="KeyError: 1"
    )
    story.cancel(
        1,
        reason="task_group",
        loop=1,
        origin="failed",
        origin_task=2,
        origin_name="t2",
        origin_error="KeyError: 1",
    )
    drawn = Drawn(story.events)
    assert drawn.arrows() == [
        ("the timeout of 0.5 s at app.py:5 ran out", "asked to cancel"),
        ("failed with KeyError: 1", "t2 failed with KeyError: 1"),
        ("t2 failed with KeyError: 1", "asked to cancel"),
    ]
    outside = drawn.named("the timeout of 0.5 s at app.py:5 ran out")
    assert drawn.track(outside) == "loop 1 (MainThread) > outside of tasks"
    assert drawn.track(drawn.named("failed with KeyError: 1")) == "loop 1 (MainThread) > work"
    assert drawn.named("failed with KeyError: 1").start == nanoseconds(story.events[failed].ts)


def test_a_task_is_under_one_request_at_a_time_however_often_it_is_asked() -> None:
    story = Story()
    story.make(1)
    for _ in range(1_000):  # of a poller that lives on each time
        seq = story.cancel(1, reason="timeout", origin="deadline")
        story.tell(TaskUncancel, task=1, name="t1", coro="app:work", remaining=0, cancel=seq)
    swallowed = story.cancel(1)
    pending = story.cancel(1)
    story.cancel(1, behind=pending)
    story.obey(1, pending)
    drawn = Drawn(story.events)
    drawn.check_nesting()
    asked = [each for each in drawn.of("asked") if each.name == "asked to cancel"]
    assert len(asked) == 1_002
    assert all(each.facts["became"] == "absorbed" for each in asked[:1_000])
    for one, next_one in pairwise(sorted(asked, key=lambda each: each.start)):
        assert one.end is not None
        assert one.end <= next_one.start
    assert asked[-2].start == nanoseconds(story.events[swallowed].ts)
    assert asked[-2].end == asked[-1].start == nanoseconds(story.events[pending].ts)
    again = drawn.named("asked to cancel again")
    assert again.start == again.end == nanoseconds(story.events[pending + 1].ts)
    assert drawn.made.requests == 1_003


def test_an_uncancel_of_another_request_leaves_the_one_that_it_is_under() -> None:
    story = Story()
    story.make(1)
    old = story.cancel(1)
    new = story.cancel(1)
    story.tell(TaskUncancel, task=1, name="t1", coro="app:work", remaining=1, cancel=old)
    end = story.obey(1, new)
    [_, asked] = Drawn(story.events).of("asked")
    assert asked.end == nanoseconds(story.events[end].ts)
    # Where it is not known which, it is over when none is left.
    story = Story()
    story.make(1)
    story.cancel(1)
    story.tell(TaskUncancel, task=1, name="t1", coro="app:work", remaining=1)
    over = story.tell(TaskUncancel, task=1, name="t1", coro="app:work", remaining=0)
    story.end(1)
    [asked] = Drawn(story.events).of("asked")
    assert asked.end == nanoseconds(story.events[over].ts)


def test_who_awaits_a_future_that_is_cancelled_is_told_so() -> None:
    story = Story()
    for task in (1, 2, 3):
        story.make(task)
    future = story.tell(
        FutureCancel, reason="explicit", origin="called", by=3, by_name="t3", waiters=[1, 2]
    )
    story.obey(1, future)
    drawn = Drawn(story.events)
    assert drawn.arrows() == [
        ("cancel() on a future", "what it awaits is cancelled"),
        ("cancel() on a future", "what it awaits is cancelled"),
    ]


def test_events_of_one_microsecond_keep_their_order() -> None:
    story = Story(step=0)
    story.make(1)
    story.obey(1, story.cancel(1))
    story.make(2)
    drawn = Drawn(story.events)
    drawn.check_nesting()
    [life, later] = sorted(drawn.of("task"), key=lambda each: each.start)
    [asked] = drawn.of("asked")
    assert life.end is not None
    assert life.start < asked.start < life.end < later.start < life.start + 1000
    assert asked.end == life.end


def test_of_what_began_before_the_log_the_begin_is_unknown() -> None:
    story = Story()
    story.second = 60
    story.end(1, lifetime=10.0)
    story.cancel(2, preexisting=True)
    story.end(2, "cancelled")
    story.cancel(3)
    story.end(3, "cancelled")
    drawn = Drawn(story.events[1:])  # the first line is gone, too
    lives = {each.name: each for each in drawn.of("task")}
    first = lives["work (t1)"]
    assert first.end is not None
    assert first.end - first.start == 10 * 10**9
    assert [each.facts["begin"] for each in lives.values()] == ["unknown"] * 3
    assert len(drawn.of("asked")) == 2


def test_a_request_to_one_that_had_ended_has_no_other_end() -> None:
    story = Story()
    story.make(1)
    story.end(1)
    story.cancel(1, accepted=False)
    drawn = Drawn(story.events)
    assert drawn.arrows() == []
    assert drawn.of("asks")[0].facts["accepted"] is False


def test_findings_blocked_loops_and_losses_are_where_they_belong() -> None:
    story = Story()
    story.make(1)
    about = {"task": 1, "name": "t1", "coro": "app:work"}
    story.tell(Finding, kind="swallowed", severity="finding", swallowed_at="app.py:4", **about)
    story.second = 20
    story.tell(LoopStart, loop=1)
    blocked = {"evidence": "observed", "source": "app:parse", "at": "app.py:7", "loop": 1}
    story.tell(LoopBlocked, seconds=2.0, ongoing=True, **blocked)
    last = story.tell(LoopBlocked, seconds=3.0, **blocked)
    story.tell(ProcessDropped, count=1_200)
    story.tell(ProcessEnd, written=9, dropped=1_200, signal="SIGTERM")
    drawn = Drawn(story.events)
    finding = drawn.named("finding: swallowed")
    assert finding.track == drawn.of("task")[0].track
    assert "swallowed" in str(finding.facts["says"])
    [slow] = drawn.of("blocked")
    assert (slow.name, slow.facts["at"]) == ("blocked by app:parse", "app.py:7")
    end = nanoseconds(story.events[last].ts)
    assert (slow.start, slow.end) == (end - 3 * 10**9, end)
    assert drawn.named("still blocked by app:parse").track == slow.track
    for name in ("1,200 events are missing here", "the process ends (SIGTERM)"):
        assert drawn.track(drawn.named(name)) == ""


def test_processes_of_one_number_stay_apart() -> None:
    """Those of two containers, say, whose first process is number 1."""
    stories = [Story(Run(), pid=1), Story(Run(), pid=1)]
    for story in stories:
        story.events[0] = msgspec.structs.replace(
            story.events[0], pid=1, argv=["/srv/app.py", "/x"]
        )
        story.make(1)
        story.cancel(1)
    drawn = Drawn(*(story.events for story in stories))
    processes = [each for each in drawn.tracks.values() if each.pid is not None]
    assert [each.name for each in processes] == ["app.py", "app.py (pid 1)"]
    assert [each.facts["argv"] for each in drawn.of("process")] == ["/srv/app.py /x"] * 2
    assert [each.pid for each in processes] == [1, 5_000_001]
    assert len({each.track for each in drawn.of("task")}) == 2


def test_what_is_kept_for_arrows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MOST_KEPT", 3)
    story = Story()
    for task in range(1, 6):
        story.make(task)
    seqs = [story.cancel(task) for task in range(1, 5)]
    shapes: list[Shape] = []
    made = Picture(shapes.append)
    for event in story.events:
        made.take(event)
    # The oldest is out, so no arrow begins there any more; the others wait.
    assert [each.kind for each in shapes if isinstance(each, Slice)] == ["process", "asks", "asked"]
    story.cancel(5, cause=seqs[0])
    made.take(story.events[-1])
    made.finish()
    assert sum(isinstance(each, Slice) for each in shapes) == 16


def test_names_of_the_program_are_harmless() -> None:
    story = Story()
    name = "\x1b[31m<script>\u202e" + "x" * 500
    story.tell(TaskCreate, task=1, name=name, coro="app:work", source=name)
    story.tell(
        TaskCancel,
        task=1,
        name=name,
        coro="app:work",
        accepted=True,
        reason="explicit",
        message=name,
    )
    for each in Drawn(story.events).slices:
        for text in (each.name, *map(str, each.facts.values())):
            assert not {"\x1b", "\u202e"} & set(text)
        assert len(each.name) < 400
