"""Whose a CancelledError is now, which request a task's end belongs to, and what the task did.

One CancelledError may stand for several requests: what is asked before it is
delivered makes no second one (``Task.cancel`` in Modules/_asynciomodule.c only
counts, and ``task_step`` drops ``_must_cancel`` as it throws).  Whoever asked may take
its own request back while the error is on its way; if others are left
(``cancelling()`` is not what it was at the entry), ``Timeout.__aexit__``
(Lib/asyncio/timeouts.py), ``TaskGroup.__aexit__`` and anyio's scopes let the error go on.

The rule, for "which request does this CancelledError stand for now":

1. the first of those that it was delivered for, while that stands;
2. once that was taken back, or came to nothing, the first of those behind it, in
   the order of being made, that stood when it was taken back; and so on from there;
3. where the error came out of what the task awaited, and its own request is taken back
   with none behind it, what it stood for there;
4. where nothing stands any more, the one that was taken back last.

`take_back` applies step 2 where it happens (`Request.then`), `Request.now` and
`Tie.now` read it.  Nobody else decides: ends, ``error.source``, `aioaudit.why`, the
cause of what is cancelled while the error is handled, groups, gathers and callbacks
all ask them.
"""

from __future__ import annotations

import sys
from asyncio import CancelledError

from aioaudit.events import CancelOutcome, TaskCancel
from aioaudit.recorder.requests import CancelState, Request, Tie, comes_of

Ties = dict[int, Tie]

_GROUPS = "asyncio/taskgroups.py:"


def verdict(
    ties: Ties,
    state: CancelState | None,
    outcome: str,
    error: BaseException | None,
    *,
    by_hand: bool,
) -> tuple[Request | None, CancelOutcome | None]:
    """Which request the end belongs to, and what the task did with it."""
    if outcome == "cancelled":
        return _cancelled_by(ties, state, error, by_hand)
    if state is None or not state.requests:
        return None, None
    request = _lived_through(ties, state, error)
    if request.absorbed or request.taken_back:
        return request, "absorbed"
    if outcome == "destroyed":
        return request, None
    if outcome == "raised" and (
        request.open or comes_from_cancelled(error) or _kept_by_a_group(state)
    ):
        return request, "replaced"
    return request, "swallowed"


def _kept_by_a_group(state: CancelState) -> bool:
    """Whether a task group kept the CancelledError, to raise its tasks' errors instead."""
    return state.swallowed_at is not None and _GROUPS in state.swallowed_at


def _lived_through(ties: Ties, state: CancelState, error: BaseException | None) -> Request:
    """The request that a task lived through last, which ended by *error* or a return.

    What the error was raised for tells; else the last delivery does, or what was to be
    delivered next.
    """
    tie = _tie_behind(ties, error)
    if tie is not None and tie.state is state:
        request = tie.timeout or tie.now
        if request is not None and request in state.requests:
            return request
    request = state.first_open() or (None if state.current is None else state.current.now)
    taken = state.absorbed_last
    # Before 3.12 the last delivery may have gone unseen: then what was taken back last tells.
    seen = sys.version_info >= (3, 12) or (request is not None and request.stands)
    if request is None or not seen or request not in state.requests:
        return taken or state.requests[-1]
    if taken is not None and not taken.taken_back and _delivered_with(taken, request):
        return taken  # an ``uncancel()`` of the program's own is meant for all of them
    return request


def _delivered_with(one: Request, other: Request) -> bool:
    """Whether *one* was made while *other* waited to be delivered."""
    event = one.event
    return isinstance(event, TaskCancel) and event.behind == other.event.seq != 0


def _tie_behind(ties: Ties, error: BaseException | None) -> Tie | None:
    """The tie of the CancelledError that led to *error*, None where none did."""
    for _ in range(100):
        if error is None:
            break
        tie = ties.get(id(error))
        if tie is not None and tie.ref() is error:
            return tie
        error = error.__cause__ or error.__context__
    return None


def _cancelled_by(
    ties: Ties, state: CancelState | None, error: BaseException | None, by_hand: bool
) -> tuple[Request | None, CancelOutcome | None]:
    """Of a task that ended cancelled.

    Where the *error* that ended it is known, only what it stands for counts: a
    request that was delivered before may have been swallowed since.
    """
    tie = _tie_of(ties, error)
    request = None if tie is None else tie.now
    if request is None and by_hand:
        if state is None or not state.requests:
            return None, None
        request = state.requests[-1]
        if request.open:
            return request, "obeyed"
        return request, "absorbed" if request.absorbed or request.taken_back else "swallowed"
    if state is not None:
        if request is None and error is None:
            request = _unseen(state)
        if request is None or not request.stands:
            # It was asked again on the way out: ``_must_cancel`` was set when the task ended.
            request = state.first_open() or request
    return request, "obeyed"


def _unseen(state: CancelState) -> Request | None:
    """The request that ended a task where the error that did is not known (3.11, compiled code)."""
    request = state.deliver()
    current, inherited = state.current, state.inherited
    if request is None and inherited is not None and state.reaching:
        # What it awaited ended after the last delivery, if not because of that.
        request = None if current is not None and comes_of(inherited, current) else inherited
    if request is None and current is not None:
        request = current.now
    return request or inherited


def _tie_of(ties: Ties, error: BaseException | None) -> Tie | None:
    """The tie of *error*, or of the CancelledError it was raised for.

    Another error in between ends the search: what it stood for is over.
    """
    for _ in range(100):
        if not isinstance(error, CancelledError):
            return None
        tie = ties.get(id(error))
        if tie is not None and tie.ref() is error:
            return tie
        error = error.__cause__ or error.__context__
    return None


def lose_propagated(state: CancelState) -> list[Request]:
    """The task lived on: the requests of tasks that awaited it, which go no further, are lost."""
    lost: list[Request] = []
    for request in state.requests:
        for heir in request.heirs or ():
            if heir.inherited is request:
                heir.inherited = None
        above = request.cause
        if request.event.reason == "awaiter" and above is not None and above.via is request:
            above.lost = True
            lost.append(above)
    return lost


def take_back(state: CancelState, owner: int | None, *, known: bool, scope: bool) -> Request | None:
    """The request that ``uncancel()`` took back, None where that is not known.

    Args:
        state: Of the task.
        owner: The `id` of the object whose code called, None for the application's.
        known: Whether that object's own request would be known, if it had made one: it is
            asyncio's timeout or group, and never takes back another's.
        scope: Whether it is an anyio scope: one that is left hands what it has not taken
            back yet over to the scope around it (``CancelScope.__exit__``).
    """
    requests = state.requests
    chosen = None
    if owner is not None:
        chosen = next((r for r in reversed(requests) if r.pending > 0 and r.owner == owner), None)
        if chosen is None and scope:
            chosen = next(
                (r for r in reversed(requests) if r.pending > 0 and r.once is not None), None
            )
        if chosen is None and (known or scope):
            return None
    if chosen is None:
        left = [each for each in requests if not each.absorbed]
        # Timeouts, groups and scopes take care of their own.
        unowned = [each for each in left if not each.taken_back]
        left = unowned or left
        if not left:
            return None
        chosen = left[-1]
    chosen.pending -= 1
    if not chosen.absorbed:
        chosen.absorbed = True
        chosen.then = state.behind(chosen)
    state.absorbed_last = chosen
    return chosen


def comes_from_cancelled(error: BaseException | None) -> bool:
    """Whether a CancelledError led to *error*."""
    for _ in range(100):
        if error is None:
            return False
        if isinstance(error, CancelledError):
            return True
        error = error.__cause__ or error.__context__
    return False
