"""All the requests that one task was made, and what became of each.

The answer is about one of them, the one that the task obeyed or was to obey.  What
became of the others is read from the log: where that is not clear, it is said
that the request was delivered and the task went on, and not how it came to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aioaudit.chain.links import RequestFate, RequestSummary
from aioaudit.events import TaskCancel, TaskUncancel


def all_asked(
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
        asked.append(
            RequestSummary(
                seq=request.seq,
                ts=request.ts,
                reason=request.reason,
                source=request.source,
                at=request.at,
                by_name=request.by_name,
                message=request.message,
                became=fate,
                absorbed_at=absorbed.get(request.seq) if fate == "absorbed" else None,
                behind=request.behind,
            )
        )
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
        elif (event.source or "").endswith(_GIVES_BACK):
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


_GIVES_BACK = (":TaskGroup.__aexit__", ":TaskGroup._aexit")
"""How the ``source`` ends of what takes somebody's request and gives it back at once."""


def now(
    requests: Sequence[TaskCancel], absorbed: Mapping[int, object], *, full: bool
) -> TaskCancel:
    """The request that the task which *requests* were made to is to obey, or was.

    The rule of `aioaudit.state.verdict`, for a log that does not tell the task's end:
    of those that came before the last delivery (each of the others names the first in
    ``behind``) the first that stands, or else the one that was taken back last.

    Args:
        requests: Those that were accepted, by ``seq``; at least one.
        absorbed: By ``seq``, those that were taken back, in order (`taken_back`).
        full: Whether the log tells what was taken back.  Where it does not, a
            request that whoever made it takes back counts only if there is no other.
    """
    start = 0
    for index, request in enumerate(requests):
        if request.behind is None:
            start = index
    together = requests[start:]
    standing = [each for each in together if each.seq not in absorbed]
    if not full:
        standing = [each for each in standing if not each.taken_back] or standing
    if standing:
        return standing[0]
    last = {seq: index for index, seq in enumerate(absorbed)}
    return max(together, key=lambda each: last[each.seq])
