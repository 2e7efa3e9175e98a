"""Healthy programs of popular libraries, of which the list of all tasks says that nothing happened.

And what does happen among so much housekeeping stands alone in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from aioaudit.log import load
from tests.conftest import Runner
from tests.referee import DELIVERIES_ARE_SEEN
from tests.servers import postgres_server, redis_server

AIOHTTP = """\
import asyncio

import aiohttp
from aiohttp import web


async def hello(request):
    if "late" in request.query:
        asyncio.current_task().set_name("late")
        late.set()
        await asyncio.sleep(60)  # LINE late
    return web.Response(text="hi")


async def main(mishap):
    global late
    late = asyncio.Event()
    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    for _ in range(10):
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert await response.text() == "hi"
    if mishap:
        host, port = runner.addresses[0][:2]
        _, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /?late HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        await late.wait()
        writer.close()
        await writer.wait_closed()
    while any("RequestHandler" in str(each) for each in asyncio.all_tasks()):
        await asyncio.sleep(0.01)
    await runner.cleanup()


"""

STARLETTE = """\
import asyncio

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route


async def plain(request):
    assert not await request.is_disconnected()
    if "late" in request.query_params:
        try:
            async with asyncio.timeout(0.01), asyncio.TaskGroup() as group:  # LINE late
                group.create_task(asyncio.Event().wait(), name="late")
                group.create_task(work(), name="work")
        except TimeoutError:
            pass
    return PlainTextResponse("ok")


async def work():
    await asyncio.sleep(60)


async def pieces():
    for _ in range(3):
        yield b"x"
        await asyncio.sleep(0)


async def streamed(request):
    return StreamingResponse(pieces())


async def passes(request, go_on):
    return await go_on(request)


app = Starlette(routes=[Route("/", plain), Route("/streamed", streamed)])
app.add_middleware(BaseHTTPMiddleware, dispatch=passes)


async def main(mishap):
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://localhost:{port}/"
    for _ in range(5):
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            assert (await client.get(url)).text == "ok"
            assert (await client.get(url + "streamed")).text == "xxx"
    if mishap:
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            await client.get(url + "?late")
    server.should_exit = True
    await serving


"""

WEBSOCKETS = """\
import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main(mishap):
    async with serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for _ in range(5):
            async with connect(f"ws://127.0.0.1:{port}", proxy=None) as socket:
                await socket.send("a")
                assert await socket.recv() == "a"
        if mishap:
            late = asyncio.create_task(echo(Silent()), name="late")
            await asyncio.sleep(0.01)
            late.cancel()  # LINE late
            await asyncio.wait([late])


class Silent:
    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(60)


"""

QUART = """\
import asyncio

import httpx
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart

app = Quart("app")


@app.get("/")
async def index():
    return "ok"


async def main(mishap):
    ended = asyncio.Event()
    config = Config()
    config.bind = ["unix:socket"]
    config.errorlog = None
    serving = asyncio.create_task(serve(app, config, shutdown_trigger=ended.wait))
    transport = httpx.AsyncHTTPTransport(uds="socket")
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=None) as client:
        for _ in range(5):
            while True:
                try:
                    assert (await client.get("http://x/")).text == "ok"
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.01)
    if mishap:
        late = asyncio.create_task(asyncio.sleep(60), name="late")
        await asyncio.sleep(0)
        late.cancel()  # LINE late
        await asyncio.wait([late])
    ended.set()
    await serving


"""

POLLERS = """\
import asyncio

import anyio


async def listens(queue):
    for _ in range(5):
        try:
            async with asyncio.timeout(0.001):
                await queue.get()
        except TimeoutError:
            pass


async def looks(queue):
    for _ in range(5):
        with anyio.move_on_after(0.001):
            await queue.get()


async def ticks():
    while True:
        await asyncio.sleep(0.001)


async def main(mishap):
    queue = asyncio.Queue()
    await asyncio.gather(listens(queue), looks(queue))
    global ticker
    ticker = asyncio.create_task(ticks(), name="ticker")
    if mishap:
        late = asyncio.create_task(ticks(), name="late")
        await asyncio.sleep(0.01)
        late.cancel()  # LINE late
        await asyncio.wait([late])
    await asyncio.sleep(0.01)


"""

FASTAPI = """\
import asyncio
import contextlib

import fastapi
import httpx
import uvicorn
from websockets.asyncio.client import connect


async def refreshes(app):
    while True:
        app.state.prices = await fetched()


async def fetched():
    await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def lifespan(app):
    refreshing = asyncio.create_task(refreshes(app))
    yield
    refreshing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await refreshing


app = fastapi.FastAPI(lifespan=lifespan)


@app.middleware("http")
async def passes(request, go_on):
    return await go_on(request)


@app.get("/")
async def index(later: fastapi.BackgroundTasks):
    later.add_task(asyncio.sleep, 0)
    return "ok"


@app.websocket("/socket")
async def socket(peer: fastapi.WebSocket):
    await peer.accept()
    async for text in peer.iter_text():
        await peer.send_text(text)


async def main(mishap):
    config = uvicorn.Config(app, port=0, log_level="critical")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        for _ in range(5):
            assert (await client.get(f"http://{host}:{port}/")).json() == "ok"
    async with connect(f"ws://{host}:{port}/socket", proxy=None) as peer:
        await peer.send("a")
        assert await peer.recv() == "a"
    if mishap:
        late = asyncio.create_task(refreshes(app), name="late")
        try:
            await asyncio.wait([late], timeout=0.01)
        finally:
            late.cancel()  # LINE late
            await asyncio.wait([late])
    server.should_exit = True
    await serving


"""

SANIC = """\
import asyncio

import httpx
from sanic import Sanic, response

app = Sanic("app", configure_logging=False)


@app.get("/")
async def index(request):
    return response.text("ok")


async def main(mishap):
    server = await app.create_server(
        host="127.0.0.1", port=0, return_asyncio_server=True, access_log=False
    )
    await server.startup()
    await server.after_start()
    port = server.server.sockets[0].getsockname()[1]
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        for _ in range(5):
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "ok"
    await server.before_stop()
    await server.close()
    await server.after_stop()


"""

REDIS = """\
import asyncio
import os

import redis.asyncio as redis

PORT = int(os.environ["SERVER"])


async def reads(channel):
    async for message in channel.listen():
        if message["type"] == "message":
            return message["data"]


async def main(mishap):
    async with redis.Redis(port=PORT) as client:
        await asyncio.gather(*(client.set(f"k{number}", number) for number in range(10)))
        async with client.pipeline() as pipe:
            assert await pipe.get("k1").get("k2").execute() == [b"1", b"2"]
        async with client.pubsub() as channel:
            await channel.subscribe("news")
            reading = asyncio.create_task(reads(channel))
            while not await client.publish("news", "x"):
                await asyncio.sleep(0.01)
            assert await reading == b"x"
            for _ in range(3):
                assert await channel.get_message(timeout=0.001) is None


"""

ASYNCPG = """\
import asyncio
import os

import asyncpg


async def main(mishap):
    async with asyncpg.create_pool(os.environ["SERVER"], min_size=2, max_size=3) as pool:

        async def asks(number):
            async with pool.acquire() as connection, connection.transaction():
                return await connection.fetchval("select $1::int", number)

        assert sum(await asyncio.gather(*map(asks, range(10)))) == 45
        async with pool.acquire() as connection:
            try:
                async with asyncio.timeout(0.01):
                    await connection.fetch("select pg_sleep(60)")
            except TimeoutError:
                pass


"""

SERVICE = """\
import asyncio


class Client:
    \"\"\"Reads answers beside its calls, and ends that itself.\"\"\"

    async def __aenter__(self):
        self._calls = asyncio.Queue()
        self._reading = asyncio.create_task(self._reads(), name="reading")
        return self

    async def __aexit__(self, *exc_info):
        await self.close()

    async def close(self):
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _reads(self):
        while True:
            number, answer = await self._calls.get()
            answer.set_result(number)

    async def call(self, number):
        answer = asyncio.get_running_loop().create_future()
        await self._calls.put((number, answer))
        return await answer


async def works(queue):
    while True:
        client, number = await queue.get()
        assert await client.call(number) == number
        queue.task_done()


async def job(client):
    beating = asyncio.create_task(beats(), name="beating")
    try:
        return await client.call(7)
    finally:
        beating.cancel()
        await asyncio.wait([beating])


async def beats():
    while True:
        await asyncio.sleep(0.001)


async def main(mishap):
    queue = asyncio.Queue()
    workers = [asyncio.create_task(works(queue)) for _ in range(3)]
    try:
        async with Client() as client:
            for number in range(10):
                queue.put_nowait((client, number))
            await queue.join()
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(job(client))
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if mishap:
        await asyncio.wait([asyncio.create_task(fails())])


async def fails():
    late = asyncio.create_task(beats(), name="late")
    try:
        await asyncio.sleep(0)
        raise OSError
    except OSError:
        late.cancel()  # LINE late
        await asyncio.wait([late])


"""

PROGRAMS = {
    "aiohttp": (AIOHTTP, ["aiohttp"], "a peer went away"),
    "starlette": (STARLETTE, ["starlette", "uvicorn", "httpx"], "the timeout of 0.01 s at LATE"),
    "websockets": (WEBSOCKETS, ["websockets"], "called cancel() at LATE"),
    "quart": (QUART, ["quart", "hypercorn", "httpx"], "called cancel() at LATE"),
    "pollers": (POLLERS, ["anyio"], "called cancel() at LATE"),
    "fastapi": (FASTAPI, ["fastapi", "uvicorn", "websockets"], "called cancel() at LATE"),
    "sanic": (SANIC, ["sanic", "httpx"], ""),
    "redis": (REDIS, ["redis"], ""),
    "asyncpg": (ASYNCPG, ["asyncpg"], ""),
    "service": (SERVICE, [], "called cancel() at LATE"),
}
"""Each with what it needs, and what its mishap is told as."""

PLAIN = {"sanic", "redis", "asyncpg"}
"""Those that have no mishap of their own: it would be that of another one."""

SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "redis": redis_server,
    "asyncpg": postgres_server,
}
"""What must run beside it; the program finds it in *SERVER*."""

SURE = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "aiohttp" and not DELIVERIES_ARE_SEEN,
            reason="before 3.12 it is concluded that a connection ended by what it was asked, so it is listed",
        ),
    )
    for name in PROGRAMS
]

Listed = Callable[[str, bool], list[str]]


@pytest.fixture
def listed(run_python: Runner, tmp_path: Path) -> Listed:
    """What ``aioaudit why`` lists of a program, run with or without its mishap."""

    def ask(name: str, mishap: bool) -> list[str]:
        program, needed, _ = PROGRAMS[name]
        for each in needed:
            pytest.importorskip(each)
        (tmp_path / "app.py").write_text(f"{program}asyncio.run(main({mishap}))\n")
        with SERVERS.get(name, contextlib.nullcontext)() as server:
            environ = {"AIOAUDIT": "jsonl", "AIOAUDIT_JSONL_PATH": "log.jsonl"}
            done = run_python("app.py", **environ, SERVER=str(server))
        assert (done.returncode, done.stderr) == (0, "")
        told = run_python("-m", "aioaudit", "why", "log.jsonl")
        assert (told.returncode, told.stderr) == (0, "")
        runs = load(tmp_path / "log.jsonl").runs.values()
        assert [each for run in runs for each in run.findings if each.severity == "finding"] == []
        return told.stdout.splitlines()

    return ask


@pytest.mark.parametrize("name", SURE)
def test_of_a_healthy_program_the_list_says_that_nothing_happened(
    listed: Listed, name: str
) -> None:
    lines = listed(name, False)
    assert lines[0] == "Nothing happened: no task was cancelled but for housekeeping"
    assert lines[2].startswith("Housekeeping: ")
    assert "TASKS" not in "".join(lines)


@pytest.mark.parametrize("name", [each for each in SURE if each.values[0] not in PLAIN])
def test_the_one_incident_among_housekeeping_is_the_one_row(listed: Listed, name: str) -> None:
    program, _, said = PROGRAMS[name]
    [late] = [
        number
        for number, text in enumerate(program.splitlines(), 1)
        if text.endswith("# LINE late")
    ]
    lines = listed(name, True)
    assert ", 1 root cause" in lines[0]
    assert lines[2].startswith("TASKS")
    assert said.replace("LATE", f"app.py:{late}") in lines[3]
    assert (lines[4], lines[5].partition(":")[0]) == ("", "Housekeeping")
