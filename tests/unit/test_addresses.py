"""The addresses of a connection as lines tell them: both ends write the same."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from aioaudit.addresses import Connection, address, both, of_pair, of_scope, of_transport

pytestmark = pytest.mark.any_python


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("127.0.0.1", 8080, "127.0.0.1:8080"),
        ("::1", 443, "[::1]:443"),
        ("::ffff:10.0.0.5", 80, "10.0.0.5:80"),
        ("::FFFF:10.0.0.5", 80, "10.0.0.5:80"),
        ("::ffff:a00:5", 80, "[::ffff:a00:5]:80"),
        ("fe80::1%eth0", 80, "[fe80::1]:80"),
    ],
)
def test_an_address_is_written_as_the_other_end_writes_it(host: str, port: int, told: str) -> None:
    assert address(host, port) == told


@pytest.mark.parametrize(
    "name",
    [None, "", "/run/app.sock", b"\0app", ("/run/app.sock", None), ("10.0.0.5", 0), ("", 80), 5],
)
def test_what_is_no_address_of_tcp_is_none(name: Any) -> None:
    assert of_pair(name) is None
    assert both(name, ("10.0.0.5", 80)) is None
    assert both(("10.0.0.5", 80), name) is None


def test_the_scope_of_an_application_has_both_or_nothing_is_known() -> None:
    scope = {"server": ("10.0.0.5", 8080), "client": ["10.0.0.9", 50000]}
    assert of_scope(scope) == Connection("10.0.0.5:8080", "10.0.0.9:50000")
    assert of_scope({**scope, "client": ("203.0.113.9", 0)}) is None  # whom a proxy has named
    assert of_scope({"server": ("10.0.0.5", 8080)}) is None
    assert of_scope(None) is None


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_a_server_of_both_kinds_tells_what_a_client_of_the_old_one_does() -> None:
    async def main() -> None:
        ends: list[Connection | None] = []
        met = asyncio.Event()

        async def serve(_reader: Any, writer: asyncio.StreamWriter) -> None:
            ends.append(of_transport(writer.transport))
            writer.close()
            met.set()

        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        async with await asyncio.start_server(serve, sock=listener):
            port = listener.getsockname()[1]
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            here = of_transport(writer.transport)
            await met.wait()
            writer.close()
        assert here is not None
        assert ends == [Connection(here.peer, here.local)]

    asyncio.run(main())
