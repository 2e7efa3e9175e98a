"""Logs of several services together: an answer goes on where a peer went away."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from aioaudit.cli.why import command
from aioaudit.events import ConnectionClose, Event, TaskCancel, TaskDone
from aioaudit.exporter import encode_events
from aioaudit.identity import Run
from aioaudit.log import Log
from aioaudit.log.incidents import housekeeping
from tests.story import Story

pytestmark = pytest.mark.any_python

WEB, SHOP, STOCK = "10.0.0.1:50000", "10.0.0.2:80", "10.0.0.3:80"


class Service(Story):
    """A run with a name, on a machine of its own, whose clock is so many seconds ahead."""

    def __init__(self, name: str, machine: str, ahead: float = 0.0) -> None:
        super().__init__(Run(), pid=len(name))
        self.second = ahead
        [start] = self.events
        known = {"service": name, "process": f"{machine}-1-{self.pid}-1", "network": f"{machine}-1"}
        self.events = [msgspec.structs.replace(start, pid=self.pid, argv=["x.py"], **known)]

    def loses(self, task: int, local: str, peer: str, **more: Any) -> int:
        asked = self.cancel(
            task, reason="disconnect", origin_reason="disconnect", local=local, peer=peer, **more
        )
        self.end(task, "cancelled", cancel=asked, cancel_outcome="obeyed", lifetime=0.005)
        return asked

    def closes(self, task: int, cancel: int, local: str, peer: str) -> int:
        return self.tell(
            ConnectionClose,
            task=task,
            name=f"t{task}",
            coro="web:fetch",
            cancel=cancel,
            local=local,
            peer=peer,
            at="web.py:33",
        )


def runs_out(service: Service, task: int = 2) -> int:
    service.make(task)
    deadline = {"origin": "deadline", "origin_seconds": 0.5, "origin_at": "web.py:20"}
    return service.cancel(task, reason="timeout", **deadline)


def read(*services: Service) -> Log:
    log = Log()
    for service in services:
        for event in service.events:
            log.add(event)
    return log


def chain() -> tuple[Service, Service, Service]:
    """A service whose timeout runs out, one that it asks, and one that this one asks."""
    web, shop, stock = Service("shop-web", "m"), Service("shop", "m"), Service("stock", "m")
    web.closes(2, runs_out(web), WEB, SHOP)
    shop.make(7)
    shop.second = web.second
    own = shop.cancel(7, reason="disconnect", origin_reason="disconnect", local=SHOP, peer=WEB)
    shop.closes(7, own, "10.0.0.2:50000", STOCK)
    shop.end(7, "cancelled", cancel=own, cancel_outcome="obeyed", lifetime=0.004)
    stock.second = shop.second
    stock.loses(5, STOCK, "10.0.0.2:50000")
    return web, shop, stock


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
    for here, local, peer in ((one, WEB, SHOP), (two, SHOP, WEB)):
        here.second = 1.0
        here.events.append(closing(here, local, peer))
        assert here.loses(5, local, peer) == 1
    assert len(read(one, two).why("t5")) == 2


def closing(service: Service, local: str, peer: str) -> Event:
    """A close because of the request with the number 1, which is yet to come."""
    service.closes(5, 1, local, peer)
    service.seq = 0
    event = service.events.pop()
    return msgspec.structs.replace(event, seq=100)


def test_clocks_that_do_not_fit_are_told_and_one_that_is_measured_is_used(tmp_path: Any) -> None:
    def told(connections: int) -> tuple[int, str, str]:
        web, shop = Service("shop-web", "m1"), Service("shop", "m2", ahead=77.0)
        for number in range(connections):
            client = f"10.0.0.1:{50_000 + number}"
            web.closes(2, runs_out(web), client, SHOP)
            web.second += 10
            shop.second = web.second + 67.001
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
    assert "the clock at the other end is +77.002 s ahead, as 3 connections show" in out
    assert err == ""


def test_a_task_that_lives_still_is_known_by_its_making() -> None:
    web, shop, _ = chain()
    shop.events = [each for each in shop.events if not isinstance(each, TaskDone)]
    [answer] = read(web, shop).why("t7")
    assert answer.root.service == "shop-web"
