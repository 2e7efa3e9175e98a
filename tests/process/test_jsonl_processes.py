"""Lines of JSON from processes: forked ones, several at one file or pipe, one on a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from aioaudit.events import AnyEvent, ProcessStart, TaskCancel, TaskCreate, TaskDone
from tests.logs import read
from tests.waiting import PATIENCE

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


FORK = """
import os, sys
from aioaudit.exporters.jsonl import JsonlExporter
from aioaudit.identity import Run

exporter = JsonlExporter(sys.argv[1])
exporter.export([Run().start_event(["parent"])])
exporter._lock.acquire()  # as if another thread were exporting just now
for number in range(3):
    if os.fork() == 0:
        exporter.export([Run().start_event([f"child {number}"])])
        os._exit(0)
    os.wait()
exporter._lock.release()
exporter.export([Run().start_event(["parent again"])])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(("name", "files"), [("log.jsonl", 1), ("log-{pid}.jsonl", 4)])
def test_a_forked_child_opens_a_file_of_its_own_or_shares_the_one(
    tmp_path: Path, run_python: RunPython, name: str, files: int
) -> None:
    done = run_python("-c", FORK, str(tmp_path / name))
    assert (done.returncode, done.stderr) == (0, "")
    paths = list(tmp_path.glob("log*"))
    assert len(paths) == files
    events = [each for path in paths for each in read(path)]
    assert sorted(each.coverage[0] for each in events if isinstance(each, ProcessStart)) == [
        "child 0",
        "child 1",
        "child 2",
        "parent",
        "parent again",
    ]
    if files == 4:
        for path in paths:
            assert {each.pid for each in read(path)} == {int(path.stem.removeprefix("log-"))}


FORK_IN_THE_FIRST_STEP = """
import asyncio, os, sys
import aioaudit

async def first_step():
    task = asyncio.current_task()
    pid = os.fork()
    if pid == 0:  # where asyncio knows of no running loop
        task.cancel()
        aioaudit.disable()
        os._exit(0)
    os.waitpid(pid, 0)

async def main():
    for number in range(2):
        await asyncio.Task(first_step(), loop=asyncio.get_running_loop(), eager_start=True)

aioaudit.enable("jsonl", jsonl_path=sys.argv[1])
asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with CPython 3.12")
def test_a_task_that_forks_in_its_first_step_has_its_name_in_both_processes(
    tmp_path: Path, run_python: RunPython
) -> None:
    log = tmp_path / "log-{pid}.jsonl"
    done = run_python("-W", "ignore", "-c", FORK_IN_THE_FIRST_STEP, str(log))
    assert (done.returncode, done.stderr) == (0, "")
    events = [each for path in tmp_path.glob("log*") for each in read(path)]
    for kind in (TaskCreate, TaskCancel, TaskDone):
        found = [each for each in events if isinstance(each, kind) and "first_step" in each.coro]
        assert sorted(each.name for each in found) == ["Task-2", "Task-3"]


WRITER = """
import os, sys
from aioaudit.events import LoopStart
from aioaudit.exporters.jsonl import JsonlExporter
from aioaudit.identity import Run

run = Run()
exporter = JsonlExporter(sys.argv[1])
exporter.export([run.start_event([])])
for _ in range(100):
    exporter.export([
        LoopStart(ts="x" * (1 + seq % 500), seq=run.next_seq(), run=run.id, pid=run.pid, thread="t")
        for seq in range(20)
    ])
"""


def test_processes_that_share_a_file_never_mix_their_lines(
    tmp_path: Path, audited_python: str
) -> None:
    path = tmp_path / "log.jsonl"
    writers = [
        subprocess.Popen([audited_python, "-c", WRITER, str(path)], env=bare_environ())
        for _ in range(4)
    ]
    assert [each.wait(PATIENCE) for each in writers] == [0, 0, 0, 0]
    events = read(path)
    assert len(events) == 4 * 2001
    for run in {each.run for each in events}:
        assert [each.seq for each in events if each.run == run] == list(range(1, 2002))


def test_processes_that_share_a_pipe_never_mix_their_lines(
    tmp_path: Path, audited_python: str
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    # Open for writing as long as one of them lives: else the reader sees the end of the pipe
    # where those that have begun are done before another one begins.
    held = os.open(path, os.O_RDWR)
    writers = [
        subprocess.Popen([audited_python, "-c", WRITER, str(path)], env=bare_environ())
        for _ in range(4)
    ]

    def wait_and_let_go() -> list[int]:
        try:
            return [each.wait(PATIENCE) for each in writers]
        finally:
            for each in writers:
                each.kill()
            os.close(held)

    with ThreadPoolExecutor(1) as pool, path.open("rb") as pipe:
        ended = pool.submit(wait_and_let_go)
        events = [msgspec.json.decode(line, type=AnyEvent) for line in pipe]
        assert ended.result() == [0, 0, 0, 0]
    assert len(events) == 4 * 2001
    for run in {each.run for each in events}:
        assert [each.seq for each in events if each.run == run] == list(range(1, 2002))


def bare_environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("AIOAUDIT")}


LIMITED = """
import json, os, resource, signal, sys, time
from aioaudit.events import LoopStart
from aioaudit.exporters.jsonl import JsonlExporter
from aioaudit.identity import Run
from aioaudit.delivery.pipeline import Pipeline

def limit(size):
    # Past the limit a write is cut short, and the next fails: as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def put(count):
    for _ in range(count):
        pipeline.put(LoopStart(ts="t" * 60, seq=run.next_seq(), run=run.id, pid=run.pid, thread="t"))

run = Run()
path = sys.argv[1]
pipeline = Pipeline(JsonlExporter(path), name="jsonl", run=run, start=run.start_event([]), capacity=50)
put(1)
assert pipeline.flush()
real = path.replace("{pid}", str(os.getpid()))
size = os.stat(real).st_size
limit(size + 500)
put(10)
assert not pipeline.flush()
assert not pipeline.flush()
print(os.stat(real).st_size - size)
put(60)
limit(resource.RLIM_INFINITY)
while pipeline.dropped and pipeline.written < 62:
    time.sleep(0.01)
assert pipeline.shutdown()
print(pipeline.dropped, pipeline.written)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits")
@pytest.mark.parametrize("name", ["log.jsonl", "log-{pid}.jsonl"])
def test_when_the_disk_has_room_again_what_was_kept_and_the_losses_are_written(
    tmp_path: Path, run_python: RunPython, name: str
) -> None:
    done = run_python("-c", textwrap.dedent(LIMITED), str(tmp_path / name))
    [path] = tmp_path.glob("log*")
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        f"aioaudit: exporter 'jsonl' takes no events for now: cannot write to '{path}': "
        "File too large (make room, or name another place in path_or_stream); "
        "up to 50 wait until it does, or are lost with the end of the program\n"
    )
    grown, counts = done.stdout.splitlines()
    lines = path.read_bytes().split(b"\n")
    whole = [line for line in lines if line.startswith(b"{") and line.endswith(b"}")]
    half = [line for line in lines[:-1] if line not in whole]
    if name == "log.jsonl":
        # Others may write to it, so the half line stays, and ends where it is.
        assert int(grown) == 500
        assert len(half) == 1
        assert half[0].startswith(b'{"event":"loop.start"')
    else:
        assert 0 < int(grown) < 500
        assert half == []
    objects = [json.loads(line) for line in whole]
    assert [each["seq"] for each in objects] == sorted({each["seq"] for each in objects})
    [told] = [each for each in objects if each["event"] == "process.dropped"]
    assert (told["count"], told["events"]) == (10, ["loop.start"])
    assert counts == "10 63"
    assert len(objects) == 64
    assert objects[-1]["event"] == "process.end"
    assert (objects[-1]["written"], objects[-1]["dropped"]) == (63, 10)
