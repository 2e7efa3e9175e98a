"""`sys.monitoring` (PEP 669, CPython 3.12 and later), as far as it is needed.

`PY_RETURN` is a local event, set on the code of coroutines that tasks run;
and so is `PY_YIELD`, for a moment, where a task has dropped a CancelledError.
`PY_UNWIND` and `PY_THROW` are global but fire only while an exception travels,
so a program in which nothing is raised pays nothing for them.
`EXCEPTION_HANDLED` and `RERAISE` cost every handled exception of the process
about 0.1 us: they are on only while a cancellation is under way.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any

from aioaudit.cpython.behaviour import HAS_MONITORING
from aioaudit.errors import AioauditError
from aioaudit.weak import dropping

AVAILABLE = HAS_MONITORING

CANDIDATES = (3, 4, 5, 0, 1, 2)
"""Tool ids to try: those that PEP 669 gives to no kind of tool come first."""


class NoToolError(AioauditError, RuntimeError):
    """Others hold all tool ids: what is there before 3.12 has to do."""


class Monitor:
    """One tool id of `sys.monitoring`, from `open` to `close`."""

    def __init__(self, name: str) -> None:
        """Touches nothing yet; *name* is what others see of it."""
        self._api: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]  # 3.12+, typed away on 3.11
        self._events = self._api.events
        self._global = 0
        self._tool = -1
        self._open = False
        self._name = "".join(list(name))  # an object of its own, by which our tool is known
        self.codes: dict[int, weakref.ref[CodeType]] = {}
        """The codes that have local events, by `id`: one that dies takes its events along."""

    def open(self) -> None:
        """Take a free tool id.

        Raises:
            NoToolError: there is none.
        """
        for tool in CANDIDATES:
            if self._api.get_tool(tool) is None:
                self._tool = tool  # first: who is interrupted here can close it
                self._api.use_tool_id(tool, self._name)
                self._open = True
                return
        raise NoToolError("all six tool ids of sys.monitoring are taken")

    def on(self, event: str, callback: Callable[..., object]) -> None:
        """Call *callback* for *event* (``"PY_RETURN"``) once it is switched on."""
        if self._open:
            self._api.register_callback(self._tool, getattr(self._events, event), callback)

    def switch(self, on: bool, *events: str) -> None:
        """Switch global *events* on or off; cheap when nothing changes."""
        wanted = self._global
        for event in events:
            bit: int = getattr(self._events, event)
            wanted = wanted | bit if on else wanted & ~bit
        if wanted != self._global and self._open:
            self._global = wanted
            self._api.set_events(self._tool, wanted)

    def watch_returns(self, code: CodeType) -> None:
        """Switch ``PY_RETURN`` on for one code object."""
        if self._open:
            self._keep(code)
            self._api.set_local_events(self._tool, code, self._events.PY_RETURN)

    def watch_yields(self, code: CodeType, on: bool) -> None:
        """Switch ``PY_YIELD`` on, beside ``PY_RETURN``, or off again for one code object."""
        if self._open:
            self._keep(code)
            more = self._events.PY_YIELD if on else 0
            self._api.set_local_events(self._tool, code, self._events.PY_RETURN | more)

    def _keep(self, code: CodeType) -> None:
        if id(code) not in self.codes:
            self.codes[id(code)] = dropping(code, self.codes, id(code))

    def close(self) -> None:
        """Switch everything off and give the tool id back; to do it again does what is left."""
        self._open = False
        if self._tool < 0 or self._api.get_tool(self._tool) is not self._name:
            return
        self._api.set_events(self._tool, 0)
        for ref in list(self.codes.values()):
            code = ref()
            if code is not None:
                self._api.set_local_events(self._tool, code, 0)
        self.codes.clear()
        for event in (
            "PY_RETURN",
            "PY_YIELD",
            "PY_UNWIND",
            "PY_THROW",
            "EXCEPTION_HANDLED",
            "RERAISE",
        ):
            self._api.register_callback(self._tool, getattr(self._events, event), None)
        self._api.free_tool_id(self._tool)
