"""What a recogniser answers, and what it is asked with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from types import FrameType

    from aioaudit.chain.links import Link
    from aioaudit.events import Evidence
    from aioaudit.recorder.requests import Request


class Cause(msgspec.Struct, kw_only=True):
    """Why ``cancel()`` was called.

    ``request`` is the request that led to this one; ``origin`` the next link of
    the chain where that is no request.  With both the chain goes to the origin
    and on to what follows ``request``.  ``owner`` is the `id` of the object that
    will take the request back with ``uncancel()``.  ``again`` marks a request
    that is no new one (a scope that delivers again).  ``bystander`` says that
    the current task has nothing to do with it.  ``taken_back`` says that the asker
    ends the request itself, so that it never is the program that swallowed it.
    ``through`` marks a frame that only passes a call on: the cause lies further
    out, the reason is this one's (an empty one leaves it to the cause), and so is the owner,
    if it has one; ``receiver`` is the object that such a frame is a method of: that method may
    be what a loop was given.  ``awaiter`` says that ``request`` goes on with
    this one: should it come to nothing here, it has come to nothing.  ``once`` is
    an object that stands for the whole request: what is asked for again, of the
    same task and with the same object, is no new request.  ``by`` has number and
    name of the task that asked, where that is not the current one; ``thread`` the
    name of the asker's thread, where it is another than the victim's.
    """

    reason: str
    request: Request | None = None
    origin: Link | None = None
    evidence: Evidence = "observed"
    detail: str | None = None
    owner: int | None = None
    at: str | None = None
    source: str | None = None
    again: bool = False
    bystander: bool = False
    taken_back: bool = False
    through: bool = False
    receiver: object | None = None
    awaiter: bool = False
    once: object | None = None
    by: tuple[int, str] | None = None
    thread: str | None = None


class Call(Protocol):
    """One call of ``cancel()`` as a recogniser sees it."""

    victim: Any
    """The task or future that is to be cancelled."""

    exception: BaseException | None
    """What is being handled (`sys.exception`), None where nothing is."""

    def request_of(self, error: BaseException | None) -> Request | None:
        """The request that a CancelledError delivers, None where that is not known."""

    def caller(self, frame: FrameType | None) -> tuple[str | None, str | None]:
        """``at`` and ``source`` of the application's frame from *frame* outwards."""
        ...

    def waiting(self, task: Any = None) -> tuple[str | None, str | None]:
        """``at`` and ``source`` of where the victim waits, in the application if it does there.

        Of *task* instead, where one is given.
        """
        ...

    def named(self, task: Any) -> tuple[int, str]:
        """Number and name of *task*, for `Cause.by`."""
        ...

    def failed(self, task: Any, error: BaseException) -> tuple[Link, Request | None]:
        """The link that says that *task* failed with *error*, and where the chain goes on."""
        ...

    def note_of(self, owner: Any) -> Any:
        """What was noted when the timeout *owner* was entered or armed."""

    def obeyed_by(self, task: Any) -> Request | None:
        """The request that ended *task*, None where none is known."""

    def made_by(self, owner: Any, task: Any) -> Request | None:
        """The request that the object *owner* (`Cause.owner`) made to *task*, None for none."""

    def remembered_of(self, future: Any) -> Cause | None:
        """Why *future* was cancelled, where it is chained to others and was asked then."""

    def remember_timeout(self) -> None:
        """Tell that the current task will raise TimeoutError because of this call."""
