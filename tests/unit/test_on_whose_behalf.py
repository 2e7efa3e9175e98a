"""A cancellation that a library makes has two lines: the library's, and whose behalf it was on."""

from __future__ import annotations

import asyncio
import importlib.util
import operator
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import msgspec
import pytest

import aioaudit
from aioaudit.chain.links import Answer
from aioaudit.chain.recent_requests import brief
from aioaudit.events import Finding, FutureCancel, TaskCancel
from aioaudit.exporters.lines import Lines
from aioaudit.exporters.otel.attributes import of_request
from aioaudit.findings.words import particulars
from aioaudit.probes import loops
from aioaudit.text import in_package
from tests.loops import every_loop

LIBRARY = """
import asyncio
import functools

class Worker:
    def __init__(self, *tasks):
        self.tasks = tasks

    def cancel(self):
        for task in self.tasks:
            task.cancel()

    def _cancel_all(self):
        self.cancel()

    def abort(self):
        self._cancel_all()  # ABORT

    async def cancel_on_finish(self, coro):
        await coro
        self._cancel_all()  # FINISH

    def cancel_jobs(self):
        self.abort()

    async def process(self):
        await asyncio.sleep(0)
        self.abort()  # PROCESS

    async def process_safely(self):
        try:
            await asyncio.sleep(60)
        finally:
            self._cancel_all()  # SAFELY

    async def process_within(self, seconds):
        try:
            async with asyncio.timeout(seconds):
                await self.tasks[0]
        except TimeoutError:
            pass

    async def serve(self):
        await asyncio.gather(self.process())

    def end_after(self, seconds):
        for task in self.tasks:
            asyncio.get_running_loop().call_later(seconds, task.cancel)  # LATER

def call(function, *args):
    function(*args)

def end(task):
    task.cancel()  # END
"""

Run = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    aioaudit.disable()


@pytest.fixture
def library(tmp_path: Path) -> ModuleType:
    """A package as it is installed, that nobody has a recogniser for."""
    file = tmp_path / "site-packages" / "saqish" / "worker.py"
    file.parent.mkdir(parents=True)
    file.write_text(LIBRARY)
    spec = importlib.util.spec_from_file_location("saqish.worker", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(label: str) -> str:
    """The line of the library that ends in the comment *label*, from its package on."""
    (number,) = [
        number for number, each in enumerate(LIBRARY.splitlines(), 1) if each.endswith(f"# {label}")
    ]
    return f"saqish/worker.py:{number}"


def here(label: str) -> str:
    """``path:line`` of this file's line that ends in the comment *label*."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [number for number, each in enumerate(lines, 1) if each.endswith(f"# {label}")]
    return f"{__file__}:{number}"


def through(told: Any) -> tuple[str, str] | None:
    """The library's function and its line in *told*, a link or an event."""
    if told.library is None:
        assert told.library_at is None
        return None
    return told.library, in_package(told.library_at)


async def waits() -> None:
    await asyncio.sleep(60)


async def started(*names: str) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(waits(), name=name) for name in names]
    await asyncio.sleep(0)
    return tasks


async def ended(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def of_log(events: list[Any], folder: Path, name: str) -> Answer:
    """What a log of *events* answers for the task *name*."""
    file = folder / "log.jsonl"
    file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    (answer,) = aioaudit.load(file).why(name)
    return answer


@every_loop
def test_the_answer_says_who_did_it_and_on_whose_behalf(
    run: Run, library: ModuleType, tmp_path: Path
) -> None:
    async def main() -> list[Answer | None]:
        answers: list[Answer | None] = []
        for _ in range(3):
            (task,) = await started("job")
            await library.Worker(task).process()  # JOB
            await ended(task)
            answers.append(aioaudit.why(task))
        return answers

    with aioaudit.recording() as trail:
        live = run(main())
        requests = [each for each in trail.events if isinstance(each, TaskCancel)]
        events = list(trail.events)
    function = f"{main.__module__}:{main.__qualname__}"
    at = here("JOB")
    for request in requests[:3]:
        assert (request.at, request.source) == (at, function)
        assert through(request) == ("saqish.worker:Worker.process", line("PROCESS"))
        assert request.origin_library == request.library
        assert request.origin_library_at == request.library_at
    summary = (
        f"waits (job) was cancelled because saqish.worker:Worker.process ({line('PROCESS')}) "
        f"cancelled it, called from {function} at {at} in task {requests[0].by_name}"
    )
    first = [each for each in events if getattr(each, "task", None) != requests[1].task]
    first = [each for each in first if getattr(each, "task", None) != requests[2].task]
    for answer in (*live, of_log(first, tmp_path, "job")):
        assert answer is not None
        assert answer.summary == summary
        root = answer.root
        assert (root.what, root.at, root.source) == ("called", at, function)
        for link in answer.chain:
            assert through(link) == ("saqish.worker:Worker.process", line("PROCESS"))


@every_loop
def test_what_only_cancels_for_its_caller_is_not_who_did_it(run: Run, library: ModuleType) -> None:
    async def main() -> None:
        cancel, cancel_all, abort, finish, jobs = tasks = await started(*"abcde")
        library.Worker(cancel).cancel()
        library.Worker(cancel_all)._cancel_all()
        library.Worker(abort).abort()
        library.Worker(jobs).cancel_jobs()
        await library.Worker(finish).cancel_on_finish(asyncio.sleep(0))
        await ended(*tasks)

    with aioaudit.recording() as trail:
        run(main())
        found = {each.name: through(each) for each in trail.events if isinstance(each, TaskCancel)}
    assert found == {
        "a": None,
        "b": None,
        # Nobody finds a cancel() there: it is the best that there is.
        "c": ("saqish.worker:Worker.abort", line("ABORT")),
        "d": ("saqish.worker:Worker.cancel_on_finish", line("FINISH")),
        "e": None,  # whatever it calls: the line has the word
    }


@every_loop
def test_a_line_that_calls_now_by_itself_and_now_by_a_library_is_told_as_it_was(
    run: Run, library: ModuleType
) -> None:
    async def main() -> None:
        tasks = await started(*map(str, range(12)))
        cancel: Callable[[Any], object] = operator.methodcaller("cancel")
        ways: list[Callable[[Any], object]] = [library.end, cancel]
        for number, task in enumerate(tasks):
            ways[number % 2](task)  # ANY
        await ended(*tasks)

    with aioaudit.recording() as trail:
        run(main())
        requests = [each for each in trail.events if isinstance(each, TaskCancel)][:12]
    for number, each in enumerate(requests):
        expected = [("saqish.worker:end", line("END")), None][number % 2]
        assert through(each) == expected, number
        assert each.at == here("ANY")


@every_loop
def test_where_no_line_of_the_application_is_on_the_stack_the_librarys_is_the_only_one(
    run: Run, library: ModuleType
) -> None:
    async def main() -> None:
        (task,) = await started("job")
        await library.Worker(task).serve()
        await ended(task)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("job")
    assert answer is not None
    assert through(answer.root) is None
    assert answer.root.source == "saqish.worker:Worker.cancel"


@every_loop
def test_a_cause_that_is_known_is_the_answer(run: Run, library: ModuleType) -> None:
    async def main() -> None:
        (task,) = await started("job")
        await library.Worker(task).process_within(0.01)
        await ended(task)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("job")
        requests = [e for e in trail.events if isinstance(e, TaskCancel | FutureCancel)]
    assert answer is not None
    assert answer.root.what == "deadline"
    assert [through(each) for each in (*answer.chain, *requests)] == [None] * (
        len(answer.chain) + len(requests)
    )


@every_loop
def test_a_library_that_cleans_up_has_its_line_in_the_chain(run: Run, library: ModuleType) -> None:
    async def serve(job: asyncio.Task[None]) -> None:
        await library.Worker(job).process_safely()

    async def main() -> None:
        (job,) = await started("job")
        task = asyncio.create_task(serve(job), name="server")
        await asyncio.sleep(0)
        task.cancel()  # STOP
        await ended(task, job)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("job")
    assert answer is not None
    job, server, root = answer.chain
    assert through(job) == ("saqish.worker:Worker.process_safely", line("SAFELY"))
    assert (through(server), through(root), root.at) == (None, None, here("STOP"))
    assert f"through saqish.worker:Worker.process_safely ({line('SAFELY')})" in brief(job)


@every_loop
def test_a_timer_that_a_library_set_has_its_line_and_that_of_who_wanted_it(
    run: Run, library: ModuleType
) -> None:
    async def main() -> None:
        (task,) = await started("job")
        library.Worker(task).end_after(0.01)  # WANTED
        await ended(task)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("job")
    assert answer is not None
    assert answer.root.at == here("WANTED")
    assert through(answer.root) == ("saqish.worker:Worker.end_after", line("LATER"))


@every_loop
def test_a_timer_is_known_where_its_thread_had_to_wait_while_it_was_set(run: Run) -> None:
    waited: list[str] = []

    def wait(frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_code.co_name != "note_timer":
            return None
        if event == "line" and not waited:
            waited.append(frame.f_code.co_filename)
            time.sleep(0.1)
        return wait

    async def main() -> None:
        (task,) = await started("job")
        loop = asyncio.get_running_loop()
        before = sys.gettrace()
        sys.settrace(wait)
        try:
            loop.call_later(0.2, task.cancel)  # WAITED
        finally:
            sys.settrace(before)
        await ended(task)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("job")
    assert waited == [loops.__file__]
    assert answer is not None
    assert answer.root.at == here("WAITED")


@every_loop
@pytest.mark.parametrize("how", ["add_signal_handler", "signal"])
def test_a_signals_handler_that_calls_a_library_has_both_lines_too(
    run: Run, library: ModuleType, how: str
) -> None:
    async def main() -> None:
        (task,) = await started("job")

        def handler(*_: object) -> None:
            library.Worker(task).abort()  # HANDLER

        loop = asyncio.get_running_loop()
        before = signal.getsignal(signal.SIGUSR1)
        if how == "signal":
            signal.signal(signal.SIGUSR1, handler)
        else:
            loop.add_signal_handler(signal.SIGUSR1, handler)
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            await ended(task)
        finally:
            if how != "signal":
                loop.remove_signal_handler(signal.SIGUSR1)
            signal.signal(signal.SIGUSR1, before)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("job")
    assert answer is not None
    for link in answer.chain:
        assert link.at == here("HANDLER")
        assert through(link) == ("saqish.worker:Worker.abort", line("ABORT"))
    assert answer.summary == (
        f"waits (job) was cancelled because the process received SIGUSR1 (handler at "
        f"{here('HANDLER')}, by saqish.worker:Worker.abort ({line('ABORT')}))"
    )


@every_loop
def test_a_librarys_thread_has_both_lines_too(run: Run, library: ModuleType) -> None:
    async def main() -> None:
        (task,) = await started("job")
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()

        def elsewhere() -> None:
            library.Worker(task).abort()  # THREAD
            loop.call_soon_threadsafe(asked.set)

        thread = threading.Thread(target=elsewhere, name="helper")
        thread.start()
        await asked.wait()
        thread.join()
        await ended(task)

    with aioaudit.recording() as trail:
        run(main())
        answer = trail.why("job")
        findings = [each for each in trail.events if isinstance(each, Finding)]
    assert answer is not None
    assert (answer.root.reason, answer.root.at) == ("thread", here("THREAD"))
    assert through(answer.root) == ("saqish.worker:Worker.abort", line("ABORT"))
    assert answer.summary.endswith(f"elsewhere at {here('THREAD')} in thread helper")
    (finding,) = [each for each in findings if each.kind == "wrong_thread"]
    assert through(finding) == ("saqish.worker:Worker.abort", line("ABORT"))
    asked, *_ = particulars(finding)
    assert asked.startswith(
        f"asked to cancel by saqish.worker:Worker.abort ({line('ABORT')}), called from "
    )


@every_loop
def test_exporters_tell_both(run: Run, library: ModuleType) -> None:
    async def main() -> None:
        (task,) = await started("job")
        await library.Worker(task).process()
        await ended(task)

    with aioaudit.recording() as trail:
        run(main())
        (request, *_) = [each for each in trail.events if isinstance(each, TaskCancel)]
    attributes = of_request(request)
    assert attributes["aioaudit.cancel.library"] == "saqish.worker:Worker.process"
    assert in_package(str(attributes["aioaudit.cancel.library_at"])) == line("PROCESS")
    told = Lines().line(request)
    assert told is not None
    assert told.keys["library"] == told.keys["root_library"] == "saqish.worker:Worker.process"
    assert told.keys["library_at"] == told.keys["root_library_at"] == request.library_at
