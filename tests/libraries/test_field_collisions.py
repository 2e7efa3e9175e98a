"""Two requests become one CancelledError, and the first is taken back: what services under load do.

Each program was found in the field.  Whoever asks after the first request's owner has taken
its own back is told the one behind it: the rest of the task, its siblings, what it cancels.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aioaudit
from aioaudit.chain.links import Answer, Link
from aioaudit.chain.summary import is_known
from tests.loops import BY_NAME, NAMES, needs_uvloop
from tests.random_trees import answers_of

if TYPE_CHECKING:
    from tests.conftest import Runner

anyio = pytest.importorskip("anyio")

every_loop = pytest.mark.parametrize("loop", NAMES)

SEEN = sys.version_info >= (3, 12)
"""Whether the arrival of a CancelledError is seen."""

LINES = {
    match[1]: number
    for number, line in enumerate(Path(__file__).read_text().splitlines(), 1)
    if (match := re.search(r"# LINE (\w+)$", line))
}


def is_at(root: Link, what: str, label: str) -> bool:
    """Whether *root* says *what*, at the line of this file with this label."""
    return root.what == what and root.at == f"{__file__}:{LINES[label]}"


def as_seen(answer: Answer | None, what: str, label: str) -> bool:
    """Whether *answer* ends at that line; where no delivery is seen it may say that it knows none."""
    if answer is None or not is_known(answer.root):
        return not SEEN
    return is_at(answer.root, what, label)


async def forever() -> None:
    await asyncio.sleep(3600)


def block_until(loop: asyncio.AbstractEventLoop, when: float) -> None:
    """Keep the loop busy until *when*, its time, is past: all timers till then run in one turn."""
    time.sleep(max(0.0, when - loop.time()) + 0.003)


def set_in_one_go(loop: asyncio.AbstractEventLoop, since: float) -> bool:
    """Whether timers that were set from *since* on run in the order of their times.

    A timer of uvloop runs late by what the machine let pass as it was set, each by its own.
    """
    return loop.time() - since < 0.004


def by_name(answers: dict[int, Answer]) -> dict[str, Answer]:
    return {answer.name: answer for answer in answers.values()}


# -- a timeout and a deploy in one turn ----------------------------------------------------


@every_loop
@pytest.mark.parametrize("first", ["timeout", "deploy"])
def test_the_siblings_are_told_the_request_that_keeps_the_error_going(
    loop: str, first: str
) -> None:
    helped: list[asyncio.Task[None]] = []

    async def background() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            helped[0].cancel()
            raise

    async def page(limits: list[asyncio.Timeout]) -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(background(), name="background")
            async with asyncio.timeout(1000) as limit:  # LINE the_inner_timeout
                limits.append(limit)
                await forever()

    async def main() -> None:
        here = asyncio.get_running_loop()
        limits: list[asyncio.Timeout] = []
        helped.append(asyncio.create_task(forever(), name="helped"))
        victim = asyncio.create_task(page(limits), name="victim")
        await asyncio.sleep(0)
        shift = 0.005 if first == "timeout" else -0.005
        while True:
            due = here.time() + 0.02
            limits[0].reschedule(due)
            deploy = here.call_at(due + shift, victim.cancel, "deploy")  # LINE deploy
            if set_in_one_go(here, due - 0.02):
                break
            deploy.cancel()
        block_until(here, due + 0.005)
        await asyncio.wait([victim])
        assert victim.cancelled()
        assert limits[0].expired()
        await asyncio.wait(helped)

    with aioaudit.recording() as trail:
        BY_NAME[loop].run(main())
        answers = by_name(answers_of(trail.events))
    assert answers.keys() == {"victim", "background", "helped"}
    for answer in answers.values():
        assert as_seen(answer, "called", "deploy"), answer.chain
    if SEEN:
        assert [link.name for link in answers["helped"].chain[:-1]] == [
            "helped",
            "background",
            "victim",
        ]
    assert answers["victim"].cancel_outcome == "obeyed"


# -- a scope that is left, and a timeout around it -----------------------------------------


@every_loop
@pytest.mark.parametrize("where", ["except", "finally"])
def test_an_error_that_outlives_the_scope_it_came_from_is_the_timeouts(
    loop: str, where: str
) -> None:
    told: list[tuple[str, Any, Answer | None]] = []
    scopes: list[Any] = []

    def ask(error: BaseException | None, when: str) -> None:
        assert isinstance(error, asyncio.CancelledError)
        told.append((when, aioaudit.source(error), aioaudit.why(error)))

    async def inside(helper: asyncio.Task[None]) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            try:
                await forever()
            except asyncio.CancelledError as error:
                ask(error, "inside")
                helper.cancel()
                raise

    def stop(scope: Any) -> None:
        scope.cancel()  # LINE the_scope

    async def page(helpers: list[asyncio.Task[None]], limits: list[asyncio.Timeout]) -> None:
        async with asyncio.timeout(1000) as limit:  # LINE the_timeout
            limits.append(limit)
            if where == "except":
                try:
                    await inside(helpers[0])
                except asyncio.CancelledError as error:
                    ask(error, "outside")
                    helpers[1].cancel()
                    raise
            else:
                try:
                    await inside(helpers[0])
                finally:
                    ask(sys.exception(), "outside")
                    helpers[1].cancel()

    async def careful(helpers: list[asyncio.Task[None]], limits: list[asyncio.Timeout]) -> None:
        try:
            await page(helpers, limits)
        except TimeoutError:
            helpers[2].cancel()  # LINE afterwards

    async def main() -> None:
        here = asyncio.get_running_loop()
        names = ("inside", "outside", "afterwards")
        helpers = [asyncio.create_task(forever(), name=name) for name in names]
        limits: list[asyncio.Timeout] = []
        victim = asyncio.create_task(careful(helpers, limits), name="victim")
        await asyncio.sleep(0)
        while True:
            due = here.time() + 0.02
            stopping = here.call_at(due - 0.01, stop, scopes[0])
            limits[0].reschedule(due)
            if set_in_one_go(here, due - 0.02):
                break
            stopping.cancel()
        block_until(here, due)
        await asyncio.wait([victim, *helpers])
        assert not victim.cancelled()
        assert victim.exception() is None

    with aioaudit.recording() as trail:
        BY_NAME[loop].run(main())
        answers = by_name(answers_of(trail.events))
    assert answers.keys() == {"victim", "inside", "outside", "afterwards"}
    assert as_seen(answers["inside"], "called", "the_scope"), answers["inside"].chain
    assert as_seen(answers["outside"], "deadline", "the_timeout"), answers["outside"].chain
    assert as_seen(answers["victim"], "deadline", "the_timeout"), answers["victim"].chain
    root = answers["afterwards"].root
    assert is_at(root, "called", "afterwards"), root
    assert root.detail is not None
    assert root.detail.startswith("while handling TimeoutError")
    for when, source, answer in told:
        check_told(when, source, answer, answers[when])


def check_told(when: str, source: str | None, answer: Answer | None, helper: Answer) -> None:
    """What was said inside the ``except`` or ``finally``: of the error, and of what it cancelled."""
    function, what, label = {
        "inside": ("stop", "called", "the_scope"),
        "outside": ("page", "deadline", "the_timeout"),
    }[when]
    assert as_seen(answer, what, label), answer
    if source is not None or SEEN:
        assert source is not None
        assert source.endswith(f".{function}"), (when, source)
    if answer is not None:
        assert helper.chain[1:] == answer.chain


# -- requests under load ---------------------------------------------------------------------

UNDER_LOAD = """\
import asyncio
import contextlib
import random
import sys
import time


async def by_httpx(port):
    import httpx

    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        await client.get(f"http://127.0.0.1:{port}/")


async def by_anyio(port):
    import anyio

    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.receive()


async def by_asyncio(port):
    reader, writer = await asyncio.open_connection(
        "localhost", port, happy_eyeballs_delay=0.001, interleave=1
    )
    try:
        await reader.read()
    finally:
        writer.close()


async def serve(reader, writer):
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await reader.read()
    writer.close()


async def one(ask, port, seconds):
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # the limit
            await ask(port)
            raise AssertionError("nobody answers")


async def busy():
    chance = random.Random(7)
    while True:
        time.sleep(chance.random() * 0.004)
        await asyncio.sleep(0)


async def main():
    ask = globals()["by_" + sys.argv[1]]
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    load = asyncio.create_task(busy(), name="load")
    for turn in range(8):
        tasks = [
            asyncio.create_task(one(ask, port, 0.02 + 0.002 * each), name=f"ask{turn}-{each}")
            for each in range(25)
        ]
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()
    load.cancel()
    server.close()


if sys.argv[2] == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "loop"),
    [
        ("httpx", "asyncio"),
        pytest.param("httpx", "uvloop", marks=needs_uvloop),
        ("anyio", "asyncio"),
        pytest.param("anyio", "uvloop", marks=needs_uvloop),
        ("asyncio", "asyncio"),  # uvloop has no happy eyeballs
    ],
)
def test_a_request_that_ran_into_its_timeout_is_never_told_a_race_of_connections(
    run_python: Runner, tmp_path: Path, library: str, loop: str
) -> None:
    pytest.importorskip(library)
    program, log = tmp_path / "app.py", tmp_path / "log.jsonl"
    program.write_text(UNDER_LOAD)
    done = run_python("app.py", library, loop, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log))
    assert (done.returncode, done.stderr) == (0, "")
    [limit] = [
        number
        for number, line in enumerate(UNDER_LOAD.splitlines(), 1)
        if line.endswith("# the limit")
    ]
    asked = {
        answer.name: answer for answer in aioaudit.load(log).why() if answer.name.startswith("ask")
    }
    assert len(asked) == 200
    wrong = {
        name: answer.root
        for name, answer in asked.items()
        if (answer.root.what, answer.cancel_outcome) != ("deadline", "absorbed")
        or not (answer.root.at or "").endswith(f"app.py:{limit}")
    }
    assert wrong == {}
