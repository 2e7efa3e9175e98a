"""A test in tests/unit that starts a process fails, and no other one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environ

STARTING = """
import asyncio
import os
import subprocess
import sys


def test_popen():
    subprocess.run([sys.executable, "-c", ""], check=True)


def test_asyncio():
    async def main():
        await (await asyncio.create_subprocess_exec(sys.executable, "-c", "")).wait()

    asyncio.run(main())


def test_fork():
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def test_spawn():
    os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ), 0)


def test_nothing():
    pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_who_starts_a_process_is_blamed_and_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "test_starting.py").write_text(STARTING)
    plugins = ("-p", "tests.unit.conftest", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, f"--rootdir={tmp_path}", "-q", str(tmp_path)],
        cwd=ROOT,
        env=clean_environ(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout.splitlines()
    assert said[-1].startswith("5 passed, 4 errors"), done.stdout
    blamed = [line.rpartition("::")[2] for line in said if line.startswith("ERROR ")]
    assert [each.partition(" ")[0] for each in blamed] == [
        *("test_popen", "test_asyncio", "test_fork", "test_spawn")
    ]
    assert "the test started a process (os.fork): it belongs in tests/process" in said
