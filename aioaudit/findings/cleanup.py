"""Whether code is cleaning up: what is cancelled there may well have ended before, or be ending."""

from __future__ import annotations

import dis
import gc
import re
import weakref
from inspect import CO_ASYNC_GENERATOR
from types import CodeType, FrameType
from typing import Any

from aioaudit.cpython.tasks import coro_of
from aioaudit.stack.code import OWN, Codes, line_of
from aioaudit.stack.frames import awaited_chain
from aioaudit.state.verdict import comes_from_cancelled
from aioaudit.weak import dropping

_NAMES = frozenset({"__aexit__", "__exit__", "__del__", "aclose", "close", "_aclose", "_close"})
"""Functions that do nothing but clean up; of the last two the first part is often another's."""

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
    starts: dict[int, int] = {}
    for entry in bytecode.exception_entries:  # type: ignore[attr-defined]  # not in typeshed
        if entry.lasti and names.get(entry.target) == "COPY":
            starts.setdefault(entry.target, entry.start)
    # Blocks inside of it, as a ``with``, have entries of their own, between those of the handler.
    ranges = [range(start, target) for target, start in starts.items()]
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


def leaves_block(code: CodeType, offset: int) -> bool:
    """Whether the call at *offset* ends what a block of *code* had beside it, as that is left.

    Only to be asked where no error is being handled.  The line is in a ``finally``, or behind the
    one ``yield`` of an asynchronous generator, and nothing else that the function does can have
    to do with what is ended: its variables are read outside only to put something into them, and
    before it nowhere by an ``await``.  So no time of grace has run out, and nothing was waited for.
    """
    last = _only_yield(code) if code.co_flags & CO_ASYNC_GENERATOR else None
    inside = handler_lines(code)
    if last is None and not inside:
        return False

    def leaves(line: int) -> bool:
        return line in inside or (last is not None and line > last)

    lines: dict[int, list[dis.Instruction]] = {}
    awaits: set[int] = set()
    here = line_of(code, offset)
    for each in dis.get_instructions(code):
        positions = each.positions
        if positions is None or positions.lineno is None:
            continue
        lines.setdefault(positions.lineno, []).append(each)
        if each.opname == "GET_AWAITABLE":
            awaits.update(range(positions.lineno, (positions.end_lineno or 0) + 1))
    if here not in lines or not leaves(here):
        return False
    names = _variables(lines[here], "LOAD")
    known: frozenset[str] = frozenset()
    while names != known:  # what a loop over them takes them from
        known = names
        for line, those in lines.items():
            if leaves(line) and known & _variables(those, "STORE"):
                names |= _variables(those, "LOAD")
    if not names:
        return False
    for line, those in lines.items():
        if not names & _variables(those, "LOAD") or (leaves(line) and line >= here):
            continue
        puts = any(each.opname in _PUTS for each in those)
        if line in awaits or not (leaves(line) or puts):
            return False
    return True


_PUTS = frozenset({"STORE_SUBSCR", "STORE_ATTR"})

_VARIABLE = re.compile("(LOAD|STORE)_(?:FAST|DEREF|CLOSURE)")

_WRAPS_YIELDED = 4
"""What ``CALL_INTRINSIC_1`` does to what such a generator yields (``INTRINSIC_ASYNC_GEN_WRAP`` in
Include/internal/pycore_intrinsics.h; before 3.12 that is an instruction, ``ASYNC_GEN_WRAP``)."""


def _only_yield(code: CodeType) -> int | None:
    """The line of the one ``yield`` of an asynchronous generator, None where it has several."""
    found = {
        each.positions.lineno
        for each in dis.get_instructions(code)
        if each.positions is not None
        and (
            each.opname == "ASYNC_GEN_WRAP"
            or (each.opname == "CALL_INTRINSIC_1" and each.arg == _WRAPS_YIELDED)
        )
    }
    return found.pop() if len(found) == 1 else None


def _variables(instructions: list[dis.Instruction], does: str) -> frozenset[str]:
    """The variables of the function that *instructions* read or set (``LOAD`` or ``STORE``).

    Since 3.13 one instruction may do so with two of them (``STORE_FAST_LOAD_FAST``).
    """
    return frozenset(
        name
        for each in instructions
        if (kinds := _VARIABLE.findall(each.opname))
        for kind, name in zip(
            kinds, each.argval if isinstance(each.argval, tuple) else (each.argval,), strict=True
        )
        if kind == does
    )


def handles_cancelled(task: Any) -> bool:
    """Whether the suspended *task* handles a CancelledError, or keeps one in a variable.

    A coroutine, or a generator, refers to the exception that it is handling; that is all that
    shows it.
    """
    for number, coro in enumerate(awaited_chain(coro_of(task))):
        if number >= _MOST_FRAMES:
            return True  # so deep that nothing can be said
        for each in gc.get_referents(coro):
            if isinstance(each, BaseException) and comes_from_cancelled(each):
                return True
    return False
