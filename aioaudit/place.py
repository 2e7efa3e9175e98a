"""Private. Where an event happens: run, thread and loop, known once for many events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec

from aioaudit.events import NAMES, Event, defaults_of
from aioaudit.identity import Run

E = TypeVar("E", bound=Event)

_REQUIRED = {
    kind: [name for name, value in defaults_of(kind).items() if value is msgspec.NODEFAULT]
    for kind in NAMES
}


class Place:
    """What every event raised from one loop in one thread repeats.

    ``loop_id`` is the loop's `id`: compared only while a task of that loop is
    the current one, so the loop is alive and the number means it.  The loop
    itself is not kept, an event in a queue must not prolong its life.
    """

    __slots__ = ("_templates", "fields", "loop", "loop_id", "loop_ref", "muted", "run", "thread")

    def __init__(
        self,
        run: Run,
        thread: str,
        loop: int | None,
        loop_id: int,
        loop_ref: Callable[[], Any],
        *,
        muted: bool = False,
    ) -> None:
        self.run = run
        self.thread = thread
        self.loop = loop
        self.loop_id = loop_id
        self.loop_ref = loop_ref
        self.muted = muted
        self.fields = run.id, run.pid, thread, loop
        """What the lines say of it: ``run``, ``pid``, ``thread``, ``loop``."""
        self._templates: dict[type[Event], Any] = {}

    def new_event(self, kind: type[E]) -> E:
        """A new event of *kind* that says where it happens, and nothing else yet.

        Copied and filled in, an event costs a quarter of what it does made with keywords.
        """
        known = self._templates.get(kind)
        if known is None:
            known = cast(Any, kind)(**dict.fromkeys(_REQUIRED[kind]))
            known.run, known.pid, known.thread, known.loop = self.fields
            self._templates[kind] = known
        event: E = known.__copy__()
        return event
