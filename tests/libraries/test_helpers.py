"""Helpers that cancel: async_timeout, asgiref, aiojobs and websockets, as they are installed."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest

import aioaudit
from tests.recognising import about, acting, hang, links, name_task, trails

async_timeout = pytest.importorskip("async_timeout")
asgiref_sync = pytest.importorskip("asgiref.sync")
asgiref_timeout = pytest.importorskip("asgiref.timeout")
aiojobs = pytest.importorskip("aiojobs")
websockets_server = pytest.importorskip("websockets.asyncio.server")
websockets_client = pytest.importorskip("websockets.asyncio.client")


trail_of = trails()


def test_async_timeout_is_a_deadline_at_the_line_that_entered_it(trail_of: Any) -> None:
    async def scenario() -> None:
        async with async_timeout.timeout(0.05):  # LINE async_timeout
            await hang()

    [own, root] = links(trail_of(scenario).why("host"))
    assert own == {"what": "cancelled", "name": "host", "reason": "timeout", "at": "async_timeout"}
    root.pop("detail", None)
    assert root == {
        "what": "deadline",
        "reason": "timeout",
        "at": "async_timeout",
        "seconds": about(0.05),
    }


def test_asgirefs_timeout_is_a_deadline_of_its_length(trail_of: Any) -> None:
    async def scenario() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            limit = asgiref_timeout.timeout(0.05)
        async with limit:
            await hang()

    trail = trail_of(scenario)
    answer = trail.why("host")
    assert links(answer) == [
        {"what": "cancelled", "name": "host", "reason": "timeout"},
        {"what": "deadline", "reason": "timeout", "seconds": about(0.05)},
    ]
    assert answer is not None
    assert (answer.outcome, answer.cancel_outcome) == ("raised", "absorbed")


def test_what_runs_inside_sync_to_async_is_cancelled_because_its_caller_is(trail_of: Any) -> None:
    def inside() -> None:
        asgiref_sync.async_to_sync(named)()

    async def named() -> None:
        name_task("inside")
        begun.set()
        await hang()

    async def caller() -> None:
        await asgiref_sync.sync_to_async(inside)()

    async def scenario() -> None:
        task = asyncio.create_task(caller(), name="caller")
        await begun.wait()
        task.cancel()  # LINE caller
        await asyncio.wait([task])

    begun = asyncio.Event()
    trail = trail_of(scenario)
    chain = links(trail.why("inside"))
    said = {"reason": "explicit", "at": "caller", "by_name": "host"}
    assert chain[-2:] == [
        {"what": "cancelled", "name": "caller", **said},
        {"what": "called", **said},
    ]
    assert chain[0]["name"] == "inside"


def test_what_is_left_in_the_loop_of_async_to_sync_ends_with_that_loop() -> None:
    async def leaves() -> None:
        tasks.append(asyncio.create_task(hang(), name="left"))
        await asyncio.sleep(0)

    tasks: list[Any] = []
    with aioaudit.recording() as trail:
        asgiref_sync.async_to_sync(leaves)()
    chain = links(trail.why("left"))
    assert [(link["what"], link["reason"]) for link in chain] == [
        ("cancelled", "shutdown"),
        ("shutdown", "shutdown"),
    ]


def test_a_job_that_is_closed_names_the_line_that_closed_it(trail_of: Any) -> None:
    async def scenario() -> None:
        scheduler = aiojobs.Scheduler()
        job = await scheduler.spawn(hang(), name="job")
        await asyncio.sleep(0.01)
        await job.close()  # LINE job
        await scheduler.close()

    answer = trail_of(scenario).why("job")
    said = {"reason": "aiojobs.closed", "at": "job", "by_name": "host"}
    said |= acting(answer, "aiojobs")
    assert links(answer) == [
        {"what": "cancelled", "name": "job", **said},
        {"what": "called", **said},
    ]


def test_a_job_that_its_scheduler_closes_is_told_as_closed(trail_of: Any) -> None:
    async def scenario() -> None:
        scheduler = aiojobs.Scheduler()
        await scheduler.spawn(hang(), name="job")
        await asyncio.sleep(0.01)
        await scheduler.close()

    chain = links(trail_of(scenario).why("job"))
    assert [(link["what"], link["reason"]) for link in chain] == [
        ("cancelled", "aiojobs.closed"),
        ("called", "aiojobs.closed"),
    ]
    assert chain[-1]["at"] == "aiojobs/_job.py"


def test_what_keeps_a_websocket_alive_ends_with_its_connection(trail_of: Any) -> None:
    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def scenario() -> None:
        async with websockets_server.serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with websockets_client.connect(f"ws://127.0.0.1:{port}") as connection:
                await connection.send("hello")
                assert await connection.recv() == "hello"
                connection.keepalive_task.set_name("keepalive")

    chain = links(trail_of(scenario).why("keepalive"))
    assert chain == [
        {
            "what": "cancelled",
            "name": "keepalive",
            "reason": "websockets.closed",
            "at": chain[0]["at"],
        },
        {"what": "called", "reason": "websockets.closed", "at": chain[0]["at"]},
    ]
    assert chain[0]["at"] == "websockets/asyncio/connection.py"
