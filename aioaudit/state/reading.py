"""How requests in memory are read, by whoever follows their chains."""

from __future__ import annotations

from aioaudit.chain.links import Link
from aioaudit.chain.walk import completed
from aioaudit.events import FutureCancel, TaskCancel
from aioaudit.state.requests import Request


class MemoryReading:
    """Requests as the recorder keeps them; more is known of them than their lines say."""

    def key(self, request: Request) -> int:
        """They live as long as the one that is asked about."""
        return id(request)

    def event(self, request: Request) -> TaskCancel | FutureCancel:
        """What is told of it, or would be."""
        return request.event

    def origin(self, request: Request) -> Link | None:
        """The next link, where that is no request."""
        return None if request.origin is None else completed(request.origin, request.event)

    def cause(self, request: Request) -> Request | None:
        """The request that led to it, whether that is a line or not."""
        return request.cause

    def missing(self, request: Request) -> int | None:  # noqa: ARG002 - a protocol names it
        """None is missing."""
        return None
