"""Logs of several services, made by hand: each asks the next one, and its client leaves."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from aioaudit.events import ConnectionClose
from aioaudit.identity import Run
from tests.story import NOON, Story

WEB, SHOP, STOCK = "10.0.0.1:50000", "10.0.0.2:80", "10.0.0.3:80"


class Service(Story):
    """A run with a name, on a machine of its own, whose clock is so many seconds ahead."""

    def __init__(self, name: str, machine: str, ahead: float = 0.0) -> None:
        super().__init__(Run(), pid=len(name))
        self.second = ahead
        [start] = self.events
        known = {"service": name, "process": f"{machine}-1-{self.pid}-1", "network": f"{machine}-1"}
        begin = NOON + timedelta(seconds=ahead)
        known["ts"] = f"{begin.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
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


OF_WEB = {"trace_id": "c" * 32, "span_id": "a" * 16, "span_kind": "client"}
OF_SHOP = {"trace_id": "c" * 32, "span_id": "b" * 16, "parent_span_id": "a" * 16}
OF_STOCK = {"trace_id": "c" * 32, "span_id": "d" * 16, "parent_span_id": "b" * 16}


def traced(shop_sends: bool = True) -> tuple[Service, Service, Service]:
    """The same three, each behind a proxy: no connection is known to two of them."""
    web, shop, stock = Service("shop-web", "m"), Service("shop", "n"), Service("stock", "o")
    web.make(2)
    deadline = {"origin": "deadline", "origin_seconds": 0.5, "origin_at": "web.py:20"}
    web.cancel(2, reason="timeout", **deadline, **OF_WEB)
    known = OF_SHOP | ({"span_kind": "client"} if shop_sends else {})
    own = shop.cancel(7, reason="disconnect", origin_reason="disconnect", **known)
    shop.obey(7, own)
    last = stock.cancel(5, reason="disconnect", origin_reason="disconnect", **OF_STOCK)
    stock.obey(5, last)
    return web, shop, stock
