"""Between the bus and one exporter: a queue that never makes the program wait.

Wish: whatever an exporter does, be slow, fail or hang, the program neither
waits for it nor notices it, and no event is lost in silence.

Each exporter has one `Pipeline`: a deque, and one daemon thread that empties
it.  `put` is called from inside every task that the program makes, so it is a
closure that compares a length, appends, and looks at one flag.  It takes no
lock: the interpreter makes the append atomic, and a signal handler may run
between any two steps of it.

- The thread sleeps for good while there is nothing to do; the first event wakes
  it, and from then on it looks every `PERIOD` until nothing more comes.
- A busy program may starve the thread of the GIL.  A thread that waits for it asks
  for it when `sys.getswitchinterval` has passed without a change of hands; each time
  that somebody lets it go for a moment, as a loop does at every ``epoll_wait``, the
  waiting one is woken, finds it taken again, and waits anew (``take_gil`` in
  CPython's Python/ceval_gil.c).  Measured: up to two seconds for one ``os.write``.
  Who puts events therefore looks at the clock now and then, and where the thread is
  behind sleeps for a moment (`_WAY`) without the GIL: that is the thread's chance.  What it does
  with it is small portions, so nobody waits long; where it does not come forward, slow,
  hanging, or robbed by other threads, there is ever longer before the next try.
- Events are numbered before they are put, by several threads, so what is taken
  from the queue may have a gap whose event is about to come.  What follows a
  gap waits for at most `HOLD`; a number that will never come (`skip`) is no
  gap.  An event that comes later still is counted as lost: the numbers in a
  log rise, always.
- What could not be kept is counted by name in counters that need no lock (see
  `_Losses`), and told by a `ProcessDropped` as soon as there is room again.
- Whoever wants something done (`flush`, `shutdown`) leaves a `_Request` and
  waits for it with a timeout.  Nothing is locked while waiting, so it may be
  called from anywhere: inside the loop, from several threads, from a signal
  handler that interrupted this module itself.
- Where no thread can be started any more (the interpreter is going down) the
  caller does the thread's work.
- Before a fork the thread ends, after it the next event starts a new one.  A
  thread that lives across a fork leaves the child its locks in whatever state
  they were, and from CPython 3.12 on its mere existence makes `os.fork` warn.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat, starmap

from aioaudit.cpython.threads import name_of_thread
from aioaudit.delivery.encoding import Batch
from aioaudit.delivery.records import Item, item_name, seq_of
from aioaudit.events import ProcessDropped, ProcessEnd, ProcessStart
from aioaudit.exporter import Exporter, ExporterError, NotTakenError
from aioaudit.identity import Run, timestamp
from aioaudit.text import describe
from aioaudit.threads import Thread, acquire, allocate_lock, get_ident, monotonic, sleep

PERIOD = 0.02
"""Seconds between two looks at the queue while events are coming."""

HOLD = 0.25
"""Seconds that what follows a gap waits for the event that is missing."""

TIMEOUT = 3.0
"""Seconds that `Pipeline.flush` and `Pipeline.shutdown` wait unless told otherwise."""

_STEP = 0.01  # between two looks while waiting for a missing number
_GLANCE = 0.001  # between two looks for a missing number while somebody waits...
_GLANCES = 5  # ... and how many of them there are
_RETRY = 0.25  # between two tries while the exporter cannot take events
_QUIET_LOOKS = 5  # looks that find nothing before the thread sleeps for good
_CHUNK = 1_000  # events given to the exporter at once: for so long it may keep the GIL
_LATE = 0.03  # seconds since the thread's last look after which it is behind...
_LATE_FOR_NEWS = 0.02  # ... and where somebody waits for the event: see `urge`
_WAY = 50e-6  # seconds that giving way to the thread takes...
_MOST_WAY = 800e-6  # ... and where it did not help, as on a busy machine, twice as long up to this
_WAY_PAUSE = 1e-3  # the least time before it is done again...
_WAY_SHARE = 20  # ... and where it did not help, so many times as long as it took...
_MOST_PAUSE = 1.0  # ... but not longer than that
_MOST_UNSEEN = 64  # so many events may be put between two looks at the clock...
_OFTEN = 1e-3  # ... where they come more often than that, in seconds; else each is a look
_FORK_WAIT = 0.2  # how long a fork may wait for the thread to end

_MAIN = threading.main_thread()

EXPORTING: set[int] = set()
"""The threads in which an exporter works just now: what happens there is not heard."""


class Pipeline:
    """One exporter, its queue and its thread.

    Args:
        exporter: Gets the events, in the thread of this pipeline.
        name: What messages on stderr call it.
        run: Numbers the events that the pipeline itself makes.
        start: The first event that the exporter gets, once there is another
            one or `open_now` was called.
        capacity: How many events may wait; what comes when they are as many is
            counted as lost.
        hold: Seconds that what follows a gap waits for the missing event.
    """

    put: Callable[[Item], None]
    """Queue an item.  Never blocks and never raises; a full queue counts a loss."""

    def __init__(
        self,
        exporter: Exporter,
        *,
        name: str,
        run: Run,
        start: ProcessStart,
        capacity: int = 100_000,
        hold: float = HOLD,
    ) -> None:
        self.exporter = exporter
        self.name = name
        self.capacity = capacity
        self.hold = hold
        self._queue: deque[Item] = deque()
        self._look_again: Callable[[], None]
        self._set_idle: Callable[[bool], None]
        self._set_open: Callable[[bool], None]
        self._begin(run, start)
        self._make_put()

    def _begin(self, run: Run, start: ProcessStart) -> None:
        """The state of a new run; nothing of an earlier one is looked at."""
        self._run = run
        self._backlog: list[Item] = [start]  # taken from the queue, not yet exported
        self._losses = _Losses()
        self._faults_told = 0  # how many kinds of internal faults the exporter knows of
        self._skipped: deque[int] = deque()
        self._missing: set[int] = set()  # numbers known never to come, not yet passed
        self._last = start.seq - 1  # the last number that the exporter was given
        self._lost_upto = 0  # the highest number among the losses at `put`
        self._gap: _Gap | None = None
        self._written = 0
        self._trouble = False
        self._retry_at = 0.0
        self._used = False  # an item came, or `open_now`
        self._closing = False
        self._signal: str | None = None
        self._fault: Exception | None = None  # for which the exporter is to go out of service
        self._failed = False  # out of service
        self._over = False  # out of service or shut down: the exporter is not called again
        self._given_up = False  # somebody waited in vain for the end
        self._pausing = False  # for a fork
        self._unstartable = False
        self._looked = 0.0  # when the thread looked last
        self._due = 0.0  # ... or when it was woken for the first event
        self._steps = 0  # how often it came forward
        self._way_after = 0.0  # giving way makes no sense before
        self._way_pause = _WAY_PAUSE
        self._way = _WAY
        self._thread: Thread | None = None
        self._starter: int | None = None
        self._start_lock = allocate_lock()
        self._work_lock = allocate_lock()  # held by whoever plays the thread's part
        self._worker: int | None = None
        self._wake = allocate_lock()  # as a signal: who waits acquires, who wakes releases
        self._wake.acquire()
        self._requests: deque[_Request] = deque()

    def _make_put(self) -> None:
        queue = self._queue
        append = queue.append
        wake_up = self._wake_up
        lose = self._lose
        keep_pace = self._keep_pace
        capacity = self.capacity
        room = 0  # `put` only appends where less waits than that, else it looks around
        closed = idle = True
        step = 1  # so many are put before the next look...
        before = 0.0  # ... and this was the last one

        def put(item: Item) -> None:
            if len(queue) < room:
                append(item)
                if idle:
                    wake_up()
            else:
                look(item)

        def look(item: Item) -> None:
            nonlocal room, step, before
            if closed or len(queue) >= capacity:
                lose(item)
                return
            append(item)
            if idle:
                wake_up()
            now = monotonic()
            step = min(2 * step, _MOST_UNSEEN) if now - before < _OFTEN * step else 1
            before = now
            room = min(len(queue) + step, capacity)
            if closed:  # by another thread, meanwhile
                room = 0
            keep_pace(now)

        def look_again() -> None:
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
        self._look_again = look_again
        self._set_idle = set_idle
        self._set_open = set_open
        set_open(True)

    # -- what others may ask ---------------------------------------------------

    @property
    def written(self) -> int:
        """How many events the exporter took in this run, the `ProcessStart` included."""
        return self._written

    @property
    def dropped(self) -> int:
        """How many events of this run are lost for this exporter."""
        return self._losses.total()

    def skip(self, seq: int) -> None:
        """*seq* was drawn but no item with it will come: nothing need wait for it."""
        self._skipped.append(seq)

    def open_now(self) -> None:
        """Let the exporter have the `ProcessStart` now, although no item came yet."""
        self._wake_up()

    def fail(self, error: Exception) -> None:
        """Take the exporter out of service, because of what it did outside its thread."""
        if self._fault is None:
            self._fault = error
            self._wake_up()

    def urge(self) -> None:
        """What was put last is waited for: see to it that the thread comes soon."""
        now = monotonic()
        if now - self._looked > _LATE_FOR_NEWS and now >= self._way_after:
            self._release_wake()
            self._give_way(now)

    def flush(self, timeout: float = TIMEOUT) -> bool:
        """Have everything that was put before exported and flushed.

        Waits for at most *timeout* seconds.  True if all of it is where it
        belongs; False if time ran out, if the exporter is out of service or
        cannot take events just now, or if it is called by the exporter itself.
        """
        return Pipeline.flush_all([self], timeout)

    def shutdown(self, timeout: float = TIMEOUT, *, signal: str | None = None) -> bool:
        """Export what is left and a `ProcessEnd`, then close the exporter.

        Waits for at most *timeout* seconds; then one line on stderr says that
        events may be lost.  *signal* is the name of the signal that ends the
        process.  Whatever is put later is counted as lost.  Doing it again
        changes nothing.  True if all of it was done.
        """
        return Pipeline.shutdown_all([self], timeout, signal=signal)

    @staticmethod
    def flush_all(pipelines: Iterable[Pipeline], timeout: float = TIMEOUT) -> bool:
        """`flush` for all *pipelines* at once, *timeout* seconds in all."""
        deadline = monotonic() + timeout
        asked = [(each, each._ask()) for each in pipelines if each._used]
        answers = [each._await(request, deadline) for each, request in asked]  # wait for each
        return all(answers)

    @staticmethod
    def shutdown_all(
        pipelines: Iterable[Pipeline], timeout: float = TIMEOUT, *, signal: str | None = None
    ) -> bool:
        """`shutdown` for all *pipelines* at once, *timeout* seconds in all."""
        deadline = monotonic() + timeout
        well = True
        asked = [(each, each._ask_for_end(signal)) for each in pipelines]
        for pipeline, request in asked:
            if pipeline._given_up and not pipeline._over:
                well = False  # once was enough
                continue
            if pipeline._await(request, deadline):
                continue
            well = False
            if not (pipeline._over or pipeline._worker == get_ident()):
                pipeline._given_up = True
                left = len(pipeline._queue) + len(pipeline._backlog)
                # How much it holds itself, and has not sent yet, only the exporter knows.
                lost = f"{left:,} events" if left else "what it had taken"
                say(
                    f"exporter {pipeline.name!r} did not finish within {timeout:g} s; "
                    f"{lost} may be lost"
                )
        return well

    # -- forks ------------------------------------------------------------------

    def before_fork(self, timeout: float = _FORK_WAIT) -> None:
        """End the thread, after it exported what there is; waits *timeout* seconds at most."""
        thread = self._thread
        if thread is None or get_ident() == self._worker:
            return
        self._pausing = True
        self._release_wake()
        thread.join(timeout)

    def after_fork_in_parent(self) -> None:
        """Go on after `before_fork`.

        The next event starts a new thread; only what was put during the fork
        starts one at once.
        """
        self._pausing = False
        if self._over or self._thread is not None:
            return
        self._set_idle(True)
        if self._has_work():
            self._wake_up()

    def after_fork(self, run: Run, start: ProcessStart) -> None:
        """In the child: forget the parent's events, locks and thread; begin as *run*.

        The exporter gets *start* first, and nothing at all before an event is
        put or `open_now` is called.
        """
        failed = self._failed
        self._queue.clear()
        EXPORTING.clear()
        self._begin(run, start)
        if failed:
            self._failed = self._over = True  # not tried, and reported, once more
            return
        self._set_open(True)
        self._set_idle(True)

    # -- the slow ways out of `put` -----------------------------------------------

    def _wake_up(self) -> None:
        self._used = True
        self._due = monotonic()
        self._set_idle(False)
        if self._thread is not None:
            self._release_wake()
        elif not (self._pausing or self._over):
            self._start_thread()

    def _release_wake(self) -> None:
        with suppress(RuntimeError):  # not locked: somebody woke the thread already
            self._wake.release()

    def _keep_pace(self, now: float) -> None:
        """Give way to the thread if it is behind at the time *now*."""
        if now - self._due > _LATE and now >= self._way_after:
            self._give_way(now)

    def _give_way(self, now: float) -> None:
        """Let the thread have the GIL: see the module's text for why it may be starved of it."""
        if self._thread is None or self._pausing or self._over:
            return
        steps = self._steps
        sleep(self._way)
        then = monotonic()
        took = then - now
        if self._steps != steps:
            self._way = _WAY
            self._way_pause = pause = max(_WAY_PAUSE, took)
        else:  # it did not wake up in time, is slow, or hangs; or other threads took the GIL
            self._way = min(2 * self._way, _MOST_WAY)
            pause = max(2 * self._way_pause, _WAY_SHARE * took)
            self._way_pause = pause = min(pause, _MOST_PAUSE)
        self._way_after = then + pause

    def _lose(self, item: Item) -> None:
        self._losses.add(item_name(item))
        self._lost_upto = max(self._lost_upto, seq_of(item))

    # -- the thread -----------------------------------------------------------------

    def _start_thread(self) -> bool:
        """Whether there is a thread, or is about to be one."""
        if not self._start_lock.acquire(blocking=False):
            return True  # somebody else is at it
        try:
            self._starter = get_ident()
            if self._thread is not None:
                return True
            wake = self._wake
            thread = Thread(lambda: self._work(wake))
            self._thread = thread
            try:
                thread.start()
            except RuntimeError as error:
                self._thread = None
                if not (self._unstartable or sys.is_finalizing() or "shutdown" in str(error)):
                    self._unstartable = True
                    say(
                        f"exporter {self.name!r} has no thread ({error}); events are "
                        "exported at the end only"
                    )
                return False
            return True
        finally:
            if self._thread is not None and not self._thread.started:
                self._thread = None  # a handler of the program's raised just now
            self._starter = None
            self._start_lock.release()

    def _work(self, wake: threading.Lock) -> None:
        quiet = 0
        rest = False  # whether to wait before the next look
        while True:
            if rest and not (self._requests or self._closing or self._pausing):
                wake.acquire(timeout=self._time_to_rest())
            rest = True
            pausing = self._pausing
            with self._work_lock:
                busy = self._turn()
                if self._over or pausing:
                    self._leave()
                    return
            quiet = 0 if busy else quiet + 1
            if quiet < _QUIET_LOOKS:
                continue
            quiet = 0
            if threading.main_thread() is not _MAIN:
                # A child that was forked in another thread ends when its last
                # thread does: waiting here would keep it alive for good.
                self._leave()
                return
            self._set_idle(True)
            if not (self._queue or self._requests or self._closing or self._pausing):
                wake.acquire()
            self._set_idle(False)

    def _thread_name(self) -> str:
        """The name of the thread that plays the pipeline's part just now."""
        known = name_of_thread(get_ident())  # current_thread() would register our own
        return f"aioaudit-{self.name}" if known is None else known

    def _leave(self) -> None:
        """The thread is about to end: see to it that nobody counts on it."""
        self._thread = None
        if self._over:
            self._answer_all()
            return
        self._set_idle(True)
        # Whoever forked may have gone on already, without waiting for this.
        if not self._pausing and self._has_work():
            self._wake_up()

    def _has_work(self) -> bool:
        return bool(self._queue or self._requests or (self._backlog and self._used))

    def _time_to_rest(self) -> float:
        if self._trouble:
            return _RETRY
        return _STEP if self._gap is not None else PERIOD

    def _turn(self) -> bool:
        """One look at everything there is to do; whether there was anything."""
        self._worker = ident = get_ident()
        self._looked = self._due = monotonic()
        self._steps += 1
        EXPORTING.add(ident)
        requests = self._take_requests()
        try:
            busy = bool(requests or self._queue or self._backlog or self._trouble)
            closing = self._closing
            asked = bool(requests) or closing or self._pausing
            if closing:
                self._set_open(False)
            if self._fault is not None and not self._over:
                self._fail(self._fault)
            elif asked:
                self._export_all()
            elif not self._trouble or monotonic() >= self._retry_at:
                self._export_ready()
            if requests and not self._over:
                self._guarded(self.exporter.flush)
            if closing and not self._over:
                self._finish()
            return busy
        finally:
            for request in requests:
                request.answer(not (self._trouble or self._failed))
            self._worker = None
            EXPORTING.discard(ident)

    def _take_requests(self) -> list[_Request]:
        taken: list[_Request] = []
        with suppress(IndexError):  # empty, perhaps because another thread took them
            while True:
                taken.append(self._requests.popleft())
        return taken

    def _answer_all(self) -> None:
        """Answer requests that came when the work was over already."""
        for request in self._take_requests():
            request.answer(not self._failed)

    def _export_all(self) -> None:
        """Export whatever was put before this call."""
        for _ in range(_GLANCES):
            self._export_ready()
            if self._gap is None or self._trouble or self._over:
                return
            sleep(_GLANCE)  # who drew the missing number puts its event in a moment
        self._export_ready(everything=True)

    def _export_ready(self, *, everything: bool = False) -> None:
        if self._trouble:
            # The queue keeps what comes meanwhile, so that `capacity` bounds it.
            self._offer(self._count_ready(everything=everything))
        now = monotonic()
        waiting = len(self._queue)  # what comes meanwhile is for the next look
        while not (self._trouble or self._over):
            # In small portions, each of which is over before somebody misses the GIL.
            portion = waiting if everything else min(waiting, _CHUNK)
            waiting -= portion
            self._drain(portion)
            # What is missing may be in the next portion: only after the last one it is not there.
            self._offer(self._count_ready(everything=everything, now=0.0 if waiting else now))
            if not waiting:
                return

    def _drain(self, count: int) -> None:
        if count:
            self._backlog += starmap(self._queue.popleft, repeat((), count))
            self._look_again()
        lost = self._losses.take()
        run = self._run
        faults = run.faults.since(self._faults_told)
        if lost is not None or faults:
            count, names = lost or (0, [])
            self._faults_told += len(faults)
            self._backlog.append(
                ProcessDropped(
                    ts=timestamp(time.time_ns()),
                    seq=run.next_seq(),
                    run=run.id,
                    pid=run.pid,
                    thread=self._thread_name(),
                    count=count,
                    events=names,
                    faults=faults,
                )
            )

    def _count_ready(self, *, everything: bool, now: float = 0.0) -> int:
        """How many items at the head of the backlog, sorted by now, may be exported.

        All that was put before *now* is in it.  Takes from it whatever came too late.
        """
        backlog = self._backlog
        numbers = list(map(seq_of, backlog))
        expected = self._last + 1
        if numbers == list(range(expected, expected + len(numbers))):  # the usual case
            self._gap = None
            return len(backlog)
        backlog.sort(key=seq_of)
        self._drop_late()
        while self._skipped:
            self._missing.add(self._skipped.popleft())
        limit = sys.maxsize if everything else self._lost_upto
        gap = self._gap
        if gap is not None and now >= gap.until:
            limit = max(limit, gap.upto)
        ready = 0
        for item in backlog:
            seq = seq_of(item)
            while expected < seq and expected in self._missing:
                expected += 1
            if seq != expected and seq > limit:
                break
            expected = seq + 1
            ready += 1
        if self._missing:
            self._missing = {number for number in self._missing if number >= expected}
        if ready == len(backlog):
            self._gap = None
        elif gap is None or gap.number != expected:
            self._gap = _Gap(expected, seq_of(backlog[-1]), monotonic() + self.hold)
        return ready

    def _drop_late(self) -> None:
        """Count what can no longer be exported in order, or is there twice, as lost."""
        last = self._last
        kept: list[Item] = []
        for item in self._backlog:
            seq = seq_of(item)
            if seq <= last:
                self._losses.add(item_name(item))
            else:
                kept.append(item)
                last = seq
        self._backlog[:] = kept

    def _offer(self, ready: int) -> None:
        """Give the first *ready* items of the backlog to the exporter."""
        while ready:
            chunk = self._backlog[: min(ready, _CHUNK)]
            try:
                self.exporter.export(Batch(chunk))
            except NotTakenError as error:
                self._took(chunk[: max(error.taken, 0)])
                if not self._trouble:
                    self._trouble = True
                    self._complain(one_line(str(error)))
                self._retry_at = monotonic() + _RETRY
                return
            except BaseException as error:  # noqa: BLE001 - whatever it is, the program goes on
                self._fail(error)
                return
            self._trouble = False
            self._steps += 1
            self._took(chunk)
            ready -= len(chunk)

    def _complain(self, trouble: str) -> None:
        """Say once, at its begin, what *trouble* means, also if it never ends."""
        what = (
            f"the last {len(self._backlog):,} events are lost unless it does at once"
            if self._closing
            else f"up to {self.capacity:,} wait until it does, or are lost with the end of the program"
        )
        say(f"exporter {self.name!r} takes no events for now: {trouble}; {what}")

    def _took(self, items: list[Item]) -> None:
        if items:
            del self._backlog[: len(items)]
            self._written += len(items)
            self._last = seq_of(items[-1])

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the program goes on
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Take the exporter out of service."""
        text = str(error) if isinstance(error, ExporterError) else describe(error)
        # Said before it is over: whoever waits for the end may let the process end.
        say(f"exporter {self.name!r} failed and is out of service: {one_line(text)}")
        self._failed = self._over = True
        self._set_open(False)
        self._lose_everything()
        with suppress(BaseException):  # it failed already and was reported
            self.exporter.shutdown()

    def _lose_everything(self) -> None:
        while self._queue:
            self._backlog.append(self._queue.popleft())
        for item in self._backlog:
            self._losses.add(item_name(item))
        self._backlog.clear()

    def _finish(self) -> None:
        """The last events, and the end of the exporter."""
        self._export_all()  # losses noticed a moment ago
        if self._trouble:
            self._lose_everything()  # what was said when the trouble began tells it
        if not self._over and self._written:
            run = self._run
            end = ProcessEnd(
                ts=timestamp(time.time_ns()),
                seq=run.next_seq(),
                run=run.id,
                pid=run.pid,
                thread=self._thread_name(),
                written=self.written,
                dropped=self.dropped,
                signal=self._signal,
                faults=run.faults.told(),
            )
            try:
                self.exporter.export(Batch([end]))
                self.exporter.flush()
            except NotTakenError:
                pass  # reported when the trouble began
            except BaseException as error:  # noqa: BLE001 - whatever it is, the program goes on
                self._fail(error)
        if not self._over:
            self._guarded(self.exporter.shutdown)
            self._over = True

    # -- asking the thread, or doing its work -----------------------------------------

    def _ask_for_end(self, signal: str | None) -> _Request | None:
        if not self._closing:
            self._signal = signal
            self._closing = True
        if self._used:
            return self._ask()
        # The exporter was never given anything: there is no thread to do it.
        self._over = True
        self._set_open(False)
        self._guarded(self.exporter.shutdown)
        return _Request.answered(not self._failed)

    def _ask(self) -> _Request | None:
        """Leave a request for the thread; None if the caller has to do the work."""
        request = _Request()
        self._requests.append(request)
        if self._over:
            self._answer_all()  # the thread may have gone without seeing it
        elif self._starter == get_ident():
            return None  # in a signal handler that interrupted the start of the thread
        elif self._thread is not None:
            self._release_wake()
        elif self._pausing or not self._start_thread():
            return None
        return request

    def _await(self, request: _Request | None, deadline: float) -> bool:
        if get_ident() == self._worker:
            return False  # called by the exporter, or by a handler that interrupted its work
        left = max(deadline - monotonic(), 0.0)
        if request is not None:
            return request.wait(left)
        if not acquire(self._work_lock, left):
            return False
        try:
            self._turn()
        finally:
            self._work_lock.release()
        return not (self._trouble or self._failed)


@dataclass(slots=True, frozen=True)
class _Gap:
    """*number* is missing: all *upto* that number goes on without it at time *until*."""

    number: int
    upto: int
    until: float


class _Request:
    """Something that a caller waits for: a locked lock that the thread releases."""

    __slots__ = ("_lock", "_well")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()
        self._well = False

    @classmethod
    def answered(cls, well: bool) -> _Request:
        request = cls()
        request.answer(well)
        return request

    def answer(self, well: bool) -> None:
        self._well = well
        self._lock.release()

    def wait(self, timeout: float) -> bool:
        return acquire(self._lock, timeout) and self._well


class _Losses:
    """Counts by name, exact although several threads count and none locks."""

    def __init__(self) -> None:
        self._counters: dict[str, itertools.count[int]] = {}
        self._told: dict[str, int] = {}

    def add(self, name: str) -> None:
        """One event called *name* is lost."""
        counter = self._counters.get(name)
        if counter is None:
            counter = self._counters.setdefault(name, itertools.count())
        next(counter)

    def _values(self) -> dict[str, int]:
        # ``count(7)``: its repr is the one way to read a count without stepping on.
        return {name: int(repr(each)[6:-1]) for name, each in list(self._counters.items())}

    def total(self) -> int:
        """How many were lost so far."""
        return sum(self._values().values())

    def take(self) -> tuple[int, list[str]] | None:
        """How many were lost since the last call, and their names; None if none was."""
        if not self._counters:
            return None
        values = self._values()
        names = sorted(name for name, value in values.items() if value > self._told.get(name, 0))
        if not names:
            return None
        count = sum(values.values()) - sum(self._told.values())
        self._told = values
        return count, names


def say(text: str) -> None:
    """One line on stderr, whatever state that is in."""
    try:
        if sys.stderr is not None:  # None under pythonw and the like
            sys.stderr.write(f"aioaudit: {text}\n")
            sys.stderr.flush()
    except (OSError, ValueError):
        pass  # closed or gone: there is nobody to tell


def one_line(text: str) -> str:
    """*text* on one line, nothing in it that a terminal would obey."""
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in joined)
