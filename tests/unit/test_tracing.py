"""Which cancellation made a client leave, by the trace: one candidate, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from aioaudit.log.joining import AGREE, SECOND
from aioaudit.log.tracing import AT_ONCE, Asked, Left, join

pytestmark = pytest.mark.any_python

ONE = {"web": "m", "shop": "m", "stock": "m"}
"""All on one machine."""
MANY = {"web": "a", "shop": "b", "stock": "c"}
"""Each on another."""

SENT = "a" * 16


def asked(seq: int = 1, **more: Any) -> Asked:
    """A request to cancel a task of ``web``, in the span that sent a request."""
    keys: dict[str, Any] = {
        "run": "web",
        "task": seq,
        "led_by": 0,
        "cause": seq,
        "depth": 2,
        "at": 100 * SECOND,
        "trace_id": "t",
        "span_id": SENT,
        "sends": True,
    }
    return Asked(seq=seq, **keys | more)


def left(run: str = "shop", seq: int = 9, **more: Any) -> Left:
    """A client of *run* left, just after that."""
    keys: dict[str, Any] = {"since": 0, "at": 100 * SECOND + 1000, "trace_id": "t", "sender": SENT}
    return Left(run, seq, **keys | more)


def joined(*known: Asked | Left, clocks: Mapping[str, str | None] | None = None) -> dict[str, int]:
    """By the run of the client that left: the number of the request that it came of."""
    of = join(
        [each for each in known if isinstance(each, Asked)],
        [each for each in known if isinstance(each, Left)],
        MANY if clocks is None else clocks,
    )
    return {run: request.seq for (run, _), request in of.items()}


def test_by_clocks_that_agree_it_was_under_way_when_the_client_was_asked() -> None:
    under_way = left(since=99 * SECOND)
    for clocks in (MANY, ONE, {}):
        assert joined(asked(), under_way, clocks=clocks) == {"shop": 1}
    # A connection could not be made in time, so another one was, in the span of the same request.
    began_later = left(since=100 * SECOND + 1, at=105 * SECOND)
    # A proxy gave up, and asked another server, of which there is no log.
    left_before = left(since=50 * SECOND, at=60 * SECOND)
    for clocks in (MANY, ONE, {}):
        assert joined(asked(), began_later, clocks=clocks) == {}
        assert joined(asked(), left_before, clocks=clocks) == {}
    assert joined(asked(), left(at=100 * SECOND - AGREE)) == {"shop": 1}
    assert joined(asked(), left(at=100 * SECOND - AGREE), clocks=ONE) == {}


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_three_spans_measure_a_clock_and_two_do_not(ahead: int) -> None:
    def incidents(count: int, ahead: int) -> tuple[list[Asked], list[Left]]:
        here: list[Asked] = []
        there: list[Left] = []
        for number in range(count):
            span, at = f"{abs(ahead)}x{number}", (100 + 7 * number) * SECOND
            here.append(asked(number + 1, span_id=span, at=at))
            by_theirs = at + ahead * SECOND
            since = by_theirs - (1 + number) * SECOND
            there.append(left(seq=number + 1, sender=span, since=since, at=by_theirs + 1000))
        return here, there

    assert join(*incidents(2, ahead), MANY) == {}
    here, there = incidents(3, ahead)
    assert set(join(here, there, MANY)) == {("shop", each.seq) for each in there}
    # As many say that they agree: then they are not known.
    others, theirs = incidents(3, 0)
    there += [each._replace(seq=each.seq + 10) for each in theirs]
    assert join(here + others, there, MANY) == {}


@pytest.mark.parametrize("more", [{"sender": "b" * 16}, {"trace_id": "another"}])
def test_the_same_trace_alone_joins_nothing(more: dict[str, Any]) -> None:
    """A browser that asks two services, and goes, is the client of both."""
    assert joined(asked(), left(**more), clocks=ONE) == {}


def test_a_span_that_is_about_more_takes_one_clock_and_a_connection_that_was_closed() -> None:
    inside = asked(sends=False, closes=(100 * SECOND + 500,))
    assert joined(inside, left(), clocks=ONE) == {"shop": 1}
    assert joined(inside, left(at=101 * SECOND + 501), clocks=ONE) == {}
    assert joined(inside, left(at=100 * SECOND + 499), clocks=ONE) == {}
    assert joined(inside, left()) == {}
    assert joined(inside, left(), clocks={}) == {}
    # Time ran out for something else meanwhile, a cache, say: nothing was closed.
    assert joined(asked(sends=False), left(), clocks=ONE) == {}


@pytest.mark.parametrize("hidden", ["***", "", "[REDACTED]"])
def test_ids_that_were_hidden_by_whoever_ships_logs_join_nothing(hidden: str) -> None:
    assert joined(asked(span_id=hidden), left(sender=hidden)) == {}
    assert joined(asked(trace_id=hidden), left(trace_id=hidden)) == {}


def test_two_causes_leave_no_one() -> None:
    assert joined(asked(), asked(2), left(), clocks=ONE) == {}
    assert joined(asked(), asked(2, run="stock"), left(), clocks=ONE) == {}
    # What came after the client had left is none.
    assert joined(asked(), asked(2, at=200 * SECOND), left(), clocks=ONE) == {"shop": 1}


def test_what_one_cause_led_to_is_one_candidate_and_the_nearest_is_told() -> None:
    further = asked(2, led_by=1, cause=1, depth=3)
    assert joined(asked(), further, left()) == {"shop": 2}
    assert joined(further, asked(), left()) == {"shop": 2}


def test_a_proxy_that_asks_twice_has_left_one_server_itself() -> None:
    before, after = left(at=50 * SECOND), left("stock")
    assert joined(asked(), before, after) == {}
    assert joined(asked(), before, after, clocks=ONE) == {"stock": 1}


def test_tasks_that_worked_for_one_client_lose_it_at_once() -> None:
    later = left(seq=10, at=100 * SECOND + 2000)
    assert len(join([asked()], [left(), later], MANY)) == 2
    much_later = left(seq=10, at=101 * SECOND + AT_ONCE)
    assert join([asked()], [left(), much_later], MANY) == {}


def test_a_span_in_which_several_sent_has_as_many_clients_as_tasks() -> None:
    in_it: dict[str, Any] = {"sends": False, "closes": (100 * SECOND,)}
    cause = asked(1, **in_it, depth=1)
    fetching = [asked(seq, **in_it, led_by=1, cause=1) for seq in (2, 3)]
    two = [left("shop"), left("stock")]
    assert joined(cause, *fetching, *two, clocks=ONE) == {"shop": 2, "stock": 2}
    # The task that awaits the one is not another one that may have sent something.
    assert joined(cause, fetching[0], *two, clocks=ONE) == {}


def test_nobody_left_because_of_that() -> None:
    assert joined(asked(9, run="shop"), left(), clocks=ONE) == {}
