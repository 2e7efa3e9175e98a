"""What is told in brief while a log is read changes no span, wherever the log is divided."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aioaudit.events import (
    Event,
    Finding,
    FutureCancel,
    LoopBlocked,
    ProcessEnd,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskFound,
    TaskUncancel,
)
from aioaudit.exporters.otel import lives, replay
from aioaudit.log import sources
from aioaudit.log.brief import CHILDLESS, ENDED, shorten
from aioaudit.log.parsing import parse
from aioaudit.timestamps import nanoseconds, timestamp
from tests.busy_logs import busy
from tests.replaying import Way, spans
from tests.services import Busy, fleet, written

START = 1_750_000_000_000_000_000

LIMITS = {
    "MOST_TASKS": (2, 12),
    "DEPTH": (2, 6),
    "MOST_ENDED": (10, 30),
    "AGE": (10_000, 3_000_000),
}
"""What spans are limited by, and how little it is here."""

ODD_TIMES = ("x", "2026-01-01T00:00:00+02:00", "2500-12-31T00:00:00.000000Z")
ODD_NUMBERS = (0, -1, 5, 1000, 2**63, 2**70)


class Run:
    """One run that does anything; if *odd*, also what no program does."""

    def __init__(self, number: int, chance: random.Random, *, odd: bool) -> None:
        self.run = f"r{number}"
        self.chance = chance
        self.odd = odd
        self.incidents = chance.choice([0.02, 0.1, 0.3])
        self.most = chance.choice([2, 5, 30])
        self.ns = START
        self.seq = 0
        self.living: list[int] = []
        self.all = [0]
        self.requests: list[int] = []

    def next(self) -> Event:
        """What happens next."""
        chance = self.chance
        self.seq += 1
        self.ns += chance.choice([1000, 1000, 50_000, 1_000_000])
        ts = timestamp(self.ns)
        if self.odd and chance.random() < 0.02:
            ts = chance.choice(ODD_TIMES)
        head: dict[str, Any] = {"ts": ts, "seq": self.seq, "run": self.run, "pid": 5, "thread": "M"}
        if self.odd and chance.random() < 0.02:
            head["pid"] = 6
        what = chance.random()
        if what < 0.005 or (self.seq == 1 and what < 0.5):
            return ProcessStart(
                **head, schema=1, version="1", python="p", ppid=1, argv=[], coverage=[]
            )
        if what < 0.01:
            return ProcessEnd(**head, written=1, dropped=0)
        if what < 0.01 + self.incidents:
            return self._incident(head)
        if not self.living or (what < 0.55 and len(self.living) < self.most):
            return self._made(head)
        return self._ended(head)

    def _any(self) -> int:
        chance = self.chance
        if self.odd and chance.random() < 0.05:
            return chance.choice(ODD_NUMBERS)
        return chance.choice(self.living or self.all if chance.random() < 0.6 else self.all[-9:])

    def _perhaps(self, among: Sequence[int]) -> int | None:
        return self.chance.choice(among) if among and self.chance.random() < 0.4 else None

    def _incident(self, head: dict[str, Any]) -> Event:
        about = _about(self._any())
        request: dict[str, Any] = {
            "by": self._perhaps(self.all),
            "cause": self._perhaps(self.requests),
        }
        kind = self.chance.randrange(8)
        if kind < 4:
            self.requests.append(self.seq)
        if kind < 3:
            origin = self._perhaps(self.all)
            accepted = self.chance.random() < 0.8
            return TaskCancel(
                **head, **about, **request, origin="failed", origin_task=origin, accepted=accepted
            )
        if kind == 3:
            waiters = [self._any() for _ in range(self.chance.randrange(3))]
            return FutureCancel(**head, **request, waiters=waiters)
        if kind == 4:
            return TaskUncancel(**head, **about, remaining=0)
        if kind == 5:
            other = self._any()
            return Finding(**head, **about, kind="slow", severity="note", other_task=other)
        if kind == 6:
            return LoopBlocked(**head, seconds=1.0, evidence="observed", task=self._any())
        return TaskFound(**head, **about)

    def _made(self, head: dict[str, Any]) -> Event:
        chance = self.chance
        task = max(self.all) + chance.choice([1, 1, 1, 2])
        if self.odd and chance.random() < 0.05:
            task = chance.choice(self.all)
        parent = chance.choice(self.living[-4:] or [None]) if chance.random() < 0.8 else None
        if chance.random() < 0.02:
            parent = self._any()
        self.living.append(task)
        self.all.append(task)
        return TaskCreate(**head, **_about(task), parent=parent, at="a:1")

    def _ended(self, head: dict[str, Any]) -> Event:
        chance = self.chance
        task = self.living.pop(chance.randrange(len(self.living)))
        if self.odd and chance.random() < 0.03:
            task = self._any()
        if chance.random() >= self.incidents:
            return TaskDone(**head, **_about(task), outcome="returned", lifetime=0.001)
        outcome: Any = chance.choice(["raised", "cancelled", "destroyed", "returned"])
        became: Any = chance.choice([None, "obeyed", "absorbed"])
        cancel = self._perhaps(self.requests)
        return TaskDone(
            **head, **_about(task), outcome=outcome, cancel=cancel, cancel_outcome=became
        )


def _about(task: int) -> dict[str, Any]:
    return {"task": task, "name": f"T{task}", "coro": "app:work"}


def write(folder: Path, chance: random.Random, *, odd: bool) -> None:
    """Anything at all, of some runs; sometimes the file was rotated."""
    runs = [Run(number, chance, odd=odd) for number in range(chance.choice([1, 1, 2, 3]))]
    lines: list[bytes] = []
    for _ in range(chance.randrange(20, 400)):
        lines.append(msgspec.json.encode(chance.choice(runs).next()) + b"\n")
        if chance.random() < 0.004:
            lines.append(b"oops\n")
        if odd and chance.random() < 0.002:
            lines.append(lines[-1])
    heads = [line for line in lines[:3] if b'"process.start"' in line][:1]
    if odd and chance.random() < 0.1:
        lines.insert(chance.randrange(len(lines)), lines.pop(chance.randrange(len(lines))))
    half = len(lines) // 2 if chance.random() < 0.3 else 0
    if half:
        (folder / "a.jsonl.1").write_bytes(b"".join(lines[:half]))
        lines = heads + lines[half:]
    (folder / "a.jsonl").write_bytes(b"".join(lines))


def same(log: Path) -> bytes:
    """The spans of *log*, which are the same whichever way it is read."""
    expected = spans(log, Way.WHOLE)
    for way in (Way.BRIEF, Way.AT_ONCE):
        found = spans(log, way)
        assert found == expected
        assert found.read == expected.read
    return expected


@pytest.mark.parametrize("size", [700, 5000, 1 << 20])
def test_wherever_a_log_is_divided_it_gives_the_same_spans(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"".join(busy(3000, 5)) + b"oops\n")
    monkeypatch.setattr(sources, "PIECE", size)
    assert same(file).count(b"asyncio.cancel") == 20


@pytest.mark.any_python
@pytest.mark.parametrize("odd", [False, True])
def test_whatever_happened_gives_the_same_spans(
    odd: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(20)
    told = 0
    for number in range(120):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, chance, odd=odd)
        with monkeypatch.context() as patch:
            patch.setattr(sources, "PIECE", chance.choice([300, 1000, 4000, 20_000]))
            for name, little in LIMITS.items():
                if chance.random() < 0.5:
                    patch.setattr(lives, name, chance.randint(*little))
            if chance.random() < 0.3:
                most = chance.randint(10, 60)
                patch.setattr(lives, "MOST_LIVING", most)
                patch.setattr(replay, "MOST_LIVING", most)
            told += same(folder).count(b"asyncio.task")
    assert told > 1000


@pytest.mark.parametrize("seed", range(3))
def test_logs_of_several_services_give_the_same_spans(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    services = fleet(Busy)
    if seed == 2:
        chance.shuffle(services[0].events)
    written(tmp_path, services, chance)
    monkeypatch.setattr(sources, "PIECE", chance.randrange(300, 20_000))
    assert same(tmp_path).count(b"asyncio.cancel") > 10


class Lines:
    """The lines of one run, one after the other."""

    def __init__(self) -> None:
        self.seq = 0

    def head(self, ts: str | None = None) -> dict[str, Any]:
        """What the next one begins with."""
        self.seq += 1
        ts = timestamp(START + self.seq * 1000) if ts is None else ts
        return {"ts": ts, "seq": self.seq, "run": "r", "pid": 5, "thread": "M"}

    def start(self) -> Event:
        """The process starts."""
        return ProcessStart(
            **self.head(), schema=1, version="1", python="p", ppid=1, argv=[], coverage=[]
        )

    def made(self, task: int, parent: int | None = None, ts: str | None = None) -> Event:
        """A task was made."""
        return TaskCreate(**self.head(ts), **_about(task), parent=parent)

    def ended(self, task: int, outcome: Any = "returned") -> Event:
        """It ended."""
        return TaskDone(**self.head(), **_about(task), outcome=outcome)

    def asked(self, task: int, ts: str | None = None) -> Event:
        """It was asked to end."""
        return TaskCancel(**self.head(ts), **_about(task), accepted=True)


def same_of(events: Sequence[Event], folder: Path) -> bytes:
    """The same of a log of *events*."""
    (folder / "a.jsonl").write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in events))
    return same(folder / "a.jsonl")


def test_of_a_life_to_which_nothing_happened_little_is_told() -> None:
    log = Lines()
    events = [
        log.made(1),  # the first line is kept, and so is what is told of its task
        log.made(2, 1),
        log.made(3, 2),
        log.ended(3),
        log.made(4, 1),
        log.made(5, 4),  # it fails, so who made it is told as well
        log.ended(4),
        log.ended(2),
        log.ended(5, "raised"),
        log.made(6),
        log.ended(6),
        log.ended(1),
    ]
    places, brief = shorten(events)
    assert places == [0, 4, 5, 6, 8, 11]
    [told] = brief.runs
    assert list(told.steps()) == [
        (2, 1, nanoseconds(events[1].ts)),
        (CHILDLESS, 2, nanoseconds(events[2].ts)),
        (2, ENDED, 0),
        (CHILDLESS, 0, nanoseconds(events[9].ts)),
    ]
    assert brief.before == [0, 2, 0, 0, 1, 1]
    assert (told.begin, told.end, told.lines, told.least, told.most) == (1, 12, 12, 2, 6)


def test_what_a_line_before_has_named_is_not_told_in_brief() -> None:
    log = Lines()
    events = [log.made(1), log.asked(7), log.made(7), log.ended(7)]
    events += [log.ended(9), log.made(9), log.ended(9)]
    events += [log.made(10, 12), log.made(11), log.ended(11), log.ended(10)]
    events += [log.made(13, ts="x"), log.ended(13), log.ended(1)]
    places, brief = shorten(events)
    assert places == list(range(len(events)))
    assert brief.runs[0].most == 13


def test_where_what_is_told_in_brief_is_not_enough_it_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def taken(replaying: replay.LogReplay, first: int) -> bool:
        made = [each for task in (first, first + 1) for each in (log.made(task), log.ended(task))]
        events = [log.made(1), *made, log.ended(1)]
        places, brief = shorten(events)
        assert (len(places), brief.runs[0].least) == (2, first)
        return replaying.take_brief([events[place] for place in places], brief)

    log = Lines()
    replaying = replay.LogReplay("touched", "cause", lambda _pid, _spans: None)
    assert taken(replaying, 5)
    assert not taken(replaying, 6)  # 6 was named before
    assert taken(replaying, 8)
    monkeypatch.setattr(replay, "MOST_LIVING", 6)
    assert not taken(replaying, 10)  # so many may live that others have to make room
    monkeypatch.setattr(replay, "MOST_LIVING", 7)
    assert taken(replaying, 12)


def test_a_time_that_is_none_is_that_of_the_line_before(tmp_path: Path) -> None:
    log = Lines()
    events = [log.made(1), log.made(2), log.ended(2), log.asked(1, "x"), log.ended(1, "cancelled")]
    assert str(START + 2000).encode() in same_of(events, tmp_path)


def test_files_of_one_run_put_together_give_the_same_spans(tmp_path: Path) -> None:
    log = Lines()
    start = log.start()
    events = [log.made(1), log.made(2, 1), log.ended(2), start, log.made(3, 1), log.asked(3)]
    events += [log.ended(3, "cancelled"), log.ended(1)]
    assert same_of([start, *events], tmp_path).count(b"asyncio.task") == 2


def test_most_of_a_busy_log_is_told_in_brief() -> None:
    events = parse("a", b"".join(busy(4000))).events
    places, _ = shorten(events)
    assert len(places) < len(events) // 5
