"""What was given to `cancel()` is part of the answer, and can hurt nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import aioaudit
from aioaudit.chain.links import Answer, Link
from aioaudit.chain.links import said as said_by
from aioaudit.chain.recent_requests import RecentRequests, brief
from aioaudit.chain.walk import completed, own_link
from aioaudit.events import Event, TaskCancel
from aioaudit.exporters.lines import Lines
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.exporters.otel.attributes import describe_chain
from aioaudit.text import LIMIT, MARK
from tests.loops import every_loop

Run = Callable[..., Any]


async def waits() -> None:
    await asyncio.sleep(100)


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Wait for the end of *tasks*, each of which is to be cancelled."""
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)


def said(answer: Answer | None) -> list[tuple[str, str | None]]:
    """What happened in each step of *answer*, and the message."""
    assert answer is not None
    return [(link.what, link.message) for link in answer.chain]


@every_loop
def test_the_message_is_in_the_link_of_the_task_and_in_that_of_who_called(run: Run) -> None:
    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(waits(), name="mail")
        await asyncio.sleep(0)
        task.cancel("no more mail")
        await ended(task)
        return task

    with aioaudit.recording() as trail:
        task = run(main())
        answer = trail.why(task)
        [request] = [each for each in trail.events if isinstance(each, TaskCancel)]
    assert said(answer) == [("cancelled", "no more mail"), ("called", "no more mail")]
    assert answer is not None
    assert answer.summary.endswith(" (message: no more mail)")
    assert request.message == request.origin_message == "no more mail"
    assert [own_link(request), answer.root] == answer.chain
    assert brief(answer.root).endswith("message 'no more mail'")


def test_the_chain_of_what_is_cancelled_with_a_task_says_it_in_every_step() -> None:
    inner: list[asyncio.Task[None]] = []

    async def outer() -> None:
        inner.append(asyncio.create_task(waits(), name="inner"))
        await inner[0]

    async def main() -> None:
        task = asyncio.create_task(outer(), name="outer")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel("bye")
        await ended(task)

    with aioaudit.recording() as trail:
        asyncio.run(main())
        assert said(trail.why(inner[0])) == [
            ("cancelled", "bye"),  # asyncio hands it on
            ("cancelled", "bye"),
            ("called", "bye"),
        ]


@pytest.mark.parametrize("events", ["*", "task.cancel"])
def test_what_was_said_to_a_gather_is_at_the_root_of_its_children(events: str) -> None:
    exporter = MemoryExporter()

    async def main() -> None:
        tasks = [asyncio.create_task(waits(), name=f"child {number}") for number in range(2)]
        both = asyncio.gather(*tasks)
        await asyncio.sleep(0)
        both.cancel("enough")
        await ended(*tasks)

    with aioaudit.enable(exporter, events=events):
        asyncio.run(main())
    requests = [each for each in exporter.events if isinstance(each, TaskCancel)]
    assert len(requests) == 2
    recent = RecentRequests()
    for each in exporter.events:
        recent.add(each)
    for request in requests:
        root = recent.steps_of_request(request)[-1].link
        assert (root.what, root.message) == ("called", "enough")


def test_a_bound_cancel_that_a_loop_calls_says_it() -> None:
    async def main() -> list[asyncio.Task[None]]:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(waits(), name=name) for name in ("timer", "thread", "soon")]
        await asyncio.sleep(0)
        loop.call_later(0.001, tasks[0].cancel, "by a timer")
        thread = threading.Thread(
            target=loop.call_soon_threadsafe, args=(tasks[1].cancel, "by a thread")
        )
        thread.start()
        loop.call_soon(tasks[2].cancel, "soon")
        await ended(*tasks)
        thread.join()
        return tasks

    with aioaudit.recording() as trail:
        tasks = asyncio.run(main())
        for task, message in zip(tasks, ("by a timer", "by a thread", "soon"), strict=True):
            assert said(trail.why(task)) == [("cancelled", message), ("called", message)]


def test_what_a_callback_says_is_not_what_was_said_to_the_future_that_it_follows() -> None:
    async def main() -> asyncio.Task[None]:
        followed = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(waits())
        followed.add_done_callback(lambda _: task.cancel("after it"))
        await asyncio.sleep(0)
        followed.cancel()
        await ended(task)
        return task

    with aioaudit.recording() as trail:
        task = asyncio.run(main())
        first, *_, root = said(trail.why(task))
        assert first == ("cancelled", "after it")
        assert root == ("called", None)


def test_what_one_call_said_is_not_said_of_others_of_its_line() -> None:
    """What lines have in common is kept ready, by both cores: a message is in none of that."""
    messages = [None, None, "one", None, "two", "two", None, None, None, "", None]

    def stop(task: asyncio.Task[None], *message: str) -> None:
        task.cancel(*message)

    async def main() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(waits()) for _ in messages]
        await asyncio.sleep(0)
        for task, message in zip(tasks, messages, strict=True):
            stop(task, *([] if message is None else [message]))
        await ended(*tasks)
        return tasks

    with aioaudit.recording() as trail:
        tasks = asyncio.run(main())
        requests = [each for each in trail.events if isinstance(each, TaskCancel)]
        assert [each.message for each in requests] == messages
        assert [each.origin_message for each in requests] == messages
        for task, message in zip(tasks, messages, strict=True):
            assert said(trail.why(task)) == [("cancelled", message), ("called", message)]


def test_a_caller_that_is_not_who_was_asked_by_has_no_message_of_the_other() -> None:
    """The root is another call than the request that it led to: it said what it said."""
    request = TaskCancel(
        ts="2026-01-01T00:00:00.000000Z",
        seq=2,
        run="r",
        pid=1,
        thread="MainThread",
        task=1,
        name="a",
        coro="app:a",
        accepted=True,
        reason="explicit",
        at="a.py:1",
        message="the second",
    )
    caller = Link(what="called", reason="explicit", at="b.py:2", message="the first")
    assert completed(caller, request).message == "the first"
    silent = Link(what="called", reason="explicit", at="b.py:2")
    assert completed(silent, request).message is None
    assert completed(Link(what="called"), request).message == "the second"
    assert completed(Link(what="deadline", seconds=1), request).message is None


def test_the_text_that_an_anyio_scope_makes_up_is_nobody_s_message() -> None:
    """Who cancels a scope may give it a reason, which is told as a detail."""
    for text in ("Cancelled by cancel scope 7f0c", "Cancelled via cancel scope 7f0c; reason: x"):
        assert said_by(text) is None
    for other in (None, "", "Cancelled", "by cancel scope 7f0c"):
        assert said_by(other) == other


class Raises:
    """Its ``repr`` is of no use."""

    def __repr__(self) -> str:
        raise ValueError("no")


class Sly(str):
    """A string that is not what it seems."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1

    def isascii(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> str:
        raise KeyError(key)


HOSTILE: list[Any] = [
    "\x1b[31mred\x1b[0m\x07 \x9b2J",
    "one\ntwo\r\nthree\u2028four\x00",
    "x" * 10_000,
    "\ud800 \udce9 alone",
    "\u202e backwards",
    "because at a.py:1) because (",
    5,
    b"bytes\n",
    ValueError("an error\n"),
    Raises(),
    ["\x1b"] * 10_000,
    Sly("\x1b" * 1_000),
    "",
]


@pytest.fixture(scope="module")
def hostile() -> tuple[list[Event], list[Answer]]:
    """What is told, and answered, of tasks that were cancelled with `HOSTILE`."""

    async def main() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(waits(), name=f"t{at}") for at in range(len(HOSTILE))]
        await asyncio.sleep(0)
        for task, message in zip(tasks, HOSTILE, strict=True):
            task.cancel(message)
        await asyncio.wait(tasks)
        return tasks

    with aioaudit.recording() as trail:
        answers = [trail.why(task) for task in asyncio.run(main())]
        events = list(trail.events)
    return events, [each for each in answers if each is not None]


@pytest.mark.parametrize("at", range(len(HOSTILE)))
def test_a_hostile_message_is_harmless_wherever_it_is_said(
    at: int, hostile: tuple[list[Event], list[Answer]]
) -> None:
    events, answers = hostile
    answer = answers[at]
    assert len(answers) == len(HOSTILE)
    message = answer.root.message
    assert type(message) is str
    assert len(message) <= LIMIT + len(MARK)
    assert all(link.message == message for link in answer.chain)
    message.encode()
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Answer) == answer
    assert "(message: " in answer.summary
    lines = Lines()
    told = [line for event in events if (line := lines.line(event)) is not None]
    attributes: dict[str, Any] = {}
    describe_chain(attributes, answer.chain, answer.summary)
    shown = [
        answer.summary,
        *map(brief, answer.chain),
        *(line.sentence for line in told),
        *attributes["aioaudit.cancel.chain"],
        attributes["aioaudit.cancel.summary"],
    ]
    assert all(text.isprintable() for text in shown)
    assert all(len(text) < 10 * LIMIT for text in shown)
    assert attributes["aioaudit.cancel.root.message"] == message


def test_a_log_may_lie_about_how_long_a_message_is() -> None:
    link = Link(what="called", reason="explicit", at="a.py:1", message="\x1b" * 100_000)
    assert len(brief(link)) < 10 * LIMIT
