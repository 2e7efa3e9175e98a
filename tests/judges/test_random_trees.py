"""Random trees of tasks with one known culprit: every chain ends at it, or nowhere."""

from __future__ import annotations

import random
import sys

from hypothesis import given, note, settings
from hypothesis import strategies as st

import aioaudit
from aioaudit.cpython.behaviour import HAS_MONITORING
from aioaudit.exporters.memory import MemoryExporter
from tests.loops import BY_NAME, needs_uvloop
from tests.random_trees import (
    CULPRITS,
    PROGRAMS,
    SMALL,
    Node,
    Plan,
    World,
    answers_of,
    as_many_as_wanted,
    blamed_wrongly,
    check,
    patience,
    perform,
    plans,
)

pytestmark = patience


@as_many_as_wanted
@given(plans)
def test_every_victim_of_a_random_tree_is_traced_to_the_culprit(plan: Plan) -> None:
    check(plan, "asyncio")


@needs_uvloop
@settings(as_many_as_wanted, max_examples=PROGRAMS or 60)
@given(plans)
def test_every_victim_of_a_random_tree_on_uvloop_is_traced_to_the_culprit(plan: Plan) -> None:
    check(plan, "uvloop")


@settings(as_many_as_wanted, max_examples=PROGRAMS or 60)
@given(plans, st.sampled_from(sorted(BY_NAME)))
def test_cancellations_alone_blame_nobody_else(plan: Plan, loop: str) -> None:
    """Before 3.12 an end that is not told is heard after what follows from it: then nobody knows."""
    note(str(plan))
    exporter = MemoryExporter()
    aioaudit.enable(exporter, events=SMALL)
    try:
        world = perform(plan, loop)
    finally:
        aioaudit.disable()
    answers = answers_of(exporter.events)
    assert blamed_wrongly(world, answers, lost=not HAS_MONITORING) == []
    by_name = {answer.name for answer in answers.values()}
    if world.struck and plan.culprit in ("cancels", "by_timer"):
        # The first victim at least had a request of its own.
        assert by_name
    chance = random.Random(plan.order)
    kept = [event for event in exporter.events if chance.random() < 0.5]
    if kept:
        assert blamed_wrongly(world, answers_of(kept), lost=True) == []


def test_the_trees_do_what_they_are_for() -> None:
    """Every kind of culprit has victims: the claims above are not empty."""
    tree = Node(
        "group",
        (
            Node("gather", (Node("waits"), Node("shares"))),
            Node("calls", (Node("awaits", (Node("waits"),)),)),
            Node("shares"),
        ),
    )
    for culprit in CULPRITS:
        with aioaudit.recording() as trail:
            world = perform(Plan(tree, culprit, 1, 10, 0), "asyncio")
            answers = answers_of(trail.events)
        assert world.struck, culprit
        assert answers, culprit
        if culprit != "fails" or sys.version_info >= (3, 12):
            assert all(world.is_culprit(answer.root) for answer in answers.values()), culprit
        other = World(Plan(tree, "fails" if culprit != "fails" else "cancels", 1, 10, 0))
        other.culprit_name = "t1"
        assert not any(other.is_culprit(answer.root) for answer in answers.values())
