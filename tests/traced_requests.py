"""A program whose tasks are in traces of OpenTelemetry while they are cancelled, each in another way.

`tests/process/test_traces.py` runs it, with each core: both are to tell the same of it.  Ids are
numbers in a row, so that a log can be compared with another one; the names of tasks say what
is to be found.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


class InARow(IdGenerator):
    """Ids as one can tell them apart."""

    def __init__(self) -> None:
        self.spans, self.traces = itertools.count(0xA1), itertools.count(0xB1)

    def generate_span_id(self) -> int:
        return next(self.spans)

    def generate_trace_id(self) -> int:
        return next(self.traces)


TRACER = TracerProvider(id_generator=InARow(), shutdown_on_exit=False).get_tracer("program")
HEADERS = {"traceparent": f"00-{0xC1:032x}-{0xD1:016x}-01"}
FROM_ANOTHER_PROCESS = TraceContextTextMapPropagator().extract(HEADERS)


async def waits() -> None:
    await asyncio.sleep(100)


async def named(name: str, work: Callable[[], Awaitable[Any]] = waits) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(work())
    task.set_name(name)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def ended(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def one() -> None:
    """Of no trace, and in one: the same line cancels both, many times."""
    for number in range(3):
        with TRACER.start_as_current_span("one"):
            inside = [await named(f"inside {number}") for _ in range(3)]
        await ended(await named(f"outside {number}"), *inside)


async def runs_out() -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            await waits()


async def timed() -> None:
    """A deadline, taken back by its block: again and again, each in a span of its own."""
    for number in range(3):
        with TRACER.start_as_current_span("timed"):
            task = await named(f"timed {number}", runs_out)
        await task


async def begins_a_span() -> None:
    with TRACER.start_as_current_span("begins"):
        await waits()


async def awaits_another() -> None:
    await asyncio.create_task(begins_a_span(), name="awaited")


async def server() -> None:
    """The one that is asked is in no trace, and awaits one that is."""
    await ended(await named("awaits", awaits_another))


async def far() -> None:
    """A span that is the child of one in another process, one inside of that, and none but that."""
    with TRACER.start_as_current_span("server", FROM_ANOTHER_PROCESS):
        child = await named("child of another")
        with TRACER.start_as_current_span("inner"):
            inner = await named("grandchild of another")
    span = trace.get_current_span(FROM_ANOTHER_PROCESS)
    with trace.use_span(span):
        only = await named("nothing but another")
    await ended(child, inner, only)


async def future() -> None:
    """A future that two await is cancelled."""
    awaited = asyncio.get_running_loop().create_future()

    async def awaits() -> None:
        await awaited

    with TRACER.start_as_current_span("future"):
        tasks = [await named("first", awaits), await named("second", awaits)]
    awaited.cancel()
    await asyncio.wait(tasks)


async def keeps() -> None:
    with suppress(asyncio.CancelledError):
        await waits()


async def fails() -> None:
    raise LookupError("no such row")


async def otherwise() -> None:
    """What does not obey, and is found; and what just fails."""
    with TRACER.start_as_current_span("otherwise"):
        keeping, failing = await named("keeps", keeps), await named("fails", fails)
    await ended(keeping)
    failing.exception()


async def itself() -> None:
    """A task that asks itself, in a span that it has begun."""

    async def asks() -> None:
        with TRACER.start_as_current_span("itself"):
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await waits()

    with suppress(asyncio.CancelledError):
        await (await named("asks itself", asks))


async def sends() -> None:
    """The span of a request that was sent: current in two tasks, of which one outlives it."""
    with TRACER.start_as_current_span("sends", kind=trace.SpanKind.CLIENT):
        during, after = await named("while it is sent"), await named("after it was sent")
        await ended(during)
    await ended(after)


async def main() -> None:
    for each in (one, timed, server, far, future, otherwise, itself, sends):
        if len(sys.argv) == 1 or each.__name__ in sys.argv[1:]:
            await each()


if __name__ == "__main__":
    asyncio.run(main())
