"""Procrastinate cancels: a worker whose jobs are kept in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.recognising import hang, links, name_task, trails
from tests.waiting import PATIENCE

procrastinate: Any = pytest.importorskip("procrastinate", exc_type=ImportError)
testing: Any = pytest.importorskip("procrastinate.testing")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own
trail_of = trails()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_jobs_say_that_somebody_asked_or_that_their_worker_stopped(trail_of: Any) -> None:
    async def scenario() -> None:
        app = procrastinate.App(connector=testing.InMemoryConnector())
        begun = {"aborted": asyncio.Event(), "left": asyncio.Event()}

        @app.task(name="job")  # type: ignore[untyped-decorator]  # of no known type
        async def job(who: str) -> None:
            name_task(who)
            begun[who].set()
            await hang()

        async with app.open_async():
            running = asyncio.create_task(
                app.run_worker_async(
                    fetch_job_polling_interval=0.05,
                    abort_job_polling_interval=0.05,
                    shutdown_graceful_timeout=0.1,
                    install_signal_handlers=False,
                    concurrency=2,
                ),
                name="worker",
            )
            number = await job.defer_async(who="aborted")
            await asyncio.wait_for(begun["aborted"].wait(), PATIENCE)
            [task] = [each for each in asyncio.all_tasks() if each.get_name() == "aborted"]
            await app.job_manager.cancel_job_by_id_async(number, abort=True)
            await asyncio.wait([task], timeout=PATIENCE)
            await job.defer_async(who="left")
            await asyncio.wait_for(begun["left"].wait(), PATIENCE)
            running.cancel()
            await asyncio.wait([running], timeout=PATIENCE)

    trail = trail_of(scenario)
    said = {
        "reason": "procrastinate.aborted",
        "detail": "its abortion was asked for (cancel_job_by_id)",
    }
    assert links(trail.why("aborted")) == [
        {"what": "cancelled", "name": "aborted", **said},
        {"what": "called", **said},
    ]
    root = links(trail.why("left"))[-1]
    assert (root["what"], root["reason"]) == ("called", "procrastinate.shutdown")
    assert root["detail"] == "the worker stops, and shutdown_graceful_timeout (0.1 s) is over"
    assert root["at"] == "procrastinate/worker.py"
