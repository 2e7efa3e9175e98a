"""What is known right now: of tasks, of requests to cancel, of who listens.

The probes (`aioaudit.probes`) see what happens and call in here; nothing here
touches CPython.  Tasks are known by `id` in tables of our own: an attribute on
the task would cost 344 bytes each on 3.13, and would show.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
import weakref
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from types import CodeType, CoroutineType, FrameType
from typing import Any, cast

import msgspec

from aioaudit import bus
from aioaudit.causes.classify import find_cause
from aioaudit.chain.links import Link
from aioaudit.cpython import tasks
from aioaudit.events import (
    NAMES,
    Event,
    Evidence,
    FutureCancel,
    Outcome,
    TaskCancel,
    TaskDone,
    name_of,
)
from aioaudit.faults import AT_LIMITS, finalizing
from aioaudit.findings.rules import Rules
from aioaudit.identity import Run, timestamp
from aioaudit.pipeline import EXPORTING
from aioaudit.place import E, Place
from aioaudit.recognisers import loops, registry, stdlib
from aioaudit.recognisers.call import Call
from aioaudit.stack.code import APPLICATION, CodeInfo, Codes
from aioaudit.stack.frames import code_of, error_site, handled_by, suspended_at, variables
from aioaudit.stack.handles import is_entered
from aioaudit.state.awaiters import waiters_of
from aioaudit.state.cause import Cause
from aioaudit.state.requests import CancelState, Request, Tie
from aioaudit.state.verdict import arrived, lose_propagated, take_back, verdict
from aioaudit.text import clean, describe, message_of, say
from aioaudit.threads import ThreadLocal, get_ident, main_ident
from aioaudit.weak import WeakIdMap, dropping, swept
from aioaudit.wire import Created, Item, Kind, KindKey, Returned
from aioaudit.wire import lifetime as lifetime_of

Put = Callable[[Item], None]

_RECENT = 4096

_SWEEP = 1000
"""So many tasks, and twice those that were left the last time, are looked through for lost ones."""

_SETTLED = 1_000_000_000
"""Nanoseconds after which a task has been made, whatever its maker is still doing."""

_SCOPES = "anyio._backends._asyncio:CancelScope."
"""How ``module:qualname`` begins for what anyio's scopes do."""

_DEEPEST = 500
"""Maximum number of requests in a row, each the cause of the next, that are kept."""

_OWN_ONLY = frozenset(
    {
        "asyncio.timeouts:Timeout.__aexit__",
        "asyncio.taskgroups:TaskGroup.__aexit__",
        "asyncio.taskgroups:TaskGroup._aexit",
    }
)
"""What calls ``uncancel()`` for a request of its own, or to give back what it took at once."""

_MOST_PLACES = 20
"""So many places have lines ready of requests that one instruction makes."""


@dataclass(slots=True, frozen=True)
class Note:
    """Where a bound ``cancel`` was given to a loop, and by which thread if not the loop's.

    ``cause`` is there where asyncio itself gave it, for a reason that it was asked for then;
    ``direct`` says that the loop was given the method itself, and not something around it;
    ``context`` refers to what a signal's callback runs in, where the loop shows that.
    """

    at: str | None
    source: str | None
    thread: str | None
    how: str
    signal: int | None = None
    due: float | None = None
    cause: Cause | None = None
    direct: bool = False
    context: Callable[[], Context | None] | None = None

    @property
    def runs(self) -> bool:
        """Whether the loop runs the signal's callback just now, as far as it shows."""
        return self.context is not None and is_entered(self.context())


class Entered(msgspec.Struct, gc=False, eq=False):
    """Where a timeout was entered, and when it was armed last (the loop's time).

    ``by`` is the library's code that entered it, None where the application's did.
    """

    at: str | None
    source: str | None
    armed: float
    by: CodeInfo | None


class _KeyedRef(weakref.ref[Any]):
    """A weak reference that knows the key of the entry that is to go with its object."""

    __slots__ = ("key",)

    key: int


def _keyed(target: Any, callback: Callable[[_KeyedRef], None], key: int) -> _KeyedRef:
    ref = _KeyedRef(target, callback)
    ref.key = key
    return ref


_ref_of: Callable[[CancelState], weakref.ref[Any]] = attrgetter("ref")

_Scene = tuple[Place, dict[KindKey, Kind]]
"""A place, and the kinds of tasks that were made there."""


class _Thread:
    """What is known of a thread: the place it was in last, and that of each loop it had to do with."""

    __slots__ = ("by_loop", "last")

    def __init__(self) -> None:
        self.last: _Scene | None = None
        self.by_loop: WeakIdMap[_Scene] = WeakIdMap()


class _Here(ThreadLocal):
    """What is known of the thread that asks, and goes with it: threads' numbers are used again.

    Without an ``__init__``: the collector may run in there, and lead back here, where
    the attributes that it is about to set are still missing.
    """

    thread: _Thread | None = None


_Failed = tuple[Callable[[], Any], int, int, tuple[Link, Request | None]]
"""A task, the `id` of its error, when that was asked, and what the answer was."""


class Recorder:
    """The state of auditing in this process."""

    urges: tuple[Callable[[], None], ...] = ()
    """What is called when a request to cancel was told, which must not stay behind."""

    deliveries_seen = sys.version_info >= (3, 12)
    """Whether it is seen when a CancelledError is delivered: not without `sys.monitoring`."""

    def __init__(self, run: Run, wanted: frozenset[str]) -> None:  # noqa: PLR0915 - it has as many tables as it has
        self.run = run
        self.wanted = wanted
        self.puts: tuple[Put, ...] = ()
        self.skips: tuple[Callable[[int], None], ...] = ()
        self.openers: tuple[Callable[[], None], ...] = ()
        self.heard: frozenset[str] = frozenset()
        self.creations = False
        self.deaf = False
        self.main_thread = main_ident()
        self.codes = Codes(
            dict(stdlib.CALL_SITES), set(stdlib.BOUNDARIES | loops.BOUNDARIES), registry.find
        )
        self.probe_codes: frozenset[CodeType | int] = frozenset()
        self.born: dict[int, Created] = {}
        self.sites: dict[int, Kind] = {}
        """By the address of an instruction of the application: what it made last."""
        self.direct_sites: dict[int, Kind] = {}
        """The same of instructions, also a library's, that call the class of tasks itself."""
        self.recent: deque[Returned] = deque(maxlen=_RECENT)
        self.states: dict[int, CancelState] = {}
        self._pop_state = self.states.pop
        self._states_room = 0
        self.failures: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.ties: dict[int, Tie] = {}
        self.active: dict[int, list[Request]] = {}
        self.notes: WeakIdMap[Note] = WeakIdMap()
        self.remembered: WeakIdMap[Cause] = WeakIdMap()
        self.timeouts: WeakIdMap[Entered] = WeakIdMap()
        self.signal_callbacks: WeakIdMap[dict[int, tuple[CodeType, dict[int, Note]]]] = WeakIdMap()
        self.next_task = itertools.count(1).__next__
        self.watch: Callable[[Any], None] = lambda _task: None
        self.under_way: Callable[[bool], None] = lambda _on: None
        self.look_for_libraries: Callable[[], None] = lambda: None
        self.catch_up: Callable[[Any], None] = lambda _loop: None
        self._loops: WeakIdMap[int] = WeakIdMap()
        self.hidden_signals = False
        """Whether a loop has a signal's callback of which it does not show when it runs."""
        self.runs_in: WeakIdMap[int] = WeakIdMap()
        """The number of the thread that a loop was started in last."""
        self._next_loop = itertools.count(1).__next__
        self._here = _Here()
        self._sweep_at = _SWEEP
        self._last_failed: _Failed | None = None
        self._epoch = 0
        """Counts ends, deliveries and what is taken back."""
        self.rules = Rules(self)
        ties = self.ties

        # One function for all: a closure for each error would cost as much as its tie.
        def forget_tie(ref: _KeyedRef) -> None:
            entry = ties.get(ref.key)
            if entry is not None and entry.ref is ref:
                del ties[ref.key]
                # Once deaf, the interpreter may be going down: no more can be relied on.
                if not ties and not self.deaf:
                    self.under_way(False)
                state = entry.state
                if state is not None and not self.deaf:
                    state.errors -= 1
                    if entry.request is not None and not state.ended:
                        self.rules.gone(state, entry.request)

        self._forget_tie = forget_tie

    def forked(self, run: Run) -> None:
        """This is a forked child: another run, and none of the parent's threads."""
        self.run = run
        self.active.clear()
        # What was made before says that it happened in the parent.
        self._here = _Here()
        self.sites.clear()
        self.direct_sites.clear()
        self.main_thread = get_ident()

    # -- where and when ---------------------------------------------------------

    def running_loop(self) -> Any:
        """The loop that runs in this thread, None where none does."""
        return asyncio._get_running_loop()

    def current_task(self) -> Any:
        """The task that runs in this thread, None where none does."""
        return tasks.current_task()

    def place_muted(self) -> bool:
        """Whether nothing is heard: in an exporter's own thread, or because all is over.

        Somebody may hold a probe as a bound method when it is out of place already.
        """
        return self.deaf or (bool(EXPORTING) and get_ident() in EXPORTING)

    def thread_name(self) -> str:
        """This thread's name, without giving a foreign thread a `Thread` object."""
        ident = get_ident()
        if ident == self.main_thread:  # gevent and eventlet enter it under another number
            return clean(threading.main_thread().name)
        thread = threading._active.get(ident)  # type: ignore[attr-defined]  # current_thread() would register a dummy
        return f"thread-{ident}" if thread is None else clean(thread.name)

    def loop_number(self, loop: Any) -> int | None:
        """The small number of *loop*."""
        if loop is None:
            return None
        number = self._loops.get(loop)
        if number is None:
            try:
                self._loops[loop] = number = self._next_loop()
            except TypeError:  # a loop that takes no weak reference
                return None
        return number

    def place(self, loop: Any = None) -> Place:
        """The place of an event raised here and now; *loop* where none runs in this thread."""
        running = self.running_loop()
        if running is not None:
            loop = running
        here = self._here.thread
        if here is None:
            self._here.thread = here = _Thread()
        known = here.last
        if known is not None and known[0].loop_ref() is loop:
            return known[0]
        found = None if loop is None else here.by_loop.get(loop)
        if found is None:
            number = self.loop_number(loop)
            place = Place(
                run=self.run,
                thread=self.thread_name(),
                loop=number,
                loop_id=id(loop),
                loop_ref=_nothing if loop is None else _reference(loop),
                muted=self.place_muted(),
            )
            found = place, {}
            if number is not None:
                here.by_loop[loop] = found
        here.last = found
        return found[0]

    @property
    def kinds(self) -> dict[KindKey, Kind]:
        """The kinds of tasks made in the place that `place` gave last in this thread.

        That may be another than its caller thinks: the collector may have asked in between.
        """
        here = self._here.thread
        return {} if here is None or here.last is None else here.last[1]

    def foreign_thread(self, victim: Any) -> str | None:
        """This thread's name if *victim*'s loop runs in another one just now."""
        try:
            loop = victim.get_loop()
            if self.running_loop() is loop or not loop.is_running():
                return None
            # asyncio's loops say it, others were seen to start (the child of a process that
            # was forked while the loop ran has the thread's number, too); trio-asyncio's
            # run in whatever thread trio does, and of them it is not known.
            ident = getattr(loop, "_thread_id", None) or self.runs_in.get(loop)
            if ident is None or ident == get_ident():
                return None
        except Exception:  # noqa: BLE001 - a foreign future or loop may answer with anything
            return None
        return self.thread_name()

    # -- what is told ------------------------------------------------------------

    @property
    def listening(self) -> bool:
        """Whether anybody hears an event at all."""
        return bool(self.puts) or bool(bus.hooks())

    def listened(self) -> None:
        """Who listens has changed: `heard` is what somebody hears from now on."""
        self.heard = self.wanted if self.listening and not self.deaf else frozenset()

    def wants(self, name: str) -> bool:
        """Whether anybody hears the event *name*."""
        return name in self.heard

    def seq(self, name: str) -> int:
        """The next number for an event *name*; 0 for one that nobody hears."""
        return self.run.next_seq() if name in self.heard else 0

    def base(self, name: str, place: Place) -> dict[str, Any]:
        """The fields that every event has."""
        return {
            "ts": timestamp(time.time_ns()),
            "seq": self.seq(name),
            "run": self.run.id,
            "pid": self.run.pid,
            "thread": place.thread,
            "loop": place.loop,
        }

    def begin(self, kind: type[E], place: Place) -> E:
        """A new event of *kind*: when and where it happens; what happens is still to be filled in."""
        event = place.blank(kind)
        event.ts = timestamp(time.time_ns())
        event.seq = self.run.next_seq() if NAMES[kind] in self.heard else 0
        return event

    def ask(self, event: Event) -> None:
        """Let the hooks hear *event*; what one raises travels on."""
        if event.seq and bus.hooks():
            try:
                bus.audit(name_of(event), event)
            except BaseException:
                for skip in self.skips:
                    skip(event.seq)
                raise

    def tell(self, event: Event) -> None:
        """Give *event* to the exporters."""
        if event.seq:
            for put in self.puts:
                put(event)
            if type(event) is TaskCancel:
                for urge in self.urges:
                    urge()

    def announce(self, event: Event) -> None:
        """Tell of something that can no longer be prevented."""
        try:
            self.ask(event)
        except (KeyboardInterrupt, SystemExit):
            self.tell(event)
            raise  # Ctrl-C, or a signal's handler, while a hook ran: meant for the program
        except BaseException as error:  # noqa: BLE001 - nothing is left to abort, see the bus
            unraisable(error)
        self.tell(event)

    def fault(self, error: BaseException) -> None:
        """A fault of our own: counted, said once a kind, and the program goes on.

        Whatever state the process is in, nothing is raised and nothing imported: the
        interpreter may be going down.  What ends the log tells the faults, too.
        """
        try:
            kind = self.run.faults.add(error)
            if kind is None or finalizing():
                return
            if isinstance(error, AT_LIMITS):
                say(f"{kind}: the program is at its limits, the log may lack events")
            else:
                place = kind.partition(" at ")[2]
                say(
                    f"internal error, please report it: {describe(error)} at {place or kind}; "
                    f"the program is not affected, the log may lack events"
                )
        except Exception:  # noqa: BLE001, S110 - out of stack or of memory, or at the very end
            pass

    # -- tasks --------------------------------------------------------------------

    def coro_of(self, task: Any) -> str:
        """``module:qualname`` of the coroutine that *task* runs."""
        coro = task.get_coro()
        return self.coro_name(coro)

    def coro_name(self, coro: Any) -> str:
        """``module:qualname`` of *coro*, as far as it can be known."""
        frame = getattr(coro, "cr_frame", None)
        if frame is not None:
            return self.codes.of(frame).source
        code = getattr(coro, "cr_code", None)
        if code is not None:
            known = self.codes.known.get(id(code))
            if known is not None:
                return known.source
            module = "?" if type(coro) is CoroutineType else coro.__module__
            return clean(f"{module}:{code.co_qualname}")
        kind = type(coro)
        name = getattr(coro, "__qualname__", None) or kind.__qualname__
        return clean(f"{kind.__module__}:{name}")

    def name_of_task(self, task: Any) -> str:
        """The task's name now."""
        try:
            name = task.get_name()
            return clean(name if type(name) is str else str(name))
        except Exception:  # noqa: BLE001 - a subclass may answer with anything
            return "?"

    def state(self, task: Any) -> CancelState:
        """What cancellations did to *task*; made at the first question."""
        key = id(task)
        state = self.states.get(key)
        if state is not None and state.ref() is task:
            return state
        born = self.born.get(key)
        preexisting = False
        if born is not None:
            number, coro = born.task, born.coro
        else:
            number, coro = self._ended_number(key)
            if number == 0:
                number = self.next_task()
                preexisting = self.creations
                coro = "?" if task.done() else self.coro_of(task)

        if len(self.states) >= self._states_room:
            self._states_room = swept(self.states, _ref_of)
        # `dropping`, written out: a storm of cancellations comes by here.
        ref = weakref.ref(task, partial(self._pop_state, key))
        state = CancelState(ref, number, coro, preexisting)
        self.states[key] = state
        return state

    def _ended_number(self, key: int) -> tuple[int, str]:
        """Number and coroutine of a task that returned lately and is asked about again."""
        for returned in reversed(list(self.recent)):  # tasks of other threads end meanwhile
            if returned.key == key:
                return returned.born.task, returned.born.coro
        return 0, ""

    def last_words(self) -> None:
        """The process ends: hear what its loops have not told, where they run no more."""
        loops = [loop for loop, _ in self._loops.items()]
        for loop in loops:
            try:
                if not loop.is_running():
                    self.catch_up(loop)
            except Exception as error:  # noqa: BLE001 - a foreign loop may answer with anything
                self.fault(error)

    def alive(self) -> int:
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
        living = tasks.living(loop for loop, _ in self._loops.items()) if old else None
        if living is None:
            return
        for key, made in old:
            # What is not run by Python code may be done, and tells of it a moment later.
            if key not in living and made.kind.runs is not None and born.get(key) is made:
                del born[key]

    def knows(self, task: Any) -> bool:
        """Whether *task* has been heard of."""
        state = self.states.get(id(task))
        return id(task) in self.born or (state is not None and state.ref() is task)

    def number(self, task: Any) -> int:
        """The task's number."""
        born = self.born.get(id(task))
        return born.task if born is not None else self.state(task).task

    def root_frame(self, task: Any) -> FrameType | None:
        """The outermost frame of what *task* runs."""
        if task is None:
            return None
        try:
            return cast("FrameType | None", task.get_coro().cr_frame)  # only compared with others
        except AttributeError:
            return None

    # -- requests -----------------------------------------------------------------

    def tie_of(self, error: BaseException) -> Tie | None:
        """What ties the CancelledError *error* to a request, None where nothing does."""
        tie = self.ties.get(id(error))
        return tie if tie is not None and tie.ref() is error else None

    def request_of(self, error: BaseException, task: Any = None) -> Request | None:
        """The request that the CancelledError *error* stands for now, None where unknown.

        *task* is the one that handles it: before 3.12 nothing ties the two, and
        the request that was on its way to that task is the answer.
        """
        tie = self.tie_of(error)
        told = None if tie is None else tie.now
        if self.deliveries_seen or task is None or not isinstance(error, CancelledError):
            return told
        if not _is_handled_here(error):
            return told  # never raised, or kept by whom it was delivered to
        state = self.states.get(id(task))
        if state is None or state.ref() is not task:
            return told
        if tie is not None and tie.state is state:
            return told
        request = arrived(state, told)
        if request is None:
            return None
        self.tie(error, request, state)
        self.ties[id(error)].concluded = state.concluded
        return request.now

    def tie(
        self,
        error: BaseException,
        request: Request | None,
        state: CancelState | None,
        beneath: Request | None = None,
    ) -> None:
        """Remember that *error* delivers *request*, as long as *error* lives."""
        self._epoch += 1
        key = id(error)
        known = self.ties.get(key)
        if known is not None and known.ref() is error:
            if known.state is not None:
                known.state.errors -= 1
            known.request, known.state, known.beneath = request, state, beneath
            known.timeout, known.concluded = None, False
            if state is not None:
                state.errors += 1
            return
        ties = self.ties
        try:
            ref = _keyed(error, self._forget_tie, key)
        except TypeError:
            return
        ties[key] = Tie(ref, request, state, beneath)
        if state is not None:
            state.errors += 1
        if len(ties) == 1:
            self.under_way(True)

    def obeyed_by(self, task: Any) -> Request | None:
        """The request that ended the task or future *task*."""
        state = self.states.get(id(task))
        if state is None or state.ref() is not task:
            return None
        return state.answer or state.inherited

    def made_by(self, owner: Any, task: Any) -> Request | None:
        """The last request that the object *owner* made to *task*."""
        state = self.states.get(id(task))
        if state is None or state.ref() is not task:
            return None
        return next((each for each in reversed(state.requests) if each.owner == id(owner)), None)

    def state_of(self, request: Request) -> CancelState | None:
        """The state of the task that *request* was made to, if that is still known."""
        state = self.states.get(request.victim)
        event = request.event
        if state is None or not isinstance(event, TaskCancel) or state.task != event.task:
            return None
        return state

    def first_open(self, task: Any) -> Request | None:
        """The request that *task* has not felt yet."""
        state = self.states.get(id(task))
        return None if state is None or state.ref() is not task else state.first_open()

    def failed(self, task: Any, error: BaseException) -> tuple[Link, Request | None]:
        """The link that says that *task* failed with *error*, and the request that led to it.

        A group asks once for each task that it cancels.  The error may be a group of
        hundreds and have a ``__str__`` of the program's, so the last answer is kept:
        while nothing ends, is delivered or taken back it is the same.
        """
        last = self._last_failed
        if last is not None:
            ref, key, epoch, answer = last
            if key == id(error) and epoch == self._epoch and ref() is task:
                return answer
        answer = self._failed(task, error)
        self._last_failed = _reference(task), id(error), self._epoch, answer
        return answer

    def _failed(self, task: Any, error: BaseException) -> tuple[Link, Request | None]:
        at, source = error_site(self.codes, error)
        request = self._request_behind(task, error)
        detail = None
        if request is None:
            first = error
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            other = None if first is error else self._raiser(first)
            if other is not None and other is not task:
                # A group that had nobody left to cancel: no request tells whose error it is.
                link, request = self.failed(other, first)
                how = f"handed on by task {self.name_of_task(task)} with {describe(error)}"
                detail = how if link.detail is None else f"{link.detail}; {how}"
                return msgspec.structs.replace(link, detail=clean(detail)), request
            if first is not error:
                inner_at, _ = error_site(self.codes, first)
                detail = clean(f"{describe(first)} at {inner_at}" if inner_at else describe(first))
            else:
                detail = self._first_raised(task, error)
        return (
            Link(
                what="failed",
                task=self.number(task),
                name=self.name_of_task(task),
                error=describe(error),
                at=at,
                source=source,
                detail=detail,
            ),
            request,
        )

    def _first_raised(self, task: Any, error: BaseException) -> str | None:
        """Which other task raised *error* first, if *task* only passed it on."""
        other = self._raiser(error)
        if other is None or other is task:
            return None
        return f"first raised in task {self.name_of_task(other)} ({self.failures[id(error)][1]})"

    def _raiser(self, error: BaseException) -> Any:
        """The task that ended with *error* first, None where it is not known or gone."""
        entry = self.failures.get(id(error))
        other = None if entry is None else entry[0]()
        return other if getattr(other, "_exception", None) is error else None

    def _request_behind(self, task: Any, error: BaseException) -> Request | None:
        """The request on *task* whose consequence *error* is: a timeout's, a group's."""
        state = self.states.get(id(task))
        if state is not None and state.ref() is not task:
            state = None
        if isinstance(error, BaseExceptionGroup):
            return None if state is None else self._group_behind(state, error)
        step: BaseException | None = error
        for _ in range(20):
            if step is None:
                return None
            if isinstance(step, CancelledError):
                return self._timeout_behind(state, step)
            step = step.__cause__ or (step.__context__ if isinstance(step, TimeoutError) else None)
        return None

    def _timeout_behind(self, state: CancelState | None, error: BaseException) -> Request | None:
        tie = self.tie_of(error)
        if tie is not None:
            request = tie.timeout or tie.now
            if request is not None and request.handed:
                return None  # the scope around has kept the error, for a reason of its own
            while request is not None and request.event.reason == "awaiter":
                request = request.cause
            return request if request is not None and request.timed_out else None
        if state is None or self.deliveries_seen:
            return None
        for request in reversed(state.requests):
            if request.stands and not request.taken_back:
                return None  # it was asked since
            if request.timed_out and request.absorbed:
                return None if request.handed else request
        inherited = state.inherited
        if inherited is not None and inherited.timed_out:
            return inherited
        return None

    def _group_behind(self, state: CancelState, error: BaseExceptionGroup[Any]) -> Request | None:
        leaves: list[BaseException] = []
        stack: list[BaseException] = [error]
        while stack and len(leaves) < 100:
            each = stack.pop()
            leaves.append(each)
            if isinstance(each, BaseExceptionGroup):
                stack.extend(each.exceptions)
        told = {(describe(leaf), error_site(self.codes, leaf)[0]) for leaf in leaves}
        for request in reversed(state.requests):
            origin = request.origin
            if origin is not None and (origin.error, origin.at) in told:
                return request
        return None

    # -- futures that end as others do ---------------------------------------------------

    def asked(self, victim: Any, frame: FrameType | None, message: object = None) -> Cause:
        """Why *victim* is being cancelled from *frame*, by whom: to be told once it is."""
        nested = self._nested()
        current = self.current_task()
        call = Call(self, victim, current, nested, sys.exception(), message=message)
        cause = find_cause(call, frame)
        request = cause.request
        if request is not None and request is nested and isinstance(request.event, TaskCancel):
            cause.by = request.event.task, request.event.name
        elif cause.by is None and current is not None and not cause.bystander:
            cause.by = self.number(current), self.name_of_task(current)
        cause.bystander = cause.by is None
        return cause

    def remember(self, future: Any, cause: Cause) -> None:
        """*future* is cancelled because of *cause*; another one will follow it."""
        self.remembered[future] = cause

    def cause_of(self, future: Any) -> Cause | None:
        """What was remembered of *future*."""
        return self.remembered.get(future)

    # -- notes ------------------------------------------------------------------------

    def note(self, callback: Any, note: Note) -> None:
        """Remember who gave *callback*, a bound ``cancel``, to a loop, as long as it lives."""
        self.notes[callback] = note

    def noted(self, callback: Any, victim: Any) -> tuple[Note | None, Evidence]:
        """The note of *callback*; without it (uvloop shows none) that of the victim, if only one."""
        if callback is not None:
            return self.notes.get(callback), "observed"
        of_victim = [(each, note) for each, note in self.notes.items() if each.__self__ is victim]
        signalled = [note for _, note in of_victim if note.runs]
        if signalled:
            return signalled[0], "observed"
        now = self.running_loop()
        # rloop's handles do not hold once more what they call: of its timers their time says it.
        by_time = type(now).__module__.startswith("rloop.")
        found = [
            note
            for bound, note in of_victim
            if note.context is None
            and not (
                note.direct
                and sys.getrefcount(bound) <= _WAITING
                and not (by_time and note.due is not None)
            )
            and (note.due is None or now is None or now.time() >= note.due - 0.002)
        ]
        return (found[0], "inferred") if len(found) == 1 else (None, "observed")

    def note_signal(self, loop: Any, code: CodeType | None, number: int, note: Note) -> None:
        """Remember that *loop* runs *code* for the signal *number*, None for what has no own."""
        callbacks = self.signal_callbacks.get(loop)
        if callbacks is None:
            self.signal_callbacks[loop] = callbacks = {}
        for key, (_, notes) in list(callbacks.items()):
            # A signal has one callback: what it had before is no longer its.
            notes.pop(number, None)
            if not notes:
                callbacks.pop(key, None)
        if code is not None:
            self.hidden_signals |= note.context is None
            callbacks.setdefault(id(code), (code, {}))[1][number] = note

    def signal_callback(
        self, outermost: CodeType | None
    ) -> tuple[int | None, Note, Evidence] | None:
        """The signal for which the loop runs the callback whose code is *outermost*.

        The context that is current tells it.  rloop does not show that of its handles: there
        it is inferred from the function, if that has no other use that is known, and
        which signal it was stays open if it serves several.
        """
        loop = self.running_loop()
        if outermost is None:
            return None
        callbacks = self.signal_callbacks.get(loop)
        entry = None if callbacks is None else callbacks.get(id(outermost))
        if entry is None or entry[0] is not outermost:
            return None
        notes = entry[1]
        for number, note in notes.items():
            if note.runs:
                return number, note, "observed"
        hidden = {number: note for number, note in notes.items() if note.context is None}
        if not hidden:
            return None
        number, note = next(iter(hidden.items()))
        return (number if len(hidden) == 1 else None), note, "inferred"

    def used_otherwise(self, loop: Any, callback: Any) -> None:
        """*loop* is given *callback* for something else: it is no sign of a signal any more.

        Only of loops that do not show which callback they run for a signal.
        """
        callbacks = self.signal_callbacks.get(loop)
        code = code_of(callback) if callbacks else None
        if callbacks and code is not None and id(code) in callbacks:
            notes = callbacks[id(code)][1]
            for number, note in list(notes.items()):
                if note.context is None:
                    del notes[number]
            if not notes:
                del callbacks[id(code)]

    # -- the one place where a request is made -----------------------------------------

    def request(self, task: Any, message: Any, frame: FrameType | None) -> Request | None:
        """Find out why ``task.cancel(message)`` is called from *frame*.

        None means that this is no request at all; one that was made before, and
        is asked for again, comes with ``times`` above 1.
        """
        nested = self._nested()
        current = self.current_task()
        call = Call(self, task, current, nested, sys.exception(), message=message)
        cause = find_cause(call, frame)
        accepted = not task.done()
        state = self.state(task)
        if cause.again:
            self._again(state)
            return None
        if state.requests:
            repeated = state.repeated(cause.once, nested if cause.request is nested else None)
            if repeated is not None:
                if not self.deliveries_seen:
                    self._settle(task, state)
                repeated.repeat()
                return repeated
        if not accepted and nested is not None and cause.request is nested and nested.times > 1:
            return None  # a scope delivers again to a gather: it was too late for this child before
        place = self.place(None if current is not None else self._loop_of(task))
        event = self._begin_request(place, cause, call.lines)
        self._tell_asker(event, cause, current, nested)
        if not self.deliveries_seen:
            self._settle(task, state)
        earlier = state.first_open() if state.requests else None
        event.task = state.task
        event.name = self.name_of_task(task)
        event.coro = state.coro
        event.accepted = accepted
        if state.preexisting:
            event.preexisting = True
        if cause.taken_back:
            event.taken_back = True
        if accepted and task is not current:
            event.suspended_at = suspended_at(self.codes, task.get_coro())
        if accepted and earlier is not None:
            event.behind = earlier.event.seq or None
        if message is not None:
            event.message = message_of(message)
        request = _request(event, cause)
        if call.remembered and current is not None:
            self.state(current).inherited = request
        return request

    def accept(self, task: Any, request: Request) -> None:
        """*request* goes ahead: from now on the task's end may be its doing."""
        if isinstance(request.event, TaskCancel) and request.event.accepted:
            state = self.state(task)
            if request.times == 1:
                state.add(request)
                if id(task) not in self.born:  # else its end is seen already
                    self.watch(task)
            if not self.deliveries_seen:
                waiter = getattr(task, "_fut_waiter", None)
                request.waited = None if waiter is None else _reference(waiter)
                if request.times == 1:
                    # Those that await it already wake up before we hear of its end.
                    self.pass_on(waiters_of(task), request)
        if "finding" in self.heard:
            self.rules.asked(task, request)

    def _settle(self, task: Any, state: CancelState) -> None:
        """Before 3.12 no delivery is seen: tell from what the task waits for now."""
        first = state.first_open()
        if first is None or getattr(task, "_must_cancel", False):
            return
        waiter = getattr(task, "_fut_waiter", None)
        if waiter is None or first.waited is None or first.waited() is not waiter:
            state.deliver()

    def _again(self, state: CancelState) -> None:
        """The group took somebody's request with ``uncancel()`` and gives it back."""
        for request in state.requests:
            if request.stands:
                request.delivered = False

    def _loop_of(self, future: Any) -> Any:
        try:
            return future.get_loop()
        except Exception:  # noqa: BLE001 - a foreign future may answer with anything
            return None

    def _nested(self) -> Request | None:
        stack = self.active.get(get_ident())
        return stack[-1] if stack else None

    def _fill(
        self,
        event: TaskCancel | FutureCancel,
        cause: Cause,
        current: Any,
        nested: Request | None,
    ) -> None:
        """Put what *cause* says into *event*."""
        _tell_cause(event, cause)
        self._tell_asker(event, cause, current, nested)

    def _begin_request(
        self, place: Place, cause: Cause, lines: dict[Place, TaskCancel] | None
    ) -> TaskCancel:
        """A new event of a request that says why; *lines* has those that say the same, by place."""
        if lines is None:
            event = self.begin(TaskCancel, place)
            _tell_cause(event, cause)
            return event
        known = lines.get(place)
        if known is None:
            for each in [each for each in list(lines) if each.loop_ref() is None]:
                lines.pop(each, None)  # its loop is gone; where there was none, it is made anew
            if len(lines) > _MOST_PLACES:
                lines.clear()
            known = lines[place] = place.blank(TaskCancel)
            _tell_cause(known, cause)
        event = cast(TaskCancel, cast(Any, known).__copy__())
        event.ts = timestamp(time.time_ns())
        event.seq = self.run.next_seq() if "task.cancel" in self.heard else 0
        return event

    def _tell_asker(
        self,
        event: TaskCancel | FutureCancel,
        cause: Cause,
        current: Any,
        nested: Request | None,
    ) -> None:
        """Put who asked, and because of which request, into *event*."""
        request = cause.request
        origin = cause.origin
        if cause.reason == "thread" and cause.thread is not None:
            event.by_name = cause.thread
            if cause.by is not None:
                event.by = cause.by[0]
            elif current is not None and not cause.bystander:
                event.by = self.number(current)
        elif request is not None and request is nested and isinstance(request.event, TaskCancel):
            event.by, event.by_name = request.event.task, request.event.name
        elif cause.by is not None:
            event.by, event.by_name = cause.by
        elif current is not None and not cause.bystander:
            event.by = self.number(current)
            event.by_name = self.name_of_task(current)
        elif origin is not None and origin.by_name is not None:
            event.by_name = origin.by_name
        if request is not None:
            logged = request.logged()
            if logged is not None:
                event.cause = logged.event.seq
            elif origin is None:
                origin = root_link(request)
                if origin is not None:
                    _tell_origin(event, origin)
        if origin is not None and origin.by_name is None and origin.what == "called":
            event.origin_by_name = event.by_name

    # -- futures --------------------------------------------------------------------------

    def future_request(
        self, future: Any, message: Any, frame: FrameType | None, waiters: list[Any]
    ) -> Request:
        """Find out why ``cancel()`` is called on a plain future that *waiters* await."""
        nested = self._nested()
        current = self.current_task()
        call = Call(self, future, current, nested, sys.exception(), message=message)
        cause = find_cause(call, frame)
        event = self.begin(FutureCancel, self.place(self._loop_of(future)))
        self._fill(event, cause, current, nested)
        event.waiters = [self.number(task) for task in waiters]
        event.waiter_names = [self.name_of_task(task) for task in waiters]
        event.message = message_of(message)
        return _made(event, cause)

    def pass_on(self, waiters: Iterable[Any], request: Request | None) -> None:
        """What *waiters* await was cancelled by *request*: it will reach them."""
        if request is None:
            return
        for task in waiters:
            state = self.state(task)
            if not self.deliveries_seen:
                self._settle(task, state)
            state.inherited = request
            state.reaching = True
            if request.heirs is None:
                request.heirs = []
            request.heirs.append(state)
            self.watch(task)

    # -- ends -----------------------------------------------------------------------------

    def ended(
        self,
        task: Any,
        outcome: Outcome,
        error: BaseException | None,
        *,
        by_hand: bool = False,
        result: object = None,
        came_with: Request | None = None,
    ) -> None:
        """*task* has ended in another way than by a plain return, or after a request.

        *by_hand* says that a CancelledError ended it that nothing delivered; *result*
        is what it returned; *came_with* as in `verdict`.
        """
        self._epoch += 1
        key = id(task)
        born = self.born.pop(key, None)
        state = self.states.get(key)
        if state is not None and state.ref() is not task:
            state = None
        if state is None and born is None:
            state = self.state(task)
        request, cancel_outcome = verdict(
            self.ties,
            state,
            outcome,
            error,
            seen=self.deliveries_seen,
            by_hand=by_hand,
            came_with=came_with,
        )
        if state is None and outcome != "returned":
            assert born is not None
            state = self._late_state(task, born.task, born.coro)
        if outcome == "raised" and error is not None:
            number = born.task if born is not None else self.number(task)
            self._remember_failure(task, number, error)
        if state is not None:
            state.ended = True
            state.outcome = outcome
            state.cancel_outcome = cancel_outcome
            if request is not None:
                # The last delivered may be another: a scope's, taken back since.
                state.current = request
            if outcome == "cancelled" and cancel_outcome == "obeyed":
                self.pass_on(waiters_of(task), request)
            elif outcome != "cancelled":
                for lost in lose_propagated(state):
                    self.rules.went_no_further(lost, state)
        if self.wants("task.done"):
            if outcome == "cancelled" and not by_hand:
                error = None  # there is nothing to say of it but whose request it delivers
            self._tell_end(task, born, state, error, request)
        if state is not None and "finding" in self.heard:
            self.rules.ended(task, state, born, outcome, error, request, result)

    def _tell_end(
        self,
        task: Any,
        born: Created | None,
        state: CancelState | None,
        error: BaseException | None,
        request: Request | None,
    ) -> None:
        event = self.begin(TaskDone, self.place(self._loop_of(task)))
        if born is not None:
            event.task, event.coro = born.task, born.coro
            event.lifetime = lifetime_of(time.time_ns() - born.ns)
        elif state is not None:
            event.task, event.coro, event.preexisting = state.task, state.coro, state.preexisting
        event.name = self.name_of_task(task)
        event.outcome = "returned"
        if error is not None:
            event.error = describe(error)
            event.error_at, _ = error_site(self.codes, error)
        if state is not None:
            event.outcome = state.outcome or "returned"
            event.cancel_outcome = state.cancel_outcome
            if state.cancel_outcome == "swallowed":
                event.swallowed_at = state.swallowed_at
        if request is not None:
            logged = request.logged()
            event.cancel = None if logged is None else logged.event.seq
            if state is not None and state.concluded:
                event.evidence = "inferred"
        self.announce(event)

    def _late_state(self, task: Any, number: int, coro: str) -> CancelState:
        state = self.state(task)
        state.task, state.coro, state.preexisting = number, coro, False
        return state

    def _remember_failure(self, task: Any, number: int, error: BaseException) -> None:
        key = id(error)
        known = self.failures.get(key)
        if known is not None:
            other = known[0]()
            if other is not None and getattr(other, "_exception", None) is error:
                return
        # The task keeps the error, so its `id` means it as long as the task is there.
        self.failures[key] = (dropping(task, self.failures, key), number)

    def uncancelled(self, task: Any, frame: FrameType, remaining: int) -> Request | None:
        """``uncancel()`` was called on *task* by *frame*: the request that it took back.

        *remaining* is what ``cancelling()`` says after it.
        """
        state = self.states.get(id(task))
        if state is None or state.ref() is not task:
            return None
        self._epoch += 1
        info = self.codes.known.get(id(frame.f_code)) or self.codes.of(frame)
        owner = since = None
        known = scope = False
        values: Mapping[str, Any] = {}
        if info.kind != APPLICATION:
            values = variables(frame)
            owner = values.get("self")
            known = info.source in _OWN_ONLY
            if known:
                since = remaining - getattr(owner, "_cancelling", 0)
            elif info.source.startswith(_SCOPES):
                scope = True
                since = remaining - getattr(owner, "_cancelling_at_enter", 0)
        request = take_back(
            state, None if owner is None else id(owner), known=known, scope=scope, since=since
        )
        if request is None:
            return None
        if since is not None and since <= 0 and request.timed_out and request.owner == id(owner):
            # Nothing else was asked: Timeout.__aexit__ raises a TimeoutError in its place.
            error = values.get("exc_val")
            tie = None if error is None else self.tie_of(error)
            if tie is None and not self.deliveries_seen and isinstance(error, CancelledError):
                # Nobody saw it arrive, and here it is handed over with the request it was for.
                self.tie(error, request, state)
                tie = self.tie_of(error)
            if tie is not None:
                tie.timeout = request
        if "finding" in self.heard:
            self.rules.taken_back(task, state, request, frame)
        return request


def _made(event: TaskCancel | FutureCancel, cause: Cause) -> Request:
    """The request that *event* tells, tied to those that led to it."""
    request = Request(event, cause.request, cause.owner, cause.origin)
    if cause.request is not None:
        request.depth = cause.request.depth + 1
        if request.depth > _DEEPEST:
            # Each end of a task may be the cause of another's for ever.  The log has them all;
            # in memory the chain goes from here to its root.
            root = root_link(cause.request)
            request.cause, request.depth = None, 0
            if root is not None:
                request.origin = msgspec.structs.replace(root, detail=_by_way_of(root.detail))
    return request


def _by_way_of(detail: str | None) -> str:
    way = f"by way of more than {_DEEPEST} others, which the log tells"
    return way if detail is None or detail.endswith(way) else f"{detail}; {way}"


def _request(event: TaskCancel, cause: Cause) -> Request:
    request = _made(event, cause)
    if cause.taken_back:
        request.taken_back = True
    if cause.once is not None:
        request.once = cause.once
    if cause.awaiter and cause.request is not None:
        cause.request.via = request
    return request


def _tell_cause(event: TaskCancel | FutureCancel, cause: Cause) -> None:
    """Put what *cause* says of itself into *event*."""
    event.reason = cause.reason
    event.evidence = cause.evidence
    event.at = cause.at
    event.source = cause.source
    if cause.detail is not None:
        event.detail = cause.detail
    if cause.origin is not None:
        _tell_origin(event, cause.origin)


def _tell_origin(event: TaskCancel | FutureCancel, origin: Link) -> None:
    """Put what the link *origin* says into *event*, where it says something: to set is to pay."""
    event.origin = origin.what
    event.origin_reason = origin.reason
    event.origin_source = origin.source
    event.origin_at = origin.at
    if origin.task is not None:
        event.origin_task = origin.task
    if origin.name is not None:
        event.origin_name = origin.name
    if origin.error is not None:
        event.origin_error = origin.error
    if origin.signal is not None:
        event.origin_signal = origin.signal
    if origin.seconds is not None:
        event.origin_seconds = origin.seconds
    if origin.detail is not None:
        event.origin_detail = origin.detail
    if origin.by_name is not None:
        event.origin_by_name = origin.by_name


_ORIGIN_KEYS = (
    "task",
    "name",
    "reason",
    "source",
    "at",
    "by_name",
    "error",
    "signal",
    "seconds",
    "detail",
)


def _nothing() -> None:
    """Stands for the reference to a loop where there is none."""


def _reference(target: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(target)
    except TypeError:  # it takes no weak references: never found again
        return lambda: _reference


def root_link(request: Request) -> Link | None:
    """The root of *request*'s chain, for a line whose causes are no lines."""
    step: Request = request
    while step.cause is not None:  # at most `_DEEPEST` times
        step = step.cause
    return step.origin


def _is_handled_here(error: BaseException) -> bool:
    """Whether a frame below the caller handles *error*, or has let it through."""
    handler = handled_by(error)
    frame: FrameType | None = sys._getframe(1)
    while handler is not None and frame is not None:
        if frame is handler:
            return True
        frame = frame.f_back
    return False


def _refs_of_waiting() -> int:
    """What `sys.getrefcount` says in `Recorder.noted` of a method that only its handle holds."""

    class Victim:
        def cancel(self) -> None: ...

    notes: WeakIdMap[None] = WeakIdMap()
    handle = [Victim().cancel]
    notes[handle[0]] = None
    return max(sys.getrefcount(bound) for bound, _ in notes.items())


_WAITING = _refs_of_waiting()
"""A method with more references is perhaps being called: uvloop's handle holds what it calls
once more for as long as it does (``Handle._run`` in its cbhandles.pyx), and others may hold it."""


class _Unraisable:
    """Reports an exception that nobody can catch, the way CPython itself does."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


def unraisable(error: BaseException) -> None:
    """Give *error* to `sys.unraisablehook`, as PEP 578 does where nothing is left to abort.

    The hook takes only what the interpreter makes; an exception that leaves a
    finalizer is the plain way to have it made.
    """
    _Unraisable(error)
