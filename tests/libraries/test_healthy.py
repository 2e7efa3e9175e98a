"""Healthy programs of popular libraries, of which the list of all tasks says that nothing happened.

And what does happen among so much housekeeping stands alone in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.referee import DELIVERIES_ARE_SEEN

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

PROGRAMS = {
    "aiohttp": (AIOHTTP, ["aiohttp"], "a peer went away"),
    "starlette": (STARLETTE, ["starlette", "uvicorn", "httpx"], "the timeout of 0.01 s at LATE"),
    "websockets": (WEBSOCKETS, ["websockets"], "called cancel() at LATE"),
    "quart": (QUART, ["quart", "hypercorn", "httpx"], "called cancel() at LATE"),
    "pollers": (POLLERS, ["anyio"], "called cancel() at LATE"),
}
"""Each with what it needs, and what its mishap is told as."""

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
        done = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
        assert (done.returncode, done.stderr) == (0, "")
        told = run_python("-m", "aioaudit", "why", "log.jsonl")
        assert (told.returncode, told.stderr) == (0, "")
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


@pytest.mark.parametrize("name", SURE)
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
