"""AIOAUDIT_BLOCKED in whole programs: their forks, their ends, and what `check` and `why` say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Runner

BLOCKS = """
import asyncio, os, sys, time
from aioaudit.session import current

def blocks():
    loop, since = asyncio.get_running_loop(), time.monotonic()
    while not current().recorder.state.blocks.explain(loop, time.monotonic() - since):
        time.sleep(0.01)

async def main():
    blocks()
"""


CORO = {"__main__:main", "__main__:end"}


def told(folder: Path) -> dict[int, list[dict[str, object]]]:
    """The lines of loops that the program blocked, by process; the machine may hold up others."""
    found: dict[int, list[dict[str, object]]] = {}
    for path in folder.glob("*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            lines = found.setdefault(line["pid"], [])
            if line["event"] == "loop.blocked" and line["coro"] in CORO:
                lines.append(line)
    return found


def test_parents_and_children_look_at_their_own_loops(run_python: Runner, tmp_path: Path) -> None:
    program = f"""{BLOCKS}
asyncio.run(main())
child = os.fork()
asyncio.run(main())
if child:
    _, status = os.waitpid(child, 0)
    sys.exit(status)
"""
    done = run_python("-W", "error", "-c", program, AIOAUDIT="jsonl", AIOAUDIT_BLOCKED="0.05")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(map(len, told(tmp_path).values())) == [1, 2]
    checked = run_python("-m", "aioaudit", "check", ".")
    assert checked.returncode == 1
    assert "blocked the loop for" in checked.stdout


@pytest.mark.parametrize("ends", ["pass", "sys.exit()", "os.kill(os.getpid(), 15)"])
def test_a_loop_that_is_blocked_as_the_process_ends_is_told(
    run_python: Runner, tmp_path: Path, ends: str
) -> None:
    program = f"""{BLOCKS}
async def end():
    blocks()
    {ends}

asyncio.run(end())
"""
    done = run_python("-c", program, AIOAUDIT="jsonl", AIOAUDIT_BLOCKED="0.05")
    assert (done.returncode, done.stderr) == (-15 if "kill" in ends else 0, "")
    [lines] = told(tmp_path).values()
    assert len(lines) == 1


def test_without_the_variable_nothing_is_told(run_python: Runner, tmp_path: Path) -> None:
    program = "import asyncio, time\nasync def main(): time.sleep(0.3)\nasyncio.run(main())"
    done = run_python("-c", program, AIOAUDIT="jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(told(tmp_path).values()) == [[]]
    done = run_python("-c", program, AIOAUDIT="jsonl", AIOAUDIT_BLOCKED="soon")
    assert done.returncode == 0
    assert "AIOAUDIT_BLOCKED='soon': this is no length of time; allowed: seconds" in done.stderr
