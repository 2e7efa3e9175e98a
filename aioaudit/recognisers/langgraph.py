"""LangGraph's calls of ``cancel()``: a node failed, a step or a node took too long, a graph was left (0.6 to 1.2)."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any

from aioaudit.chain.links import Link
from aioaudit.cpython.tasks import current_task, exception_of
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.awaiters import waiters_of
from aioaudit.state.cause import Cause

_RUNNER = "langgraph.pregel._runner"
_EXECUTOR = "langgraph.pregel._executor"
_RETRY = "langgraph.pregel._retry"
_MAIN = "langgraph.pregel.main"

_FAILED = "langgraph.node_failed"
_DONE = "langgraph.done"
_STEP = "the step_timeout of the graph"
_NOT_FAILURES = "GraphBubbleUp"
"""Errors of this class and those below it are how a graph is interrupted, and no failures."""


def _failed(tasks: Iterable[Any]) -> Iterator[tuple[Any, BaseException]]:
    """Those of *tasks* that have failed, with their errors; not what its asking would change."""
    for task in tasks:
        if task.done() and not task.cancelled() and hasattr(task, "get_coro"):
            error = exception_of(task)
            if isinstance(error, BaseException) and not any(
                each.__name__ == _NOT_FAILURES for each in type(error).__mro__
            ):
                yield task, error


def step_ended(frame: FrameType, call: Call) -> Cause | None:
    """``PregelRunner.atick``: a node failed, the others of its step are ended; or none is left.

    The loop waits for its nodes and for one helper, which stands for no node (None).
    """
    nodes = local(frame, "futures")
    if nodes.get(call.victim) is None:
        return call.by_caller(_DONE, frame)
    ended = local(frame, "done_for_stop")  # of `done`, those whose failure nobody handled
    done, seconds = local(frame, "done"), local(frame, "timeout")
    failed = list(_failed(done if ended is None else ended))
    if not (done or failed or seconds is None):
        return call.by_deadline("timeout", seconds, call.caller(frame), detail=_STEP)
    if not failed:
        return None
    cause = call.by_failure(_FAILED, *failed[0])
    if len(failed) > 1:
        cause.evidence = "inferred"  # they were found to have failed at once
    return cause


def graph_left(frame: FrameType, call: Call) -> Cause | None:
    """``AsyncBackgroundExecutor.__aexit__``: the graph is left, and what still runs is ended.

    That happens in a task of its own, for which the one waits that ran the graph.
    """
    error = local(frame, "exc_value")
    if isinstance(error, CancelledError):
        return call.by_request("awaiter", error)
    if error is None:
        return call.by_caller(_DONE, frame)
    for task, failure in _failed(local(frame, "tasks")):
        if failure is error:
            return call.by_failure(_FAILED, task, error)
    current = current_task()
    owner = None if current is None else next(iter(waiters_of(current)), None)
    if owner is None:
        return None
    line = call.waiting_at(owner)
    if isinstance(error, TimeoutError):
        seconds = _step_timeout(error.__traceback__)
        if seconds is not None:
            return call.by_deadline("timeout", seconds, line, detail=_STEP)
    if isinstance(error, GeneratorExit):
        return _abandoned(call, owner, line if line[0] else call.caller(frame))
    return call.by_failure("langgraph.failed", owner, error)


def _step_timeout(step: TracebackType | None) -> float | None:
    """The seconds that a step had, where the error with this traceback says that they were over."""
    while step is not None:
        if step.tb_frame.f_code.co_qualname == "PregelRunner.atick":
            inner = step.tb_next
            by_wait = inner is None or inner.tb_frame.f_code.co_name in (
                "wait_for",
                "_panic_or_proceed",
            )
            seconds = local(step.tb_frame, "timeout")
            return float(seconds) if by_wait and seconds is not None else None
        step = step.tb_next
    return None


def _abandoned(call: Call, owner: Any, line: tuple[str | None, str | None]) -> Cause:
    """Whoever read the graph's stream has closed it, or let it go."""
    at, source = line
    reason, detail = "langgraph.abandoned", "its stream was not read to the end"
    return Cause(
        reason=reason,
        origin=Link(what="called", reason=reason, at=at, source=source, detail=detail),
        detail=detail,
        at=at,
        source=source,
        by=call.number_and_name(owner),
    )


def node_ended(frame: FrameType, call: Call) -> Cause | None:
    """``_arun_with_timeout``: the node, or what watched over its time, is not needed any more."""
    watchdogs = local(frame, "watchdogs")
    if call.victim in watchdogs:
        return call.by_caller(_DONE, frame)
    if isinstance(call.exception, CancelledError):
        return call.by_request("awaiter", call.exception)
    kind = local(frame, "kind")
    seconds = local(frame, f"{kind}_timeout_s")
    if seconds is None:
        return None
    detail = f"the {kind} timeout of the node {local(frame, 'task').name}"
    return call.by_deadline("timeout", seconds, (None, None), detail=detail)


def reading_ended(frame: FrameType, call: Call) -> Cause:
    """``_cleanup_waiter`` of ``astream``: nothing more is to be read."""
    return call.by_caller(_DONE, frame)


CALL_SITES = {
    (_RUNNER, "PregelRunner.atick"): step_ended,
    (_EXECUTOR, "AsyncBackgroundExecutor.__aexit__"): graph_left,
    (_RETRY, "_arun_with_timeout"): node_ended,
    (_MAIN, "Pregel.astream.<locals>._cleanup_waiter"): reading_ended,
}
"""Call sites by module and qualified name."""

VERSIONS = {(_RETRY, "_arun_with_timeout"): ">=1.2"}
"""The versions that have a call site, where not all do."""
