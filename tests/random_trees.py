"""Random trees of tasks with one known culprit, and what to hold against each answer.

A tree is built of groups, gathers, timeouts, shields and plain awaiting, with
tasks that clean up, keep their CancelledError or hand it on.  One thing goes
wrong in it, at a known line.  Whatever happens then happens because of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st

import aioaudit
from aioaudit.chain.links import Answer, Link
from aioaudit.chain.summary import is_known
from aioaudit.delivery.encoding import encode_events
from aioaudit.events import Event
from tests.loops import BY_NAME

SMALL = "task.cancel,future.cancel"

PROGRAMS = int(os.environ.get("AIOAUDIT_TEST_PROGRAMS", "0"))

patience = pytest.mark.timeout(300 + 2 * PROGRAMS)
"""For tests of as many programs as wanted."""

as_many_as_wanted = settings(
    derandomize=not PROGRAMS,
    max_examples=PROGRAMS or 100,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)


# -- trees -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """What one coroutine of the program does; ``children`` are what it starts or calls."""

    kind: str
    children: tuple[Node, ...] = ()

    def __str__(self) -> str:
        inner = ", ".join(map(str, self.children))
        return f"{self.kind}({inner})" if inner else self.kind

    def count(self) -> int:
        return 1 + sum(child.count() for child in self.children)


IN_A_TASK = ("awaits", "waits_for", "shields")
IN_PLACE = ("calls", "limits", "cleans_up", "keeps", "topples")
SEVERAL = ("group", "gather", "gather_all")


def _grown(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    one = st.builds(
        lambda kind, child: Node(kind, (child,)), st.sampled_from(IN_A_TASK + IN_PLACE), children
    )
    some = st.builds(
        lambda kind, several: Node(kind, tuple(several)),
        st.sampled_from(SEVERAL),
        st.lists(children, min_size=1, max_size=4),
    )
    return one | some | some


trees = st.recursive(st.sampled_from([Node("waits"), Node("shares")]), _grown, max_leaves=8)


@dataclass(frozen=True)
class Plan:
    """A tree, what goes wrong in it, where, and after how many turns of the loop."""

    tree: Node
    culprit: str
    where: int
    turns: int
    order: int

    def __str__(self) -> str:
        return f"{self.tree} {self.culprit} at {self.where} after {self.turns}"


CULPRITS = ("cancels", "cancels_future", "fails", "times_out", "waits_too_long", "by_timer")

plans = st.builds(
    Plan,
    tree=trees,
    culprit=st.sampled_from(CULPRITS),
    where=st.integers(0, 30),
    turns=st.integers(0, 30),
    order=st.integers(0, 2**32),
)

LINES = {
    match[1]: number
    for number, line in enumerate(Path(__file__).read_text().splitlines(), 1)
    if (match := re.search(r"# LINE (\w+)$", line))
}


# -- the program -------------------------------------------------------------------------


@dataclass
class World:
    """The program while it runs."""

    plan: Plan
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    futures: list[asyncio.Future[None]] = field(default_factory=list)
    shared: asyncio.Future[None] | None = None
    strike: asyncio.Event = field(default_factory=asyncio.Event)
    nodes: int = 0
    culprit_name: str | None = None
    struck: bool = False
    too_late: bool = False

    def spawn(self, node: Node) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.run(node), name=f"t{len(self.tasks)}")
        self.tasks.append(task)
        return task

    async def run(self, node: Node) -> None:
        number = self.nodes
        self.nodes += 1
        culprit = self.plan.culprit
        if number == self.plan.where % self.plan.tree.count():
            if culprit == "fails":
                await self._fail()
            elif culprit == "times_out":
                await self._time_out(node)
                return
            elif culprit == "waits_too_long":
                await self._wait_too_long(node)
                return
        await getattr(self, node.kind)(*node.children)

    def _is_culprit(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.culprit_name = task.get_name()

    async def _fail(self) -> None:
        self._is_culprit()
        await self.strike.wait()
        self.struck = True
        raise ValueError("culprit")  # LINE fails

    async def _time_out(self, node: Node) -> None:
        self._is_culprit()
        self.struck = True
        async with asyncio.timeout(0.002 * (self.plan.turns % 2)):  # LINE times_out
            await getattr(self, node.kind)(*node.children)

    async def _wait_too_long(self, node: Node) -> None:
        self._is_culprit()
        self.struck = True
        await asyncio.wait_for(self.spawn(node), 0.002)  # LINE waits_too_long

    async def waits(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        await future

    async def shares(self) -> None:
        if self.shared is None:
            self.shared = asyncio.get_running_loop().create_future()
            self.futures.append(self.shared)
        # Nothing tells which future made an error that was there before anybody waited.
        self.too_late |= self.shared.cancelled()
        await self.shared

    async def awaits(self, child: Node) -> None:
        await self.spawn(child)

    async def waits_for(self, child: Node) -> None:
        await asyncio.wait_for(self.spawn(child), 1000)

    async def shields(self, child: Node) -> None:
        await asyncio.shield(self.spawn(child))

    async def calls(self, child: Node) -> None:
        await self.run(child)

    async def limits(self, child: Node) -> None:
        async with asyncio.timeout(1000):
            await self.run(child)

    async def cleans_up(self, child: Node) -> None:
        try:
            await self.run(child)
        finally:
            await asyncio.sleep(0)

    async def keeps(self, child: Node) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.run(child)

    async def topples(self, child: Node) -> None:
        # Another task goes down with this one.
        other = self.spawn(Node("waits"))
        try:
            await self.run(child)
        except asyncio.CancelledError:
            other.cancel()
            raise

    async def group(self, *children: Node) -> None:
        async with asyncio.TaskGroup() as group:
            for child in children:
                task = group.create_task(self.run(child), name=f"t{len(self.tasks)}")
                self.tasks.append(task)

    async def gather(self, *children: Node) -> None:
        await asyncio.gather(*[self.spawn(child) for child in children])

    async def gather_all(self, *children: Node) -> None:
        await asyncio.gather(*[self.spawn(child) for child in children], return_exceptions=True)

    async def main(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        root = self.spawn(self.plan.tree)
        for _ in range(self.plan.turns):
            await asyncio.sleep(0)
        await asyncio.create_task(self.culprit(), name="culprit")
        await self.calm_down()
        # What is left was no victim, and ends as if nothing had happened.
        for future in self.futures:
            if not future.done():
                future.set_result(None)
        self.strike.set()
        while not all(task.done() for task in (root, *self.tasks)):
            await asyncio.wait(list(self.tasks), timeout=0.001)
            for future in self.futures:
                if not future.done():
                    future.set_result(None)
        for task in self.tasks:
            if not task.cancelled():
                task.exception()

    async def culprit(self) -> None:
        self.strike.set()
        where = self.plan.where
        if self.plan.culprit == "cancels":
            self.struck = True
            self.tasks[where % len(self.tasks)].cancel()  # LINE cancels
        elif self.plan.culprit == "cancels_future" and self.futures:
            self.struck = True
            self.futures[where % len(self.futures)].cancel()  # LINE cancels_future
        elif self.plan.culprit == "by_timer":
            self.struck = True
            victim = self.tasks[where % len(self.tasks)]
            asyncio.get_running_loop().call_later(0.001, victim.cancel)  # LINE by_timer

    async def calm_down(self) -> None:
        """Give the consequences time."""
        if self.plan.culprit in ("times_out", "waits_too_long", "by_timer"):
            await asyncio.sleep(0.006)
        for _ in range(60):
            await asyncio.sleep(0)

    # -- and the truth about it

    def is_culprit(self, root: Link) -> bool:
        """Whether *root* names what went wrong: its kind, its line, its name."""
        culprit = self.plan.culprit
        if root.at != f"{__file__}:{LINES[culprit]}":
            return False
        if culprit in ("cancels", "cancels_future"):
            return root.what == "called" and root.by_name == "culprit"
        if culprit == "by_timer":
            return root.what == "called" and root.reason in ("explicit", "gather")
        if culprit == "fails":
            assert self.culprit_name is not None
            told = f"{root.name} {root.detail or ''}"
            return (
                root.what == "failed"
                and root.error is not None
                and root.error.startswith(("ValueError: culprit", "ExceptionGroup"))
                and re.search(rf"\b{self.culprit_name}\b", told) is not None
            )
        seconds = 0.002 if culprit == "waits_too_long" else 0.002 * (self.plan.turns % 2)
        return (
            root.what == "deadline"
            and root.seconds is not None
            and abs(root.seconds - seconds) < 0.05
        )

    def victims(self) -> set[str]:
        """The tasks that ended cancelled."""
        return {task.get_name() for task in self.tasks if task.cancelled()}


def perform(plan: Plan, loop: str) -> World:
    """Run the program of *plan*; what it did is recorded by whoever listens."""
    worlds: list[World] = []

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("main")
        world = World(plan)
        worlds.append(world)
        await world.main()

    BY_NAME[loop].run(main())
    return worlds[0]


# -- checks ------------------------------------------------------------------------------


def answers_of(events: Sequence[Event]) -> dict[int, Answer]:
    """What a log file with these events answers, in this order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        path.write_bytes(encode_events(list(events)))
        log = aioaudit.load(path)
        assert log.damaged == 0
        return {answer.task: answer for answer in log.why()}


def blamed_wrongly(world: World, answers: dict[int, Answer], *, lost: bool) -> list[str]:
    """The answers that name another culprit, or none where everything was seen."""
    lost = lost or world.too_late
    return [
        f"{answer.name}: {answer.chain}"
        for answer in answers.values()
        if not world.is_culprit(answer.root) and not (lost and is_open(answer.root))
    ]


def is_open(root: Link) -> bool:
    """Whether *root* says that there may be more behind it."""
    return not is_known(root) or "while handling CancelledError" in (root.detail or "")


def check(
    plan: Plan, loop: str, perform: Callable[[Plan, str], World] = perform
) -> Sequence[Event]:
    """Perform *plan*, and check every answer; what was told is returned."""
    note(str(plan))
    with aioaudit.recording() as trail:
        world = perform(plan, loop)
        events = trail.events
        remembered = {task.get_name(): trail.why(task) for task in world.tasks}
    answers = answers_of(events)
    assert blamed_wrongly(world, answers, lost=False) == []
    by_name = {answer.name: answer for answer in answers.values()}
    # Who waits for a future that was cancelled before dies of an error that nobody requested.
    assert world.too_late or world.victims() <= by_name.keys()
    for name in world.victims() & by_name.keys():
        # Who asks the living program gets the same answer, or none where nothing is known.
        answer = by_name[name]
        assert remembered[name] == (answer if is_known(answer.root) or remembered[name] else None)
    if not world.struck:
        assert answers == {}
    chance = random.Random(plan.order)
    shuffled = list(events)
    chance.shuffle(shuffled)
    assert answers_of(shuffled) == answers
    for share in (0.9, 0.5, 0.2):
        kept = [event for event in shuffled if chance.random() < share]
        if kept:
            assert blamed_wrongly(world, answers_of(kept), lost=True) == []
    return events
