"""All the requests that one task was made, and what became of each.

The answer is about one of them, the one that the task obeyed or was to obey.  What
became of the others is read from the log: where that is not clear, it is said
that the request was delivered and the task went on, and not how it came to.
"""

from __future__ import annotations

from collections.abc import Sequence

from aioaudit.chain.links import Asked, Became
from aioaudit.events import TaskCancel, TaskUncancel


def all_asked(
    requests: Sequence[TaskCancel],
    uncancels: Sequence[TaskUncancel],
    answered: int | None,
    became: Became,
) -> list[Asked]:
    """*requests* in order, with what became of them.

    Args:
        requests: Those made to one task, accepted or not, by ``seq``.
        uncancels: Its calls of ``uncancel()``.
        answered: The ``seq`` of the request that the answer is about.
        became: What became of that one.
    """
    absorbed = _absorbed(requests, uncancels)
    asked: list[Asked] = []
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
            Asked(
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


def _absorbed(
    requests: Sequence[TaskCancel], uncancels: Sequence[TaskUncancel]
) -> dict[int, str | None]:
    """The requests that ``uncancel()`` took back, by ``seq``, with the line that did.

    A timeout or a task group takes back its own request, other code the last one;
    where nothing remains, all are taken back.
    """
    absorbed: dict[int, str | None] = {}
    open_: list[TaskCancel] = []
    events: list[TaskCancel | TaskUncancel] = [each for each in requests if each.accepted]
    events += uncancels
    for event in sorted(events, key=lambda event: event.seq):
        if isinstance(event, TaskCancel):
            open_.append(event)
            continue
        own = [request for request in open_ if request.taken_back]
        here = [request for request in own if request.at == event.at]
        taken = open_ if event.remaining == 0 else (here or own or open_)[-1:]
        for request in list(taken):
            absorbed[request.seq] = event.at
            open_.remove(request)
    return absorbed
