"""Tasks: who was made and lives, its number, its name, what it runs.

Tasks are known by `id` in tables of our own: an attribute on the task would cost 344
bytes each on 3.13, and would show.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from functools import partial
from operator import attrgetter
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any

from aioaudit.core import Returned, Table, new_counter, new_table
from aioaudit.cpython import tasks
from aioaudit.events import TaskCancel
from aioaudit.state.requests import CancelState, Request
from aioaudit.text import clean
from aioaudit.weak import swept

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioaudit.core import Asked, Asks, Created
    from aioaudit.delivery.records import CreationSite
    from aioaudit.stack.code import Codes
    from aioaudit.state.places import Places

_RECENT = 4096

_SWEEP = 1000
"""More tasks than this, and than twice those left last time, are looked through for lost ones."""

_SETTLED = 1_000_000_000
"""Nanoseconds after which a task has been made, whatever its maker is still doing."""

_ref_of: Callable[[CancelState], weakref.ref[Any]] = attrgetter("ref")


class Tasks:
    """The tasks of this process, as far as anything is known of them."""

    def __init__(self, codes: Codes, places: Places) -> None:
        self._codes = codes
        self._places = places
        self.creations_seen = False
        """Whether it is seen when a task is made."""
        self.born: Table[Created] = new_table(collected=False)
        """The tasks that live, by `id`, whose making was seen.

        An entry is made when a task is, and goes when the task ends: whoever holds the task
        may ask by its `id`, nobody else.  It says which number the task has, when, where and
        by which task it was made, and what it runs.
        """
        self.sites: Table[CreationSite] = new_table()
        """By the address of an instruction of the application: what it made last."""
        self.direct_sites: Table[CreationSite] = new_table()
        """The same of instructions, also a library's, that call the class of tasks itself."""
        self.recently_returned: deque[Returned] = deque(maxlen=_RECENT)
        self.states: dict[int, CancelState] = {}
        """What cancellations did to a task, by its `id`: look at it through `find_state`."""
        self.next_number = new_counter()
        self.asks: Asks
        """The requests that the core has taken in by itself; `adopt` makes them known."""
        self.adopt: Callable[[Asked], CancelState]
        self._pop_state = self.states.pop
        self._states_room = 0
        self._sweep_at = _SWEEP

    def after_fork(self) -> None:
        """This is a forked child: what was made before says that it happened in the parent."""
        self.sites.clear()
        self.direct_sites.clear()
        self.asks.forget_lines()

    # -- one task -----------------------------------------------------------------

    def find_state(self, task: Any) -> CancelState | None:
        """What cancellations did to *task*, None where nothing was asked about it yet."""
        state = self.states.get(id(task))
        if state is None:
            return self.adopted(task)
        return state if state.ref() is task else None

    def adopted(self, task: Any) -> CancelState | None:
        """What a plain request did to *task* that the core has taken in by itself, if one did."""
        record = self.asks.of(task)
        return None if record is None else self.adopt(record)

    def state(self, task: Any, born: Created | None = None) -> CancelState:
        """What cancellations did to *task*; made at the first question.

        *born* is what was known of it, where that is no longer in the table.
        """
        key = id(task)
        states = self.states
        state = states.get(key)
        if state is None:
            state = self.adopted(task)
        if state is not None and state.ref() is task:
            return state
        if born is None:
            born = self.born.get(key)
        preexisting = False
        if born is not None:
            number, coro = born.task, born.coro
        else:
            number, coro = self._ended_number(task)
            if number == 0:
                number = self.next_number()
                preexisting = self.creations_seen
                # One that ended in its first step has none any more.
                runs = tasks.coro_of(task)
                known = type(runs) is CoroutineType or not task.done()
                coro = self.coro_name(runs) if known else "?"
        made = self.new_state(task, number, coro, preexisting=preexisting)
        states[key] = made
        return made

    def new_state(self, task: Any, number: int, coro: str, *, preexisting: bool) -> CancelState:
        """A state of *task*, to be put where `state` looks."""
        if len(self.states) >= self._states_room:
            self._states_room = swept(self.states, _ref_of)
        # `dropping`, written out: a storm of cancellations comes by here.
        ref = weakref.ref(task, partial(self._pop_state, id(task)))
        return CancelState(ref, number, coro, preexisting)

    def state_of(self, request: Request) -> CancelState | None:
        """The state of the task that *request* was made to, if that is still known."""
        state = self.states.get(request.victim)
        event = request.event
        if state is None or not isinstance(event, TaskCancel) or state.task != event.task:
            return None
        return state

    def number(self, task: Any) -> int:
        """The task's number."""
        born = self.born.get(id(task))
        return born.task if born is not None else self.state(task).task

    def remember(self, task: Any, born: Created) -> None:
        """*task*, of which *born* was known, has returned, and nobody asked about it yet."""
        self.recently_returned.append(Returned(0, 0, born, id(task)))

    def _ended_number(self, task: Any) -> tuple[int, str]:
        """Number and coroutine of *task*, if it returned lately and is asked about again.

        One whose making nobody noted may have the address of another that returned and is gone:
        it may still run, or another coroutine, or has a number in its name that is not that one's.
        """
        if not task.done():
            return 0, ""
        key = id(task)
        # A copy: tasks of other threads end meanwhile.
        for returned in reversed(list(self.recently_returned)):
            if returned.key == key:
                born = returned.born
                coro = tasks.coro_of(task)  # one that ended in its first step has none any more
                same = coro is None or born.coro == self.coro_name(coro)
                # A task may have been renamed, and be called otherwise by its own class.
                name = clean(tasks.name_of(task) or "?")
                if name != clean(born.name) and _is_numbered(name):
                    same = False
                return (born.task, born.coro) if same else (0, "")
        return 0, ""

    def has_seen(self, task: Any) -> bool:
        """Whether *task* has been heard of."""
        return id(task) in self.born or self.find_state(task) is not None

    def name(self, task: Any) -> str:
        """The task's name now."""
        try:
            name = task.get_name()
            return clean(name if type(name) is str else str(name))
        except Exception:  # noqa: BLE001 - a subclass may answer with anything
            return "?"

    def coro_name(self, coro: Any) -> str:
        """``module:qualname`` of *coro*, as far as it can be known."""
        frame = getattr(coro, "cr_frame", None)
        if frame is not None:
            return self._codes.of(frame).source
        code = getattr(coro, "cr_code", None)
        if code is not None:
            known = self._codes.known.get(id(code))
            if known is not None:
                return known.source
            module = "?" if type(coro) is CoroutineType else coro.__module__
            return clean(f"{module}:{code.co_qualname}")
        kind = type(coro)
        name = getattr(coro, "__qualname__", None) or kind.__qualname__
        return clean(f"{kind.__module__}:{name}")

    # -- all of them --------------------------------------------------------------

    def count_living(self) -> int:
        """How many tasks live whose making was seen."""
        if len(self.born) < _SWEEP:
            self._sweep()
        else:
            self.sweep()
        return len(self.born)

    def sweep(self) -> None:
        """Forget tasks that are gone, once they may be many."""
        if len(self.born) >= self._sweep_at:
            self._sweep()
            self._sweep_at = max(_SWEEP, 2 * len(self.born))

    def _sweep(self) -> None:
        """Forget tasks of which nobody told that they are gone.

        One that is destroyed while it is pending tells its loop, unless ``gather`` or
        whoever else took away its ``_log_destroy_pending``.
        """
        born = self.born
        before = time.time_ns() - _SETTLED
        old = [(key, made) for key, made in list(born.items()) if made.ns < before]
        living = tasks.living(self._places.loops()) if old else None
        if living is None:
            return
        for key, made in old:
            # What is not run by Python code may be done, and tells of it a moment later.
            if key not in living and made.site.runs is not None and born.get(key) is made:
                del born[key]


def _is_numbered(name: str) -> bool:
    """Whether asyncio made it up, and counted: of the tasks of a process no two have it."""
    return name.startswith("Task-") and name[5:].isdecimal()


def root_frame(task: Any) -> FrameType | None:
    """The outermost frame of what *task* runs."""
    if task is None:
        return None
    try:
        frame: FrameType | None = tasks.coro_of(task).cr_frame  # only compared with others
    except AttributeError:
        return None
    return frame
