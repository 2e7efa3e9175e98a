"""Tornado cancels: what takes too long for `run_sync`, futures in a chain, and pings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aioaudit
from tests.loops import MAKERS
from tests.recognising import about, accepted, hang, links, name_task, trails

tornado = pytest.importorskip("tornado")
concurrent = pytest.importorskip("tornado.concurrent")
gen = pytest.importorskip("tornado.gen")
ioloop = pytest.importorskip("tornado.ioloop")
web = pytest.importorskip("tornado.web")
websocket = pytest.importorskip("tornado.websocket")

trail_of = trails()


@pytest.mark.parametrize("make", MAKERS)
def test_the_limit_of_run_sync_is_a_deadline_of_the_line_that_calls_it(
    make: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def slow() -> None:
        name_task("slow")
        await hang()

    for seconds in (0.05, 0.5, 5.0):
        with aioaudit.recording() as trail:
            loop = ioloop.IOLoop(asyncio_loop=make(), make_current=False)
            loop.call_later(20 * seconds, loop.stop)
            with pytest.raises(ioloop.TimeoutError):
                loop.run_sync(slow, timeout=seconds)  # LINE runs
            loop.close()
        answer = trail.why("slow")
        if answer is not None:
            break  # else a busy machine took all that time before it began
    assert links(answer) == [
        {"what": "cancelled", "name": "slow", "reason": "timeout", "at": "runs"},
        {"what": "deadline", "reason": "timeout", "at": "runs", "seconds": about(seconds)},
    ]


async def waiting_for(future: Awaitable[Any]) -> None:
    await future


@pytest.mark.skipif(
    tornado.version_info < (6, 6), reason="a chained future does not end with this tornado"
)
def test_a_future_that_ends_as_another_did_leads_to_its_request(trail_of: Any) -> None:
    async def scenario() -> None:
        first = asyncio.create_task(hang(), name="first")
        second: asyncio.Future[None] = asyncio.Future()
        concurrent.chain_future(first, second)
        waiting = asyncio.create_task(waiting_for(second), name="waiting")
        await asyncio.sleep(0)
        first.cancel("enough")  # LINE cancels
        await asyncio.wait([waiting])

    chain = links(trail_of(scenario).why("waiting"))
    assert [chain[0]["name"], chain[-2]["name"]] == ["waiting", "first"]
    assert (chain[-1]["what"], chain[-1]["at"]) == ("called", "cancels")


def test_a_limit_of_tornados_that_runs_out_cancels_nothing(trail_of: Any) -> None:
    async def scenario() -> None:
        inner = asyncio.create_task(hang(), name="inner")
        with pytest.raises(gen.TimeoutError):
            await gen.with_timeout(ioloop.IOLoop.current().time() + 0.05, inner)
        inner.cancel()  # LINE inner

    trail = trail_of(scenario)
    assert [each.name for each in accepted(trail)] == ["inner"]
    assert links(trail.why("inner"))[-1]["at"] == "inner"


def test_the_pings_of_a_websocket_end_with_it(trail_of: Any) -> None:
    async def scenario() -> None:
        site = web.Application([("/", websocket.WebSocketHandler)], websocket_ping_interval=60)
        server = site.listen(0, "127.0.0.1")
        [port] = {each.getsockname()[1] for each in server._sockets.values()}
        client = await websocket.websocket_connect(f"ws://127.0.0.1:{port}/", ping_interval=60)
        client.close()
        while await client.read_message() is not None:
            pass
        server.stop()

    reasons = {each.reason for each in accepted(trail_of(scenario))}
    assert reasons == ({"tornado.closed"} if tornado.version_info >= (6, 5) else set())
