"""Turning auditing on and off, interrupted at each of its lines: whole, or not at all."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import aioaudit
from aioaudit import bus, session
from aioaudit.cpython.inplace import IMMUTABLE
from aioaudit.exporters.memory import MemoryExporter

# A file that is open in the very line that is interrupted is closed by the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OWN = str(Path(aioaudit.__file__).parent)
EVERY = 29
"""How many lines lie between two that are tried: all of them take a minute."""

PATCHED: tuple[type[Any], ...] = (
    asyncio.Task,
    asyncio.Future,
    asyncio.tasks._PyTask,  # type: ignore[attr-defined]  # the one made of Python
    asyncio.futures._PyFuture,  # type: ignore[attr-defined]  # the same
    asyncio.BaseEventLoop,
    asyncio.SelectorEventLoop,
    asyncio.AbstractEventLoop,
    asyncio.Timeout,
    asyncio.TaskGroup,
    asyncio.CancelledError,
)


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    """Whatever a test turns on is off after it."""
    yield
    aioaudit.disable()


def state() -> list[object]:
    """All that auditing changes in this process."""
    monitoring: Any = getattr(sys, "monitoring", None)
    return [
        [dict(vars(cls)) for cls in PATCHED],
        [cls.__flags__ & IMMUTABLE for cls in PATCHED],
        id(sys.meta_path),
        list(sys.meta_path),
        [monitoring.get_tool(tool) for tool in range(6)] if monitoring else [],
    ]


class Interruption:
    """Ctrl-C at the line of ours with this number, counted from the call on."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.lines = 0

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(OWN):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self._trace

    def call(self, function: Callable[[], object]) -> bool:
        """Whether *function* was interrupted."""

        def run() -> Iterator[object]:
            # The interpreter of 3.12 and later goes on handling an error whose handler ends in
            # the line that is interrupted by a trace; what a generator handles ends with it.
            yield function()

        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            next(run())
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


kept: list[aioaudit.Auditing] = []
first, second = MemoryExporter(), MemoryExporter()


def turn_on() -> None:
    kept[:] = [aioaudit.enable(first, slow_cancel=3)]


def add() -> None:
    kept[:] = [aioaudit.enable(second, "sys", slow_cancel=5, events="task.*")]


def turn_on_and_add() -> None:
    turn_on()
    add()


def end_the_last() -> None:
    kept[0].disable()


def record() -> None:
    with aioaudit.recording():
        pass


def enter() -> None:
    with kept[0]:
        pass


def add_hook() -> None:
    bus.addaudithook(print)


def nothing() -> None:
    pass


def exporters() -> list[object]:
    """What hears events now, as far as a program can tell."""
    current = session.current()
    if current is None:
        assert not hasattr(asyncio.CancelledError, "source")
        return []
    assert hasattr(asyncio.CancelledError, "source")
    rules = current.recorder.rules
    return [
        [journal.exporter for journal, _ in current.sinks],
        rules.slow_after,
        len(bus.hooks()),
        current.recorder.sender.sinks.present,
        current.recorder.sender.selected_events,
    ]


@pytest.mark.parametrize(
    ("before", "call"),
    [
        (nothing, turn_on),
        (turn_on, add),
        (turn_on, aioaudit.disable),
        (turn_on_and_add, aioaudit.disable),
        (turn_on, end_the_last),
        (turn_on_and_add, end_the_last),
        (turn_on, enter),
        (turn_on, record),
        (nothing, record),
        (turn_on, add_hook),
    ],
)
def test_a_call_that_is_interrupted_anywhere_is_done_or_was_never_made(
    before: Callable[[], None], call: Callable[[], None]
) -> None:
    off = state()
    before()
    was = exporters()
    counting = Interruption()
    assert not counting.call(call)
    done = exporters()
    for hook in bus.hooks():
        bus.remove(hook)
    aioaudit.disable()
    assert state() == off
    for at in range(1, counting.lines + 1, EVERY):
        before()
        interrupted = Interruption(at).call(call)
        now = exporters()
        # What ends something is done to its end, where it had begun; what begins is taken back.
        assert now in (was, done)
        assert interrupted or now == done
        if not now:
            assert state() == off
        for hook in bus.hooks():
            if hook is print:
                bus.remove(hook)
        aioaudit.disable()
        assert (at, state()) == (at, off)
        with aioaudit.enable():
            assert hasattr(asyncio.CancelledError, "source")
        assert (at, state()) == (at, off)


@pytest.mark.parametrize("call", [aioaudit.disable, end_the_last])
def test_what_ends_is_ended_also_where_it_is_interrupted(call: Callable[[], None]) -> None:
    off = state()
    turn_on()
    counting = Interruption()
    counting.call(call)
    for at in range(10, counting.lines + 1, EVERY):
        turn_on()
        Interruption(at).call(call)
        assert (at, state()) == (at, off)
