"""Random programs that mix asyncio with anyio, with one known culprit: every chain ends at it.

The trees are those of `tests/random_trees.py`, with cancel scopes, deadlines, shields
and task groups of anyio in them, and culprits that act through a scope.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import aioaudit
from aioaudit.chain.links import Link
from aioaudit.cpython.behaviour import HAS_MONITORING
from aioaudit.events import Event, TaskCancel
from aioaudit.exporters.memory import MemoryExporter
from tests import random_trees as trees
from tests.loops import BY_NAME, needs_uvloop
from tests.random_trees import (
    PROGRAMS,
    SMALL,
    Node,
    Plan,
    World,
    answers_of,
    as_many_as_wanted,
    patience,
)

anyio = pytest.importorskip("anyio")

pytestmark = patience

IN_PLACE = (*trees.IN_PLACE, "scoped", "shielded", "moves_on", "cleans_up_shielded")
SEVERAL = (*trees.SEVERAL, "nursery", "nursery", "starts")


def _grown(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    one = st.builds(
        lambda kind, child: Node(kind, (child,)),
        st.sampled_from(trees.IN_A_TASK + IN_PLACE),
        children,
    )
    some = st.builds(
        lambda kind, several: Node(kind, tuple(several)),
        st.sampled_from(SEVERAL),
        st.lists(children, min_size=1, max_size=4),
    )
    return one | some | some


OWN_CULPRITS = ("cancels_scope", "runs_out", "fails_after", "by_thread")

plans = st.builds(
    Plan,
    tree=st.recursive(st.sampled_from([Node("waits"), Node("shares")]), _grown, max_leaves=8),
    culprit=st.sampled_from((*trees.CULPRITS, *OWN_CULPRITS, *OWN_CULPRITS)),
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
class AnyioWorld(World):
    """The program while it runs, with what it made of anyio's."""

    scopes: list[Any] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def name(self) -> str:
        return f"t{next(self.numbers)}"

    def spawn(self, node: Node) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.run(node), name=self.name())
        self.tasks.append(task)
        return task

    async def run(self, node: Node) -> None:
        here = self.nodes == self.plan.where % self.plan.tree.count()
        if here and self.plan.culprit in ("runs_out", "fails_after"):
            self.nodes += 1
            self._is_culprit()
            self.struck = True
            seconds = 0.002 * (self.plan.turns % 2)
            if self.plan.culprit == "runs_out":
                with anyio.move_on_after(seconds):  # LINE runs_out
                    await getattr(self, node.kind)(*node.children)
            else:
                with anyio.fail_after(seconds):  # LINE fails_after
                    await getattr(self, node.kind)(*node.children)
            return
        await super().run(node)

    async def scoped(self, child: Node) -> None:
        with anyio.CancelScope() as scope:
            self.scopes.append(scope)
            await self.run(child)

    async def shielded(self, child: Node) -> None:
        with anyio.CancelScope(shield=True) as scope:
            self.scopes.append(scope)
            await self.run(child)

    async def moves_on(self, child: Node) -> None:
        with anyio.move_on_after(1000) as scope:
            self.scopes.append(scope)
            await self.run(child)

    async def cleans_up_shielded(self, child: Node) -> None:
        try:
            await self.run(child)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0)

    async def group(self, *children: Node) -> None:
        async with asyncio.TaskGroup() as group:
            for child in children:
                task = group.create_task(self.run(child), name=self.name())
                self.tasks.append(task)

    async def _in_nursery(self, child: Node) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        await self.run(child)

    async def nursery(self, *children: Node) -> None:
        async with anyio.create_task_group() as group:
            self.scopes.append(group.cancel_scope)
            for child in children:
                group.start_soon(self._in_nursery, child, name=self.name())

    async def _started(self, child: Node, *, task_status: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        await asyncio.sleep(0)
        task_status.started()
        await self.run(child)

    async def starts(self, *children: Node) -> None:
        # Before 3.12 nothing ties the error that a child hands to who started it.
        self.too_late |= sys.version_info < (3, 12)
        async with anyio.create_task_group() as group:
            self.scopes.append(group.cancel_scope)
            for child in children:
                await group.start(self._started, child, name=self.name())

    async def culprit(self) -> None:
        self.strike.set()
        culprit = self.plan.culprit
        if culprit in ("cancels_scope", "by_thread"):
            if self.scopes:
                self.struck = True
                scope = self.scopes[self.plan.where % len(self.scopes)]
                if culprit == "cancels_scope":
                    scope.cancel("the culprit")  # LINE cancels_scope
                else:
                    await self._by_thread(scope)
            return
        if culprit in ("cancels", "by_timer") and not self.tasks:
            return
        await super().culprit()

    async def _by_thread(self, scope: Any) -> None:
        loop = asyncio.get_running_loop()

        def ask() -> None:
            loop.call_soon_threadsafe(scope.cancel)  # LINE by_thread

        thread = threading.Thread(target=ask, name="culprit-thread")
        thread.start()
        thread.join()

    async def calm_down(self) -> None:
        if self.plan.culprit in ("runs_out", "fails_after"):
            await asyncio.sleep(0.006)
        await super().calm_down()

    def is_culprit(self, root: Link) -> bool:
        culprit = self.plan.culprit
        if culprit not in OWN_CULPRITS:
            return super().is_culprit(root)
        if root.at != f"{__file__}:{LINES[culprit]}":
            return False
        if culprit == "cancels_scope":
            return root.what == "called" and root.by_name == "culprit"
        if culprit == "by_thread":
            return root.what == "called" and root.by_name == "culprit-thread"
        seconds = 0.002 * (self.plan.turns % 2)
        return (
            root.what == "deadline"
            and root.seconds is not None
            and abs(root.seconds - seconds) < 0.05
        )


def perform(plan: Plan, loop: str) -> AnyioWorld:
    """Run the program of *plan*; what it did is recorded by whoever listens."""
    worlds: list[AnyioWorld] = []

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("main")
        world = AnyioWorld(plan)
        worlds.append(world)
        await world.main()

    BY_NAME[loop].run(main())
    return worlds[0]


# -- checks ------------------------------------------------------------------------------


def asked_once(events: Sequence[Event]) -> None:
    """Deliveries of one scope to one task are one request."""
    told = [
        (event.task, event.message)
        for event in events
        if isinstance(event, TaskCancel)
        and event.message is not None
        and event.message.startswith("Cancelled via cancel scope")
    ]
    assert len(told) == len(set(told)), told


def check(plan: Plan, loop: str) -> None:
    asked_once(trees.check(plan, loop, perform))


@as_many_as_wanted
@given(plans)
def test_every_victim_in_a_random_mix_is_traced_to_the_culprit(plan: Plan) -> None:
    check(plan, "asyncio")


@needs_uvloop
@settings(as_many_as_wanted, max_examples=PROGRAMS or 50)
@given(plans)
def test_every_victim_in_a_random_mix_on_uvloop_is_traced_to_the_culprit(plan: Plan) -> None:
    check(plan, "uvloop")


@settings(as_many_as_wanted, max_examples=PROGRAMS or 50)
@given(plans, st.sampled_from(sorted(BY_NAME)))
def test_cancellations_of_a_mix_alone_blame_nobody_else(plan: Plan, loop: str) -> None:
    note(str(plan))
    exporter = MemoryExporter()
    aioaudit.enable(exporter, events=SMALL)
    try:
        world = perform(plan, loop)
    finally:
        aioaudit.disable()
    answers = answers_of(exporter.events)
    # Before 3.12 an end that is not told is heard after what follows from it.
    assert trees.blamed_wrongly(world, answers, lost=not HAS_MONITORING) == []
    kept = exporter.events[:: 2 + plan.order % 3]
    if kept:
        assert trees.blamed_wrongly(world, answers_of(kept), lost=True) == []


def test_the_mixes_do_what_they_are_for() -> None:
    """Every kind of culprit has victims: the claims above are not empty."""
    tree = Node(
        "nursery",
        (
            Node("scoped", (Node("gather", (Node("waits"), Node("shares"))),)),
            Node("starts", (Node("awaits", (Node("waits"),)),)),
            Node("shares"),
        ),
    )
    for culprit in (*trees.CULPRITS, *OWN_CULPRITS):
        with aioaudit.recording() as trail:
            world = perform(Plan(tree, culprit, 1, 11, 0), "asyncio")
            answers = answers_of(trail.events)
        assert world.struck, culprit
        assert answers, culprit
