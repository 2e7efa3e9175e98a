"""What was handed to a loop, to be done later, when no stack says any more who wanted it.

A bound ``cancel`` given to a loop or a future, the callback of a signal, a timeout that was
entered, a future that another one will follow: each is remembered with who gave it.
"""

from __future__ import annotations

import sys
import weakref
from asyncio import Handle
from collections.abc import Callable
from contextvars import Context
from signal import Signals
from time import monotonic
from types import CodeType
from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit.core import new_notes
from aioaudit.cpython.loops import context_of_handle, running_loop
from aioaudit.stack.frames import code_of
from aioaudit.stack.handles import handle_reference, is_entered
from aioaudit.weak import WeakIdMap

if TYPE_CHECKING:
    from aioaudit.events import Evidence, TaskCancel
    from aioaudit.place import Place
    from aioaudit.stack.code import CodeInfo
    from aioaudit.state.cause import Cause


class Handoff(msgspec.Struct, frozen=True, eq=False):
    """Where a bound ``cancel`` was given to a loop, and by which thread if not the loop's.

    ``cause`` is there where asyncio itself gave it, for a reason that it was asked for then;
    ``direct`` says that the loop was given the method itself, and not something around it;
    ``context`` refers to what a signal's callback runs in, where the loop shows that;
    ``library`` and ``library_at`` are as in `Cause`; ``future`` refers to that whose end it was to
    follow; ``handle`` to what the loop made of it, where that shows when it runs.
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
    library: str | None = None
    library_at: str | None = None
    future: Callable[[], Any] | None = None
    handle: Callable[[], Any] | None = None

    @property
    def carrier(self) -> Any:
        """What there is of this alone, as long as it may happen, None where there is nothing."""
        reference = self.future or self.handle or self.context
        return None if reference is None else reference()

    def is_of(self, handle: Any, arguments: tuple[Any, ...]) -> bool:
        """Whether this is what *handle*, which calls with *arguments*, was given for."""
        if self.future is not None:
            return bool(arguments) and arguments[0] is self.future()
        if self.context is not None:
            return self.runs
        own = handle if self.handle is None else self.handle()
        # A loop may run another handle than the one that it gives to who asks.
        return own is handle or not (own is None or isinstance(own, Handle))

    @property
    def may_be_over(self) -> bool:
        """Whether the future whose end it was to follow may have ended, and nobody took it back."""
        handle = None if self.handle is None else self.handle()
        if handle is not None and handle.cancelled():
            return False
        future = None if self.future is None else self.future()
        return future is None or bool(future.done())

    @property
    def runs(self) -> bool:
        """Whether the loop runs the signal's callback just now, as far as it shows."""
        return self.context is not None and is_entered(self.context())


class Signalled(msgspec.Struct, eq=False):
    """That a task goes on because of a signal: its handler made it, or woke it.

    ``note`` is of the handler.  What the handler made carries the signal until ``until``
    (`time.monotonic`); what it woke does in the step that follows, as long as the future is there that
    ``step`` refers to, and for what is asked right behind another request.
    """

    note: Handoff
    evidence: Evidence
    until: float
    step: Callable[[], Any] | None = None

    def holds(self) -> bool:
        """Whether what is asked now is still because of the signal."""
        now = monotonic()
        if self.step is None:
            return now < self.until
        if self.step() is None and now >= self.until:
            return False
        self.until = now + _NEXT
        return True


_ENDS = frozenset(each for each in Signals if each.name in ("SIGINT", "SIGQUIT", "SIGTERM"))
"""Signals that ask a process to end."""

_CARRIED_TO_THE_END = 300.0
"""Seconds for which what the handler of one of these made carries it: a service may drain for as long."""

_CARRIED = 5.0
"""The same of others: what the handler of SIGHUP makes may go on to serve."""

_NEXT = 1.0
"""Seconds after a request in which the next one is still because of what woke the task."""


def _carried(number: int | None) -> float:
    return _CARRIED_TO_THE_END if number in _ENDS else _CARRIED


class TimeoutEntry(msgspec.Struct, frozen=True, eq=False):
    """Where a timeout was entered, and how long it is to last.

    All that one line enters may share one, so it is never changed: see `CodeInfo.timeouts`.

    That is ``seconds`` as the program gave them; where these are None it gave a time of the
    clock, and ``armed`` is the loop's time when it did.  ``by`` is the library's code that
    entered it, None where the application's did.  ``lines`` is `Call.lines` of those that share
    it and run out, None where it is shared by none.
    """

    at: str | None
    source: str | None
    armed: float
    by: CodeInfo | None
    seconds: float | None
    lines: dict[Place, TaskCancel] | None = None


class OlderTimeout(msgspec.Struct, frozen=True, eq=False):
    """What a frame shows of a timeout that was entered before auditing began.

    ``seconds`` are known where a variable of the frame still has them.
    """

    at: str | None
    source: str | None
    seconds: float | None


class Handoffs:
    """What loops and futures were given, as long as it is there."""

    def __init__(self) -> None:
        self.by_callback: WeakIdMap[Handoff] = WeakIdMap()
        """By the bound ``cancel`` that was given; where it was more than once, the last time."""
        self.earlier: WeakIdMap[WeakIdMap[Handoff]] = WeakIdMap()
        """The times before that, by the bound ``cancel``, then by `Handoff.carrier`."""
        self.timeouts: WeakIdMap[TimeoutEntry] = new_notes()
        self.older_timeouts: WeakIdMap[OlderTimeout] = WeakIdMap()
        self.chained_causes: WeakIdMap[Cause] = WeakIdMap()
        """Why a future was cancelled that another one will follow."""
        self.signal_callbacks: WeakIdMap[dict[int, tuple[CodeType, dict[int, Handoff]]]] = (
            WeakIdMap()
        )
        """By loop: the codes that it runs for signals, and for which."""
        self.signalled: WeakIdMap[Signalled] = WeakIdMap()
        """By task: the signal because of which it goes on."""
        self.signal_futures: WeakIdMap[Handoff] = WeakIdMap()
        """By future: the signal whose callback is its ``set_result``."""
        self.hidden_signals = False
        """Whether a loop has a signal's callback of which it does not show when it runs."""

    def add(self, callback: Any, note: Handoff) -> None:
        """Remember that *callback*, a bound ``cancel``, was given as *note* says."""
        before = self.by_callback.get(callback)
        carrier = None if before is None else before.carrier
        # uvloop's ``call_at`` calls its ``call_later``: that is one time, told by who called the outer.
        if before is not None and carrier is not None and carrier is not note.carrier:
            # A program may keep the method and give it to many: each time is a line of its own.
            self._keep(callback, carrier, before)
        self.by_callback[callback] = note

    def _keep(self, callback: Any, carrier: Any, note: Handoff) -> None:
        earlier = self.earlier.get(callback)
        if earlier is None:
            self.earlier[callback] = earlier = WeakIdMap()
        earlier[carrier] = note

    def given_with(self, callback: Any, future: Any) -> Handoff | None:
        """That *callback* was given to *future* before, as far as it is known."""
        last = self.by_callback.get(callback)
        if last is None or last.carrier is future:
            return last
        earlier = self.earlier.get(callback)
        return None if earlier is None else earlier.get(future)

    def made(self, callback: Any, note: Handoff, handle: Any) -> None:
        """A loop has made *handle* of *callback* when it was given as *note* says."""
        carried = msgspec.structs.replace(note, handle=handle_reference(handle))
        if self.by_callback.get(callback) is note:
            self.by_callback[callback] = carried
        elif carried.handle is not None:  # another thread has given it meanwhile
            self._keep(callback, handle, carried)

    def find(
        self, callback: Any, victim: Any, handle: Any = None, arguments: tuple[Any, ...] = ()
    ) -> tuple[Handoff | None, Evidence]:
        """The note of *callback*, which *handle* calls with *arguments*.

        Without it (uvloop shows none) that of the victim, if only one.
        """
        if callback is not None:
            return self._of_handle(callback, handle, arguments), "observed"
        of_victim = [
            (bound, note)
            for bound, last in self.by_callback.items()
            if bound.__self__ is victim
            for note in (last, *self._before(bound))
        ]
        signalled = [note for _, note in of_victim if note.runs]
        if signalled:
            return signalled[0], "observed"
        now = running_loop()
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
            and note.may_be_over
        ]
        return (found[0], "inferred") if len(found) == 1 else (None, "observed")

    def _of_handle(self, callback: Any, handle: Any, arguments: tuple[Any, ...]) -> Handoff | None:
        last = self.by_callback.get(callback)
        if last is None or last.is_of(handle, arguments):
            return last
        earlier = self.earlier.get(callback)
        if earlier is None:
            return None
        carriers = (handle, context_of_handle(handle), *arguments[:1])
        found = (earlier.get(each) for each in carriers)
        return next((note for note in found if note is not None), None)

    def _before(self, callback: Any) -> list[Handoff]:
        earlier = self.earlier.get(callback)
        return [] if earlier is None else [note for _, note in earlier.items()]

    # -- signals ------------------------------------------------------------------

    def add_signal(self, loop: Any, code: CodeType | None, number: int, note: Handoff) -> None:
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

    def add_given(self, loop: Any, code: CodeType, note: Handoff) -> None:
        """Remember that *loop* is to run *code* once for a signal: its handler has given it."""
        callbacks = self.signal_callbacks.get(loop)
        if callbacks is None:
            self.signal_callbacks[loop] = callbacks = {}
        entry = callbacks.get(id(code))
        if entry is None or entry[0] is not code:
            entry = callbacks[id(code)] = code, {}
        entry[1][-id(note)] = note

    def carry(self, task: Any, note: Handoff, evidence: Evidence, step: Any = None) -> None:
        """*task* goes on because of the signal of *note*: in the step for which *step* wakes it, if that is given."""
        self.signalled[task] = Signalled(
            note,
            evidence,
            0.0 if step is not None else monotonic() + _carried(note.signal),
            None if step is None else weakref.ref(step),
        )

    def signal_of(self, task: Any) -> Signalled | None:
        """The signal because of which *task* asks for something now."""
        if not self.signalled.entries or task is None:
            return None
        found = self.signalled.get(task)
        if found is None:
            return None
        if found.holds():
            return found
        self.signalled.pop(task)
        return None

    def signal_callback(
        self, outermost: CodeType | None
    ) -> tuple[int | None, Handoff, Evidence] | None:
        """The signal for which the loop runs the callback whose code is *outermost*.

        The context that is current tells it.  rloop does not show that of its handles: there
        it is inferred from the function, if that has no other use that is known, and
        which signal it was stays open if it serves several.
        """
        loop = running_loop()
        if outermost is None:
            return None
        callbacks = self.signal_callbacks.get(loop)
        entry = None if callbacks is None else callbacks.get(id(outermost))
        if entry is None or entry[0] is not outermost:
            return None
        notes = entry[1]
        for key, note in list(notes.items()):
            if note.runs:
                return note.signal, note, "observed"
            if key < 0 and note.context is not None and note.context() is None:
                notes.pop(key, None)  # it was called once
        hidden = {
            number: note for number, note in notes.items() if note.context is None and number >= 0
        }
        if not hidden:
            return None
        number, note = next(iter(hidden.items()))
        return (number if len(hidden) == 1 else None), note, "inferred"

    def forget_signal(self, loop: Any, callback: Any) -> None:
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


def _refs_of_waiting() -> int:
    """What `sys.getrefcount` says in `Handoffs.find` of a method that only its handle holds."""

    class Victim:
        def cancel(self) -> None: ...

    notes: WeakIdMap[None] = WeakIdMap()
    handle = [Victim().cancel]
    notes[handle[0]] = None
    return max(sys.getrefcount(bound) for bound, _ in notes.items())


_WAITING = _refs_of_waiting()
"""A method with more references is perhaps being called: uvloop's handle holds what it calls
once more for as long as it does (``Handle._run`` in its cbhandles.pyx), and others may hold it."""
