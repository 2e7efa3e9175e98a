"""The tasks of a run, as far as spans are made of them: which trace each is in, and who is shown.

Traces stay small: a task that is made by one that has lived for long, or far
down in a line of creators, or in a trace that has many tasks, begins a trace of
its own, with a link to its creator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import msgspec

from aioaudit.events import Event, TaskCancel, TaskCreate, TaskDone
from aioaudit.exporter import Created, Record, Returned
from aioaudit.exporters.otel.facts import Outside, Trace

TOUCHED = "touched"
ALL = "all"

AGE = 60_000_000_000
"""Nanoseconds after which what a task makes belongs to another trace."""

DEPTH = 50
"""Longest line of creators in one trace."""

MOST_TASKS = 1_000
"""Tasks that are made in one trace."""

MOST_LIVING = 200_000
"""Living tasks that are known; more can only be where ends are not recorded."""

MOST_ENDED = 10_000
"""Spans of ended tasks and of requests whose ids are known, to be linked to."""


class Life(msgspec.Struct, gc=False, eq=False):
    """What is kept of a task; the reference to its creator keeps that one as well."""

    number: int
    made: Created | Event
    ns: int
    trace: Trace
    creator: Life | None
    depth: int
    shown: bool
    cut: int | None = None
    """Number of the creator, where a trace begins with this task."""
    under: int | None = None
    """Id of the application's span that was current when the task was made."""
    touched: bool = False
    exported: bool = False
    requests: list[int] | None = None
    ended: Returned | TaskDone | None = None

    def is_far(self, ns: int) -> bool:
        """Whether what it makes at *ns* begins a trace of its own."""
        return ns - self.ns > AGE or self.depth >= DEPTH or self.trace.tasks >= MOST_TASKS

    def add_request(self, seq: int) -> None:
        """It was asked to end, by the request with this number."""
        if self.requests is None:
            self.requests = []
        self.requests.append(seq)


class Lives:
    """The tasks that live, and the last ones that were exported.

    Args:
        tasks: ``touched``, ``all``, or globs on ``module:qualname``, with commas.
        give_up: Told each task, and the time, that has to make room for others.

    Attributes:
        living: The tasks that live, by number.
        ended: The last ones that were exported, by number.
        plain: Whether only those are exported that something happened to.
        chosen: Whether only those are told whose coroutine somebody named.
    """

    def __init__(self, tasks: str, give_up: Callable[[Life, int], None]) -> None:
        self._abandon = give_up
        self._globs = () if tasks in (ALL, TOUCHED) else tuple(_words(tasks))
        self._matching: dict[str, bool] = {}
        self.chosen = bool(self._globs)
        self.plain = not self.chosen and tasks != ALL
        self.begin("")

    def begin(self, run: str) -> None:
        """Forget what was; the next tasks are those of *run*."""
        self._run = run
        self.living: dict[int, Life] = {}
        self.ended: dict[int, Life] = {}

    def make(
        self,
        number: int,
        made: Created | TaskCreate,
        parent: int | None,
        ns: int,
        outside: Outside | None,
    ) -> None:
        """A task was made, at *ns*, by the task *parent*, in the application's span *outside*."""
        creator = None if parent is None else self.living.get(parent)
        if creator is not None and not creator.shown:
            creator = creator.creator
        shown = not self.chosen or self._matches(made.coro)
        cut = None
        if creator is not None and creator.is_far(ns):
            cut, creator = creator.number, None
        depth = 0 if creator is None else creator.depth + 1
        if outside is not None:
            trace = Trace(self._run, number, outside)
        elif creator is None:
            trace = Trace(self._run, number)
        else:
            trace = creator.trace
        trace.tasks += 1
        if len(self.living) >= MOST_LIVING:
            for old in list(self.living)[: MOST_LIVING // 10]:
                self._abandon(self.living.pop(old), ns)
        under = None if outside is None else outside.span_id
        self.living[number] = Life(number, made, ns, trace, creator, depth, shown, cut, under)

    def pass_over(self, number: int, ns: int) -> None:
        """The task *number* made one at *ns* that ended, and had to do with nothing: it is counted."""
        creator = self.living.get(number)
        if creator is not None and not creator.is_far(ns):
            creator.trace.tasks += 1

    def unmade(self, event: TaskCancel | TaskDone, ns: int) -> Life:
        """A task whose creation was not told, and which lived at *ns* at the latest."""
        shown = not self.chosen or self._matches(event.coro)
        return Life(event.task, event, ns, Trace(self._run, event.task), None, 0, shown)

    def find(self, number: int) -> Life | None:
        """The task with this number, alive or among the last that were told."""
        return self.living.get(number) or self.ended.get(number)

    def wanted(self, life: Life) -> bool:
        """Whether *life* is to be told, as far as is known now."""
        return life.shown and (life.touched or not self.plain)

    def tell(self, life: Life) -> None:
        """*life* is told: from now on it can be linked to."""
        life.exported = True
        remember(self.ended, life.number, life)

    def abandon(self) -> list[Life]:
        """All that live, those that were touched first; none lives from now on."""
        lives = sorted(self.living.values(), key=lambda life: not life.touched)
        self.living = {}
        return lives

    def _matches(self, coro: str) -> bool:
        known = self._matching.get(coro)
        if known is None:
            if len(self._matching) > 50_000:
                self._matching.clear()
            known = any(fnmatchcase(coro, glob) for glob in self._globs)
            self._matching[coro] = known
        return known


_NAMING = ("task", "by", "parent", "origin_task")
"""Keys of events that name a task."""


def without_short_lives(items: Sequence[Record]) -> Sequence[Record]:
    """*items* without the tasks of which nothing can ever be told.

    Those are made and return within *items*, are named in no event among them,
    and made no task that is told or goes on.  In a busy program that is most of
    them, and to leave them out here is all that they cost.
    """
    raw = cast("list[Any]", items)
    returned: set[int] = {item.born.task for item in raw if type(item) is Returned}
    made: dict[int, Created] = {}
    named: set[int | None] = set()
    for item in raw:
        kind = type(item)
        if kind is Created:
            made[item.task] = item
        elif kind is Returned:
            pass
        elif kind is TaskDone and item.outcome == "returned" and item.cancel_outcome is None:
            returned.add(item.task)  # how it is told before Python 3.12
        else:
            named.update(getattr(item, key, None) for key in _NAMING)
            named.update(getattr(item, "waiters", ()))
    short = returned & made.keys()
    # What is told or goes on keeps its creators.
    stack: list[int | None] = [
        *named,
        *(each.parent for task, each in made.items() if task not in short),
    ]
    while stack:
        number = stack.pop()
        if number is not None and number in short:
            short.discard(number)
            stack.append(made[number].parent)
    if not short:
        return items
    if 2 * len(short) == len(items):
        return []
    return [
        item
        for item in raw
        if not (
            ((kind := type(item)) is Created and item.task in short)
            or (kind is Returned and item.born.task in short)
            or (kind is TaskDone and item.task in short)
        )
    ]


def remember(known: dict[int, Any], key: int, value: object) -> None:
    """Keep *value* at *key* in a table of the last `MOST_ENDED` ones."""
    if len(known) >= MOST_ENDED:
        for old in list(known)[: MOST_ENDED // 10]:
            del known[old]
    known[key] = value


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]
