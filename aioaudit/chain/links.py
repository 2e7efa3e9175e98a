"""What an answer is made of: links from a task to its root cause."""

from __future__ import annotations

from typing import Literal

import msgspec

from aioaudit.events import FutureCancel, TaskCancel, What

AnswerOutcome = Literal["returned", "raised", "cancelled", "pending"]


LEFT_OUT = " more steps are left out here"
"""How the ``detail`` of a link ends that stands for many, in a chain that is too long to show."""


BLOCKED_BY = "the loop was blocked by"
PROBABLY_BLOCKED_BY = "the loop was probably blocked by"
"""What the ``detail`` of a late deadline says before a function and its ``path:line``, its end."""


_OF_SCOPES = ("Cancelled by cancel scope ", "Cancelled via cancel scope ")
"""How the message begins that an anyio scope makes up; the reason that it was given is a detail."""


def said(message: str | None) -> str | None:
    """*message* of a request, None where nobody said it: an anyio scope has a text of its own."""
    return None if message is not None and message.startswith(_OF_SCOPES) else message


class Link(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True, gc=False):
    """One step of a chain.

    ``what`` says what happened: ``cancelled`` (a task or future was), ``failed``
    (a task or a block raised), ``signal``, ``deadline`` (a timer ran out),
    ``shutdown``, ``called`` (plain code asked for it).  ``seconds`` is the
    length of a deadline, ``message`` what was given to ``cancel()``; ``library``
    (``module:qualname``) and ``library_at`` are the library's function and line that called on
    behalf of the line ``at``.  Of another process than the task's, ``run``, ``pid`` and ``service``
    say which, and the first link of it has ``coro``, what its task runs.  The other keys are
    there where they apply.
    """

    what: What
    task: int | None = None
    name: str | None = None
    reason: str | None = None
    source: str | None = None
    at: str | None = None
    by_name: str | None = None
    error: str | None = None
    signal: str | None = None
    seconds: float | None = None
    message: str | None = None
    library: str | None = None
    library_at: str | None = None
    detail: str | None = None
    run: str | None = None
    pid: int | None = None
    service: str | None = None
    coro: str | None = None


def flatten(link: Link, event: TaskCancel | FutureCancel) -> None:
    """Put what *link* says into the ``origin_*`` keys of *event*, which has nothing in them yet.

    A key that says nothing is left alone: to set one is to pay for it, at every request.
    """
    event.origin = link.what
    event.origin_reason = link.reason
    event.origin_source = link.source
    event.origin_at = link.at
    if link.task is not None:
        event.origin_task = link.task
    if link.name is not None:
        event.origin_name = link.name
    if link.error is not None:
        event.origin_error = link.error
    if link.signal is not None:
        event.origin_signal = link.signal
    if link.seconds is not None:
        event.origin_seconds = link.seconds
    if link.message is not None:
        event.origin_message = link.message
    if link.library is not None:
        event.origin_library = link.library
    if link.library_at is not None:
        event.origin_library_at = link.library_at
    if link.detail is not None:
        event.origin_detail = link.detail
    if link.by_name is not None:
        event.origin_by_name = link.by_name


def unflatten(event: TaskCancel | FutureCancel) -> Link | None:
    """The link that `flatten` put into *event*, None where it put none."""
    if event.origin is None:
        return None
    return Link(
        what=event.origin,
        task=event.origin_task,
        name=event.origin_name,
        reason=event.origin_reason,
        source=event.origin_source,
        at=event.origin_at,
        by_name=event.origin_by_name,
        error=event.origin_error,
        signal=event.origin_signal,
        seconds=event.origin_seconds,
        message=event.origin_message,
        library=event.origin_library,
        library_at=event.origin_library_at,
        detail=event.origin_detail,
    )


RequestFate = Literal[
    "obeyed", "swallowed", "absorbed", "replaced", "pending", "coalesced", "delivered", "late"
]
"""What became of a request.

``coalesced``: an earlier one had not been delivered yet, so this one changed nothing.
``delivered``: the task got it and went on.  ``late``: the task had ended.
"""


class RequestSummary(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """One of several requests to cancel a task; ``behind`` is the ``seq`` of the one before it."""

    seq: int
    ts: str
    reason: str
    became: RequestFate
    source: str | None = None
    at: str | None = None
    by_name: str | None = None
    library: str | None = None
    library_at: str | None = None
    message: str | None = None
    absorbed_at: str | None = None
    behind: int | None = None


class Answer(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """Why one task was cancelled: ``chain`` from the task itself to ``root``.

    ``inferred`` says that a link of it was concluded rather than seen.  ``requests`` are all that
    were made to the task, in order, where there were several.
    """

    task: int
    name: str
    coro: str
    outcome: AnswerOutcome
    chain: list[Link]
    root: Link
    summary: str
    cancel_outcome: str | None = None
    inferred: bool = False
    requests: list[RequestSummary] = []
