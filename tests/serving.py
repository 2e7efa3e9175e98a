"""Applications behind real servers and real sockets, in the loop of a test, and their clients."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import aioaudit
from aioaudit.trail import Trail
from tests.loops import RUNS
from tests.recognising import ask
from tests.servers import free_port

Application = Any
Talk = Callable[[int], Awaitable[None]]
Record = Callable[[Application, Talk], Trail]


def free_socket() -> socket.socket:
    """A socket on a port of its own, which does not listen yet."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


@contextlib.asynccontextmanager
async def by_uvicorn(app: Application, **options: Any) -> AsyncIterator[int]:
    """*app* behind uvicorn, as long as the block runs."""
    uvicorn: Any = importlib.import_module("uvicorn")
    with free_socket() as listener:
        options = {"log_level": "critical", "lifespan": "off", "ws": "none", **options}
        config = uvicorn.Config(app, **options)
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="server")
        while not (server.started or serving.done()):  # noqa: ASYNC110 - nobody else tells
            await asyncio.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


@contextlib.asynccontextmanager
async def by_hypercorn(app: Application) -> AsyncIterator[int]:
    """The same behind hypercorn."""
    import hypercorn
    import hypercorn.asyncio

    port = free_port()
    config = hypercorn.Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    stop = asyncio.Event()
    serving = asyncio.create_task(
        hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait), name="server"
    )
    while not serving.done():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            break
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        stop.set()
        await asyncio.wait([serving])  # it ends with its lifespan, cancelled if that was


staying: list[asyncio.StreamWriter] = []
"""Clients that stay until their server has ended."""


def records() -> Any:
    """A fixture, to be named ``record``: it serves an application, and talks to it.

    What was recorded is given.
    """

    @pytest.fixture(params=RUNS)
    def record(request: pytest.FixtureRequest) -> Record:
        def run(app: Application, talk: Talk, server: Any = by_uvicorn, **options: Any) -> Trail:
            async def body() -> Trail:
                with aioaudit.recording() as trail:
                    async with server(app, **options) as port:
                        await talk(port)
                    _ = trail.events
                for writer in staying:
                    writer.transport.abort()
                staying.clear()
                await asyncio.sleep(0.01)
                return trail

            trail: Trail = request.param(body())
            return trail

        return run

    return record


async def begun(name: str) -> None:
    """Wait until a task is called *name*: the first thing that the applications of tests do."""
    while not any(task.get_name() == name for task in asyncio.all_tasks()):  # noqa: ASYNC110 - nobody else tells
        await asyncio.sleep(0.001)


async def ended(before: set[asyncio.Task[Any]]) -> None:
    """Wait until all tasks are over that were not there *before*.

    But for what sse-starlette has look for the end of the server, as long as that runs.
    """

    def living() -> list[asyncio.Task[Any]]:
        new = asyncio.all_tasks() - before
        return [task for task in new if "_shutdown_watcher" not in repr(task.get_coro())]

    while tasks := living():
        await asyncio.wait(tasks)


async def ask_and_leave(port: int) -> None:
    """Leave in the middle of a response."""
    before = asyncio.all_tasks()
    reader, writer = await ask(port)
    await reader.readuntil(b"begin")
    writer.close()
    await ended(before)


async def ask_and_read(port: int) -> None:
    """Read a response to its end."""
    reader, writer = await ask(port)
    await reader.readuntil(b"end")
    writer.close()
    await asyncio.sleep(0.05)
