"""FastStream cancels: an application on a real Redis server that is told to exit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.recognising import links, trails
from tests.servers import redis_server
from tests.waiting import PATIENCE

faststream: Any = pytest.importorskip("faststream")
brokers: Any = pytest.importorskip("faststream.redis", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own
redis_client: Any = pytest.importorskip("redis.asyncio")
trail_of = trails()


@pytest.fixture
def url() -> Iterator[str]:
    with redis_server() as port:
        yield f"redis://127.0.0.1:{port}"


def test_what_reads_messages_ends_with_the_application(trail_of: Any, url: str) -> None:
    async def scenario() -> None:
        broker = brokers.RedisBroker(url, logger=None, graceful_timeout=None)
        got = asyncio.Event()

        @broker.subscriber("numbers")  # type: ignore[untyped-decorator]  # of no known type
        async def handle(_number: int) -> None:
            got.set()

        app = faststream.FastStream(broker, logger=None)
        running = asyncio.create_task(app.run(log_level=logging.CRITICAL), name="app")
        client = redis_client.from_url(url)
        while not got.is_set():  # whoever does not listen yet misses a message
            await client.publish("numbers", "1")
            await asyncio.sleep(0.02)
        await client.aclose()
        for task in asyncio.all_tasks():
            if "consume" in str(task.get_coro()).lower():
                task.set_name("reads")
        app.exit()
        await asyncio.wait([running], timeout=PATIENCE)

    trail = trail_of(scenario)
    root = links(trail.why("reads"))[-1]
    assert (root["what"], root["reason"]) == ("called", "faststream.closed")
