"""One process that runs one program again and again, in one way of being audited.

`benchmarks/overhead.py` starts one for each way and lets them take turns.  A line on
stdin asks for one round; the answer is one number on stdout.  A process for each
way, because what was audited once is no zero any more: CPython gives a class whose
methods were replaced a thousand times no place in its caches.

Nothing of aioaudit is imported before the way asks for it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = Path(tempfile.gettempdir()) / f"aioaudit-bench-{os.getpid()}"
LOG = FOLDER / "log.jsonl"
LIBRARIES = ("aiohttp", "aiojobs", "anyio._backends._asyncio", "asgiref.sync", "starlette", "uvicorn",
             "websockets.asyncio.client", "quart")  # fmt: skip
"""Those that have a recogniser."""

Program = Callable[[int], Coroutine[Any, Any, None]]


class Null:
    """An exporter that looks at nothing."""

    def export(self, events: Sequence[Any]) -> None:
        """Take them."""

    def flush(self) -> None:
        """Nothing is kept."""

    def shutdown(self) -> None:
        """Nothing is open."""


def turn_on(way: str) -> None:
    """Audit this process in the *way* that was asked for."""
    if way in ("nothing installed", "off"):
        return
    import aioaudit

    exporters: dict[str, list[Any]] = {
        "no listener": [],
        "null exporter": [Null()],
        "recorder": ["recorder"],
    }
    exporter = exporters.get(way, ["jsonl"])
    if way in ("structlog", "logging", "otel", "memory"):
        exporter = [_exporter(way)]
    few = "task.cancel,future.cancel" if way == "only cancel lines" else None
    path = f"{LOG}-{{pid}}" if "jsonl" in exporter else None
    aioaudit.enable(*exporter, events=few, jsonl_path=path)


def _exporter(way: str) -> Any:
    if way == "memory":
        from aioaudit.exporters.memory import MemoryExporter

        return MemoryExporter()
    if way == "logging":
        import logging

        from aioaudit.exporters.logging import LoggingExporter

        logging.getLogger().addHandler(logging.NullHandler())
        return LoggingExporter()
    if way == "structlog":
        import structlog

        from aioaudit.exporters.structlog import StructlogExporter

        return StructlogExporter(structlog.wrap_logger(structlog.testing.CapturingLogger()))
    from opentelemetry.sdk.trace import TracerProvider

    from aioaudit.exporters.otel import OpenTelemetryExporter

    return OpenTelemetryExporter(TracerProvider())


def settle() -> None:
    """Wait until the exporters have taken everything."""
    if "aioaudit" in sys.modules:
        from aioaudit.session import current

        session = current()
        for pipeline, _ in session.sinks if session is not None else ():
            pipeline.flush()


def clear() -> None:
    """Empty the log: a disk that fills up is not what is measured."""
    for file in FOLDER.glob("log*"):
        os.truncate(file, 0)


# -- the programs ------------------------------------------------------------------------


async def tasks(count: int) -> None:
    """A task made and awaited, *count* times."""

    async def nothing() -> None:
        pass

    for _ in range(count):
        await asyncio.create_task(nothing())


async def cancels(count: int) -> None:
    """*count* waiting tasks cancelled by one culprit."""
    waiting = [asyncio.create_task(asyncio.sleep(100)) for _ in range(count)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def timeouts(count: int) -> None:
    """*count* tasks that run into a timeout of their own."""

    async def late() -> None:
        try:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(100)
        except TimeoutError:
            pass

    await asyncio.gather(*(late() for _ in range(count)))


async def quiet(count: int) -> None:
    """*count* timeouts that do not run out."""

    async def nothing() -> None:
        pass

    for _ in range(count):
        async with asyncio.timeout(100):
            await nothing()


async def gathers(count: int) -> None:
    """*count* tasks made and awaited by ``gather``, a hundred at once."""

    async def nothing() -> None:
        pass

    for _ in range(count // 100):
        await asyncio.gather(*(nothing() for _ in range(100)))


async def groups(count: int) -> None:
    """*count* tasks made in task groups, a thousand in each."""

    async def nothing() -> None:
        pass

    for _ in range(count // 1000):
        async with asyncio.TaskGroup() as group:
            for _ in range(1000):
                group.create_task(nothing())


async def handlers(count: int) -> None:
    """*count* tasks that run inside their own making, each under a timeout that does not run out."""
    loop = asyncio.get_running_loop()
    eager: Any = asyncio.Task

    async def nothing() -> None:
        pass

    async def handler() -> None:
        async with asyncio.timeout(100):
            await nothing()

    for _ in range(count):
        await eager(handler(), loop=loop, eager_start=True)


def spent(program: Program, count: int) -> float:
    """Seconds of CPU time for each of *count*, the exporter's thread included."""
    gc.collect()
    start = time.process_time()
    asyncio.run(program(count))
    settle()
    return (time.process_time() - start) / count


def cancelled(count: int) -> float:
    """Seconds of CPU time for each of *count* waiting tasks that one line cancels, till all ended.

    Without the making of the tasks, and with all that is written of their end.
    """

    async def once() -> float:
        waiting = [asyncio.create_task(asyncio.sleep(100)) for _ in range(count)]
        await asyncio.sleep(0)
        settle()
        start = time.process_time()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        settle()
        return (time.process_time() - start) / count

    gc.collect()
    return asyncio.run(once())


def deep(count: int) -> float:
    """Microseconds of CPU time of one ``cancel()`` twelve frames deep, of *count*; logged as well."""

    def down(depth: int, task: asyncio.Task[None]) -> None:
        if depth:
            down(depth - 1, task)
        else:
            task.cancel()

    async def once() -> float:
        waiting = [asyncio.create_task(asyncio.sleep(100)) for _ in range(count)]
        await asyncio.sleep(0)
        settle()
        start = time.process_time()
        for task in waiting:
            down(11, task)
        settle()
        taken = time.process_time() - start
        await asyncio.gather(*waiting, return_exceptions=True)
        return taken / count * 1e6

    gc.collect()
    return asyncio.run(once())


def memory(count: int) -> float:
    """Bytes that a living task takes, of *count*."""

    async def living() -> float:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        alive = [asyncio.create_task(asyncio.sleep(100)) for _ in range(count)]
        await asyncio.sleep(0.1)
        settle()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for task in alive:
            task.cancel()
        await asyncio.gather(*alive, return_exceptions=True)
        return (after - before) / count

    return asyncio.run(living())


async def answer(port: int) -> None:
    """Say the *port* of a server in this loop, then its CPU seconds whenever a line asks."""
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        settle()
        clear()
        print(time.process_time(), flush=True)


async def serve_aiohttp() -> None:
    """A server of aiohttp's that says hello."""
    from aiohttp import web

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="Hello, world")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await answer(runner.addresses[0][1])
    await runner.cleanup()


async def serve_uvicorn() -> None:
    """The same of uvicorn and starlette."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    async def hello(_request: Request) -> Response:
        return PlainTextResponse("Hello, world")

    app = Starlette(routes=[Route("/", hello)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    await answer(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    await serving


def serve(name: str, flavour: str) -> None:
    """Run the server *name* in the loop *flavour*."""
    serving = {"aiohttp": serve_aiohttp, "uvicorn": serve_uvicorn}[name]()
    if flavour == "uvloop":
        import uvloop

        uvloop.run(serving)
    else:
        asyncio.run(serving)


PROGRAMS: dict[str, Callable[[int], float]] = {
    "tasks": lambda count: spent(tasks, count),
    "cancels": lambda count: spent(cancels, count),
    "timeouts": lambda count: spent(timeouts, count),
    "quiet": lambda count: spent(quiet, count),
    "gathers": lambda count: spent(gathers, count),
    "groups": lambda count: spent(groups, count),
    "handlers": lambda count: spent(handlers, count),
    "cancelled": cancelled,
    "deep": deep,
    "memory": memory,
}


def main(name: str, way: str, size: str) -> None:
    """Answer each line on stdin with a round of the program *name*."""
    if way.endswith(", libraries imported"):
        way = way.removesuffix(", libraries imported")
        for library in LIBRARIES:
            import_module(library)
    FOLDER.mkdir(mode=0o700)
    try:
        turn_on(way)
        if name not in PROGRAMS:
            serve(name, size)
            return
        run = PROGRAMS[name]
        for _ in sys.stdin:
            print(run(int(size)), flush=True)
            clear()
    finally:
        if "aioaudit" in sys.modules:
            sys.modules["aioaudit"].disable()
        for file in FOLDER.iterdir():
            file.unlink()
        FOLDER.rmdir()


if __name__ == "__main__":
    main(*sys.argv[1:])
