"""Chains from events in memory: each cause of the contract, and every way to end unknown."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioaudit.chain.links import Answer, Link, flatten, unflatten
from aioaudit.chain.walk import (
    Chains,
    LogReading,
    RequestEvent,
    Resolve,
    Step,
    answer_of,
    inferred,
    missing,
    origin_link,
    own_link,
    steps_of,
    walk,
)
from aioaudit.events import FutureCancel, TaskCancel
from aioaudit.state.reading import MemoryReading
from aioaudit.state.requests import Request as Kept

BASE: dict[str, Any] = {
    "ts": "2026-11-22T14:02:11.873000Z",
    "run": "r1",
    "pid": 1,
    "thread": "MainThread",
}


def cancel(seq: int, task: int, **more: Any) -> TaskCancel:
    return TaskCancel(
        **BASE, seq=seq, task=task, name=f"T{task}", coro=f"app:t{task}", accepted=True, **more
    )


def future(seq: int, *waiters: int, **more: Any) -> FutureCancel:
    return FutureCancel(**BASE, seq=seq, waiters=list(waiters), **more)


def chain(*events: RequestEvent) -> list[Link]:
    """The chain of the first of *events*, which are all that is known."""
    known = {event.seq: event for event in events}
    return [step.link for step in walk(events[0], lambda event: known.get(event.cause or 0))]


def hit(task: int, **more: Any) -> Link:
    return Link(what="cancelled", task=task, name=f"T{task}", **more)


def test_a_called_root_repeats_the_last_request() -> None:
    call: dict[str, Any] = {
        "reason": "explicit",
        "source": "app:stop",
        "at": "/a.py:7",
        "by_name": "boss",
    }
    request = cancel(
        1,
        1,
        **call,
        origin="called",
        **{f"origin_{key}": value for key, value in call.items()},
        origin_detail="while handling ValueError: x",
    )
    assert chain(request) == [
        hit(1, **call),
        Link(what="called", **call, detail="while handling ValueError: x"),
    ]


def test_a_called_origin_that_names_only_itself_is_filled_from_the_request() -> None:
    call: dict[str, Any] = {
        "reason": "thread",
        "source": "app:stop",
        "at": "/a.py:7",
        "by_name": "worker-thread",
    }
    assert chain(cancel(1, 1, **call, origin="called")) == [
        hit(1, **call),
        Link(what="called", **call),
    ]


def test_a_called_origin_with_a_line_of_its_own_keeps_it() -> None:
    """A bound method given to a timer: the line that gave it, not the loop's."""
    request = cancel(1, 1, reason="explicit", at="/a.py:9", origin="called", origin_at="/a.py:3")
    assert chain(request) == [
        hit(1, reason="explicit", at="/a.py:9"),
        Link(what="called", reason="explicit", at="/a.py:3"),
    ]


@pytest.mark.parametrize(
    ("reason", "origin", "link"),
    [
        (
            "timeout",
            {"origin": "deadline", "origin_at": "/a.py:41", "origin_seconds": 2.0},
            Link(what="deadline", at="/a.py:41", seconds=2.0),
        ),
        (
            "task_group",
            {
                "origin": "failed",
                "origin_task": 5,
                "origin_name": "load",
                "origin_error": "KeyError: 'x'",
                "origin_at": "/db.py:17",
            },
            Link(what="failed", task=5, name="load", error="KeyError: 'x'", at="/db.py:17"),
        ),
        (
            "task_group",
            {"origin": "failed", "origin_error": "ValueError", "origin_at": "/a.py:3"},
            Link(what="failed", error="ValueError", at="/a.py:3"),
        ),
        (
            "signal",
            {"origin": "signal", "origin_signal": "SIGTERM", "origin_at": "/a.py:80"},
            Link(what="signal", signal="SIGTERM", at="/a.py:80"),
        ),
        (
            "shutdown",
            {"origin": "shutdown", "origin_at": "/a.py:99"},
            Link(what="shutdown", at="/a.py:99"),
        ),
        (
            "disconnect",
            {"origin": "called", "origin_source": "web:gone", "origin_reason": "disconnect"},
            Link(what="called", source="web:gone", reason="disconnect"),
        ),
    ],
)
def test_every_kind_of_origin_is_the_root(reason: str, origin: dict[str, Any], link: Link) -> None:
    assert chain(cancel(1, 1, reason=reason, **origin)) == [hit(1, reason=reason), link]


def test_causes_link_up_through_tasks_and_futures_to_the_first_origin() -> None:
    assert chain(
        cancel(3, 3, reason="awaiter", cause=2),
        future(2, 3, reason="gather", at="/a.py:43", cause=1),
        cancel(1, 1, reason="timeout", origin="deadline", origin_seconds=0.5),
    ) == [
        hit(3, reason="awaiter"),
        Link(what="cancelled", reason="gather", at="/a.py:43"),
        hit(1, reason="timeout"),
        Link(what="deadline", seconds=0.5),
    ]


def test_failed_children_lead_down_to_the_first_failure_and_its_deadline() -> None:
    assert chain(
        cancel(3, 9, origin="failed", origin_task=2, origin_name="C", cause=2, reason="task_group"),
        cancel(2, 2, origin="failed", origin_task=1, origin_name="G", cause=1, reason="task_group"),
        cancel(1, 1, origin="deadline", origin_seconds=0.1, reason="timeout"),
    ) == [
        hit(9, reason="task_group"),
        Link(what="failed", task=2, name="C"),
        Link(what="failed", task=1, name="G"),
        Link(what="deadline", seconds=0.1),
    ]


def test_a_request_that_says_nothing_is_its_own_unknown_root() -> None:
    assert chain(cancel(1, 1)) == [hit(1, reason="unknown")]


def test_a_missing_cause_ends_the_chain_at_the_request_that_names_it() -> None:
    assert chain(cancel(2, 2, reason="awaiter", cause=1, detail="in close()")) == [
        hit(
            2,
            reason="awaiter",
            detail="in close(); the line with seq 1, which would say why, is missing",
        )
    ]


def test_a_missing_cause_behind_a_failure_leaves_the_root_unknown() -> None:
    """The failure alone would be a wrong culprit: something made it fail."""
    assert chain(cancel(3, 3, origin="failed", origin_name="C", cause=2)) == [
        hit(3, reason="unknown"),
        Link(what="failed", name="C"),
        Link(
            what="cancelled",
            reason="unknown",
            detail="the line with seq 2, which would say why, is missing",
        ),
    ]


def test_an_unknown_request_behind_a_failure_is_shown_as_the_root() -> None:
    assert chain(
        cancel(3, 3, origin="failed", origin_name="C", cause=2), cancel(2, 2, reason="native")
    ) == [hit(3, reason="unknown"), Link(what="failed", name="C"), hit(2, reason="native")]


def test_causes_that_run_in_a_circle_end_as_if_missing() -> None:
    assert chain(cancel(1, 1, reason="awaiter", cause=2), cancel(2, 2, cause=1)) == [
        hit(1, reason="awaiter"),
        hit(
            2,
            reason="unknown",
            detail="the line with seq 1, which would say why, is missing",
        ),
    ]


def test_a_chain_of_twenty_thousand_links_is_followed() -> None:
    events = [cancel(20_000 - n, n, reason="awaiter", cause=19_999 - n) for n in range(19_999)]
    events.append(cancel(1, 19_999, origin="shutdown"))
    assert chain(*events)[-1] == Link(what="shutdown")
    assert len(chain(*events)) == 20_001


def test_a_task_that_died_of_what_it_awaited_has_its_own_link_first() -> None:
    steps = steps_of(7, "T7", future(1, 7, origin="called", at="/a.py:1"), lambda _: None)
    assert [step.link for step in steps] == [
        hit(7),
        Link(what="cancelled", reason="unknown", at="/a.py:1"),
        Link(what="called", reason="unknown", at="/a.py:1"),
    ]


def test_a_task_that_obeyed_a_request_to_another_task_has_its_own_link_first() -> None:
    steps = steps_of(7, "T7", cancel(1, 2, reason="explicit", origin="called"), lambda _: None)
    assert [step.link for step in steps] == [
        hit(7),
        hit(2, reason="explicit"),
        Link(what="called", reason="explicit"),
    ]


@pytest.mark.parametrize(
    ("lost", "detail"),
    [(None, None), (4, "the line with seq 4, which would say why, is missing")],
)
def test_a_task_without_a_known_request_has_one_unknown_link(
    lost: int | None, detail: str | None
) -> None:
    steps = steps_of(7, "T7", None, lambda _: None, lost)
    assert [step.link for step in steps] == [hit(7, reason="unknown", detail=detail)]


def test_an_answer_holds_chain_root_and_summary() -> None:
    request = cancel(
        1, 1, reason="scope", evidence="inferred", origin="deadline", origin_seconds=1.5
    )
    steps = steps_of(1, "T1", request, lambda _: None)
    assert inferred(steps)
    own, root = hit(1, reason="scope"), Link(what="deadline", seconds=1.5)
    assert answer_of(
        task=1,
        name="T1",
        coro="app:fetch",
        outcome="returned",
        steps=steps,
        cancel_outcome="swallowed",
        swallowed_at="/a.py:9",
    ) == Answer(
        task=1,
        name="T1",
        coro="app:fetch",
        outcome="returned",
        cancel_outcome="swallowed",
        chain=[own, root],
        root=root,
        summary="fetch (T1) was asked to cancel, probably because the timeout of 1.5 s ran out; "
        "it swallowed the cancellation at /a.py:9",
        inferred=True,
    )


def test_a_request_that_was_concluded_to_have_ended_the_task_makes_the_answer_probable() -> None:
    request = cancel(1, 7, reason="explicit", at="a.py:1", source="a:f", origin="called")
    for concluded in (False, True):
        steps = steps_of(7, "T7", request, lambda _request: None, concluded=concluded)
        assert [step.concluded for step in steps] == [concluded, False]
        assert inferred(steps) is concluded


def step_by_step(request: RequestEvent, resolve: Resolve) -> list[Step]:
    """What the chain of one request is, said plainly: the rule that the real walk is held to."""
    steps = [Step(own_link(request), request, True)]
    seen = {id(request)}
    shown = True  # whether the current request's own link is the last step
    while True:
        cause = None if request.cause is None else resolve(request)
        if cause is not None and id(cause) in seen:
            cause = None
        origin = origin_link(request)
        if origin is not None:
            steps.append(Step(origin, request, False))
            if request.cause is None:
                return steps
            if cause is None:
                gap = Link(what="cancelled", reason="unknown", detail=missing(request.cause))
                steps.append(Step(gap, None, False))
                return steps
        elif cause is None:
            if not shown:  # knowledge ends at this request, so it has to be seen
                steps.append(Step(own_link(request), request, True))
            if request.cause is not None:
                steps[-1] = Step(ended(steps[-1].link, request.cause), request, True)
            return steps
        else:
            steps.append(Step(own_link(cause), cause, True))
        shown = origin is None
        seen.add(id(cause))
        request = cause


def ended(link: Link, seq: int) -> Link:
    detail = missing(seq) if link.detail is None else f"{link.detail}; {missing(seq)}"
    return msgspec.structs.replace(link, detail=detail)


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), max_size=12))
def test_chains_that_share_their_ends_are_those_of_each_request_alone(
    made: list[tuple[int, bool, bool]],
) -> None:
    known: dict[int, RequestEvent] = {}
    for seq, (cause, origin, guessed) in enumerate(made, 1):
        more: dict[str, Any] = {"evidence": "inferred"} if guessed else {}
        if origin:
            more |= {"origin": "called", "origin_at": f"app.py:{seq}"}
        # A cause comes before what it causes, or its line is missing.
        known[seq] = cancel(seq, seq, cause=cause if cause < seq and cause else cause + 100, **more)
    chains = Chains[RequestEvent](LogReading(lambda request: known.get(request.cause or 0)))
    for request in reversed(known.values()):
        alone = step_by_step(request, lambda each: known.get(each.cause or 0))
        chain = chains.of(request)
        assert chain.steps() == alone == walk(request, lambda each: known.get(each.cause or 0))
        assert (chain.length, chain.root) == (len(alone), alone[-1])
        assert (chain.inferred_request is not None) == inferred(alone)
        short = chain.steps(4)
        assert (short[0], short[-1], len(short)) == (alone[0], alone[-1], min(len(alone), 4))
        assert inferred(short) == inferred(alone)


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=12))
def test_what_is_in_memory_has_the_chain_that_its_lines_have(made: list[tuple[int, bool]]) -> None:
    logged: dict[int, RequestEvent] = {}
    kept: dict[int, Kept] = {}
    for seq, (cause, failed) in enumerate(made, 1):
        above = kept.get(cause)
        origin = Link(what="failed", task=seq, name=f"T{seq}") if failed or above is None else None
        event = cancel(seq, seq, cause=None if above is None else cause)
        kept[seq] = Kept(event, above, None, origin)
        if origin is not None:
            flatten(origin, event)
        logged[seq] = event
    chains = Chains(MemoryReading())
    for seq, request in kept.items():
        steps = walk(logged[seq], lambda each: logged.get(each.cause or 0))
        assert chains.of(request).steps() == steps


ELSEWHERE = ("run", "pid", "service", "coro")
"""What only a link of another process has, which no event tells."""


@pytest.mark.parametrize(
    "key", [key for key in Link.__struct_fields__ if key not in ("what", *ELSEWHERE)]
)
def test_a_link_lies_flat_in_an_event_and_is_read_back(key: str) -> None:
    said: Any = {"task": 7, "seconds": 0.5}.get(key, "said")
    link = Link(what="failed", **{key: said})
    event = cancel(1, 1)
    flatten(link, event)
    assert getattr(event, f"origin_{key}") == said
    assert unflatten(event) == link


def test_a_circle_of_causes_ends() -> None:
    known = {seq: cancel(seq, seq, cause=seq % 3 + 1) for seq in (1, 2, 3)}
    chains = Chains[RequestEvent](LogReading(lambda request: known.get(request.cause or 0)))
    assert [chains.of(request).length for request in known.values()] == [3, 2, 1]
