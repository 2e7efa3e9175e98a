"""Answers from memory: what `aioaudit.why` and a recording say of a task or an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit.chain.build import answer_of, steps_of
from aioaudit.chain.links import Answer
from aioaudit.cpython.tasks import current_task
from aioaudit.delivery.journal import flush_all
from aioaudit.events import Event, FutureCancel, TaskCancel

if TYPE_CHECKING:
    from aioaudit.delivery.journal import Journal
    from aioaudit.exporters.memory import MemoryExporter
    from aioaudit.state.known import State
    from aioaudit.state.requests import Request

__all__ = ["Trail", "explain"]


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
        state = known.tasks.known(what)
        if state is None:
            return None
        request = state.answer
        if request is None and state.outcome == "cancelled":
            request = state.inherited
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
    )


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
) -> Answer:
    chain = _numbered(request)
    by_seq = {event.seq: event for event in chain}
    steps = steps_of(
        task,
        name,
        chain[0],
        lambda event: None if event.cause is None else by_seq.get(event.cause),
        concluded=concluded,
    )
    return answer_of(
        task=task,
        name=name,
        coro=coro,
        outcome=outcome,
        steps=steps,
        cancel_outcome=cancel_outcome,
        swallowed_at=swallowed_at,
    )


def _numbered(request: Request) -> list[TaskCancel | FutureCancel]:
    """The events of a chain, told as if all of them had been logged."""
    chain: list[Request] = []
    step: Request | None = request
    while step is not None and len(chain) < 10_000:
        chain.append(step)
        step = step.cause
    events: list[TaskCancel | FutureCancel] = []
    for index, each in enumerate(chain):
        origin = each.origin
        fields: dict[str, Any] = {f"origin_{key}": None for key in _ORIGIN_KEYS}
        if origin is not None:
            fields = {f"origin_{key}": getattr(origin, key) for key in _ORIGIN_KEYS}
        events.append(
            msgspec.structs.replace(
                each.event,
                seq=index + 1,
                cause=index + 2 if index + 1 < len(chain) else None,
                origin=None if origin is None else origin.what,
                **fields,
            )
        )
    return events


_ORIGIN_KEYS = (
    "task",
    "name",
    "reason",
    "source",
    "at",
    "by_name",
    "error",
    "signal",
    "seconds",
    "detail",
)


class Trail:
    """What was recorded while a `recording` block ran."""

    def __init__(self, exporter: MemoryExporter, journal: Journal, known: State) -> None:
        self._exporter = exporter
        self._journal = journal
        self._known = known

    @property
    def events(self) -> list[Event]:
        """All events so far, the oldest first."""
        flush_all([self._journal])
        return self._exporter.events

    def why(self, what: Any) -> Answer | None:
        """Why *what* was cancelled; None where nothing is known.

        Args:
            what: A task, a CancelledError, or a task's name or number.
        """
        if isinstance(what, str | int):
            from aioaudit.log import Log

            log = Log()
            for event in self.events:
                log.add(event)
            answers = log.why(what)
            return answers[0] if answers else None
        return explain(self._known, what)
