"""taskiq's calls of ``cancel()``: what a receiver has beside its tasks, and the timeouts of these (0.11.16 to 0.13)."""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.state.cause import Cause

_RECEIVER = "taskiq.receiver.receiver"


def not_needed(frame: FrameType, call: Call) -> Cause:
    """A receiver stops listening, or has no room: what waits beside is not needed."""
    return call.by_caller("taskiq.done", frame)


def task_timed_out(frame: FrameType, call: Call) -> Cause:
    """``Receiver.run_task``, which enters a timeout: the task took longer than its label says."""
    return call.by_timeout(frame, detail="the timeout of the task")


def shutting_down(frame: FrameType, call: Call) -> Cause:
    """``shutdown_broker``: the broker did not shut down in time."""
    return call.by_timeout(frame, detail="shutdown_timeout")


CALL_SITES = {
    (_RECEIVER, "Receiver.prefetcher"): not_needed,
    (_RECEIVER, "Receiver._settle_delivery_acquire"): not_needed,
    (_RECEIVER, "Receiver._close_prefetch_state"): not_needed,
}
"""Call sites by module and qualified name."""

VERSIONS = {site: ">=0.12.6" for site in CALL_SITES if site[1] != "Receiver.prefetcher"}
"""The versions that have a call site, where not all do."""

TIMEOUTS = {
    (_RECEIVER, "Receiver.run_task"): task_timed_out,
    ("taskiq.cli.worker.run", "shutdown_broker"): shutting_down,
}
"""The functions that enter timeouts, by module and qualified name."""
