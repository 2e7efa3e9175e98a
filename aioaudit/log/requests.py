"""All the requests that one task was made, and what became of each.

The answer is about one of them, the one that the task obeyed or was to obey.  What
became of the others is read from the log: where that is not clear, it is said
that the request was delivered and the task went on, and not how it came to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aioaudit.chain import obeyed as rule
from aioaudit.chain.links import RequestFate, RequestSummary
from aioaudit.chain.walk import summary_of
from aioaudit.events import FutureCancel, TaskCancel, TaskUncancel


def summarise_requests(
    requests: Sequence[TaskCancel],
    uncancels: Sequence[TaskUncancel],
    answered: int | None,
    became: RequestFate,
) -> list[RequestSummary]:
    """*requests* in order, with what became of them.

    Args:
        requests: Those made to one task, accepted or not, by ``seq``.
        uncancels: Its calls of ``uncancel()``.
        answered: The ``seq`` of the request that the answer is about.
        became: What became of that one.
    """
    absorbed = taken_back(requests, uncancels)
    asked: list[RequestSummary] = []
    for request in requests:
        if request.seq == answered:
            fate = became
        elif not request.accepted:
            fate = "late"
        elif request.behind is not None:
            fate = "coalesced"
        elif request.seq in absorbed:
            fate = "absorbed"
        else:
            fate = "delivered"
        line = absorbed.get(request.seq) if fate == "absorbed" else None
        asked.append(summary_of(request, fate, line))
    return asked


def taken_back(
    requests: Sequence[TaskCancel], uncancels: Sequence[TaskUncancel]
) -> dict[int, str | None]:
    """The requests that ``uncancel()`` took back, by ``seq``, with the line that did, in order.

    The line of an ``uncancel()`` says which (``cancel``), where that was known.  Else a
    timeout or a task group takes back its own request, other code the last one; where
    nothing remains, all are taken back.
    """
    absorbed: dict[int, str | None] = {}
    open_ = _Open()
    events: list[TaskCancel | TaskUncancel] = [each for each in requests if each.accepted]
    events += uncancels
    for event in sorted(events, key=lambda event: event.seq):
        if isinstance(event, TaskCancel):
            open_.add(event)
            continue
        if event.cancel is not None:
            taken = [event.cancel]
        elif (event.source or "").endswith(GIVES_BACK):
            taken = []
        elif event.remaining == 0:
            taken = list(open_.all)
        else:
            taken = open_.last(event.at)
        for seq in taken:
            absorbed[seq] = event.at
            open_.remove(seq)
    return absorbed


class _Open:
    """Requests that nobody has taken back; the last of a million is found at once."""

    def __init__(self) -> None:
        self.all: dict[int, None] = {}
        # In order, some of them open no more: those go when they are come across.
        self._asked: list[int] = []
        self._own: list[int] = []
        self._here: dict[str | None, list[int]] = {}

    def add(self, request: TaskCancel) -> None:
        """*request* was made."""
        self.all[request.seq] = None
        self._asked.append(request.seq)
        if request.taken_back:
            self._own.append(request.seq)
            self._here.setdefault(request.at, []).append(request.seq)

    def last(self, at: str | None) -> list[int]:
        """The last that its owner takes back at the line *at*, else at any line, else the last."""
        for among in (self._here.get(at, []), self._own, self._asked):
            while among and among[-1] not in self.all:
                among.pop()
            if among:
                return [among[-1]]
        return []

    def remove(self, seq: int) -> None:
        """It is open no more."""
        self.all.pop(seq, None)


GIVES_BACK = (":TaskGroup.__aexit__", ":TaskGroup._aexit")
"""How the ``source`` ends of what takes somebody's request and gives it back at once."""


class Read:
    """A request to a task, or to what it awaited, as the rule looks at it (`chain.obeyed.Made`)."""

    __slots__ = ("absorbed", "delivered", "event")

    lost = False  # a log does not tell on its way to whom a request was lost
    pending = 1
    successor = None

    def __init__(
        self, event: TaskCancel | FutureCancel, *, delivered: bool, absorbed: bool = False
    ) -> None:
        self.event = event
        self.delivered = delivered
        self.absorbed = absorbed


def to_obey(
    requests: Sequence[TaskCancel],
    absorbed: Mapping[int, object],
    waited: Sequence[FutureCancel],
    *,
    full: bool,
) -> TaskCancel | FutureCancel | None:
    """The request that a task is to obey, or did, where the log does not tell its end.

    That is `aioaudit.chain.obeyed.to_obey`; here is what a log says of its arguments.

    Args:
        requests: Those that were made to the task and accepted, by ``seq``.
        absorbed: By ``seq``, those that were taken back, in order (`taken_back`).
        waited: Those made to futures that it awaited, by ``seq``.
        full: Whether the log tells what was taken back.  Where it does not, a
            request that whoever made it takes back counts only if there is no other.
    """
    # Step 1: a request that was not yet delivered when another came is named by that, in
    # ``behind``.  So one without it tells that all before it were, and are over.
    start = 0
    for index, request in enumerate(requests):
        if request.behind is None:
            start = index
    # Step 2: who took back what.
    gone = set(absorbed)
    if not full:
        left = [each for each in requests[start:] if each.seq not in gone]
        own = {each.seq for each in left if each.taken_back}
        if len(own) < len(left):
            gone |= own
    together = [Read(each, delivered=False, absorbed=each.seq in gone) for each in requests[start:]]
    # Step 3: whether those left over were delivered, no line tells, and the rule gives the same
    # answer: the first that stands, or the last that was taken back.  For one error goes on from
    # each to the next (`successor_of`) until none behind stands.  Only what stood *before* it
    # is not known here: at the entry of which block it had been asked for.
    order = {seq: index for index, seq in enumerate(absorbed)}
    last = max(together, key=lambda each: order.get(each.event.seq, -1), default=None)
    # Step 4: a task awaits one future at a time, so the next line that names it tells that what the
    # one before brought is over.  (Of the children of one ``gather`` it would be the first.)
    inherited = Read(waited[-1], delivered=True) if waited else None
    found = rule.to_obey(together, last, inherited)
    return None if found is None else found.event
