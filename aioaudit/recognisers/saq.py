"""SAQ's calls of ``cancel()``: jobs that are aborted, take too long, or end with their worker (0.16 to 0.26)."""

from __future__ import annotations

from asyncio import CancelledError
from types import FrameType

from aioaudit.cpython.internals import Internal
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_WORKER = "saq.worker"
_TIMEOUT = "the timeout of the job"


def job_aborted(frame: FrameType, call: Call) -> Cause:
    """``Worker.abort``: the queue says that some process called ``Job.abort()``, and with which error."""
    error = local(frame, "job").error
    detail = "a process called Job.abort()" + (f": {error}" if error else "")
    return call.by_caller("saq.aborted", None, detail, current_task_unrelated=True)


def job_ended(frame: FrameType, call: Call) -> Cause | None:
    """``Worker.process``: the job took too long, or whoever processed it was cancelled."""
    if isinstance(call.exception, CancelledError):
        return call.by_request("awaiter", call.exception)
    if not isinstance(call.exception, TimeoutError):
        return None
    return call.by_deadline(
        "timeout", local(frame, "job").timeout, call.caller(frame), detail=_TIMEOUT
    )


def job_timed_out(frame: FrameType, call: Call) -> Cause:
    """``Worker.process``, which enters a timeout: the job took too long."""
    return call.by_timeout(frame, detail=_TIMEOUT)


def worker_stopped(frame: FrameType, call: Call) -> Cause:
    """``Worker.stop``: what has not ended by itself in the time of grace, where there is one."""
    seconds = getattr(local(frame, "self"), "_shutdown_grace_period_s", None)
    detail = "the worker stopped"
    if seconds:
        detail += f", it had {seconds:g} s to end by itself"
    return call.by_caller("saq.shutdown", frame, detail)


def closed(frame: FrameType, call: Call) -> Cause:
    """``Multiplexer``: nobody listens any more."""
    return call.by_caller("saq.closed", frame)


def grace(frame: FrameType, call: Call) -> Cause:
    """``Worker.stop``, which enters a timeout: the time of grace is over."""
    return call.by_timeout(frame, detail="shutdown_grace_period_s")


CALL_SITES = {
    (_WORKER, "Worker.abort"): job_aborted,
    (_WORKER, "Worker.process"): job_ended,
    (_WORKER, "Worker.stop"): worker_stopped,
    ("saq.multiplexer", "Multiplexer.close"): closed,
}
"""Call sites by module and qualified name."""

VERSIONS = {("saq.multiplexer", "Multiplexer.close"): ">=0.17"}
"""The versions that have a call site, where not all do."""

TIMEOUTS = {(_WORKER, "Worker.process"): job_timed_out, (_WORKER, "Worker.stop"): grace}
"""The functions that enter timeouts, by module and qualified name."""

INTERNALS = (
    Internal(
        "_shutdown_grace_period_s",
        f"{_WORKER}:Worker",
        "the seconds that jobs have to end by themselves",
        "how long jobs had to end by themselves when their worker stopped",
        since=(0, 26),
    ),
)
"""The attributes that are read here, which the library promises nobody."""
