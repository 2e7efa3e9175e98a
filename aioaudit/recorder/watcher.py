"""Who sees that a loop is blocked: a thread that looks at the loops' threads from time to time.

It is there where somebody asks for it (``AIOAUDIT_BLOCKED``), and sleeps for good while no loop
runs.  The loops do nothing for it and know nothing of it.  It is no exporter's thread: one
of those may be waiting for a disk or a collector just when a loop is blocked, and where events
are only kept in memory there is none.

What counts is what was seen.  A callback that is found again at the next look has run in
between, and for that long the loop was blocked.  But if that look came late, the process may have
been stopped, or suspended with the machine, or have waited for a processor: then only the
time counts that the loop's thread has computed meanwhile, by the system's account of it.

C code that does not let go of the GIL lets nobody look.  The moment it lets go, the one who
waits to look is given the GIL (``_Py_HandlePending`` in CPython's Python/ceval_gil.c), and finds
the loop right behind that call, or, should a third thread come in between, a few milliseconds
later.  If the loop's thread has computed all the while, and its round began before, the loop was
blocked.  By the callback that is found, if that is the first of the round, and so has begun when
the round did; by which line of it is `inferred`.  If it is not the first one, it may have been
another, and none is named.

A thread that waits for the GIL beside a busy loop may be late without any fault of the loop's
(docs/design.md, "Keeping pace"); then the round that it finds is a young one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from aioaudit.cpython.frames import current_frames
from aioaudit.cpython.loops import running_loop
from aioaudit.cpython.tasks import task_of
from aioaudit.delivery.worker import EXPORTING
from aioaudit.events import LoopBlocked
from aioaudit.place import Place
from aioaudit.stack.turns import Spot, Turn, spot_of, turn_of
from aioaudit.state.blocks import Block
from aioaudit.state.places import reference
from aioaudit.threads import Thread, allocate_lock, get_ident, monotonic

if TYPE_CHECKING:
    from aioaudit.findings.rules import Rules
    from aioaudit.identity import Run
    from aioaudit.sending import Sender
    from aioaudit.state.known import State

_LOOKS = 4
"""How often to look within the time that a loop may stay in one callback."""

_SHORTEST = 0.002
_ONGOING = 1.0
"""Seconds after which a block is told that goes on, unless more is allowed: ten times that then."""

_END_WAIT = 3.0  # how long to wait for the thread to end, which tells what it has seen...
_FORK_WAIT = 0.2  # ... and before a fork, after which it tells that as well

_MAIN = threading.main_thread()

_clock_of: Callable[[int], int] | None = getattr(time, "pthread_getcpuclockid", None)
_read_clock: Callable[[int], float] | None = getattr(time, "clock_gettime", None)


class _Watched:
    """A loop that runs, as it was at the last look; it is not kept alive."""

    def __init__(self, loop: Any, ident: int, place: Callable[[Run], Place]) -> None:
        self.ref = reference(loop)
        self.ident = ident
        self.place = place
        self.replaced = False
        """Whether the loop has begun to run once more, and there is another of these for that."""
        # Asked in the thread itself: of one that has ended this may crash.
        self.clock = None if _clock_of is None else _clock_of(ident)
        self.cpu: float | None = None
        self.key: tuple[object, ...] | None = None
        self.block: Block | None = None
        self.kept = False
        self.told = False
        self.spots: dict[Spot, float] = {}
        self.guessed = 0.0  # seconds of the block in which nobody could look

    def computed(self) -> float:
        """For how many seconds its thread has computed since the last look; 0 where nobody knows."""
        if self.clock is None or _read_clock is None:
            return 0.0
        before = self.cpu
        try:
            self.cpu = _read_clock(self.clock)
        except OSError:  # the thread has ended
            self.clock = self.cpu = None
        return 0.0 if before is None or self.cpu is None else self.cpu - before


class Watcher:
    """The thread, and what it has seen.

    Args:
        known: What is known of tasks, loops and code.
        sender: Who tells of what is found.
        rules: Who says that it is a finding.
    """

    def __init__(self, known: State, sender: Sender, rules: Rules) -> None:
        self._known = known
        self._sender = sender
        self._rules = rules
        self._limit = 0.0
        self._pausing = False
        self._watched: list[_Watched] = []
        self._thread: Thread | None = None
        self._ident = 0
        self._start_lock = allocate_lock()
        self._wake = allocate_lock()  # as a signal: who waits acquires, who wakes releases
        self._wake.acquire()

    @property
    def is_on(self) -> bool:
        """Whether a loop may not stay in one callback for as long as it likes."""
        return self._limit > 0

    def watch(self, limit: float) -> None:
        """From now on tell of loops that stay in one callback for *limit* seconds; 0 for of none."""
        if limit == self._limit:
            return
        self._limit = limit
        if not limit:
            self._stop(_END_WAIT)
            self._known.blocks.clear()
            return
        loop = running_loop()
        if loop is not None:
            self.on_loop_start(loop)
        else:
            self._signal()  # that it looks as often as it now should

    def on_loop_start(self, loop: Any) -> None:
        """*loop* begins to run in this thread, or runs here already."""
        if self._limit:
            for each in list(self._watched):
                each.replaced |= each.ref() is loop
            places = self._known.places
            place = partial(
                Place,
                thread=places.thread_name(),
                loop=places.loop_number(loop),
                loop_id=id(loop),
                loop_ref=reference(loop),
            )
            self._watched.append(_Watched(loop, get_ident(), place))
            self._start()

    # -- forks --------------------------------------------------------------------

    def pause(self) -> None:
        """End the thread: a fork is about to come."""
        self._pausing = True
        self._stop(_FORK_WAIT)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._pausing = False
        if self._limit and self._watched:
            self._start()

    def after_fork(self) -> None:
        """This is a forked child: the thread and the loops were the parent's."""
        self._thread = None
        self._pausing = False
        self._start_lock = allocate_lock()
        self._wake = allocate_lock()
        self._wake.acquire()
        self._watched.clear()
        self._known.blocks.clear()

    # -- the thread ---------------------------------------------------------------

    def _start(self) -> None:
        """See to it that there is a thread, and that it looks."""
        if self._thread is not None:
            self._signal()
            return
        if self._pausing or not self._start_lock.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                self._thread = thread = Thread(self._work)
                thread.start()
        except RuntimeError:
            self._thread = None  # none can be started any more: nobody looks
        finally:
            if self._thread is not None and not self._thread.started:
                self._thread = None  # a handler of the program's raised just now
            self._start_lock.release()

    def _signal(self) -> None:
        with suppress(RuntimeError):  # not locked: somebody woke the thread already
            self._wake.release()

    def _stop(self, wait: float) -> None:
        """End the thread, which tells what it has seen."""
        thread = self._thread
        if thread is not None:
            self._signal()
            if get_ident() != self._ident:
                thread.join(wait)

    def _period(self) -> float:
        return max(self._limit / _LOOKS, _SHORTEST)

    def _work(self) -> None:
        self._ident = get_ident()
        try:
            running = True
            looked = monotonic()
            while self._limit and not self._pausing:
                due = looked + self._period()
                running = self._look(looked, due)
                looked = monotonic()
                if running:
                    self._wake.acquire(timeout=self._period())
                elif threading.main_thread() is not _MAIN:
                    # A child that was forked in another thread ends when its last thread does.
                    return
                else:
                    self._wake.acquire()
                    looked = monotonic()
            self._look_no_more()
        finally:
            self._ident = 0
            self._thread = None
            if self._watched and self._limit and not self._pausing:
                self._start()  # whoever forked has gone on without waiting for this

    def _look(self, before: float, due: float) -> bool:
        """Look at all loops; whether any runs.  The last look was *before*, this one was *due*."""
        ident = get_ident()
        EXPORTING.add(ident)  # what a finalizer does here is not the program's
        try:
            running = False
            frames = current_frames()
            for watched in list(self._watched):
                loop = watched.ref()
                frame = frames.get(watched.ident)
                if watched.replaced or loop is None or frame is None or not loop.is_running():
                    del loop, frame
                    self._watched.remove(watched)
                    self._close(watched)
                    continue
                running = True
                self._look_at(loop, watched, frame, before, due)
                del loop, frame
            return running
        except Exception as error:  # noqa: BLE001 - an internal error must not end the thread
            self._sender.report_fault(error)
            return True
        finally:
            EXPORTING.discard(ident)

    def _look_at(
        self, loop: Any, watched: _Watched, frame: FrameType, before: float, due: float
    ) -> None:
        now = monotonic()
        computed = watched.computed()
        turn = turn_of(loop, frame)
        if turn is None:
            self._close(watched)
            return
        late = now - due > self._limit / 2
        seen = now - before
        if late:
            seen = min(seen, self._period() + computed)
        block = watched.block
        if turn.key != watched.key or block is None:
            self._close(watched)
            block = Block(since=now, until=now)
            ago = turn.ago
            seen = 0.0 if ago is None else min(ago, seen)
            if late and seen >= self._limit and not turn.first:
                blind = Block(since=now - (ago or 0.0), until=now, seconds=seen, over=True)
                self._known.blocks.add(loop, blind)
                self._send(watched, blind)
            if turn.first:
                block.since = now - (ago or 0.0)
            else:
                seen = 0.0  # which of a round's callbacks took its time is known of the first alone
            watched.key, watched.block = turn.key, block
        block.seconds += seen
        if late:
            watched.guessed += seen
        unsure = watched.guessed > block.seconds / 2
        block.evidence = "inferred" if unsure else "observed"
        block.until = now + self._period()
        if block.seconds:
            self._locate(loop, watched, turn, frame, seen)
        if block.seconds >= self._limit:
            self._tell(loop, watched)

    def _locate(
        self, loop: Any, watched: _Watched, turn: Turn, frame: FrameType, seen: float
    ) -> None:
        """Note where the callback is, and by which task it is run."""
        block = watched.block
        assert block is not None
        spot = spot_of(turn, frame, self._known.codes)
        task = task_of(loop)
        again = turn_of(loop, current_frames().get(watched.ident, frame))
        if again is None or again.key != turn.key:
            return  # it went on while this was read
        if task is not None and block.task is None:
            tasks = self._known.tasks
            who = tasks.born.get(id(task)) or tasks.state(task)
            block.task, block.coro = who.task, who.coro
            block.name = tasks.name(task)
        if spot is None and block.coro is not None:
            spot = Spot(block.coro, None)  # compiled code has no frames
        if spot is not None:
            spots = watched.spots
            spots[spot] = spots.get(spot, 0.0) + seen
            best = max(spots, key=spots.__getitem__)
            block.source, block.at = best.source, best.at
            block.library, block.library_at = best.library, best.library_at

    def _tell(self, loop: Any, watched: _Watched) -> None:
        """It is blocked: remember that, and tell of it where it goes on for long."""
        block = watched.block
        assert block is not None
        if not watched.kept:
            watched.kept = True
            self._known.blocks.add(loop, block)
        if not watched.told and block.seconds >= max(_ONGOING, 10 * self._limit):
            watched.told = True
            self._send(watched, block, ongoing=True)

    def _close(self, watched: _Watched) -> None:
        """The loop has gone on: tell if it was blocked."""
        block, kept, told = watched.block, watched.kept, watched.told
        watched.block = watched.key = None
        watched.kept = watched.told = False
        watched.guessed = 0.0
        watched.spots.clear()
        if block is not None and kept:
            block.over = True
            self._send(watched, block, known=told)

    def _look_no_more(self) -> None:
        try:
            for watched in self._watched:
                self._close(watched)
        except Exception as error:  # noqa: BLE001 - as in `_look`
            self._sender.report_fault(error)

    # -- telling it ---------------------------------------------------------------

    def _send(
        self, watched: _Watched, block: Block, *, ongoing: bool = False, known: bool = False
    ) -> None:
        sender = self._sender
        place = watched.place(sender.run)  # the loop's: it is told here, but does not happen here
        if sender.is_active("loop.blocked"):
            event = sender.new_event(LoopBlocked, place)
            event.seconds = round(block.seconds, 6)
            event.source, event.at = block.source, block.at
            event.library, event.library_at = block.library, block.library_at
            event.task, event.name, event.coro = block.task, block.name, block.coro
            event.ongoing = ongoing
            event.evidence = block.evidence
            sender.emit_final(event)
        if not known and sender.is_active("finding"):
            self._rules.on_blocked(block, place, ongoing=ongoing)
