"""Textual cancels workers and timers: an app without a screen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.recognising import hang, links, name_task, trails

pytest.importorskip("textual")
textual_app: Any = pytest.importorskip("textual.app")
textual_widgets: Any = pytest.importorskip("textual.widgets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own
trail_of = trails()


async def work(name: str) -> None:
    name_task(name)
    await hang()


class App(textual_app.App[None]):  # type: ignore[misc]  # of no known type
    """One widget, with workers of its own."""

    def compose(self) -> Any:
        """The widget."""
        yield textual_widgets.Static("a")


def test_workers_say_what_they_were_ended_for(trail_of: Any) -> None:
    async def scenario() -> None:
        app = App()
        async with app.run_test() as pilot:
            widget = app.query_one(textual_widgets.Static)
            widget.set_interval(60, lambda: None, name="ticks")
            app.run_worker(work("first"), group="search")
            await pilot.pause()
            app.run_worker(work("second"), group="search", exclusive=True)  # LINE begins
            by_hand = app.run_worker(work("by hand"))
            widget.run_worker(work("of a widget"))
            app.run_worker(work("left"), group="others")
            await pilot.pause()
            by_hand.cancel()  # LINE by_hand
            await widget.remove()
            await pilot.pause()
        await asyncio.sleep(0)

    trail = trail_of(scenario)

    root = links(trail.why("first"))[-1]
    assert (root["what"], root["reason"], root["at"]) == ("called", "textual.exclusive", "begins")
    assert root["detail"] == "a worker that is exclusive in the group 'search' was started"

    root = links(trail.why("by hand"))[-1]
    assert (root["what"], root["reason"], root["at"]) == ("called", "explicit", "by_hand")

    root = links(trail.why("of a widget"))[-1]
    assert (root["reason"], root["detail"]) == ("textual.removed", "Static was removed")

    for name in ("second", "left"):
        root = links(trail.why(name))[-1]
        assert (root["reason"], root["detail"]) == ("textual.exit", "the app ended")

    assert links(trail.why("ticks"))[-1]["reason"] == "textual.timer"
