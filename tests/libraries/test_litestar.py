"""Litestar cancels: streams whose client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.recognising import accepted, links, name_task
from tests.serving import Record, ask_and_leave, ask_and_read, records

pytest.importorskip("uvicorn")
litestar = pytest.importorskip("litestar")
response = pytest.importorskip("litestar.response")

record = records()


async def chunks(*, forever: bool) -> AsyncIterator[bytes]:
    name_task("streaming")
    yield b"begin"
    if forever:
        await asyncio.sleep(60)
    await asyncio.sleep(0.02)
    yield b"end"


def site(*, forever: bool) -> Any:
    async def stream() -> Any:
        return response.Stream(chunks(forever=forever))

    stream.__annotations__["return"] = response.Stream
    return litestar.Litestar([litestar.get("/")(stream)], openapi_config=None)


def test_a_client_that_leaves_a_stream_of_litestar_is_a_disconnect(record: Record) -> None:
    trail = record(site(forever=True), ask_and_leave)
    said = {
        "reason": "disconnect",
        "at": "litestar/response/streaming.py",
        "detail": "before the whole stream was sent",
    }
    assert links(trail.why("streaming")) == [
        {"what": "cancelled", "name": "streaming", **said},
        {"what": "called", **said},
    ]


def test_a_stream_of_litestar_that_was_sent_is_no_disconnect(record: Record) -> None:
    trail = record(site(forever=False), ask_and_read)
    assert "disconnect" not in [each.reason for each in accepted(trail)]
    assert {each.reason for each in accepted(trail)} <= {"litestar.done"}
