"""What a log answers: which tasks were cancelled, by which request, whatever order or loss."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioaudit.chain.links import Answer, Link
from aioaudit.events import (
    Event,
    FutureCancel,
    LoopClose,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.log import Log, load


def base(seq: int, run: str = "r1") -> dict[str, Any]:
    return {
        "ts": f"2026-11-22T14:02:11.{seq:06d}Z",
        "run": run,
        "pid": 1,
        "thread": "MainThread",
        "seq": seq,
    }


def about(task: int, name: str | None = None) -> dict[str, Any]:
    return {"task": task, "name": name or f"T{task}", "coro": f"app:t{task}"}


def create(seq: int, task: int, **more: Any) -> TaskCreate:
    return TaskCreate(**base(seq, more.pop("run", "r1")), **about(task, more.pop("name", None)))


def cancel(seq: int, task: int, **more: Any) -> TaskCancel:
    more = {"accepted": True, "origin": "called", "at": f"/a.py:{seq}", **more}
    return TaskCancel(
        **base(seq, more.pop("run", "r1")), **about(task, more.pop("name", None)), **more
    )


def future(seq: int, *waiters: int, **more: Any) -> FutureCancel:
    return FutureCancel(
        **base(seq),
        waiters=list(waiters),
        waiter_names=[f"T{task}" for task in waiters],
        **more,
    )


def uncancel(seq: int, task: int, remaining: int = 0) -> TaskUncancel:
    return TaskUncancel(**base(seq), **about(task), remaining=remaining)


def done(seq: int, task: int, outcome: Any = "cancelled", **more: Any) -> TaskDone:
    return TaskDone(**base(seq), **about(task, more.pop("name", None)), outcome=outcome, **more)


def read(*events: Event) -> Log:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "app.jsonl"
        file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
        return load(file)


def obeyed(seq: int) -> dict[str, Any]:
    return {"cancel": seq, "cancel_outcome": "obeyed"}


def brief(answer: Answer) -> tuple[int, str, str | None, list[str | None]]:
    return (
        answer.task,
        answer.outcome,
        answer.cancel_outcome,
        [link.at or link.detail or link.reason for link in answer.chain],
    )


GONE = "the line with seq 3, which would say why, is missing"


@pytest.mark.parametrize(
    ("events", "answers"),
    [
        pytest.param(
            [cancel(1, 1), cancel(2, 1), done(3, 1, **obeyed(2))],
            [(1, "cancelled", "obeyed", ["/a.py:2", "/a.py:2"])],
            id="the end names the request that was obeyed",
        ),
        pytest.param(
            [cancel(1, 1), cancel(2, 1, behind=1)],
            [(1, "pending", None, ["/a.py:1", "/a.py:1"])],
            id="without an end the first accepted request counts",
        ),
        pytest.param(
            [cancel(2, 1, behind=1), cancel(1, 1)],
            [(1, "pending", None, ["/a.py:1", "/a.py:1"])],
            id="the first is the one with the lower seq, not the one that is read first",
        ),
        pytest.param(
            [cancel(1, 1, accepted=False), cancel(2, 1)],
            [(1, "pending", None, ["/a.py:2", "/a.py:2"])],
            id="a request that was not accepted does not count",
        ),
        pytest.param(
            [cancel(1, 1, accepted=False)],
            [],
            id="a request that was not accepted, alone, is no cancellation",
        ),
        pytest.param(
            [cancel(1, 1), uncancel(2, 1), cancel(3, 1)],
            [(1, "pending", None, ["/a.py:3", "/a.py:3"])],
            id="what was absorbed gives way to the next request",
        ),
        pytest.param(
            [cancel(1, 1), cancel(2, 1, behind=1), uncancel(3, 1, remaining=1)],
            [(1, "pending", None, ["/a.py:1", "/a.py:1"])],
            id="an uncancel that leaves a request standing absorbs nothing",
        ),
        pytest.param(
            [cancel(1, 1), uncancel(2, 1)],
            [(1, "pending", "absorbed", ["/a.py:1", "/a.py:1"])],
            id="a task that absorbed its only request is listed as such",
        ),
        pytest.param(
            [cancel(1, 1), done(2, 1, "returned", cancel=1, cancel_outcome="swallowed")],
            [(1, "returned", "swallowed", ["/a.py:1", "/a.py:1"])],
            id="a task that swallowed is listed",
        ),
        pytest.param(
            [cancel(1, 1), done(2, 1, "returned")],
            [(1, "returned", None, ["/a.py:1", "/a.py:1"])],
            id="a task that accepted and returned is listed even if no more is known",
        ),
        pytest.param(
            [done(2, 1, "returned"), cancel(1, 1)],
            [(1, "returned", None, ["/a.py:1", "/a.py:1"])],
            id="also if its end is read first",
        ),
        pytest.param(
            [cancel(1, 1), done(2, 1, "raised", cancel=1, cancel_outcome="replaced", error="E")],
            [(1, "raised", "replaced", ["/a.py:1", "/a.py:1"])],
            id="a task that raised another error is listed",
        ),
        pytest.param(
            [cancel(1, 1), done(2, 1, "destroyed")],
            [(1, "pending", None, ["/a.py:1", "/a.py:1"])],
            id="a task destroyed while pending is pending",
        ),
        pytest.param(
            [done(2, 1), done(3, 2, "raised", error="E"), done(4, 3, "returned")],
            [],
            id="a CancelledError raised by hand is no cancellation, nor is any other end",
        ),
        pytest.param(
            [done(2, 1, cancel_outcome="obeyed")],
            [(1, "cancelled", "obeyed", ["unknown"])],
            id="a cancelled task without a request is of unknown cause",
        ),
        pytest.param(
            [cancel(9, 1), done(4, 1, **obeyed(3))],
            [(1, "cancelled", "obeyed", [GONE])],
            id="a lost request is not replaced by another one",
        ),
        pytest.param(
            [future(1, 1, origin="called", at="/f.py:1"), done(4, 1, **obeyed(1))],
            [(1, "cancelled", "obeyed", [None, "/f.py:1", "/f.py:1"])],
            id="a task may die of the future it awaited",
        ),
        pytest.param(
            [create(1, 1), future(2, 1, 2, origin="called", at="/f.py:1"), cancel(3, 2)],
            [
                (1, "pending", None, [None, "/f.py:1", "/f.py:1"]),
                (2, "pending", None, ["/a.py:3", "/a.py:3"]),
            ],
            id="a waiter without an end or a request of its own inherits the future's",
        ),
        pytest.param(
            [future(2, 1, origin="called"), done(3, 1, "returned")],
            [],
            id="a waiter that returned, untouched, is not listed",
        ),
        pytest.param(
            [cancel(1, 1), cancel(1, 1), done(3, 1, **obeyed(1)), done(3, 1, **obeyed(1))],
            [(1, "cancelled", "obeyed", ["/a.py:1", "/a.py:1"])],
            id="lines that occur twice count once",
        ),
        pytest.param(
            [LoopClose(**base(1)), create(2, 1)], [], id="a log without a cancellation says nothing"
        ),
    ],
)
def test_the_right_tasks_are_listed_with_the_right_request(
    events: list[Event], answers: list[Any]
) -> None:
    assert [brief(answer) for answer in read(*events).why()] == answers


def test_answers_come_in_the_order_of_their_requests() -> None:
    log = read(cancel(3, 1), cancel(1, 2), done(2, 3, cancel_outcome="obeyed"))
    assert [answer.task for answer in log.why()] == [2, 3, 1]


def test_one_question_has_the_same_list_under_both_of_its_names() -> None:
    log = read(cancel(1, 1, name="twin"), cancel(2, 2, name="twin"), cancel(3, 3, name="other"))
    assert [answer.task for answer in log.answers("twin")] == [1, 2]
    assert [answer.task for answer in log.answers()] == [1, 2, 3]
    assert log.answers("nobody") == []
    for task in ("twin", "r1:3", 3, None, "nobody"):
        assert log.why(task) == log.answers(task)


def test_a_waiter_is_named_by_its_future_and_known_better_by_its_creation() -> None:
    log = read(future(2, 1, 2, origin="called"), create(1, 2))
    assert [(answer.name, answer.coro) for answer in log.why()] == [("T1", ""), ("T2", "app:t2")]


def test_a_task_is_found_by_its_last_name_its_id_and_its_run() -> None:
    log = read(
        create(1, 1, name="Task-1"),
        cancel(2, 1, name="early"),
        done(3, 1, name="late", **obeyed(2)),
        cancel(4, 2, name="1"),
        cancel(5, 3, name="a:b"),
        cancel(7, 1, run="r2", name="late"),
        cancel(6, 1, run="r2", name="early"),
    )

    def keys(task: str | int) -> list[str]:
        return [case.key for case in log.cases(task)]

    assert keys("late") == ["r1:1", "r2:1"]
    assert keys("early") == keys("Task-1") == keys("nobody") == keys(99) == []
    assert keys(1) == ["r1:1", "r2:1"]
    assert keys("1") == ["r1:1", "r1:2", "r2:1"]
    assert keys("r2:1") == ["r2:1"]
    assert keys("r1:2") == ["r1:2"]
    assert keys("r1:99") == keys("r3:1") == []
    assert keys("a:b") == ["r1:3"]


def test_a_task_that_nobody_cancelled_is_known_all_the_same() -> None:
    log = read(create(1, 1), create(2, 2), done(3, 2, "returned"), done(4, 3, "raised"))
    assert [
        [task for _, task in log.find(asked)] for asked in ("T1", "T2", "T3", "T4", 1, 2, 3, 4)
    ] == [[1], [2], [3], [], [1], [2], [3], []]
    assert log.why("T1") == log.why(2) == []


# Random incidents with known culprits


@dataclass
class Incident:
    """Tasks that died of one culprit, the lines they left, and the chains they must give."""

    events: list[Event] = field(default_factory=list[Event])
    chains: dict[int, list[Link]] = field(default_factory=dict[int, list[Link]])
    root: Link = field(default_factory=lambda: Link(what="shutdown"))


CULPRITS: dict[str, tuple[dict[str, Any], Link]] = {
    "deadline": (
        {"origin_at": "/a.py:1", "origin_seconds": 0.5},
        Link(what="deadline", at="/a.py:1", seconds=0.5),
    ),
    "called": (
        {"origin_at": "/a.py:2", "origin_reason": "explicit"},
        Link(what="called", at="/a.py:2", reason="explicit"),
    ),
    "failed": (
        {"origin_name": "X", "origin_error": "KeyError: 1", "origin_at": "/a.py:3"},
        Link(what="failed", name="X", error="KeyError: 1", at="/a.py:3"),
    ),
    "signal": ({"origin_signal": "SIGINT"}, Link(what="signal", signal="SIGINT")),
    "shutdown": ({"origin_at": "/a.py:4"}, Link(what="shutdown", at="/a.py:4")),
}

EDGES = st.sampled_from(["awaiter", "task_group", "gather", "future", "failed"])


@st.composite
def incidents(draw: st.DrawFn) -> list[Incident]:
    """Up to three incidents of one run, each a random tree of tasks below its culprit."""
    found: list[Incident] = []
    seq = task = 0
    ends = draw(st.booleans())
    for what in draw(st.lists(st.sampled_from(sorted(CULPRITS)), min_size=1, max_size=3)):
        origin, root = CULPRITS[what]
        incident = Incident(root=root)
        below: list[tuple[int, int, list[Link]]] = []  # task, seq of its request, chain of that
        for index in range(draw(st.integers(1, 12))):
            task, seq = task + 1, seq + 1
            name = f"T{task}"
            own = Link(what="cancelled", task=task, name=name, reason="awaiter", at=f"/t.py:{seq}")
            if index == 0:
                links = [own, root]
                more: dict[str, Any] = {"origin": what, **origin}
            else:
                parent, cause, tail = draw(st.sampled_from(below))
                edge = draw(EDGES)
                more = {"cause": cause}
                if edge == "failed":
                    more |= {
                        "origin": "failed",
                        "origin_task": parent,
                        "origin_name": f"T{parent}",
                    }
                    links = [own, Link(what="failed", task=parent, name=f"T{parent}"), *tail[1:]]
                elif edge == "future":
                    of_future = Link(what="cancelled", reason="awaiter", at=f"/t.py:{seq}")
                    links = [of_future, *tail]
                    incident.events.append(
                        FutureCancel(
                            **base(seq),
                            waiters=[task],
                            waiter_names=[name],
                            reason="awaiter",
                            at=f"/t.py:{seq}",
                            **more,
                        )
                    )
                    incident.chains[task] = [Link(what="cancelled", task=task, name=name), *links]
                else:
                    links = [own, *tail]
            if task not in incident.chains:
                incident.chains[task] = links
                incident.events.append(
                    cancel(
                        seq, task, reason="awaiter", at=f"/t.py:{seq}", **{"origin": None, **more}
                    )
                )
            below.append((task, seq, links))
            if ends:
                seq += 1
                incident.events.append(done(seq, task, **obeyed(seq - 1)))
        found.append(incident)
    return found


@settings(max_examples=60)
@given(incidents(), st.randoms(use_true_random=False))
def test_shuffled_lines_give_every_victim_the_chain_to_its_culprit(
    found: list[Incident], order: random.Random
) -> None:
    events = [event for incident in found for event in incident.events]
    order.shuffle(events)
    expected = {task: links for incident in found for task, links in incident.chains.items()}
    answers = read(*events).why()
    assert {answer.task: answer.chain for answer in answers} == expected
    assert [answer.root for answer in answers] == [answer.chain[-1] for answer in answers]


@settings(max_examples=120)
@given(incidents(), st.randoms(use_true_random=False), st.floats(0.1, 0.9))
def test_lost_lines_never_give_another_culprit(
    found: list[Incident], order: random.Random, loss: float
) -> None:
    """What is still said is true; where knowledge ends, the root says that it is unknown."""
    events = [event for incident in found for event in incident.events if order.random() > loss]
    order.shuffle(events)
    if not events:
        return
    expected = {
        task: (incident.root, links)
        for incident in found
        for task, links in incident.chains.items()
    }
    for answer in read(*events).why():
        root, links = expected[answer.task]
        if answer.chain != links:
            assert answer.root.what == "cancelled"
            assert "which would say why, is missing" in (answer.root.detail or "")
            assert answer.chain[:-1] == links[: len(answer.chain) - 1]
            assert "nobody knows why" in answer.summary
        else:
            assert answer.root == root
