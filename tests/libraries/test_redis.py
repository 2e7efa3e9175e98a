"""redis-py cancels, and lets timeouts run out: a real server, and commands that block."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import aioaudit
from aioaudit.trail import Trail
from tests.recognising import about, accepted, acting, links, name_task, trails
from tests.servers import redis_server
from tests.waiting import PATIENCE

redis = pytest.importorskip("redis.asyncio")
retry = pytest.importorskip("redis.asyncio.retry")
backoff = pytest.importorskip("redis.backoff")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with redis_server() as port:
        yield port


trail_of = trails(redis.RedisError)


def client(port: int, **options: Any) -> Any:
    """A client that tries once."""
    once = retry.Retry(backoff.NoBackoff(), 0)
    return redis.Redis(host="127.0.0.1", port=port, retry=once, **options)


def last(trail: Trail, name: str) -> list[dict[str, Any]]:
    """The chain of *name*'s last cancellation, with its lateness left out."""
    chain = links(trail.why(name), __file__)
    for link in chain:
        words = [word for word in link.get("detail", "").split(", ") if not word.endswith(" late")]
        link.pop("detail", None)
        if words[0]:
            link["detail"] = ", ".join(words)
    return chain


def deadline(at: str, seconds: float, detail: str) -> list[dict[str, Any]]:
    said = {"reason": "timeout", "at": at, "detail": detail}
    return [
        {"what": "cancelled", "name": "host", **said},
        {"what": "deadline", "seconds": about(seconds), **said},
    ]


def test_an_answer_that_does_not_come_is_the_deadline_of_the_command(
    trail_of: Any, port: int
) -> None:
    async def scenario() -> None:
        async with client(port, socket_timeout=0.2, socket_connect_timeout=PATIENCE) as command:
            await command.blpop("nothing", timeout=0)  # LINE answer

    assert last(trail_of(scenario), "host") == deadline("answer", 0.2, "socket_timeout")


def test_a_connection_that_is_not_made_is_the_deadline_of_the_command(trail_of: Any) -> None:
    async def scenario() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            there = silent.getsockname()[1]
            async with client(there, ssl=True, socket_connect_timeout=0.2) as command:
                await command.ping()  # LINE connection

    assert last(trail_of(scenario), "host") == deadline("connection", 0.2, "socket_connect_timeout")


def test_a_full_pool_is_the_deadline_of_who_waits_for_a_connection(
    trail_of: Any, port: int
) -> None:
    async def scenario() -> None:
        pool = redis.BlockingConnectionPool(
            host="127.0.0.1", port=port, max_connections=1, timeout=0.2
        )
        # Before 5.3 it asks for the name of a command, which does not matter.
        names = inspect.signature(pool.get_connection).parameters
        needed = names["command_name"].default is inspect.Parameter.empty
        connection = await pool.get_connection(*(["PING"] if needed else []))
        try:
            await redis.Redis(connection_pool=pool).ping()  # LINE pool
        finally:
            await pool.release(connection)
            await pool.disconnect()

    detail = "all connections of the pool were in use"
    assert last(trail_of(scenario), "host") == deadline("pool", 0.2, detail)


def test_a_message_that_does_not_come_is_the_deadline_of_its_reader(
    trail_of: Any, port: int
) -> None:
    async def scenario() -> None:
        async with client(port) as command, command.pubsub() as channel:
            await channel.subscribe("channel")
            assert (await channel.get_message(timeout=PATIENCE))["type"] == "subscribe"
            assert await channel.get_message(timeout=0.2) is None  # LINE message

    trail = trail_of(scenario)
    assert last(trail, "host") == deadline("message", 0.2, "the timeout of this read")
    answer = trail.why("host")
    assert answer is not None
    assert (answer.outcome, answer.cancel_outcome) == ("returned", "absorbed")


@pytest.mark.parametrize("kind", ["command", "subscriber"])
def test_who_cancels_a_command_that_blocks_is_named(trail_of: Any, port: int, kind: str) -> None:
    async def blocked() -> None:
        async with client(port) as command:
            if kind == "command":
                await command.blpop("nothing", timeout=0)
            async with command.pubsub() as channel:
                await channel.subscribe("channel")
                async for message in channel.listen():
                    assert message["type"] == "subscribe"
                    begun.set()

    async def begin() -> None:
        async with client(port) as watching:
            while not begun.is_set():
                clients = await watching.client_list()
                if "blpop" in [each["cmd"] for each in clients]:
                    begun.set()

    async def scenario() -> None:
        task = asyncio.create_task(blocked(), name="blocked")
        await begin()
        task.cancel()  # LINE cancels
        await asyncio.wait([task])

    begun = asyncio.Event()
    said = {"reason": "explicit", "at": "cancels", "by_name": "host"}
    assert links(trail_of(scenario).why("blocked")) == [
        {"what": "cancelled", "name": "blocked", **said},
        {"what": "called", **said},
    ]


def test_a_pool_that_is_closed_fails_its_commands_and_cancels_nothing(
    trail_of: Any, port: int
) -> None:
    async def scenario() -> None:
        command = client(port)
        task = asyncio.create_task(command.blpop("nothing", timeout=0), name="blocked")
        async with client(port) as watching:
            clients: list[Any] = []
            while "blpop" not in [each["cmd"] for each in clients]:
                clients = await watching.client_list()
        await command.connection_pool.disconnect()
        await asyncio.wait([task])
        assert isinstance(task.exception(), redis.ConnectionError)
        await command.aclose()

    assert {each.reason for each in accepted(trail_of(scenario))} - {"redis.poll"} == set()


def test_a_look_for_what_is_there_to_read_is_no_timeout(trail_of: Any, port: int) -> None:
    """Redis 5 looks with a timeout of no length, later versions without any."""

    async def scenario() -> None:
        async with client(port) as command:
            for _ in range(3):
                await command.ping()

    assert {each.reason for each in accepted(trail_of(scenario))} <= {"redis.poll"}


def several(port: int) -> Any:
    """What makes a client of two databases, which are one here."""
    reason = "this redis-py has one database a client"
    config = pytest.importorskip("redis.asyncio.multidb.config", reason=reason)
    client = pytest.importorskip("redis.asyncio.multidb.client")
    databases = [
        config.DatabaseConfig(client_kwargs={"host": "127.0.0.1", "port": port}, weight=weight)
        for weight in (1.0, 0.5)
    ]
    return lambda: client.MultiDBClient(config.MultiDbConfig(databases_config=databases))


@pytest.mark.filterwarnings("ignore:MultiDBClient is an experimental:UserWarning")
def test_a_client_of_several_databases_ends_its_health_checks_where_it_is_closed(
    trail_of: Any, port: int
) -> None:
    make = several(port)

    async def scenario() -> None:
        command = make()
        await command.initialize()
        checks = command._recurring_hc_task
        checks.set_name("checks")
        await command.aclose()  # LINE closes
        await asyncio.wait([checks])

    answer = trail_of(scenario).why("checks")
    said = {"reason": "redis.closed", "at": "closes", "by_name": "host"}
    said |= acting(answer, "redis")
    assert links(answer) == [
        {"what": "cancelled", "name": "checks", **said},
        {"what": "called", **said},
    ]


def scheduler() -> Any:
    """What the blocking clients of redis-py 8 run their coroutines with."""
    reason = "this redis-py has no thread of its own"
    return pytest.importorskip("redis.background", reason=reason).BackgroundScheduler()


async def named_hang(begun: Any) -> None:
    name_task("in the background")
    begun.set()
    await asyncio.sleep(60)


def test_what_runs_too_long_in_the_thread_of_redis_meets_a_deadline() -> None:
    import threading

    begun = threading.Event()
    for seconds in (0.2, 2.0, 20.0):
        background = scheduler()
        with aioaudit.recording() as trail:
            with pytest.raises(TimeoutError):
                background.run_coro_sync(named_hang, begun, timeout=seconds)  # LINE waits
            end(background)
        if begun.is_set():
            break  # else a busy machine took all that time to begin the thread
    chain = links(trail.why("in the background"))
    assert chain[0]["name"] == "in the background"
    assert chain[-1] == {
        "what": "deadline",
        "reason": "timeout",
        "at": "waits",
        "seconds": about(seconds),
    }


def test_what_runs_in_the_thread_of_redis_ends_with_its_loop() -> None:
    import threading

    background = scheduler()
    begun = threading.Event()
    with aioaudit.recording() as trail:
        background.run_coro_fire_and_forget(named_hang, begun)
        assert begun.wait(PATIENCE)
        end(background)
        chain = links(trail.why("in the background"))
    said = {
        "reason": "redis.closed",
        "detail": "the loop of redis's background thread ends",
    }
    assert chain == [
        {"what": "cancelled", "name": "in the background", **said},
        {"what": "shutdown", **said},
    ]


def end(background: Any) -> None:
    """Stop the thread of *background*, and wait for its last words."""
    background.stop()
    background._health_check_thread.join(30)


async def moving(redis_port: int) -> Any:
    """In front of the real server: one that says, at the first ping, that it will move.

    Only Redis Enterprise says so, in a push message of the protocol's third version.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", redis_port)

        async def answer() -> None:
            while data := await inner_reader.read(65536):
                writer.write(data)

        answering = asyncio.create_task(answer())
        while data := await reader.read(65536):
            if b"MAINT_NOTIFICATIONS" in data:
                writer.write(b"+OK\r\n")
                continue
            if b"PING" in data:
                writer.write(b">4\r\n+MOVING\r\n:1\r\n:30\r\n$14\r\n127.0.0.1:6379\r\n")
            inner_writer.write(data)
        inner_writer.close()
        writer.close()
        await asyncio.wait([answering])

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def test_what_a_pool_had_planned_ends_where_it_is_closed(trail_of: Any, port: int) -> None:
    reason = "this redis-py hears of no maintenance"
    maintenance = pytest.importorskip("redis.maint_notifications", reason=reason)

    async def scenario() -> None:
        async with await moving(port) as server:
            there = server.sockets[0].getsockname()[1]
            wanted = maintenance.MaintNotificationsConfig(enabled=True)
            command = client(there, protocol=3, maint_notifications_config=wanted)
            assert await command.ping()
            handler = command.connection_pool._maint_notifications_pool_handler
            while not handler._scheduled_tasks:
                await command.ping()
                await asyncio.sleep(0.01)
            for task in handler._scheduled_tasks:
                task.set_name("planned")
            await command.aclose()  # LINE ends_plans

    answer = trail_of(scenario).why("planned")
    said = {"reason": "redis.closed", "at": "ends_plans", "by_name": "host"}
    said |= acting(answer, "redis")
    assert links(answer) == [
        {"what": "cancelled", "name": "planned", **said},
        {"what": "called", **said},
    ]
