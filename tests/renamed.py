"""Every kind of cancellation, in a Python in which one private name is called something else.

``python renamed.py NAME LOG``: asyncio is made from its own sources, with NAME replaced in them,
and without the C classes, whose names cannot be replaced.  An empty NAME replaces nothing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import re
import sys
from pathlib import Path
from types import CodeType
from typing import Any

NAME, LOG = sys.argv[1:3]
ALSO = {"concurrent.futures._base", "threading"}


class Renamed(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - a loader is called so
        source = Path(self.path).read_text()
        if NAME:
            source = re.sub(rf"\b{NAME}\b", f"{NAME}_by_another_name", source)
        return compile(source, self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002 - a finder is called so
        if name.partition(".")[0] != "asyncio" and name not in ALSO:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            spec.loader = Renamed(name, spec.origin)
        return spec


for each in list(sys.modules):
    if each.partition(".")[0] in ("asyncio", "concurrent") or each in ALSO:
        del sys.modules[each]
sys.modules["_asyncio"] = None  # type: ignore[assignment]  # the import system's own mark: it fails
sys.meta_path.insert(0, Finder())

import asyncio  # noqa: E402 - as it is from here on
import threading  # noqa: E402

import aioaudit  # noqa: E402


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def wait(something: Any) -> None:
    await something


async def too_late() -> None:
    async with asyncio.timeout(0.01):
        await forever()


async def waited_for() -> None:
    await asyncio.wait_for(forever(), 0.01)


async def fails() -> None:
    await asyncio.sleep(0)
    raise LookupError("nowhere")


async def in_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(forever(), name="sibling")
        group.create_task(fails(), name="failing")


async def body_fails() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(forever(), name="of-body")
        await asyncio.sleep(0)
        raise LookupError("in the body")


async def gathered() -> None:
    await asyncio.gather(
        asyncio.create_task(forever(), name="one"), asyncio.create_task(forever(), name="two")
    )


async def swallows() -> str:
    try:
        await forever()
    except asyncio.CancelledError:
        return "kept"
    return "never"


async def asks_itself() -> str:
    me = asyncio.current_task()
    assert me is not None
    me.cancel()
    return "never felt"


async def shields(inner: asyncio.Task[None]) -> None:
    await asyncio.shield(inner)


async def chained(begun: asyncio.Event, ended: asyncio.Event) -> None:
    me = asyncio.current_task()
    assert me is not None
    me.set_name("chained")
    begun.set()
    try:
        await forever()
    finally:
        ended.set()


def in_thread(
    loop: asyncio.AbstractEventLoop, now: threading.Event, *events: asyncio.Event
) -> None:
    future = asyncio.run_coroutine_threadsafe(chained(*events), loop)
    now.wait()
    future.cancel()


async def main() -> None:
    loop = asyncio.get_running_loop()
    make = asyncio.create_task
    explicit = make(forever(), name="explicit")
    future = loop.create_future()
    inner = make(forever(), name="inner")
    tasks: list[asyncio.Task[Any]] = [
        explicit,
        inner,
        (gathering := make(gathered(), name="gathered")),
        (swallower := make(swallows(), name="swallows")),
        (timed := make(forever(), name="timed")),
        (doubly := make(forever(), name="doubly")),
        (late := make(too_late(), name="too-late")),
        (waits := make(waited_for(), name="waited-for")),
        make(in_group(), name="in-group"),
        make(body_fails(), name="body-fails"),
        make(wait(explicit), name="follower"),
        make(wait(future), name="of-future"),
        make(asks_itself(), name="asks-itself"),
        make(shields(inner), name="shields"),
    ]
    now, begun, ended = threading.Event(), asyncio.Event(), asyncio.Event()
    thread = threading.Thread(target=in_thread, args=(loop, now, begun, ended), name="outsider")
    thread.start()
    await asyncio.wait([late, waits])
    await begun.wait()
    now.set()
    explicit.cancel("by main")
    future.cancel()
    gathering.cancel()
    inner.cancel()
    swallower.cancel()
    doubly.cancel("first")
    doubly.cancel("second")
    loop.call_later(0, timed.cancel)
    done, _ = await asyncio.wait(tasks)
    for each in done:
        if not each.cancelled():
            each.exception()
    await ended.wait()
    thread.join()
    tasks = [make(forever(), name="left")]
    await asyncio.sleep(0)


aioaudit.enable("jsonl", jsonl_path=LOG)
asyncio.run(main())
