"""Connections that a cancellation closes: one line each, and none for all the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import aioaudit
from aioaudit.cpython.transports import CLOSERS, transport_classes, transport_classes_of
from aioaudit.events import ConnectionClose, Event, TaskCancel
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.probes.connections import SOON
from aioaudit.trail import Trail
from tests.loops import every_loop

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


@contextlib.asynccontextmanager
async def listening(ca: Any = None) -> AsyncIterator[tuple[Connect, str]]:
    """A server that says nothing; how to connect to it, and its address.  With TLS given a *ca*."""
    there = here = None
    if ca is not None:
        there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost").configure_cert(there)
        here = ssl.create_default_context()
        ca.configure_trust(here)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=there)
    port = server.sockets[0].getsockname()[1]

    def connect() -> Awaitable[Streams]:
        name = None if here is None else "localhost"
        return asyncio.open_connection("127.0.0.1", port, ssl=here, server_hostname=name)

    try:
        yield connect, f"127.0.0.1:{port}"
    finally:
        server.close()
        await asyncio.sleep(0.01)


async def closed_by_a_timeout(connect: Connect) -> str:
    _, writer = await connect()
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    except TimeoutError:
        writer.close()
    return address_of(writer)


async def closed_by_a_wait_for(connect: Connect) -> str:
    reader, writer = await connect()
    try:
        await asyncio.wait_for(reader.read(), 0.01)
    except TimeoutError as error:
        try:
            raise OSError("no answer") from error
        except OSError:
            writer.close()
    return address_of(writer)


async def aborted_while_cancelled(connect: Connect) -> str:
    _, writer = await connect()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            writer.transport.abort()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return address_of(writer)


async def closed_and_aborted(connect: Connect) -> str:
    """As anyio does it."""
    _, writer = await connect()
    try:
        async with asyncio.timeout(0.01):
            try:
                await asyncio.sleep(60)
            finally:
                writer.close()
                writer.transport.abort()
    except TimeoutError:
        pass
    return address_of(writer)


def address_of(writer: asyncio.StreamWriter) -> str:
    host, port = writer.get_extra_info("sockname") or opened[writer]
    return f"{host}:{port}"


opened: dict[asyncio.StreamWriter, Any] = {}
"""The addresses of connections with TLS, which tells them no more when it is closed."""


def remembering(connect: Connect) -> Connect:
    async def remember() -> Streams:
        reader, writer = await connect()
        opened[writer] = writer.get_extra_info("sockname")
        return reader, writer

    return remember


WAYS = (closed_by_a_timeout, closed_by_a_wait_for, aborted_while_cancelled, closed_and_aborted)


@every_loop
@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_a_cancellation_closes_is_told_with_the_request(
    run: Any, way: Any
) -> None:
    async def main() -> tuple[Trail, str, str]:
        async with listening() as (connect, peer):
            with aioaudit.recording() as trail:
                local = await asyncio.create_task(way(remembering(connect)), name="client")
            return trail, local, peer

    trail, local, peer = run(main())
    [line] = closes(trail.events)
    assert (line.local, line.peer) == (local, peer)
    [request] = [
        each for each in trail.events if isinstance(each, TaskCancel) and each.seq == line.cancel
    ]
    assert request.ts <= line.ts
    if way is not closed_by_a_wait_for or sys.version_info >= (3, 12):  # before, that has its own
        assert request.task == line.task
    assert line.at is not None
    assert __file__ in line.at
    assert line.evidence is None


@every_loop
def test_so_is_one_with_tls_by_the_addresses_below_it(run: Any) -> None:
    trustme = pytest.importorskip("trustme")

    async def main() -> tuple[Trail, list[str], str]:
        async with listening(trustme.CA()) as (connect, peer):
            with aioaudit.recording() as trail:
                tasks = [asyncio.create_task(way(remembering(connect))) for way in WAYS]
                local = [await task for task in tasks]
            return trail, local, peer

    trail, local, peer = run(main())
    opened.clear()
    lines = closes(trail.events)
    assert sorted((line.local, line.peer) for line in lines) == sorted(
        (each, peer) for each in local
    )


@every_loop
def test_what_else_closes_a_connection_is_not_told(run: Any) -> None:
    async def ended(connect: Connect) -> None:
        _, writer = await connect()
        writer.close()

    async def failed(connect: Connect) -> None:
        _, writer = await connect()
        try:
            raise ValueError("bad answer")
        except ValueError:
            writer.close()

    async def beside(connect: Connect) -> None:
        """The loop closes it, and no task."""
        _, writer = await connect()
        asyncio.get_running_loop().call_soon(writer.close)
        await asyncio.sleep(0)

    async def raised(connect: Connect) -> None:
        _, writer = await connect()
        try:
            raise asyncio.CancelledError("by hand")
        except asyncio.CancelledError:
            writer.close()

    async def after(connect: Connect) -> None:
        _, writer = await connect()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        writer.close()

    async def main() -> Trail:
        async with listening() as (connect, _):
            with aioaudit.recording() as trail:
                for way in (ended, failed, beside, raised, after):
                    await asyncio.create_task(way(connect), name=way.__name__)
            return trail

    assert closes(run(main()).events) == []


def test_a_cancellation_that_is_long_over_closes_nothing() -> None:
    """Who caught a TimeoutError may go on in that very handler."""

    async def over(connect: Connect) -> None:
        _, writer = await connect()
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        except TimeoutError:
            await asyncio.sleep(SOON / 1e9)
            writer.close()

    async def dying(connect: Connect) -> None:
        _, writer = await connect()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                try:
                    await asyncio.sleep(60)
                finally:
                    await asyncio.sleep(SOON / 1e9)
                    writer.close()

    async def main() -> Trail:
        async with listening() as (connect, _):
            with aioaudit.recording() as trail:
                async with asyncio.TaskGroup() as group:
                    for way in (over, dying):
                        group.create_task(way(connect), name=way.__name__)
            return trail

    assert [each.name for each in closes(asyncio.run(main()).events)] == ["dying"]


def test_the_error_of_whoever_runs_the_loop_is_none_of_the_tasks() -> None:
    async def cancelled() -> None:
        asyncio.get_running_loop().call_soon(current().cancel)
        await asyncio.sleep(60)

    async def client() -> None:
        async with listening() as (connect, _):
            _, writer = await connect()
            writer.close()

    with aioaudit.recording() as trail:
        try:
            asyncio.run(cancelled())
        except asyncio.CancelledError:
            asyncio.run(client())
    assert closes(trail.events) == []


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no such sockets here")
def test_a_connection_without_addresses_is_not_told(tmp_path: Any) -> None:
    path = str(tmp_path / "s")

    async def main() -> Trail:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(asyncio.Protocol, path)
        with aioaudit.recording() as trail:
            await closed_and_left(lambda: asyncio.open_unix_connection(path))
        server.close()
        await asyncio.sleep(0.01)
        return trail

    async def closed_and_left(connect: Connect) -> None:
        _, writer = await connect()
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            writer.close()

    assert closes(asyncio.run(main()).events) == []


@every_loop
def test_nothing_stands_in_the_way_where_nobody_asks(run: Any) -> None:
    async def main() -> None:
        classes = [*transport_classes(), *transport_classes_of(type(asyncio.get_running_loop()))]
        assert len(classes) >= (2 if sys.platform != "win32" else 1)
        before = [vars(cls)[name] for cls in classes for name in CLOSERS]

        def now() -> list[Any]:
            return [vars(cls)[name] for cls in classes for name in CLOSERS]

        with aioaudit.enable(MemoryExporter(), events="task.*"):
            assert now() == before
        with aioaudit.recording():
            for cls, name, was in zip(
                [cls for cls in classes for _ in CLOSERS],
                CLOSERS * len(classes),
                before,
                strict=True,
            ):
                probe = vars(cls)[name]
                assert probe is not was
                assert (probe.__name__, probe.__qualname__) == (was.__name__, was.__qualname__)
                assert probe.__doc__ == was.__doc__
        assert now() == before

    run(main())


def closes(events: list[Event]) -> list[ConnectionClose]:
    return [each for each in events if isinstance(each, ConnectionClose)]
