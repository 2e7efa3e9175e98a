"""Starlette, uvicorn, hypercorn and Quart cancel: real servers, real sockets, clients that leave."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.events import TaskDone
from aioaudit.trail import Trail
from tests.conftest import clean_environ
from tests.recognising import about, accepted, ask, links, name_task
from tests.serving import (
    Record,
    ask_and_leave,
    ask_and_read,
    begun,
    by_hypercorn,
    by_uvicorn,
    ended,
    records,
    staying,
)
from tests.waiting import PATIENCE

uvicorn = pytest.importorskip("uvicorn")
starlette = pytest.importorskip("starlette.applications")
responses = pytest.importorskip("starlette.responses")
routing = pytest.importorskip("starlette.routing")
middleware = pytest.importorskip("starlette.middleware.base")
quart = pytest.importorskip("quart")
hypercorn = pytest.importorskip("hypercorn")
hypercorn_asyncio = pytest.importorskip("hypercorn.asyncio")

record = records()


def site(function: Any) -> Any:
    return starlette.Starlette(routes=[routing.Route("/", function)])


async def chunks(*, forever: bool) -> AsyncIterator[bytes]:
    name_task("streaming")
    yield b"begin"
    if forever:
        await asyncio.sleep(60)
    await asyncio.sleep(0.02)
    yield b"end"


async def stream_on(_request: Any) -> Any:
    return responses.StreamingResponse(chunks(forever=True))


async def stream_all(_request: Any) -> Any:
    return responses.StreamingResponse(chunks(forever=False))


def test_a_client_that_leaves_a_stream_is_a_disconnect(record: Record) -> None:
    trail = record(site(stream_on), ask_and_leave)
    told = links(trail.why("streaming"))
    said = {
        "reason": "disconnect",
        "at": told[0]["at"],
        "detail": "before the whole response was sent",
    }
    assert told == [
        {"what": "cancelled", "name": "streaming", **said},
        {"what": "called", **said},
    ]
    assert said["at"].startswith("starlette/responses.py")
    assert {each.reason for each in accepted(trail)} == {"disconnect"}
    [done] = [
        each for each in trail.events if isinstance(each, TaskDone) and each.name == "streaming"
    ]
    assert (done.outcome, done.cancel_outcome) == ("cancelled", "obeyed")


def test_a_stream_that_was_sent_ends_the_watch_for_its_client(record: Record) -> None:
    trail = record(site(stream_all), ask_and_read)
    [request] = accepted(trail)
    answer = trail.why(request.task)
    assert answer is not None
    assert (answer.root.what, answer.root.reason) == ("called", "starlette.done")
    assert answer.cancel_outcome == "absorbed"
    assert answer.root.by_name is None


watches_files = pytest.mark.skipif(
    not any(
        getattr(each, "co_name", "") == "stream_file"
        for each in responses.FileResponse.__call__.__code__.co_consts
    ),
    reason="this starlette does not watch the client that it sends a file to (before 1.8)",
)


@watches_files
def test_a_client_that_leaves_a_file_is_a_disconnect(record: Record, tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as out:
        out.write(b"begin")
        out.truncate(200_000_000)

    async def download(_request: Any) -> Any:
        return responses.FileResponse(file)

    trail = record(site(download), ask_and_leave)
    reasons = {each.reason for each in accepted(trail)}
    assert reasons == {"disconnect"}
    for request in accepted(trail):
        answer = trail.why(request.task)
        assert answer is not None
        assert (answer.root.what, answer.root.reason) == ("called", "disconnect")


@watches_files
def test_a_file_that_was_sent_ends_the_watch_for_its_client(record: Record, tmp_path: Path) -> None:
    file = tmp_path / "small"
    file.write_bytes(b"begin, end")

    async def download(_request: Any) -> Any:
        return responses.FileResponse(file)

    trail = record(site(download), ask_and_read)
    assert [each.reason for each in accepted(trail)] == ["starlette.done"]


def test_the_end_of_a_response_is_no_disconnect_though_the_server_says_so(record: Record) -> None:
    """A middleware that is slow after the last part: uvicorn calls the client gone by then."""
    inner = site(stream_all)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            await send(message)
            if not message.get("more_body", True):
                await asyncio.sleep(0.05)

        await inner(scope, receive, sending)

    trail = record(slow, ask_and_read)
    assert accepted(trail)
    assert {each.reason for each in accepted(trail)} == {"starlette.done"}


def test_the_races_inside_a_middleware_are_told_as_such(record: Record) -> None:
    class Passing(middleware.BaseHTTPMiddleware):  # type: ignore[misc, name-defined]  # not typed where it is not installed
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    app = site(stream_all)
    app.add_middleware(Passing)
    trail = record(app, ask_and_read)
    assert accepted(trail)
    assert {each.reason for each in accepted(trail)} == {"starlette.done"}


def test_the_first_to_return_ends_those_that_run_beside_it() -> None:
    concurrency = pytest.importorskip("starlette.concurrency")

    async def slow() -> None:
        name_task("slow")
        await asyncio.sleep(60)

    async def quick() -> None:
        await asyncio.sleep(0.01)

    async def main() -> Trail:
        with aioaudit.recording() as trail:
            await concurrency.run_until_first_complete((slow, {}), (quick, {}))
        return trail

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still used
        trail = asyncio.run(main())
    [own, root] = links(trail.why("slow"))
    detail = "quick has returned, the first of those that ran beside each other"
    assert (own["reason"], own["detail"]) == ("starlette.done", detail)
    assert (root["what"], root["reason"], root["detail"]) == ("called", "starlette.done", detail)


def test_looking_for_a_disconnect_is_told_at_the_line_that_looks(record: Record) -> None:
    async def looking(request: Any) -> Any:
        name_task("looking")
        await request.body()
        assert not await request.is_disconnected()  # LINE looks
        return responses.PlainTextResponse("end")

    trail = record(site(looking), ask_and_read)
    said = {
        "reason": "starlette.poll",
        "at": "looks",
        "by_name": "looking",
        "detail": "is_disconnected() looks without waiting",
        "library": "starlette.requests:Request.is_disconnected",
        "library_at": "starlette/requests.py",
    }
    assert links(trail.why("looking")) == [
        {"what": "cancelled", "name": "looking", **said},
        {"what": "called", **said},
    ]


async def hanging(_scope: Any, _receive: Any, _send: Any) -> None:
    name_task("request")
    await asyncio.sleep(60)


async def ask_only(port: int) -> None:
    _, writer = await ask(port)
    await begun("request")
    staying.append(writer)


def test_a_request_that_outlives_the_shutdown_of_uvicorn_says_so(record: Any) -> None:
    trail = record(hanging, ask_only, timeout_graceful_shutdown=1)
    told = links(trail.why("request"))
    said = {
        "reason": "uvicorn.shutdown",
        "at": told[0]["at"],
        "by_name": "server",
        "message": "Task cancelled, timeout graceful shutdown exceeded",
        "detail": "it had 1 s to end by itself",
    }
    assert told == [
        {"what": "cancelled", "name": "request", **said},
        {"what": "called", **said},
    ]
    assert said["at"].startswith("uvicorn/server.py")


def test_the_grace_of_uvicorn_that_is_over_is_a_deadline_and_no_noise(
    record: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    trail = record(hanging, ask_only, timeout_graceful_shutdown=1)
    assert "aioaudit" not in capfd.readouterr().err
    if sys.version_info < (3, 12):
        return  # there wait_for cancels nobody who waits
    told = links(trail.why("server"))[-1]
    assert (told["what"], told["reason"], told["seconds"]) == ("deadline", "timeout", about(1.0))
    assert told["at"].startswith("uvicorn/server.py")
    assert told["detail"].startswith("timeout_graceful_shutdown")


UVICORN_RUN = """\
import asyncio
import uvicorn

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    app.left = asyncio.create_task(asyncio.sleep(60), name="left")
    await send({"type": "lifespan.startup.complete"})
    asyncio.create_task(ends())
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

async def ends():
    while not server.started:
        await asyncio.sleep(0.01)
    server.should_exit = True

server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
server.run()
"""


def test_what_uvicorn_leaves_behind_was_cancelled_by_its_end(
    audited_python: str, tmp_path: Path
) -> None:
    import subprocess

    program = tmp_path / "app.py"
    program.write_text(UVICORN_RUN)
    log = tmp_path / "log.jsonl"
    done = subprocess.run(
        [audited_python, str(program)],
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    [answer] = aioaudit.load(str(log)).why("left")
    root = answer.root
    assert (root.what, root.reason, root.at) == ("shutdown", "shutdown", f"{program}:19")


@pytest.mark.parametrize("server", [by_uvicorn, by_hypercorn])
def test_a_client_that_leaves_quart_is_a_disconnect(record: Any, server: Any) -> None:
    app = quart.Quart(__name__)

    @app.route("/")  # type: ignore[untyped-decorator, unused-ignore]  # not typed where it is not installed
    async def hang() -> str:
        name_task("request")
        await asyncio.sleep(60)
        return "never"

    async def talk(port: int) -> None:
        before = asyncio.all_tasks()
        _, writer = await ask(port)
        await begun("request")
        writer.close()
        await ended(before)

    trail = record(app, talk, server)
    told = links(trail.why("request"))
    at = told[0]["at"]
    assert at.startswith("quart/")
    assert told == [
        {"what": "cancelled", "name": "request", "reason": "disconnect", "at": at},
        {"what": "called", "reason": "disconnect", "at": at},
    ]


@pytest.mark.parametrize("server", [by_uvicorn, by_hypercorn])
def test_a_response_of_quart_that_was_sent_is_no_disconnect(record: Any, server: Any) -> None:
    app = quart.Quart(__name__)

    @app.route("/")  # type: ignore[untyped-decorator, unused-ignore]  # not typed where it is not installed
    async def short() -> str:
        return "the end"

    trail = record(app, ask_and_read, server)
    # Hypercorn's own end is told, too.
    assert "disconnect" not in [each.reason for each in accepted(trail)]


def test_a_client_that_leaves_a_stream_behind_hypercorn_is_a_disconnect(record: Any) -> None:
    trail = record(site(stream_on), ask_and_leave, by_hypercorn)
    answer = trail.why("streaming")
    assert answer is not None
    assert (answer.root.what, answer.root.reason) == ("called", "disconnect")


def test_the_timer_of_a_connection_that_is_not_idle_is_hypercorns_own(record: Any) -> None:
    reasons = {
        each.reason for each in accepted(record(site(stream_all), ask_and_read, by_hypercorn))
    }
    assert "hypercorn.timer" in reasons
    assert "explicit" not in reasons


def test_a_lifespan_that_does_not_end_is_ended_by_hypercorn(record: Any) -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        name_task("lifespan")
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        await asyncio.sleep(60)

    async def talk(_port: int) -> None:
        pass

    chain = links(record(endless, talk, by_hypercorn).why("lifespan"))
    assert (chain[-1]["what"], chain[-1]["reason"]) == ("called", "hypercorn.shutdown")
    assert chain[-1]["by_name"] == "server"
