"""Which request to cancel an error stands for, and which one a task obeyed: the one rule, pure.

The same functions serve what is kept in memory (`aioaudit.state.requests`) and what a log
tells (`aioaudit.log.requests`); both offer the few attributes of `Made`.  Whoever has the question
comes here: ends of tasks, ``error.source``, `aioaudit.why`, the cause of what is cancelled
while an error is handled, groups, gathers and callbacks, and the reader of a log.

One CancelledError may stand for several requests.  What is asked before it is delivered makes
no second one: ``Task.cancel`` of a task that is to be woken only sets ``_must_cancel``, or
cancels what the task awaits (Lib/asyncio/tasks.py; ``_asyncio_Task_cancel_impl`` in
Modules/_asynciomodule.c).  Whoever asked may take its own request back while the error is on its
way; if others are left, the error goes on because of those.

What only a program that runs can see is no part of the rule: which request an error was delivered
for, and which one an ``uncancel()`` takes back (both in `aioaudit.state.verdict`).  A log tells
what was found of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar


class Made(Protocol):
    """A request that was made to a task, or to what it awaited, as far as the rule looks at it."""

    @property
    def delivered(self) -> bool:
        """Whether a CancelledError brought it to the task, or the task had it behind another's."""
        ...

    @property
    def absorbed(self) -> bool:
        """Whether an ``uncancel()`` took it back."""
        ...

    @property
    def lost(self) -> bool:
        """Whether what the task awaited kept the error, so that it never came."""
        ...

    @property
    def pending(self) -> int:
        """How many of the calls of ``cancel()`` that made it are not taken back."""
        ...

    @property
    def successor(self) -> Self | None:
        """What `successor_of` said when it was taken back."""


R = TypeVar("R", bound=Made)
"""A request, in memory or of a log."""


def stands(request: Made) -> bool:
    """Whether *request* was neither taken back nor lost on its way."""
    return not (request.absorbed or request.lost)


def first_undelivered(requests: Sequence[R]) -> R | None:
    """The one of *requests*, in the order in which they were made, that is delivered next.

    All that were made since the last delivery are delivered with one error, and the first of
    them that stands is the one that it is for.
    """
    # The step that throws the error clears ``_must_cancel`` (``__step_run_and_handle_result`` in
    # tasks.py, ``task_step_impl`` in C): a request made before that has been delivered with it, and
    # the next one makes a new error.  Written out, for every ``cancel()`` comes by here.
    for request in requests:
        if not (request.delivered or request.absorbed or request.lost):
            return request
    return None


def stands_for(request: R, beneath: R | None = None) -> R:
    """The request that a CancelledError stands for now, which was delivered for *request*.

    *beneath* is what the error stood for when it came out of what the task awaited, if it did.
    """
    # Step 1: the one that it was delivered for, as long as that stands; then the one for which the
    # error went on when that was taken back (`successor_of`), and so on from there.
    own = request
    while own.successor is not None and not stands(own):
        own = own.successor
    # Step 2: a cancelled future hands its very error to whoever awaits it (``fut_cancelled_exc`` in
    # Modules/_asynciomodule.c, ``_cancelled_exc`` in Lib/asyncio/futures.py).  So it may have brought
    # a request to each of the two, and is again that of the one awaited once ours is taken back.
    if beneath is not None and not stands(own):
        return stands_for(beneath)
    # Step 3: nothing stands any more: the last one that was taken back.
    return own


def successor_of(requests: Sequence[R], request: R, since: int | None) -> R | None:
    """What an error of *request*, which is taken back, goes on for: None if it does not.

    The first made after it that stands, or else the first made before it: one that
    was delivered earlier, and that the task was cleaning up for.

    Args:
        requests: Those made to the task, in order; *request* is one of them.
        request: The one that is taken back.
        since: How many calls of ``cancel()`` that still count came since the entry of the block
            that took it back (None where no block did): those before are none of its business.
    """
    # Step 1: of those behind it the first that stands.  ``cancelling()`` is above what it was
    # at the entry because of them, so the block lets the error go on: ``Timeout.__aexit__``
    # compares ``uncancel()`` with its ``_cancelling``, ``TaskGroup`` with zero, and gives
    # back what it took where somebody else asked, too (gh-116720, 3.13).
    found: R | None = None
    if requests[-1] is not request:
        for each in reversed(requests):
            if each is request:
                break
            if stands(each):
                found = each
    if found is not None or since is None or since <= 0:
        return found
    # Step 2: of those before it, as many as were counted since the entry, which the block compares
    # as well (``Timeout._cancelling``, anyio's ``CancelScope._cancelling_at_enter``): an earlier
    # error delivered them, and the task was asked again while it cleaned up for that one.
    for each in reversed(requests):
        if since <= 0:
            break
        if stands(each):
            found = each
            since -= max(each.pending, 1)
    return found


def to_obey(requests: Sequence[R], last: R | None, inherited: R | None = None) -> R | None:
    """Which request a task is to obey that has not ended, or else lived through last.

    Args:
        requests: Those made to it, in order.
        last: The one that the last error was for that reached it.
        inherited: One that was made to what it awaited.
    """
    # Step 1: what is still to be delivered, whatever it has lived through before.
    found = first_undelivered(requests)
    if found is not None:
        return found
    # Step 2: nothing: then it handles the last error, or has handled it.
    if last is not None:
        return stands_for(last)
    # Step 3: it was never asked itself.  What it awaits was cancelled, whose error it gets
    # (``future_get_result`` in Modules/_asynciomodule.c, ``Future.result`` in futures.py).
    return inherited


def obeyed(requests: Sequence[R], error: R | None) -> R | None:
    """Which request a task obeyed that ends cancelled.

    Args:
        requests: Those made to it, in order.
        error: The one that the error stands for which leaves the task (`stands_for`).
    """
    # Step 1: the error that leaves the coroutine is the task's end as it is (``future_cancel``
    # after ``CancelledError`` in ``task_step_impl``): a request that an earlier one delivered may
    # have been swallowed since, and does not count.
    if error is not None and stands(error):
        return error
    # Step 2: it was asked again on the way out.  A coroutine that ends while ``_must_cancel`` is set
    # ends cancelled all the same ("Task is cancelled right before coro stops" in tasks.py and in
    # ``task_step_impl``).
    return first_undelivered(requests) or error
