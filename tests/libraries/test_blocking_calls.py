"""A detector of calls that block a loop finds the program's, and none of ours.

blockbuster puts functions of its own in the place of `os.listdir`, `time.sleep`,
``Lock.acquire`` and many more; they raise where a loop runs in the thread.  Suites of
libraries (anyio's, aiohttp's, starlette's) run under it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.loops import NAMES

pytest.importorskip("blockbuster")

PROGRAM = """
import asyncio, contextlib, os, sys
import aiohttp.web, anyio, uvloop
from blockbuster import BlockingError, blockbuster_ctx

async def fails():
    raise LookupError("on purpose")

async def cancels():
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(50)
    with anyio.move_on_after(0.01):
        await anyio.sleep(50)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 50)
        group.cancel("enough")  # called by a line of the library that no recogniser knows
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(50))
            group.create_task(fails())
    task = asyncio.create_task(asyncio.sleep(50))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

async def leaves():
    gone = asyncio.Event()
    here = asyncio.Event()
    async def handler(request):
        here.set()
        try:
            await asyncio.sleep(50)
        finally:
            gone.set()
    app = aiohttp.web.Application()
    app.router.add_get("/", handler)
    runner = aiohttp.web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    writer.write(b"GET / HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n")
    await here.wait()
    writer.close()
    await gone.wait()
    await runner.cleanup()

async def forks():
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()

async def main():
    with blockbuster_ctx():
        try:
            os.listdir(".")
        except BlockingError:
            print("the program's own is found")
        await cancels()
        await leaves()
        await forks()
        await cancels()
        await forks()

{"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[1]](main())
"""


@pytest.mark.parametrize("loop", NAMES)
def test_nothing_of_ours_blocks_a_loop(run_python: Runner, tmp_path: Path, loop: str) -> None:
    # A process that has threads warns when it forks; that none of them is ours, others test.
    quiet = ("-W", "ignore::DeprecationWarning")
    done = run_python(*quiet, "-c", PROGRAM, loop, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log")
    assert (done.stdout, done.stderr) == ("the program's own is found\n", "")
    log = (tmp_path / "log").read_text()
    assert '"reason":"disconnect"' in log
    assert '"detail":"enough"' in log
