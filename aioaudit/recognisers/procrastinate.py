"""Procrastinate's calls of ``cancel()``: jobs that are aborted, and a worker's own tasks (3.0 to 3.10)."""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_WORKER = "procrastinate.worker"
_UTILS = "procrastinate.utils"


def job_aborted(frame: FrameType, call: Call) -> Cause:
    """``Worker._abort_job``: somebody asked for it, or the worker stops and its time is over."""
    reason = local(frame, "reason").name
    if reason == "SHUTDOWN":
        seconds = local(frame, "self").shutdown_graceful_timeout
        detail = f"the worker stops, and shutdown_graceful_timeout ({seconds:g} s) is over"
        return call.by_caller("procrastinate.shutdown", frame, detail)
    return call.by_caller(
        "procrastinate.aborted",
        None,
        "its abortion was asked for (cancel_job_by_id)",
        current_task_unrelated=True,
    )


def not_needed(frame: FrameType, call: Call) -> Cause:
    """What waits beside something, or what a worker that stops had beside its jobs."""
    return call.by_caller("procrastinate.done", frame)


def polled(frame: FrameType, call: Call) -> Cause:
    """``gen_with_timeout``: nothing came meanwhile, which is asked again."""
    return call.by_timeout(frame, "procrastinate.poll", "nothing came meanwhile")


CALL_SITES = {
    (_WORKER, "Worker._abort_job"): job_aborted,
    (_WORKER, "Worker._run_loop"): not_needed,
    (_UTILS, "cancel_and_capture_errors"): not_needed,
    (_UTILS, "wait_any"): not_needed,
}
"""Call sites by module and qualified name."""

TIMEOUTS = {(_UTILS, "gen_with_timeout"): polled}
"""The function that enters a timeout, by module and qualified name."""
