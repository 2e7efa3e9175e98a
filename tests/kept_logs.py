"""A plugin for pytest: the events of each log that a test reads are written to a file of its own.

So what one file of tests makes up by hand, others can ask in another way.  The folder is that of
the variable ``KEPT_LOGS``.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import msgspec
import pytest

from aioaudit.events import Event
from aioaudit.log.store import Store

_number = count()
_events: dict[int, tuple[Store, list[Event]]] = {}
_add = Store.add


def _keep(self: Store, event: Event) -> None:
    _events.setdefault(id(self), (self, []))[1].append(event)
    _add(self, event)


@pytest.fixture(autouse=True)
def _kept(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(Store, "add", _keep)
    yield
    folder = Path(os.environ["KEPT_LOGS"])
    for _, events in _events.values():
        lines = [msgspec.json.encode(event) for event in events]
        (folder / f"{next(_number):05}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    _events.clear()
