"""Private. Answers from memory: what `why` and a recording say of a task or an exception."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from aioaudit.chain.links import Answer, RequestFate, RequestSummary
from aioaudit.chain.walk import Chains, answer_of, from_task, summary_of
from aioaudit.cpython.tasks import current_task
from aioaudit.delivery.journal import flush_all
from aioaudit.events import Event, TaskCancel
from aioaudit.state.reading import MemoryReading

if TYPE_CHECKING:
    from asyncio import Task

    from aioaudit.delivery.journal import Journal
    from aioaudit.exporters.memory import MemoryExporter
    from aioaudit.state.known import State
    from aioaudit.state.requests import CancelState, Request

__all__ = ["Trail", "explain"]

_begun: list[weakref.ref[Trail]] = []
"""The recordings that run, in the order in which they began, and perhaps some that have ended."""


def innermost() -> Trail | None:
    """The recording that began last and has not ended; None where there is none."""
    for ref in reversed(_begun):
        trail = ref()
        if trail is not None and _is_running(ref):
            return trail
    return None


def _is_running(ref: weakref.ref[Trail]) -> bool:
    trail = ref()
    return trail is not None and trail._runs()


def explain(known: State, what: Any) -> Answer | None:
    """Why the task *what* was cancelled, or the one to which the CancelledError *what* came."""
    tie = None
    if isinstance(what, BaseException):
        current = current_task()
        request = known.cancellations.request_of(what, current)
        tie = known.cancellations.tie_of(what)
        state = None if tie is None else tie.state
        if request is None:
            return None
        if state is None:
            event = request.event
            if not isinstance(event, TaskCancel):
                return None
            return _answer(event.task, event.name, event.coro, "pending", None, request)
        task = state.ref()
        name = _name(known, task, request)
    else:
        state = known.tasks.find_state(what)
        if state is None:
            return None
        request = state.answer
        if request is None:
            return None
        name = known.tasks.name(what)
    outcome = state.outcome if state.ended and state.outcome != "destroyed" else "pending"
    return _answer(
        state.task,
        name,
        state.coro,
        outcome or "pending",
        state.cancel_outcome,
        request,
        state.swallowed_at if state.cancel_outcome == "swallowed" else None,
        concluded=state.concluded if tie is None else tie.concluded,
        requests=_requests(state, request),
    )


def _requests(state: CancelState, answered: Request) -> list[RequestSummary]:
    """Those made to the task that are still kept, in order, where there were several."""
    made = [*state.requests, *(state.late or ())]
    if not any(each is not answered for each in made):
        return []
    outcome = state.cancel_outcome
    found: list[RequestSummary] = []
    for each in made:
        became = cast(RequestFate, outcome or "pending") if each is answered else _fate(each)
        if isinstance(each.event, TaskCancel):
            line = each.absorbed_at if became == "absorbed" else None
            found.append(summary_of(each.event, became, line))
    return found


def _fate(request: Request) -> RequestFate:
    """What became of one that the answer is not about; in the words of a log, by its rule."""
    event = request.event
    if isinstance(event, TaskCancel) and not event.accepted:
        return "late"
    if request.coalesced:
        return "coalesced"
    taken_back = request.absorbed or request.absorbed_at is not None
    return "absorbed" if taken_back else "delivered"


def _name(known: State, task: Any, request: Request) -> str:
    if task is not None:
        return known.tasks.name(task)
    event = request.event
    return event.name if isinstance(event, TaskCancel) else "?"


def _answer(
    task: int,
    name: str,
    coro: str,
    outcome: Any,
    cancel_outcome: str | None,
    request: Request,
    swallowed_at: str | None = None,
    *,
    concluded: bool = False,
    requests: list[RequestSummary] | None = None,
) -> Answer:
    steps = Chains(MemoryReading()).of(request).steps()
    steps = from_task(task, name, request.event, steps, concluded=concluded)
    return answer_of(
        task=task,
        name=name,
        coro=coro,
        outcome=outcome,
        steps=steps,
        cancel_outcome=cancel_outcome,
        swallowed_at=swallowed_at,
        requests=requests,
    )


class Trail:
    """What was recorded while a `recording` block ran."""

    def __init__(
        self,
        exporter: MemoryExporter,
        journal: Journal,
        known: State,
        runs: Callable[[], bool] = lambda: False,
    ) -> None:
        """Private. *runs* says whether its block has not ended."""
        self._exporter = exporter
        self._journal = journal
        self._known = known
        self._runs = runs
        _begun[:] = [*filter(_is_running, _begun), weakref.ref(self)]

    @property
    def events(self) -> list[Event]:
        """All events so far, the oldest first."""
        flush_all([self._journal])
        return self._exporter.events

    def why(self, what: Task[Any] | BaseException | str | int) -> Answer | None:
        """Why one task was cancelled: the whole chain, from the task to the root.

        Args:
            what: The task, a CancelledError that was caught, or the task's name or number; of
                several tasks of that name the one that was cancelled first.

        Returns:
            None where nothing is known.
        """
        if isinstance(what, str | int):
            answers = self.answers(what)
            return answers[0] if answers else None
        return explain(self._known, what)

    def answers(self, task: str | int | None = None) -> list[Answer]:
        """Why tasks were cancelled: an `Answer` for each, the oldest first.

        Args:
            task: A task's last name or its number; without it, every cancelled task is answered
                for.

        Returns:
            Several where several tasks have that name, none where nobody cancelled such a task.
        """
        from aioaudit.log import Log

        log = Log()
        for event in self.events:
            log.add(event)
        return log.answers(task)
