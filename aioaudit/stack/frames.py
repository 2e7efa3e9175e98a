"""Reading stacks, coroutines and tracebacks: which line, whose, how deep.

Nothing here keeps a frame: what is needed becomes text at once.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import signal
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextvars import Context
from types import (
    BuiltinMethodType,
    CodeType,
    CoroutineType,
    FrameType,
    MethodType,
    NoneType,
    TracebackType,
)
from typing import Any

from aioaudit.cpython import internals
from aioaudit.cpython.behaviour import LOCALS_ARE_A_VIEW
from aioaudit.cpython.frames import getframe
from aioaudit.cpython.internals import UNKNOWN
from aioaudit.cpython.loops import RUNS_HANDLE, called_by
from aioaudit.cpython.threads import handler_of
from aioaudit.stack.callee import AWAITED
from aioaudit.stack.code import (
    APPLICATION,
    OWN,
    THIRD_PARTY,
    WRAPS,
    CodeInfo,
    Codes,
    Spot,
    who_acts,
)

_SIGNALS = sorted(map(int, signal.valid_signals()))
_MAX_FRAMES = 2000
_OPTIMIZED = inspect.CO_OPTIMIZED
_OURS_ALONE = 3  # references to a dict of variables: the frame's, ours, and that of the question


if LOCALS_ARE_A_VIEW:

    def variables(frame: FrameType) -> Mapping[str, Any]:
        """What the local variables of *frame* hold now."""
        return frame.f_locals

else:

    def variables(frame: FrameType) -> Mapping[str, Any]:
        """What the local variables of *frame* hold now.

        Before 3.13 (PEP 667) whoever reads ``f_locals`` makes the frame keep a dict, and that
        keeps alive what the program lets go of, as long as the function runs.  So it is
        emptied, except where it is more than a copy: it is the namespace of a module or a class,
        somebody else holds it (``locals()`` gives the same), or a debugger, which writes it
        back into the frame, may be at work.
        """
        shared = frame.f_locals
        values = dict(shared)
        if (
            frame.f_code.co_flags & _OPTIMIZED
            and sys.getrefcount(shared) == _OURS_ALONE
            and sys.gettrace() is None
        ):
            shared.clear()
        return values


def local(frame: FrameType, name: str) -> Any:
    """The value of *name* in *frame*, None where there is none."""
    return variables(frame).get(name)


def error_site(codes: Codes, error: BaseException) -> tuple[str | None, str | None]:
    """``path:line`` and ``module:qualname`` of where *error* was raised.

    The innermost frame of the application, else the innermost of all.
    """
    step: TracebackType | None = error.__traceback__
    best: tuple[CodeInfo, int] | None = None
    while step is not None:
        info = codes.of(step.tb_frame)
        if info.owner == APPLICATION or best is None or best[0].owner != APPLICATION:
            best = (info, step.tb_lasti)
        step = step.tb_next
    if best is None:
        return None, None
    return best[0].at(best[1]), best[0].source


def frame_handling(error: BaseException) -> FrameType | None:
    """The frame that handles *error*: the outermost that it has reached."""
    step = error.__traceback__
    return None if step is None else step.tb_frame


def ended_argument(codes: Codes, frame: FrameType | None, victim: Any) -> Any:
    """The future or task whose done callback the loop runs, from *frame* outwards: it has ended.

    The loop gives it to the callback as the last of its arguments.  None where the stack does
    not show the loop, or the callback was given nothing that has ended, or *victim* itself.
    """
    outermost = None
    while frame is not None and not codes.of(frame).boundary:
        outermost, frame = frame, frame.f_back
    if frame is None or outermost is None:
        return None
    handle = local(frame, "self") if frame.f_code.co_qualname == RUNS_HANDLE else None
    call = called_by(handle)
    if call is not UNKNOWN:
        found = call[1][-1:]
        if isinstance(handle, asyncio.TimerHandle):
            return None
    else:
        code = outermost.f_code
        given = variables(outermost)
        found = tuple(
            value
            for name in code.co_varnames[: code.co_argcount]
            if asyncio.isfuture(value := given.get(name))
        )[-1:]
    for value in found:
        if value is not victim and asyncio.isfuture(value):
            return value if value.done() else None
    return None


def suspended_at(codes: Codes, coro: Any) -> str | None:
    """``path:line`` of where a suspended coroutine waits."""
    found = suspended_in(codes, coro)
    return None if found is None else found[0].at(found[1])


def suspended_in(codes: Codes, coro: Any) -> tuple[CodeInfo, int] | None:
    """Where a suspended coroutine waits: in the application's innermost code, else the innermost."""
    best: tuple[CodeInfo, int] | None = None
    if getattr(coro, "cr_suspended", True) is False:
        return None  # not started yet: it waits nowhere
    for _ in range(_MAX_FRAMES):
        frame = getattr(coro, "cr_frame", None)
        if frame is not None:
            inner = coro.cr_await
        else:
            frame = getattr(coro, "gi_frame", None)
            if frame is not None:
                inner = coro.gi_yieldfrom
            else:
                frame = getattr(coro, "ag_frame", None)
                if frame is None:
                    break
                inner = coro.ag_await
        info = codes.known.get(id(frame.f_code)) or codes.of(frame)
        if info.owner == APPLICATION or best is None or best[0].owner != APPLICATION:
            best = (info, frame.f_lasti)
        if type(inner) is CoroutineType:
            coro = inner
            continue
        kind = type(inner).__name__
        if kind in _LEAVES:
            break
        coro = _driven_by(inner) if kind in _WRAPPERS else inner
    return best


def awaited_chain(coro: Any) -> Iterator[Any]:
    """*coro* and the coroutines that it waits in, inwards; those of compiled code, too."""
    for _ in range(_MAX_FRAMES):
        for name in ("cr_await", "gi_yieldfrom", "ag_await"):
            inner = getattr(coro, name, _MISSING)
            if inner is not _MISSING:
                break
        else:
            return
        yield coro
        coro = _driven_by(inner) if type(inner).__name__ in _WRAPPERS else inner


_MISSING = object()

_LEAVES = frozenset({"FutureIter", "NoneType"})
"""What no frame lies behind: a future, or nothing."""


_WRAPPERS = frozenset(
    {"async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper"}
)


def _driven_by(awaited: Any) -> Any:
    """What *awaited* drives, where it is one of CPython's wrappers that do not say."""
    for _ in range(5):
        if type(awaited).__name__ not in _WRAPPERS:
            return awaited
        for inner in gc.get_referents(awaited):
            if any(hasattr(inner, name) for name in ("ag_frame", "cr_frame", "gi_frame")) or (
                type(inner).__name__ in _WRAPPERS
            ):
                awaited = inner
                break
        else:
            return None
    return awaited


def code_of(function: Any) -> CodeType | None:
    """The code that runs when *function* is called, through partials and methods."""
    for _ in range(20):
        if isinstance(function, functools.partial):
            function = function.func
            continue
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            return code
        inner = getattr(function, "__func__", None)
        if inner is None:
            inner = vars(type(function)).get("__call__")
            if not hasattr(inner, "__code__"):
                return None
        function = inner
    return None


_handlers: tuple[list[Any], dict[int, tuple[CodeType, int]]] = ([], {})


def handler_codes() -> dict[int, tuple[CodeType, int]]:
    """The code of every Python signal handler installed now, with its signal."""
    global _handlers
    installed = list(map(handler_of, _SIGNALS))
    if installed != _handlers[0]:
        found: dict[int, tuple[CodeType, int]] = {}
        for number, handler in zip(_SIGNALS, installed, strict=True):
            if callable(handler):
                code = code_of(handler)
                if code is not None:
                    found[id(code)] = (code, number)
        _handlers = (installed, found)
    return _handlers[1]


def _refs_of_unshared() -> int:
    """What `sys.getrefcount` says of a caller's frame that nobody but the interpreter has."""

    def outer() -> int:
        return inner()

    def inner() -> int:
        back = getframe(0).f_back
        return sys.getrefcount(back)

    return min(outer() for _ in range(3))


UNSHARED = _refs_of_unshared()
"""A frame in a variable that has more references was given to somebody: see `given_frame`."""


def given_frame(frame: FrameType, names: tuple[str, ...]) -> bool:
    """Whether one of the arguments *names* of *frame* is, or holds, the frame that called it."""
    values = variables(frame)
    for name in names:
        value = values.get(name)
        if value is frame.f_back or (type(value) is tuple and frame.f_back in value):
            return True
    return False


def signal_of(frame: FrameType) -> int | None:
    """The signal whose Python handler *frame* is, None where it is none.

    The interpreter calls a handler with the signal's number and the frame that
    it interrupts; a plain call of the same function does not look like that.
    """
    code = frame.f_code
    values = variables(frame)
    given = [values.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & 0x04:
        given.extend(values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ()))
    back = frame.f_back
    if back is None:
        return None
    below = back.f_code
    for number, interrupted in itertools.pairwise(given):
        if isinstance(number, int) and interrupted is back:
            entry = handler_codes().get(id(code))
            if entry is not None and entry[0] is code:
                return int(number)
            # Many a handler first puts another one in its place, for a second Ctrl-C.
            by_hand = _GIVES_FRAMES.intersection(below.co_names)
            return int(number) if number in _SIGNALS and not by_hand else None
    return None


_GIVES_FRAMES = frozenset({internals.GETFRAME.name, "currentframe", "f_back"})
"""What a function uses that gives its own frame to another one."""


def signal_above(codes: Codes, frame: FrameType | None) -> int | None:
    """The signal whose Python handler is on the stack from *frame* outwards, None without one.

    Only to be asked in the main thread: no other runs handlers.
    """
    while frame is not None:
        info = codes.of(frame)
        if info.interrupted and given_frame(frame, info.interrupted):
            number = signal_of(frame)
            if number is not None:
                return number
        frame = frame.f_back
    return None


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


BOUND = frozenset({MethodType, BuiltinMethodType})
"""What a bound method is; that of a task is the second kind where the core is in C."""


def bound_cancel(callback: Any, arguments: tuple[Any, ...]) -> Any:
    """The bound ``cancel`` that calling *callback* with *arguments* calls, None if it is another.

    It may be inside a `functools.partial`, or be run by ``Context.run``.
    """
    for _ in range(20):
        kind = type(callback)
        if kind in BOUND and getattr(callback, "__name__", None) == "cancel":
            return callback
        if kind is MethodType:  # bound may be anything that can be called, also what has no name
            return None
        if kind is functools.partial:
            callback, arguments = callback.func, callback.args + arguments
        elif kind is BuiltinMethodType and callback.__name__ == "run" and arguments:
            if type(callback.__self__) is not Context:
                return None
            callback, arguments = arguments[0], arguments[1:]
        else:
            return None
    return None


def overrides(victim: Any, code: CodeType) -> bool:
    """Whether *code* is an override of ``cancel`` in the class of *victim*."""
    if code.co_name != "cancel":
        return False
    for cls in type(victim).__mro__:
        if getattr(vars(cls).get("cancel"), "__code__", None) is code:
            return True
    return False


def caller(codes: Codes, frame: FrameType | None) -> Spot | None:
    """The innermost frame from *frame* on that is the application's, else a library's.

    Frames of the loop end the search: beyond them the stack only says who runs it.  So does one
    that the interpreter called by itself, a finalizer's: beyond it stands a bystander.
    """
    return callers(codes, frame)[0]


def callers(codes: Codes, frame: FrameType | None) -> tuple[Spot | None, Spot | None]:
    """The `caller`, and of a library that the application called who acts on its behalf."""
    best: Spot | None = None
    acting: Spot | None = None
    inner: CodeInfo | None = None
    info = None if frame is None else codes.of(frame)
    if frame is None or info is None or info.callee(frame) is None:
        return None, None
    while not info.boundary:
        if info.owner == APPLICATION:
            says_it = inner is not None and inner.wraps == WRAPS
            return (info, frame.f_lasti), None if says_it else acting
        if info.owner == THIRD_PARTY:
            best = best or (info, frame.f_lasti)
            acting = who_acts(acting, info, frame.f_lasti)
        back = frame.f_back
        if back is None:
            break
        below = codes.of(back)
        if not was_called(info, frame, below, back):
            break
        inner, info, frame = info, below, back
    return best, None


def functions_above(codes: Codes, frame: FrameType | None) -> Iterator[str]:
    """The functions that *frame* is of and was called by, the innermost first, up to a loop."""
    while frame is not None:
        info = codes.of(frame)
        if info.boundary:
            return
        if info.owner != OWN:
            yield info.source
        frame = frame.f_back


_EXECUTING = frozenset({"eval", "exec"})
"""What runs a text in a namespace of the program's own choice."""

_RESUMING = frozenset({"aclose", "athrow", "close", "next", "send", "throw"})
"""What resumes a generator or a coroutine, where its name stands at the call."""

_MOST_GIVEN = 2
"""The most arguments that the interpreter gives to what it calls by itself."""

_INNOCENT = frozenset({NoneType, bool, float, int, str, bytes, list, asyncio.Task})
"""Classes of arguments that do not tell that the interpreter calls."""

_COLLECTING = frozenset({"start", "stop"})
_DROPPED = (
    "Task was destroyed but it is pending!",
    "exception was never retrieved",
)
"""How the messages end with which a task or a future that is destroyed calls the loop's handler."""


def was_called(info: CodeInfo, frame: FrameType, below: CodeInfo, back: FrameType) -> bool:
    """Whether *frame* was called by *back*, the frame below it; their codes' are *info* and *below*.

    If not, the interpreter called it by itself, and whoever ran then is a bystander: the collector
    ran, or a last reference went (``__del__``, a weak reference's callback, `weakref.finalize`,
    a callback in `gc.callbacks`, the ``finally`` of a generator), or a signal came, or another
    process gave it a script (``sys.remote_exec``, whose namespace has no name).
    """
    offset = back.f_lasti
    if below.doubtful.get(offset) is info:
        return not _called_by_itself(frame, info.given)
    if info.finalizer:
        return False
    callee = below.callee(back)
    if callee is None:
        return False
    name = frame.f_code.co_name
    if callee == name or (info.resumed and callee is AWAITED):
        below.callers[offset] = info
        return True
    if name == "<module>" and "__name__" not in frame.f_globals:
        return callee in _EXECUTING
    if info.resumed:
        return callee in _RESUMING or not _is_closed(sys.exception())
    # So far only the two codes and the offset had a say in it: that need not be asked again.
    if not info.given:
        if name != "<module>":
            below.callers[offset] = info
        return True
    below.doubtful[offset] = info
    return not _called_by_itself(frame, info.given)


def _is_closed(error: BaseException | None) -> bool:
    """Whether a generator is being closed while *error* is handled: its own finalizer does that."""
    for _ in range(20):
        if error is None:
            return False
        if isinstance(error, GeneratorExit):
            return True
        error = error.__context__
    return False


def _called_by_itself(frame: FrameType, names: tuple[str, ...]) -> bool:
    """Whether the arguments *names* of *frame* are such as only the interpreter gives."""
    values = variables(frame)
    given: list[Any] = [values.get(name) for name in names]
    if _INNOCENT.issuperset(map(type, given)):
        return False  # as most often, without a look at each
    if type(given[-1]) is tuple:
        given.extend(given.pop()[:_MOST_GIVEN])  # ``gather(*coroutines)`` may be given thousands
    for number, value in enumerate(given):
        if is_dead_reference(value):
            return True
        if type(value) is dict and number > 0:
            before = given[number - 1]
            if type(before) is str and before in _COLLECTING and "uncollectable" in value:
                return True  # of a function in gc.callbacks
            message = value.get("message")
            if frame.f_code.co_name == "call_exception_handler" and isinstance(message, str):
                return message.endswith(_DROPPED)
    return False


def is_dead_reference(value: object) -> bool:
    """Whether *value* is a weak reference without its object: what the callback of one is given."""
    return isinstance(value, weakref.ref) and weakref.ref.__call__(value) is None
