"""A whole Sanic server that cancels a task, is left by a client, and stops itself.

Usage: ``python sanic_site.py PORT (asyncio | uvloop)``.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

sanic: Any = importlib.import_module("sanic")  # it is not typed where it is not installed

app = sanic.Sanic("site", configure_logging=False)
app.config.USE_UVLOOP = sys.argv[2] == "uvloop"


async def hang(_request: Any) -> None:
    """A handler that waits until its client leaves."""
    task = asyncio.current_task()
    assert task is not None
    task.set_name("request")
    app.ctx.begun.set()
    try:
        await asyncio.sleep(3600)
    finally:
        app.ctx.ended.set()


async def act() -> None:
    """All that happens."""
    app.ctx.begun, app.ctx.ended = asyncio.Event(), asyncio.Event()
    _, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(app.ctx.begun.wait(), 30)
    writer.close()
    await asyncio.wait_for(app.ctx.ended.wait(), 30)
    await app.cancel_task("job")  # LINE cancels_task
    app.stop(terminate=False)  # LINE stops


async def start(app: Any) -> None:
    """Begin once the server serves."""
    app.add_task(asyncio.sleep(3600), name="job")
    app.add_task(asyncio.sleep(3600), name="left")
    app.ctx.act = asyncio.create_task(act(), name="act")


app.add_route(hang, "/")
app.register_listener(start, "after_server_start")

if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, access_log=False, motd=False)
