"""Logs of several services together: an answer goes on where a peer went away."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from aioaudit.cli.why import command
from aioaudit.events import Event, TaskCancel, TaskDone
from aioaudit.exporter import encode_events
from aioaudit.log import Log
from aioaudit.log.incidents import housekeeping
from aioaudit.log.peers import PER_REQUEST
from tests.services import OF_SHOP, OF_WEB, SHOP, STOCK, WEB, Service, chain, runs_out, traced

pytestmark = pytest.mark.any_python


def read(*services: Service) -> Log:
    log = Log()
    for service in services:
        for event in service.events:
            log.add(event)
    return log


def test_it_goes_on_through_all_the_logs() -> None:
    [answer] = read(*chain()).why("t5")
    assert answer.summary == (
        "work (t5) was cancelled, probably because its client left: fetch (t7) in shop (pid 4) was"
        " cancelled, since its client left: fetch (t2) in shop-web (pid 8) was cancelled, since the"
        " timeout of 0.5 s at web.py:20 ran out"
    )
    assert [(link.what, link.service) for link in answer.chain] == [
        ("cancelled", None),
        ("called", None),
        ("cancelled", "shop"),
        ("called", "shop"),
        ("cancelled", "shop-web"),
        ("deadline", "shop-web"),
    ]
    assert answer.root == answer.chain[-1]


def test_the_order_of_the_logs_is_no_matter_nor_is_one_that_comes_later() -> None:
    web, shop, stock = chain()
    log = read(stock)
    assert log.why("t5")[0].root.reason == "disconnect"
    for event in (*shop.events, *web.events):
        log.add(event)
    assert log.why("t5")[0].root.service == "shop-web"


def test_what_is_housekeeping_depends_on_its_own_log_alone() -> None:
    web, shop, stock = chain()
    alone, together = read(stock), read(web, shop, stock)
    [before], [after] = alone.cases("t5"), together.cases("t5")
    assert housekeeping(before) == housekeeping(after)


def test_one_that_was_not_told_why_ends_there() -> None:
    web, shop, stock = chain()
    web.events = [
        msgspec.structs.replace(each, origin=None, reason="unknown")
        if isinstance(each, TaskCancel)
        else each
        for each in web.events
    ]
    [answer] = read(web, shop, stock).why("t5")
    assert "in shop-web (pid 8) was cancelled, nobody knows why: " in answer.summary


def test_peers_that_left_each_other_in_a_circle_end_somewhere() -> None:
    """Only a log that was tampered with says so."""
    one, two = Service("one", "m"), Service("two", "m")
    for here, there, local, peer in ((one, two, WEB, SHOP), (two, one, SHOP, WEB)):
        here.second = 1.0
        here.events.append(closing(here, local, peer))
        asked = here.loses(5, local, peer)
        assert asked == 2 - 1
        assert there is not here
    assert len(read(one, two).why("t5")) == 2


@pytest.mark.parametrize("made", ["before", "after"])
def test_what_failed_was_there_when_its_peer_left(made: str) -> None:
    """Who is cancelled with it serves many connections, one after the other, maybe from one port."""
    web, shop = Service("shop-web", "m"), Service("shop", "m")
    shop.make(5)
    if made == "before":
        shop.make(7)
    web.second = shop.second
    web.closes(2, runs_out(web), WEB, SHOP)
    shop.second = web.second
    if made == "after":
        shop.make(7)
    failed = {"origin": "failed", "origin_task": 7, "origin_error": "IncompleteReadError"}
    asked = shop.cancel(5, reason="task_group", local=SHOP, peer=WEB, **failed)
    shop.end(5, "cancelled", cancel=asked, cancel_outcome="obeyed", lifetime=0.1)
    [answer] = read(web, shop).why("t5")
    assert answer.root.service == ("shop-web" if made == "before" else None)


@pytest.mark.parametrize("machine", ["m", "m2"])
def test_who_closes_since_its_peer_had_is_not_why(machine: str) -> None:
    """One end says that nothing more comes, the other one closes, and so does the first then: of two machines
    it does not show which was the first."""
    web, shop = Service("shop-web", "m"), Service("shop", machine)
    shop.make(5)
    web.make(2)
    failed = {"reason": "task_group", "origin": "failed", "origin_error": "IncompleteReadError"}
    web.second = shop.second
    web.closes(2, web.cancel(2, local=WEB, peer=SHOP, origin_task=3, **failed), WEB, SHOP)
    shop.second = web.second
    asked = shop.cancel(5, local=SHOP, peer=WEB, origin_task=7, **failed)
    shop.end(5, "cancelled", cancel=asked, cancel_outcome="obeyed", lifetime=0.1)
    [answer] = read(web, shop).why("t5")
    assert answer.root.service is None


def closing(service: Service, local: str, peer: str) -> Event:
    service.closes(5, 1, local, peer)
    service.seq = 0
    event = service.events.pop()
    return msgspec.structs.replace(event, seq=100)


def test_clocks_that_do_not_fit_are_told_and_one_that_is_measured_is_used(tmp_path: Any) -> None:
    def told(connections: int, ahead: float = 77.0) -> tuple[int, str, str]:
        web, shop = Service("shop-web", "m1"), Service("shop", "m2", ahead=ahead)
        for number in range(connections):
            client = f"10.0.0.1:{50_000 + number}"
            web.closes(2, runs_out(web), client, SHOP)
            web.second += 10
            shop.second = web.second + ahead - 9.999
            shop.loses(5 + number, SHOP, client)
        files = [tmp_path / f"{service.run.id}.jsonl" for service in (web, shop)]
        for file, service in zip(files, (web, shop), strict=True):
            file.write_bytes(encode_events(service.events))
        result = CliRunner().invoke(command, [*map(str, files), "--task", "t5", "--json"])
        return result.return_value or 0, result.stdout, result.stderr

    _, out, err = told(2)
    assert '"service"' not in out
    assert "2 peers of run" in err
    assert "their clocks do not fit: not joined" in err
    _, out, err = told(3)
    assert '"service":"shop-web"' in out
    assert "the clock at the other end is 77.002 s ahead, as 3 connections show" in out
    assert err == ""
    _, out, _ = told(3, -30.0)
    assert "the clock at the other end is 29.998 s behind, as 3 connections show" in out


def test_who_left_is_told_by_its_address_where_no_log_tells_more(tmp_path: Any) -> None:
    def told(*services: Service) -> list[str]:
        file = tmp_path / "all.jsonl"
        file.write_bytes(b"".join(encode_events(each.events) for each in services))
        result = CliRunner().invoke(command, [str(file), "--task", "t5"])
        return re.findall("the peer was .*", result.stdout)

    web, shop, stock = chain()
    assert told(stock) == [f"the peer was 10.0.0.2:50000, this end {STOCK}"]
    assert told(stock, shop) == [f"the peer was {WEB}, this end {SHOP}"]
    assert told(stock, shop, web) == []


def test_a_task_that_lives_still_is_known_by_its_making() -> None:
    web, shop, _ = chain()
    shop.events = [each for each in shop.events if not isinstance(each, TaskDone)]
    [answer] = read(web, shop).why("t7")
    assert answer.root.service == "shop-web"


# -- by the trace -----------------------------------------------------------------------------


def test_a_trace_joins_what_proxies_keep_apart() -> None:
    log = read(*traced())
    [answer] = [each.answer() for each in log.cases("t5")]
    assert answer.summary == (
        "work (t5) was cancelled, probably because its client left: work (t7) in shop (pid 4) was"
        " cancelled, since its client left: work (t2) in shop-web (pid 8) was cancelled, since the"
        " timeout of 0.5 s at web.py:20 ran out"
    )
    assert answer.root.what == "deadline"
    assert [step.concluded for case in log.cases("t5") for step in case.steps()] == [
        *(False, False, True, False, True, False),
    ]


def test_a_trace_joins_as_far_as_the_spans_that_sent_are_known() -> None:
    """Of several machines, and a span that is about more, it is not known who came first."""
    [answer] = [each.answer() for each in read(*traced(shop_sends=False)).cases("t5")]
    assert answer.root.reason == "disconnect"


@pytest.mark.parametrize("sends", [True, False], ids=["instrumented", "by hand"])
@pytest.mark.parametrize("closes", [True, False], ids=["closed", "not closed"])
@pytest.mark.parametrize("late", [False, True], ids=["under way", "begun later"])
def test_one_machine_tells_what_was_under_way_when_the_client_was_asked(
    sends: bool, closes: bool, late: bool
) -> None:
    """In the span of a request that is handled a cache may be too slow, and the rest goes on."""
    web, shop = Service("shop-web", "m"), Service("shop", "m")
    begins = 2.0 if late else 0.0
    shop.make(3)  # serves the connection, on which a proxy sends one request after the other
    shop.second = begins
    shop.make(7)
    web.second = 1.0
    web.make(2)
    span = OF_WEB if sends else {"trace_id": "c" * 32, "span_id": "a" * 16}
    asked = web.cancel(2, reason="timeout", origin="deadline", **span)
    if closes:
        web.closes(2, asked, WEB, "10.0.0.9:80")
    shop.second = begins + 1.01
    [serving] = PER_REQUEST
    lost = shop.cancel(3, reason="disconnect", origin_reason="disconnect", coro=serving, **OF_SHOP)
    own = shop.cancel(7, reason="awaiter", cause=lost, **OF_SHOP)
    shop.end(7, "cancelled", cancel=own, cancel_outcome="obeyed", lifetime=1.01)
    [answer] = [each.answer() for each in read(web, shop).cases("t7")]
    joined = (sends or closes) and not late
    assert answer.root.what == ("deadline" if joined else "called")


def test_a_trace_and_a_connection_that_say_otherwise_join_nothing() -> None:
    web, shop, _ = chain()
    loss = shop.events[2]
    assert isinstance(loss, TaskCancel)
    shop.events[2] = msgspec.structs.replace(loss, **OF_SHOP)
    third = Service("third", "m")
    third.make(3)
    third.cancel(3, reason="timeout", origin="deadline", **OF_WEB)
    [answer] = [each.answer() for each in read(web, shop).cases("t7")]
    assert (answer.root.what, answer.inferred) == ("deadline", True)
    [answer] = [each.answer() for each in read(web, shop, third).cases("t7")]
    assert (answer.root.reason, answer.inferred) == ("disconnect", False)


def test_what_a_library_ends_for_itself_is_not_why_a_client_left() -> None:
    """Of two connections that a client tries, the second one is given up, in the span of the request."""
    web, shop, _ = traced()
    web.events = web.events[:1]
    web.make(4)
    web.cancel(4, reason="aiohappyeyeballs.race", **OF_WEB)
    [answer] = [each.answer() for each in read(web, shop).cases("t7")]
    assert answer.root.reason == "disconnect"
