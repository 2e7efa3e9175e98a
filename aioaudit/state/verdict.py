"""What an error was delivered for, which request a task's end belongs to, and what the task did.

Here is what only a program that runs can see: which CancelledError ended a task, which request it
brought, and which one an ``uncancel()`` takes back.  What follows from that is the rule, which is
in `aioaudit.chain.obeyed` and serves a log as well.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterator

from aioaudit.chain.obeyed import obeyed, successor_of, to_obey
from aioaudit.events import CancelOutcome, TaskCancel
from aioaudit.state.requests import CancelState, Request, Tie, results_from

Ties = dict[int, Tie]

_GROUPS = "asyncio/taskgroups.py:"


def classify_end(
    ties: Ties,
    state: CancelState | None,
    outcome: str,
    error: BaseException | None,
    *,
    seen: bool,
    by_hand: bool,
    beside_another: bool = False,
    came_with: Request | None = None,
) -> tuple[Request | None, CancelOutcome | None]:
    """Which request the end belongs to, and what the task did with it.

    *seen* says whether deliveries are seen at all.
    *beside_another* says that the CancelledError that ended the task came while it handled
    another one, and that nobody saw what for.
    *came_with* is the request of the CancelledError that ended the task, where it came out
    of what the task awaited and its arrival was not seen.
    """
    if outcome == "cancelled":
        request, cancel_outcome = _cancelled_by(ties, state, error, by_hand, came_with)
        # The one that it handled is known, and may be why the other came: a handler that cancels
        # what it then awaits.  Or else that had been cancelled before: no more than a conclusion.
        if beside_another and request is not None and state is not None:
            state.concluded = True
        return request, cancel_outcome
    if state is None or not state.requests:
        return None, None
    request = _lived_through(ties, state, error, seen=seen)
    if request.absorbed or request.taken_back:
        return request, "absorbed"
    if outcome == "destroyed":
        return request, None
    if outcome == "raised" and (
        request.undelivered or comes_from_cancelled(error) or _kept_by_a_group(state)
    ):
        return request, "replaced"
    return request, "swallowed"


def _kept_by_a_group(state: CancelState) -> bool:
    """Whether a task group kept the CancelledError, to raise its tasks' errors instead."""
    return state.swallowed_at is not None and _GROUPS in state.swallowed_at


def _lived_through(
    ties: Ties, state: CancelState, error: BaseException | None, *, seen: bool
) -> Request:
    """The request that a task lived through last, which ended by *error* or a return.

    What the error was raised for tells; else the last delivery does, or what was to be
    delivered next.
    """
    tie = _tie_behind(ties, error)
    if tie is not None and tie.state is state:
        request = tie.timeout or tie.effective
        if request is not None and request in state.requests:
            return request
    request = to_obey(state.requests, state.current)
    taken = state.last_absorbed
    # The last delivery may have gone unseen: then what was taken back last tells.
    seen = seen or (request is not None and request.stands)
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
    for each in leading_to(error):
        tie = ties.get(id(each))
        if tie is not None and tie.ref() is each:
            return tie
    return None


def _cancelled_by(
    ties: Ties,
    state: CancelState | None,
    error: BaseException | None,
    by_hand: bool,
    came_with: Request | None,
) -> tuple[Request | None, CancelOutcome | None]:
    """Of a task that ended cancelled.

    Where the *error* that ended it is known, only what it stands for counts: a
    request that was delivered before may have been swallowed since.
    """
    # Step 1: what the error that left the coroutine stands for now.
    tie = _tie_of(ties, error)
    request = None if tie is None else tie.effective
    if request is not None and request.stands:
        return request, "obeyed"  # what steps 2 to 4 would say
    # Step 2: one that nobody delivered was raised by hand.  asyncio takes any for a cancellation
    # (``except exceptions.CancelledError`` in ``__step_run_and_handle_result``, tasks.py).
    if request is None and by_hand:
        if state is None or not state.requests:
            return None, None
        request = state.requests[-1]
        if request.undelivered:
            return request, "obeyed"
        return request, "absorbed" if request.absorbed or request.taken_back else "swallowed"
    if state is not None:
        # Step 3: where no error was seen at all, what was on its way has arrived.
        if request is None and error is None:
            request = infer_delivered(state, came_with)
        # Step 4: of that and those that were made since.
        request = obeyed(state.requests, request)
    return request, "obeyed"


def infer_delivered(state: CancelState, came_with: Request | None) -> Request | None:
    """The request whose CancelledError has reached a task, where nobody saw it arrive.

    That is so before 3.12, and in compiled code.  The request that was to be delivered next
    is it, or that of what the task awaited (*came_with*, or the last that is known), if it
    is not a consequence of one of the task's own, or else the last delivered.  Where
    there is more than one of them it is a conclusion (`CancelState.concluded`).
    """
    # Step 1: all that was asked since the last delivery is delivered with the first of it.
    standing = [each for each in state.requests if each.stands]
    request = state.deliver()
    # Step 2: or nothing was: then the error came out of what the task awaited, unless that was
    # cancelled by the task's own ``cancel()`` (``_fut_waiter.cancel()`` in ``Task.cancel``).
    inherited = came_with or (state.inherited if state.inherited_arriving else None)
    own = None
    if inherited is not None:
        own = next((each for each in state.requests if results_from(inherited, each)), None)
    state.concluded = len(standing) + (inherited is not None and own is None) > 1
    if request is not None:
        return request
    if inherited is not None and own is None:
        return inherited
    # Step 3: nothing is new; the error is that of a request which was delivered before.
    current = state.current
    if own is not None and (current is None or not current.effective.stands):
        current = own
    return current.effective if current is not None else state.inherited


def _tie_of(ties: Ties, error: BaseException | None) -> Tie | None:
    """The tie of *error*, or of the CancelledError it was raised for.

    Another error in between ends the search: what it stood for is over.
    """
    tie = None if error is None else ties.get(id(error))
    if tie is not None and tie.ref() is error and isinstance(error, CancelledError):
        return tie  # as it is most often
    for each in leading_to(error):
        if not isinstance(each, CancelledError):
            return None
        tie = ties.get(id(each))
        if tie is not None and tie.ref() is each:
            return tie
    return None


def drop_propagated(state: CancelState) -> list[Request]:
    """The task lived on: the requests of tasks that awaited it, which go no further, are lost."""
    lost: list[Request] = []
    for request in state.requests:
        for heir in request.awaiting_tasks or ():
            if heir.inherited is request:
                heir.inherited = None
        above = request.cause
        if (
            request.event.reason == "awaiter"
            and above is not None
            and above.forwarded_as is request
        ):
            above.lost = True
            lost.append(above)
        for above in request.passed_on or ():
            above.lost = True
            lost.append(above)
    return lost


def match_uncancel(
    state: CancelState, owner: int | None, *, known: bool, scope: bool, since: int | None
) -> Request | None:
    """The request that ``uncancel()`` took back, None where that is not known.

    Args:
        state: Of the task.
        owner: The `id` of the object whose code called, None for the application's.
        known: Whether that object's own request would be known, if it had made one: it is
            asyncio's timeout or group, and never takes back another's.
        scope: Whether it is an anyio scope: one that is left hands what it has not taken
            back yet over to the scope around it (``CancelScope.__exit__``).
        since: How many calls of ``cancel()`` that count were made since that object's
            block was entered; None where no block is known.
    """
    # ``uncancel()`` counts down and says not for whom (``Task.uncancel``, Lib/asyncio/tasks.py);
    # since 3.13 it takes ``_must_cancel`` away, too, once it comes to zero.
    requests = state.requests
    chosen = None
    # Step 1: a timeout, group or scope takes back its own request, the last one.
    if owner is not None:
        # Not by a generator: making its function where memory runs out breaks CPython (test_memory).
        for each in reversed(requests):
            if each.pending > 0 and each.owner == owner:
                chosen = each
                break
        if chosen is None and scope:
            return _take_over(state, owner, since)
        if chosen is None and known:
            return None
    # Step 2: code of the program means what it has caught: the last that nobody else will take back.
    if chosen is None:
        left = [each for each in requests if not each.absorbed]
        # Timeouts, groups and scopes take care of their own.
        unowned = [each for each in left if not each.taken_back]
        left = unowned or left
        if not left:
            return None
        chosen = left[-1]
    state.take_back(chosen, since)
    state.last_absorbed = chosen
    return chosen


def _take_over(state: CancelState, owner: int, since: int | None) -> Request | None:
    """An anyio scope takes back what a scope inside it was asked for and has left to it.

    The error was then kept by the outer scope, for the outer scope's own request.
    """
    taken = own = None
    for each in reversed(state.requests):
        if own is None and each.owner == owner:
            own = each
        if taken is None and each.dedup_key is not None and each.pending > 0:
            taken = each
    if taken is not None:
        state.take_back(taken, since)
        taken.taken_over = True
        if own is None:
            state.last_absorbed = taken
        else:
            taken.successor = taken.successor or own
            own.successor = successor_of(state.requests, own, since)
            state.last_absorbed = own
    return taken


def comes_from_cancelled(error: BaseException | None) -> bool:
    """Whether a CancelledError led to *error*."""
    for each in leading_to(error):  # noqa: SIM110 - no generator's function, as in match_uncancel
        if isinstance(each, CancelledError):
            return True
    return False


def leading_to(error: BaseException | None) -> Iterator[BaseException]:
    """*error*, the one that it was raised for, and so on: a hundred at most.

    Nothing keeps a program from tying the ends of such a chain together (bpo-25782).
    """
    for _ in range(100):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
