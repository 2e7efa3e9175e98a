"""Which cancellation made a client leave, by the trace: one candidate, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from aioaudit.log.tracing import AT_ONCE, SECOND, SOON, Asked, Left, join

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
    keys: dict[str, Any] = {"at": 100 * SECOND + 1000, "trace_id": "t", "sender": SENT}
    return Left(run, seq, **keys | more)


def joined(*known: Asked | Left, clocks: Mapping[str, str | None] | None = None) -> dict[str, int]:
    """By the run of the client that left: the number of the request that it came of."""
    of = join(
        [each for each in known if isinstance(each, Asked)],
        [each for each in known if isinstance(each, Left)],
        MANY if clocks is None else clocks,
    )
    return {run: request.seq for (run, _), request in of.items()}


def test_the_span_that_sent_the_request_is_enough_whatever_the_clocks_say() -> None:
    assert joined(asked(), left()) == {"shop": 1}
    assert joined(asked(), left(at=5)) == {"shop": 1}
    assert joined(asked(), left(), clocks={}) == {"shop": 1}


def test_on_one_machine_the_client_left_after_the_request() -> None:
    assert joined(asked(), left(), clocks=ONE) == {"shop": 1}
    assert joined(asked(), left(at=100 * SECOND - 1), clocks=ONE) == {}


@pytest.mark.parametrize("more", [{"sender": "b" * 16}, {"trace_id": "another"}])
def test_the_same_trace_alone_joins_nothing(more: dict[str, Any]) -> None:
    """A browser that asks two services, and goes, is the client of both."""
    assert joined(asked(), left(**more), clocks=ONE) == {}


def test_a_span_that_is_about_more_takes_one_clock_and_a_short_time() -> None:
    inside = asked(sends=False)
    assert joined(inside, left(), clocks=ONE) == {"shop": 1}
    assert joined(inside, left(at=100 * SECOND + SOON + 1), clocks=ONE) == {}
    assert joined(inside, left()) == {}
    assert joined(inside, left(), clocks={}) == {}


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
    cause = asked(1, sends=False, depth=1)
    fetching = [asked(seq, sends=False, led_by=1, cause=1) for seq in (2, 3)]
    two = [left("shop"), left("stock")]
    assert joined(cause, *fetching, *two, clocks=ONE) == {"shop": 2, "stock": 2}
    # The task that awaits the one is not another one that may have sent something.
    assert joined(cause, fetching[0], *two, clocks=ONE) == {}


def test_nobody_left_because_of_that() -> None:
    assert joined(asked(9, run="shop"), left(), clocks=ONE) == {}
