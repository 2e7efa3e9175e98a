"""Logs of several services, made by hand: each asks the next one, and its client leaves."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from datetime import timedelta
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from aioaudit.events import (
    ConnectionClose,
    Event,
    FutureCancel,
    ProcessEnd,
    SignalSent,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.exporter import encode_events
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


def chain(kind: type[Service] = Service) -> tuple[Service, Service, Service]:
    """A service whose timeout runs out, one that it asks, and one that this one asks."""
    web, shop, stock = kind("shop-web", "m"), kind("shop", "m"), kind("stock", "m")
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


def traced(
    shop_sends: bool = True, kind: type[Service] = Service
) -> tuple[Service, Service, Service]:
    """The same three, each behind a proxy: no connection is known to two of them."""
    web, shop, stock = kind("shop-web", "m"), kind("shop", "n"), kind("stock", "o")
    web.make(2)
    deadline = {"origin": "deadline", "origin_seconds": 0.5, "origin_at": "web.py:20"}
    web.cancel(2, reason="timeout", **deadline, **OF_WEB)
    known = OF_SHOP | ({"span_kind": "client"} if shop_sends else {})
    own = shop.cancel(7, reason="disconnect", origin_reason="disconnect", **known)
    shop.obey(7, own)
    last = stock.cancel(5, reason="disconnect", origin_reason="disconnect", **OF_STOCK)
    stock.obey(5, last)
    return web, shop, stock


# -- and a lot of other work ------------------------------------------------------------------


class Busy(Service):
    """The same between tasks that nothing happens to: most of them return, some live on."""

    def __init__(self, name: str, machine: str, ahead: float = 0.0) -> None:
        super().__init__(name, machine, ahead)
        self._chance = Random(f"{name} {machine}")
        self._tasks = count(1000)
        self._under_way: list[int] = []

    def tell(self, kind: type[Event], /, **keys: Any) -> int:
        step, self.step = self.step, 0.0  # what is to be joined happens as soon as without
        for _ in range(self._chance.randrange(60)):
            self._go_on()
        self.step = step
        return super().tell(kind, **keys)

    def _go_on(self) -> None:
        """A task begins, or one ends."""
        if len(self._under_way) > self._chance.randrange(1, 9):
            task = self._under_way.pop(self._chance.randrange(len(self._under_way)))
            about = {"name": f"w{task}", "coro": "app:work", "lifetime": 0.001}
            super().tell(TaskDone, task=task, outcome="returned", **about)
            return
        task = next(self._tasks)
        parent = self._chance.choice([2, 5, 7, None, *self._under_way])
        super().tell(TaskCreate, task=task, name=f"w{task}", coro="app:work", parent=parent)
        self._under_way.append(task)


def fleet(kind: type[Service] = Service) -> list[Service]:
    """All that goes from one log to another: connections, one clock or two, traces, signals."""
    return [*chain(kind), *traced(kind=kind), *far_away(kind), *killed(kind), *lasting(kind)]


def far_away(kind: type[Service]) -> tuple[Service, Service]:
    """Two machines whose clocks differ by 77 s, as three connections show."""
    web, shop = kind("far-web", "m1"), kind("far-shop", "m2", 77.0)
    for number in range(3):
        client = f"10.0.1.1:{50_000 + number}"
        web.closes(2 + number, runs_out(web, 2 + number), client, "10.0.1.2:80")
        web.second += 10
        shop.second = web.second + 67.001
        shop.loses(5 + number, "10.0.1.2:80", client)
    return web, shop


def killed(kind: type[Service]) -> tuple[Service, Service]:
    """A worker that its parent ends, and another task of it that was not over by then."""
    parent, worker = kind("arbiter", "k"), kind("one worker", "k")
    process = getattr(parent.events[0], "process", "")
    worker.events[0] = msgspec.structs.replace(
        worker.events[0], ppid=parent.pid, ancestors=[process]
    )
    worker.make(4)
    parent.tell(
        SignalSent,
        to=worker.pid,
        signal="SIGTERM",
        at="arbiter.py:1",
        source="gunicorn.arbiter:Arbiter.kill_worker",
        callers=["gunicorn.arbiter:Arbiter.murder_workers"],
    )
    worker.second = parent.second
    signal = {"reason": "signal", "origin": "signal", "origin_signal": "SIGTERM"}
    worker.obey(3, worker.cancel(3, **signal))
    worker.cancel(4, **signal)
    parent.second = worker.second
    parent.tell(SignalSent, to=worker.pid, signal="SIGKILL", at="arbiter.py:2", source="a:kill")
    parent.tell(ProcessEnd, written=parent.seq, dropped=0)
    return parent, worker


def lasting(kind: type[Service]) -> tuple[Service, Service]:
    """Clients leave tasks that live on, that take it back, that are waited for, or just return."""
    web, shop = kind("last-web", "l"), kind("last-shop", "l")

    def loses(task: int, peer: str) -> int:
        gone = {"reason": "disconnect", "origin_reason": "disconnect"}
        return shop.cancel(task, **gone, local="10.0.2.2:80", peer=peer)

    for task in (20, 21, 22, 23, 24):
        shop.make(task)
    web.second = shop.second
    clients = [f"10.0.2.1:{50_000 + number}" for number in range(4)]
    for number, client in enumerate(clients):
        web.closes(30 + number, runs_out(web, 30 + number), client, "10.0.2.2:80")
    shop.second = web.second
    loses(20, clients[0])
    taken = loses(21, clients[1])
    about = {"name": "t21", "coro": "app:work"}
    shop.tell(TaskUncancel, task=21, remaining=0, cancel=taken, **about)
    shop.end(21, cancel=taken, cancel_outcome="absorbed", lifetime=shop.second)
    loses(22, clients[2])
    shop.end(22, lifetime=shop.second)
    waited = shop.tell(
        FutureCancel,
        waiters=[23, 24],
        waiter_names=["t23", "t24"],
        reason="disconnect",
        origin="called",
        origin_reason="disconnect",
        local="10.0.2.2:80",
        peer=clients[3],
    )
    shop.end(24, "cancelled", cancel=waited, cancel_outcome="obeyed", lifetime=shop.second)
    shop.end(23, lifetime=shop.second)
    return web, shop


def written(folder: Path, services: Iterable[Service], chance: Random) -> None:
    """Write the log of each service into *folder*, as rotation leaves it: up to three files."""
    for service in services:
        lines = [encode_events([event]) for event in service.events]
        ends = sorted(chance.randrange(1, len(lines)) for _ in range(chance.randrange(3)))
        name = f"{service.run.id}.jsonl"
        for age, (begin, end) in enumerate(pairwise([0, *ends, len(lines)])):
            head = lines[:1] if begin else []
            data = b"".join([*head, *lines[begin:end]])
            left = len(ends) - age
            if not left:
                (folder / name).write_bytes(data)
            elif chance.random() < 0.5:
                (folder / f"{name}.{left}").write_bytes(data)
            else:
                (folder / f"{name}.{left}.gz").write_bytes(gzip.compress(data, 1))
