"""aiohttp cancels: real servers on real sockets, clients that leave, times that run out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.chain.links import Answer
from aioaudit.log import Log
from aioaudit.trail import Trail
from tests.conftest import clean_environ
from tests.loops import every_loop
from tests.recognising import about, acting, ask, done_by, links, name_task
from tests.serving import ended
from tests.unit.test_recognisers_stdlib import host_with_two_addresses
from tests.waiting import PATIENCE

aiohttp = pytest.importorskip("aiohttp")
web = pytest.importorskip("aiohttp.web")

PROTOCOL = "aiohttp/web_protocol.py"


class Service:
    """One handler that hangs, behind a real socket; it notes the task that ran it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.started = asyncio.Event()
        self.port = 0
        self.runner: Any = None

    async def hang(self, _request: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("handler")
        self.task = task
        self.started.set()
        await asyncio.sleep(60)

    async def ended(self) -> None:
        assert self.task is not None
        await asyncio.wait([self.task], timeout=PATIENCE)
        assert self.task.done()


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Service]:
    service = Service()
    app = web.Application()
    app.router.add_get("/", service.hang)
    service.runner = web.AppRunner(app, **options)
    await service.runner.setup()
    site = web.TCPSite(service.runner, "127.0.0.1", 0)
    await site.start()
    service.port = service.runner.addresses[0][1]
    try:
        yield service
    finally:
        await service.runner.cleanup()


def explained(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    main: Callable[[], Awaitable[asyncio.Task[Any] | None]],
) -> tuple[Answer | None, Trail]:
    """What is told of the task that *main* gives, and the trail."""

    async def body() -> tuple[Answer | None, Trail]:
        name_task("main")
        with aioaudit.recording() as trail:
            task = await main()
            assert task is not None
            memory = trail.why(task)
            logged = trail.why(task.get_name())
            if sys.version_info >= (3, 12):  # before, memory forgets what was absorbed
                assert memory == logged
            return logged, trail

    result: tuple[Answer | None, Trail] = run(body())
    return result


def without(told: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in link.items() if key not in keys} for link in told]


@every_loop
def test_a_client_that_goes_away_ends_the_handler_as_a_disconnect(run: Any) -> None:
    async def main() -> asyncio.Task[Any] | None:
        async with serving(handler_cancellation=True) as service:
            _, writer = await ask(service.port)
            await service.started.wait()
            writer.close()
            await service.ended()
            return service.task

    answer, _ = explained(run, main)
    told = links(answer)
    line = told[-1]["at"]
    assert line.startswith(PROTOCOL)
    connection = told[1]["name"]
    assert told == [
        {"what": "cancelled", "name": "handler", "reason": "awaiter", "by_name": connection},
        {"what": "cancelled", "name": connection, "reason": "disconnect", "at": line},
        {"what": "called", "reason": "disconnect", "at": line},
    ]
    assert answer is not None
    assert answer.root.source == "aiohttp.web_protocol:RequestHandler.connection_lost"
    assert (answer.outcome, answer.cancel_outcome) == ("cancelled", "obeyed")


@every_loop
def test_a_connection_that_is_reset_says_with_which_error(run: Any) -> None:
    async def main() -> asyncio.Task[Any] | None:
        async with serving(handler_cancellation=True) as service:
            _, writer = await ask(service.port)
            await service.started.wait()
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            await service.ended()
            return service.task

    answer, _ = explained(run, main)
    assert answer is not None
    assert answer.root.reason == "disconnect"
    assert answer.root.detail is not None
    assert answer.root.detail.startswith("ConnectionResetError")


@every_loop
def test_a_handler_that_outlives_the_graceful_shutdown_says_so(run: Any) -> None:
    async def main() -> asyncio.Task[Any] | None:
        async with serving(shutdown_timeout=0.1) as service:
            _, writer = await ask(service.port)
            await service.started.wait()
            await service.runner.cleanup()
            await service.ended()
            writer.close()
            return service.task

    answer, _ = explained(run, main)
    told = links(answer)
    line = told[-1]["at"]
    assert line.startswith(PROTOCOL)
    assert told[0]["reason"] == "awaiter"
    assert without(told[1:], "name", "by_name") == [
        {
            "what": "cancelled",
            "reason": "aiohttp.shutdown",
            "at": line,
            "detail": "it had 0.1 s to end by itself",
        },
        {
            "what": "called",
            "reason": "aiohttp.shutdown",
            "at": line,
            "detail": "it had 0.1 s to end by itself",
        },
    ]


@every_loop
def test_the_servers_own_wait_for_handlers_is_a_deadline(
    run: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> asyncio.Task[Any] | None:
        async with serving(shutdown_timeout=0.1) as service:
            _, writer = await ask(service.port)
            await service.started.wait()
            await service.runner.cleanup()
            await service.ended()
            writer.close()
            return service.task

    _, trail = explained(run, main)
    assert "aioaudit" not in capfd.readouterr().err
    told = [event for event in trail.events if getattr(event, "origin", None) == "deadline"]
    assert told
    for event in told:
        assert event.reason == "timeout"  # type: ignore[attr-defined]  # requests have one
        assert event.origin_at.partition(":")[0].endswith(PROTOCOL)  # type: ignore[attr-defined]  # as above
        assert event.detail == "shutdown_timeout"  # type: ignore[attr-defined]  # as above


@every_loop
def test_an_idle_connection_that_the_server_closes_ran_out_of_keep_alive(run: Any) -> None:
    async def main() -> asyncio.Task[Any] | None:
        async with serving(keepalive_timeout=0.2) as service:
            before = asyncio.all_tasks()
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            while not (connections := asyncio.all_tasks() - before):  # noqa: ASYNC110 - aiohttp makes it
                await asyncio.sleep(0.001)
            [connection] = connections
            writer.write(b"GET /nothing-here HTTP/1.1\r\nHost: x\r\n\r\n")
            # Since 3.14 the time runs from the begin: on a busy machine there is no answer.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
            await asyncio.wait([connection], timeout=PATIENCE)
            writer.close()
            return connection

    answer, _ = explained(run, main)
    told = links(answer)
    assert without(told, "name", "detail") == [
        {"what": "cancelled"},
        {"what": "cancelled", "reason": "aiohttp.keepalive"},
        {"what": "deadline", "reason": "aiohttp.keepalive", "seconds": about(0.2)},
    ]


@every_loop
@pytest.mark.parametrize("headers_first", [False, True], ids=["answer", "body"])
def test_the_total_time_of_a_request_is_a_deadline_at_the_line_that_waits(
    run: Any, headers_first: bool
) -> None:
    async def fetch(port: int, seconds: float) -> None:
        limit = aiohttp.ClientTimeout(total=seconds)
        async with aiohttp.ClientSession(timeout=limit) as session:
            answer = await session.get(f"http://127.0.0.1:{port}/")  # LINE asks
            answered.append(seconds)
            await answer.read()  # LINE reads

    async def main(seconds: float) -> asyncio.Task[Any] | None:
        async def respond(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            responding.append(task)
            if headers_first:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            await over.wait()
            writer.close()

        over = asyncio.Event()
        responding: list[asyncio.Task[Any]] = []
        server = await asyncio.start_server(respond, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        task = asyncio.create_task(fetch(port, seconds), name="client")
        await asyncio.wait([task])
        assert isinstance(task.exception(), TimeoutError)
        over.set()
        server.close()
        if responding:
            await asyncio.wait(responding)
        return task

    answered: list[float] = []
    for seconds in (0.1, 0.5, 2.5):
        answer, trail = explained(run, partial(main, seconds))
        if bool(answered) == headers_first:
            break  # else a busy machine took all that time for the headers
    label = "reads" if headers_first else "asks"
    assert links(answer) == [
        {"what": "cancelled", "name": "client", "reason": "timeout", "at": label},
        {"what": "deadline", "reason": "timeout", "at": label, "seconds": about(seconds)},
    ]
    assert answer is not None
    assert (answer.outcome, answer.cancel_outcome) == ("raised", "absorbed")
    assert answer.root.source is not None
    assert answer.root.source.endswith("<locals>.fetch")
    assert len(trail.events) > 0


def test_a_failed_child_whose_request_timed_out_leads_to_the_deadline() -> None:
    async def never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async def fetch(port: int) -> None:
        limit = aiohttp.ClientTimeout(total=0.1)
        async with aiohttp.ClientSession(timeout=limit) as session:
            await session.get(f"http://127.0.0.1:{port}/")  # LINE fails

    over = asyncio.Event()

    async def main() -> asyncio.Task[Any] | None:
        before = asyncio.all_tasks()
        server = await asyncio.start_server(never, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fetch(port), name="fetch")
                sibling = group.create_task(asyncio.sleep(60), name="sibling")
        except* TimeoutError:
            pass
        server.close()
        over.set()
        await ended(before)
        return sibling

    answer, _ = explained(asyncio.run, main)
    assert without(links(answer), "error", "detail") == [
        {"what": "cancelled", "name": "sibling", "reason": "task_group"},
        {"what": "failed", "name": "fetch", "at": "fails"},
        {"what": "deadline", "reason": "timeout", "at": "fails", "seconds": about(0.1)},
    ]


def test_the_time_to_connect_is_a_deadline_at_the_line_that_asked() -> None:
    """A listener whose backlog is full answers no connection."""

    async def fetch(port: int) -> None:
        limit = aiohttp.ClientTimeout(total=None, sock_connect=0.15)
        async with aiohttp.ClientSession(timeout=limit) as session:
            await session.get(f"http://127.0.0.1:{port}/")  # LINE connects

    async def main() -> asyncio.Task[Any] | None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            full = []
            for _ in range(3):
                each = socket.socket()
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", port))
                full.append(each)
            task = asyncio.create_task(fetch(port), name="client")
            await asyncio.wait([task])
            for each in full:
                each.close()
        assert isinstance(task.exception(), aiohttp.ServerTimeoutError)
        return task

    answer, _ = explained(asyncio.run, main)
    assert without(links(answer), "detail") == [
        {"what": "cancelled", "name": "client", "reason": "timeout", "at": "connects"},
        {"what": "deadline", "reason": "timeout", "at": "connects", "seconds": about(0.15)},
    ]


def test_the_time_to_read_from_a_socket_cancels_nothing() -> None:
    over = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async def fetch(port: int) -> None:
        limit = aiohttp.ClientTimeout(total=None, sock_read=0.1)
        async with aiohttp.ClientSession(timeout=limit) as session:
            await session.get(f"http://127.0.0.1:{port}/")

    async def main() -> None:
        before = asyncio.all_tasks()
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with aioaudit.recording() as trail:
            task = asyncio.create_task(fetch(port), name="client")
            await asyncio.wait([task])
            assert isinstance(task.exception(), aiohttp.SocketTimeoutError)
            assert trail.why(task) is None
        server.close()
        over.set()
        await ended(before)

    asyncio.run(main())


@pytest.mark.parametrize("second_answers", [True, False])
def test_attempts_to_connect_end_when_one_won_or_nobody_waits_any_more(
    second_answers: bool,
) -> None:
    happy = pytest.importorskip("aiohappyeyeballs")

    async def connect(port: int) -> None:
        known = [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in ("127.0.0.1", "127.0.0.2")
        ]
        won = await happy.start_connection(known, happy_eyeballs_delay=0.02)  # LINE races
        won.close()

    def under_way() -> list[asyncio.Task[Any]]:
        return [each for each in asyncio.all_tasks() if "run_one_coro" in repr(each.get_coro())]

    async def main() -> Trail:
        name_task("main")
        with aioaudit.recording() as trail:
            async with host_with_two_addresses(second_answers=second_answers) as port:
                connecting = asyncio.create_task(connect(port), name="connecting")
                if not second_answers:
                    while len(under_way()) < 2:  # noqa: ASYNC110 - the second begins by a timer
                        await asyncio.sleep(0.001)
                    connecting.cancel()  # LINE gives_up
                await asyncio.wait([connecting])
        return trail

    log = Log()
    for event in asyncio.run(main()).events:
        log.add(event)
    losers = [answer for answer in log.why() if answer.coro.endswith(".run_one_coro")]
    assert losers
    for answer in losers:
        own = {"what": "cancelled", "name": answer.name, "by_name": "connecting"}
        if second_answers:
            said = {
                "reason": "aiohappyeyeballs.race",
                "at": "races",
                "detail": "another attempt to connect was faster",
            }
            by = {"by_name": "connecting"}
            said |= acting(answer, "aiohappyeyeballs")
            assert links(answer) == [{**own, **said}, {"what": "called", **said, **by}]
        else:
            said = {"reason": "explicit", "at": "gives_up", "by_name": "main"}
            assert links(answer) == [
                {**own, "reason": "awaiter"},
                {"what": "cancelled", "name": "connecting", **said},
                {"what": "called", **said},
            ]


def test_what_waits_for_a_free_connection_ends_with_the_session() -> None:
    async def main() -> asyncio.Task[Any] | None:
        async with serving(shutdown_timeout=0.1) as service:
            url = f"http://127.0.0.1:{service.port}/"
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
            first = asyncio.create_task(session.get(url), name="first")
            await service.started.wait()
            waiting = asyncio.create_task(session.get(url), name="waiting")
            await asyncio.sleep(0.05)
            await session.close()  # LINE session
            await asyncio.wait([waiting, first])
            assert waiting.cancelled()
            return waiting

    answer, _ = explained(asyncio.run, main)
    said = {"reason": "explicit", "at": "session", "by_name": "main"}
    said |= done_by(answer, "aiohttp.connector:BaseConnector")
    assert links(answer) == [
        {"what": "cancelled", "name": "waiting"},
        {"what": "cancelled", **said},
        {"what": "called", **said},
    ]


def test_a_body_that_is_still_being_sent_ends_with_its_response() -> None:
    async def body() -> AsyncIterator[bytes]:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("body")
        writers.append(task)
        yield b"x"
        await asyncio.sleep(60)

    async def main() -> asyncio.Task[Any] | None:
        async def early(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nbegun")
            await over.wait()
            writer.close()

        before, over = asyncio.all_tasks(), asyncio.Event()
        server = await asyncio.start_server(early, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession() as session:
            answer = await session.post(f"http://127.0.0.1:{port}/", data=body())
            while not writers:  # noqa: ASYNC110 - it is filled by the client
                await asyncio.sleep(0.001)
            answer.close()  # LINE response
            await asyncio.wait(writers)
        server.close()
        over.set()
        await ended(before)
        return writers[0]

    writers: list[asyncio.Task[Any]] = []
    answer, _ = explained(asyncio.run, main)
    said = {"reason": "explicit", "at": "response", "by_name": "main"}
    said |= done_by(answer, "aiohttp.client_reqrep:ClientResponse")
    assert links(answer) == [
        {"what": "cancelled", "name": "body", **said},
        {"what": "called", **said},
    ]


def test_a_name_that_is_still_looked_up_ends_with_the_session() -> None:
    class Slow(aiohttp.abc.AbstractResolver):  # type: ignore[misc, name-defined]  # not typed where it is not installed
        async def resolve(self, *_: Any, **__: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None
            task.set_name("lookup")
            lookups.append(task)
            await asyncio.sleep(60)

        async def close(self) -> None:
            pass

    async def main() -> asyncio.Task[Any] | None:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Slow()))
        getting = asyncio.create_task(session.get("http://host.example/"), name="getting")
        while not lookups:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.001)
        await session.close()  # LINE lookup
        await asyncio.wait([getting, *lookups])
        return lookups[0]

    lookups: list[asyncio.Task[Any]] = []
    answer, _ = explained(asyncio.run, main)
    said = {"reason": "explicit", "at": "lookup", "by_name": "main"}
    said |= done_by(answer, "aiohttp.connector:TCPConnector")
    assert links(answer) == [
        {"what": "cancelled", "name": "lookup", **said},
        {"what": "called", **said},
    ]


RUN_APP = """\
import asyncio
from aiohttp import web

async def background(app):
    task = asyncio.create_task(asyncio.sleep(60), name="background")
    yield

def say(*_):
    print("up", flush=True)  # run_app() only waits from here on

app = web.Application()
app.cleanup_ctx.append(background)
web.run_app(app, port=0, print=say)
"""


def test_what_run_app_leaves_behind_was_cancelled_by_its_end(
    audited_python: str, tmp_path: Path
) -> None:
    program = tmp_path / "app.py"
    program.write_text(RUN_APP)
    log = tmp_path / "log.jsonl"
    with subprocess.Popen(
        [audited_python, str(program)],
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log)),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    answers = {each.name: each for each in aioaudit.load(str(log)).why()}
    asked = [line for line in lines if line["event"] == "task.cancel"]
    assert {line["reason"] for line in asked} == {"shutdown"}
    for answer in answers.values():
        root = answer.root
        assert (root.what, root.reason, root.at) == ("shutdown", "shutdown", f"{program}:13")
    assert "background" in answers
    assert len(answers) == 2
