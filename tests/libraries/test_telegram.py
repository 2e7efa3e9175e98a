"""python-telegram-bot cancels: a bot that polls is stopped."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.recognising import hang, links, name_task, trails
from tests.waiting import PATIENCE

telegram: Any = pytest.importorskip("telegram")
telegram_ext: Any = pytest.importorskip("telegram.ext")
telegram_request: Any = pytest.importorskip("telegram.request")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own
trail_of = trails()


class Request(telegram_request.BaseRequest):  # type: ignore[misc]  # of no known type
    """Telegram itself: it answers all but the question for news, which lasts."""

    read_timeout = 5

    def __init__(self) -> None:
        """Begin with nobody who asks."""
        self.asked = asyncio.Event()

    async def initialize(self) -> None:
        """There is nothing to do."""

    async def shutdown(self) -> None:
        """There is nothing to do."""

    async def do_request(self, url: str, *_: Any, **__: Any) -> tuple[int, bytes]:
        """The answer to one request."""
        result: Any = True
        if url.endswith("/getMe"):
            result = {"id": 1, "is_bot": True, "first_name": "b", "username": "b"}
        elif url.endswith("/getUpdates") and not self.asked.is_set():
            name_task("asks")
            self.asked.set()
            await hang()
        elif url.endswith("/getUpdates"):
            result = []
        return 200, json.dumps({"ok": True, "result": result}).encode()


def test_a_bot_that_stops_listening_names_the_line_that_stopped_it(trail_of: Any) -> None:
    async def scenario() -> None:
        request = Request()
        bot = telegram.Bot("1:a", request=request, get_updates_request=request)
        updater = telegram_ext.Updater(bot, asyncio.Queue())
        await updater.initialize()
        await updater.start_polling()
        await asyncio.wait_for(request.asked.wait(), PATIENCE)
        await updater.stop()  # LINE stops
        await updater.shutdown()

    said = {
        "reason": "telegram.closed",
        "at": "stops",
        "by_name": "host",
        "detail": "the updater was told to stop",
    }
    assert links(trail_of(scenario).why("asks")) == [
        {"what": "cancelled", "name": "asks", **said},
        {"what": "called", **said},
    ]
