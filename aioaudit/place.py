"""Private. Where an event happens: run, thread and loop, known once for many events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import msgspec

from aioaudit.events import NAMES, Event
from aioaudit.identity import Run

E = TypeVar("E", bound=Event)

# Asked here and not at the first event of a kind: to answer, msgspec evaluates the annotations
# of the class, by way of `sys.modules`, and that may be another one then (Temporal's sandbox).
_REQUIRED = {
    kind: [field.name for field in msgspec.structs.fields(kind) if field.required] for kind in NAMES
}


@dataclass(slots=True, frozen=True, eq=False)
class Place:
    """What every event raised from one loop in one thread repeats.

    ``loop_id`` is the loop's `id`: compared only while a task of that loop is
    the current one, so the loop is alive and the number means it.  The loop
    itself is not kept, an event in a queue must not prolong its life.
    """

    run: Run
    thread: str
    loop: int | None
    loop_id: int
    loop_ref: Callable[[], Any]
    muted: bool = False
    fields: tuple[str, int, str, int | None] = field(init=False)
    """What the lines say of it: ``run``, ``pid``, ``thread``, ``loop``."""

    _templates: dict[type[Event], Event] = field(init=False, default_factory=dict)

    def new_event(self, kind: type[E]) -> E:
        """A new event of *kind* that says where it happens, and nothing else yet.

        Copied and filled in, an event costs a quarter of what it does made with keywords.
        """
        known = self._templates.get(kind)
        if known is None:
            known = cast(Any, kind)(**dict.fromkeys(_REQUIRED[kind]))
            known.run, known.pid, known.thread, known.loop = self.fields
            self._templates[kind] = known
        return cast(E, cast(Any, known).__copy__())

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", (self.run.id, self.run.pid, self.thread, self.loop))
