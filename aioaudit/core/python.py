"""The core in Python: what happens for every task, and the lines that tell of it.

It is what runs where `aioaudit.core._core`, the same in C, does not.  Both have these names,
and whoever uses them does not know which of the two it has:

- `new_table`, `new_counter`, `last_of`: objects by addresses, and numbers that rise.
- `Site`, `Created`, `Returned`: that a task was made, and that it returned, queued as small
  objects of numbers and references.  They become typed events only where somebody looks at
  them: making the typed event costs the loop more than all the rest of the probe.
- `Queue`: what waits for an exporter.
- `make_init` and `make_returned`: the probes of the two, for the plain cases.  What is not
  plain they leave to the functions of `Making` and `Ending`.
- `new_notes`: what is known of objects, as long as these live.
- `make_reschedule`: the probes on timeouts, for what a known line of the application enters.
- `Passed`: a probe on what takes a callback, for callbacks of which there is nothing to note.
- `Asks`, `make_cancel`, `make_callback`, `take_asks`: requests to cancel that are so plain that a
  core takes them in by itself, until they are obeyed or somebody wants to know.  This one
  takes in none.
- `lines`, `in_order`, `odd_names`: what is queued, as lines of JSON, whether its numbers are whole,
  and which of it somebody has to look at before it leaves.

Nothing in here finds out a cause, or knows a library: it sees that what happens is what
happened before, by addresses, and writes what it was taught then.
"""

from __future__ import annotations

import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat, starmap
from operator import attrgetter
from types import CodeType, FrameType
from typing import Any, Protocol, TypeVar

import msgspec

from aioaudit.core.line import encode_event, piece
from aioaudit.cpython.frames import getframe, module_at
from aioaudit.events import Event, TaskCreate, TaskDone, defaults_of
from aioaudit.text import LIMIT, clean
from aioaudit.threads import monotonic, sleep
from aioaudit.timestamps import MILLISECOND, TAILS, timestamp
from aioaudit.weak import WeakIdMap

V = TypeVar("V")

_PATIENCE = 0.25  # seconds that the exporter's thread waits for a name...
_GLANCE = 0.001  # ... and between two looks for it

# -- tables and numbers ------------------------------------------------------------------


class Table(Protocol[V]):
    """Objects by addresses, as `id` gives them."""

    def __contains__(self, key: object, /) -> bool: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: int, /) -> V: ...

    def __setitem__(self, key: int, value: V, /) -> None: ...

    def __delitem__(self, key: int, /) -> None: ...

    def get(self, key: int, /) -> V | None:
        """What stands at *key*, None where nothing does."""
        ...

    def pop(self, key: int, default: None, /) -> V | None:
        """The same, taken out."""
        ...

    def items(self) -> Iterable[tuple[int, V]]:
        """All of them."""
        ...

    def values(self) -> Iterable[V]:
        """All of them, without their addresses."""
        ...

    def clear(self) -> None:
        """Take everything out."""
        ...


def new_table(*, collected: bool = True) -> Table[Any]:  # noqa: ARG001 - the other core wants to know
    """An empty table.

    *collected* says that its entries may refer back to it, so that the garbage collector
    is to look at them.
    """
    table: dict[int, Any] = {}
    return table


def new_counter() -> Callable[[], int]:
    """What gives 1, 2, 3, ... , one at each call, from whatever thread."""
    return itertools.count(1).__next__


def last_of(counter: Any) -> int:
    """The number that *counter*, a `new_counter`, gave last; 0 before the first."""
    return int(repr(counter.__self__)[6:-1]) - 1  # ``count(7)``: the one way that takes none


# -- records -----------------------------------------------------------------------------


class Site:
    """What all tasks have in common that one line, in one loop, makes to run one coroutine.

    Args:
        place: Where they are made.
        loop_id: The `id` of the loop.
        runs: The `id` of the coroutine's code, None where it is not made of Python code.
        by_application: Whether the line is the application's.
    """

    __slots__ = ("by_application", "loop_id", "pieces", "place", "runs")

    coro: str
    runs_at: tuple[str, int] | None
    fields: tuple[str, str | None, str | None]

    def __init__(self, place: Any, loop_id: int, runs: int | None, *, by_application: bool) -> None:
        self.place = place
        self.loop_id = loop_id
        self.runs = runs
        self.by_application = by_application
        self.pieces: Any = None
        """Parts of lines, once there was a line; the core's own."""


class Created(msgspec.Struct, gc=False):
    """A task was made; at the same time all that is kept of a living task.

    It is invisible to the garbage collector: it refers to nothing that refers back, and
    thousands of them in a queue must not make it run.

    Attributes:
        seq: Its place in the order of the run.
        task: The task's number.
        ns: When it was made, in nanoseconds since the epoch.
        site: What it has in common with others; the recorder's own.
        name_or_task: The task's name, or the task itself while it runs inside its own
            making, where asyncio has named it but nobody was told yet: see `name`.
        parent: The number of the task that made it.
    """

    seq: int
    task: int
    ns: int
    site: Site
    name_or_task: Any
    parent: int | None

    @property
    def name(self) -> str:
        """The task's name.

        It may change until the line is written (``set_name`` after the construction is
        how factories give names up to 3.13.0).
        """
        name = self.name_or_task
        return name if type(name) is str else name_of_new(name)

    @name.setter
    def name(self, name: str) -> None:
        self.name_or_task = name

    @property
    def place(self) -> Any:
        """Where it was made; the recorder's own."""
        return self.site.place

    @property
    def coro(self) -> str:
        """``module:qualname`` of what it runs."""
        return self.site.coro

    @property
    def runs_at(self) -> tuple[str, int] | None:
        """File and first line of what it runs, where that is made of Python code."""
        return self.site.runs_at


class Returned(msgspec.Struct, gc=False):
    """A task returned.

    Attributes:
        seq: Its place in the order of the run.
        ns: When it returned, in nanoseconds since the epoch.
        born: That it was made.
        key: Its `id` while it lived; the recorder's own.
    """

    seq: int
    ns: int
    born: Created
    key: int


def name_of_new(task: Any) -> str:
    """The name of *task*, which another thread is making, and which may run already.

    An eager task is told before it runs, which is a few instructions before asyncio
    names it (``_asyncio_Task___init___impl`` in Modules/_asynciomodule.c).  Who asks
    in between, in the thread of an exporter, waits until the other thread is further.
    """
    if isinstance(task, str):  # of a class of its own, as what the ``__str__`` of a name may give
        return clean(task)
    from aioaudit.cpython.tasks import name_of  # who only reads a log needs no asyncio

    give_up: float | None = None
    while (name := name_of(task)) is None:
        now = monotonic()
        if give_up is None:
            give_up = now + _PATIENCE
        elif now > give_up:  # the ``__str__`` of what it is to be called hangs
            return "?"
        sleep(_GLANCE)
    return name


# -- the queue ---------------------------------------------------------------------------


class Queue:
    """A bounded queue into which the program puts events: no lock, no waiting.

    Args:
        capacity: How many items may wait.
        wake_up: Called after an item was put while the queue is idle.
        lose: Called with an item that finds the queue full, or closed.
        look: Called with the time now and then, after an item was put.
        often: Where items come more often than that, in seconds...
        most_unseen: ... so many may be put between two looks at the clock; else each is a look.
    """

    put: Callable[[Any], None]
    """Queue an item.  Never blocks and never raises.

    It is called from inside every task that the program makes, so it is a closure that
    compares a length, appends, and looks at one flag.  It takes no lock: the interpreter
    makes the append atomic, and a signal handler may run between any two steps of it.
    """

    set_idle: Callable[[bool], None]
    """Whether the next item is to call *wake_up*."""

    set_open: Callable[[bool], None]
    """Whether items are taken at all; they are not, until it is called."""

    took: Callable[[], None]
    """Items were taken out: there may be room again."""

    def __init__(
        self,
        capacity: int,
        wake_up: Callable[[], None],
        lose: Callable[[Any], None],
        look: Callable[[float], None],
        *,
        often: float,
        most_unseen: int,
    ) -> None:
        self._items: deque[Any] = deque()
        self._make_put(capacity, wake_up, lose, look, often, most_unseen)

    def __len__(self) -> int:
        return len(self._items)

    def take(self, count: int) -> Iterator[Any]:
        """The oldest *count* items, taken out one by one as somebody looks at them."""
        return starmap(self._items.popleft, repeat((), count))

    def clear(self) -> None:
        """Forget all items."""
        self._items.clear()

    def _make_put(
        self,
        capacity: int,
        wake_up: Callable[[], None],
        lose: Callable[[Any], None],
        keep_pace: Callable[[float], None],
        often: float,
        most_unseen: int,
    ) -> None:
        queue = self._items
        append = queue.append
        room = 0  # `put` only appends where less waits than that, else it looks around
        closed = idle = True
        step = 1  # so many are put before the next look...
        before = 0.0  # ... and this was the last one

        def put(item: Any) -> None:
            if len(queue) < room:
                append(item)
                if idle:
                    wake_up()
            else:
                look(item)

        def look(item: Any) -> None:
            nonlocal room, step, before
            if closed or len(queue) >= capacity:
                lose(item)
                if not closed:  # now of all times the thread has to come forward
                    keep_pace(monotonic())
                return
            append(item)
            if idle:
                wake_up()
            now = monotonic()
            step = min(2 * step, most_unseen) if now - before < often * step else 1
            before = now
            room = min(len(queue) + step, capacity)
            if closed:  # by another thread, meanwhile
                room = 0
            keep_pace(now)

        def took() -> None:
            nonlocal room
            room = 0

        def set_idle(value: bool) -> None:
            nonlocal idle
            idle = value

        def set_open(value: bool) -> None:
            nonlocal closed, room
            closed = not value
            room = 0

        self.put = put
        self.took = took
        self.set_idle = set_idle
        self.set_open = set_open


# -- a task is made ----------------------------------------------------------------------

MAKERS = frozenset({"asyncio.tasks", "asyncio.taskgroups"})
"""Where the functions live that make a task for their caller with ``loop.create_task()``."""

_MISSING: Any = object()


class Making(msgspec.Struct, frozen=True):
    """What the probe of ``Task.__init__`` knows and calls.

    Attributes:
        born: The tasks that live.
        sites: By the address of an instruction of the application: what it made last.
        direct_sites: The same of instructions that call the class of tasks itself.
        next_number: Gives the next task's number.
        next_seq: Gives the next event's.
        put: Takes a record.
        created: Makes the record, which is that of the core that runs.
        python_tasks: The tasks of the Python class that run now, by loop.
        loops: The modules of the functions that call what a loop calls.
        current_task: Gives the task that runs now.
        get_name: Gives a task's name.
        name_of: The same, None where it has none yet.
        note: Notes a task that is made, called with the task, its coroutine, loop and name,
            and the frame that called the class.
        construct: Makes a task and notes it, called with the task, its coroutine, the
            other arguments by name, and that frame.
        elsewhere: Gives the site of a site's line in another place, called with both; None
            where `note` has to find out.
        hide: Takes our frames out of what debug mode recorded as a task's origin.
        fault: Takes an error of our own.
    """

    born: Table[Created]
    sites: Table[Any]
    direct_sites: Table[Any]
    next_number: Callable[[], int]
    next_seq: Callable[[], int]
    put: Callable[[Any], None]
    created: Callable[[int, int, int, Any, Any, int | None], Any]
    python_tasks: dict[Any, Any]
    loops: frozenset[str]
    current_task: Callable[[], Any]
    get_name: Callable[[Any], str]
    name_of: Callable[[Any], str | None]
    note: Callable[[Any, Any, Any, Any, FrameType], None]
    construct: Callable[[Any, Any, dict[str, Any], FrameType], None]
    elsewhere: Callable[[Any, Any], Any]
    hide: Callable[[Any], None]
    fault: Callable[[BaseException], None]


def make_init(making: Making, cls: Any, original: Callable[..., None]) -> tuple[Any, object]:
    """``__init__`` of the task class *cls*, for what nobody can object to.

    A task that an application's line makes again, to run the same coroutine in
    the same loop, is noted right here: two looks into tables, and one into each
    of the objects that tell whether they fit.  All else is for *making*.

    Given beside it is what is to be kept as long as it is to note anything.
    """
    return _make_init(making, original), cls


def _make_init(making: Making, original: Callable[..., None]) -> Callable[..., None]:
    born = making.born
    sites = making.sites
    site_of = sites.get
    note = making.note
    put = making.put
    created = making.created
    current_task = making.current_task
    python_tasks = making.python_tasks
    get_name = making.get_name
    hide = making.hide
    fault = making.fault
    time_ns = time.time_ns
    next_task = making.next_number
    next_seq = making.next_seq
    makers = MAKERS
    eager = _make_eager(making, original)

    def __init__(  # noqa: N807 - stands in for the method of that name
        self: Any,
        coro: Any = _MISSING,
        *,
        loop: Any = None,
        name: Any = None,
        context: Any = None,
        eager_start: Any = False,
    ) -> None:
        if eager_start or coro is _MISSING:
            if coro is _MISSING:
                return original(self)
            return eager(self, coro, loop, name, context, eager_start)
        if context is not None:
            original(self, coro, loop=loop, name=name, context=context)
        elif name is None:
            original(self, coro, loop=loop)
        else:
            original(self, coro, loop=loop, name=name)
        try:
            # Read as it is, by exception: through `origin_of` a task's making would cost 3% more.
            if self._source_traceback is not None:
                hide(self)
            if python_tasks:
                return note(self, coro, loop, name, getframe(1))
            try:
                parent = born[id(current_task())]
                if module_at(2) in makers:
                    depth = 3
                elif module_at(1) in makers:  # uvloop's create_task() has no frame
                    depth = 2
                else:
                    return note(self, coro, loop, name, getframe(1))
                frame = getframe(depth)
                # Instructions lie inside their code, so the sum is the address of one.
                site = site_of(id(frame.f_code) + frame.f_lasti)
                if site is None:
                    frame = _beyond_makers(frame)
                    site = sites[id(frame.f_code) + frame.f_lasti]
                place = parent.site.place
                if site.runs != id(coro.cr_code) or place.loop_id != id(loop):
                    return note(self, coro, loop, name, getframe(1))
                here = site.place is place
                site = site if here else _elsewhere(making, sites, site, place, frame)
            except (LookupError, AttributeError, RuntimeError, ValueError):
                return note(self, coro, loop, name, getframe(1))
            born[id(self)] = made = created(
                next_seq(),
                next_task(),
                time_ns(),
                site,
                name if type(name) is str else get_name(self),
                parent.task,
            )
            put(made)
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a task from being made
            fault(error)
        return None

    return __init__


def _elsewhere(making: Making, sites: Table[Any], site: Site, place: Any, frame: FrameType) -> Site:
    """The same as *site*, which *frame*'s instruction has in *sites*, in *place*.

    Raises:
        LookupError: it is to be found out.
    """
    found: Site | None = making.elsewhere(site, place)
    if found is None:
        raise LookupError
    sites[id(frame.f_code) + frame.f_lasti] = found
    return found


def _beyond_makers(frame: FrameType) -> FrameType:
    """The frame that called what *frame* belongs to: ``gather`` calls ``ensure_future``."""
    while frame.f_globals["__name__"] in MAKERS:
        frame = frame.f_back  # type: ignore[assignment]  # without one, an AttributeError takes the long way
    return frame


def _make_eager(making: Making, original: Callable[..., None]) -> Callable[..., None]:
    """The same for a task that runs inside its own making, as aiohttp makes one for each request.

    Who makes it calls the class itself.  That may be a library, if no line of an
    application is behind it: if it is what the loop called.
    """
    born = making.born
    sites = making.direct_sites
    slow = making.construct
    put = making.put
    created = making.created
    current_task = making.current_task
    python_tasks = making.python_tasks
    get_name = making.get_name
    name_of = making.name_of
    hide = making.hide
    time_ns = time.time_ns
    next_task = making.next_number
    next_seq = making.next_seq
    loops = making.loops

    def eager(self: Any, coro: Any, loop: Any, name: Any, context: Any, eager_start: Any) -> None:
        made = None
        try:
            parent = born[id(current_task())]
            frame = getframe(2)
            site = sites[id(frame.f_code) + frame.f_lasti]
            place = parent.site.place
            if (
                site.runs == id(coro.cr_code)
                and place.loop_id == id(loop)
                and not python_tasks
                and (site.by_application or module_at(3) in loops)
            ):
                if site.place is not place:
                    site = _elsewhere(making, sites, site, place, frame)
                own = name if type(name) is str else self
                made = created(next_seq(), next_task(), time_ns(), site, own, parent.task)
        except (LookupError, AttributeError, RuntimeError, ValueError):
            made = None
        if made is None:
            keywords = {"loop": loop, "name": name, "context": context, "eager_start": eager_start}
            return slow(self, coro, keywords, getframe(2))
        born[id(self)] = made
        put(made)
        try:
            original(self, coro, loop=loop, name=name, context=context, eager_start=eager_start)
        except BaseException:
            born.pop(id(self), None)
            made.name = name_of(self) or "?"
            raise
        if self._source_traceback is not None:
            hide(self)
        if made.name_or_task is self:
            made.name_or_task = get_name(self)
        return None

    return eager


# -- a task returns ----------------------------------------------------------------------


class Ending(msgspec.Struct, frozen=True):
    """What the callback of ``PY_RETURN`` knows and calls.

    Attributes:
        born: The tasks that live.
        states: What cancellations did to tasks, by their `id`.
        asks: The plain requests.
        next_seq: Gives the next event's number.
        put: Takes a record.
        returned: Makes the record, which is that of the core that runs.
        remember: Takes the same.
        plain: Whether ends are told, and nobody can object.
        outside: The modules of the functions right outside a task's own frames.
        python_tasks: The tasks of the Python class that run now, by loop.
        of_c: Gives the task that runs now, as C knows it.
        current_task: The same of any task.
        slow: Takes a task and what it returned, where the end is not plain.
    """

    born: Table[Created]
    states: dict[int, Any]
    asks: Asks
    next_seq: Callable[[], int]
    put: Callable[[Any], None]
    returned: Callable[[int, int, Any, int], Any]
    remember: Callable[[Any], None]
    plain: bool
    outside: frozenset[str]
    python_tasks: dict[Any, Any]
    of_c: Callable[[], Any]
    current_task: Callable[[], Any]
    slow: Callable[[Any, object], None]


def make_returned(ending: Ending) -> Callable[[CodeType, int, object], object]:
    """The callback of ``PY_RETURN``: as hot as the making of a task, so everything is local."""
    python_tasks = ending.python_tasks
    born = ending.born
    states = ending.states
    next_seq = ending.next_seq
    remember = ending.remember
    time_ns = time.time_ns
    slow = ending.slow
    put = ending.put
    record = ending.returned
    plain = ending.plain
    outside = ending.outside
    of_c = ending.of_c
    current_task = ending.current_task

    def returned(code: CodeType, _offset: int, value: object) -> object:
        try:
            task: Any = of_c()
        except RuntimeError:  # no loop, or one of which C does not know
            task = current_task()
        key = id(task)
        made = born.get(key)
        if (
            made is not None
            and plain
            # Without a look at frames, which would have to be made for it: this is the
            # code that the task runs, and no other frame of the task is around it.
            and made.site.runs == id(code)
            and module_at(2) in outside
            and not (states and key in states)
        ):
            del born[key]
            ended = record(next_seq(), time_ns(), made, key)
            put(ended)
            remember(ended)
            return None
        if python_tasks:
            task = current_task()
        if task is not None and getattr(task.get_coro(), "cr_frame", None) is getframe(1):
            slow(task, value)
        return None

    return returned


# -- timeouts, and what is handed to a loop ------------------------------------------------


def new_notes() -> WeakIdMap[Any]:
    """Values by the objects that they are about, as long as these live; empty yet."""
    return WeakIdMap()


_NOTHING_MADE: tuple[int, float | None] = (0, None)


class Arming(msgspec.Struct, frozen=True):
    """What the probes on a class of timeouts know and call.

    Attributes:
        cls: The class.
        init: Its ``__init__`` as it was.
        original: Its ``reschedule`` as it was.
        maker: The function that makes one of so many seconds, None where there is none...
        delay: ... which are an argument of it, this one.
        notes: What is known of those that were entered.
        known: Gives by the `id` of a code what is known of it, None for nothing.
        ours: The ``owner`` of the application's codes.
        enter: Notes a timeout, called with it, the frame that entered it, the loop's
            time and the seconds given.  Gives what holds for all that the same
            instruction enters and gives the same seconds, None where nothing does.
        again: Notes that one of which there is a note has another time, called with it,
            the note and the loop's time.
        time: Gives that.
        fault: Takes an error of our own.
    """

    cls: type
    init: Callable[..., None]
    original: Callable[..., None]
    maker: Any
    delay: str
    notes: WeakIdMap[Any]
    known: Callable[[int], Any]
    ours: int
    enter: Callable[[Any, FrameType | None, float, float | None], Any]
    again: Callable[[Any, Any, float], None]
    time: Callable[[], float]
    fault: Callable[[BaseException], None]


def make_reschedule(arming: Arming) -> tuple[Callable[..., None] | None, Callable[..., None]]:
    """``__init__`` and ``reschedule`` of a class of timeouts; None where there is no need of the first.

    ``reschedule``, which ``__aenter__`` calls too, is where it is known which ``async with`` line
    entered the timeout: when it runs out that line is on no stack.  Before that it is to be
    known which seconds the program gave to what made it: the timeout itself knows only
    when it is to run out, and what is left of it at its entry is less, by much where the thread
    had to wait for the processor in between.
    """
    init, original = arming.init, arming.original
    notes, known, ours = arming.notes, arming.known, arming.ours
    enter, again, time_of, fault = arming.enter, arming.again, arming.time, arming.fault
    maker = getattr(arming.maker, "__code__", None)  # somebody may have put anything there
    delay_name = arming.delay
    entries = notes.entries
    # The timeout made last, by its `id`, and its seconds.  It is entered next, but for threads
    # that come in between: then its seconds are measured.  Each that is made comes by here, so
    # this is never about another one at the same address.
    made = _NOTHING_MADE

    def __init__(self: Any, when: float | None) -> None:  # noqa: N807 - it stands for a method
        nonlocal made
        init(self, when)
        try:
            made = _NOTHING_MADE
            frame = getframe(1)
            if frame.f_code is maker:
                delay = frame.f_locals.get(delay_name)
                if type(delay) is float or type(delay) is int:
                    made = id(self), delay
        except Exception as error:  # noqa: BLE001 - an internal error must not break a timeout
            fault(error)

    def reschedule(self: Any, when: float | None) -> None:
        key = id(self)
        entry = entries.get(key)
        note = None if entry is None or entry[0]() is not self else entry[1]
        which, given = made
        if which != key:
            given = None
        now = 0.0
        if note is not None or given is None:
            # First: uvloop's clock may move on inside the original.
            try:
                now = time_of()
            except Exception:  # noqa: BLE001 - the clock of a loop that is not made
                original(self, when)
                return
        original(self, when)
        try:
            if note is not None:
                again(self, note, now)
                return
            frame = getframe(1)
            if frame.f_code.co_name != "__aenter__":
                return
            outer = frame.f_back
            info = None if outer is None else known(id(outer.f_code))
            if outer is not None and info is not None and info.owner == ours:
                note = info.timeouts.get(outer.f_lasti)
                if given is not None and note is not None and note.seconds is given:
                    notes[self] = note
                    return
            enter(self, outer, now, given)
        except Exception as error:  # noqa: BLE001 - an internal error must not disarm a timeout
            fault(error)

    return __init__, reschedule


class Passed(msgspec.Struct, frozen=True):
    """What a probe knows and calls that passes callbacks on.

    Attributes:
        original: The method as it was.
        at: Which of the arguments is the callback.
        partial: The class of callbacks of which something may have to be noted, too, as of
            each bound ``cancel``; None for none.
        watch: Has an attribute ``hidden_signals``: whether something may have to be done
            for every callback.  None where there is no such thing.
        hide: Takes our frames out of what debug mode recorded as the origin of what the
            method returned; None where that has none.
        origin: The attribute that has it.
        fault: Takes an error of our own.
    """

    original: Callable[..., Any]
    at: int
    partial: type | None
    watch: Any
    hide: Callable[[Any], None] | None
    origin: str
    fault: Callable[[BaseException], None]

    def take_calls_of(self, probe: Callable[..., Any]) -> Callable[..., Any]:
        """*probe*, which refers to this, called for what is not plain; here for all of it."""
        return probe


# -- plain requests ----------------------------------------------------------------------


class Asked:
    """A plain request to cancel a task, in a queue and till somebody wants to know of it.

    A line of the application made it, or a timeout of asyncio's that ran out.

    Attributes:
        seq: Its place in the order of the run.
        ns: When it was made, in nanoseconds since the epoch.
        by: The number of the task that asked, and its name then; of no use of a timeout's.
        born: What is known of the task that was asked, and its name then.
        line: What is known of the asking line, see `Taking.learn_line`, or of what the timeout
            has in common with others, see `Taking.learn_expiry`.
        wait: What is known of where the task waits, see `Taking.learn_wait`; where it is in a trace,
            the two pieces of lines and the ids that `Asks.traced_by` is told, after the place.
        task: The task, None once it is gone.
        key: Its `id` while it lived.
        task_ref: A weak reference to it.
        requested_at: When it was made, as `HandlerTimer` counts; 0 where nobody asks for findings.
        delivered: Whether a CancelledError has brought it, and when.
        swallowed_at: The handler that has that error now, if it may keep it.
        timed: Whether it came to such a handler at all.
        entered: The one that it is in, since when.
        slow_at: The one that took longest, and how long.
        owner: The `id` of the timeout, None for a line.
        late: How late that was, in words, if it was.
        left: Where the timeout took it back, if it has, see `Taking.learn_leaving`.
        ended: Whether the task has ended by it, or has returned after it was taken back.
    """

    seq: int
    ns: int
    by: int
    by_name: str
    born: Created
    name: str
    line: Any
    wait: Any
    task: Any
    key: int
    task_ref: Any
    requested_at: float
    delivered: bool
    delivered_at: float
    swallowed_at: str | None
    timed: bool
    entered: str | None
    since: float
    slow_at: str | None
    seconds: float
    owner: int | None
    late: str | None
    left: Any
    ended: bool


class TakenBack:
    """A timeout took back the plain request that it had made.

    Attributes:
        seq: Its place in the order of the run.
        ns: When it did, in nanoseconds since the epoch.
        cancel: The number of the request.
        born: What is known of the task, and its name then.
        left: Where that was, as in `Asked`.
    """

    seq: int
    ns: int
    cancel: int
    born: Created
    name: str
    left: Any


class Obeyed:
    """A task ended by a plain request, or returned after one that a timeout took back.

    Attributes:
        seq: Its place in the order of the run.
        ns: When it ended, in nanoseconds since the epoch.
        cancel: The number of the request.
        born: What is known of the task, and its name then.
        wait: As in `Asked`.
        absorbed: Whether it returned.
    """

    seq: int
    ns: int
    cancel: int
    born: Created
    name: str
    wait: Any
    absorbed: bool


class Asks:
    """Requests to cancel that the core takes in by itself; this one takes in none.

    Args:
        born: The tasks that live.
        states: What cancellations did to tasks, by their `id`.
        ties: What errors deliver, by theirs.
        active: The requests whose ``cancel()`` runs, by thread.
        doubts: As long as there are any, a line that called may not be all there is to say.
        adopt: Takes a request that is to be known like any other from now on.
        released: The same where the error that delivered it is gone, and the task has not ended.
    """

    changes: int = 0
    """Counts deliveries and ends that the core has noted."""

    flying: Any = ()
    """The errors that deliver such requests."""

    def __init__(
        self,
        *,
        born: Table[Created],
        states: dict[int, Any],
        ties: dict[int, Any],
        active: dict[int, Any],
        doubts: dict[int, Any],
        adopt: Callable[[Asked], Any],
        released: Callable[[Asked], Any],
    ) -> None: ...

    def of(self, task: Any) -> Asked | None:  # noqa: ARG002 - there is none
        """The request that was made to *task*."""
        return None

    def of_error(self, error: BaseException) -> Asked | None:  # noqa: ARG002 - there is none
        """The request that *error* delivers."""
        return None

    def let_go(self, record: Asked) -> BaseException | None:  # noqa: ARG002 - there is none
        """Forget *record*; gives the error that delivers it, if there is one."""
        return None

    def pending(self) -> list[Asked]:
        """The requests whose tasks have not ended by them."""
        return []

    def end(self) -> None:
        """Take in nothing more."""

    def forget_lines(self) -> None:
        """What `Taking.learn_line` said is not so any more."""

    def traced_by(self, look: Callable[[Any], tuple[bytes, bytes, Any] | None] | None) -> None:
        """From now on *look* says in which trace a task is, None: nobody does.

        Two pieces, of the line about a request to it and of that about its end, and the ids; None
        where it is in none.
        """


class Taking(msgspec.Struct, frozen=True):
    """What a core knows and calls that takes in plain requests.

    Attributes:
        next_seq: Gives the next event's number.
        python_tasks: The tasks of the Python class that run now, by loop.
        codes: The codes of coroutines that tasks run, by their `id`.
        handlers: What `learn_handler` has said, by the address of the instruction.
        exporting: The threads that are heard by nobody.
        outside: The modules of the functions right outside a task's own frames.
        future: asyncio's class of futures.
        cancelled: ``CancelledError``.
        current_task: Gives the task that runs now, as C knows it.
        get_coro: Gives a task's coroutine.
        put: Takes a record.
        urge: Is called after a request was put.
        learn_line: Says what is known of the line that asks, called with a key by which to
            drop it, the frame and the task that asks.  None where it is not plain; else the
            place, two pieces of the line, an event that says the same and its origin.
        learn_wait: The same of where a coroutine waits: a piece of the line, and the place.
        learn_handler: Says who keeps an error, called with a code and the offset of a handler in it.
        reaches_nobody: Whether a task's end reaches nobody by means of a callback of it: a weak
            reference to that where it never does.
        track: Is told that the first error is on its way, or that none is any more.
        rules: Has ``slow_after``, the seconds that a task may take to obey.
        findings: Whether anybody asks for findings.
        fault: Takes an error of our own.
        timeout: asyncio's class of timeouts.
        notes: What is known of those that were entered.
        expire: The code that calls ``cancel()`` when one runs out, None where that is not looked
            at...
        run: ... which this calls, for a loop.
        leave: The code that calls ``uncancel()`` as its block is left, None as of *expire*.
        loop_time: Gives the time of the running loop.
        learn_expiry: As `learn_line`, of all timeouts of which there is the same note, called with a
            key by which to drop it, the frame of *expire* and the note; what is said has a
            reference to the note.
        learn_leaving: The place of *leave*, a piece of the line, and who leaves the block, called
            with a key and its frame.
    """

    next_seq: Callable[[], int]
    python_tasks: dict[Any, Any]
    codes: dict[int, Any]
    handlers: dict[int, Any]
    exporting: set[int]
    outside: frozenset[str]
    future: type[Any]
    cancelled: type[BaseException]
    current_task: Callable[[], Any]
    get_coro: Callable[[Any], Any]
    put: Callable[[Any], None]
    urge: Callable[[], None]
    learn_line: Callable[[int, FrameType, Any], tuple[Any, ...] | None]
    learn_wait: Callable[[int, Any], tuple[Any, ...] | None]
    learn_handler: Callable[[CodeType, int], Any]
    reaches_nobody: Callable[[Any], Any]
    track: Callable[[bool], None]
    rules: Any
    findings: bool
    fault: Callable[[BaseException], None]
    timeout: type[Any]
    notes: Any
    expire: CodeType | None
    run: CodeType | None
    leave: CodeType | None
    loop_time: Callable[[], float]
    learn_expiry: Callable[[int, FrameType, Any], tuple[Any, ...] | None]
    learn_leaving: Callable[[int, FrameType], tuple[Any, ...] | None]


def take_asks(asks: Asks, taking: Taking) -> None:
    """From now on *asks* is to take in what is plain."""


def make_cancel(
    asks: Asks,  # noqa: ARG001 - it takes in none
    cls: Any,  # noqa: ARG001 - and does not look at any
    original: Callable[..., bool],  # noqa: ARG001 - nor does it call this
    probe: Callable[..., bool],
    *,
    of_task: bool,  # noqa: ARG001 - whatever it is of
) -> Any:
    """What is to stand where *original* is, ``cls.cancel``: *probe*, or what calls it."""
    return probe


def make_uncancel(
    asks: Asks,  # noqa: ARG001 - it takes in none
    cls: Any,  # noqa: ARG001 - and does not look at any
    original: Callable[..., int],  # noqa: ARG001 - nor does it call this
    probe: Callable[..., int],
) -> Any:
    """The same of ``cls.uncancel``."""
    return probe


def make_callback(
    asks: Asks,  # noqa: ARG001 - it takes in none
    event: str,  # noqa: ARG001 - of which nothing would be seen here
    callback: Callable[..., object],
) -> Callable[..., object]:
    """What is to be called for *event* of `sys.monitoring`: *callback*, or what calls it."""
    return callback


# -- lines -------------------------------------------------------------------------------

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_seq_of = attrgetter("seq")


def in_order(records: list[Any], first: int) -> bool:
    """Whether the numbers of *records* are *first*, the one after it, and so on."""
    return list(map(_seq_of, records)) == list(range(first, first + len(records)))


_TELLING = re.compile(r"[=: ]|\w{16}")


def odd_names(records: list[Any]) -> list[int]:
    """Where in *records* there is more than numbers, code and plain names of tasks.

    That is every event, and what is of a task whose name has one of ``=``, ``:`` and the blank, is
    not ASCII, or has 16 letters, digits and ``_`` in a row: without that it is no secret.
    """
    found: list[int] = []
    places: list[int] = []
    names: list[Any] = []
    created, returned = Created, Returned
    for index, item in enumerate(records):
        of = type(item)
        if of is created:
            name = item.name_or_task
        elif of is returned:
            name = item.born.name_or_task
        else:
            found.append(index)
            continue
        places.append(index)
        names.append(name)
    # Nearly all are plain, which one search tells of all at once.
    if not names or (set(map(type, names)) == {str} and not _is_odd("\n".join(names))):
        return found
    odd = [
        at for at, name in zip(places, names, strict=True) if type(name) is not str or _is_odd(name)
    ]
    return sorted(found + odd)


def _is_odd(text: str) -> bool:
    """Whether *text* is no plain name, or no row of them with line ends between."""
    return not text.isascii() or _TELLING.search(text) is not None


def _line_of(event: type[Event], *given: str) -> Callable[..., Any]:
    """What encodes to the line of an *event*, made from what is *given*, in this order.

    The event itself is made with keywords, and that takes longer than to encode it.
    One of *given* may name several fields: what stands for them is one `_piece`.
    """
    fields = defaults_of(event)
    names = " ".join(given).split()
    if names != [name for name in fields if name in names]:
        raise ValueError(f"{given} are not fields of {event.__name__} in their order")
    first = [name.partition(" ")[0] for name in given]
    return msgspec.defstruct(
        event.__name__,
        [
            # What is the default is left out of a line, unless a function made the default.
            (name, Any, None)
            if fields[name] is None
            else (name, Any, msgspec.field(default_factory=object))
            for name in first
        ],
        tag_field="event",
        tag=event.__struct_config__.tag,
        omit_defaults=True,
        gc=False,
    )


def _piece(**fields: object) -> msgspec.Raw | None:
    """A `piece` without the name of the first field: as its value all of it gets into the line."""
    whole = piece(**fields)
    return msgspec.Raw(whole[whole.index(b":") + 1 :]) if whole else None


_PLACE = "run pid thread loop"
_create_line = _line_of(
    TaskCreate, "ts", "seq", _PLACE, "task", "name", "coro", "parent", "at source"
)
_done_line = _line_of(TaskDone, "ts", "seq", _PLACE, "task", "name", "coro outcome", "lifetime")

Pieces = tuple[msgspec.Raw | None, ...]


def _pieces_of(site: Site) -> Pieces:
    """What the lines about all tasks made at *site* have in common."""
    run, pid, thread, loop = site.place.fields
    coro, at, source = site.fields
    site.pieces = pieces = (
        _piece(run=run, pid=pid, thread=thread, loop=loop),
        _piece(coro=coro),
        _piece(at=at, source=source),
        _piece(coro=coro, outcome="returned"),
    )
    return pieces


def lines(records: list[Any]) -> bytes:
    """Lines of *records*, those of the two frequent ones by the shortest way there is.

    Most of such a line is the same for all tasks of its `Site`, and copied.
    """
    try:
        return _encode_lines(_lines_of(records))
    except UnicodeEncodeError:  # a lone surrogate in a name, or in somebody's own event
        return b"".join(
            encode_event(line) if isinstance(line, Event) else _encode(line) + b"\n"
            for line in _lines_of(records, harmless=True)
        )


def _lines_of(records: list[Any], *, harmless: bool = False) -> list[Any]:
    found: list[Any] = []
    append = found.append
    create, done, created, returned, tails = _create_line, _done_line, Created, Returned, TAILS
    site: Site | None = None
    place = coro = source = outcome = None
    began = -MILLISECOND << 64  # the millisecond, and what its timestamps have in common
    prefix = ""
    made: Created
    for item in records:
        of = type(item)
        if of is created:
            made = item
        elif of is returned:
            made = item.born
        else:
            append(item)
            continue
        if made.site is not site:
            site = made.site
            place, coro, source, outcome = site.pieces or _pieces_of(site)
        ns = item.ns
        into = ns - began
        if not 0 <= into < MILLISECOND:
            began, prefix = ns - ns % MILLISECOND, timestamp(ns)[:23]
            into = ns - began
        ts = prefix + tails[into // 1000]
        name = made.name_or_task
        if harmless or type(name) is not str or len(name) > LIMIT:
            name = clean(made.name)
        if of is created:
            append(create(ts, item.seq, place, made.task, name, coro, made.parent, source))
        else:
            lived = ns - made.ns
            lived = (lived // 1000 if lived > 0 else 0) / 1e6
            append(done(ts, item.seq, place, made.task, name, outcome, lived))
    return found
