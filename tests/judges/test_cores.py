"""Random programs, and the scenarios, under both cores: the logs are the same, line by line.

Each program runs in a process of its own under each core.  What two runs of one program never
have in common is left out: times, ids of runs and processes, addresses.  Trees are compared
without their order: a group cancels its tasks in that of a set, by their addresses.

As many programs as wanted, on seeds of its own each time:

    AIOAUDIT_TEST_PROGRAMS=3000 python -m pytest tests/judges -k cores
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aioaudit.core.choice import CORE, PYTHONS
from aioaudit.cpython.behaviour import FREE_THREADED, RELEASE
from tests.conftest import ROOT
from tests.random_trees import CULPRITS, PROGRAMS, patience

if TYPE_CHECKING:
    from tests.conftest import Runner

pytestmark = [
    patience,
    pytest.mark.skipif(
        FREE_THREADED or not PYTHONS[0] <= RELEASE <= PYTHONS[1] or CORE.name != "native",
        reason="there is no native core here to compare with, or another one was asked for",
    ),
]

BATCH = 150
"""So many programs run in one process."""

MAKERS = """
import asyncio, contextlib, random, sys

sys.path.insert(0, {root!r})
from tests.random_trees import IN_A_TASK, IN_PLACE, SEVERAL, Node, Plan, perform

EAGER = sys.version_info >= (3, 12)
NAMES = [None, "n", "", 7, 'quo"te', "back\\\\slash", "line\\nend", "\\x7f", "é", "\\ud800", "n" * 300]
WAYS = ["task", "gather", "group", "ensure", "class", "subclass", "python", "old", "deep", "late"]
WAYS += ["eager", "eager", "factory"] if EAGER else []


class Sub(asyncio.Task):
    pass


class Failing(Exception):
    pass


def tree(chance, depth, grouped):
    # A tree.  What a group cancels goes down in any order, so nothing is shared in one.
    if depth == 0 or chance.random() < 0.2:
        return Node("waits" if grouped else chance.choice(["waits", "shares"]))
    several = [kind for kind in SEVERAL if grouped or kind != "group"]
    kind = chance.choice([*IN_A_TASK, *IN_PLACE, *several])
    width = chance.randint(1, 3) if kind in SEVERAL else 1
    return Node(kind, tuple(tree(chance, depth - 1, grouped) for _ in range(width)))


async def leaf(chance, depth):
    end = chance.choice(["return", "return", "sleeps", "raises", "cancels", "more"])
    if end == "sleeps":
        await asyncio.sleep(0)
    elif end == "raises":
        raise Failing
    elif end == "cancels":
        asyncio.current_task().cancel("by itself")
        await asyncio.sleep(0)
    elif end == "more" and depth:
        await make(chance, depth - 1)
    return end


async def deep(chance, depth):
    async def inner():
        return await leaf(chance, depth)

    return await inner()


async def make(chance, depth):
    loop = asyncio.get_running_loop()
    way, name, count = chance.choice(WAYS), chance.choice(NAMES), chance.randint(1, 4)
    def more():
        return leaf(random.Random(chance.random()), depth)
    made = []
    for _ in range(count):
        if way == "gather":
            made.append(asyncio.gather(more(), more(), return_exceptions=True))
        elif way == "group":
            with contextlib.suppress(BaseExceptionGroup):
                async with asyncio.TaskGroup() as group:  # of one: see `tree`
                    group.create_task(more(), name=name)
        elif way == "ensure":
            made.append(asyncio.ensure_future(more()))
        elif way == "class":
            made.append(asyncio.Task(more(), loop=loop, name=name))
        elif way == "subclass":
            made.append(Sub(more(), loop=loop, name=name))
        elif way == "python":
            made.append(asyncio.tasks._PyTask(more(), loop=loop, name=name))
        elif way == "deep":
            made.append(asyncio.create_task(deep(random.Random(chance.random()), depth)))
        elif way == "late":
            made.append(asyncio.create_task(more(), name=name))
            made[-1].cancel()
        elif way == "eager":
            made.append(asyncio.Task(more(), loop=loop, name=name, eager_start=True))
        elif way == "factory":
            made.append(asyncio.eager_task_factory(loop, more(), name=name))
        else:
            made.append(asyncio.create_task(more(), name=name))
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    if made:
        await asyncio.wait(made)
        for each in made:
            if not each.cancelled():
                each.exception()


async def mixed(seed):
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    chance = random.Random(seed)
    for _ in range(4):
        task = asyncio.create_task(make(chance, 2), name=f"of {{seed}}")
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
"""

TREES = (
    MAKERS
    + """
for seed in {seeds!r}:
    chance = random.Random(seed)
    culprit = chance.choice({culprits!r})
    grown = tree(chance, 3, chance.random() < 0.5)
    plan = Plan(grown, culprit, chance.randrange(31), chance.randrange(31), seed)
    perform(plan, "asyncio")
"""
)

MIXES = (
    MAKERS
    + """
for seed in {seeds!r}:
    asyncio.run(mixed(seed))
"""
)

NEVER_THE_SAME = {"ts", "run", "pid", "lifetime", "seconds", "duration", "host", "coverage", "to"}


def comparable(text: str) -> str:
    """A line, without what two runs never have in common."""
    line: dict[str, Any] = json.loads(text)
    if line["event"] == "task.create":
        del line["name"]  # of what is renamed at once it is either; that of its end is compared
    kept = {name: value for name, value in line.items() if name not in NEVER_THE_SAME}
    said = json.dumps(kept)  # the order of the fields is part of it
    said = re.sub(r"0x[0-9a-f]+", "0x", said)
    return re.sub(r', "(origin_)?detail": "[\d.]+ m?s late"', "", said)


def log_of(
    core: str, run_python: Runner, *args: str, folder: Path, printed: bool, **environ: str
) -> list[str]:
    """What *args* log under *core*, and perhaps what they print."""
    path = folder / f"{core}.jsonl"  # stays for whoever has to find a difference
    path.unlink(missing_ok=True)
    done = run_python(*args, AIOAUDIT_CORE=core, AIOAUDIT_JSONL_PATH=str(path), **environ)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = path.read_text().splitlines()
    start = json.loads(lines[0])
    assert f"core: {core}" in " ".join(start["coverage"])
    end = json.loads(lines[-1])
    assert (end["event"], end.get("dropped", 0)) == ("process.end", 0)
    return [*map(comparable, lines[1:]), *(done.stdout.splitlines() if printed else ())]


def compare(
    run_python: Runner,
    folder: Path,
    *args: str,
    ordered: bool,
    printed: bool = False,
    **environ: str,
) -> int:
    """Whether both cores log the same; gives how many lines they log."""
    one, other = (
        log_of(core, run_python, *args, folder=folder, printed=printed, **environ)
        for core in ("python", "native")
    )
    if not ordered:
        one, other = sorted(map(unnumbered, one)), sorted(map(unnumbered, other))
    differing = [pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]]
    assert differing[:3] == []
    assert len(one) == len(other)
    return len(one)


def unnumbered(line: str) -> str:
    """*line* without the numbers that tell what came before what."""
    return re.sub(r'"(seq|task|parent|by|cause|cancel|loop)": \d+', r'"\1": 0', line)


def batches(count: int) -> list[list[int]]:
    """Seeds: the same each time, or as many new ones as wanted."""
    chance = random.Random() if PROGRAMS else random.Random(10)
    seeds = [chance.randrange(2**32) for _ in range(PROGRAMS or count)]
    return [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]


def test_random_trees_are_logged_alike(run_python: Runner, tmp_path: Path) -> None:
    for seeds in batches(30):
        program = TREES.format(root=str(ROOT), seeds=seeds, culprits=CULPRITS)
        found = compare(run_python, tmp_path, "-c", program, ordered=False, AIOAUDIT="jsonl")
        assert found > 5 * len(seeds)


def test_random_mixes_of_tasks_are_logged_alike(run_python: Runner, tmp_path: Path) -> None:
    for seeds in batches(30):
        program = MIXES.format(root=str(ROOT), seeds=seeds)
        found = compare(run_python, tmp_path, "-c", program, ordered=True, AIOAUDIT="jsonl")
        assert found > 20 * len(seeds)


def test_random_requests_are_logged_alike(run_python: Runner, tmp_path: Path) -> None:
    program = str(ROOT / "tests" / "random_requests.py")
    for seeds in batches(60):
        found = compare(
            run_python,
            tmp_path,
            *("-W", "ignore", program, *map(str, seeds)),
            ordered=True,
            AIOAUDIT="jsonl",
            AIOAUDIT_SLOW_CANCEL="1000",  # whatever else the machine does
        )
        assert found > 40 * len(seeds)


def test_random_timeouts_are_logged_alike(run_python: Runner, tmp_path: Path) -> None:
    program = str(ROOT / "tests" / "random_timeouts.py")
    for seeds in batches(60):
        found = compare(
            run_python,
            tmp_path,
            *("-W", "ignore", program, *map(str, seeds)),
            ordered=True,
            printed=True,
            AIOAUDIT="jsonl",
            AIOAUDIT_SLOW_CANCEL="1000",  # whatever else the machine does
        )
        assert found > 40 * len(seeds)


SCENARIOS = ROOT / "tests" / "scenarios"

CLOCKED = {"threads", "executors", "interrupted", "networks", "older", "shutdown", "signals"}
"""Programs in which threads, sockets or signals decide how often something happens."""

NAMES = sorted(
    path.stem
    for path in SCENARIOS.glob("*.py")
    if path.stem not in {"harness", *CLOCKED}
    and (path.stem != "group_cancel" or RELEASE >= (3, 15))
)


@pytest.mark.parametrize("name", NAMES)
def test_scenarios_are_logged_alike(run_python: Runner, tmp_path: Path, name: str) -> None:
    program = str(SCENARIOS / f"{name}.py")
    assert compare(run_python, tmp_path, program, ordered=False, AIOAUDIT="jsonl")
