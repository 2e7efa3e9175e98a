"""The exporter's thread, and what a process does with signals and at its end."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

import pytest

BLOCKED = """
import os, signal
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.identity import Run
from aioaudit.delivery.pipeline import Pipeline

run = Run()
pipeline = Pipeline(MemoryExporter(), name="memory", run=run, start=run.start_event([]))
pipeline.open_now()
assert pipeline.flush()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.kill(os.getpid(), signal.SIGUSR1)
print(signal.sigtimedwait({signal.SIGUSR1}, 2).si_signo == signal.SIGUSR1)
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signal masks")
def test_a_signal_that_the_program_blocks_stays_pending(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python("-c", BLOCKED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


SLOW_TO_BEGIN = """
import os, signal, sys, time
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.identity import Run
from aioaudit.delivery.pipeline import Pipeline

signals = {signal.SIGUSR1, signal.SIGTERM}
for each in signals:
    signal.signal(each, lambda number, frame: print("handled by our thread"))
sys.setswitchinterval(1000)  # the new thread gets no GIL while this one works
run = Run()
pipeline = Pipeline(MemoryExporter(), name="memory", run=run, start=run.start_event([]))
before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
pipeline.open_now()
after = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
# From here on only the new thread could take them, and has time to.
for each in signals:
    os.kill(os.getpid(), each)
end = time.monotonic() + 0.2
while time.monotonic() < end:
    pass
print(before == after, signal.sigpending() == signals)
print({signal.sigtimedwait(signals, 5).si_signo for _ in signals} == signals)
sys.setswitchinterval(0.005)
print(pipeline.shutdown())
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signal masks")
def test_no_signal_is_lost_to_a_thread_that_has_only_just_begun(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python("-c", SLOW_TO_BEGIN)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\nTrue\nTrue\n", "")


AT_THE_END = """
import atexit, sys
from aioaudit.events import LoopStart
from aioaudit.exporters.jsonl import JsonlExporter
from aioaudit.identity import Run
from aioaudit.delivery.pipeline import Pipeline

run = Run()
pipeline = Pipeline(JsonlExporter(sys.stdout), name="jsonl", run=run, start=run.start_event([]))

def last_words():
    pipeline.put(LoopStart(ts="", seq=run.next_seq(), run=run.id, pid=run.pid, thread="t"))
    assert pipeline.flush()
    assert pipeline.shutdown()

atexit.register(last_words)
"""


def test_where_no_thread_can_be_started_any_more_the_caller_exports(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python("-W", "error", "-c", AT_THE_END)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split('"')[3] for line in done.stdout.splitlines()] == [
        "process.start",
        "loop.start",
        "process.end",
    ]
