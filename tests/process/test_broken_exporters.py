"""Exporters that raise or hang, wherever they can: named once, and nobody else is hurt.

Each runs in a real process, found by its entry point, between two sound ones.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

EXPORTERS = """
import json, os, sys, time

MODE = os.environ.get("MODE", "")
where, _, how = MODE.partition("-")

def fail(here):
    if here != where:
        return
    if how == "hangs":
        time.sleep(3600)
    if how == "exits":
        sys.exit("gone")
    if how == "interrupts":
        raise KeyboardInterrupt("pressed")
    raise ValueError("no\\nluck")

class Broken:
    def __init__(self):
        fail("construct")
    def export(self, events):
        fail("export")
    def flush(self):
        fail("flush")
    def shutdown(self):
        fail("shutdown")

class Sound:
    def __init__(self):
        self.file = open(f"{self.name}.txt", "w")
    def export(self, events):
        for event in events:
            name = type(event).__struct_config__.tag
            self.file.write(f"{event.seq} {name}\\n")
    def flush(self):
        self.file.flush()
    def shutdown(self):
        self.file.close()

class First(Sound):
    name = "first"

class Last(Sound):
    name = "last"
"""

LOADS = "from several import fail\nfail('load')\nfrom several import Broken\n"

PROGRAM = """
import asyncio

async def wait():
    await asyncio.sleep(60)

async def main():
    for number in range(20):
        task = asyncio.create_task(wait(), name=f"t{number}")
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await asyncio.sleep(0.1)

asyncio.run(main())
print("whole")
"""


@pytest.fixture
def run(run_python: RunPython, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the program with a broken exporter between two sound ones."""
    (tmp_path / "several.py").write_text(EXPORTERS)
    (tmp_path / "fragile.py").write_text(LOADS)
    (tmp_path / "app.py").write_text(PROGRAM)
    info = tmp_path / "several-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: several\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[aioaudit.exporters]\n"
        "first = several:First\nbroken = fragile:Broken\nlast = several:Last\n"
    )

    def start(mode: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return run_python(
            "app.py",
            AIOAUDIT="first,broken,jsonl,last",
            AIOAUDIT_JSONL_PATH="log.jsonl",
            PYTHONPATH=str(tmp_path),
            MODE=mode,
            **environ,
        )

    return start


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def told(file: Path) -> list[tuple[int, str]]:
    """The events that a sound exporter wrote; the last is its own `process.end`."""
    pairs = [line.split() for line in file.read_text().splitlines()]
    return [(int(seq), name) for seq, name in pairs]


def logged(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def assert_the_others_saw_everything(folder: Path) -> None:
    """Both sound exporters and the log have the same events, in the same order, all of them."""
    first, last = told(folder / "first.txt"), told(folder / "last.txt")
    log = [(each["seq"], each["event"]) for each in logged(folder / "log.jsonl")]
    for each in (first, last, log):
        assert [seq for seq, _ in each] == sorted({seq for seq, _ in each})
        assert (each[0][1], each[-1][1]) == ("process.start", "process.end")
        assert [name for _, name in each].count("task.cancel") == 20
    # Each has a `process.end` of its own, with a number of its own.
    assert first[:-1] == last[:-1] == log[:-1]
    end = logged(folder / "log.jsonl")[-1]
    assert (end["written"], end["dropped"]) == (len(log) - 1, 0)


OUT = "aioaudit: exporter 'broken' failed and is out of service: "
LEFT = "aioaudit: exporter 'broken' (fragile:Broken) cannot be loaded: "


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("none", ""),
        ("load-raises", f"{LEFT}ValueError: no luck; the program runs on, unaudited by it\n"),
        ("load-exits", f"{LEFT}SystemExit: gone; the program runs on, unaudited by it\n"),
        ("construct-raises", f"{LEFT}ValueError: no luck; the program runs on, unaudited by it\n"),
        ("construct-exits", f"{LEFT}SystemExit: gone; the program runs on, unaudited by it\n"),
        ("export-raises", f"{OUT}ValueError: no luck\n"),
        ("export-exits", f"{OUT}SystemExit: gone\n"),
        ("export-interrupts", f"{OUT}KeyboardInterrupt: pressed\n"),
        ("flush-raises", f"{OUT}ValueError: no luck\n"),
        ("flush-exits", f"{OUT}SystemExit: gone\n"),
        ("flush-interrupts", f"{OUT}KeyboardInterrupt: pressed\n"),
        ("shutdown-raises", f"{OUT}ValueError: no luck\n"),
        ("shutdown-exits", f"{OUT}SystemExit: gone\n"),
        ("shutdown-interrupts", f"{OUT}KeyboardInterrupt: pressed\n"),
    ],
)
def test_an_exporter_that_raises_is_named_once_and_hurts_nobody(
    run: Run, tmp_path: Path, mode: str, said: str
) -> None:
    done = run(mode)
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", said)
    assert_the_others_saw_everything(tmp_path)


@pytest.mark.parametrize("where", ["export", "flush", "shutdown"])
def test_an_exporter_that_hangs_holds_the_end_up_for_a_few_seconds_and_is_named_once(
    run: Run, tmp_path: Path, where: str
) -> None:
    done = run(f"{where}-hangs")  # for an hour, if nobody held out against it
    assert (done.returncode, done.stdout) == (0, "whole\n")
    [line] = done.stderr.splitlines()
    assert line.startswith("aioaudit: exporter 'broken' did not finish within 3 s; ")
    assert_the_others_saw_everything(tmp_path)


def test_a_program_that_a_signal_ends_keeps_its_status_beside_an_exporter_that_hangs(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        PROGRAM + "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = run("flush-hangs")
    assert done.returncode == -signal.SIGTERM
    assert_the_others_saw_everything(tmp_path)


def test_a_keyboard_interrupt_while_an_exporter_is_loaded_is_the_programs(
    run: Run, tmp_path: Path
) -> None:
    done = run("load-interrupts")
    assert done.returncode == -signal.SIGINT
    assert done.stdout == ""
