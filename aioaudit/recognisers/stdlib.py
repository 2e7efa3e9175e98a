"""asyncio's own calls of ``cancel()``, CPython 3.11 to 3.15.

Each function explains one call site; the table at the end names them.  The
locals that they read are those of Lib/asyncio/timeouts.py, tasks.py,
taskgroups.py, runners.py, staggered.py and futures.py.
"""

from __future__ import annotations

from asyncio import CancelledError
from types import FrameType
from typing import Any

import msgspec

from aioaudit.chain.links import Link
from aioaudit.cpython.groups import parent_of
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.recognisers.call import Call, seconds
from aioaudit.recognisers.registry import ask, find_loop_end, find_timeout
from aioaudit.stack.code import STDLIB, THIRD_PARTY, Explain, NotNowError
from aioaudit.stack.frames import frame_handling, local
from aioaudit.state.cause import Cause


def timeout_expired(frame: FrameType, call: Call) -> Cause | None:
    """``Timeout._on_timeout``: ``timeout()``, ``timeout_at()``, ``wait_for`` since 3.12."""
    timeout = local(frame, "self")
    note = call.timeout_entry(timeout)
    if note is None:
        # Entered before auditing began: which line is known only where its frame has shown it.
        older = call.older_timeout(timeout)
        if older is None:
            return call.by_deadline("timeout", line=(None, None), owner=timeout)
        return call.by_deadline(
            "timeout",
            None if older.seconds is None else seconds(older.seconds),
            (older.at, older.source),
            detail=call.lateness(timeout.when()),
            owner=timeout,
        )
    cause = None
    if note.by is not None:
        # The library whose timeout it is may say what it was for.
        cause = ask(_meant, note.by.source, frame, call)
    return cause or call.by_timeout(frame)


def _meant(frame: FrameType, call: Call) -> Cause | None:
    """What the library that entered the timeout says of it."""
    module, _, qualname = call.timeout_entry(local(frame, "self")).by.source.partition(":")
    try:
        explain = find_timeout(module, qualname)
    except NotNowError:
        return None
    return None if explain is None else explain(frame, call)


def cancel_and_wait(frame: FrameType, call: Call) -> Cause | None:
    """``_cancel_and_wait`` from ``wait_for``: on 3.11 always, later for timeouts already past."""
    outer = frame.f_back
    if outer is None or outer.f_code.co_qualname != "wait_for":
        return None
    error = call.exception
    # Not one that the program handles around it: its clean-up has timeouts of its own.
    if isinstance(error, CancelledError) and frame_handling(error) is outer:
        return call.by_request("awaiter", error)
    length = seconds(float(local(outer, "timeout")))
    call.remember_timeout()
    if length <= 0:
        # There was no time to run out: a library that asks so may mean to cancel.
        cause = _meant_by(outer.f_back, call)
        if cause is not None:
            return cause
    cause = call.by_deadline("timeout", length, call.caller(outer.f_back))
    # There is none where there was no time to wait at all, and a loop may have timers of its own kind.
    due = getattr(local(outer, "timeout_handle"), "when", None)
    if due is not None and cause.origin is not None:
        cause.origin = msgspec.structs.replace(cause.origin, detail=call.lateness(due()))
    return cause


def _meant_by(frame: FrameType | None, call: Call) -> Cause | None:
    """What the library says whose function called here in *frame*, if one did."""
    if frame is None:
        return None
    info = call.state.codes.of(frame)
    if info.owner != THIRD_PARTY or info.explain is None:
        return None
    return ask(info.explain, info.source, frame, call)


def group_child_failed(frame: FrameType, call: Call) -> Cause | None:
    """``TaskGroup._on_task_done``: a child failed, the group ends its parent's waiting."""
    cause = _child_failed(frame, call)
    if cause is not None:
        cause.taken_back = True
    return cause


def group_aborted(frame: FrameType, call: Call) -> Cause | None:
    """``TaskGroup._abort``: by a child's failure, by the body's error, by the owner's end."""
    outer = frame.f_back
    if outer is None:
        return None
    name = outer.f_code.co_name
    if name == "_on_task_done":
        return _child_failed(outer, call)
    if name == "cancel":
        return group_cancelled(outer, call)
    group = local(frame, "self")
    error = local(outer, "exc") or local(outer, "ex") or call.exception
    if isinstance(error, CancelledError):
        return call.by_request("task_group", error, group)
    owner = parent_of(group)
    if error is None or owner is UNKNOWN:
        # It ends, and why is not known: the line that entered it has not asked for it.
        return Cause(reason="task_group", owner=id(group))
    return call.by_failure("task_group", owner, error, group)


def group_cancelled(frame: FrameType, call: Call) -> Cause:
    """``TaskGroup.cancel`` (3.15): whoever called it ends the group, its tasks and its body."""
    group = local(frame, "self")
    taken_back = call.victim is parent_of(group)
    return Cause(
        reason="task_group",
        passes_through=True,
        receiver=group,
        owner=id(group),
        taken_back=taken_back,
    )


_EARLY = "the group was cancelled before it was entered"


def group_entered(frame: FrameType, call: Call) -> Cause | None:
    """``TaskGroup.__aenter__`` (3.15): does what ``cancel()`` was called for before."""
    group = local(frame, "self")
    if call.victim is not parent_of(group):
        return None
    cause = call.chained_cause(group)
    if cause is None:
        return Cause(reason="task_group", detail=_EARLY)
    cause.detail = _EARLY if cause.detail is None else f"{_EARLY}; {cause.detail}"
    if cause.origin is not None and cause.origin.what == "called":
        cause.origin = msgspec.structs.replace(cause.origin, detail=cause.detail)
    return cause


def group_joined(frame: FrameType, call: Call) -> Cause | None:
    """``TaskGroup.create_task`` (3.15): a task's eager first step has ended the group it joins."""
    if local(frame, "task") is not call.victim:
        return None
    group = local(frame, "self")
    return call.by_request("task_group", call.last_request_from(group, parent_of(group)), group)


def group_again(frame: FrameType, call: Call) -> Cause | None:
    """``TaskGroup.__aexit__`` (later ``_aexit``) gives back the request that it took with ``uncancel()``."""
    group = local(frame, "self")
    if parent_of(group) is not call.victim:
        return None
    return Cause(reason="task_group", redelivers=True, owner=id(group))


def _child_failed(frame: FrameType, call: Call) -> Cause | None:
    task = local(frame, "task")
    error = local(frame, "exc")
    if error is None:
        return None
    return call.by_failure("task_group", task, error, local(frame, "self"))


def gathered(frame: FrameType, _call: Call) -> Cause | None:
    """``_GatheringFuture.cancel``: whoever cancelled the gather cancelled its children."""
    return Cause(reason="gather", passes_through=True, receiver=local(frame, "self"))


def shutdown(frame: FrameType, call: Call) -> Cause | None:
    """``_cancel_all_tasks`` at the end of ``asyncio.run`` and ``Runner.close``."""
    outer = frame.f_back
    while outer is not None and call.state.codes.of(outer).owner == STDLIB:
        outer = outer.f_back
    cause = None
    if outer is not None:
        info = call.state.codes.of(outer)
        if info.owner == THIRD_PARTY:
            # The library whose loop it is may say what has ended with it.
            cause = ask(_ended, info.source, outer, call)
    return cause or loop_ended(frame.f_back, call)


def _ended(frame: FrameType, call: Call) -> Cause | None:
    """What the library that ended the loop, in *frame*, says of it."""
    module, _, qualname = call.state.codes.of(frame).source.partition(":")
    try:
        explain = find_loop_end(module, qualname)
    except NotNowError:
        return None
    return None if explain is None else explain(frame, call)


def loop_ended(frame: FrameType | None, call: Call, detail: str | None = None) -> Cause:
    """The function that ran the loop, called by *frame*, has ended and cancels what is left."""
    at, source = call.caller(frame)
    return Cause(
        reason="shutdown",
        origin=Link(what="shutdown", reason="shutdown", at=at, source=source, detail=detail),
        at=at,
        source=source,
    )


def interrupted(frame: FrameType, call: Call) -> Cause | None:
    """``Runner._on_sigint``: Ctrl-C."""
    return call.by_signal(local(frame, "signum"))


def typed_interrupt(_frame: FrameType, call: Call) -> Cause | None:
    """``python -m asyncio``: Ctrl-C while a statement is awaited."""
    if not isinstance(call.exception, KeyboardInterrupt):
        return None
    return call.by_signal("SIGINT")


def shielded(frame: FrameType, call: Call) -> Cause | None:
    """``shield``: the inner future was cancelled, so is the outer one.

    Where that is no task, nothing is known of its end; but it was asked as it was cancelled
    (`aioaudit.probes.chained`), since the loop calls here when nobody is on the stack any more.
    """
    inner = local(frame, "inner")
    return call.chained_cause(inner) or _follows(inner, call, "asyncio.shield")


def chained(frame: FrameType, call: Call) -> Cause | None:
    """``_copy_future_state``, ``_set_concurrent_future_state``: one future ends as another did.

    Since 3.14, and late patch releases of 3.13, that happens at once where the loop runs in this
    very thread, inside the ``cancel()`` of the other: whoever called it stands further out.
    """
    known = call.chained_cause(call.victim)
    if known is not None:
        return known
    request = call.obeyed_by(local(frame, "source"))
    return None if request is None else call.by_request("asyncio.chain", request)


def chain_cancelled(frame: FrameType, call: Call) -> Cause | None:
    """``_chain_future``: a future was cancelled, and so is what it would have ended as."""
    return call.chained_cause(local(frame, "destination"))


_RACE = "asyncio.race"


def race_won(frame: FrameType, _call: Call) -> Cause:
    """``run_one_coro`` of a staggered race: it won, the other attempts to connect are not needed."""
    detail = "another attempt to connect was faster"
    source = f"{frame.f_globals['__name__']}:{frame.f_code.co_qualname}"
    return Cause(
        reason=_RACE,
        origin=Link(what="called", reason=_RACE, source=source, detail=detail),
        detail=detail,
        source=source,
    )


def race_left(frame: FrameType, call: Call) -> Cause | None:
    """``staggered_race``: whoever waited for it was cancelled."""
    error = call.exception
    if not isinstance(error, CancelledError) or frame_handling(error) is not frame:
        return None
    return call.by_request("awaiter", error)


def _follows(source: Any, call: Call, reason: str) -> Cause:
    return call.by_request(reason, call.obeyed_by(source))


CALL_SITES: dict[tuple[str, str], Explain] = {
    ("asyncio.timeouts", "Timeout._on_timeout"): timeout_expired,
    ("asyncio.tasks", "_cancel_and_wait"): cancel_and_wait,
    ("asyncio.taskgroups", "TaskGroup._on_task_done"): group_child_failed,
    ("asyncio.taskgroups", "TaskGroup._abort"): group_aborted,
    ("asyncio.taskgroups", "TaskGroup.cancel"): group_cancelled,
    ("asyncio.taskgroups", "TaskGroup.__aenter__"): group_entered,
    ("asyncio.taskgroups", "TaskGroup.create_task"): group_joined,
    ("asyncio.taskgroups", "TaskGroup.__aexit__"): group_again,
    ("asyncio.taskgroups", "TaskGroup._aexit"): group_again,
    ("asyncio.tasks", "_GatheringFuture.cancel"): gathered,
    ("asyncio.runners", "_cancel_all_tasks"): shutdown,
    ("asyncio.runners", "Runner._on_sigint"): interrupted,
    ("asyncio.__main__", "<module>"): typed_interrupt,
    ("asyncio.tasks", "shield.<locals>._inner_done_callback"): shielded,
    ("asyncio.staggered", "staggered_race.<locals>.run_one_coro"): race_won,
    ("asyncio.staggered", "staggered_race"): race_left,
    ("asyncio.futures", "_copy_future_state"): chained,
    ("asyncio.futures", "_set_concurrent_future_state"): chained,
    ("asyncio.futures", "_chain_future.<locals>._call_check_cancel"): chain_cancelled,
}
"""Call sites by module and qualified name; asyncio's timeouts are its callers'."""

VERSIONS = {
    ("asyncio.taskgroups", "TaskGroup._aexit"): ">=3.13.1",
    ("asyncio.taskgroups", "TaskGroup.cancel"): ">=3.15",
}
"""Call sites that not every version need have, with the versions (PEP 440) that do."""

BOUNDARIES = frozenset(
    {
        "asyncio.events:Handle._run",
        "asyncio.base_events:BaseEventLoop._run_once",
        "asyncio.base_events:BaseEventLoop.run_forever",
        "asyncio.base_events:BaseEventLoop.run_until_complete",
        "asyncio.runners:Runner.run",
    }
)
"""Frames below which the stack only says who runs the loop."""
