"""Between the bus and one exporter: a queue that never makes the program wait.

Goal: whatever an exporter does, be slow, fail or hang, the program neither
waits for it nor notices it, and no event is lost in silence.

Each exporter has one `Pipeline`, made of a queue (`aioaudit.core`), a thread that empties it
(`worker`) and to which a busy program gives way (`pace`), the order of numbers
(`ordering`), and the count of what could not be kept (`losses`), which a
`ProcessDropped` tells as soon as there is room again.  Here they come together, with
the exporter and its troubles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from aioaudit.core import Created, Queue
from aioaudit.delivery.encoding import Batch
from aioaudit.delivery.journal import TIMEOUT, Waiting, flush_all, shutdown_all
from aioaudit.delivery.losses import NOT_YET, Losses
from aioaudit.delivery.ordering import HOLD, LOOKS, Ordering
from aioaudit.delivery.pace import Pace
from aioaudit.delivery.records import Record
from aioaudit.delivery.worker import EXPORTING, PERIOD, Completion, Door, Worker
from aioaudit.events import ProcessDropped, ProcessEnd, ProcessStart
from aioaudit.exporter import Exporter, ExporterError, NotTakenError
from aioaudit.identity import Run
from aioaudit.text import describe, one_line, say, words_of
from aioaudit.threads import monotonic, sleep
from aioaudit.timestamps import timestamp

_STEP = 0.01  # between two looks while waiting for a missing number
_GLANCE = 0.001  # between two looks for a missing number while somebody waits...
_GLANCES = 20  # ... and how many of them there are: see `ordering.LOOKS`
_RETRY = 0.25  # between two tries while the exporter cannot take events
_MOST_UNSEEN = 64  # so many events may be put between two looks at the clock...
_OFTEN = 1e-3  # ... where they come more often than that, in seconds; else each is a look
_NAMING = 0.01  # how long a task may be there before it gets its name
_CHUNK = 1_000  # events given to the exporter at once: for so long it may keep the GIL


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
        late: Whether nothing is owed to the exporter before it has joined (`join`), as where
            the run has begun already; else all that comes after *start* is.
        door: By which the exporter is asked from outside of the process, if it is.
        redact: Makes of records what of them may leave the process; called in the thread.
    """

    def __init__(
        self,
        exporter: Exporter,
        *,
        name: str,
        run: Run,
        start: ProcessStart,
        capacity: int = 100_000,
        hold: float = HOLD,
        late: bool = False,
        door: Door | None = None,
        redact: Callable[[list[Record]], list[Record]] | None = None,
    ) -> None:
        self.exporter = exporter
        self._redact = redact
        self._door = door
        self.name = name
        self.capacity = capacity
        self.hold = hold
        self.pace = Pace(self._has_thread)
        self.queue = Queue(
            capacity,
            self.wake_up,
            self._lose,
            self.pace.keep,
            often=_OFTEN,
            most_unseen=_MOST_UNSEEN,
        )
        self.queue.set_open(True)
        self.set_idle = self.queue.set_idle
        self._begin(run, start)
        if late:
            self._losses.after = self._losses.missed_after = NOT_YET

    @property
    def put(self) -> Callable[[Record], None]:
        """Queues an item.  Never blocks and never raises; a full queue counts a loss."""
        return self.queue.put

    def _begin(self, run: Run, start: ProcessStart) -> None:
        """The state of a new run; nothing of an earlier one is looked at."""
        self._run = run
        self._losses = Losses(start.seq - 1)
        self.ordering = Ordering(start, self._losses, self.hold)
        self.worker = Worker(self, self.name, self._door)
        self.pace.begin()
        self._faults_told = 0  # how many kinds of internal faults the exporter knows of
        self._written = 0
        self._trouble = False
        self._retry_at = 0.0
        self._used = False  # an item came, or `open_now`
        self._unused_open = False  # to be closed, and was never given anything
        self.closing = False
        self._looks_till_joined = 0  # ... where others were there before
        self._newest = 0  # the number of an event, see `_may_get_its_name`...
        self._newest_since = 0.0  # ... and when it was seen first
        self._left = False  # taken out, while others stay
        self._signal: str | None = None
        self._fault: Exception | None = None  # for which the exporter is to go out of service
        self.failed = False  # out of service
        self.over = False  # out of service or shut down: the exporter is not called again
        self._given_up = False  # somebody waited in vain for the end

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
        self.ordering.skip(seq)

    def join(self, upto: int, *, alone: bool) -> None:
        """Every event with a higher number than *upto* is owed to the exporter from now on.

        *alone* says that there was no other one before.
        """
        losses = self._losses
        if losses.after == NOT_YET:
            losses.after = upto
            if alone:
                losses.missed_after = upto
            else:
                self._looks_till_joined = LOOKS

    def leave(self, upto: int) -> None:
        """Of what has a higher number than *upto* nothing is owed to it: it is taken out."""
        losses = self._losses
        losses.left = losses.owed_upto = min(losses.left, upto)
        self._left = True

    def open_now(self) -> None:
        """Let the exporter have the `ProcessStart` now, although no item came yet."""
        self.wake_up()

    def fail(self, error: Exception) -> None:
        """Take the exporter out of service, because of what it did outside its thread."""
        if self._fault is None:
            self._fault = error
            self.wake_up()

    def urge(self) -> None:
        """What was put last is waited for: see to it that the thread comes soon."""
        now = monotonic()
        if self.pace.is_late_for_news(now):
            self.worker.signal()
            self.pace.give_way(now)

    def flush(self, timeout: float = TIMEOUT) -> bool:
        """Have everything that was put before exported and flushed.

        Waits for at most *timeout* seconds.  True if all of it is where it
        belongs; False if time ran out, if the exporter is out of service or
        cannot take events just now, or if it is called by the exporter itself.
        """
        return flush_all([self], timeout)

    def begin_flush(self) -> Waiting:
        """Ask for `flush`; what is given waits for it until a time, and says how it went."""
        if not self._used:
            return lambda _deadline: True
        done = self.worker.ask()
        return lambda deadline: self.worker.wait(done, deadline)

    def shutdown(self, timeout: float = TIMEOUT, *, signal: str | None = None) -> bool:
        """Export what is left and a `ProcessEnd`, then close the exporter.

        Waits for at most *timeout* seconds; then one line on stderr says that
        events may be lost.  *signal* is the name of the signal that ends the
        process.  Whatever is put later is counted as lost.  Doing it again
        changes nothing.  True if all of it was done.
        """
        return shutdown_all([self], timeout, signal=signal)

    def begin_shutdown(self, timeout: float, *, signal: str | None = None) -> Waiting:
        """Ask for `shutdown`; what is given waits for it until a time, and says how it went."""
        done = self._ask_for_end(signal)

        def wait(deadline: float) -> bool:
            if self._unused_open:
                self._close_unused()
                return not self.failed
            if self._given_up and not self.over:
                return False  # once was enough
            if self.worker.wait(done, deadline):
                return True
            if not (self.over or self.worker.is_here()):
                self._given_up = True
                left = len(self.queue) + len(self.ordering.waiting)
                # How much it holds itself, and has not sent yet, only the exporter knows.
                lost = f"{left:,} events" if left else "what it had taken"
                say(
                    f"exporter {self.name!r} did not finish within {timeout:g} s; "
                    f"{lost} may be lost"
                )
            return False

        return wait

    def _ask_for_end(self, signal: str | None) -> Completion | None:
        if not self.closing:
            self._signal = signal
            losses = self._losses
            losses.owed_upto = min(losses.owed_upto, self._run.drawn())
            self.closing = True
        if not (self._used or self.over):
            # The exporter was never given anything: there is no thread to close it.  Whoever
            # waits for the end does it, since it may take its time.
            self.queue.set_open(False)
            self._unused_open = True
            self.over = True
        return self.worker.ask()

    def _close_unused(self) -> None:
        self._unused_open = False
        try:
            self.exporter.shutdown()
        except KeyboardInterrupt:
            raise  # somebody at the keyboard means the program, whose thread this is
        except BaseException as error:  # noqa: BLE001 - whatever it is, the program goes on
            self._fail(error)

    # -- forks ------------------------------------------------------------------

    def before_fork(self) -> None:
        """End the thread, after it exported what there is, without waiting for long."""
        self.worker.pause()

    def after_fork_in_parent(self) -> None:
        """Go on after `before_fork`.

        The next event starts a new thread; only what was put during the fork
        starts one at once.
        """
        self.worker.resume()

    def after_fork(self, run: Run, start: ProcessStart) -> None:
        """In the child: forget the parent's events, locks and thread; begin as *run*.

        The exporter gets *start* first, and nothing at all before an event is
        put or `open_now` is called.
        """
        failed = self.failed
        if self._door is not None:
            self._door.forget()
        self.queue.clear()
        EXPORTING.clear()
        self._begin(run, start)
        if failed:
            self.failed = self.over = True  # not tried, and reported, once more
            return
        self.queue.set_open(True)
        self.queue.set_idle(True)

    # -- what the thread asks, see `worker.Job` -----------------------------------------

    def wake_up(self) -> None:
        """There is something to do."""
        self._used = True
        self.pace.woken()
        self.queue.set_idle(False)
        self.worker.wake_up()

    def has_work(self) -> bool:
        """Whether something waits to be exported."""
        return bool(self.queue or (self.ordering.waiting and self._used))

    def time_to_rest(self) -> float:
        """Seconds until the next look at the queue."""
        if self._trouble:
            return _RETRY
        return _STEP if self.ordering.has_gap else PERIOD

    def went_well(self) -> bool:
        """Whether the exporter takes events."""
        return not (self._trouble or self.failed)

    def turn(self, *, everything: bool, flush: bool) -> bool:
        """Export what there is; whether there was anything."""
        self.pace.looked()
        if self._looks_till_joined:
            self._looks_till_joined -= 1
            if not self._looks_till_joined:  # who was on its way is there
                self._losses.missed_after = self._run.drawn()
        busy = bool(self.queue or self.ordering.waiting or self._trouble)
        closing = self.closing
        if self._fault is not None and not self.over:
            self._fail(self._fault)
        elif everything or closing:
            self._export_all()
        elif not self._trouble or monotonic() >= self._retry_at:
            self._export_ready(hold_back=True)
        if flush and not self.over:
            self._guarded("flush")
        if closing and not self.over:
            self._finish()
        return busy

    def _has_thread(self) -> bool:
        return self.worker.has_thread()

    # -- exporting ----------------------------------------------------------------------

    def _lose(self, item: Record) -> None:
        self._losses.add_unqueued(item)

    def _export_all(self) -> None:
        """Export whatever was put before this call."""
        for _ in range(_GLANCES):
            self._export_ready()
            if not self.ordering.has_gap or self._trouble or self.over:
                return
            sleep(_GLANCE)  # who drew the missing number puts its event in a moment
        if self._left:
            self.ordering.owe_no_more()  # and has put it where we are not any more
        self._export_ready(everything=True)

    def _export_ready(self, *, everything: bool = False, hold_back: bool = False) -> None:
        if self._trouble:
            # The queue keeps what comes meanwhile, so that `capacity` bounds it.
            self._offer(self.ordering.count_ready(everything=everything))
        now = monotonic()
        waiting = len(self.queue)  # what comes meanwhile is for the next look
        while not (self._trouble or self.over):
            # In small portions, each of which is over before somebody misses the GIL.
            portion = waiting if everything else min(waiting, _CHUNK)
            waiting -= portion
            self._drain(portion)
            # What is missing may be in the next portion: only after the last one it is not there.
            upto = 0.0 if waiting else now
            ready = self.ordering.count_ready(everything=everything, now=upto)
            if hold_back and not waiting and self._may_get_its_name(ready, now):
                ready -= 1
            self._offer(ready)
            if not waiting:
                return

    def _may_get_its_name(self, ready: int, now: float) -> bool:
        """Whether the last of the *ready* items that wait is a task that was made just now.

        A loop with a factory of tasks names what that made only then (``create_task`` in
        Lib/asyncio/base_events.py, up to 3.13.0; uvloop's, too), and this thread may come
        in between.  The last one is therefore left for a later look, for a moment.
        """
        last = self.ordering.waiting[ready - 1] if ready else None
        if type(last) is not Created:
            return False
        if last.seq != self._newest:
            self._newest = last.seq
            self._newest_since = now
        return now - self._newest_since < _NAMING

    def _drain(self, count: int) -> None:
        if count:
            self.ordering.add(self.queue.take(count))
            self.queue.took()
        self.ordering.note_skipped()
        lost = self._losses.take()
        run = self._run
        faults = run.faults.since(self._faults_told)
        if lost is not None or faults:
            count, names = lost or (0, [])
            self._faults_told += len(faults)
            dropped = ProcessDropped(
                ts=timestamp(time.time_ns()),
                seq=run.own_seq(self),
                run=run.id,
                pid=run.pid,
                thread=self.worker.thread_name(),
                count=count,
                events=names,
                faults=faults,
            )
            self.ordering.add((dropped,))

    def _offer(self, ready: int) -> None:
        """Give the first *ready* items of those that wait to the exporter."""
        while ready:
            chunk = self.ordering.waiting[: min(ready, _CHUNK)]
            try:
                self.exporter.export(Batch(chunk if self._redact is None else self._redact(chunk)))
            except NotTakenError as error:
                if not isinstance(error.taken, int):  # pyright: ignore[reportUnnecessaryIsInstance] - set later, by anybody
                    self._fail(TypeError(f"NotTakenError.taken is {error.taken!r}, no number"))
                    return
                self._took(chunk[: max(error.taken, 0)])
                if not self._trouble:
                    self._trouble = True
                    self._complain(one_line(words_of(error)))
                self._retry_at = monotonic() + _RETRY
                return
            except BaseException as error:  # noqa: BLE001 - whatever it is, the program goes on
                self._fail(error)
                return
            self._trouble = False
            self.pace.stepped()
            self._took(chunk)
            ready -= len(chunk)

    def _complain(self, trouble: str) -> None:
        """Say once, at its begin, what *trouble* means, also if it never ends."""
        waiting = len(self.ordering.waiting)
        what = (
            f"the last {waiting:,} events are lost unless it does at once"
            if self.closing
            else f"up to {self.capacity:,} wait until it does, or are lost with the end of the program"
        )
        say(f"exporter {self.name!r} takes no events for now: {trouble}; {what}")

    def _took(self, items: list[Record]) -> None:
        self.ordering.passed(items)
        self._written += len(items)

    def _guarded(self, verb: str) -> None:
        """Have the exporter do *verb*, which it may lack by now."""
        try:
            getattr(self.exporter, verb)()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the program goes on
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Take the exporter out of service."""
        text = words_of(error) if isinstance(error, ExporterError) else describe(error)
        # Said before it is over: whoever waits for the end may let the process end.
        say(f"exporter {self.name!r} failed and is out of service: {one_line(text)}")
        self.failed = self.over = True
        self.queue.set_open(False)
        self._lose_everything()
        with suppress(BaseException):  # it failed already and was reported
            self.exporter.shutdown()

    def _lose_everything(self) -> None:
        while self.queue:
            self.ordering.add(self.queue.take(1))
        self.ordering.lose_all()

    def _finish(self) -> None:
        """The last events, and the end of the exporter."""
        self.queue.set_open(False)
        self._export_all()  # what came meanwhile, and losses noticed a moment ago
        if self._trouble:
            self._lose_everything()  # what was said when the trouble began tells it
        if not self.over and self._written:
            run = self._run
            seq = run.own_seq(self)
            if not self._left:
                self.ordering.end_before(seq)
            end = ProcessEnd(
                ts=timestamp(time.time_ns()),
                seq=seq,
                run=run.id,
                pid=run.pid,
                thread=self.worker.thread_name(),
                written=self.written,
                dropped=self.dropped,
                signal=self._signal,
                faults=run.faults.totals(),
            )
            try:
                self.exporter.export(Batch([end]))
                self.exporter.flush()
            except NotTakenError:
                pass  # reported when the trouble began
            except BaseException as error:  # noqa: BLE001 - whatever it is, the program goes on
                self._fail(error)
        if not self.over:
            self._guarded("shutdown")
            self.over = True
