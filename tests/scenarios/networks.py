"""Connections, servers, streams, queues and processes of asyncio that cancel, or are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    settle,
    spawn,
    start,
    steps,
)


async def wait(something: Any) -> None:
    await something


def on_uvloop() -> bool:
    return "uvloop" in type(asyncio.get_running_loop()).__module__


async def server_closed() -> None:
    if on_uvloop():  # its serve_forever() goes on though the server is closed
        return
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    serving = spawn("server_closed.serving", server.serve_forever())
    await steps()
    server.close()  # LINE server_closed
    await settle(serving)
    await server.wait_closed()


# WHY server_closed.serving: cancelled, obeyed (asyncio)
#   cancelled server_closed.serving
#   cancelled - explicit @server_closed by=server_closed
#   called explicit @server_closed by=server_closed


async def server_left() -> None:
    if on_uvloop():
        return
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:  # LINE server_left
        serving = spawn("server_left.serving", server.serve_forever())
        await steps()
    await settle(serving)


# WHY server_left.serving: cancelled, obeyed (asyncio)
#   cancelled server_left.serving
#   cancelled - explicit @server_left by=server_left
#   called explicit @server_left by=server_left


async def server_cancelled() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    serving = spawn("server_cancelled.serving", server.serve_forever())
    await steps()
    serving.cancel()  # LINE server_cancelled
    await settle(serving)


# WHY server_cancelled.serving: cancelled, obeyed
#   cancelled server_cancelled.serving explicit @server_cancelled by=server_cancelled
#   called explicit @server_cancelled by=server_cancelled


async def stream_abandoned() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("stream.handler")
        handlers.append(task)
        with contextlib.closing(writer):
            await reader.read()

    handlers: list[asyncio.Task[None]] = []
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = spawn("stream.reading", wait(reader.read()))
    while not handlers:  # noqa: ASYNC110 - it is filled by the server
        await asyncio.sleep(0.001)
    await steps()
    reading.cancel()  # LINE stream_reading
    await settle(reading)
    writer.close()
    await settle(*handlers)
    server.close()
    await server.wait_closed()


# WHY stream.reading: cancelled, obeyed
#   cancelled stream.reading explicit @stream_reading by=stream_abandoned
#   called explicit @stream_reading by=stream_abandoned


async def read_in_time() -> None:
    async def read() -> None:
        async with asyncio.timeout(0.05):  # LINE read_in_time
            await asyncio.get_running_loop().sock_recv(left, 100)

    left, right = socket.socketpair()
    left.setblocking(False)
    reading = spawn("read_in_time.reading", read())
    await settle(reading)
    left.close()
    right.close()


# WHY read_in_time.reading: raised, absorbed
#   cancelled read_in_time.reading timeout @read_in_time
#   deadline @read_in_time seconds=0.05


async def process_too_slow() -> None:
    async def communicate() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", "import time; time.sleep(60)", stdout=-1
        )
        try:
            async with asyncio.timeout(0.5):  # LINE process
                await process.communicate()
        finally:
            process.kill()
            await process.wait()

    talking = spawn("process.talking", communicate())
    await settle(talking)


# WHY process.talking: raised, absorbed
#   cancelled process.talking timeout @process
#   deadline @process seconds=0.5
# WHY coro:Process._read_stream process: cancelled, obeyed
#   cancelled * gather by=process.talking
#   cancelled process.talking timeout @process
#   deadline @process seconds=0.5


async def queue_waited_for() -> None:
    queue: asyncio.Queue[None] = asyncio.Queue(1)
    getting = spawn("queue.getting", queue.get())
    await steps()
    getting.cancel()  # LINE getting
    await settle(getting)
    queue.put_nowait(None)
    putting = spawn("queue.putting", queue.put(None))
    await steps()
    putting.cancel()  # LINE putting
    await settle(putting)


# WHY queue.getting: cancelled, obeyed
#   cancelled queue.getting explicit @getting by=queue_waited_for
#   called explicit @getting by=queue_waited_for
# WHY queue.putting: cancelled, obeyed
#   cancelled queue.putting explicit @putting by=queue_waited_for
#   called explicit @putting by=queue_waited_for


async def queue_shut_down() -> None:
    # Since 3.13. It raises in those who wait, and cancels nothing.
    if sys.version_info < (3, 13):
        return
    queue: asyncio.Queue[None] = asyncio.Queue()
    getting = spawn("queue_shut_down.getting", queue.get())
    await steps()
    queue.shutdown(immediate=True)
    await settle(getting)
    assert isinstance(getting.exception(), asyncio.QueueShutDown)


async def helpers_out_of_time() -> None:
    # wait() and as_completed() leave what they waited for alone, whatever runs out.
    left = spawn("helpers.left")
    await asyncio.wait([left], timeout=0.001)
    with contextlib.suppress(TimeoutError):
        for each in asyncio.as_completed([left], timeout=0.001):
            await each
    assert not left.cancelling()
    waiting = spawn("helpers.waiting", wait(asyncio.wait([left])))
    await steps()
    waiting.cancel()  # LINE waiting
    await settle(waiting)
    left.cancel()  # LINE left
    await settle(left)


# WHY helpers.waiting: cancelled, obeyed
#   cancelled helpers.waiting explicit @waiting by=helpers_out_of_time
#   called explicit @waiting by=helpers_out_of_time
# WHY helpers.left: cancelled, obeyed
#   cancelled helpers.left explicit @left by=helpers_out_of_time
#   called explicit @left by=helpers_out_of_time


async def locked() -> None:
    # A condition takes its lock again before it hands the cancellation on.
    condition = asyncio.Condition()

    async def hold() -> None:
        async with condition:
            await condition.wait()

    async def meet() -> None:
        await barrier.wait()

    barrier = asyncio.Barrier(3)
    holding = spawn("locked.holding", hold())
    meeting = spawn("locked.meeting", meet())
    await steps()
    async with condition:
        holding.cancel()  # LINE holding
        await steps()
    meeting.cancel()  # LINE meeting
    await settle(holding, meeting)


# WHY locked.holding: cancelled, obeyed
#   cancelled locked.holding explicit @holding by=locked
#   called explicit @holding by=locked
# WHY locked.meeting: cancelled, obeyed
#   cancelled locked.meeting explicit @meeting by=locked
#   called explicit @meeting by=locked


start(
    server_closed,
    server_left,
    server_cancelled,
    stream_abandoned,
    read_in_time,
    process_too_slow,
    queue_waited_for,
    queue_shut_down,
    helpers_out_of_time,
    locked,
)
