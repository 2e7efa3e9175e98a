"""What a recogniser is given that needs probes of its own in its library."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from aioaudit.state.cause import Cause


class Probing(Protocol):
    """Puts probes into a library, and answers what they ask.

    ``report_fault`` takes an internal error, which must not reach the library; ``muted`` says whether
    what happens in this thread is heard by nobody; ``look_at_close`` is told that a connection is
    about to be closed while an error is being handled: its transport, the error, the frame that does.
    """

    report_fault: Callable[[BaseException], None]
    muted: Callable[[], bool]
    look_at_close: Callable[[Any, BaseException, FrameType | None], None]

    def put(self, owner: Any, name: str, probe: Any) -> None:
        """Put *probe* where ``owner.name`` is, looking like it."""

    def put_task(self, cls: Any) -> None:
        """Probe ``cancel`` and ``uncancel`` of *cls*, whose tasks are none of asyncio's."""

    def put_timeout(self, cls: Any) -> None:
        """Probe *cls*, whose instances are entered and armed as `asyncio.Timeout` is."""

    def explain_scheduled(self, victim: Any, frame: FrameType, message: object = None) -> Cause:
        """Why *victim* is to be cancelled, which *frame* asks for."""
        ...

    def caller(self, frame: FrameType | None) -> tuple[str, str] | None:
        """``at`` and ``source`` of the application's frame from *frame* outwards."""
        ...

    def number_and_name(self, task: Any) -> tuple[int, str]:
        """Number and name of *task*, for `Cause.by`."""
        ...
