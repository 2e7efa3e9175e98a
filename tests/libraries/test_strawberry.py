"""Strawberry cancels: subscriptions that a client ends, and those whose websocket is closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.recognising import accepted, links
from tests.serving import ended, records

pytest.importorskip("uvicorn")
strawberry = pytest.importorskip("strawberry")
graphql = pytest.importorskip("strawberry.asgi")
websockets = pytest.importorskip("websockets.asyncio.client")

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of what uvicorn has for websockets
record = records()
PROTOCOLS = {
    "graphql-transport-ws": ("subscribe", "complete"),
    "graphql-ws": ("start", "stop"),
}
"""How an operation is begun and ended."""


@strawberry.type
class Query:
    hello: str = "hello"


@strawberry.type
class Subscription:
    @strawberry.subscription  # type: ignore[untyped-decorator, unused-ignore]  # not typed where it is not installed
    async def ticks(self) -> AsyncIterator[str]:
        yield "begin"
        await asyncio.sleep(60)


def site() -> Any:
    return graphql.GraphQL(strawberry.Schema(query=Query, subscription=Subscription))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("leaves", [False, True])
def test_an_operation_that_is_cancelled_says_whether_its_client_is_still_there(
    record: Any, protocol: str, leaves: bool
) -> None:
    async def talk(port: int) -> None:
        before = asyncio.all_tasks()
        begin, end = PROTOCOLS[protocol]
        url = f"ws://127.0.0.1:{port}/"
        async with websockets.connect(url, subprotocols=[protocol]) as client:
            await client.send(json.dumps({"type": "connection_init"}))
            payload = {"query": "subscription { ticks }"}
            await client.send(json.dumps({"type": begin, "id": "1", "payload": payload}))
            while "begin" not in await client.recv():
                pass
            if not leaves:
                await client.send(json.dumps({"type": end, "id": "1"}))
        await ended(before)

    trail = record(site(), talk, ws="auto")
    tasks = [each for each in accepted(trail) if each.coro.startswith("strawberry.")]
    beside = [each.reason for each in tasks if "init_timeout" in each.coro]
    [request] = [each for each in tasks if "init_timeout" not in each.coro]
    root = links(trail.why(request.task))[-1]
    if leaves:
        assert root["reason"] == "strawberry.disconnected"
        assert root["at"].startswith("strawberry/subscriptions/protocols/")
        assert root["detail"] == "the websocket was closed"
    else:
        detail = f"the client sent {PROTOCOLS[protocol][1]}"
        told = (root["what"], root["reason"], root["detail"])
        assert told == ("called", "strawberry.stopped", detail)
        assert "at" not in root
    assert set(beside) <= {"strawberry.timer"}
