"""Recognisers of other packages: found by their entry point, used where they hold, named where not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.chain.links import Answer
from tests.conftest import ROOT, WHEEL, Runner, clean_environ, site_packages
from tests.recognising import links
from tests.waiting import PATIENCE

DOCUMENT = ROOT / "docs" / "write-a-recogniser.md"
EXAMPLE = ROOT / "examples" / "recogniser_for_a_pool.py"


def shown(name: str) -> str:
    """The file *name* as the page shows it."""
    found = re.search(rf"```python\n# {name}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


class World:
    """An environment of its own, with a library and a recogniser installed in it."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python = python
        self.packages = site_packages(python)
        self.folder = folder
        self.program = folder / "app.py"
        if not WHEEL:
            (self.packages / "aaa_tree.pth").write_text(f"{ROOT}\n")
        (self.packages / "workpool.py").write_text(shown("workpool.py"))
        self.program.write_text(shown("app.py"))

    def register(self, recogniser: str, value: str = "workpool_audit:CALL_SITES") -> None:
        (self.packages / "workpool_audit.py").write_text(recogniser)
        info = self.packages / "workpool_audit-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: workpool-audit\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[aioaudit.recognisers]\nworkpool = {value}\n")

    def run(self) -> tuple[dict[str, Answer], str]:
        """Every answer by the task's name, and what the program said on stderr."""
        log = self.folder / "log.jsonl"
        done = subprocess.run(
            [str(self.python), "-W", "error", "-m", "aioaudit", "run", str(self.program)],
            env=clean_environ(AIOAUDIT_JSONL_PATH=str(log)),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        return {each.name: each for each in aioaudit.load(str(log)).why()}, done.stderr

    def line(self, text: str) -> str:
        [number] = [
            number
            for number, line in enumerate(self.program.read_text().splitlines(), 1)
            if text in line
        ]
        return f"{self.program}:{number}"


@pytest.fixture
def world(tmp_path: Path, bare_environment: Callable[[Path], Path]) -> World:
    return World(bare_environment(tmp_path / "venv"), tmp_path)


def unexplained(answer: Answer) -> bool:
    root = answer.root
    return (root.what, root.reason, root.source) == ("called", "explicit", "workpool:Pool._reap")


def test_the_example_explains_a_library_that_nobody_else_knows(world: World) -> None:
    world.register(EXAMPLE.read_text())
    answers, errors = world.run()
    assert errors == ""
    assert sorted(answers) == ["old", "young"]
    waits = world.line("sleep(60)")
    assert links(answers["old"]) == [
        {"what": "cancelled", "name": "old", "reason": "workpool.too_old", "at": waits},
        {"what": "deadline", "reason": "workpool.too_old", "at": waits, "seconds": 0.1},
    ]
    said = {
        "reason": "workpool.closed",
        "at": world.line("pool.close()"),
        "by_name": "Task-1",
        "library": "workpool:Pool.close",
        "library_at": "workpool.py",
    }
    assert links(answers["young"]) == [
        {"what": "cancelled", "name": "young", **said},
        {"what": "called", **said},
    ]


def test_the_example_is_what_the_page_shows_and_short() -> None:
    text = EXAMPLE.read_text()
    assert text.partition('"""\n\n')[2] == shown("workpool_audit.py")
    assert len(text.splitlines()) < 50


def test_without_a_recogniser_the_librarys_line_is_all_that_is_known(world: World) -> None:
    answers, errors = world.run()
    assert errors == ""
    assert unexplained(answers["old"])


def test_a_recogniser_that_raises_is_named_once_and_left_out(world: World) -> None:
    world.register(
        "def explain(frame, call):\n    raise LookupError('nothing')\n"
        "CALL_SITES = {('workpool', 'Pool._reap'): explain}\n"
    )
    text = world.program.read_text()
    world.program.write_text(
        text.replace(
            '[pool.start(load(), name="old")]',
            '[pool.start(load(), name="old"), pool.start(load(), name="other")]',
        )
    )
    answers, errors = world.run()
    assert unexplained(answers["old"])
    assert unexplained(answers["other"])
    assert errors == (
        "aioaudit: the recogniser of workpool:Pool._reap failed, its call is told unexplained:"
        " LookupError: nothing\n"
    )


def test_a_recogniser_that_answers_with_anything_else_is_named(world: World) -> None:
    world.register(
        "def explain(frame, call):\n    return 'too old'\n"
        "CALL_SITES = {('workpool', 'Pool._reap'): explain}\n"
    )
    answers, errors = world.run()
    assert unexplained(answers["old"])
    assert errors == (
        "aioaudit: the recogniser of workpool:Pool._reap failed, its call is told unexplained:"
        " TypeError: a Cause or None was expected, not 'too old'\n"
    )


def test_a_recogniser_that_says_none_is_passed_over(world: World) -> None:
    world.register(
        "def explain(frame, call):\n    return None\n"
        "CALL_SITES = {('workpool', 'Pool._reap'): explain}\n"
    )
    answers, errors = world.run()
    assert errors == ""
    assert unexplained(answers["old"])


@pytest.mark.parametrize(
    ("recogniser", "value", "why"),
    [
        ("raise RuntimeError('broken')", "workpool_audit:CALL_SITES", "RuntimeError: broken"),
        ("", "no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "CALL_SITES = 3",
            "workpool_audit:CALL_SITES",
            "TypeError: it is a int, not a mapping of call sites",
        ),
        (
            "CALL_SITES = {'workpool': print}",
            "workpool_audit:CALL_SITES",
            "TypeError: 'workpool': <built-in function print> is not"
            " (module, qualified name): explain(frame, call)",
        ),
    ],
    ids=["raises", "missing", "number", "key"],
)
def test_a_table_that_cannot_be_loaded_is_named_and_left_out(
    world: World, recogniser: str, value: str, why: str
) -> None:
    world.register(recogniser, value)
    answers, errors = world.run()
    assert unexplained(answers["old"])
    assert errors == f"aioaudit: recogniser 'workpool' ({value}) cannot be loaded: {why}\n"


def test_nothing_is_loaded_before_a_library_cancels(world: World, tmp_path: Path) -> None:
    world.register("import pathlib\npathlib.Path('loaded').touch()\nCALL_SITES: dict = {}\n")
    world.program.write_text(
        "import asyncio, workpool\n"
        "async def main():\n"
        "    task = asyncio.create_task(asyncio.sleep(60), name='own')\n"
        "    await asyncio.sleep(0)\n"
        "    task.cancel()\n"
        "    await asyncio.wait([task])\n"
        "asyncio.run(main())\n"
    )
    answers, errors = world.run()
    assert errors == ""
    own: Any = answers["own"].root
    assert (own.what, own.reason) == ("called", "explicit")
    assert not (tmp_path / "loaded").exists()


TIMEOUTS = """
from aioaudit.recognisers import Cause, Link

def too_long(frame, call):
    return call.by_timeout(frame, detail="the pool was full")

def called(frame, call):
    at, source = call.caller(frame)
    origin = Link(what="called", reason="workpool.ended", at=at, source=source, detail=frame.f_code.co_name)
    return Cause(reason="workpool.ended", origin=origin, at=at, source=source)

CALL_SITES = {("workpool", "both"): called}
TIMEOUTS = {("workpool", "both"): too_long}
"""

BOTH = """
import asyncio

async def both(task):
    try:
        async with asyncio.timeout(0.05):
            await asyncio.sleep(60)
    except TimeoutError:
        task.cancel()
"""

ASKS_BOTH = """
import asyncio
import workpool

async def main():
    other = asyncio.create_task(asyncio.sleep(60), name="other")
    await workpool.both(other)
    await asyncio.wait([other])

asyncio.run(main())
"""


def test_a_function_that_enters_a_timeout_and_cancels_is_asked_two_questions(world: World) -> None:
    world.register(TIMEOUTS)
    (world.packages / "workpool.py").write_text(BOTH)
    world.program.write_text(ASKS_BOTH)
    answers, errors = world.run()
    assert errors == ""
    timed_out = answers["Task-1"].root
    assert (timed_out.what, timed_out.seconds) == ("deadline", 0.05)
    assert timed_out.detail is not None
    assert timed_out.detail.startswith("the pool was full")
    asked = answers["other"].root
    assert (asked.what, asked.reason, asked.detail) == ("called", "workpool.ended", "both")


@pytest.mark.parametrize("table", ["CALL_SITES", "TIMEOUTS"])
def test_a_recogniser_that_raises_leaves_both_questions_answered(world: World, table: str) -> None:
    world.register(
        TIMEOUTS
        + "def fails(frame, call):\n    raise LookupError('nothing')\n"
        + f"{table} = {{('workpool', 'both'): fails}}\n"
    )
    (world.packages / "workpool.py").write_text(BOTH)
    world.program.write_text(ASKS_BOTH)
    answers, errors = world.run()
    assert errors == (
        "aioaudit: the recogniser of workpool:both failed, its call is told unexplained:"
        " LookupError: nothing\n"
    )
    assert answers["Task-1"].root.what == "deadline"
    assert answers["other"].root.what == "called"
    assert (answers["other"].root.reason == "explicit") == (table == "CALL_SITES")


def test_a_recogniser_of_asyncio_that_fails_loses_no_request(
    run_python: Runner, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio\n"
        "class Odd(asyncio.TaskGroup):\n"
        "    def __getattribute__(self, name):\n"
        "        if name == '_parent_task' and getattr(self, 'odd', False):\n"
        "            raise ZeroDivisionError('odd')\n"
        "        return super().__getattribute__(name)\n"
        "async def main():\n"
        "    task = asyncio.create_task(asyncio.sleep(60), name='victim')\n"
        "    await asyncio.sleep(0)\n"
        "    group = Odd()\n"
        "    group._tasks = {task}\n"
        "    group.odd = True\n"
        "    try:\n"
        "        1 / 0\n"
        "    except ZeroDivisionError:\n"
        "        group._abort()\n"
        "        group._abort()\n"
        "    await asyncio.wait([task])\n"
        "asyncio.run(main())\n"
    )
    done = run_python(str(program), AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert done.returncode == 0
    assert done.stderr == (
        "aioaudit: the recogniser of asyncio.taskgroups:TaskGroup._abort failed,"
        " its call is told unexplained: ZeroDivisionError: odd\n"
    )
    answers = {each.name: each for each in aioaudit.load(tmp_path / "log.jsonl").why()}
    assert answers["victim"].root.at == f"{program}:16"


LOST_TABLE = """
import sys
sys.modules["aioaudit.recognisers.aiojobs"] = None  # as an installation that is damaged
import asyncio, aiojobs

async def main():
    scheduler = aiojobs.Scheduler()
    job = await scheduler.spawn(asyncio.sleep(50))
    await asyncio.sleep(0)
    await job.close()  # LINE close
    await scheduler.close()  # else the collector may find it before its tasks have ended

asyncio.run(main())
"""


def test_a_table_of_ours_that_cannot_be_loaded_is_said_and_loses_no_request(
    run_python: Runner, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(LOST_TABLE)
    done = run_python(str(program), AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert done.returncode == 0
    assert re.fullmatch(r"aioaudit: internal error.*recognisers\.aiojobs.*\n", done.stderr)
    answers = {each.coro: each for each in aioaudit.load(tmp_path / "log.jsonl").why()}
    answer = answers["asyncio.tasks:sleep"]
    line = LOST_TABLE[: LOST_TABLE.index("# LINE close")].count("\n") + 1
    assert (answer.root.what, answer.root.at) == ("called", f"{program}:{line}")
