"""``AIOAUDIT=recorder``: when it writes, what it takes, forks, signals, and who is not hurt by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import clean_environ
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from tests.conftest import Runner

Start = Callable[..., "Program"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and forks")


class Program:
    """A program that was started in a folder of its own."""

    def __init__(self, python: str, folder: Path, text: str, **environ: str) -> None:
        folder.mkdir()
        self.folder = folder
        (folder / "app.py").write_text(dedent(text))
        self.process = subprocess.Popen(
            [python, "app.py"],
            cwd=folder,
            env=clean_environ(**{"AIOAUDIT": "recorder", **environ}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[str, str, int]:
        """What it printed, what it said, and its status."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return out, err, self.process.returncode

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def dumps(self) -> list[list[dict[str, Any]]]:
        """The files that it wrote, the oldest first, each as events."""
        return [
            [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted(self.folder.glob("aioaudit-*.jsonl"))
        ]


@pytest.fixture
def start(audited_python: str, tmp_path: Path) -> Iterator[Start]:
    """Start a program with the recorder on; several go on side by side."""
    started: list[Program] = []

    def begin(text: str, **environ: str) -> Program:
        program = Program(audited_python, tmp_path / str(len(started)), text, **environ)
        started.append(program)
        return program

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


SWALLOWS = """
    import asyncio, glob
    async def poll():
        try: await asyncio.sleep(60)
        except asyncio.CancelledError: pass
        await asyncio.sleep(0.01)
    async def main():
        for number in range({times}):
            task = asyncio.create_task(poll(), name=f"poller-{{number}}")
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            while len(glob.glob("aioaudit-*.jsonl")) < min(number + 1, {files}):
                await asyncio.sleep(0.01)  # else one file is written for several
    asyncio.run(main())
"""

UNHANDLED = """
    import asyncio, gc
    async def fail(): raise ValueError("nobody looks")
    async def main():
        task = asyncio.create_task(fail(), name="failing")
        await asyncio.sleep(0.01)
        del task
        gc.collect()
        await asyncio.sleep(0.01)
    asyncio.run(main())
"""


def test_each_trigger_has_a_file_written_and_nothing_else_has(start: Start) -> None:
    swallows = SWALLOWS.format(times=1, files=0)
    raises = "import asyncio\nasync def main(): raise OSError('x')\nasyncio.run(main())\n"
    leaves = "import asyncio, sys\nasync def main(): sys.exit(3)\nasyncio.run(main())\n"
    fine = "import asyncio, sys\nasync def main(): sys.exit(0)\nasyncio.run(main())\n"
    kinds = "finding,error,exit,signal:USR2"
    programs = {
        "finding": start(swallows, AIOAUDIT_RECORDER_DUMP="finding"),
        "another kind": start(swallows, AIOAUDIT_RECORDER_DUMP="finding:slow,error,exit"),
        "error": start(UNHANDLED, AIOAUDIT_RECORDER_DUMP="error"),
        "no error": start(UNHANDLED, AIOAUDIT_RECORDER_DUMP="exit,finding"),
        "exit": start(raises, AIOAUDIT_RECORDER_DUMP="exit"),
        "status": start(leaves, AIOAUDIT_RECORDER_DUMP="exit"),
        "nothing": start(fine, AIOAUDIT_RECORDER_DUMP=kinds),
        "off": start(raises),
    }
    ends = {name: program.end() for name, program in programs.items()}
    dumps = {name: program.dumps() for name, program in programs.items()}
    counts = {name: len(found) for name, found in dumps.items()}
    swallowed_is_seen = sys.version_info >= (3, 12)
    assert counts == {
        "finding": int(swallowed_is_seen),
        "another kind": 0,
        "error": 1,
        "no error": 0,
        "exit": 1,
        "status": 1,
        "nothing": 0,
        "off": 0,
    }
    statuses = [status for _, _, status in ends.values()]
    assert statuses == [0, 0, 0, 0, 1, 3, 0, 1]
    assert not any("aioaudit:" in err for _, err, _ in ends.values())
    for [dump] in (found for found in dumps.values() if found):
        assert names(dump)[0] == "process.start"
        seqs = [event["seq"] for event in dump]
        assert seqs == sorted(set(seqs))
    [dump] = dumps["error"]
    assert ("failing", "raised") in [(each.get("name"), each.get("outcome")) for each in dump]
    [dump] = dumps["exit"]
    assert names(dump)[-1] == "process.end"
    for program in programs.values():
        for path in program.folder.glob("aioaudit-*"):
            assert path.stat().st_mode & 0o777 == 0o600
            assert f"-{program.process.pid}." in path.name
        assert not list(program.folder.glob(".*"))


SERVES = """
    import asyncio, signal, os, sys
    async def main():
        task = asyncio.create_task(asyncio.sleep(60), name="living")
        await asyncio.sleep(0)
        print("ready", flush=True)
        await asyncio.sleep(60)
    asyncio.run(main())
"""


def test_a_signal_has_a_file_written_while_the_program_goes_on(start: Start) -> None:
    serves = start(SERVES, AIOAUDIT_RECORDER_DUMP="signal:USR2,exit")
    assert serves.line() == "ready"
    for count in (1, 2):
        serves.process.send_signal(signal.SIGUSR2)
        wait_until(lambda count=count: len(serves.dumps()) == count)  # type: ignore[misc]
    assert serves.process.poll() is None
    for dump in serves.dumps():
        assert "living" in [event.get("name") for event in dump]
    serves.process.terminate()
    assert serves.end() == ("", "", -signal.SIGTERM)
    *_, last = serves.dumps()
    assert len(serves.dumps()) == 3
    assert (last[-1]["event"], last[-1]["signal"]) == ("process.end", "SIGTERM")


def test_a_signal_that_is_the_programs_own_is_left_alone(start: Start) -> None:
    own = """
        import asyncio, signal, os, aioaudit
        {before}
        async def main():
            {inside}
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
        handler = signal.getsignal(signal.SIGUSR1)
        aioaudit.enable("recorder", recorder_dump="signal:USR1")
        asyncio.run(main())
        aioaudit.disable()
        print(signal.getsignal(signal.SIGUSR1) is handler)
    """
    handler = "signal.signal(signal.SIGUSR1, lambda *_: print('mine', flush=True))"
    in_loop = (
        "asyncio.get_running_loop().add_signal_handler("
        "signal.SIGUSR1, lambda: print('mine', flush=True))"
    )
    first = start(own.format(before=handler, inside=""), AIOAUDIT="")
    later = start(own.format(before="", inside=in_loop), AIOAUDIT="")
    ours = start(own.format(before="", inside=""), AIOAUDIT="")
    assert first.end() == (
        "mine\nTrue\n",
        "aioaudit: recorder: SIGUSR1 asks for no dump: the program has a handler for it\n",
        0,
    )
    assert later.end() == ("mine\nTrue\n", "", 0)
    assert ours.end() == ("True\n", "", 0)
    assert [len(each.dumps()) for each in (first, later, ours)] == [0, 0, 1]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there nobody sees it swallowed")
def test_only_so_many_files_are_written_within_a_minute(start: Start) -> None:
    program = start(SWALLOWS.format(times=20, files=6), AIOAUDIT_RECORDER_DUMP="finding")
    out, err, status = program.end()
    assert (out, status) == ("", 0)
    assert err == (
        "aioaudit: recorder: 6 dumps within a minute are enough, none is written for"
        " finding:swallowed, nor for what comes until a minute is over\n"
    )
    assert len(program.dumps()) == 6


def test_a_file_that_cannot_be_written_is_one_line_and_the_program_goes_on(start: Start) -> None:
    gone = """
        import asyncio, os, shutil, aioaudit
        async def main():
            os.mkdir("sub"); os.chdir("sub")
            aioaudit.enable("recorder", recorder_dump="error")
            os.rmdir(os.getcwd())
            asyncio.get_running_loop().call_exception_handler({"exception": OSError(), "message": "x"})
            await asyncio.sleep(0.1)
            print("on")
        asyncio.run(main())
    """
    out, err, status = start(gone, AIOAUDIT="").end()
    assert (out, status) == ("on\n", 0)
    [line] = [line for line in err.splitlines() if line.startswith("aioaudit:")]
    assert line.startswith("aioaudit: recorder: no dump is written for error: FileNotFoundError")


FORKS = """
    import asyncio, os, sys, aioaudit
    async def named(name):
        task = asyncio.create_task(asyncio.sleep(60), name=name)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    asyncio.run(named("parents"))
    aioaudit.dump("parent-before.jsonl")
    child = os.fork()
    if not child:
        aioaudit.dump("child-before.jsonl")
        asyncio.run(named("childs"))
        aioaudit.dump("child.jsonl")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    asyncio.run(named("later"))
    aioaudit.dump("parent.jsonl")
"""


def test_a_forked_child_keeps_events_of_its_own(start: Start) -> None:
    program = start(FORKS)
    assert program.end() == ("", "", 0)

    def events(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (program.folder / name).read_text().splitlines()]

    def cancelled(name: str) -> list[str]:
        return [each["name"] for each in events(name) if each["event"] == "task.cancel"]

    assert cancelled("parent-before.jsonl") == ["parents"]
    assert names(events("child-before.jsonl")) == ["process.start"]
    assert cancelled("child.jsonl") == ["childs"]
    assert cancelled("parent.jsonl") == ["parents", "later"]
    parent, child = events("parent.jsonl")[0], events("child.jsonl")[0]
    assert child["parent_run"] == parent["run"]
    assert child["pid"] != parent["pid"]


MEMORY = """
    import asyncio, gc, sys, tracemalloc, aioaudit
    from aioaudit.exporters.recorder import RecorderExporter
    LIMIT = 100_000
    exporter = RecorderExporter(LIMIT)
    ring = exporter._ring

    async def bad(): raise ValueError("x")
    async def poll():
        for _ in range(10):
            try:
                async with asyncio.timeout(0): await asyncio.sleep(60)
            except TimeoutError: pass

    async def load(kind):
        for _ in range(10):
            if kind == "lives":
                for _ in range(5):
                    await asyncio.gather(*(asyncio.sleep(0) for _ in range(40)))
            elif kind == "failures":
                await asyncio.gather(*(bad() for _ in range(100)), return_exceptions=True)
            elif kind == "timeouts":
                await asyncio.gather(*(poll() for _ in range(5)))
            else:
                tasks = [asyncio.create_task(asyncio.sleep(60), name="x" * 150) for _ in range(50)]
                await asyncio.sleep(0)
                for task in tasks: task.cancel()
                await asyncio.wait(tasks)

    def measure(kind):
        asyncio.run(load(kind))
        aioaudit.dump("dump.jsonl")
        gc.collect()
        assert 0.9 * LIMIT < ring.size <= LIMIT, (kind, ring.size)
        assert ring.lost
        full = tracemalloc.get_traced_memory()[0]
        ring._clear()  # it needs no collector, which would find what the program left
        taken = full - tracemalloc.get_traced_memory()[0]
        assert taken < LIMIT, (kind, taken)

    tracemalloc.start()
    with aioaudit.enable(exporter):
        for kind in ("lives", "failures", "timeouts", "requests", "lives"):
            measure(kind)
"""


@pytest.mark.parametrize("core", ["native", "python"])
def test_memory_stays_at_its_bound_whatever_happens(start: Start, core: str) -> None:
    program = start(MEMORY, AIOAUDIT="", AIOAUDIT_CORE=core)
    out, err, status = program.end()
    assert (out, status) == ("", 0), err


def test_bad_settings_are_one_line_and_the_program_runs(run_python: Runner, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import asyncio\nasyncio.run(asyncio.sleep(0))\nprint('ran')")
    for name, value in (
        ("AIOAUDIT_RECORDER_SIZE", "big"),
        ("AIOAUDIT_RECORDER_DUMP", "signal:KILL"),
    ):
        done = run_python("app.py", AIOAUDIT="recorder", **{name: value})
        assert (done.stdout, done.returncode) == ("ran\n", 0)
        [line] = done.stderr.splitlines()
        assert line.startswith(f"aioaudit: {name}='{value}': ")
        assert line.endswith("; this program runs unaudited")
