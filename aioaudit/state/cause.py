"""Why ``cancel()`` was called: what a recogniser answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from aioaudit.addresses import Connection
    from aioaudit.chain.links import Link
    from aioaudit.events import Evidence
    from aioaudit.state.requests import Request


class Cause(msgspec.Struct, kw_only=True):
    """Why ``cancel()`` was called.

    ``request`` is the request that led to this one; ``origin`` the next link of
    the chain where that is no request.  With both the chain goes to the origin
    and on to what follows ``request``.  ``owner`` is the `id` of the object that
    will take the request back with ``uncancel()``.  ``library`` and ``library_at`` are the function
    and the line of a library that called on behalf of the line ``at``.  ``redelivers`` marks a request
    that is no new one (a scope that delivers again).  ``current_task_unrelated`` says that
    the current task has nothing to do with it.  ``taken_back`` says that the asker
    ends the request itself, so that it never is the program that swallowed it.
    ``passes_through`` marks a frame that only passes a call on: the cause lies further
    out, the reason is this one's (an empty one leaves it to the cause), and so is the owner,
    if it has one; ``receiver`` is the object that such a frame is a method of: that method may
    be what a loop was given.  ``forwards`` says that ``request`` goes on with
    this one: should it come to nothing here, it has come to nothing.  ``dedup_key`` is
    an object that stands for the whole request: what is asked for again, of the
    same task and with the same object, is no new request.  ``by`` has number and
    name of the task that asked, where that is not the current one; ``thread`` the
    name of the asker's thread, where it is another than the victim's.  ``cleanup`` is as in
    `aioaudit.events.TaskCancel`.  ``connection`` has the addresses of the one whose peer went away.
    """

    reason: str
    request: Request | None = None
    origin: Link | None = None
    evidence: Evidence = "observed"
    detail: str | None = None
    owner: int | None = None
    at: str | None = None
    source: str | None = None
    library: str | None = None
    library_at: str | None = None
    redelivers: bool = False
    current_task_unrelated: bool = False
    taken_back: bool = False
    passes_through: bool = False
    receiver: object | None = None
    forwards: bool = False
    dedup_key: object | None = None
    by: tuple[int, str] | None = None
    thread: str | None = None
    cleanup: bool = False
    connection: Connection | None = None
