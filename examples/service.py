"""A small shop, with the faults that small shops have.

    python service.py UPSTREAM_URL [HOST PORT]

A page (``GET /page/NAME``) is put together from three parts that an upstream
has.  Orders (``POST /orders?kind=ship&count=3``) wait in a queue for a pool of
workers; a supervisor lets the pool grow and shrink.  ``GET /status`` counts,
``POST /drain`` ends the service when all orders are done, SIGTERM at once.

Nothing in here knows of aioaudit.  Everything that `demo.py` finds out about
it comes from the log that ``AIOAUDIT=jsonl`` writes.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections import Counter
from dataclasses import dataclass

import aiohttp
from aiohttp import web

PARTS = ("price", "stock", "reviews")
PATIENCE = 0.8
"""Seconds that a page may take."""

TICK = 0.2
"""Seconds between two looks of the supervisor."""

MOST_WORKERS = 4

log = logging.getLogger("shop")


@dataclass
class Order:
    """Something to ``ship`` or to ``invoice``."""

    kind: str
    number: int


class Upstream:
    """The other services, behind one URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def ask(self, path: str) -> str:
        """What the upstream has at *path*."""
        async with self.session.get(f"{self.url}/{path}") as response:
            return await response.text()


class Pool:
    """Workers that take orders from a queue; as many as there is work for, or so it was meant."""

    def __init__(self, group: asyncio.TaskGroup, upstream: Upstream) -> None:
        self.group = group
        self.upstream = upstream
        self.queue: asyncio.Queue[Order | None] = asyncio.Queue()
        self.workers: list[asyncio.Task[None]] = []
        self.counts: Counter[str] = Counter()
        self.draining = False

    def start(self) -> None:
        """One worker, and somebody to look after the pool."""
        self.hire()
        self.group.create_task(self.supervise(), name="supervisor")

    def hire(self) -> None:
        """One worker more."""
        self.counts["hired"] += 1
        name = f"worker-{self.counts['hired']}"
        self.workers.append(self.group.create_task(self.work(), name=name))

    async def supervise(self) -> None:
        """Adapt the pool to the queue again and again."""
        while not self.draining:
            await asyncio.sleep(TICK)
            self.balance()

    def balance(self) -> None:
        """One worker for each order that waits, and one to spare."""
        # The fault: an order that a worker has taken no longer waits.
        self.scale_to(min(1 + self.queue.qsize(), MOST_WORKERS))

    def scale_to(self, wanted: int) -> None:
        """Make it *wanted* workers."""
        while len(self.workers) < wanted:
            self.hire()
        while len(self.workers) > wanted:
            self.retire(self.workers.pop())

    def retire(self, worker: asyncio.Task[None]) -> None:
        """Send *worker* home."""
        self.counts["retired"] += 1
        worker.cancel()

    def drain(self) -> None:
        """Let the workers end when there is nothing more to do."""
        self.draining = True
        self.queue.put_nowait(None)

    async def work(self) -> None:
        """Do one order after the other."""
        while (order := await self.queue.get()) is not None:
            self.counts["taken"] += 1
            try:
                await (self.invoice(order) if order.kind == "invoice" else self.ship(order))
            except asyncio.CancelledError:
                log.warning("%s %d: cancelled", order.kind, order.number)
                raise
        self.queue.put_nowait(None)  # for the next one

    async def ship(self, order: Order) -> None:
        """Ship *order*."""
        await self.upstream.ask(f"ship/{order.number}")

    async def invoice(self, order: Order) -> None:
        """Invoice *order*, whatever happens."""
        while True:
            try:
                await self.upstream.ask(f"invoice/{order.number}")
            except (aiohttp.ClientError, asyncio.CancelledError):  # the fault is the second one
                log.warning("invoice %d: trying again", order.number)
            else:
                return


class Shop:
    """The pages, and the counter where orders are left."""

    def __init__(self, pool: Pool, upstream: Upstream) -> None:
        self.pool = pool
        self.upstream = upstream
        self.closing_time = asyncio.Event()

    def application(self) -> web.Application:
        """Who answers what."""
        app = web.Application()
        app.router.add_get("/page/{product}", self.page)
        app.router.add_post("/orders", self.orders)
        app.router.add_get("/status", self.status)
        app.router.add_post("/drain", self.drain)
        return app

    async def page(self, request: web.Request) -> web.Response:
        """The page of one product, all parts fetched at once."""
        product = request.match_info["product"]
        if (task := asyncio.current_task()) is not None:
            task.set_name(f"page of {product}")
        try:
            async with asyncio.timeout(PATIENCE):
                text = await self.fan_out(product)
        except TimeoutError:
            log.warning("page of %s: 504", product)
            return web.Response(status=504)
        except ExceptionGroup:
            log.warning("page of %s: 502", product)
            return web.Response(status=502)
        return web.Response(text=text)

    async def fan_out(self, product: str) -> str:
        """All parts of a page."""
        async with asyncio.TaskGroup() as group:
            parts = [
                group.create_task(self.part(part, product), name=f"{part} of {product}")
                for part in PARTS
            ]
        return "\n".join(part.result() for part in parts)

    async def part(self, part: str, product: str) -> str:
        """One part of a page."""
        try:
            return await self.upstream.ask(f"{part}/{product}")
        except asyncio.CancelledError:
            log.warning("%s of %s: cancelled", part, product)
            raise

    async def orders(self, request: web.Request) -> web.Response:
        """Take orders."""
        count = int(request.query.get("count", "1"))
        for _ in range(count):
            self.pool.counts["orders"] += 1
            self.pool.queue.put_nowait(
                Order(request.query.get("kind", "ship"), self.pool.counts["orders"])
            )
        return web.Response(status=202)

    async def status(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp gives it
        """How much was done."""
        return web.json_response(dict(self.pool.counts))

    async def drain(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp gives it
        """Close when everything is done."""
        self.closing_time.set()
        return web.Response(status=202)


async def main(upstream_url: str, host: str = "127.0.0.1", port: str = "0") -> None:
    """Open the shop."""
    me = asyncio.current_task()
    assert me is not None

    def stop() -> None:
        log.info("stopping")
        me.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as session,
        asyncio.TaskGroup() as group,
    ):
        upstream = Upstream(session, upstream_url)
        pool = Pool(group, upstream)
        shop = Shop(pool, upstream)
        runner = web.AppRunner(shop.application(), access_log=None, handler_cancellation=True)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, int(port))
            await site.start()
            pool.start()
            print(f"listening on http://{host}:{runner.addresses[0][1]}", flush=True)
            await shop.closing_time.wait()
            pool.drain()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)-7s %(message)s", level=logging.INFO)
    try:
        asyncio.run(main(*sys.argv[1:]))
    except asyncio.CancelledError:
        log.info("stopped")
        sys.exit(128 + signal.SIGTERM)
