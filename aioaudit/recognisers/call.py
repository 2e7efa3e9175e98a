"""What a recogniser is asked with: one call of ``cancel()``, and what is known around it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit.chain.links import Link
from aioaudit.cpython.tasks import coro_of
from aioaudit.recognisers.losses import lost_with
from aioaudit.stack.frames import caller, callers, local, signal_name, suspended_in
from aioaudit.state.cause import Cause

if TYPE_CHECKING:
    from types import FrameType

    from aioaudit.addresses import Connection
    from aioaudit.events import TaskCancel
    from aioaudit.place import Place
    from aioaudit.stack.code import Spot
    from aioaudit.state.known import State
    from aioaudit.state.requests import Request


def seconds(value: float) -> float:
    """A length of time as a person wrote it: the clock's noise rounded away."""
    rounded = round(value, 3)
    return rounded if rounded and abs(rounded - value) < 0.0002 else round(value, 6)


def _at_and_source(spot: Spot | None) -> tuple[str | None, str | None]:
    return (None, None) if spot is None else (spot[0].at(spot[1]), spot[0].source)


class Call(msgspec.Struct, eq=False):
    """One call of ``cancel()`` as a recogniser sees it.

    ``victim`` is the task or future that is to be cancelled, ``exception`` what is being
    handled (`sys.exception`), None where nothing is.  The rest is for those who conclude
    from the answers: ``current`` is the task that runs, ``nested`` the request in whose
    ``cancel()`` this one is called; ``timeout_remembered`` and ``concluded`` say that
    `remember_timeout` was called, and that whose error is being handled was not seen;
    ``lines`` is what lines say about calls of this kind, made once for each place, where
    nothing but the calling line, or the line that set a limit, has a say in it; ``message`` is the argument of ``cancel()``.
    """

    state: State
    victim: Any
    current: Any
    nested: Request | None
    exception: BaseException | None
    timeout_remembered: bool = False
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

    def waiting_at(self, task: Any = None) -> tuple[str | None, str | None]:
        """``at`` and ``source`` of where the victim waits, in the application if it does there.

        Of *task* instead, where one is given.
        """
        found = suspended_in(self.state.codes, coro_of(task or self.victim))
        return (None, None) if found is None else (found[0].at(found[1]), found[0].source)

    def number_and_name(self, task: Any) -> tuple[int, str]:
        """Number and name of *task*, for `Cause.by`."""
        return self.state.tasks.number(task), self.state.tasks.name(task)

    def failure_of(self, task: Any, error: BaseException) -> tuple[Link, Request | None]:
        """The link that says that *task* failed with *error*, and where the chain goes on."""
        return self.state.failures.of(task, error)

    def timeout_entry(self, owner: Any) -> Any:
        """What was noted when the timeout *owner* was entered or armed."""
        return self.state.handoffs.timeouts.get(owner)

    def older_timeout(self, owner: Any) -> Any:
        """What a frame has shown of the timeout *owner*, which is older than auditing."""
        return self.state.handoffs.older_timeouts.get(owner)

    def obeyed_by(self, task: Any) -> Request | None:
        """The request that ended *task*, None where none is known."""
        return self.state.cancellations.obeyed_by(task)

    def last_request_from(self, owner: Any, task: Any) -> Request | None:
        """The last request that the object *owner* (`Cause.owner`) made to *task*, None for none."""
        return self.state.cancellations.last_request_from(owner, task)

    def chained_cause(self, future: Any) -> Cause | None:
        """Why *future* was cancelled, where it is chained to others and was asked then."""
        cause = self.state.handoffs.chained_causes.get(future)
        return None if cause is None else msgspec.structs.replace(cause)

    def remember_timeout(self) -> None:
        """Tell that the current task will raise TimeoutError because of this call."""
        self.timeout_remembered = True

    def lateness(self, when: float) -> str | None:
        """That a timer due at *when* runs only now, and what has blocked the loop; None in time."""
        loop = asyncio.get_running_loop()
        late = loop.time() - when
        if late < 0.001:
            return None
        return f"{late:.3f} s late{self.state.blocks.explain(loop, late)}"

    # -- the kinds of causes ------------------------------------------------------

    def by_caller(
        self,
        reason: str,
        frame: FrameType | None,
        detail: str | None = None,
        *,
        current_task_unrelated: bool = False,
        connection: Connection | None = None,
    ) -> Cause:
        """Somebody asked for it: the application's line from *frame* outwards, else the library's.

        Where it is the application's, the library's function and line that act for it are told, too.

        Args:
            reason: Why the library cancels then.
            frame: Where to look for the caller; None where no line is to be named.
            detail: Half a sentence for what nothing else says.
            current_task_unrelated: Whether the task that runs just now has nothing to do with it.
            connection: The addresses of the connection whose peer went away, where they are known.
        """
        found, library = (None, None) if frame is None else callers(self.state.codes, frame)
        at, source = _at_and_source(found)
        library_at, library_source = _at_and_source(library)
        return Cause(
            reason=reason,
            origin=Link(
                what="called",
                reason=reason,
                at=at,
                source=source,
                library=library_source,
                library_at=library_at,
                detail=detail,
            ),
            detail=detail,
            at=at,
            source=source,
            library=library_source,
            library_at=library_at,
            current_task_unrelated=current_task_unrelated,
            connection=connection,
        )

    def by_deadline(
        self,
        reason: str,
        seconds: float | None = None,
        line: tuple[str | None, str | None] | None = None,
        *,
        detail: str | None = None,
        owner: object = None,
        taken_back: bool = False,
        current_task_unrelated: bool = False,
    ) -> Cause:
        """The time was up.

        Args:
            reason: Why the library cancels then: ``timeout``, or a word of its own.
            seconds: How much time there was, where that is known.
            line: ``at`` and ``source`` of who set the limit; where the victim waits by default.
            detail: Half a sentence for what nothing else says.
            owner: The object that takes the request back with ``uncancel()``, if one does.
            taken_back: Whether that is certain to happen.
            current_task_unrelated: Whether the task that runs just now has nothing to do with it.
        """
        at, source = self.waiting_at() if line is None else line
        return Cause(
            reason=reason,
            origin=Link(
                what="deadline",
                reason=reason,
                at=at,
                source=source,
                seconds=seconds,
                detail=detail,
            ),
            detail=detail,
            owner=None if owner is None else id(owner),
            taken_back=taken_back or owner is not None,
            at=at,
            source=source,
            current_task_unrelated=current_task_unrelated,
        )

    def by_timeout(
        self, frame: FrameType, reason: str = "timeout", detail: str | None = None
    ) -> Cause:
        """An ``asyncio.timeout()`` or ``wait_for()`` of the library ran out.

        Args:
            frame: That of the timeout's ``_on_timeout``, which a recogniser of timeouts gets.
            reason: Why the library cancels then: ``timeout``, or a word of its own.
            detail: What the library had it for, in half a sentence.
        """
        timeout = local(frame, "self")
        note = self.timeout_entry(timeout)
        when = timeout.when()
        length = when - note.armed if note.seconds is None else float(note.seconds)
        lateness = self.lateness(when)
        if detail is None and reason == "timeout":
            self.lines = note.lines  # all but how late it is, and why
        return Cause(
            reason=reason,
            origin=Link(
                what="deadline",
                reason=reason,
                at=note.at,
                source=note.source,
                seconds=seconds(max(0.0, length)),
                detail=", ".join(filter(None, (detail, lateness))) or None,
            ),
            detail=detail,
            owner=id(timeout),
            taken_back=True,
            at=note.at,
            source=note.source,
        )

    def by_signal(self, signal: int | str, detail: str | None = None) -> Cause:
        """A signal came; whichever task runs just now has nothing to do with it.

        Args:
            signal: Its number or name.
            detail: Half a sentence for what nothing else says.
        """
        name = signal if isinstance(signal, str) else signal_name(int(signal))
        return Cause(
            reason="signal",
            origin=Link(what="signal", reason="signal", signal=name, detail=detail),
            detail=detail,
            current_task_unrelated=True,
        )

    def by_request(
        self, reason: str, request: Request | BaseException | None, owner: object = None
    ) -> Cause:
        """Another request led to it.

        Args:
            reason: How the one led to the other.
            request: That request, as `obeyed_by` or `last_request_from` give it, or the CancelledError
                that delivered it.
            owner: The object that takes the new request back with ``uncancel()``, if one does.
        """
        if isinstance(request, BaseException):
            request = self.request_of(request)
        return Cause(reason=reason, request=request, owner=None if owner is None else id(owner))

    def by_failure(
        self, reason: str, task: Any, error: BaseException, owner: object = None
    ) -> Cause:
        """*task* failed with *error*, by itself or because of a request.

        Args:
            reason: How that led to the new request.
            task: The task that failed.
            error: What it raised.
            owner: The object that takes the new request back with ``uncancel()``, if one does.
        """
        origin, request = self.failure_of(task, error)
        return Cause(
            reason=reason,
            origin=origin,
            request=request,
            owner=None if owner is None else id(owner),
            connection=lost_with(error) if request is None else None,
        )
