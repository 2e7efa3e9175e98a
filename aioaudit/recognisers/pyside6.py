"""PySide6.QtAsyncio's tasks, which are of a class of their own (PySide6 6.6 to 6.12).

They are none of asyncio's, so their ``cancel`` and ``uncancel`` are probed once the module
that they are in has been imported.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from aioaudit.state.cause import Cause

if TYPE_CHECKING:
    from aioaudit.recorder.recorder import Recorder

_TASKS = "PySide6.QtAsyncio.tasks"


def passed_on(_frame: FrameType, call: Any) -> Cause | None:
    """``QAsyncioTask.cancel``, which cancels the task that it awaits."""
    return None if call.nested is None else Cause(reason="awaiter", request=call.nested)


CALL_SITES = {(_TASKS, "QAsyncioTask.cancel"): passed_on}
"""Call sites by module and qualified name."""

PROBES = ((_TASKS, "QAsyncioTask.cancel"), (_TASKS, "QAsyncioTask.uncancel"))
"""What `install` replaces."""


def install(module: ModuleType, recorder: Recorder, put: Callable[[Any, str, Any], None]) -> None:
    """Probe the tasks of QtAsyncio, which *module* has, with *put*."""
    from aioaudit.probes.tasks import make_cancel, make_uncancel

    task = module.QAsyncioTask
    put(task, "cancel", make_cancel(recorder, task, vars(task)["cancel"]))
    recorder.state.probe_codes |= {id(task.cancel.__code__)}
    put(task, "uncancel", make_uncancel(recorder, task, vars(task)["uncancel"]))
