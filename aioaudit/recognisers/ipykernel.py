"""ipykernel's calls of ``cancel()``: the interrupt of a cell, and the end of the kernel (ipykernel 6.29 to 7.4)."""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_KERNEL = "ipykernel.ipkernel"
_OUTPUT = "ipykernel.iostream"


def interrupted(frame: FrameType, call: Call) -> Cause | None:
    """``_cancel_on_sigint``: a future ends as the handler of SIGINT says; it is the cell's.

    The same function cancels that future where the cell has ended, which nobody waits for.
    """
    handled = local(frame, "_ignored")
    if handled.cancelled() or hasattr(handled, "get_coro"):
        return None
    return call.by_signal("SIGINT", "the kernel was asked to interrupt the cell")


def kernel_ended(frame: FrameType, call: Call) -> Cause:
    """``IOPubThread._thread_main``: the thread ends that sends what is printed."""
    return call.by_caller("ipykernel.closed", frame)


CALL_SITES = {
    (_KERNEL, "IPythonKernel._cancel_on_sigint.<locals>.cancel_unless_done"): interrupted,
    (_OUTPUT, "IOPubThread._thread_main"): kernel_ended,
    (_OUTPUT, "IOPubThread._thread_main.<locals>._cancel"): kernel_ended,
}
"""Call sites by module and qualified name."""

LEFT = (
    (_KERNEL, "IPythonKernel.poll_stopped_queue"),
    ("ipykernel.kernelbase", "Kernel.poll_control_queue"),
    (_OUTPUT, "IOPubThread._run_event_pipe_gc"),
)
"""Coroutine functions whose tasks each kernel leaves to the end of their loops."""

VERSIONS = {("ipykernel.kernelbase", "Kernel.poll_control_queue"): "<7"}
"""The versions that have it, where not all do."""
