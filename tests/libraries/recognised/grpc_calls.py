"""Calls through grpc.aio that end early, each in its own way; the tasks are named after the ways.

Usage: ``python grpc_calls.py (asyncio | uvloop)``, or, as its own child that calls and is
stopped or killed meanwhile, ``python grpc_calls.py call PORT METHOD SECONDS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

grpc: Any = importlib.import_module("grpc")  # it has no types
aio: Any = importlib.import_module("grpc.aio")

begun: dict[str, asyncio.Event] = {}
ended: dict[str, asyncio.Event] = {}


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # of no known type
    """Handlers that wait until they are cancelled; the method's name becomes the task's."""

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method: ``/unary/NAME``, ``/stream/NAME`` or ``/blocking/NAME``."""
        _, kind, name = handler_call_details.method.split("/")

        async def hang() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.set_name(name)
            begun[name].set()
            try:
                await asyncio.sleep(3600)  # LINE handler
            finally:
                ended[name].set()

        async def unary(_request: bytes, _context: Any) -> bytes:
            await hang()
            return b""

        async def stream(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
            yield b"one"
            await hang()

        async def receive(requests: AsyncIterator[bytes], _context: Any) -> bytes:
            async for _ in requests:
                await hang()
            return b""

        if kind == "unary":
            return grpc.unary_unary_rpc_method_handler(unary)
        if kind == "receive":
            return grpc.stream_unary_rpc_method_handler(receive)
        return grpc.unary_stream_rpc_method_handler(stream)


@contextlib.asynccontextmanager
async def served(*names: str) -> AsyncIterator[tuple[Any, int]]:
    """A server, and its port."""
    for name in names:
        begun[name], ended[name] = asyncio.Event(), asyncio.Event()
    server = aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield server, port
    finally:
        await server.stop(None)


async def settle(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task], timeout=30)
    assert task.done()
    if not task.cancelled():
        task.exception()


Act = Callable[[Any, Any], Awaitable[None]]


async def called(name: str, act: Act, kind: str = "unary") -> None:
    """Call the method NAME in the task ``NAME client``, and *act* on it when its handler runs."""
    async with served(name) as (_, port), aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def client() -> None:
            if kind == "stream":
                reply = channel.unary_stream(f"/{kind}/{name}")(b"")
                calls.append(reply)
                async for _ in reply:
                    received.set()
            elif kind == "receive":
                reply = channel.stream_unary(f"/{kind}/{name}")(endless())
                calls.append(reply)
                reply._async_request_poller.set_name(f"{name} requests")
                await reply
            else:
                reply = channel.unary_unary(f"/{kind}/{name}")(b"")
                reply._call_response.set_name(f"{name} call")
                calls.append(reply)
                await reply

        async def endless() -> AsyncIterator[bytes]:
            yield b"one"
            await begun[name].wait()
            if name == "failing":
                raise ValueError("no more")  # LINE fails
            await asyncio.sleep(3600)

        calls: list[Any] = []
        received = asyncio.Event()
        task = asyncio.create_task(client(), name=f"{name} client")
        await asyncio.wait_for(begun[name].wait(), 30)
        if kind == "stream":
            await asyncio.wait_for(received.wait(), 30)
        await act(task, calls[0])
        await settle(task)
        await asyncio.wait_for(ended[name].wait(), 30)


async def explicit() -> None:
    async def act(_task: Any, call: Any) -> None:
        call.cancel()  # LINE cancels_call

    await called("explicit", act)


async def awaiter() -> None:
    async def act(task: Any, _call: Any) -> None:
        task.cancel()  # LINE cancels_awaiter

    await called("awaiter", act)


async def streamed() -> None:
    async def act(task: Any, _call: Any) -> None:
        task.cancel()  # LINE cancels_reader

    await called("streamed", act, "stream")


async def sending() -> None:
    async def act(_task: Any, call: Any) -> None:
        call.cancel()  # LINE cancels_sending

    await called("sending", act, "receive")


async def failing() -> None:
    async def act(_task: Any, _call: Any) -> None:
        pass

    await called("failing", act, "receive")


async def channel_closed() -> None:
    async with served("closed") as (_, port):
        channel = aio.insecure_channel(f"127.0.0.1:{port}")
        reply = channel.unary_unary("/unary/closed")(b"")
        reply._call_response.set_name("closed call")
        await asyncio.wait_for(begun["closed"].wait(), 30)
        await channel.close()  # LINE closes_channel
        await asyncio.wait_for(ended["closed"].wait(), 30)


async def stopped(name: str, grace: float | None) -> None:
    async with served(name) as (server, port), aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        reply = channel.unary_unary(f"/unary/{name}")(b"")
        await asyncio.wait_for(begun[name].wait(), 30)
        await server.stop(grace)  # LINE stops
        with contextlib.suppress(aio.AioRpcError):
            await reply


async def left_in_grace(name: str) -> None:
    """The client cancels while the server waits for it to end, or as that begins."""
    async with (
        served(name) as (server, port),
        aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        reply = channel.unary_unary(f"/unary/{name}")(b"")
        await asyncio.wait_for(begun[name].wait(), 30)
        stopping = asyncio.create_task(server.stop(60))
        if name == "in_grace":
            await asyncio.sleep(0.05)
            reply.cancel()
        else:
            await asyncio.sleep(0)
            reply.cancel()
            time.sleep(0.1)  # noqa: ASYNC251 - the loop hears of both in one turn
        await asyncio.wait_for(ended[name].wait(), 30)
        await stopping


async def from_outside(name: str, number: int, seconds: float) -> None:
    """Another process calls, and gets a signal while the handler runs."""
    async with served(name) as (_, port):
        child = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "call", str(port), name, str(seconds), env=plain_environ()
        )
        await asyncio.wait_for(begun[name].wait(), 60)
        child.send_signal(number)
        await asyncio.wait_for(ended[name].wait(), 60)
        if child.returncode is None:
            child.kill()
        await child.wait()


def plain_environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("AIOAUDIT")}


async def outside(port: str, name: str, seconds: str) -> None:
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.unary_unary(f"/unary/{name}")(b"", timeout=float(seconds) or None)


async def main() -> None:
    """Every way, one after the other."""
    task = asyncio.current_task()
    assert task is not None
    task.set_name("main")
    await explicit()
    await awaiter()
    await streamed()
    await sending()
    await failing()
    await channel_closed()
    for turn in "123":
        await stopped(f"graceful_{turn}", 0.1)
        await stopped(f"graceless_{turn}", None)
    await left_in_grace("in_grace")
    await left_in_grace("as_it_begins")
    await from_outside("killed", signal.SIGKILL, 0)
    # A client that stands still cannot cancel the call: the server's own clock ends it.
    await from_outside("deadline", signal.SIGSTOP, 3)


if __name__ == "__main__":
    if sys.argv[1] == "call":
        asyncio.run(outside(*sys.argv[2:]))
    elif sys.argv[1] == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
