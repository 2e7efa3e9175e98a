"""Whether code is cleaning up: what is cancelled there may well have ended before, or be ending."""

from __future__ import annotations

import dis
import gc
import weakref
from types import CodeType, FrameType
from typing import Any

from aioaudit.cpython.tasks import coro_of
from aioaudit.stack.code import OWN, Codes, line_of
from aioaudit.state.verdict import comes_from_cancelled
from aioaudit.weak import dropping

_NAMES = frozenset({"__aexit__", "__exit__", "__del__", "aclose", "close"})
"""Functions that do nothing but clean up."""

_MOST_FRAMES = 200

_cache: dict[int, tuple[weakref.ref[CodeType], frozenset[int]]] = {}


def cleaning_up(codes: Codes, frame: FrameType | None) -> bool:
    """Whether a frame from *frame* outwards is in a ``finally`` or ``except``, or closes something.

    The loop's own frames end the search.
    """
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return False
        info = codes.of(frame)
        if info.boundary:
            return False
        if info.owner != OWN:
            code = frame.f_code
            if code.co_name in _NAMES or line_of(code, frame.f_lasti) in handler_lines(code):
                return True
        frame = frame.f_back
    return False


def handler_lines(code: CodeType) -> frozenset[int]:
    """The lines of *code* that belong to a ``finally`` or an ``except``.

    The compiler writes the body of a ``finally`` twice, for the way with and
    the way without an error, from the same lines.  What runs while an error is
    handled has an entry of its own in the table of exceptions, whose target puts
    the error that was handled before back (``COPY``).
    """
    known = _cache.get(id(code))
    if known is not None:
        return known[1]
    lines: set[int] = set()
    bytecode = dis.Bytecode(code)
    instructions = list(bytecode)
    names = {instruction.offset: instruction.opname for instruction in instructions}
    ranges = [
        range(entry.start, entry.end)
        for entry in bytecode.exception_entries  # type: ignore[attr-defined]  # not in typeshed
        if entry.lasti and names.get(entry.target) == "COPY"
    ]
    for instruction in instructions:
        positions = instruction.positions
        line = None if positions is None else positions.lineno
        if line is not None and any(instruction.offset in each for each in ranges):
            lines.add(line)
    if len(_cache) > 10_000:
        _cache.clear()
    found = frozenset(lines)
    _cache[id(code)] = dropping(code, _cache, id(code)), found
    return found


def handles_cancelled(task: Any) -> bool:
    """Whether the suspended *task* handles a CancelledError, or keeps one in a variable.

    A coroutine refers to the exception that it is handling; that is all that shows it.
    """
    coro = coro_of(task)
    for _ in range(_MOST_FRAMES):
        if coro is None:
            return False
        for each in gc.get_referents(coro):
            if isinstance(each, BaseException) and comes_from_cancelled(each):
                return True
        coro = getattr(coro, "cr_await", None)
    return True  # so deep that nothing can be said
