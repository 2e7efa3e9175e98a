"""What became of a request: which one a task's end belongs to, and what the task did with it."""

from __future__ import annotations

from asyncio import CancelledError

from aioaudit.events import CancelOutcome, TaskCancel
from aioaudit.recorder.requests import CancelState, Request, Tie

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
    request = _last(state)
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


def _last(state: CancelState) -> Request:
    """The request that a task lived through last.

    Of several that came before one delivery it is the first that nobody takes back;
    where all are, the one that was taken back last: only that ``uncancel()`` left none.
    An ``uncancel()`` of the program's own is meant for all of them.
    """
    last = state.requests[-1]
    event = last.event
    if not isinstance(event, TaskCancel) or event.behind is None:
        return last
    if last.absorbed and not last.taken_back:
        return last
    first = event.behind
    together = [
        each
        for each in state.requests
        if isinstance(each.event, TaskCancel) and first in (each.event.seq, each.event.behind)
    ]
    for request in together:
        if not (request.absorbed or request.taken_back):
            return request
    taken = state.absorbed_last
    return taken if taken is not None and taken in together else last


def _cancelled_by(
    ties: Ties, state: CancelState | None, error: BaseException | None, by_hand: bool
) -> tuple[Request | None, CancelOutcome | None]:
    """Of a task that ended cancelled.

    Where the *error* that ended it is known, only what delivered that error
    counts: a request that was delivered before may have been swallowed since.
    """
    request = _delivered_by(ties, error)
    if request is None and by_hand:
        if state is None or not state.requests:
            return None, None
        request = state.requests[-1]
        if request.open:
            return request, "obeyed"
        return request, "absorbed" if request.absorbed or request.taken_back else "swallowed"
    if state is not None:
        if request is None and error is None:
            request = state.deliver() or state.current or state.inherited
        if request is not None and request.absorbed:
            # Taken back; what keeps the task ending is a request behind it.
            left = [each for each in state.requests if not each.absorbed]
            request = left[0] if left else request
    return request, "obeyed"


def _delivered_by(ties: Ties, error: BaseException | None) -> Request | None:
    """The request behind *error*, or behind the CancelledError it was raised for.

    Another error in between ends the search: what it stood for is over.
    """
    for _ in range(100):
        if not isinstance(error, CancelledError):
            return None
        tie = ties.get(id(error))
        if tie is not None and tie.ref() is error:
            return tie.request
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


def take_back(state: CancelState, owner: int | None) -> Request | None:
    """The request that ``uncancel()`` took back, called by the object *owner* where known."""
    chosen = None
    if owner is not None:
        chosen = next((r for r in reversed(state.requests) if r.pending and r.owner == owner), None)
    if chosen is None:
        chosen = next((r for r in reversed(state.requests) if not r.absorbed), None)
    if chosen is not None:
        chosen.pending -= 1
        chosen.absorbed = True
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
