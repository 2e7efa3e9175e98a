"""arq cancels: a real Redis server, a real worker, jobs that last."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import aioaudit
from aioaudit.trail import Trail
from tests.loops import RUNS
from tests.recognising import about, hang, links, name_task
from tests.servers import redis_server
from tests.waiting import PATIENCE

arq = pytest.importorskip(
    "arq", reason="arq is not installed; it does not go with this redis-py", exc_type=ImportError
)
arq_connections = pytest.importorskip("arq.connections")
arq_worker = pytest.importorskip("arq.worker")

Act = Callable[[Any, Any], Awaitable[None]]


@pytest.fixture
def port() -> Iterator[int]:
    with redis_server() as port:
        yield port


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("arq.worker")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture(params=RUNS)
def record(request: pytest.FixtureRequest, port: int) -> Callable[..., Trail]:
    """Runs a worker with one job, acts on both in the task ``host``, gives what was recorded.

    The worker looks for other jobs until then, and with *polls* until it has ended.
    """

    def run(act: Act, *, polls: bool = False, **options: Any) -> Trail:
        async def job(_context: Any) -> None:
            name_task("job")
            begun.set()
            await asyncio.sleep(60)

        async def body() -> Trail:
            host = asyncio.current_task()
            assert host is not None
            host.set_name("host")
            settings = arq_connections.RedisSettings(
                host="127.0.0.1", port=port, conn_timeout=int(PATIENCE)
            )
            pool = await arq.create_pool(settings)
            with aioaudit.recording() as trail:
                worker = arq_worker.Worker(
                    [arq_worker.func(job, name="job", max_tries=1)],
                    redis_pool=pool,
                    poll_delay=0.05,
                    **options,
                )
                rest = rests(worker)
                running = asyncio.create_task(worker.async_run(), name="worker")
                worker.main_task = running
                queued = await pool.enqueue_job("job")
                while not (begun.is_set() or worker.jobs_failed):  # noqa: ASYNC110 - nothing tells the second
                    await asyncio.sleep(0.005)
                if not polls:
                    await rest()
                await act(worker, queued)
                if polls:
                    await rest()
                running.cancel()
                await asyncio.wait([running])
                _ = trail.events
            await pool.aclose()
            return trail

        begun = asyncio.Event()
        trail: Trail = request.param(body())
        return trail

    return run


def rests(worker: Any) -> Callable[[], Awaitable[None]]:
    """Have *worker* look for no more jobs, once it is asked to.

    redis-py warns of what is cancelled while it talks to the server.
    """
    asked, resting = asyncio.Event(), asyncio.Event()
    look = worker._poll_iteration

    async def looks() -> None:
        if asked.is_set():
            resting.set()
            await hang()
        await look()

    async def rest() -> None:
        asked.set()
        await asyncio.wait_for(resting.wait(), PATIENCE)

    worker._poll_iteration = looks
    return rest


async def job_ended(worker: Any) -> None:
    if worker.tasks:
        await asyncio.wait(list(worker.tasks.values()), timeout=PATIENCE)


def test_a_job_that_takes_too_long_meets_the_deadline_of_its_worker(record: Any) -> None:
    async def act(worker: Any, _queued: Any) -> None:
        await job_ended(worker)

    for seconds in (0.3, 3.0, 30.0):
        trail = record(act, job_timeout=seconds, handle_signals=False)
        answer = trail.why("job")
        if answer is not None:
            break  # else a busy machine took all that time before it began
    root = links(answer)[-1]
    assert (root["what"], root["reason"]) == ("deadline", "timeout")
    assert root["seconds"] == about(seconds)
    assert root["at"].startswith("arq/worker.py")


def test_a_job_that_is_aborted_says_that_somebody_aborted_it(record: Any) -> None:
    async def act(worker: Any, queued: Any) -> None:
        aborting = asyncio.create_task(queued.abort(timeout=30))
        await job_ended(worker)
        assert await aborting

    trail = record(act, polls=True, allow_abort_jobs=True, handle_signals=False)
    said = {"reason": "arq.aborted", "detail": "a process called Job.abort()"}
    assert links(trail.why("job")) == [
        {"what": "cancelled", "name": "job", **said},
        {"what": "called", **said},
    ]


def test_a_job_that_ends_with_its_worker_names_the_line_that_closes_it(record: Any) -> None:
    async def act(worker: Any, _queued: Any) -> None:
        [running] = worker.tasks.values()
        running.set_name("running")
        closing = asyncio.create_task(close(worker), name="closer")
        await asyncio.wait([closing])
        if not closing.cancelled():
            closing.exception()

    async def close(worker: Any) -> None:
        await worker.close()  # LINE closes

    trail = record(act, handle_signals=False)
    said = {"reason": "arq.closed", "at": "closes", "by_name": "closer"}
    said |= {"library": "arq.worker:Worker.close", "library_at": "arq/worker.py"}
    whole = [{"what": "cancelled", "name": "running", **said}, {"what": "called", **said}]
    assert links(trail.why("running")) == whole
    assert links(trail.why("job"))[-2:] == whole


@pytest.mark.parametrize("wait", [0, 1])
def test_a_job_that_a_signal_ends_names_the_signal(record: Any, wait: int) -> None:
    async def act(worker: Any, _queued: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await job_ended(worker)

    trail = record(act, handle_signals=True, job_completion_wait=wait)
    root = links(trail.why("job"))[-1]
    assert (root["what"], root["signal"]) == ("signal", "SIGTERM")
    assert root.get("detail") == ("it had 1 s to end by itself" if wait else None)
