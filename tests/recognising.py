"""What the tests of recognisers share: a chain as plain links with the labels of lines."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

import aioaudit
from aioaudit.chain.links import Answer
from aioaudit.events import TaskCancel
from aioaudit.trail import Trail
from tests.loops import RUNS
from tests.waiting import PATIENCE

Link = dict[str, Any]
Scenario = Callable[[], Coroutine[Any, Any, Any]]


def trails(*expected: type[BaseException], quiet: bool = False) -> Any:
    """A fixture, to be named ``trail_of``: it runs a scenario, once for each kind of loop.

    The scenario runs as the task ``host``, and what was recorded is given.  With *quiet* the
    loop's handler of exceptions keeps still, of which a library makes use.

    Raises:
        AssertionError: The scenario raised something else than *expected*; where nothing is
            expected, whatever it raises is all right.
    """

    @pytest.fixture(params=RUNS)
    def trail_of(request: pytest.FixtureRequest) -> Callable[[Scenario], Trail]:
        async def body(scenario: Scenario) -> Trail:
            if quiet:
                asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            with aioaudit.recording() as trail:
                task = asyncio.create_task(scenario(), name="host")
                await asyncio.wait([task], timeout=PATIENCE)
                assert task.done()
                if not task.cancelled() and (error := task.exception()) is not None:
                    assert isinstance(error, expected or BaseException), error
                _ = trail.events
            return trail

        def run(scenario: Scenario) -> Trail:
            trail: Trail = request.param(body(scenario))
            return trail

        return run

    return trail_of


async def hang(*_: Any) -> None:
    """Wait for something that never comes, whatever it is called with."""
    await asyncio.sleep(60)


def name_task(name: str) -> None:
    """Give the current task a *name*, where a library has made it."""
    task = asyncio.current_task()
    assert task is not None
    task.set_name(name)


def accepted(trail: Trail) -> list[TaskCancel]:
    """All requests to cancel that tasks took."""
    return [each for each in trail.events if isinstance(each, TaskCancel) and each.accepted]


async def ask(port: int, path: str = "/") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send an HTTP request for *path* to *port* of this machine, and wait for nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return reader, writer


def links(answer: Answer | None, file: Path | str | None = None) -> list[Link]:
    """The whole chain of *answer*: what each link says, but for ids of tasks.

    A line of *file* (of the calling test file, as a rule) that ends in ``# LINE label``
    is told as its label; a line of an installed package as the file's path in
    ``site-packages``.
    """
    assert answer is not None, "nothing is known"
    assert answer.root == answer.chain[-1]
    if file is None:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        file = frame.f_back.f_code.co_filename
    labels = {
        f"{file}:{number}": match[1]
        for number, line in enumerate(Path(file).read_text().splitlines(), 1)
        if (match := re.search(r"# LINE (\w+)$", line))
    }
    found: list[Link] = []
    for link in answer.chain:
        told = {
            key: value
            for key, value in msgspec.structs.asdict(link).items()
            if value is not None and key not in ("task", "source")
        }
        if "at" in told:
            told["at"] = labels.get(told["at"]) or _library(told["at"])
        if "library_at" in told:
            told["library_at"] = _library(told["library_at"])
        found.append(told)
    return found


def done_by(answer: Answer | None, cls: str) -> dict[str, str]:
    """What links say of the method of *cls* that called; which one it is depends on the version."""
    assert answer is not None
    assert (answer.root.library or "").startswith(f"{cls}.")
    file = cls.partition(":")[0].replace(".", "/") + ".py"
    return {"library": answer.root.library or "", "library_at": file}


def acting(answer: Answer | None, package: str) -> dict[str, str]:
    """The same of any function of *package*, whatever its modules are called."""
    assert answer is not None
    assert answer.root.library is not None
    module, _, _ = answer.root.library.partition(":")
    assert module.partition(".")[0] == package
    return {"library": answer.root.library, "library_at": module.replace(".", "/") + ".py"}


class About:
    """So many seconds written, of which others may have used some before the entry of the scope.

    What is told is what was left at that moment; on a busy machine that is less than what stands
    in the source.  It is never more but for one tick of uvloop's clock, which counts whole
    milliseconds: a deadline is set at one tick and its scope may be entered at the next.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int | float):
            return NotImplemented
        return 0 < other <= self._seconds + 0.0011

    __hash__ = None  # type: ignore[assignment]  # equal to many, so in no set

    def __repr__(self) -> str:
        return f"about({self._seconds})"


def about(seconds: float) -> Any:
    """*seconds*, as an answer may tell them: see `About`."""
    return About(seconds)


def _library(at: str) -> str:
    path, _, number = at.rpartition(":")
    inside = re.search(r"site-packages/(.*)", path)
    return inside[1] if inside else f"{path}:{number}"
