"""What a recogniser is asked with: one call of ``cancel()``, and what is known around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit.stack.frames import caller, suspended_in
from aioaudit.state.cause import Cause

if TYPE_CHECKING:
    from types import FrameType

    from aioaudit.chain.links import Link
    from aioaudit.events import TaskCancel
    from aioaudit.place import Place
    from aioaudit.state.known import State
    from aioaudit.state.requests import Request


class Call(msgspec.Struct, eq=False):
    """One call of ``cancel()`` as a recogniser sees it.

    ``victim`` is the task or future that is to be cancelled, ``exception`` what is being
    handled (`sys.exception`), None where nothing is.  The rest is for those who conclude
    from the answers: ``current`` is the task that runs, ``nested`` the request in whose
    ``cancel()`` this one is called; ``remembered`` and ``concluded`` say that
    `remember_timeout` was called, and that whose error is being handled was not seen;
    ``lines`` is what lines say about calls of this kind, made once for each place, where
    nothing but the calling line has a say in it; ``message`` is the argument of ``cancel()``.
    """

    state: State
    victim: Any
    current: Any
    nested: Request | None
    exception: BaseException | None
    remembered: bool = False
    concluded: bool = False
    lines: dict[Place, TaskCancel] | None = None
    message: object = None

    def request_of(self, error: BaseException | None) -> Request | None:
        """The request that the CancelledError *error* delivers, None where that is not known."""
        if error is None:
            return None
        cancellations = self.state.cancellations
        request = cancellations.request_of(error, self.current)
        tie = cancellations.tie_of(error)
        self.concluded |= tie is not None and tie.concluded
        return request

    def caller(self, frame: FrameType | None) -> tuple[str | None, str | None]:
        """``at`` and ``source`` of the application's frame from *frame* outwards."""
        found = caller(self.state.codes, frame)
        return (None, None) if found is None else (found[0].at(found[1]), found[0].source)

    def waiting(self, task: Any = None) -> tuple[str | None, str | None]:
        """``at`` and ``source`` of where the victim waits, in the application if it does there.

        Of *task* instead, where one is given.
        """
        get_coro = getattr(task or self.victim, "get_coro", None)
        found = None if get_coro is None else suspended_in(self.state.codes, get_coro())
        return (None, None) if found is None else (found[0].at(found[1]), found[0].source)

    def named(self, task: Any) -> tuple[int, str]:
        """Number and name of *task*, for `Cause.by`."""
        return self.state.tasks.number(task), self.state.tasks.name(task)

    def failed(self, task: Any, error: BaseException) -> tuple[Link, Request | None]:
        """The link that says that *task* failed with *error*, and where the chain goes on."""
        return self.state.failures.of(task, error)

    def note_of(self, owner: Any) -> Any:
        """What was noted when the timeout *owner* was entered or armed."""
        return self.state.handoffs.timeouts.get(owner)

    def obeyed_by(self, task: Any) -> Request | None:
        """The request that ended *task*, None where none is known."""
        return self.state.cancellations.obeyed_by(task)

    def made_by(self, owner: Any, task: Any) -> Request | None:
        """The last request that the object *owner* (`Cause.owner`) made to *task*, None for none."""
        return self.state.cancellations.made_by(owner, task)

    def remembered_of(self, future: Any) -> Cause | None:
        """Why *future* was cancelled, where it is chained to others and was asked then."""
        cause = self.state.handoffs.remembered.get(future)
        return None if cause is None else msgspec.structs.replace(cause)

    def remember_timeout(self) -> None:
        """Tell that the current task will raise TimeoutError because of this call."""
        self.remembered = True
