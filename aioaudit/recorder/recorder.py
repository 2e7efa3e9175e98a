"""The recorder: takes in what the probes see, and has it told.

The probes (`aioaudit.probes`) stand inside asyncio and call in here.  For each of the four
things that happen to a task there is one method, which reads from top to bottom:
`on_create`, `on_cancel` (and `on_future_cancel`), `on_uncancel`, `on_end`.  A task that a line
makes again is noted by the probe itself, on the hottest path of all (`aioaudit.probes.tasks`),
and so is one that just returns (`aioaudit.probes.ends`).  What is known lies in
`State`, why something is cancelled is found out by `Inquiry`, what went wrong by `Rules`, and
the `Sender` gives events to whoever hears them.
"""

from __future__ import annotations

import sys
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Any

from aioaudit.core import Created
from aioaudit.cpython.groups import TIMEOUT_ERROR
from aioaudit.cpython.loops import running_loop
from aioaudit.cpython.tasks import current_task
from aioaudit.delivery.records import lifetime as lifetime_of
from aioaudit.delivery.redacting import Redacting
from aioaudit.events import Outcome, SignalSent, TaskCancel, TaskDone, TaskUncancel
from aioaudit.findings.rules import Rules
from aioaudit.identity import Run
from aioaudit.recognisers import loops, losses, registry, stdlib
from aioaudit.recognisers.uncancels import OWN_ONLY, SCOPES, asked_since
from aioaudit.recorder.inquiry import Inquiry
from aioaudit.recorder.notes import Notes
from aioaudit.recorder.signalled import signal_here
from aioaudit.recorder.watcher import Watcher
from aioaudit.sending import Sender
from aioaudit.stack.code import APPLICATION, Codes
from aioaudit.stack.frames import (
    caller,
    callers,
    error_site,
    functions_above,
    signal_name,
    variables,
)
from aioaudit.state.awaiters import waiters_of
from aioaudit.state.known import State
from aioaudit.state.places import loop_of
from aioaudit.state.verdict import classify_end, drop_propagated, match_uncancel
from aioaudit.text import clean, describe
from aioaudit.threads import get_ident

if TYPE_CHECKING:
    from aioaudit.state.cause import Cause
    from aioaudit.state.handoffs import Handoff
    from aioaudit.state.requests import CancelState, Request


MOST_CALLERS = 10
"""Functions that are told of who sends a signal."""


class Recorder:
    """Auditing in this process: what the probes call, and what they may look at."""

    def __init__(self, run: Run, wanted: frozenset[str]) -> None:
        self.sender = Sender(run, wanted)
        self.report_fault = self.sender.report_fault
        self.muted = self.sender.muted
        codes = Codes(
            dict(stdlib.CALL_SITES),
            set(stdlib.BOUNDARIES | loops.BOUNDARIES),
            registry.find,
            self.report_fault,
        )
        self.state = State(run, codes, self.muted, self.report_fault)
        self.rules = Rules(self.state, self.sender)
        self.state.cancellations.on_error_released = self.rules.on_error_released
        self.redaction = Redacting()
        """What of it may leave the process."""
        self.notes = Notes(self.state, self.report_fault, self.redaction)
        self.cancel_over = self.state.cancellations.leave
        self._inquiry = Inquiry(self.state, self.sender)
        self.explain_scheduled = self._inquiry.explain_scheduled
        self.explain_cancel = self._inquiry.explain_cancel
        self._made_by_signal: dict[int, tuple[int, Handoff]] = {}
        """By thread: the number of the task that a signal's handler is just making in it."""
        self.state.creation_sites.find_signal = self._find_signal
        self.state.waits.find_lost = losses.lost_with
        self.look_for_libraries: Callable[[], None] = lambda: None
        self.watcher = Watcher(self.state, self.sender, self.rules)
        self.catch_up: Callable[[Any], None] = lambda _loop: None
        """Hears what a loop has not told, and never will."""
        self.on_loop_error: Callable[[], object] | None = None
        """Hears that an error was reported to a loop, which nobody had handled."""

    def is_deaf_to(self, future: Any) -> bool:
        """Whether nobody hears what is done here to the task or future *future*."""
        return self.muted() and self.is_deaf_to_loop(loop_of(future))

    def is_deaf_to_loop(self, loop: Any) -> bool:
        """The same of *loop*, and of all that is its.

        An exporter's own tasks are its own affair.  But the garbage collector runs in any
        thread, an exporter's too, and a finalizer of the program may reach for a loop that
        runs elsewhere.
        """
        return self.muted() and (self.sender.closed or not self.state.places.runs_elsewhere(loop))

    # -- the process --------------------------------------------------------------

    def after_fork(self, run: Run) -> None:
        """This is a forked child: another run, and none of the parent's threads."""
        self.sender.run = run
        self.state.after_fork(run)
        self.redaction.after_fork()
        self.watcher.after_fork()

    def catch_up_stopped_loops(self) -> None:
        """The process ends: hear what its loops have not told, where they run no more."""
        for loop in self.state.places.loops():
            try:
                if not loop.is_running():
                    self.catch_up(loop)
            except Exception as error:  # noqa: BLE001 - a foreign loop may answer with anything
                self.report_fault(error)

    def close(self) -> None:
        """Hear nothing more: the interpreter is going down."""
        self.sender.closed = True
        self.state.cancellations.interpreter_ending = True

    def _find_signal(self, frame: FrameType) -> Handoff | None:
        return signal_here(
            self.state, frame, current_task(), "asked by a task that its handler made"
        )

    def on_sending(
        self, frame: FrameType | None, to: object, number: object, *, group: bool
    ) -> SignalSent | None:
        """*frame* is about to send *to* the signal *number*: what is to be told once it is sent.

        *frame* is None where no Python code calls.  Gives None where nobody hears of it, or there is nothing to tell: 0 only asks whether there is
        such a process.
        """
        sender, known = self.sender, self.state
        if not sender.is_active("signal.sent") or not isinstance(to, int):
            return None
        if not isinstance(number, int) or not number:
            return None
        current = current_task()
        place = known.places.place(None if current is None else running_loop())
        if place.muted:
            return None
        found, library = callers(known.codes, frame)
        here = signal_here(known, frame, current, "")
        error = sys.exception()
        detail = None
        if here is not None and here.signal is not None:
            detail = f"in the handler of {signal_name(here.signal)}"
        elif error is not None:
            detail = clean(f"while handling {describe(error)}")
        return SignalSent(
            **sender.base_fields("signal.sent", place),
            to=-abs(to) if group else to,
            signal=signal_name(number),
            source=None if found is None else found[0].source,
            at=None if found is None else found[0].at(found[1]),
            library=None if library is None else library[0].source,
            library_at=None if library is None else library[0].at(library[1]),
            by=None if current is None else known.tasks.number(current),
            by_name=None if current is None else known.tasks.name(current),
            callers=list(islice(functions_above(known.codes, frame), MOST_CALLERS)),
            detail=detail,
        )

    # -- tasks are made -----------------------------------------------------------

    def on_create(self, coro: Any, loop: Any, name: Any, frame: FrameType) -> Created | None:
        """*frame* makes a task to run *coro* in *loop*: what is known of it before it is made.

        None where that is to be left alone.  Once the task is there, `on_created` is to be called.
        """
        known = self.state
        place = known.places.place(loop if loop is not None else running_loop())
        if place.muted:
            return None
        current = current_task()
        site, signal = known.creation_sites.site(place, coro, frame)
        number = known.tasks.next_number()
        if signal is not None:
            self._made_by_signal[get_ident()] = number, signal
        return Created(
            self.sender.seq("task.create"),
            number,
            time.time_ns(),
            site,
            name if isinstance(name, str) else "",
            None if current is None else known.tasks.number(current),
        )

    def on_created(self, task: Any, made: Created) -> None:
        """*task* is the one that `on_create` has *made* known."""
        if "task.create" in self.sender.selected_events:
            self.sender.sinks.put(made)
        elif made.seq:
            self.sender.sinks.skip(made.seq)  # nobody wants to hear of it any more
        self.state.tasks.states.pop(id(task), None)  # of an earlier one at that address
        self.state.tasks.born[id(task)] = made
        if self._made_by_signal:
            number, signal = self._made_by_signal.get(get_ident(), (None, None))
            if signal is not None and number == made.task:
                del self._made_by_signal[get_ident()]
                # That the handler made it is a fact; that it asks because of that, a conclusion.
                self.state.handoffs.carry(task, signal, "inferred")
                self.state.cancellations.asks.forget_lines()

    # -- cancel() -----------------------------------------------------------------

    def on_cancel(self, task: Any, message: Any, frame: FrameType | None) -> Request | None:
        """``task.cancel(message)`` is called by *frame*: the request that this is, None for none.

        It is told and may be objected to before the original is called; what a hook
        raises travels on.  After the original the caller is to call `cancel_over`.
        """
        try:
            if self._inquiry.note_passed_on_again(task, frame):
                return None
            request = self._inquiry.task_request(task, message, frame)
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a task alive
            self.report_fault(error)
            return None
        if request is None:
            return None
        if request.times == 1:
            self.sender.emit_preventable(request.event)
        request.victim = id(task)
        cancellations = self.state.cancellations
        cancellations.accept(task, request)
        if "finding" in self.sender.active_events:
            self.rules.on_request(task, request)
        cancellations.enter(request, forwards=True)
        return request

    def on_future_cancel(
        self, future: Any, message: Any, frame: FrameType | None, waiters: list[Any]
    ) -> Request | None:
        """The same for a plain future that *waiters* await: they will end with it."""
        try:
            request = self._inquiry.future_request(future, message, frame, waiters)
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a future from being cancelled
            self.report_fault(error)
            return None
        self.sender.emit_preventable(request.event)
        self.state.cancellations.pass_on(waiters, request)
        self.state.cancellations.enter(request)
        return request

    def remember_cause(self, future: Any, cause: Cause) -> None:
        """*future* is cancelled because of *cause*; another one will follow it."""
        self.state.handoffs.chained_causes[future] = cause

    # -- uncancel() ---------------------------------------------------------------

    def on_uncancel(self, task: Any, frame: FrameType, remaining: int) -> None:
        """``uncancel()`` was called on *task* by *frame*; *remaining* is what ``cancelling()`` says."""
        request = self._match_uncancel(task, frame, remaining)
        self.notes.on_taken_back(self.state.tasks.find_state(task))
        if not self.sender.is_active("task.uncancel"):
            return
        known = self.state
        state = known.tasks.state(task)
        found = caller(known.codes, frame)
        event = self.sender.new_event(TaskUncancel, known.places.place())
        event.task = state.task
        event.name = known.tasks.name(task)
        event.coro = state.coro
        event.preexisting = state.preexisting
        event.remaining = remaining
        if request is not None:
            event.cancel = request.event.seq or None
        if found is not None:
            event.at = found[0].at(found[1])
            if request is not None:
                request.absorbed_at = event.at
        event.source = known.codes.of(frame).source
        self.sender.emit_final(event)

    def _match_uncancel(self, task: Any, frame: FrameType, remaining: int) -> Request | None:
        """The request that an ``uncancel()`` on *task*, called by *frame*, took back."""
        known = self.state
        cancellations = known.cancellations
        state = known.tasks.find_state(task)
        if state is None:
            return None
        cancellations.changes += 1
        info = known.codes.known.get(id(frame.f_code)) or known.codes.of(frame)
        owner = since = None
        own_only = scope = False
        values: Mapping[str, Any] = {}
        if info.owner != APPLICATION:
            values = variables(frame)
            owner = values.get("self")
            own_only = info.source in OWN_ONLY
            scope = info.source.startswith(SCOPES)
            since = asked_since(info.source, owner, remaining)
        request = match_uncancel(
            state, None if owner is None else id(owner), known=own_only, scope=scope, since=since
        )
        if request is None:
            return None
        if since is not None and since <= 0 and request.timed_out and request.owner == id(owner):
            # Nothing else was asked: Timeout.__aexit__ raises a TimeoutError in its place.
            error = values.get(TIMEOUT_ERROR)
            tie = None if error is None else cancellations.tie_of(error)
            if (
                tie is None
                and not cancellations.deliveries_seen
                and isinstance(error, CancelledError)
            ):
                # Nobody saw it arrive, and here it is handed over with the request it was for.
                cancellations.tie(error, request, state)
                tie = cancellations.tie_of(error)
                self.notes.on_delivered(error)
                self.notes.on_replacing(frame)
            if tie is not None:
                tie.timeout = request
        if "finding" in self.sender.active_events:
            self.rules.on_uncancel(task, state, request, frame)
        return request

    # -- ends -----------------------------------------------------------------------------

    def on_end(
        self,
        task: Any,
        outcome: Outcome,
        error: BaseException | None,
        *,
        by_hand: bool = False,
        beside_another: bool = False,
        result: object = None,
        came_with: Request | None = None,
    ) -> None:
        """*task* has ended in another way than by a plain return, or after a request.

        *by_hand* says that a CancelledError ended it that nothing delivered; *result*
        is what it returned; *beside_another* and *came_with* as in `classify_end`.
        """
        known = self.state
        tasks = known.tasks
        cancellations = known.cancellations
        cancellations.changes += 1
        born = tasks.born.pop(id(task), None)
        state = tasks.find_state(task)
        if state is None and born is None:
            state = tasks.state(task)
        cancellations.adopt_behind(error)
        request, cancel_outcome = classify_end(
            cancellations.ties,
            state,
            outcome,
            error,
            seen=cancellations.deliveries_seen,
            by_hand=by_hand,
            beside_another=beside_another,
            came_with=came_with,
        )
        if state is None:
            assert born is not None
            if outcome == "returned":
                tasks.remember(task, born)
            else:
                state = tasks.state(task, born)
        if outcome == "raised" and error is not None:
            number = born.task if born is not None else tasks.number(task)
            known.failures.add(task, number, error)
        if state is not None:
            state.ended = True
            state.outcome = outcome
            state.cancel_outcome = cancel_outcome
            # The last delivered may be another: a scope's, taken back since.
            state.current = request
            if outcome == "cancelled" and cancel_outcome == "obeyed":
                cancellations.pass_on(self.felt_by(waiters_of(task), request), request)
            elif outcome != "cancelled":
                for lost in drop_propagated(state):
                    self.rules.on_propagation_lost(lost, state)
            if not by_hand:
                self.notes.on_end(state, error, request)
        if "task.done" in self.sender.active_events:
            if outcome == "cancelled" and not by_hand:
                error = None  # there is nothing to say of it but whose request it delivers
            self._send_end(task, born, state, error, request)
        if state is not None and "finding" in self.sender.active_events:
            self.rules.on_end(task, state, born, outcome, error, request, result)

    def felt_by(self, waiters: Iterable[Any], request: Request | None) -> Iterable[Any]:
        """Those of *waiters* that the CancelledError reaches which ended a task for *request*.

        Where no delivery is seen: not the one whose ``wait_for`` has run out, which raises a
        TimeoutError in its place.
        """
        if (
            not self.state.cancellations.deliveries_seen
            and request is not None
            and request.timed_out
            and isinstance(request.event, TaskCancel)
            and request.event.by is not None
        ):
            by, number = request.event.by, self.state.tasks.number
            return [each for each in waiters if number(each) != by]
        return waiters

    def _send_end(
        self,
        task: Any,
        born: Created | None,
        state: CancelState | None,
        error: BaseException | None,
        request: Request | None,
    ) -> None:
        known = self.state
        event = self.sender.new_event(TaskDone, known.places.place(loop_of(task)))
        if born is not None:
            event.task, event.coro = born.task, born.coro
            event.lifetime = lifetime_of(time.time_ns() - born.ns)
        elif state is not None:
            event.task, event.coro, event.preexisting = state.task, state.coro, state.preexisting
        event.name = known.tasks.name(task)
        event.outcome = "returned"
        if error is not None:
            event.error = describe(error)
            event.error_at, _ = error_site(known.codes, error)
        if state is not None:
            event.outcome = state.outcome or "returned"
            event.cancel_outcome = state.cancel_outcome
            if state.cancel_outcome == "swallowed":
                event.swallowed_at = state.swallowed_at
        if request is not None:
            logged = request.nearest_logged()
            event.cancel = None if logged is None else logged.event.seq
            if state is not None and state.concluded:
                event.evidence = "inferred"
        if known.traces.on:
            event.trace_id, event.span_id = self._trace_of_end(task, event.task, request)
        self.sender.emit_final(event)

    def _trace_of_end(
        self, task: Any, number: int, request: Request | None
    ) -> tuple[str | None, str | None]:
        """The trace and the span of *task*, which ended, and which *request* had to do with."""
        if request is not None:
            asked = request.event
            if isinstance(asked, TaskCancel) and asked.task == number:
                return asked.trace_id, asked.span_id
        ids = self.state.traces.of(task)
        if ids is not None:
            return ids.trace_id, ids.span_id
        # What it awaited was in one.
        return (None, None) if request is None else (request.event.trace_id, request.event.span_id)
