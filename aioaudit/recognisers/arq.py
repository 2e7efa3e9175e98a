"""arq's calls of ``cancel()``: jobs that are aborted, or end with their worker (arq 0.26 to 0.28)."""

from __future__ import annotations

from types import FrameType

from aioaudit.cpython.internals import Internal
from aioaudit.cpython.tasks import current_task
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_WORKER = "arq.worker"


def job_timed_out(frame: FrameType, call: Call) -> Cause:
    """``Worker.run_job``: the job took longer than its ``timeout``."""
    return call.by_timeout(frame, detail="the timeout of the job")


def job_aborted(_frame: FrameType, call: Call) -> Cause:
    """``Worker._cancel_aborted_jobs``: Redis says that some process called ``Job.abort()``."""
    detail = "a process called Job.abort()"
    return call.by_caller("arq.aborted", None, detail, current_task_unrelated=True)


def worker_closed(frame: FrameType, call: Call) -> Cause:
    """``Worker.close`` of a worker that handles no signals: what still runs is cancelled."""
    return call.by_caller("arq.closed", frame)


def signal_handled(frame: FrameType, call: Call) -> Cause | None:
    """``Worker.handle_sig``, which the loop calls; on uvloop only its argument says for which signal."""
    if current_task() is not None:
        return None  # called by hand
    return call.by_signal(local(frame, "signum"))


def completion_waited_for(frame: FrameType, call: Call) -> Cause:
    """``Worker._wait_for_tasks_to_complete``: a signal came, and the time to complete is over."""
    seconds = local(frame, "self")._job_completion_wait
    detail = f"it had {seconds:g} s to end by itself"
    return call.by_signal(local(frame, "signum"), detail)


CALL_SITES = {
    (_WORKER, "Worker._cancel_aborted_jobs"): job_aborted,
    (_WORKER, "Worker.handle_sig"): signal_handled,
    (_WORKER, "Worker.close"): worker_closed,
    (_WORKER, "Worker._wait_for_tasks_to_complete"): completion_waited_for,
}
"""Call sites by module and qualified name."""

TIMEOUTS = {(_WORKER, "Worker.run_job"): job_timed_out}
"""The function that enters a timeout, by module and qualified name."""

INTERNALS = (
    Internal(
        "_job_completion_wait",
        f"{_WORKER}:Worker",
        "the seconds that jobs have to end by themselves",
        "how long jobs had to end by themselves when a signal came",
    ),
)
"""The attributes that are read here, which the library promises nobody."""
