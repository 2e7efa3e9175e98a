"""LangGraph cancels: the node that failed is named, and not whoever runs the graph."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest

from tests.recognising import hang, links, name_task, trails
from tests.serving import begun

pytestmark = pytest.mark.filterwarnings("ignore")  # its own, about what it is going to change
trail_of = trails()


class State(TypedDict):
    """What the nodes of a graph hand on."""

    heard: Annotated[list[str], operator.add]


@pytest.fixture(autouse=True)
def langgraph() -> Any:
    """LangGraph, which is heavy: where it is not installed, it was tried by hand."""
    return pytest.importorskip("langgraph.graph", reason="LangGraph is not installed")


async def slow(_: State) -> None:
    name_task("inside")
    await hang()


async def quick(_: State) -> State:
    await asyncio.sleep(0.01)
    return {"heard": ["quick"]}


async def fails(_: State) -> None:
    await asyncio.sleep(0.01)
    raise RuntimeError("no answer")  # LINE fails


@pytest.fixture
def graph(langgraph: Any) -> Any:
    """Makes a graph of the node ``slow`` beside another one."""

    def make(other: Any, **options: Any) -> Any:
        made = langgraph.StateGraph(State)
        made.add_node("slow", slow, **options)
        made.add_node("other", other)
        made.add_edge(langgraph.START, "slow")
        made.add_edge(langgraph.START, "other")
        return made.compile()

    return make


START: State = {"heard": []}


def test_a_node_ends_because_another_one_failed(trail_of: Any, graph: Any) -> None:
    async def scenario() -> None:
        await graph(fails).ainvoke(START)

    trail = trail_of(scenario)
    [own, root] = links(trail.why("slow"))
    assert (own["reason"], own["by_name"]) == ("langgraph.node_failed", "host")
    assert root == {
        "what": "failed",
        "name": "other",
        "error": "RuntimeError: no answer",
        "at": "fails",
    }
    assert links(trail.why("inside"))[-2:] == [own, root]


def test_a_step_that_takes_too_long_is_a_deadline(trail_of: Any, graph: Any) -> None:
    async def scenario() -> None:
        made = graph(quick)
        made.step_timeout = 0.05
        await made.ainvoke(START)  # LINE runs

    assert links(trail_of(scenario).why("slow"))[-1] == {
        "what": "deadline",
        "reason": "timeout",
        "at": "runs",
        "seconds": 0.05,
        "detail": "the step_timeout of the graph",
    }


def test_a_node_that_takes_too_long_is_a_deadline_of_its_own(trail_of: Any, graph: Any) -> None:
    async def scenario() -> None:
        await made.ainvoke(START)

    try:
        made = graph(quick, timeout=0.05)
    except TypeError:
        pytest.skip("this LangGraph has no timeouts of nodes")
    assert links(trail_of(scenario).why("inside"))[-1] == {
        "what": "deadline",
        "reason": "timeout",
        "seconds": 0.05,
        "detail": "the run timeout of the node slow",
    }


def test_what_is_cancelled_from_outside_leads_there(trail_of: Any, graph: Any) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(graph(quick).ainvoke(START), name="invoker")
        await begun("inside")
        task.cancel()  # LINE cancels
        await asyncio.wait([task])

    trail = trail_of(scenario)
    assert links(trail.why("slow"))[1:] == links(trail.why("invoker"))
    assert links(trail.why("invoker"))[-1]["at"] == "cancels"


def test_a_stream_that_is_closed_says_who_closed_it(trail_of: Any, graph: Any) -> None:
    async def scenario() -> None:
        stream = graph(quick).astream(START, stream_mode="updates")
        async for _ in stream:
            break
        await stream.aclose()  # LINE closes

    said = {
        "reason": "langgraph.abandoned",
        "at": "closes",
        "detail": "its stream was not read to the end",
    }
    chain = links(trail_of(scenario).why("slow"))
    for link in chain:
        link.pop("message", None)  # an object that LangGraph knows its own requests by
    assert chain == [
        {"what": "cancelled", "name": "slow", "by_name": "host", **said},
        {"what": "called", "by_name": "host", **said},
    ]
