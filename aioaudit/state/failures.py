"""Failures: which task failed with which error, and the request behind that."""

from __future__ import annotations

import weakref
from asyncio import CancelledError
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit.chain.links import Link
from aioaudit.chain.summary import cause, is_known
from aioaudit.chain.walk import completed, own_link
from aioaudit.cpython.tasks import exception_of
from aioaudit.stack.frames import error_site
from aioaudit.state.places import reference
from aioaudit.state.verdict import leading_to
from aioaudit.text import clean, describe
from aioaudit.weak import dropping

if TYPE_CHECKING:
    from aioaudit.stack.code import Codes
    from aioaudit.state.cancellations import Cancellations
    from aioaudit.state.requests import CancelState, Request
    from aioaudit.state.tasks import Tasks

_DEEPEST = 100
"""Groups within groups, at most: a subclass may say anything of what it holds, itself too."""

_Failed = tuple[Callable[[], Any], int, int, tuple[Link, "Request | None"]]
"""A task, the `id` of its error, when that was asked, and what the answer was."""


class Failures:
    """The errors that tasks ended with, as long as the tasks live."""

    def __init__(self, codes: Codes, tasks: Tasks, cancellations: Cancellations) -> None:
        self._codes = codes
        self._tasks = tasks
        self._cancellations = cancellations
        self._first: dict[int, tuple[weakref.ref[Any], int]] = {}
        """By the `id` of an error: the task that ended with it first, and that one's number."""
        self._last: _Failed | None = None

    def add(self, task: Any, number: int, error: BaseException) -> None:
        """*task*, which has this *number*, has ended with *error*."""
        key = id(error)
        if self._raiser(error) is not None:
            return
        # The task keeps the error, so its `id` means it as long as the task is there.
        self._first[key] = (dropping(task, self._first, key), number)

    def of(self, task: Any, error: BaseException) -> tuple[Link, Request | None]:
        """The link that says that *task* failed with *error*, and the request that led to it.

        A group asks once for each task that it cancels.  The error may be a group of
        hundreds and have a ``__str__`` of the program's, so the last answer is kept:
        while nothing ends, is delivered or taken back it is the same.
        """
        last = self._last
        if last is not None:
            ref, key, changes, answer = last
            if key == id(error) and changes == self._cancellations.moment and ref() is task:
                return answer
        answer = self._of(task, error)
        self._last = reference(task), id(error), self._cancellations.moment, answer
        return answer

    def _of(self, task: Any, error: BaseException) -> tuple[Link, Request | None]:
        at, source = error_site(self._codes, error)
        request = self.request_behind(task, error)
        detail = None
        if request is None:
            first = error
            for _ in range(_DEEPEST):
                if not isinstance(first, BaseExceptionGroup):
                    break
                first = first.exceptions[0]
            other = None if first is error else self._raiser(first)
            if other is not None and other is not task:
                # A group that had nobody left to cancel: no request tells whose error it is.
                link, request = self.of(other, first)
                how = f"handed on by task {self._tasks.name(task)} with {describe(error)}"
                detail = how if link.detail is None else f"{link.detail}; {how}"
                return msgspec.structs.replace(link, detail=clean(detail)), request
            if first is not error:
                inner_at, _ = error_site(self._codes, first)
                detail = clean(f"{describe(first)} at {inner_at}" if inner_at else describe(first))
            else:
                detail = self._first_raised(task, error)
            asked = self._asked_before(first)
            if asked is not None:
                detail = clean(asked if detail is None else f"{detail}; {asked}")
        return (
            Link(
                what="failed",
                task=self._tasks.number(task),
                name=self._tasks.name(task),
                error=describe(error),
                at=at,
                source=source,
                detail=detail,
            ),
            request,
        )

    def _first_raised(self, task: Any, error: BaseException) -> str | None:
        """Which other task raised *error* first, if *task* only passed it on."""
        other = self._raiser(error)
        if other is None or other is task:
            return None
        return f"first raised in task {self._tasks.name(other)} ({self._first[id(error)][1]})"

    def _asked_before(self, error: BaseException) -> str | None:
        """Why a task was cancelled that raised *error* in place of its CancelledError, in words."""
        for each in leading_to(error):
            tie = self._cancellations.tie_of(each) if isinstance(each, CancelledError) else None
            if tie is None or tie.concluded:
                continue
            request = tie.timeout or tie.effective
            if request is None:
                return None
            root = request.root
            link = (
                own_link(root.event) if root.origin is None else completed(root.origin, root.event)
            )
            return f"raised when it was cancelled because {cause(link)}" if is_known(link) else None
        return None

    def _raiser(self, error: BaseException) -> Any:
        """The task that ended with *error* first, None where it is not known or gone."""
        entry = self._first.get(id(error))
        other = None if entry is None else entry[0]()
        return other if other is not None and exception_of(other) is error else None

    def request_behind(self, task: Any, error: BaseException) -> Request | None:
        """The request on *task* whose consequence *error* is: a timeout's, a group's."""
        state = self._tasks.find_state(task)
        if isinstance(error, BaseExceptionGroup):
            return None if state is None else self._group_behind(state, error)
        step: BaseException | None = error
        for _ in range(20):
            if step is None:
                return None
            if isinstance(step, CancelledError):
                return self._timeout_behind(state, step)
            step = step.__cause__ or (step.__context__ if isinstance(step, TimeoutError) else None)
        return None

    def _timeout_behind(self, state: CancelState | None, error: BaseException) -> Request | None:
        tie = self._cancellations.tie_of(error)
        if tie is not None:
            request = tie.timeout or tie.effective
            if request is not None and request.taken_over:
                return None  # the scope around has kept the error, for a reason of its own
            for step in () if request is None else request.back():
                if step.event.reason != "awaiter":
                    return step if step.timed_out else None
            return None
        if state is None or self._cancellations.deliveries_seen:
            return None
        for request in reversed(state.requests):
            if request.stands and not request.taken_back:
                return None  # it was asked since
            if request.timed_out and request.absorbed:
                return None if request.taken_over else request
        inherited = state.inherited
        if inherited is not None and inherited.timed_out:
            return inherited
        return None

    def _group_behind(self, state: CancelState, error: BaseExceptionGroup[Any]) -> Request | None:
        leaves: list[BaseException] = []
        stack: list[BaseException] = [error]
        while stack and len(leaves) < 100:
            each = stack.pop()
            leaves.append(each)
            if isinstance(each, BaseExceptionGroup):
                stack.extend(each.exceptions)
        told = {(describe(leaf), error_site(self._codes, leaf)[0]) for leaf in leaves}
        for request in reversed(state.requests):
            origin = request.origin
            if origin is not None and (origin.error, origin.at) in told:
                return request
        return None
