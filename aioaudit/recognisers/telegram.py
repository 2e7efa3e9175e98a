"""python-telegram-bot's calls of ``cancel()``: a bot stops listening (python-telegram-bot 21.0 to 22.8)."""

from __future__ import annotations

from types import FrameType

from aioaudit.chain.links import Link
from aioaudit.cpython.tasks import current_task
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.common import waiting_in
from aioaudit.stack.frames import local
from aioaudit.state.awaiters import waiters_of
from aioaudit.state.cause import Cause

_LOOP = "telegram.ext._utils.networkloop"
_CLOSED = "telegram.closed"
_TOLD = "the updater was told to stop"
_STOPS = "Updater._stop_polling"


def network_loop(frame: FrameType, call: Call) -> Cause:
    """``do_action``: it asks Telegram, and watches for the event that says to stop.

    Whoever stopped the updater has set that event, and waits for the task that runs here.
    """
    if call.victim is local(frame, "stop_task"):
        return call.by_caller("telegram.done", frame)
    current = current_task()
    for asker in () if current is None else waiters_of(current):
        if waiting_in(asker, _STOPS) is not None:
            at, source = call.waiting_at(asker)
            link = Link(what="called", reason=_CLOSED, at=at, source=source, detail=_TOLD)
            by = call.number_and_name(asker)
            return Cause(reason=_CLOSED, origin=link, detail=_TOLD, at=at, source=source, by=by)
    return call.by_caller(_CLOSED, frame, _TOLD)


CALL_SITES = {
    (_LOOP, "network_retry_loop.<locals>.do_action"): network_loop,
    ("telegram.ext._updater", "Updater._network_loop_retry.<locals>.do_action"): network_loop,
}
"""Call sites by module and qualified name."""

VERSIONS = {
    (_LOOP, "network_retry_loop.<locals>.do_action"): ">=22",
    ("telegram.ext._updater", "Updater._network_loop_retry.<locals>.do_action"): "<22",
}
"""The versions that have a call site."""

PROBES = (("telegram.ext._updater", _STOPS),)
"""What is looked for besides."""
