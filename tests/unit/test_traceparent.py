"""Who sent the request that a task works for, as the header ``traceparent`` says it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aioaudit.recognisers.opentelemetry import sent_by

TRACE, SPAN = f"{0xC1:032x}", f"{0xD1:016x}"
HEADER = f"00-{TRACE}-{SPAN}-01"


def found(serve: Callable[[Any], Awaitable[None]], given: Any) -> tuple[str, str] | None:
    """What is found of a task that serves what is *given*, while it waits further in."""

    async def run() -> tuple[str, str] | None:
        async def server() -> None:
            await serve(given)

        task = asyncio.create_task(server())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answer = sent_by(task)
        task.cancel()
        await asyncio.wait([task])
        return answer

    return asyncio.run(run())


async def application(scope: Any) -> None:
    await asyncio.sleep(60)
    del scope


async def in_a_task(scope: Any) -> None:
    await asyncio.create_task(application(scope))


def scope_with(header: bytes) -> dict[str, Any]:
    return {"type": "http", "headers": [(b"host", b"x"), (b"traceparent", header)]}


@pytest.mark.parametrize("serve", [application, in_a_task])
def test_a_scope_is_found_wherever_the_task_waits(serve: Callable[[Any], Awaitable[None]]) -> None:
    assert found(serve, scope_with(HEADER.encode())) == (TRACE, SPAN)


@pytest.mark.parametrize(
    "header",
    [
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"{HEADER}\n",
        "",
        "\xff",
    ],
)
def test_what_is_no_such_header_is_left_alone(header: str) -> None:
    assert found(application, scope_with(header.encode("latin-1"))) is None


@pytest.mark.parametrize(
    "scope", [None, {}, {"headers": None}, {"headers": [b"traceparent"]}, {"headers": [(b"a",)]}]
)
def test_what_is_no_scope_is_left_alone(scope: Any) -> None:
    assert found(application, scope) is None


def test_a_request_of_aiohttp_has_it() -> None:
    pytest.importorskip("aiohttp")
    from aiohttp.test_utils import make_mocked_request

    async def handler(request: Any) -> None:
        await asyncio.sleep(60)
        del request

    asked = make_mocked_request("GET", "/", headers={"TraceParent": HEADER})
    assert found(handler, asked) == (TRACE, SPAN)
