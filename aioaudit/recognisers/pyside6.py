"""PySide6.QtAsyncio's tasks, which are of a class of their own (PySide6 6.6 to 6.12).

They are none of asyncio's, so their ``cancel`` and ``uncancel`` are probed once the module
that they are in has been imported.
"""

from __future__ import annotations

from types import FrameType, ModuleType
from typing import Any

from aioaudit.recognisers.probing import Probing
from aioaudit.state.cause import Cause

_TASKS = "PySide6.QtAsyncio.tasks"


def passed_on(_frame: FrameType, call: Any) -> Cause | None:
    """``QAsyncioTask.cancel``, which cancels the task that it awaits."""
    return None if call.nested is None else call.by_request("awaiter", call.nested)


CALL_SITES = {(_TASKS, "QAsyncioTask.cancel"): passed_on}
"""Call sites by module and qualified name."""

PROBES = ((_TASKS, "QAsyncioTask.cancel"), (_TASKS, "QAsyncioTask.uncancel"))
"""What `install` replaces."""


def install(module: ModuleType, probing: Probing) -> None:
    """Probe the tasks of QtAsyncio, which *module* has."""
    probing.put_task(module.QAsyncioTask)
