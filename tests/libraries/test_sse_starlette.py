"""sse-starlette cancels: streams of events whose client leaves, that end, or whose server does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.recognising import accepted, ask, links, name_task
from tests.serving import Record, ask_and_leave, ask_and_read, records, staying

uvicorn = pytest.importorskip("uvicorn")
starlette = pytest.importorskip("starlette.applications")
responses = pytest.importorskip("starlette.responses")
routing = pytest.importorskip("starlette.routing")
sse = pytest.importorskip("sse_starlette.sse")

record = records()


@pytest.fixture(autouse=True)
def _no_server_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library keeps of a server, which until 2.1 is of one loop."""
    monkeypatch.setattr(sse.AppStatus, "should_exit", False)
    monkeypatch.setattr(sse.AppStatus, "should_exit_event", None, raising=False)


def site(events: Callable[[], AsyncIterator[str]]) -> Any:
    async def stream(_request: Any) -> Any:
        return sse.EventSourceResponse(events())

    return starlette.Starlette(routes=[routing.Route("/", stream)])


async def endless() -> AsyncIterator[str]:
    name_task("streaming")
    yield "begin"
    await asyncio.sleep(60)


async def short() -> AsyncIterator[str]:
    name_task("streaming")
    yield "begin"
    await asyncio.sleep(0.02)
    yield "end"


def test_a_client_that_leaves_a_stream_of_events_is_a_disconnect(record: Record) -> None:
    trail = record(site(endless), ask_and_leave)
    said = {
        "reason": "disconnect",
        "at": "sse_starlette/sse.py",
        "detail": "before the whole stream was sent",
    }
    assert links(trail.why("streaming")) == [
        {"what": "cancelled", "name": "streaming", **said},
        {"what": "called", **said},
    ]
    assert {each.reason for each in accepted(trail)} == {"disconnect"}


def test_a_stream_of_events_that_was_sent_is_no_disconnect(record: Record) -> None:
    trail = record(site(short), ask_and_read)
    assert accepted(trail)
    assert {each.reason for each in accepted(trail)} == {"sse_starlette.done"}
    assert not [each for each in accepted(trail) if each.name == "streaming"]


def test_a_server_that_ends_ends_its_streams_of_events(record: Record) -> None:
    async def talk(port: int) -> None:
        reader, writer = await ask(port)
        await reader.readuntil(b"begin")
        other = uvicorn.Server(uvicorn.Config(site(endless)))
        sse.AppStatus.handle_exit(other, signal.SIGTERM, None)  # it stands in uvicorn's place
        await reader.read()
        staying.append(writer)

    trail = record(site(endless), talk)
    root = links(trail.why("streaming"))[-1]
    assert (root["what"], root["reason"]) == ("called", "sse_starlette.shutdown")


FEEDS = """
import asyncio

async def feed():
    helper = asyncio.create_task(asyncio.sleep(60), name="helper")
    await asyncio.sleep(0)
    yield "begin"
    helper.cancel()
    yield "end"
"""


@pytest.mark.parametrize("kind", [sse.EventSourceResponse, responses.StreamingResponse])
def test_what_a_library_that_makes_the_stream_cancels_is_no_doing_of_the_response(
    record: Record, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "madeupfeeds.py").write_text(FEEDS)
    monkeypatch.syspath_prepend(str(folder))
    feed = import_module("madeupfeeds").feed

    async def stream(_request: Any) -> Any:
        return kind(feed())

    app = starlette.Starlette(routes=[routing.Route("/", stream)])
    root = links(record(app, ask_and_read).why("helper"))[-1]
    assert (root["what"], root["reason"], root["at"]) == ("called", "explicit", "madeupfeeds.py")
