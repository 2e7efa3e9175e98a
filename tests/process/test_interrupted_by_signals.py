"""Signals in the middle of turning auditing on and off: real ones, at many instants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Runner

PROGRAM = r"""
import asyncio, signal, sys, time
import aioaudit
from aioaudit.exporters.memory import MemoryExporter

CLASSES = (asyncio.Task, asyncio.Future, asyncio.tasks._PyTask, asyncio.futures._PyFuture,
           asyncio.BaseEventLoop, asyncio.SelectorEventLoop, asyncio.Timeout,
           asyncio.AbstractEventLoop, asyncio.CancelledError)


def state():
    tools = [sys.monitoring.get_tool(each) for each in range(6)] if hasattr(sys, "monitoring") else []
    return ([dict(vars(each)) for each in CLASSES], [each.__flags__ & 256 for each in CLASSES],
            id(sys.meta_path), list(sys.meta_path), tools)


came = []


def interrupt(*_):
    came.append(True)
    raise KeyboardInterrupt


def turn_off(*_):
    came.append(True)
    aioaudit.disable()


def turn_on(*_):
    came.append(True)
    aioaudit.enable(seen)


def both(*_):
    came.append(True)
    handle = aioaudit.enable(seen)
    handle.disable()
    aioaudit.enable("sys")
    aioaudit.disable()
    if not unlucky:
        aioaudit.enable(seen)


def record(*_):
    came.append(True)
    try:
        with aioaudit.recording():
            pass
    except RuntimeError as error:
        assert "in the middle of a call" in str(error), error


async def main():
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


seen = MemoryExporter()
off = state()
aioaudit.enable().disable()
lengths = []
for _ in range(20):
    begun = time.perf_counter()
    aioaudit.enable().disable()
    lengths.append(time.perf_counter() - begun)
length = min(lengths)  # how long it takes where nothing comes in between

for handler in (interrupt, turn_off, turn_on, both, record):
    signal.signal(signal.SIGALRM, handler)
    hits = 0
    for number in range(1, TIMES + 1):
        unlucky = number % 2
        came.clear()
        interrupted = False
        try:
            signal.setitimer(signal.ITIMER_REAL, length * 1.5 * number / TIMES)
            handle = aioaudit.enable(seen, slow_cancel=2)
            handle.disable()
        except KeyboardInterrupt:
            interrupted = True
        try:
            while not came:
                time.sleep(0.0001)
        except KeyboardInterrupt:
            pass
        hits += interrupted
        if handler is interrupt or handler is turn_off or handler is record:
            # All that was on was ended, by the handle or because it was interrupted; but for a
            # signal between enable() and the name that is bound to what it gives.
            if state() != off:
                assert handler is interrupt, (handler, number)
        assert (state() == off) == (not hasattr(asyncio.CancelledError, "source")), (handler, number)
        if hasattr(asyncio.CancelledError, "source"):
            asyncio.run(main())
        aioaudit.disable()
        assert state() == off, (handler, number)
        seen.clear()
        with aioaudit.enable(seen):
            asyncio.run(main())
        assert state() == off, (handler, number)
        assert [type(each).__name__ for each in seen.events].count("TaskCancel") == 1
    print(handler.__name__, "interrupted" if hits else "went through")
"""


@pytest.mark.parametrize("times", [100])
def test_a_signal_leaves_auditing_whole_or_off(run_python: Runner, times: int) -> None:
    done = run_python("-c", PROGRAM.replace("TIMES", str(times)))
    # Ctrl-C in a weak reference's callback is told there, by the interpreter, and goes no further.
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "interrupt interrupted",
        *(f"{each} went through" for each in ("turn_off", "turn_on", "both", "record")),
    ]


WAITING = r"""
import asyncio, atexit, os, signal, threading, time
import aioaudit
from aioaudit.events import name_of

begun, go = threading.Event(), threading.Event()


class Slow:
    def export(self, events):
        begun.set()
        go.wait()
        time.sleep(0.1)
        print(*map(name_of, events), flush=True)

    def flush(self):
        pass

    def shutdown(self):
        print("closed", flush=True)


def interrupt():
    while ", on" in repr(handle):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)


handle = aioaudit.enable(Slow(), events="loop.*")
asyncio.run(asyncio.sleep(0))
begun.wait()
threading.Thread(target=interrupt, daemon=True).start()
try:
    handle.disable()
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", hasattr(asyncio.CancelledError, "source"))
atexit.register(go.set)
"""


def test_what_an_exporter_has_is_written_also_where_nobody_waits_for_its_end(
    run_python: Runner,
) -> None:
    done = run_python("-c", WAITING)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "interrupted False"
    assert lines[-2:] == ["process.end", "closed"]
