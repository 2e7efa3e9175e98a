"""taskiq cancels: a receiver, as its worker has one, on a broker in memory that keeps a queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator
from functools import partial
from typing import Any

import pytest

from tests.recognising import about, hang, links, name_task, trails
from tests.waiting import PATIENCE

taskiq: Any = pytest.importorskip("taskiq")
receivers: Any = pytest.importorskip("taskiq.receiver")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own
trail_of = trails()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Broker(taskiq.AsyncBroker):  # type: ignore[misc]  # of no known type
    """Messages of one process."""

    def __init__(self) -> None:
        """Begin with no message."""
        super().__init__()
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()

    async def kick(self, message: Any) -> None:
        """Send one."""
        await self.messages.put(message.message)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """Receive all."""
        while True:
            yield await self.messages.get()


def test_a_task_that_takes_too_long_meets_its_timeout_and_a_receiver_ends_its_own(
    trail_of: Any,
) -> None:
    async def scenario(seconds: float) -> None:
        broker = Broker()
        broker.is_worker_process = True
        ended = asyncio.Event()

        @broker.task(timeout=seconds)  # type: ignore[untyped-decorator]  # of no known type
        async def job() -> None:
            name_task("job")
            try:
                await hang()
            finally:
                ended.set()

        stop = asyncio.Event()
        receiver = receivers.Receiver(broker, max_async_tasks=2)
        listening = asyncio.create_task(receiver.listen(stop), name="listener")
        await job.kiq()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), 20 * seconds)
        stop.set()
        await asyncio.wait([listening], timeout=PATIENCE)

    for seconds in (0.1, 1.0, 10.0):
        trail = trail_of(partial(scenario, seconds))
        answer = trail.why("job")
        if answer is not None:
            break  # else a busy machine took all that time before it began
    root = links(answer)[-1]
    assert (root["what"], root["seconds"]) == ("deadline", about(seconds))
    ours = [each for each in trail.answers() if each.name != "job"]
    assert {links(each)[-1].get("reason") for each in ours} == {"taskiq.done"}
