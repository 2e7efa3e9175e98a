"""From the stack at the moment of ``cancel()`` to the cause.

In this order, the first that holds:

1. ``cancel()`` was called by C code inside another ``cancel()`` that we saw:
   what the cancelled task awaits is cancelled with it;
2. a signal handler is on the stack: what lies below it is a bystander;
3. a known call site (a recogniser) explains it; where compiled code calls, which has no
   frames, the coroutine of the current task is that site;
4. a line of the application, else of a library: somebody called it, and the
   CancelledError that this somebody is handling is the cause;
5. a callback given to the loop: the line that gave it, where it was noted;
6. nothing: ``native`` where C code called, ``unknown`` where Python code did
   that nobody knows.
"""

from __future__ import annotations

from asyncio import CancelledError
from sys import getrefcount
from types import CodeType, CoroutineType, FrameType
from typing import TYPE_CHECKING, Any, cast

import msgspec

from aioaudit.chain import summary
from aioaudit.chain.links import Link
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.loops import RUNS_HANDLE, called_by, running_loop
from aioaudit.cpython.tasks import coro_of, exception_of, fut_waiter
from aioaudit.findings.cleanup import leaves_block
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.losses import lost_in
from aioaudit.recognisers.registry import ask, find_compiled
from aioaudit.stack.code import (
    APPLICATION,
    OWN,
    STDLIB,
    THIRD_PARTY,
    WRAPS,
    CodeInfo,
    NotNowError,
    Spot,
    who_acts,
)
from aioaudit.stack.frames import (
    UNSHARED,
    bound_cancel,
    ended_argument,
    error_site,
    frame_handling,
    given_frame,
    is_dead_reference,
    local,
    overrides,
    signal_name,
    signal_of,
    was_called,
)
from aioaudit.state.cause import Cause
from aioaudit.state.tasks import root_frame
from aioaudit.text import describe
from aioaudit.threads import get_ident

if TYPE_CHECKING:
    from aioaudit.addresses import Connection
    from aioaudit.events import Evidence, TaskCancel
    from aioaudit.place import Place
    from aioaudit.state.handoffs import Handoff
    from aioaudit.state.known import State


class _StackWalk:
    """What one walk along the stack found; most of it is what the class says."""

    site: tuple[CodeInfo, int] | None = None
    library: tuple[CodeInfo, int] | None = None
    acting: tuple[CodeInfo, int] | None = None
    stdlib: CodeInfo | None = None
    cause: Cause | None = None
    signal: int | None = None
    boundary: FrameType | None = None
    outermost: CodeType | None = None
    passing_reason: str | None = None
    receiver: object | None = None
    owner: int | None = None
    taken_back: bool = False
    finalizer: bool = False
    nested: bool = False
    handling: bool = False
    innermost: bool = True


def _walk_stack(
    call: Call, frame: FrameType | None, probes: frozenset[CodeType | int]
) -> _StackWalk:
    """One walk that asks all questions: each walk costs as much as the answers."""
    found = _StackWalk()
    codes = call.state.codes
    known = codes.known.get
    catcher = None if call.exception is None else frame_handling(call.exception)
    root = root_frame(call.current)
    main = get_ident() == call.state.places.main_thread
    looking = True
    info = None if frame is None else known(id(frame.f_code)) or codes.of(frame)
    last: CodeInfo | None = None
    if _is_finalizer(call, frame, info):
        found.finalizer = True
        return found
    while frame is not None and info is not None:
        if frame is catcher:
            found.handling = True
        back = frame.f_back
        # A frame that was given to nobody (`root` is ours) is no signal handler's: no need to look.
        given = info.interrupted and main and getrefcount(back) > UNSHARED + (back is root)
        if looking or given or info.notable:
            if info.boundary:
                found.boundary = frame
                break
            if info.owner == OWN:
                if id(frame.f_code) in probes:
                    found.nested = call.nested is not None
                    break
            elif given and given_frame(frame, info.interrupted):
                found.signal = signal_of(frame)
            if looking:
                _read_frame(found, call, info, frame)
                looking = found.site is None
                if not looking and last is not None and last.wraps == WRAPS:
                    found.acting = None  # the application's line says it all
        last = info
        if frame is root or back is None or found.signal is not None:
            break
        below = known(id(back.f_code)) or codes.of(back)
        surely = below.callers.get(back.f_lasti) is info or (
            below.boundary and (found.site or found.cause)
        )
        if not surely and not was_called(info, frame, below, back):
            found.finalizer = True  # below it stands whoever ran when the collector did
            break
        frame, info = back, below
    if last is not None:
        found.outermost = last.code
    return found


def _is_finalizer(call: Call, frame: FrameType | None, info: CodeInfo | None) -> bool:
    """Whether ``cancel`` itself was what the interpreter called, in *frame* of *info*'s code."""
    if call.message is not None and is_dead_reference(call.message):
        return True  # as the callback of a weak reference
    if frame is None or info is None or frame.f_lasti in info.calls:
        return False
    return info.callee(frame) is None


def _read_frame(found: _StackWalk, call: Call, info: CodeInfo, frame: FrameType) -> None:
    """Ask and keep what *frame*, whose code *info* is of, says of who called."""
    passes = False
    if info.explain is not None and found.cause is None:
        cause = ask(info.explain, info.source, frame, call)
        _keep_answer(found, cause)
        passes = cause is not None and cause.passes_through
        if passes and info.owner == STDLIB:
            return  # Python's own, and known: not who called
    if found.innermost and overrides(call.victim, frame.f_code):
        return  # an override of cancel() that calls the original is no caller
    found.innermost = False
    _keep_site(found, info, frame, passes=passes)


def _keep_answer(found: _StackWalk, cause: Cause | None) -> None:
    """Keep what a recogniser answered."""
    if cause is not None and cause.passes_through:
        found.passing_reason = found.passing_reason or cause.reason
        found.taken_back |= cause.taken_back
        found.receiver = cause.receiver or found.receiver
        found.owner = found.owner or cause.owner
    else:
        found.cause = cause


def _keep_site(found: _StackWalk, info: CodeInfo, frame: FrameType, *, passes: bool) -> None:
    """Keep whose *frame* is: the application's first one ends the search.

    Of a library's the innermost that is no mere wrapper is who did it; one that *passes* a
    call on is one, and so is what is called as if it did.
    """
    if info.owner == APPLICATION:
        found.site = (info, frame.f_lasti)
    elif info.owner == THIRD_PARTY:
        found.library = found.library or (info, frame.f_lasti)
        if not passes:
            found.acting = who_acts(found.acting, info, frame.f_lasti)
    elif info.owner == STDLIB:
        found.stdlib = found.stdlib or info


Plain = tuple[Cause, "dict[Place, TaskCancel]"]
"""The cause where a line called and there is no more to say, and what `Call.lines` says."""


def plain_cause(known: State, victim: Any, current: Any, frame: FrameType | None) -> Plain | None:
    """What `find_cause` says, where only one line of the application has a say in it.

    None where that is not sure at once.  To be asked only outside of any other ``cancel()``, while
    nothing is handled, without a message, and with a task *current*; nobody may change the answer.

    This is the walk of `_walk_stack` with every question left out whose answer is known: the
    first frame is the line itself, which ends the search for one, and every frame further out
    has nothing to say (it is not notable), was called by the one below, and was given to nobody.
    Whatever else there is on the stack is left to `find_cause`, and so is a line that is new:
    there it is learnt (`CodeInfo.calls`, `CodeInfo.callers`).
    """
    if frame is None or known.cancellations.doubts:
        return None
    if known.handoffs.signalled.entries and known.handoffs.signal_of(current) is not None:
        return None
    infos = known.codes.known.get
    code = frame.f_code
    info = infos(id(code))
    if info is None or info.owner != APPLICATION or info.notable or code.co_name == "cancel":
        return None
    plain: Plain | None = info.calls.get(frame.f_lasti)
    if plain is None:
        return None
    root = root_frame(current)
    places = known.places
    main = get_ident() == places.main_thread
    while True:
        back = frame.f_back
        if back is None:
            return None
        if info.interrupted and main and getrefcount(back) > UNSHARED + (back is root):
            return None
        if frame is root:
            break
        below = infos(id(back.f_code))
        if below is None or below.notable:
            return None
        if below.callers.get(back.f_lasti) is not info and not was_called(info, frame, below, back):
            return None
        frame, info = back, below
    return plain if places.foreign_thread(victim) is None else None


def find_cause(call: Call, frame: FrameType | None) -> Cause:
    """Why *call* was made; *frame* is the frame that called ``cancel()``."""
    found = _walk_stack(call, frame, call.state.probe_codes)
    cause = _cause_of(call, found, frame)
    if call.concluded:
        cause.evidence = "inferred"
    if found.finalizer:
        cause.current_task_unrelated = True
    if found.taken_back:
        cause.taken_back = True
    if found.owner is not None:
        cause.owner = found.owner
    if found.passing_reason:
        call.lines = None
        cause.reason = found.passing_reason
        if cause.origin is not None and cause.origin.what == "called":
            cause.origin = msgspec.structs.replace(cause.origin, reason=found.passing_reason)
    return cause


def _cause_of(call: Call, found: _StackWalk, frame: FrameType | None) -> Cause:
    cause = found.cause
    if found.signal is not None:
        return _by_signal(found)
    if cause is not None:
        return cause
    site = found.site or found.library
    if found.nested and site is None:
        return Cause(reason="awaiter", request=call.nested)
    if found.finalizer and site is None:
        return _by_finalizer(call, found)
    if site is None and call.current is not None:
        awaiting = _by_pending_cancel(call) or _by_compiled_code(call, frame)
        if awaiting is not None:
            return awaiting
    if call.current is None and running_loop() is not None:
        given = call.state.handoffs.signal_callback(found.outermost)
        if given is not None:
            return _of_signal(found, *given)
    if site is not None:
        return _by_caller(call, found, site, frame)
    return _by_handoff(call, found)


def _by_pending_cancel(call: Call) -> Cause | None:
    """A task that was cancelled while it ran begins to await: C cancels what it awaits."""
    current = call.current
    if fut_waiter(current) is not call.victim:
        return None
    request = call.state.cancellations.first_undelivered(current)
    return None if request is None else Cause(reason="awaiter", request=request, forwards=True)


def _by_compiled_code(call: Call, frame: FrameType | None) -> Cause | None:
    """Compiled code has no frames, but where it is a task the task's coroutine says its name."""
    coro = coro_of(call.current)
    module = getattr(coro, "__module__", None)
    if frame is None or type(coro) is CoroutineType or not isinstance(module, str):
        return None
    try:
        explain = find_compiled(module, coro.__qualname__)
    except NotNowError:
        return None
    site = f"{module}:{coro.__qualname__}"
    return None if explain is None else ask(explain, site, frame, call)


def _at_and_source(site: tuple[CodeInfo, int]) -> tuple[str, str]:
    return site[0].at(site[1]), site[0].source


def _by_signal(found: _StackWalk) -> Cause:
    assert found.signal is not None
    if found.cause is not None and found.cause.origin is not None:
        # asyncio's own handler: the line below it is not the signal's.
        return found.cause
    return _of_signal(found, found.signal)


def _of_signal(
    found: _StackWalk,
    number: int | None,
    note: Handoff | None = None,
    evidence: Evidence = "observed",
) -> Cause:
    """The signal *number* came: its handler's line that called, else the one of *note* that set it."""
    site = found.site or found.library
    through = None if found.site is None else found.acting
    at = source = library = library_at = None
    if site is not None:
        at, source = _at_and_source(site)
        if through is not None:
            library_at, library = _at_and_source(through)
    elif note is not None:
        at, source = note.at, note.source
        library, library_at = note.library, note.library_at
    return Cause(
        reason="signal",
        origin=Link(
            what="signal",
            reason="signal",
            signal=None if number is None else signal_name(number),
            at=at,
            source=source,
            library=library,
            library_at=library_at,
        ),
        evidence=evidence,
        at=at,
        source=source,
        library=library,
        library_at=library_at,
        current_task_unrelated=True,
    )


def _by_caller(
    call: Call, found: _StackWalk, site: tuple[CodeInfo, int], frame: FrameType | None
) -> Cause:
    error = call.exception if found.handling else None
    request = call.nested if found.nested else None
    detail = origin = None
    evidence: Evidence = "observed"
    if error is not None and request is None:
        if isinstance(error, CancelledError):
            request = call.request_of(error)
        if request is None:
            detail = _handling(call, error)
    elif call.current is None:
        ended = ended_argument(call.state.codes, frame, call.victim)
        if ended is not None:
            detail = _callback_detail(call, ended)
            followed = _end_of(call, ended)
            if followed is not None:
                origin, request = followed.origin, followed.request
                evidence = "inferred"
    thread = call.state.places.foreign_thread(call.victim)
    through = None if found.site is None else found.acting
    if request is None and detail is None and thread is None:
        if call.current is None:
            lost = lost_in(frame)
            if lost is not None:
                return _by_lost(call, site, through, lost)
        return (
            _by_signalled(call, site, through)
            or _by_wait(call, site, through)
            or _by_plain_call(call, site, through)
        )
    at, source = _at_and_source(site)
    library_at, library = (None, None) if through is None else _at_and_source(through)
    reason = "explicit" if thread is None else "thread"
    if request is None and origin is None:
        origin = Link(
            what="called",
            reason=reason,
            at=at,
            source=source,
            by_name=thread,
            library=library,
            library_at=library_at,
            detail=detail,
        )
    return Cause(
        reason=reason,
        request=request,
        origin=origin,
        evidence=evidence,
        detail=detail,
        at=at,
        source=source,
        library=library,
        library_at=library_at,
        thread=thread,
    )


def _by_lost(call: Call, site: Spot, through: Spot | None, lost: Connection) -> Cause:
    """A protocol was told that its connection is *lost*, and a line of it calls."""
    cause = _by_plain_call(call, site, through)
    cause.connection = lost
    call.lines = None  # they say what this line says each time
    return cause


def _by_signalled(call: Call, site: Spot, through: Spot | None) -> Cause | None:
    """A signal's handler has made or woken the task that asks."""
    if call.current is None:
        return None
    handoffs = call.state.handoffs
    found = handoffs.signal_of(call.current)
    note = None if found is None else found.note
    evidence: Evidence = "inferred" if found is None else found.evidence
    if note is None and len(handoffs.signal_futures):
        note = handoffs.signal_futures.get(_woken_by(call.current))
    if note is None:
        return None
    _look_again_at(call, site)
    at, source = _at_and_source(site)
    library_at, library = (None, None) if through is None else _at_and_source(through)
    return Cause(
        reason="signal",
        origin=Link(
            what="signal",
            reason="signal",
            signal=None if note.signal is None else signal_name(note.signal),
            at=note.at,
            source=note.source,
            library=note.library,
            library_at=note.library_at,
        ),
        evidence=evidence,
        detail=note.how,
        at=at,
        source=source,
        library=library,
        library_at=library_at,
    )


def _woken_by(task: Any) -> Any:
    """The future for which *task* makes the step that runs, None where the loop does not show it."""
    root = root_frame(task)
    frame = None if root is None else root.f_back
    if frame is None or frame.f_code.co_qualname != RUNS_HANDLE:
        return None
    given = called_by(local(frame, "self"))
    return given[1][0] if given is not UNKNOWN and given[1] else None


def _look_again_at(call: Call, site: Spot) -> None:
    """The line of *site* may have been all there was to say before; the next call is to be looked at, too."""
    site[0].calls.pop(site[1], None)
    call.state.cancellations.asks.forget_lines()


def _by_wait(call: Call, site: Spot, through: Spot | None) -> Cause | None:
    """What the task that asks had waited for, with its victim, had failed: most likely that is why."""
    if call.current is None:
        return None
    wait = call.state.waits.behind(call.current, call.victim)
    if wait is None:
        return None
    request = wait.request
    if wait.origin is None and (
        request is None or request.event.by == call.state.tasks.number(call.current)
    ):
        return None  # it is not known whose doing that was, or it was its own
    _look_again_at(call, site)
    at, source = _at_and_source(site)
    library_at, library = (None, None) if through is None else _at_and_source(through)
    return Cause(
        reason="explicit",
        request=request,
        origin=wait.origin,
        evidence="inferred",
        detail=f"asyncio.wait() had come back with {wait.name}, which {wait.how}",
        at=at,
        source=source,
        library=library,
        library_at=library_at,
        connection=wait.connection,
    )


_MOST_WAYS = 1_000
"""At most this many ways from the lines of one function through a library's are known."""


def _by_plain_call(
    call: Call, site: tuple[CodeInfo, int], through: tuple[CodeInfo, int] | None
) -> Cause:
    """A line called, and there is no more to say: the same each time that it does.

    Where it called by way of a library, that is a table of its own: `plain_cause` and
    the cores know a line by its instruction alone.
    """
    info, offset = site
    ways: dict[Any, Plain] = info.calls if through is None else info.through
    way = offset if through is None else (offset, *through)
    known = ways.get(way)
    if known is None:
        code = info.code
        at, source = _at_and_source(site)
        library_at, library = (None, None) if through is None else _at_and_source(through)
        origin = Link(
            what="called",
            reason="explicit",
            at=at,
            source=source,
            library=library,
            library_at=library_at,
        )
        cause = Cause(
            reason="explicit",
            origin=origin,
            at=at,
            source=source,
            library=library,
            library_at=library_at,
            cleanup=through is None and code is not None and leaves_block(code, offset),
        )
        if len(info.through) >= _MOST_WAYS:
            info.through.clear()
        known = ways[way] = (cause, {})
    cause, call.lines = known
    return cast(Cause, cast(Any, cause).__copy__())  # a recogniser may add to it


_BY_ITSELF = "as a finalizer: the collector ran, or a last reference went"


def _by_finalizer(call: Call, found: _StackWalk) -> Cause:
    """Nothing but a finalizer of Python's own, or not even that, lies above the bystander."""
    thread = call.state.places.foreign_thread(call.victim)
    reason = "native" if thread is None else "thread"
    return Cause(
        reason=reason,
        origin=Link(what="called", reason=reason, by_name=thread, detail=_BY_ITSELF),
        detail=_BY_ITSELF,
        source=None if found.stdlib is None else found.stdlib.source,
        thread=thread,
    )


def _handling(call: Call, error: BaseException) -> str:
    """What the caller handles, in words: *error*, and what led to it or the line that raised it."""
    said = f"while handling {describe(error)}"
    behind = call.state.failures.request_behind(call.current, error)
    origin = None if behind is None else behind.origin
    if origin is not None and origin.what in ("deadline", "failed"):
        # How late it was would make every one another cause.
        return f"{said}: {summary.cause(msgspec.structs.replace(origin, detail=None))}"
    at, _ = error_site(call.state.codes, error)
    return said if at is None else f"{said}, raised at {at}"


def _end_of(call: Call, ended: Any) -> Cause | None:
    """Why *ended* was cancelled, where it was and that is known: what follows its end goes on from there."""
    if not ended.cancelled():
        return None
    known = call.chained_cause(ended)
    if known is not None:
        return known if known.origin is not None or known.request is not None else None
    request = call.obeyed_by(ended)
    return None if request is None else Cause(reason="explicit", request=request)


def _callback_detail(call: Call, ended: Any) -> str:
    """Of what the loop runs a done callback, in words: *ended* is what made the code act."""
    name = call.state.tasks.name(ended) if hasattr(ended, "get_coro") else "a future"
    callback = f"in a callback of {name}"
    if ended.cancelled():
        return f"{callback}, which was cancelled"
    # Not ended.exception(): to ask is to have retrieved it, and asyncio would not warn any more.
    error = exception_of(ended)
    if error is UNKNOWN:
        return f"{callback}, which had ended"
    return f"{callback}, which " + (
        "had returned" if error is None else f"failed with {describe(error)}"
    )


def _by_handoff(call: Call, found: _StackWalk) -> Cause:
    """No line on the stack: a callback that the loop called, or C code."""
    callback = handle = None
    arguments: tuple[Any, ...] = ()
    if found.boundary is not None and found.boundary.f_code.co_qualname == RUNS_HANDLE:
        handle = local(found.boundary, "self")
        given = called_by(handle)
        if given is not UNKNOWN:
            callback, arguments = bound_cancel(*given) or given[0], given[1]
    receiver = call.victim if found.receiver is None else found.receiver
    note, evidence = call.state.handoffs.find(callback, receiver, handle, arguments)
    if note is not None:
        if note.cause is not None:
            return msgspec.structs.replace(note.cause, evidence=evidence)
        if note.signal is not None:
            return _of_signal(found, note.signal, note, evidence)
        reason = "explicit" if note.thread is None else "thread"
        ended = None if note.future is None else note.future()
        followed = None if ended is None else _end_of(call, ended)
        how = note.how if ended is None else f"{note.how}; {_callback_detail(call, ended)}"
        if followed is not None:
            origin, request = followed.origin, followed.request
        else:
            request = None
            origin = Link(
                what="called",
                reason=reason,
                at=note.at,
                source=note.source,
                by_name=note.thread,
                library=note.library,
                library_at=note.library_at,
                detail=how,
            )
        return Cause(
            reason=reason,
            request=request,
            origin=origin,
            evidence=evidence,
            detail=how,
            at=note.at,
            source=note.source,
            library=note.library,
            library_at=note.library_at,
            thread=note.thread,
        )
    source = None if found.stdlib is None else found.stdlib.source
    thread = call.state.places.foreign_thread(call.victim)
    if (
        thread is not None
    ):  # Thread(target=task.cancel), an executor's, a timer's: no line of its own
        origin = Link(what="called", reason="thread", source=source, by_name=thread)
        return Cause(reason="thread", origin=origin, source=source, thread=thread)
    if source is not None:
        return Cause(reason="unknown", source=source)
    detail = None if callback is None else "a callback given to the loop; who gave it was not seen"
    return Cause(
        reason="native", origin=Link(what="called", reason="native", detail=detail), detail=detail
    )
