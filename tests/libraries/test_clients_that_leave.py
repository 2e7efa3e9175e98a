"""Clients of websockets, redis and asyncpg whose task is cancelled, and servers of ours that lose them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.events import ConnectionClose, TaskCancel
from aioaudit.identity import network
from aioaudit.trail import Trail
from tests.loops import every_loop
from tests.recognising import hang
from tests.serving import by_hypercorn, by_uvicorn
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(network() is None, reason="the system does not tell its networks")

Client = Callable[[int, asyncio.Event], Awaitable[None]]
"""Talks to a port, and says when it has only to wait for what the server sends."""


class Service:
    """What a server does for its one client: the task ``work`` is to be cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.over = asyncio.Event()

    async def beside(self, reading: Awaitable[Any]) -> None:
        """Work beside *reading*, in a group that ends with it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.work(), name="work")
                await reading
        finally:
            self.over.set()

    async def work(self) -> None:
        self.begun.set()
        await hang()


async def leaves(service: Service, client: Client, port: int) -> None:
    """*client* runs until the time is up, and the server has heard of it."""

    waits = asyncio.Event()

    async def both() -> None:
        await service.begun.wait()
        await waits.wait()

    async def limited() -> None:
        inner = asyncio.ensure_future(client(port, waits))
        await asyncio.wait(
            [inner, asyncio.ensure_future(both())], return_when=asyncio.FIRST_COMPLETED
        )
        async with asyncio.timeout(0.01):
            await inner

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.create_task(limited(), name="client"), PATIENCE)
    await asyncio.wait_for(service.over.wait(), PATIENCE)


Serving = Callable[[Service], contextlib.AbstractAsyncContextManager[int]]


def joined(run: Any, log: Path, serving: Serving, client: Client) -> aioaudit.Answer:
    """Why the work of *serving* was cancelled, when its *client* was."""

    async def main() -> None:
        service = Service()
        async with serving(service) as port:
            await leaves(service, client, port)

    with aioaudit.enable("jsonl", jsonl_path=log):
        run(main())
    [answer] = aioaudit.load(log).why("work")
    return answer


def assert_the_client_left(answer: aioaudit.Answer) -> None:
    assert (answer.root.what, answer.root.seconds) == ("deadline", 0.01)
    assert "was cancelled, probably because its " in answer.summary
    assert " left: " in answer.summary


# -- websockets ------------------------------------------------------------------------------


async def by_websockets_client(port: int, waits: asyncio.Event) -> None:
    """Leaves with a handshake, which is what the end of the block waits for."""
    client: Any = pytest.importorskip("websockets.asyncio.client")
    async with client.connect(f"ws://127.0.0.1:{port}/") as websocket:
        waits.set()
        await websocket.recv()


async def by_aiohttps_client(port: int, waits: asyncio.Event) -> None:
    aiohttp: Any = pytest.importorskip("aiohttp")
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"ws://127.0.0.1:{port}/") as websocket,
    ):
        waits.set()
        await websocket.receive()


@contextlib.asynccontextmanager
async def websockets_server(service: Service) -> AsyncIterator[int]:
    server: Any = pytest.importorskip("websockets.asyncio.server")

    async def handler(websocket: Any) -> None:
        with contextlib.suppress(ExceptionGroup):
            await service.beside(websocket.recv())

    async with server.serve(handler, "127.0.0.1", 0) as listening:
        yield next(iter(listening.sockets)).getsockname()[1]


def starlette_server(
    service: Service, ws: str = "wsproto"
) -> contextlib.AbstractAsyncContextManager[int]:
    applications: Any = pytest.importorskip("starlette.applications")
    routing: Any = pytest.importorskip("starlette.routing")
    pytest.importorskip(f"uvicorn.protocols.websockets.{ws.replace('-', '_')}_impl")

    async def endpoint(websocket: Any) -> None:
        await websocket.accept()
        with contextlib.suppress(ExceptionGroup):
            await service.beside(websocket.receive_text())

    app = applications.Starlette(routes=[routing.WebSocketRoute("/", endpoint)])
    return by_uvicorn(app, ws=ws)


def starlette_server_since_uvicorn_0_35(
    service: Service,
) -> contextlib.AbstractAsyncContextManager[int]:
    return starlette_server(service, "websockets-sansio")


def quart_server(service: Service) -> contextlib.AbstractAsyncContextManager[int]:
    quart: Any = pytest.importorskip("quart")
    pytest.importorskip("hypercorn")
    app = quart.Quart(__name__)

    @app.websocket("/")  # type: ignore[untyped-decorator, unused-ignore]  # not typed where it is not installed
    async def endpoint() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("work")
        await quart.websocket.accept()
        try:
            await service.work()
        finally:
            service.over.set()

    return by_hypercorn(app)


@every_loop
@pytest.mark.parametrize("client", [by_websockets_client, by_aiohttps_client])
@pytest.mark.parametrize(
    "serving",
    [
        *(websockets_server, starlette_server),
        *(starlette_server_since_uvicorn_0_35, quart_server),
    ],
)
def test_a_websocket_whose_client_is_cancelled_leads_to_what_cancelled_it(
    run: Any, tmp_path: Path, serving: Any, client: Any
) -> None:
    assert_the_client_left(joined(run, tmp_path / "log.jsonl", serving, client))


@every_loop
def test_the_handshake_is_told_where_it_begins_and_once(run: Any) -> None:
    async def main() -> Trail:
        service = Service()
        with aioaudit.recording() as trail:
            async with websockets_server(service) as port:
                await leaves(service, by_websockets_client, port)
        return trail

    trail = run(main())
    [close] = [each for each in trail.events if isinstance(each, ConnectionClose)]
    [request] = [
        each for each in trail.events if isinstance(each, TaskCancel) and each.name == "work"
    ]
    assert (close.local, close.peer) == (request.peer, request.local)
    assert close.at is not None
    assert __file__ in close.at
    assert close.seq < request.seq


@every_loop
def test_a_handshake_that_no_cancellation_begins_is_not_told(run: Any) -> None:
    client: Any = pytest.importorskip("websockets.asyncio.client")

    async def main() -> Trail:
        service = Service()
        with aioaudit.recording() as trail:
            async with (
                websockets_server(service) as port,
                client.connect(f"ws://127.0.0.1:{port}/") as websocket,
            ):
                await service.begun.wait()
                await websocket.close()
                with contextlib.suppress(ValueError):
                    async with client.connect(f"ws://127.0.0.1:{port}/"):
                        raise ValueError("not of a cancellation")
            await service.over.wait()
        return trail

    assert [each for each in run(main()).events if isinstance(each, ConnectionClose)] == []


def _own(trail: Trail) -> set[tuple[Any, Any]]:
    return {
        (each.local, each.peer)
        for each in trail.events
        if isinstance(each, TaskCancel) and each.name == "work"
    }


@every_loop
@pytest.mark.parametrize("serving", ["websockets", "starlette"])
def test_a_server_that_closes_first_has_lost_nobody(run: Any, serving: str) -> None:
    """Its reader hears of that by the same error."""

    class Closing(Service):
        websocket: Any

        async def work(self) -> None:
            closing.add(asyncio.create_task(self.websocket.close()))
            await super().work()

    closing: set[asyncio.Task[Any]] = set()
    client: Any = pytest.importorskip("websockets.asyncio.client")
    server: Any = pytest.importorskip("websockets.asyncio.server")
    exceptions: Any = pytest.importorskip("websockets.exceptions")
    applications: Any = pytest.importorskip("starlette.applications")
    routing: Any = pytest.importorskip("starlette.routing")
    pytest.importorskip("wsproto")

    async def main() -> Trail:
        service = Closing()

        async def handler(websocket: Any) -> None:
            service.websocket = websocket
            with contextlib.suppress(ExceptionGroup):
                await service.beside(websocket.recv())

        async def endpoint(websocket: Any) -> None:
            service.websocket = websocket
            await websocket.accept()
            with contextlib.suppress(ExceptionGroup):
                await service.beside(websocket.receive_text())

        async def talk(port: int) -> None:
            async with client.connect(f"ws://127.0.0.1:{port}/") as websocket:
                with pytest.raises(exceptions.ConnectionClosed):
                    await websocket.recv()
            await asyncio.wait_for(service.over.wait(), PATIENCE)

        with aioaudit.recording() as trail:
            if serving == "websockets":
                async with server.serve(handler, "127.0.0.1", 0) as listening:
                    await talk(next(iter(listening.sockets)).getsockname()[1])
            else:
                app = applications.Starlette(routes=[routing.WebSocketRoute("/", endpoint)])
                async with by_uvicorn(app, ws="wsproto") as port:
                    await talk(port)
        return trail

    assert _own(run(main())) == {(None, None)}


@every_loop
def test_a_server_that_says_goodbye_has_lost_nobody_though_the_peer_resets_it(run: Any) -> None:
    client: Any = pytest.importorskip("websockets.asyncio.client")
    server: Any = pytest.importorskip("websockets.asyncio.server")

    async def main() -> Trail:
        service = Service()

        async def handler(websocket: Any) -> None:
            closing = asyncio.create_task(websocket.close())
            with contextlib.suppress(ExceptionGroup):
                await service.beside(websocket.recv())
            await closing

        with aioaudit.recording() as trail:
            async with server.serve(handler, "127.0.0.1", 0) as listening:
                port = next(iter(listening.sockets)).getsockname()[1]
                left = await client.connect(f"ws://127.0.0.1:{port}/")
                left.transport.pause_reading()
                end = left.transport.get_extra_info("socket")
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await service.begun.wait()
                left.transport.abort()
                await asyncio.wait_for(service.over.wait(), PATIENCE)
        return trail

    assert _own(run(main())) == {(None, None)}


@every_loop
def test_of_two_websockets_the_one_that_is_lost_is_told(run: Any) -> None:
    """What the one sends comes by the other, whose peer closes it."""
    client: Any = pytest.importorskip("websockets.asyncio.client")
    server: Any = pytest.importorskip("websockets.asyncio.server")

    async def main() -> tuple[Trail, Any]:
        service = Service()
        names: list[Any] = []

        async def upstream(websocket: Any) -> None:
            await websocket.send("piece")

        async def proxy(websocket: Any) -> None:
            other = await client.connect(f"ws://127.0.0.1:{port_of(listening)}/")
            names.extend(other.transport.get_extra_info(each) for each in ("sockname", "peername"))

            async def pieces() -> AsyncIterator[Any]:
                while True:
                    yield await other.recv()

            with contextlib.suppress(ExceptionGroup):
                await service.beside(websocket.send(pieces()))

        def port_of(listening: Any) -> Any:
            return next(iter(listening.sockets)).getsockname()[1]

        with aioaudit.recording() as trail:
            async with (
                server.serve(upstream, "127.0.0.1", 0) as listening,
                server.serve(proxy, "127.0.0.1", 0) as before,
                client.connect(f"ws://127.0.0.1:{port_of(before)}/"),
            ):
                await asyncio.wait_for(service.over.wait(), PATIENCE)
        return trail, {tuple(f"{host}:{port}" for host, port in names)}

    trail, expected = run(main())
    assert _own(trail) == expected


# -- redis and asyncpg, with servers that know as much of the protocol as these clients need ----


async def talk_redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer commands until one comes that blocks."""
    while True:
        count = int((await reader.readline())[1:])
        words = []
        for _ in range(count):
            length = int((await reader.readline())[1:])
            words.append((await reader.readexactly(length + 2))[:-2])
        if words[0] == b"BLPOP":
            return
        writer.write(b"+OK\r\n")


async def talk_postgres(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let anybody in, and come back when there is a query."""

    def send(kind: bytes, body: bytes) -> None:
        writer.write(kind + struct.pack("!i", len(body) + 4) + body)

    async def receive() -> bytes:
        (length,) = struct.unpack("!i", await reader.readexactly(4))
        return await reader.readexactly(length - 4)

    await receive()
    send(b"R", struct.pack("!i", 0))
    for setting in (b"server_version\x0015.0", b"client_encoding\x00UTF8"):
        send(b"S", setting + b"\x00")
    send(b"K", struct.pack("!ii", 1, 2))
    send(b"Z", b"I")
    while await reader.readexactly(1) != b"Q":
        await receive()
    await receive()


async def by_redis(port: int, waits: asyncio.Event) -> None:
    redis: Any = pytest.importorskip("redis.asyncio")
    async with redis.Redis(host="127.0.0.1", port=port, protocol=2) as client:
        waits.set()  # once the server has the command
        await client.blpop("never")


async def by_asyncpg(port: int, waits: asyncio.Event) -> None:
    asyncpg: Any = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(
        host="127.0.0.1", port=port, user="x", database="x", password="x", ssl=False
    )
    try:
        waits.set()  # once the server has the query
        await connection.execute("select pg_sleep(60)")
    finally:
        connection.terminate()


def by_streams(talk: Any) -> Serving:
    @contextlib.asynccontextmanager
    async def serving(service: Service) -> AsyncIterator[int]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await talk(reader, writer)
            with contextlib.suppress(ExceptionGroup):
                await service.beside(reader.readexactly(1000))
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as listening:
            yield listening.sockets[0].getsockname()[1]

    return serving


def by_protocol(talk: Any) -> Serving:
    @contextlib.asynccontextmanager
    async def serving(service: Service) -> AsyncIterator[int]:
        class Connection(asyncio.StreamReaderProtocol):
            def __init__(self) -> None:
                self.reader = asyncio.StreamReader()
                super().__init__(self.reader)

            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                loop = asyncio.get_running_loop()
                writer = asyncio.StreamWriter(transport, self, self.reader, loop)
                self.task = asyncio.create_task(self.serve(writer), name="work")

            async def serve(self, writer: asyncio.StreamWriter) -> None:
                await talk(self.reader, writer)
                try:
                    await service.work()
                finally:
                    service.over.set()

            def eof_received(self) -> bool:
                return False

            def connection_lost(self, error: Exception | None) -> None:
                self.task.cancel()
                super().connection_lost(error)

        loop = asyncio.get_running_loop()
        async with await loop.create_server(Connection, "127.0.0.1", 0) as listening:
            yield listening.sockets[0].getsockname()[1]

    return serving


@pytest.mark.parametrize("serving", [by_streams, by_protocol])
@pytest.mark.parametrize(("client", "talk"), [(by_redis, talk_redis), (by_asyncpg, talk_postgres)])
def test_a_command_whose_client_is_cancelled_leads_to_what_cancelled_it(
    tmp_path: Path, serving: Any, client: Any, talk: Any
) -> None:
    log = tmp_path / "log.jsonl"
    assert_the_client_left(joined(asyncio.run, log, serving(talk), client))
