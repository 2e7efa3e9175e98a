"""A client that is cancelled, and the server that it leaves: real ones, each with half of the story."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.events import FutureCancel, TaskCancel
from aioaudit.identity import network
from tests.conftest import clean_environ
from tests.loops import every_loop
from tests.recognising import hang, name_task
from tests.servers import free_port
from tests.serving import by_hypercorn, by_uvicorn
from tests.waiting import PATIENCE

aiohttp = pytest.importorskip("aiohttp")
web = pytest.importorskip("aiohttp.web")

pytestmark = pytest.mark.skipif(network() is None, reason="the system does not tell its networks")


# -- three processes -------------------------------------------------------------------------

STOCK = """
import asyncio, sys
from aiohttp import web

async def stock(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begin")
    asyncio.current_task().set_name("looking")
    await asyncio.sleep(60)

app = web.Application()
app.router.add_get("/", stock)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), handler_cancellation=True, print=None)
"""

ORDERS = """
import asyncio, sys
import aiohttp, uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

async def body():
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{sys.argv[2]}/") as response:
            await response.content.readexactly(5)
            yield b"begin"
            yield await response.read()

async def orders(request):
    return StreamingResponse(body())

app = Starlette(routes=[Route("/", orders)])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", loop=sys.argv[3])
"""

SHOP = """
import asyncio, sys
import httpx

async def fetch():
    async with httpx.AsyncClient(timeout=300) as client:
        async with client.stream("GET", f"http://127.0.0.1:{sys.argv[1]}/") as response:
            parts = response.aiter_raw()
            assert await anext(parts) == b"begin"  # which comes from the last of them
            async with asyncio.timeout(0.1):
                await anext(parts)

async def main():
    try:
        await asyncio.create_task(fetch())
    except TimeoutError:
        print("too late")

asyncio.run(main())
"""


def test_a_chain_goes_through_as_many_services_as_there_are_logs(
    audited_python: str, tmp_path: Path
) -> None:
    for library in ("uvicorn", "starlette", "httpx"):
        pytest.importorskip(library)
    loop = "uvloop" if _has("uvloop") else "asyncio"
    stock, orders = str(free_port()), str(free_port())
    servers = [
        _start(audited_python, tmp_path, "stock", STOCK, stock),
        _start(audited_python, tmp_path, "orders", ORDERS, orders, stock, loop),
    ]
    try:
        _wait_for(servers, int(stock), int(orders))
        shop = _start(audited_python, tmp_path, "shop", SHOP, orders, OTEL_SERVICE_NAME="shop-web")
        assert shop.communicate(timeout=PATIENCE)[0] == "too late\n"
        _wait_for_line(tmp_path / "stock.jsonl", '"name":"looking"', '"task.done"')
    finally:
        for each in servers:
            each.send_signal(signal.SIGTERM)
            each.communicate(timeout=PATIENCE)
    line = SHOP.splitlines().index("            async with asyncio.timeout(0.1):") + 1
    logs = [tmp_path / f"{name}.jsonl" for name in ("stock", "orders", "shop")]
    [answer] = aioaudit.load(logs).why("looking")
    root = answer.root
    assert (root.what, root.seconds, root.service, root.pid) == (
        "deadline",
        0.1,
        "shop-web",
        shop.pid,
    )
    assert root.at == f"{tmp_path / 'shop.py'}:{line}"
    services = [link.service for link in answer.chain if link.coro is not None]
    assert services == ["orders", "shop-web"]
    assert (
        f"since its client left: fetch (Task-2) in shop-web (pid {shop.pid}) was cancelled,"
        f" since the timeout of 0.1 s at {root.at} ran out"
    ) in answer.summary
    assert "was cancelled, probably because its client left: " in answer.summary
    # Of each pair of neighbours there is an answer as well, and without them the old one.
    [half] = aioaudit.load(logs[:2]).why("looking")
    assert (half.root.what, half.root.reason, half.root.service) == (
        "called",
        "disconnect",
        "orders",
    )
    [alone] = aioaudit.load(logs[0]).why("looking")
    assert (alone.root.what, alone.root.reason, alone.root.service) == (
        "called",
        "disconnect",
        None,
    )


def _has(library: str) -> bool:
    try:
        __import__(library)
    except ImportError:
        return False
    return True


def _start(
    python: str, folder: Path, name: str, code: str, *arguments: str, **environ: str
) -> subprocess.Popen[str]:
    script = folder / f"{name}.py"
    script.write_text(code)
    log = str(folder / f"{name}.jsonl")
    return subprocess.Popen(
        [python, str(script), *arguments],
        cwd=folder,
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=log, **environ),
        stdout=subprocess.PIPE,
        text=True,
    )


def _wait_for(servers: list[subprocess.Popen[str]], *ports: int) -> None:
    async def listening(port: int) -> None:
        while True:
            assert all(each.poll() is None for each in servers)
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)

    async def all_of_them() -> None:
        for port in ports:
            await asyncio.wait_for(listening(port), PATIENCE)

    asyncio.run(all_of_them())


def _wait_for_line(log: Path, *parts: str) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if any(all(part in line for part in parts) for line in log.read_text().splitlines()):
            return
        time.sleep(0.05)
    raise AssertionError(f"no line of {log} has {parts}")


# -- client and server in one process ---------------------------------------------------------


@every_loop
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_aiohttps_server_loses_a_client_of_aiohttps_that_ran_out_of_time(
    run: Any, tmp_path: Path, tls: bool
) -> None:
    there = here = None
    if tls:
        ca = pytest.importorskip("trustme").CA()
        there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(there)
        here = ssl.create_default_context()
        ca.configure_trust(here)
    handling = asyncio.Event()
    handlers: list[asyncio.Task[Any]] = []

    async def handler(_request: Any) -> None:
        name_task("handler")
        task = asyncio.current_task()
        assert task is not None
        handlers.append(task)
        handling.set()
        await asyncio.sleep(60)

    async def client(port: int) -> None:
        address = f"http{'s' if tls else ''}://127.0.0.1:{port}/"
        async with aiohttp.ClientSession() as session:
            request = asyncio.ensure_future(session.get(address, ssl=here or True))
            await handling.wait()
            async with asyncio.timeout(0.01):
                await request

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", handler)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=there)
        await site.start()
        with pytest.raises(TimeoutError):
            await asyncio.create_task(client(runner.addresses[0][1]), name="client")
        await asyncio.wait(handlers, timeout=PATIENCE)
        await runner.cleanup()

    log = tmp_path / "log.jsonl"
    with aioaudit.enable("jsonl", jsonl_path=log):
        run(main())
    [answer] = aioaudit.load(log).why("handler")
    assert (answer.root.what, answer.root.seconds) == ("deadline", 0.01)
    assert "its client left: " in answer.summary


@pytest.mark.parametrize("pooled", [False, True], ids=["new", "pooled"])
def test_a_client_that_ran_out_of_time_elsewhere_did_not_leave_this_server_because_of_that(
    pooled: bool, tmp_path: Path
) -> None:
    """It asks another server then, and has enough after the first bytes: that it says nowhere."""
    handlers: list[asyncio.Task[Any]] = []

    async def quick(_request: Any) -> Any:
        return web.Response(text="done")

    async def stream(request: Any) -> Any:
        name_task("streaming")
        task = asyncio.current_task()
        assert task is not None
        handlers.append(task)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begin")
        await hang()

    async def client(address: str) -> None:
        async with aiohttp.ClientSession() as session:
            if pooled:
                async with session.get(f"{address}/quick") as answer:
                    await answer.read()
            try:
                async with asyncio.timeout(0.01):
                    await hang()
            except TimeoutError:
                async with session.get(f"{address}/stream") as answer:
                    await answer.content.readexactly(5)

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/quick", quick)
        app.router.add_get("/stream", stream)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        await asyncio.create_task(client(f"http://127.0.0.1:{port}"), name="client")
        await asyncio.wait(handlers, timeout=PATIENCE)
        await runner.cleanup()

    log = tmp_path / "log.jsonl"
    with aioaudit.enable("jsonl", jsonl_path=log):
        asyncio.run(main())
    [answer] = aioaudit.load(log).why("streaming")
    assert (answer.root.what, answer.root.reason) == ("called", "disconnect")


async def _streaming(lost: asyncio.Event) -> AsyncIterator[bytes]:
    try:
        yield b"begin"
        await hang()
    finally:
        lost.set()


def _starlette(lost: asyncio.Event) -> tuple[Any, Any]:
    applications: Any = pytest.importorskip("starlette.applications")
    responses: Any = pytest.importorskip("starlette.responses")
    routing: Any = pytest.importorskip("starlette.routing")

    async def stream(_request: Any) -> Any:
        return responses.StreamingResponse(_streaming(lost))

    return applications.Starlette(routes=[routing.Route("/", stream)]), by_uvicorn


def _quart(lost: asyncio.Event) -> tuple[Any, Any]:
    quart: Any = pytest.importorskip("quart")
    pytest.importorskip("hypercorn")
    app = quart.Quart(__name__)

    @app.get("/")  # type: ignore[untyped-decorator, unused-ignore]  # not typed where it is not installed
    async def stream() -> Any:
        return _streaming(lost)

    return app, by_hypercorn


@every_loop
@pytest.mark.parametrize("served", [_starlette, _quart])
def test_the_line_of_a_disconnect_has_both_addresses(run: Any, served: Any) -> None:
    lost = asyncio.Event()
    app, server = served(lost)

    async def main() -> tuple[Any, set[tuple[Any, Any]]]:
        with aioaudit.recording() as trail:
            async with server(app) as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.readuntil(b"begin")
                ends = [writer.get_extra_info(name) for name in ("peername", "sockname")]
                writer.close()
                await asyncio.wait_for(lost.wait(), PATIENCE)
            events = trail.events
        told = {
            (each.local, each.peer)
            for each in events
            if isinstance(each, TaskCancel | FutureCancel) and each.reason == "disconnect"
        }
        return {tuple(f"{host}:{port}" for host, port in ends)}, told

    expected, told = run(main())
    assert told == expected
