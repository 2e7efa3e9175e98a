"""The example of an exporter in a distribution of its own: installed, and found by its name."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environ
from tests.waiting import PATIENCE

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

PROGRAM = """
import asyncio, contextlib

async def wait():
    await asyncio.sleep(60)

async def deaf():
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(60)

async def main():
    made = [asyncio.create_task(wait()) for _ in range(3)] + [asyncio.create_task(deaf())]
    await asyncio.sleep(0)
    for task in made:
        task.cancel()
    await asyncio.wait(made)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await wait()
    asyncio.create_task(wait())
    await asyncio.sleep(0)

asyncio.run(main())
"""
COUNTS = {
    "aioaudit.cancel.explicit": 4,
    "aioaudit.cancel.timeout": 1,
    "aioaudit.cancel.shutdown": 1,
    "aioaudit.task.cancelled": 4,
    "aioaudit.task.returned": 4,  # main, deaf, and two that asyncio.run makes to clean up
    "aioaudit.swallowed": 1,
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example in it, built and installed as anybody's package is."""
    folder = tmp_path_factory.mktemp("statsd")
    # A copy: building must leave nothing in the tree.
    shutil.copytree(ROOT / "examples" / "statsd", folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "--target", folder / "packages", folder / "source"],
        env=clean_environ(PIP_DISABLE_PIP_VERSION_CHECK="1"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return folder / "packages"


@pytest.fixture(params=["udp", "unix"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """An address, and the socket that hears what is sent to it."""
    if request.param == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
            heard.bind(("127.0.0.1", 0))
            yield f"127.0.0.1:{heard.getsockname()[1]}", heard
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind(str(tmp_path / "s"))
            yield "./s", heard


def received(heard: socket.socket) -> Counter[str]:
    """The sum of what was sent."""
    counts: Counter[str] = Counter()
    heard.setblocking(False)
    while True:
        try:
            datagram = heard.recv(65536)
        except BlockingIOError:
            return counts
        assert len(datagram) <= 1400
        for line in datagram.decode().splitlines():
            name, _, value = line.partition(":")
            number, _, kind = value.partition("|")
            assert kind == "c"
            counts[name] += int(number)


def test_it_is_found_by_its_name_and_counts_what_the_log_says(
    installed: Path, server: tuple[str, socket.socket], run_python: RunPython, tmp_path: Path
) -> None:
    address, heard = server
    (tmp_path / "app.py").write_text(PROGRAM)
    done = run_python(
        "app.py",
        AIOAUDIT="jsonl,statsd",
        AIOAUDIT_JSONL_PATH="log.jsonl",
        AIOAUDIT_STATSD=address,
        PYTHONPATH=str(installed),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    counts = received(heard)
    assert counts == COUNTS
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    reasons = Counter(each["reason"] for each in events if each["event"] == "task.cancel")
    assert {f"aioaudit.cancel.{reason}": count for reason, count in reasons.items()} == {
        name: count for name, count in counts.items() if name.startswith("aioaudit.cancel.")
    }


def test_a_forked_child_sends_its_own_counts_only(
    installed: Path, run_python: RunPython, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        PROGRAM + "import os\nif child := os.fork():\n    os.waitpid(child, 0)\n"
        "else:\n    asyncio.run(main())\n"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        done = run_python(
            "app.py",
            AIOAUDIT="statsd",
            AIOAUDIT_STATSD=f"127.0.0.1:{heard.getsockname()[1]}",
            PYTHONPATH=str(installed),
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert received(heard) == {name: 2 * count for name, count in COUNTS.items()}


def test_nobody_who_listens_is_no_trouble(
    installed: Path, run_python: RunPython, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    for address in ("127.0.0.1:9", "./nobody"):
        done = run_python(
            "app.py", AIOAUDIT="statsd", AIOAUDIT_STATSD=address, PYTHONPATH=str(installed)
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_bad_address_is_one_line_and_the_program_runs_on(
    installed: Path, run_python: RunPython, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(PROGRAM + "print('done')\n")
    done = run_python(
        "app.py", AIOAUDIT="statsd", AIOAUDIT_STATSD="localhost", PYTHONPATH=str(installed)
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr == (
        "aioaudit: exporter 'statsd' (aioaudit_statsd:StatsdExporter) cannot be loaded: "
        "AIOAUDIT_STATSD='localhost': this names no address; allowed: HOST:PORT, or the path of a "
        "Unix datagram socket; the program runs on, unaudited by it\n"
    )
