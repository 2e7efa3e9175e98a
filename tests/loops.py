"""The loops that tests run on: asyncio's, and uvloop's where that is installed."""

from __future__ import annotations

import asyncio
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

uvloop: Any = import_module("uvloop") if find_spec("uvloop") else None
needs_uvloop = pytest.mark.skipif(uvloop is None, reason="uvloop is not installed")

RUNS = [
    pytest.param(asyncio.run, id="asyncio"),
    pytest.param(getattr(uvloop, "run", None), id="uvloop", marks=needs_uvloop),
]
"""Functions as `asyncio.run`."""

MAKERS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(getattr(uvloop, "new_event_loop", None), id="uvloop", marks=needs_uvloop),
]
"""Functions as `asyncio.new_event_loop`."""

NAMES = [pytest.param("asyncio"), pytest.param("uvloop", marks=needs_uvloop)]
"""For what is told a name: a program that is started, and the functions below."""

BY_NAME: dict[str, Any] = {"asyncio": asyncio} | ({"uvloop": uvloop} if uvloop else {})
"""The modules of those that are installed, with ``run`` and ``new_event_loop``."""

every_loop = pytest.mark.parametrize("run", RUNS)
