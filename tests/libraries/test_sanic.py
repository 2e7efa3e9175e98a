"""Sanic cancels: a real server, clients that leave, are slow, or wait for too long."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.chain.links import Answer
from aioaudit.trail import Trail
from tests.conftest import clean_environ
from tests.loops import NAMES, RUNS
from tests.recognising import about, accepted, acting, ask, links, name_task
from tests.servers import free_port
from tests.serving import ended
from tests.waiting import PATIENCE

sanic = pytest.importorskip("sanic")
sanic_response = pytest.importorskip("sanic.response")
websockets_client = pytest.importorskip("websockets.asyncio.client")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
names = (f"site{number}" for number in itertools.count())

Talk = Callable[[Any, int], Awaitable[None]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Sanic logs each request and each error."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    levels = {logger: logger.level for logger in loggers if logger.name.startswith("sanic")}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger, level in levels.items():
        logger.setLevel(level)


@pytest.fixture(params=RUNS)
def record(request: pytest.FixtureRequest) -> Callable[..., Trail]:
    """Serves a site, talks to it in the task ``host``, and gives what was recorded."""

    def run(talk: Talk, **limits: float) -> Trail:
        async def body() -> Trail:
            app = sanic.Sanic(next(names), configure_logging=False)
            app.config.update(limits)
            app.config.ACCESS_LOG = False
            app.config.TOUCHUP = False  # it changes Sanic for the first app of a process only
            add_routes(app)
            name_task("host")
            with aioaudit.recording() as trail:
                listener = socket.socket()
                listener.bind(("127.0.0.1", 0))
                server = await app.create_server(
                    sock=listener, return_asyncio_server=True, access_log=False
                )
                await server.startup()
                await server.before_start()
                await server.start_serving()
                before = asyncio.all_tasks()
                await talk(app, listener.getsockname()[1])
                server.close()
                for connection in list(server.connections):
                    connection.abort()
                await ended(before)
                for client in app.ctx.staying:
                    client.close()
                listener.close()
                _ = trail.events
            return trail

        trail: Trail = request.param(body())
        return trail

    return run


def add_routes(app: Any) -> None:
    @app.get("/")  # type: ignore[untyped-decorator, unused-ignore]  # not typed where it is not installed
    async def hang(_request: Any) -> Any:
        name_task("request")
        begun.set()
        try:
            await asyncio.sleep(60)  # LINE handler
        finally:
            done.set()

    @app.get("/short")  # type: ignore[untyped-decorator, unused-ignore]  # not typed where it is not installed
    async def short(_request: Any) -> Any:
        name_task("request")
        return sanic_response.text("end")

    @app.websocket("/socket")  # type: ignore[untyped-decorator, unused-ignore]  # not typed where it is not installed
    async def echo(_request: Any, connection: Any) -> None:
        name_task("socket")
        connection.keepalive_ping_task.set_name("pings")
        begun.set()
        try:
            while True:
                await connection.send(await connection.recv())
        finally:
            done.set()

    begun, done = asyncio.Event(), asyncio.Event()
    app.ctx.begun, app.ctx.done = begun, done
    app.ctx.staying = []


async def happened(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), PATIENCE)


def test_a_client_that_leaves_is_a_disconnect(record: Any) -> None:
    async def talk(app: Any, port: int) -> None:
        before = asyncio.all_tasks()
        _, writer = await ask(port)
        await happened(app.ctx.begun)
        writer.close()
        await ended(before)

    answer = record(talk).why("request")
    told = links(answer)
    at = told[0]["at"]
    assert at.startswith("sanic/server/protocols/base_protocol.py")
    assert told == [
        {"what": "cancelled", "name": "request", "reason": "disconnect", "at": at},
        {"what": "called", "reason": "disconnect", "at": at},
    ]
    assert answer.cancel_outcome == "absorbed"


def test_an_answer_that_takes_too_long_is_a_deadline(record: Any) -> None:
    async def talk(app: Any, port: int) -> None:
        reader, writer = await ask(port)
        assert b"503" in await reader.readline()
        await happened(app.ctx.done)
        writer.close()

    said = {"reason": "timeout", "at": "handler", "detail": "response_timeout"}
    own = {"what": "cancelled", "name": "request", **said}
    if sys.version_info < (3, 14):  # from then on Sanic gives none
        own["message"] = "Cancel connection task with a timeout"
    assert links(record(talk, RESPONSE_TIMEOUT=0.2).why("request")) == [
        own,
        {"what": "deadline", "seconds": about(0.2), **said},
    ]


def test_a_request_that_takes_too_long_is_a_deadline(record: Any) -> None:
    async def talk(_app: Any, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost:")
        assert b"408" in await reader.readline()
        writer.close()

    [request] = [each for each in accepted(record(talk, REQUEST_TIMEOUT=0.2)) if each.at]
    assert (request.reason, request.origin, request.origin_seconds) == ("timeout", "deadline", 0.2)
    assert request.detail == "request_timeout"


def test_a_connection_without_requests_is_closed_after_its_time(record: Any) -> None:
    async def talk(_app: Any, port: int) -> None:
        reader, writer = await ask(port, "/short")
        said = b""
        with contextlib.suppress(ConnectionError):
            said = await reader.read()
        answered.append(said.endswith(b"end"))
        writer.close()

    answered: list[bool] = []
    for seconds in (0.2, 2, 20):
        trail = record(talk, KEEP_ALIVE_TIMEOUT=seconds)
        if answered[-1]:
            break  # else a busy machine took all that time for the request
    chain = links(trail.why("request"))
    assert [link["reason"] for link in chain] == ["sanic.keepalive", "sanic.keepalive"]
    assert (chain[-1]["what"], chain[-1]["seconds"]) == ("deadline", seconds)


def test_a_connection_that_is_closed_between_requests_is_no_disconnect(record: Any) -> None:
    async def talk(_app: Any, port: int) -> None:
        before = asyncio.all_tasks()
        reader, writer = await ask(port, "/short")
        await reader.readuntil(b"end")
        writer.close()
        await ended(before)

    assert {each.reason for each in accepted(record(talk))} <= {"sanic.closed"}


def test_a_connection_that_sanic_aborts_is_no_disconnect(record: Any) -> None:
    async def talk(app: Any, port: int) -> None:
        _, client = await ask(port)
        app.ctx.staying.append(client)
        await happened(app.ctx.begun)

    trail = record(talk)
    chain = links(trail.why("request"))
    assert chain[-1]["reason"] == "sanic.closed"
    assert chain[-1]["detail"] == "Sanic aborted the connection"
    # So nothing is looked for at the other end.
    assert {each.peer for each in accepted(trail) if each.reason == "sanic.closed"} == {None}


SITE = Path(__file__).parent / "recognised" / "sanic_site.py"


@pytest.fixture(scope="module", params=NAMES)
def answers(
    request: pytest.FixtureRequest, audited_python: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Answer]:
    """What a whole server in a process of its own said, by the name of the task."""
    log = tmp_path_factory.mktemp("sanic") / "log.jsonl"
    done = subprocess.run(
        [audited_python, str(SITE), str(free_port()), request.param],
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "aioaudit" not in done.stderr
    return {answer.name: answer for answer in aioaudit.load(str(log)).why()}


@pytest.mark.parametrize(
    ("name", "reason", "at"),
    [("job", "explicit", "cancels_task"), ("left", "sanic.shutdown", "stops")],
)
def test_a_task_of_the_app_names_the_line_that_ends_it(
    answers: dict[str, Answer], name: str, reason: str, at: str
) -> None:
    said = {"reason": reason, "at": at, "by_name": "act"}
    if reason == "sanic.shutdown":
        said |= acting(answers[name], "sanic")
    assert links(answers[name], SITE) == [
        {"what": "cancelled", "name": name, **said},
        {"what": "called", **said},
    ]


def test_a_client_that_leaves_a_whole_server_is_a_disconnect(answers: dict[str, Answer]) -> None:
    root = answers["request"].root
    assert (root.what, root.reason, root.by_name) == ("called", "disconnect", None)


def test_what_watches_over_a_websocket_ends_with_it(record: Any) -> None:
    async def talk(_app: Any, port: int) -> None:
        before = asyncio.all_tasks()
        async with websockets_client.connect(f"ws://127.0.0.1:{port}/socket") as connection:
            await connection.send("hello")
            assert await connection.recv() == "hello"
        await ended(before)

    trail = record(talk)
    chain = links(trail.why("pings"))
    assert [link["what"] for link in chain] == ["cancelled", "called"]
    assert {link["reason"] for link in chain} == {"sanic.websocket"}
    reasons = {each.reason for each in accepted(trail)}
    assert reasons <= {"sanic.websocket", "sanic.closed", "websockets.closed", "explicit"}, reasons


def test_a_wait_for_a_signal_that_does_not_come_names_the_line(record: Any) -> None:
    async def talk(app: Any, _port: int) -> None:
        group = sanic.Blueprint("group")
        app.blueprint(group)
        app.add_signal(None, "some.thing.happened")
        with contextlib.suppress(TimeoutError):
            await group.event("some.thing.happened", timeout=0.05)  # LINE waits

    found = [each for each in accepted(record(talk)) if each.reason == "sanic.event"]
    assert len(found) == 1
