"""What a program can know of itself: who asked whom to end, who took it back, whose an error is.

A program runs on tasks of its own class, unaudited.  They are told of every ``cancel()``, of
every ``uncancel()`` and of every error that is thrown into them, and look at what asyncio and
anyio call them from.  Nothing here knows aioaudit: what it must answer is worked out here from
the rules of asyncio, in another way.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import CancelledError, Timeout
from asyncio.taskgroups import TaskGroup
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, TypeAlias

from anyio._backends import _asyncio as backend

ON_TIMEOUT = Timeout._on_timeout.__code__  # type: ignore[attr-defined]  # not in typeshed
TIMEOUT_EXIT = Timeout.__aexit__.__code__
GROUP_EXIT = getattr(TaskGroup, "_aexit", TaskGroup.__aexit__).__code__
GROUP_ABORT = TaskGroup._abort.__code__  # type: ignore[attr-defined]  # not in typeshed
GROUP_TASK_DONE = TaskGroup._on_task_done.__code__
SCOPE_DELIVERS = backend.CancelScope._deliver_cancellation.__code__
SCOPE_EXIT = backend.CancelScope.__exit__.__code__
SCOPE_TIMEOUT = backend.CancelScope._timeout.__code__
NURSERY_EXIT = backend.TaskGroup.__aexit__.__code__

REASONS = {
    ON_TIMEOUT: ("timeout",),
    SCOPE_DELIVERS: ("scope",),
    GROUP_ABORT: ("task_group",),
    GROUP_TASK_DONE: ("task_group",),
}

DELIVERIES_ARE_SEEN = sys.version_info >= (3, 12)
"""Whether a program can be told which error is thrown into which task."""

Task: TypeAlias = "asyncio.Task[Any]"


@dataclass(frozen=True)
class Root:
    """Where a chain has to end: ``label`` is that of a line; ``handling`` an error's type.

    ``what`` is as in an answer's link; ``name`` the task that failed, ``by`` the one that called.
    """

    what: str
    label: str
    name: str | None = None
    handling: str | None = None
    by: str | None = None


@dataclass(eq=False)
class Asked:
    """A request, as the program knows it: of several roots each is as right as the others.

    ``besides`` are those that stood as well when ``cause`` led to this one, ``alike`` those that
    had been taken back in one go with it; ``reasons`` what an answer may give as the reason.
    """

    task: str
    number: int
    owner: object = None
    cause: Asked | None = None
    roots: frozenset[Root] = frozenset()
    pending: int = 1
    delivered: bool = False
    taken_by: object = None
    besides: tuple[Asked, ...] = ()
    alike: tuple[Asked, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def stands(self) -> bool:
        return self.pending > 0

    def ends_at(self, besides: bool = False) -> frozenset[Root]:
        """Where its chain ends; or may, where nobody can tell apart what stands *besides*."""
        if self.cause is None:
            return self.roots
        found = self.cause.ends_at(besides)
        for each in (*self.alike, *(self.besides if besides else ())):
            found |= each.ends_at(besides)
        return found

    def names(self) -> tuple[str, ...]:
        """The tasks from the one that was asked to the first that was."""
        return (self.task, *(() if self.cause is None else self.cause.names()))


@dataclass
class Book:
    """What is known of one task."""

    asked: list[Asked] = field(default_factory=list)
    errors: list[CancelledError] = field(default_factory=list)
    borrowed: bool = False
    ended_with: BaseException | None = None
    ended_by: Asked | None = None
    besides: tuple[Asked, ...] = ()
    lived_through: list[Asked] = field(default_factory=list)

    def first_open(self) -> Asked | None:
        return next((each for each in self.asked if each.stands and not each.delivered), None)

    def standing(self) -> tuple[Asked, ...]:
        return tuple(each for each in self.asked if each.stands)


class Referee:
    """Keeps the books while a program runs; ``label`` names lines of the program."""

    def __init__(self, label: Callable[[CodeType, int], str | None]) -> None:
        self.label = label
        self.books: dict[str, Book] = {}
        self.ties: dict[int, tuple[CancelledError, Asked]] = {}
        self.scopes: dict[int, tuple[Any, Asked]] = {}
        self.slots: dict[int, tuple[Any, str]] = {}
        self.entered: dict[int, int] = {}
        self.acting: list[Asked] = []
        self.numbers = 0
        self.faults: list[BaseException] = []

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The program goes on where the referee fails, which is told in the end."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - asyncio and anyio would take it for theirs
            self.faults.append(error)

    def book(self, task: Task) -> Book:
        return self.books.setdefault(task.get_name(), Book())

    # -- whose an error is ------------------------------------------------------------

    def whose(self, error: BaseException | None) -> Asked | None:
        """The request that *error* stands for now; None where none stands any more."""
        last = None if error is None else self.stood_last(error)
        return last if last is not None and last.stands else None

    def stood_last(self, error: BaseException) -> Asked | None:
        """What *error* stood for as long as anything did."""
        known = self.ties.get(id(error))
        return None if known is None else known[1]

    def right(self, error: BaseException) -> tuple[Asked, ...]:
        """What is right to say of *error* now: a delivery that nobody sees may be of each."""
        asked = self.whose(error)
        if asked is None:
            return ()
        return (asked,) if DELIVERIES_ARE_SEEN else (asked, *self.books[asked.task].standing())

    def alike(self, asked: Asked) -> list[Asked]:
        """*asked*, and where it does not stand those that were taken back in one go with it.

        A scope takes back its own request and those of scopes inside it, in any order.
        """
        if asked.stands or asked.taken_by is None:
            return [asked]
        return [each for each in self.books[asked.task].asked if each.taken_by is asked.taken_by]

    def taken_back(self, taken: Asked, owner: object) -> None:
        """*owner* took *taken* back: the errors that stood for it stand for another.

        Those end here if nothing was asked since *owner* was entered that still stands.  A
        group does not look at that.
        """
        since = 0 if isinstance(owner, TaskGroup) else self.entered.get(id(owner), 0)
        # What was made before, and was never taken back although it was kept, stands too.
        before = [
            each for each in self.books[taken.task].asked if each.stands and each.number > since
        ]
        behind = [each for each in before if each.number > taken.number]
        if before:
            for key, (error, tied) in list(self.ties.items()):
                if tied is taken:
                    self.ties[key] = (error, (behind or before)[0])

    # -- what happens -----------------------------------------------------------------

    def cancelled(self, task: Task, message: object, frame: FrameType | None) -> Asked | None:
        """``task.cancel(message)`` is called by *frame*; None if this makes no request."""
        book = self.book(task)
        name = task.get_name()
        owner, cause, roots = self._why(task, message, frame)
        if owner is _AGAIN:
            # The group gives back what it borrowed: the error to come is of what stands.
            for each in book.standing():
                each.delivered = False
            book.borrowed = False
            return None
        if isinstance(owner, backend.CancelScope):
            for each in book.asked:
                if each.owner is owner and each.cause is cause and each.roots == roots:
                    each.pending += 1
                    each.delivered = False
                    return each
        if cause is not None and self.acting and cause is self.acting[-1]:
            for each in book.asked:
                if each.cause is cause:
                    each.delivered = False
                    return each
        self.numbers += 1
        asked = Asked(name, self.numbers, owner, cause, roots)
        assert frame is not None
        if self.acting or (cause is not None and self._begins_to_wait(task)):
            asked.reasons = ("awaiter", "gather")
        else:
            asked.reasons = REASONS.get(frame.f_code, ("explicit", "thread"))
        if cause is not None and cause.task in self.books:
            asked.besides = self.books[cause.task].standing()
            asked.alike = tuple(each for each in self.alike(cause) if each is not cause)
        book.asked.append(asked)
        return asked

    def _why(
        self, task: Task, message: object, frame: FrameType | None
    ) -> tuple[object, Asked | None, frozenset[Root]]:
        """Owner, cause and roots of a call of ``cancel()``."""
        none: frozenset[Root] = frozenset()
        if self.acting:
            return None, self.acting[-1], none
        if self._begins_to_wait(task):
            # It was asked while it ran; now that it waits, what it waits for ends first.
            current = asyncio.current_task()
            assert current is not None
            return None, self.book(current).first_open(), none
        assert frame is not None
        code = frame.f_code
        if code is ON_TIMEOUT:
            timeout = frame.f_locals["self"]
            return timeout, None, frozenset({Root("deadline", self._slot(timeout))})
        if code is SCOPE_DELIVERS:
            scope = frame.f_locals["origin"]
            why = self.scopes[id(scope)][1]
            return scope, why.cause, why.roots
        if code is GROUP_TASK_DONE:
            return frame.f_locals["self"], None, self._failed(frame.f_locals["task"])
        if code is GROUP_ABORT:
            assert frame.f_back is not None
            if frame.f_back.f_code is GROUP_TASK_DONE:
                return None, None, self._failed(frame.f_back.f_locals["task"])
            return None, *self._because_of(
                sys.exception(), frame.f_back.f_locals["self"]._parent_task
            )
        if code is GROUP_EXIT:
            return _AGAIN, None, none
        return None, *self._by_the_program(message, frame)

    def _begins_to_wait(self, task: Task) -> bool:
        """Whether the current task has just begun to wait for *task*."""
        return getattr(asyncio.current_task(), "_fut_waiter", None) is task

    def _by_the_program(
        self, message: object, frame: FrameType | None
    ) -> tuple[Asked | None, frozenset[Root]]:
        error = sys.exception()
        if isinstance(error, CancelledError):
            # Where nothing stands, what stood last is as right as the handler itself.
            asked = self.stood_last(error)
            if asked is not None:
                if asked.stands:
                    return asked, frozenset()
                others = [root for each in self.alike(asked) for root in each.ends_at()]
                return asked, self._called(str(message), frame, error).union(others)
        return None, self._called(str(message), frame, error)

    def _called(
        self, message: str, frame: FrameType | None, error: BaseException | None
    ) -> frozenset[Root]:
        label = self._line(frame) or message
        handling = None if error is None else type(error).__name__
        current = asyncio.current_task()
        by = None if current is None else current.get_name()
        return frozenset({Root("called", label, handling=handling, by=by)})

    def _line(self, frame: FrameType | None) -> str | None:
        while frame is not None:
            label = self.label(frame.f_code, frame.f_lineno)
            if label is not None:
                return label
            if "tests" in frame.f_code.co_filename:
                return None
            frame = frame.f_back
        return None

    def _slot(self, owner: object) -> str:
        return self.slots[id(owner)][1]

    def owns(self, slot: str, owner: object) -> None:
        """*owner*, a timeout or scope, was entered on the line with the label *slot*."""
        self.slots[id(owner)] = (owner, slot)
        current = asyncio.current_task()
        assert current is not None
        self.entered[id(owner)] = self.numbers if self.book(current).asked else 0

    def _failed(self, task: Task) -> frozenset[Root]:
        error = task._exception  # to ask with exception() is to have retrieved it
        assert error is not None
        return self._roots_of(error, task.get_name())

    def _roots_of(self, error: BaseException, name: str) -> frozenset[Root]:
        """Where the failure of the task *name* with *error* began."""
        if isinstance(error, BaseExceptionGroup):
            found = frozenset({Root("failed", "", name)})
            for each in error.exceptions:
                found |= self._roots_of(each, name)
            return found
        if isinstance(error, TimeoutError):
            # Whoever raised it did so when the block on this line was left.
            step, slot = error.__traceback__, None
            while step is not None:
                slot = self.label(step.tb_frame.f_code, step.tb_lineno) or slot
                step = step.tb_next
            assert slot is not None
            return frozenset({Root("failed", "", name), Root("deadline", slot)})
        # Each error of the program says which line raised it.
        label = str(error)
        return frozenset({Root("failed", label, label if label.startswith("child") else name)})

    def _because_of(
        self, error: BaseException | None, task: Task
    ) -> tuple[Asked | None, frozenset[Root]]:
        assert error is not None
        if isinstance(error, CancelledError):
            asked = self.stood_last(error)
            assert asked is not None, "an error that stands for nothing ends a group"
            return asked, frozenset()
        return None, self._roots_of(error, task.get_name())

    def scope_cancelled(self, scope: Any, reason: object, frame: FrameType) -> None:
        """``scope.cancel(reason)`` is called by *frame*, for the first time."""
        cause, roots = self._why_scope(scope, reason, frame)
        self.scopes[id(scope)] = (scope, Asked("?", 0, cause=cause, roots=roots))

    def _why_scope(
        self, scope: Any, reason: object, frame: FrameType
    ) -> tuple[Asked | None, frozenset[Root]]:
        code = frame.f_code
        if code is SCOPE_TIMEOUT:
            return None, frozenset({Root("deadline", self._slot(scope))})
        if code is NURSERY_EXIT:
            return self._because_of(sys.exception(), scope._host_task)
        if code.co_name == "task_done":
            task, error = frame.f_locals["_task"], frame.f_locals["exc"]
            if isinstance(error, CancelledError):
                return self.book(task).ended_by, frozenset()
            return None, self._roots_of(error, task.get_name())
        return self._by_the_program(reason, frame)

    def uncancelled(self, task: Task, frame: FrameType | None) -> None:
        """``task.uncancel()`` is called by *frame*."""
        book = self.book(task)
        assert frame is not None
        code = frame.f_code
        if code not in (TIMEOUT_EXIT, GROUP_EXIT, SCOPE_EXIT):
            # The program does it by hand, and means all of them: the order says nothing.
            next(each for each in reversed(book.asked) if each.stands).pending -= 1
            return
        owner = frame.f_locals["self"]
        own = [each for each in book.asked if each.owner is owner and each.stands]
        if not own and code is SCOPE_EXIT:
            # A scope inside it left what it had asked for to this one.
            own = [
                each
                for each in book.asked
                if each.stands
                and isinstance(each.owner, backend.CancelScope)
                and not each.owner._active
            ]
        if own:
            own[-1].pending -= 1
            own[-1].taken_by = owner
            if not own[-1].stands:
                self.taken_back(own[-1], owner)
        else:
            assert code is GROUP_EXIT, code
            book.borrowed = True

    def thrown(self, task: Task, error: BaseException) -> None:
        """*error* is thrown into *task*."""
        if not isinstance(error, CancelledError):
            return
        book = self.book(task)
        first = book.first_open()
        if first is not None:
            for each in book.asked:
                if each.stands:
                    each.delivered = True
            self.ties[id(error)] = (error, first)
            book.errors.append(error)

    def ended(self, task: Task, error: BaseException | None) -> None:
        """The coroutine of *task* ended, with *error* or by returning."""
        book = self.book(task)
        book.ended_with = error
        book.besides = () if DELIVERIES_ARE_SEEN else book.standing()
        if isinstance(error, CancelledError):
            book.ended_by = self.stood_last(error)
            if book.ended_by is not None:
                book.besides += tuple(self.alike(book.ended_by))
        elif error is None and task._must_cancel:  # type: ignore[attr-defined]  # of the C type
            book.ended_by = book.first_open()
        for each in book.errors:
            asked = self.stood_last(each)
            if asked is not None:
                book.lived_through += self.alike(asked)


_AGAIN = object()


class Driven(Coroutine[Any, Any, Any]):
    """A coroutine that tells the referee what is thrown into it, and how it ends."""

    def __init__(self, referee: Referee, inner: Any) -> None:
        self.referee = referee
        self.inner = inner
        self.task: Task | None = None

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        assert self.task is not None
        try:
            return step(*args)
        except StopIteration:
            self.referee.ended(self.task, None)
            raise
        except BaseException as error:
            self.referee.ended(self.task, error)
            raise

    def send(self, value: Any) -> Any:
        return self._step(self.inner.send, value)

    def throw(self, *args: Any) -> Any:
        assert self.task is not None
        self.referee.thrown(self.task, args[0])
        return self._step(self.inner.throw, args[0])

    def close(self) -> None:
        self.inner.close()

    def __await__(self) -> Any:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Watched(asyncio.Task):  # type: ignore[type-arg]  # not subscriptable at run time on 3.11
    """A task that tells the referee what is asked of it."""

    referee: Referee

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        with self.referee.at_work():
            asked = None
            asked = self.referee.cancelled(self, msg, sys._getframe(1))
        if asked is None:
            return super().cancel(msg)
        self.referee.acting.append(asked)
        try:
            return super().cancel(msg)
        finally:
            self.referee.acting.pop()

    def uncancel(self) -> int:
        with self.referee.at_work():
            self.referee.uncancelled(self, sys._getframe(1))
        return super().uncancel()


def task_factory(referee: Referee) -> Callable[..., Task]:
    """What makes the tasks of a loop that *referee* watches."""

    class Task(Watched):
        pass

    Task.referee = referee

    def make(loop: Any, coro: Any, **keywords: Any) -> Any:
        driven = Driven(referee, coro)
        driven.task = Task(driven, loop=loop, **keywords)
        return driven.task

    return make


@contextmanager
def watched_scopes(referee: Referee) -> Iterator[None]:
    """While this runs, *referee* is told why scopes of anyio are cancelled."""
    original = backend.CancelScope.cancel

    def cancel(self: Any, reason: str | None = None) -> None:
        if not self._cancel_called:
            with referee.at_work():
                referee.scope_cancelled(self, reason, sys._getframe(1))
        original(self, reason)

    backend.CancelScope.cancel = cancel  # type: ignore[method-assign]  # put back below
    try:
        yield
    finally:
        backend.CancelScope.cancel = original  # type: ignore[method-assign]  # as it was
