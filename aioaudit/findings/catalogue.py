"""Every kind of finding: what it is called, what it means, and what to do about it.

A *finding* is something that a healthy program does not do.  A *note* looks
alike and is harmless most of the time: it is there for whoever wonders.  Some
kinds are one or the other, depending on what came of it (`aioaudit.findings.rules`).

The names stand in logs and behind ``--ignore``: from 0.1.0 on none is renamed.
"""

from __future__ import annotations

import msgspec


class FindingKind(msgspec.Struct, frozen=True):
    """A kind of finding; ``remedy`` is one sentence for whoever has to mend it."""

    name: str
    title: str
    meaning: str
    remedy: str


SWALLOWED = "swallowed"
LOST = "lost"
COALESCED = "coalesced"
SLOW = "slow"
ALREADY_DONE = "already_done"
SELF_CANCEL = "self_cancel"
WRONG_THREAD = "wrong_thread"
NEVER_STARTED = "never_started"
UNCANCEL_UNBALANCED = "uncancel_unbalanced"
PENDING = "pending"
DESTROYED = "destroyed"
AWAITED_AT_EXIT = "awaited_at_exit"
SPINNING = "spinning"
BLOCKED = "blocked"

_ALL = (
    FindingKind(
        SWALLOWED,
        "a cancellation was swallowed",
        "The task caught its CancelledError and kept it: whoever asked believes that it ended.",
        "Raise the CancelledError again after cleaning up, or call uncancel() if the task is to "
        "live on.",
    ),
    FindingKind(
        LOST,
        "a cancellation was lost",
        "A request was accepted, but no CancelledError ever reached the task, and it ended "
        "otherwise or went on.",
        "Ask again, and see that what the task awaits lets the CancelledError through.",
    ),
    FindingKind(
        COALESCED,
        "two requests, one CancelledError",
        "A second request came before the first one was delivered; the task felt only one.",
        "Let one place cancel the task, and do not rely on the message of the second request.",
    ),
    FindingKind(
        SLOW,
        "a cancellation took long",
        "Between the request and the end of the task more time went by than AIOAUDIT_SLOW_CANCEL "
        "allows.",
        "Bound what the cleanup awaits with a timeout, and keep blocking calls out of the loop.",
    ),
    FindingKind(
        ALREADY_DONE,
        "a finished task was asked to cancel",
        "The request came after the end of the task and did nothing.",
        "Nothing, unless the task was thought to be running.",
    ),
    FindingKind(
        SELF_CANCEL,
        "a task cancelled itself",
        "The task called cancel() on itself: it is cancelled at its next await, and looks as if "
        "somebody else had wanted that.",
        "Return, or raise an error that says why the task ends.",
    ),
    FindingKind(
        WRONG_THREAD,
        "cancel() was called from another thread",
        "Tasks are not thread-safe: the loop may not notice before something else wakes it, and "
        "its state may be damaged.",
        "Use loop.call_soon_threadsafe(task.cancel).",
    ),
    FindingKind(
        NEVER_STARTED,
        "a task was cancelled before its first step",
        "Not a line of its body ran, no finally either.",
        "Let it begin before it is cancelled, or set up outside of it what it has to clean up.",
    ),
    FindingKind(
        UNCANCEL_UNBALANCED,
        "cancelling() was left above zero",
        "The task absorbed a cancellation with uncancel(), but less often than it was asked: "
        "timeouts and task groups in it may take it for cancelled still.",
        "Call uncancel() until it returns 0.",
    ),
    FindingKind(
        PENDING,
        "a task was pending when its loop closed",
        "It will never go on, and its cleanup never runs.",
        "Cancel and await what is left before the loop is closed, as asyncio.run does.",
    ),
    FindingKind(
        DESTROYED,
        "a task was garbage-collected while pending",
        "Nobody held a reference to the task and what it waits for: it vanished, without an end.",
        "Keep a reference to every task until it is done, or use a TaskGroup.",
    ),
    FindingKind(
        AWAITED_AT_EXIT,
        "cancelled by the end of asyncio.run while somebody awaited it",
        "The program ended before a result that somebody still waited for.",
        "Await it before the main coroutine returns, or cancel it there.",
    ),
    FindingKind(
        SPINNING,
        "a cancel scope delivers again and again",
        "The scope repeats its request at every turn of the loop, because the task does not end: "
        "the loop is busy with that.",
        "Let the CancelledError through, or shield the cleanup with CancelScope(shield=True).",
    ),
    FindingKind(
        BLOCKED,
        "a loop was blocked",
        "One callback, or one step of a task, took longer than AIOAUDIT_BLOCKED allows: everything "
        "else in the loop waited for it, timeouts, too.",
        "Await it, or give it to a thread (asyncio.to_thread) or, if it computes, to a process.",
    ),
)

CATALOGUE: dict[str, FindingKind] = {kind.name: kind for kind in _ALL}
"""Every kind by its name."""
