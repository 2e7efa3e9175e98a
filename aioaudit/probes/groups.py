"""A probe on ``asyncio.TaskGroup.cancel`` (3.15): who called it before the group was entered.

Then it only leaves a mark (``_cancel_on_enter``), and ``__aenter__`` does the rest, when
nothing on the stack says any more who asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioaudit.cpython.frames import caller_of
from aioaudit.cpython.groups import is_untouched
from aioaudit.recorder.recorder import Recorder


def make_cancel(recorder: Recorder, original: Callable[[Any], None]) -> Callable[[Any], None]:
    """``TaskGroup.cancel`` that remembers who calls it too early; the first who does counts."""

    def cancel(self: Any) -> None:
        try:
            if is_untouched(self) and not recorder.muted():
                cause = recorder.explain_cancel(self, caller_of())
                cause.reason = "task_group"
                recorder.remember_cause(self, cause)
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a group from ending
            recorder.report_fault(error)
        original(self)

    return cancel
