"""Notes on errors (PEP 678): who cancelled, where tracebacks are read.

A CancelledError gets its note when it is delivered, before any line of the program can look at
it.  The error that replaces it (a TimeoutError, or what a handler or a clean-up raises) gets the same
one when it leaves the handler of the CancelledError: until then it may be one of many that the
clean-up deals with by itself, and has nothing to do with the request.  Python ties the two together
(``__context__``, ``__cause__``), so the note of the first is that of the second.

Whose a CancelledError is can change while it travels (`aioaudit.chain.obeyed`); then its note does.

Without `sys.monitoring` neither is seen.  There the notes of a CancelledError are made when
somebody asks for them (`aioaudit.probes.notes`), those of asyncio's timeouts when they are raised
(`aioaudit.cpython.tracing`), and those of other errors when they leave the task.
"""

from __future__ import annotations

import os
import sys
import weakref
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from aioaudit.chain.summary import CANCELLED, CANCELLED_PROBABLY, note
from aioaudit.chain.walk import Chains, from_task, inferred
from aioaudit.cpython.tasks import current_task
from aioaudit.cpython.tracing import watch_errors
from aioaudit.events import TaskCancel
from aioaudit.state.reading import MemoryReading
from aioaudit.state.requests import Note
from aioaudit.text import clean

if TYPE_CHECKING:
    from aioaudit.delivery.redacting import Redacting
    from aioaudit.state.known import State
    from aioaudit.state.requests import CancelState, Request, Tie

NOTES = "__notes__"
"""Where an error has them."""

_LONGEST = 1000
"""Characters of a note that are kept."""

_FURTHEST = 100
"""Errors that are looked through, from one to those that led to it."""

_PYTHONS_OWN = vars(BaseException)
_CAUSE: Callable[[BaseException], BaseException | None] = _PYTHONS_OWN["__cause__"].__get__
_CONTEXT: Callable[[BaseException], BaseException | None] = _PYTHONS_OWN["__context__"].__get__
_ATTRIBUTES: Callable[[BaseException], dict[str, Any]] = _PYTHONS_OWN["__dict__"].__get__

_BEGINNINGS = (CANCELLED, CANCELLED_PROBABLY)


class Notes:
    """Puts notes on errors, while that is wanted."""

    def __init__(
        self, known: State, fault: Callable[[BaseException], None], redaction: Redacting
    ) -> None:
        """*fault* takes an error of our own; *redaction* says what may stand in a note."""
        self.on = False
        """Whether that is so; `begin` and `end` change it."""
        self._known = known
        self._cancellations = known.cancellations
        self._fault = fault
        self._redaction = redaction

    def begin(self) -> None:
        """From now on errors get notes."""
        self.on = True

    def end(self) -> None:
        """From now on none does; those that are on their way have theirs."""
        if self.on and not self._cancellations.deliveries_seen:
            for tie in list(self._cancellations.ties.values()):
                error = tie.ref()
                if error is not None:
                    self.on_delivered(error)
        self.on = False

    def on_delivered(self, error: BaseException) -> None:
        """The CancelledError *error* was tied to a request, or to another one: say so on it."""
        if not self.on:
            return
        try:
            tie = self._cancellations.tie_of(error)
            if tie is not None:
                self._tell(error, tie, tie.concluded)
        except Exception as fault:  # noqa: BLE001 - an internal error must not reach a coroutine
            self._fault(fault)

    def on_taken_back(self, state: CancelState | None) -> None:
        """A request to the task of *state* was taken back: its errors may go on for another."""
        if state is not None and state.noted:
            for ref in list(state.noted):
                error = ref()
                if error is not None:
                    self.on_delivered(error)

    def on_reraised(self, error: BaseException) -> None:
        """*error*, which delivers nothing itself, leaves a handler: does it stand for one that does?"""
        try:
            cause, context = _before(error)
            if (cause is None and context is None) or _is(error, CancelledError):
                return
            found = self._replaced_by(error)
            if found is not None:
                _set(error, found)
        except Exception as fault:  # noqa: BLE001 - an internal error must not reach a coroutine
            self._fault(fault)

    def on_replacing(self, frame: FrameType) -> None:
        """*frame*, a timeout's, is about to raise what replaces a CancelledError that nobody saw come."""
        if self.on:
            watch_errors(frame, self._on_raised)

    def _on_raised(self, error: BaseException) -> None:
        try:
            if _is(error, TimeoutError) and _note_on(error) is None:
                cause, _ = _before(error)
                tie = None if cause is None else self._cancellations.tie_of(cause)
                if tie is not None and tie.note is not None:
                    _put(error, tie.note.text)
        except Exception as fault:  # noqa: BLE001 - an internal error must not reach a coroutine
            self._fault(fault)

    def on_end(
        self, state: CancelState | None, error: BaseException | None, request: Request | None
    ) -> None:
        """The task of *state* ended by *error*, for *request*: the last moment for a note.

        Where the delivery was seen the note is there by now, but for compiled code.
        """
        if not self.on or state is None or error is None or request is None:
            return
        try:
            if _note_on(error) is None or self._is_another(state, error):
                self._tell_end(state, error, request)
        except Exception as fault:  # noqa: BLE001 - an internal error must not reach a coroutine
            self._fault(fault)

    def _tell_end(self, state: CancelState, error: BaseException, request: Request) -> None:
        if _is(error, CancelledError):
            if state.cancel_outcome != "obeyed":
                return
            tie = self._cancellations.tie_of(error)
            if tie is not None and tie.effective is request:
                self._tell(error, tie, tie.concluded or state.concluded)
                return
        elif not self._came_of_it(state, error):
            return
        text = self._text(request, state, state.concluded)
        if text is not None:
            _set(error, text)

    def _is_another(self, state: CancelState, error: BaseException) -> bool:
        """Whether *error*, which has a note, may be one that the program keeps and raises again.

        It is, where it was raised right in the place of a CancelledError of the task of *state*.
        Where deliveries are seen, that was seen, too.
        """
        if self._cancellations.deliveries_seen or _is(error, CancelledError):
            return False
        cause, context = _before(error)
        nearest = context if cause is None else cause
        if nearest is None or not _is(nearest, CancelledError):
            return False
        tie = self._cancellations.tie_of(nearest)
        return tie is None or tie.state is state

    # -- what replaces what -----------------------------------------------------------

    def _replaced_by(self, error: BaseException) -> str | None:
        """The note of the CancelledError in whose place *error* is raised."""
        handled = sys.exception()
        for each, explicitly, _ in _behind(error):
            if _is(each, CancelledError):
                tie = self._cancellations.tie_of(each)
                if tie is None or tie.note is None or not self._is_here(tie, explicitly):
                    return None
                # While the program still handles that one, this one is an affair of the handler's.
                return None if _leads_to(handled, each) else tie.note.text
            known = _note_on(each)
            if known is not None:
                # It stood for the request, and was dealt with, unless this says that it stands for it.
                return known if explicitly else None
        return None

    def _is_here(self, tie: Tie, explicitly: bool) -> bool:
        """Whether the error of *tie* came to the task that runs, or has ended its own.

        With the latter a task that runs has to say so: ``wait_for`` does, whose time was over before
        it began (``raise TimeoutError from exc`` in Lib/asyncio/tasks.py, of ``fut.result()``).
        """
        state = tie.state
        if state is None:
            return False
        task = current_task()
        if state.ended and (task is None or explicitly):
            return True
        return task is not None and state is self._known.tasks.find_state(task)

    def _came_of_it(self, state: CancelState, error: BaseException) -> bool:
        """Whether *error* was raised in the place of a CancelledError that came to the task of *state*."""
        seen = self._cancellations.deliveries_seen
        for each, explicitly, after in _behind(error):
            if _is(each, CancelledError):
                tie = self._cancellations.tie_of(each)
                if tie is not None and (tie.state is state or seen):
                    return tie.state is state
                # Nobody saw what was handled, and what was an affair of the handler's: only what
                # follows at once, or was raised ``from`` what does, stands for the request.
                return not seen and after
            if not explicitly and _note_on(each) is not None:
                return False  # as in `_replaced_by`
        return False

    # -- texts ----------------------------------------------------------------------

    def _tell(self, error: BaseException, tie: Tie, concluded: bool) -> None:
        request, state = tie.effective, tie.state
        had = tie.note
        if had is not None and request is not None and had.request.root is request.root:
            if request is not had.request:
                tie.note = had._replace(request=request)
        else:
            text = None if request is None else self._text(request, state, concluded)
            if had is not None:
                _replace(error, had.text, text)
            elif text is not None and (_note_on(error) is not None or not _put(error, text)):
                return
            if text is None or request is None:
                tie.note = None
                return
            tie.note = Note(request, text)
        if state is not None:
            noted = [ref for ref in state.noted or () if ref() not in (None, error)]
            noted.append(weakref.ref(error))
            state.noted = noted

    def _text(self, request: Request, state: CancelState | None, concluded: bool) -> str | None:
        event = request.event
        steps = Chains(MemoryReading()).of(request).steps()
        # An error goes wherever the program's own log goes, with all that is on it.
        redaction = self._redaction.now
        suspended_at = None
        if state is not None:
            steps = from_task(state.task, "", event, steps, concluded=concluded)
        # Of what the task awaited, where the request was to that, the error itself says more.
        if isinstance(event, TaskCancel) and (state is None or event.task == state.task):
            suspended_at = event.suspended_at and redaction.text("at", event.suspended_at)
        text = note(
            [redaction.of(step.link) for step in steps],
            inferred=inferred(steps) or concluded,
            suspended_at=suspended_at,
            show=_short(),
        )
        return None if text is None else clean(text, _LONGEST)


def _short() -> Callable[[str], str]:
    """Paths, also those in a sentence, as seen from the working directory, where they are inside of it."""
    try:
        inside = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118 - pathlib is not cheap
    except OSError:  # the working directory was removed
        inside = ""

    def show(text: str) -> str:
        return text.replace(inside, "") if len(inside) > 1 else text

    return show


def _is(error: BaseException, cls: type[BaseException]) -> bool:
    """Whether *error* is caught as a *cls*: its class decides, not what it says of its class."""
    return issubclass(type(error), cls)


def _before(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """``__cause__`` and ``__context__`` of *error* as Python has them, whatever its class makes of that."""
    return _CAUSE(error), _CONTEXT(error)


def _behind(error: BaseException) -> Iterator[tuple[BaseException, bool, bool]]:
    """The errors that led to *error*, the nearest first, each once.

    With each whether *error* was raised ``from`` it, or from one that was, and so on; and whether
    that is so of the one right after it.
    """
    seen = {id(error)}
    waiting = [(error, True)]
    while waiting and len(seen) < _FURTHEST:
        each, after = waiting.pop(0)
        cause, context = _before(each)
        for further, explicitly in ((cause, after), (context, False)):
            if further is not None and id(further) not in seen:
                seen.add(id(further))
                waiting.append((further, explicitly))
                yield further, explicitly, after


def _leads_to(error: BaseException | None, further: BaseException) -> bool:
    """Whether *further* is *error*, or one that led to it."""
    if error is None:
        return False
    return error is further or any(each is further for each, *_ in _behind(error))


def _held(error: BaseException) -> dict[str, Any] | None:
    """The attributes of *error*, where its notes are found; None where they are somewhere else.

    Not by ``add_note()``: a class may have another, or a ``__setattr__`` that raises.
    """
    for cls in type(error).__mro__:
        if NOTES in vars(cls) and cls is not CancelledError:  # ours, before 3.12
            return None
    return _ATTRIBUTES(error)


def _note_on(error: BaseException) -> str | None:
    """Our note on *error*, None where it has none."""
    held = _held(error)
    notes = None if held is None else held.get(NOTES)
    if type(notes) is not list:
        return None
    return next(
        (each for each in notes if type(each) is str and each.startswith(_BEGINNINGS)), None
    )


def _put(error: BaseException, text: str) -> bool:
    """Put *text* on *error*, behind the notes that it has; whether that was done."""
    held = _held(error)
    if held is None:
        return False
    notes = held.get(NOTES)
    if notes is None:
        held[NOTES] = [text]
    elif type(notes) is list:
        notes.append(text)
    else:
        return False  # the program keeps something else there
    return True


def _set(error: BaseException, text: str) -> None:
    """Have *text* be our note on *error*, which may be raised again, for another request than last."""
    had = _note_on(error)
    if had is None:
        _put(error, text)
    elif had != text:
        _replace(error, had, text)


def _replace(error: BaseException, old: str, new: str | None) -> None:
    """Put *new*, or nothing, in the place of our note *old* on *error*."""
    held = _held(error)
    notes = None if held is None else held.get(NOTES)
    if held is None or type(notes) is not list or old not in notes:
        return  # the program has taken it away
    at = notes.index(old)
    notes[at : at + 1] = [] if new is None else [new]
    if not notes:
        del held[NOTES]
