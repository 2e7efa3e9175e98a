"""Libraries on top of others that cancel on the application's behalf, where no recogniser knows why."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.recognising import hang, links, trails

trail_of = trails()


SESSIONS = """
import anyio

class Session:
    async def __aenter__(self):
        self.group = await anyio.create_task_group().__aenter__()
        return self

    def start(self, function, name):
        self.group.start_soon(function, name=name)

    async def disconnect(self):
        self.group.cancel_scope.cancel()

    async def __aexit__(self, *error):
        return await self.group.__aexit__(*error)
"""


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A library on top of anyio, as it is installed."""
    pytest.importorskip("anyio")
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "madeupsessions.py").write_text(SESSIONS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "madeupsessions", raising=False)
    import madeupsessions  # type: ignore[import-not-found]  # made above

    return madeupsessions  # type: ignore[no-any-return]  # as above


def test_a_scope_that_a_library_cancels_has_its_line_and_ours(
    trail_of: Any, sessions: ModuleType
) -> None:
    async def scenario() -> None:
        async with sessions.Session() as session:
            session.start(hang, "reader")
            await asyncio.sleep(0)
            await session.disconnect()  # LINE disconnects

    [own, root] = links(trail_of(scenario).why("reader"))
    both = {
        "reason": "scope",
        "at": "disconnects",
        "by_name": "host",
        "library": "madeupsessions:Session.disconnect",
        "library_at": "madeupsessions.py",
    }
    assert own == {"what": "cancelled", "name": "reader"} | both
    assert root == {"what": "called"} | both
