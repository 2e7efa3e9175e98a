"""Textual's calls of ``cancel()``: workers that are not wanted any more, and timers (Textual 0.80 to 8.2)."""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_MANAGER = "textual.worker_manager"
_TIMER = "textual.timer"


def group_replaced(frame: FrameType, call: Call) -> Cause:
    """``WorkerManager.cancel_group``: an exclusive worker begins, or somebody ends the group."""
    detail = f"the workers of the group {local(frame, 'group')!r} were cancelled"
    outer = frame.f_back
    if outer is not None and outer.f_code.co_qualname == "WorkerManager.add_worker":
        detail = f"a worker that is exclusive in the group {local(frame, 'group')!r} was started"
    return call.by_caller("textual.exclusive", frame, detail)


def node_removed(frame: FrameType, call: Call) -> Cause:
    """``WorkerManager.cancel_node``: the widget or the screen that it worked for is removed."""
    detail = f"{type(local(frame, 'node')).__name__} was removed"
    return call.by_caller("textual.removed", frame, detail)


def app_ended(frame: FrameType, call: Call) -> Cause:
    """``WorkerManager.cancel_all``: the app ends."""
    return call.by_caller("textual.exit", frame, "the app ended")


def timer_stopped(frame: FrameType, call: Call) -> Cause:
    """A timer is stopped, by hand or with what it belongs to."""
    return call.by_caller("textual.timer", frame)


def waited_for(frame: FrameType, call: Call) -> Cause:
    """What was begun beside something is not needed any more."""
    return call.by_caller("textual.done", frame)


CALL_SITES = {
    (_MANAGER, "WorkerManager.cancel_group"): group_replaced,
    (_MANAGER, "WorkerManager.cancel_node"): node_removed,
    (_MANAGER, "WorkerManager.cancel_all"): app_ended,
    (_TIMER, "Timer.stop"): timer_stopped,
    (_TIMER, "Timer._stop_all.<locals>.stop_timer"): timer_stopped,
    ("textual.command", "CommandPalette._search_for"): waited_for,
    ("textual.pilot", "Pilot._wait_for_screen"): waited_for,
}
"""Call sites by module and qualified name."""
