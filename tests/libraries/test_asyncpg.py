"""asyncpg cancels, and lets timeouts run out: a real server, queries that take long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from aioaudit.trail import Trail
from tests.recognising import about, accepted, done_by, links, trails
from tests.servers import postgres_server
from tests.waiting import PATIENCE

asyncpg = pytest.importorskip("asyncpg")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with postgres_server() as address:
        yield address


trail_of = trails(TimeoutError)


def deadline(trail: Trail, at: str, seconds: float, detail: str) -> None:
    """Assert that the host met the timeout of *seconds* entered at the line *at*."""
    [own, root] = links(trail.why("host"), __file__)
    assert root.pop("detail").partition(", ")[0] == detail
    said = {"reason": "timeout", "at": at}
    assert own == {"what": "cancelled", "name": "host", "detail": detail, **said}
    assert root == {"what": "deadline", "seconds": about(seconds), **said}


async def sleeps(address: str, connection: Any) -> None:
    """Wait until the server has *connection* sleep."""
    looking = await asyncpg.connect(address)
    asks = "select wait_event from pg_stat_activity where pid = $1"
    there = connection.get_server_pid()
    while await looking.fetchval(asks, there) != "PgSleep":  # noqa: ASYNC110 - only the server knows
        await asyncio.sleep(0.001)
    await looking.close()


def test_a_command_that_takes_too_long_fails_and_is_not_cancelled(
    trail_of: Any, address: str
) -> None:
    async def scenario() -> None:
        connection = await asyncpg.connect(address)
        with pytest.raises(TimeoutError):
            await connection.fetch("select pg_sleep(60)", timeout=0.2)
        assert await connection.fetchval("select 1") == 1
        await connection.close()

    trail = trail_of(scenario)
    assert [each.reason for each in accepted(trail)] == []
    assert trail.why("host") is None


def test_who_cancels_a_command_is_named_and_the_query_ends_in_the_server(
    trail_of: Any, address: str
) -> None:
    async def scenario() -> None:
        connection = await asyncpg.connect(address)
        task = asyncio.create_task(connection.fetch("select pg_sleep(60)"), name="query")
        await sleeps(address, connection)
        task.cancel()  # LINE cancels
        await asyncio.wait([task])
        assert await connection.fetchval("select 1") == 1
        await connection.close()

    said = {"reason": "explicit", "at": "cancels", "by_name": "host"}
    trail = trail_of(scenario)
    assert links(trail.why("query")) == [
        {"what": "cancelled", "name": "query", **said},
        {"what": "called", **said},
    ]
    assert [each.reason for each in accepted(trail)] == ["explicit"]


def test_a_server_that_does_not_answer_is_the_deadline_of_connect(trail_of: Any) -> None:
    async def scenario() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            port = silent.getsockname()[1]
            await asyncpg.connect(  # LINE connects
                host="127.0.0.1", port=port, user="x", database="x", ssl=False, timeout=0.2
            )

    trail = trail_of(scenario)
    deadline(trail, "connects", 0.2, "the timeout of connect()")
    assert [each.reason for each in accepted(trail)] == ["timeout"]


def test_a_pool_without_a_free_connection_is_the_deadline_of_acquire(
    trail_of: Any, address: str
) -> None:
    async def scenario() -> None:
        async with asyncpg.create_pool(address, min_size=1, max_size=1) as pool, pool.acquire():
            await pool.acquire(timeout=0.2)  # LINE acquires

    deadline(trail_of(scenario), "acquires", 0.2, "the timeout of acquire()")


def test_a_pool_that_must_have_a_connection_at_once_meets_a_deadline_of_no_length(
    trail_of: Any, address: str
) -> None:
    async def scenario() -> None:
        async with asyncpg.create_pool(address, min_size=1, max_size=1) as pool, pool.acquire():
            await pool.acquire(timeout=0)  # LINE acquires_at_once

    trail = trail_of(scenario)
    [request] = accepted(trail)
    [own, root] = links(trail.why(request.task))
    assert own["reason"] == "timeout"
    assert root == {
        "what": "deadline",
        "reason": "timeout",
        "at": "acquires_at_once",
        "seconds": 0,
    }


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_what_keeps_a_pool_at_its_size_ends_where_the_pool_is_closed(
    trail_of: Any, address: str, how: str
) -> None:
    if not hasattr(asyncpg.Pool, "_schedule_min_size_maintenance"):
        pytest.skip("this asyncpg does not make a lost connection of a pool anew")

    async def connect(*args: Any, **keywords: Any) -> Any:
        made.append(None)
        if len(made) > 1:
            again.set()
            await asyncio.sleep(60)
        return await asyncpg.connect(*args, **keywords)

    async def scenario() -> None:
        pool = await asyncpg.create_pool(address, min_size=1, max_size=2, connect=connect)
        other = await asyncpg.connect(address)
        mine = await other.fetchval("select pg_backend_pid()")
        await other.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> $1",
            mine,
        )
        await asyncio.wait_for(again.wait(), PATIENCE)
        task = pool._maintenance_task
        task.set_name("maintenance")
        if how == "close":
            await pool.close()  # LINE close
        else:
            pool.terminate()  # LINE terminate
        await asyncio.wait([task])
        await other.close()

    made: list[None] = []
    again = asyncio.Event()
    answer = trail_of(scenario).why("maintenance")
    said = {"reason": "asyncpg.closed", "at": how, "by_name": "host"}
    said |= done_by(answer, "asyncpg.pool:Pool")
    assert links(answer) == [
        {"what": "cancelled", "name": "maintenance", **said},
        {"what": "called", **said},
    ]


def test_a_cancellation_on_its_way_to_the_server_ends_with_its_connection(
    trail_of: Any, address: str
) -> None:
    async def scenario() -> None:
        connection = await asyncpg.connect(address)
        task = asyncio.create_task(connection.fetch("select pg_sleep(60)"), name="query")
        await sleeps(address, connection)
        task.cancel()
        await asyncio.wait([task])
        [sending] = connection._cancellations
        sending.set_name("sending")
        await asyncio.sleep(0)
        connection.terminate()  # LINE terminates
        await asyncio.wait([sending])

    answer = trail_of(scenario).why("sending")
    said = {"reason": "asyncpg.closed", "at": "terminates", "by_name": "host"}
    said |= done_by(answer, "asyncpg.connection:Connection")
    assert links(answer) == [
        {"what": "cancelled", "name": "sending", **said},
        {"what": "called", **said},
    ]
