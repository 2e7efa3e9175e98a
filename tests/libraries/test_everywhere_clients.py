"""Clients of other people's libraries, cancelled wherever they wait.

Each has one connection, used again by the tear-down: what a cancellation leaves unusable shows.
What comes over a network comes in one piece or in two, so runs may differ.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from aioaudit.testing import Coverage, UnsafeError, cancel_everywhere
from tests.servers import postgres_server, redis_server

aiohttp = pytest.importorskip("aiohttp")
asyncpg = pytest.importorskip("asyncpg")
httpx = pytest.importorskip("httpx")
redis = pytest.importorskip("redis.asyncio")
websockets = pytest.importorskip("websockets")

Use = Callable[[], Awaitable[None]]
Prepared = Callable[[], AbstractAsyncContextManager[Use]]


def cancelled(prepared: Any, **options: Any) -> Coverage:
    """Where *prepared* was cancelled, all of which must have been tried, at whatever speed."""
    try:
        coverage = cancel_everywhere(
            prepared, may_differ=True, tries=20, ignore=["slow"], **options
        )
    except UnsafeError as error:
        coverage = error.coverage
    assert not coverage.missing
    assert coverage.points
    return coverage


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    with redis_server() as port:
        yield port


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as address:
        yield address


def test_redis(redis_port: int) -> None:
    @contextlib.asynccontextmanager
    async def prepared() -> AsyncIterator[Use]:
        async with redis.Redis(port=redis_port, max_connections=1) as client:
            await client.set("greeting", "hello")

            async def use() -> None:
                assert await client.get("greeting") == b"hello"
                async with client.pipeline() as pipeline:
                    pipeline.echo("one")
                    pipeline.echo("two")
                    assert await pipeline.execute() == [b"one", b"two"]

            yield use
            assert await client.get("greeting") == b"hello"
            assert await client.echo("good-bye") == b"good-bye"

    assert cancelled(prepared).faults == []


def test_asyncpg(postgres: str) -> None:
    @contextlib.asynccontextmanager
    async def prepared() -> AsyncIterator[Use]:
        async with asyncpg.create_pool(postgres, min_size=1, max_size=1) as pool:

            async def use() -> None:
                async with pool.acquire() as connection, connection.transaction():
                    assert await connection.fetchval("select 1") == 1

            yield use
            assert await pool.fetchval("select 2") == 2

    assert cancelled(prepared).faults == []


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that takes its time between two halves of what it says."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
            await writer.drain()
            await asyncio.sleep(0.002)
            writer.write(b"world")
    writer.close()


@contextlib.asynccontextmanager
async def http_server() -> AsyncIterator[str]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


def test_aiohttp() -> None:
    @contextlib.asynccontextmanager
    async def prepared() -> AsyncIterator[Use]:
        connector = aiohttp.TCPConnector(limit=1)
        async with http_server() as url, aiohttp.ClientSession(connector=connector) as client:

            async def use() -> None:
                for _ in range(2):
                    async with client.get(url) as response:
                        assert await response.text() == "helloworld"

            yield use
            async with client.get(url) as response:
                assert await response.text() == "helloworld"

    assert cancelled(prepared).faults == []


def test_websockets() -> None:
    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    @contextlib.asynccontextmanager
    async def prepared() -> AsyncIterator[Use]:
        async with websockets.serve(echo, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]

            async def use() -> None:
                async with websockets.connect(f"ws://127.0.0.1:{port}", proxy=None) as connection:
                    await connection.send("hello")
                    assert await connection.recv() == "hello"

            yield use

    assert cancelled(prepared).faults == []


def test_httpx_loses_a_connection_that_is_cancelled_while_a_response_is_closed() -> None:
    """A lock in the closing of a response waits for a turn of the loop.

    A task that is cancelled just there, by ``asyncio.timeout`` for one, leaves its request in the
    pool for ever: anyio's shields keep off the cancellations of scopes alone.
    """

    @contextlib.asynccontextmanager
    async def prepared() -> AsyncIterator[Use]:
        limits = httpx.Limits(max_connections=1)
        timeout = httpx.Timeout(None, pool=0.2)
        async with (
            http_server() as url,
            httpx.AsyncClient(limits=limits, trust_env=False, timeout=timeout) as client,
        ):

            async def use() -> None:
                async with client.stream("GET", url) as response:
                    parts = [part async for part in response.aiter_bytes()]
                assert b"".join(parts) == b"helloworld"

            yield use
            assert (await client.get(url)).text == "helloworld"

    coverage = cancelled(prepared)
    assert {fault.kind for fault in coverage.faults} == {"teardown"}
    assert all("PoolTimeout" in fault.text for fault in coverage.faults)
    # And nowhere else.
    once = [fault for fault in coverage.faults if fault.again_at is None]
    assert 0 < len(once) < len(coverage.covered)
