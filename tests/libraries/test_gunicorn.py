"""gunicorn's own ASGI worker cancels: a real server in a process of its own, and clients that leave."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time

import pytest

import aioaudit
from aioaudit.log.senders import sender_of
from aioaudit.log.store import Log
from tests.conftest import clean_environ
from tests.recognising import ask, links
from tests.servers import free_port
from tests.waiting import PATIENCE

pytest.importorskip("gunicorn.asgi.protocol", reason="this gunicorn has no worker for ASGI")

APP = """\
import asyncio

ended = []


async def helper(name):
    asyncio.current_task().set_name(name)
    try:
        await asyncio.sleep(60)
    finally:
        ended.append(name)


async def app(scope, receive, send):
    name = scope["type"] if scope["type"] != "http" else scope["path"].strip("/") or "plain"
    asyncio.current_task().set_name(name)
    if name == "lifespan":
        await receive()
        app.left = asyncio.create_task(helper("left"))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        await asyncio.sleep(60)
    elif name == "websocket":
        await receive()  # and it is not accepted
    else:
        body = " ".join(ended).encode() + b";" if name == "ended" else b"end"
        more = name == "hanging"
        headers = [(b"content-length", b"99" if more else b"%d" % len(body))]
        if name in ("hanging", "after"):
            helping = asyncio.create_task(helper(f"helper of {name}"))
            await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": more})
        if name in ("hanging", "after"):
            await helping
"""

CONFIGURATION = """\
wsgi_app = "app:app"
worker_class = "asgi"
control_socket_disable = True
keepalive = 60
asgi_disconnect_grace_period = 1
graceful_timeout = 20
"""

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def get(port: int, path: str, until: bytes) -> bytes:
    """Ask, read *until* that comes, and leave."""
    reader, writer = await ask(port, path)
    read = await reader.readuntil(until)
    writer.close()
    return read


async def talk(port: int) -> None:
    """Leave while nothing is asked for, in the middle of a response, and after a whole one."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            await get(port, "/", b"end")
            break
        except OSError:
            assert time.monotonic() < until, "the server does not begin"
            await asyncio.sleep(0.05)
    await get(port, "/hanging", b"end")
    await get(port, "/after", b"end")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HANDSHAKE)
    await reader.read()
    writer.close()
    while (await get(port, "/ended", b";")).count(b"helper") < 2:
        assert time.monotonic() < until, "the helpers do not end"
        await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def log(audited_python: str, tmp_path_factory: pytest.TempPathFactory) -> Log:
    """What a worker wrote of a few clients, and of its end by SIGTERM."""
    folder = tmp_path_factory.mktemp("gunicorn")
    (folder / "app.py").write_text(APP)
    (folder / "gunicorn.conf.py").write_text(CONFIGURATION)
    port = free_port()
    server = subprocess.Popen(
        [audited_python, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"],
        cwd=folder,
        env=clean_environ(AIOAUDIT="jsonl"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        asyncio.run(talk(port))
        server.send_signal(signal.SIGTERM)
        said, _ = server.communicate(timeout=PATIENCE)
    finally:
        server.kill()
        server.wait()
    assert b"aioaudit" not in said
    return aioaudit.load(str(folder))


def roots(log: Log, name: str) -> list[tuple[str, str | None, str | None]]:
    """Of each task called *name* the root cause: what, why and in which file of gunicorn's."""
    found = []
    for answer in log.why(name):
        root = links(answer)[-1]
        found.append((root["what"], root["reason"], root["at"]))
    return found


def test_a_client_that_leaves_in_the_middle_of_a_response_is_a_disconnect(log: Log) -> None:
    [root] = roots(log, "helper of hanging")
    assert root == ("called", "disconnect", "gunicorn/asgi/protocol.py")


def test_a_client_that_leaves_while_the_application_runs_on_is_a_disconnect(log: Log) -> None:
    [root] = roots(log, "helper of after")
    assert root == ("called", "disconnect", "gunicorn/asgi/protocol.py")


def test_an_idle_connection_that_is_closed_hurts_nobody(log: Log) -> None:
    connections = [case for case in log.cases() if "_handle_connection" in case.coro]
    reasons = {case.root().reason for case in connections}
    assert "gunicorn.closed" in reasons
    assert reasons <= {"gunicorn.closed", "disconnect"}


def test_the_reader_of_a_websocket_ends_with_its_application(log: Log) -> None:
    reasons = [case.root().reason for case in log.cases() if "_read_frames" in case.coro]
    assert reasons == ["gunicorn.done"]


def test_a_lifespan_that_does_not_end_is_ended_by_gunicorn(log: Log) -> None:
    [root] = roots(log, "lifespan")
    assert root == ("called", "gunicorn.shutdown", "gunicorn/asgi/lifespan.py")


def test_what_a_worker_leaves_behind_was_cancelled_by_its_end(log: Log) -> None:
    [root] = roots(log, "left")
    assert root == ("shutdown", "shutdown", "gunicorn/workers/gasgi.py")


def test_that_the_master_ended_the_worker_is_told_from_its_own_log(log: Log) -> None:
    [case] = log.cases("left")
    who = sender_of(log, case)
    assert who is not None
    assert (who.relation, who.event.signal, who.because) == ("parent", "SIGTERM", "gunicorn ended")
    assert case.run.start is not None
    assert who.run.id == case.run.start.parent_run
    assert who.event.to == case.run.pid
