"""Which ``except`` line took an exception, told from the bytecode of its handler.

``EXCEPTION_HANDLED`` gives the instruction where the handlers of a ``try`` begin,
and a ``try`` may have several.  The clauses are tried in order, so the one that
takes the exception is the first whose types match; those types are looked up
here as the clause itself will look them up.  Only names and attributes of
modules and classes are followed: nothing of the program runs because we look.
"""

from __future__ import annotations

import builtins
import dis
import weakref
from types import CodeType, FrameType, ModuleType
from typing import Any

from aioaudit.stack.frames import variables
from aioaudit.text import clean
from aioaudit.weak import dropping

_Step = tuple[str, Any]
_Clause = tuple[list[_Step] | None, str]

CodeRef = weakref.ref[CodeType]

_MOST = 10_000
"""At most this many handlers are kept."""

_LOADS = {
    "LOAD_GLOBAL",
    "LOAD_NAME",
    "LOAD_FAST",
    "LOAD_FAST_CHECK",
    "LOAD_FAST_BORROW",
    "LOAD_DEREF",
}
# How the handlers begin that the compiler puts around an ``await``, around a whole
# coroutine and around other handlers: they let all but StopIteration through.
_COMPILERS = {"CLEANUP_THROW", "CALL_INTRINSIC_1", "COPY"}
_cache: dict[tuple[int, int], tuple[CodeRef, list[_Clause]]] = {}


CachedHandler = tuple[CodeRef, bool, str | None]

HANDLER_CACHE: dict[int, CachedHandler] = {}
"""What `swallowing_clause` has answered, by the address of the instruction, as long as its code lives."""


def swallowing_clause(code: CodeType, offset: int) -> CachedHandler:
    """Whether the types of clauses decide at *offset* of *code*; if not, who takes everything.

    Most handlers that a CancelledError passes have no types to look up: they are
    a ``finally``, a ``with``, or the compiler's own.
    """
    steps, at = next(iter(_clauses(code, offset)), (None, None))
    key = id(code) + offset
    ref = dropping(code, HANDLER_CACHE, key)
    if len(HANDLER_CACHE) > _MOST:
        HANDLER_CACHE.clear()
    HANDLER_CACHE[key] = answer = (ref, False, at) if steps is None else (ref, True, None)
    return answer


def swallowing_line(
    frame: FrameType, code: CodeType, offset: int, error: BaseException
) -> str | None:
    """``path:line`` of the clause at or after *offset* that takes *error*; None where unclear."""
    for steps, at in _clauses(code, offset):
        if steps is None:
            return at
        try:
            if isinstance(error, _evaluate(steps, frame)):
                return at
        except (LookupError, TypeError):
            return None
    return None


def _clauses(code: CodeType, offset: int) -> list[_Clause]:
    """The ``except`` clauses of the handler at *offset*: how each finds its types, and its line.

    A handler without types (``except:``, ``finally:``, the end of a ``with``)
    is one clause that takes everything; one of the compiler's own has none.
    """
    key = (id(code), offset)
    known = _cache.get(key)
    if known is not None:
        return known[1]
    clauses: list[_Clause] = []
    if dis.opname[code.co_code[offset]] in _COMPILERS:  # most handlers: not worth disassembling
        return _keep(key, code, clauses)
    steps: list[_Step] = []
    jump: int | None = offset
    line = code.co_firstlineno

    def at() -> str:
        return clean(f"{code.co_filename}:{line}", 1000)

    instructions, starts = _instructions(code)
    index = starts.get(offset, 0)
    if instructions[index].opname in _COMPILERS:
        index = len(instructions)
    while index < len(instructions) and len(clauses) < 50:
        instruction = instructions[index]
        index += 1
        here = instruction.positions.lineno if instruction.positions else None
        if here is not None:
            line = here
        name = instruction.opname
        if name in _LOADS or name in ("LOAD_ATTR", "BUILD_TUPLE"):
            steps.append((name, instruction.arg if name == "BUILD_TUPLE" else instruction.argval))
        elif name in ("CHECK_EXC_MATCH", "CHECK_EG_MATCH"):
            # The jump to the next clause follows at once.
            clauses.append((steps, at()))
            steps = []
            jump = None
            while index < len(instructions):
                following = instructions[index]
                index += 1
                if following.opname.endswith(("_IF_FALSE", "_IF_NONE")):  # 3.11: JUMP_FORWARD_IF_
                    jump = following.argval
                    break
            if jump is None or jump not in starts:
                break
            index = starts[jump]
        elif name in ("PUSH_EXC_INFO", "CACHE", "NOP", "COPY", "NOT_TAKEN", "EXTENDED_ARG"):
            continue
        elif not clauses or name != "RERAISE":
            # ``except:`` after typed clauses, or a handler without any.
            clauses.append((None, at()))
            break
        else:
            break
    return _keep(key, code, clauses)


def _keep(key: tuple[int, int], code: CodeType, clauses: list[_Clause]) -> list[_Clause]:
    if len(_cache) > _MOST:
        _cache.clear()
    _cache[key] = dropping(code, _cache, key), clauses
    return clauses


_Read = tuple[list[dis.Instruction], dict[int, int]]
_read_last: tuple[CodeType, _Read] | None = None


def _instructions(code: CodeType) -> _Read:
    """The instructions of *code*, and the index of each by its offset.

    Reading a long function takes milliseconds, on the loop's thread, and an exception
    passes several of its handlers one after the other.
    """
    global _read_last
    known = _read_last
    if known is not None and known[0] is code:
        return known[1]
    instructions = list(dis.get_instructions(code))
    starts = {instruction.offset: index for index, instruction in enumerate(instructions)}
    _read_last = code, (instructions, starts)
    return instructions, starts


def _evaluate(steps: list[_Step], frame: FrameType) -> Any:
    stack: list[Any] = []
    for name, argument in steps:
        if name == "LOAD_ATTR":
            owner = stack.pop()
            if not isinstance(owner, ModuleType | type):
                raise LookupError(argument)
            stack.append(vars(owner)[argument])
        elif name == "BUILD_TUPLE":
            items = tuple(stack[len(stack) - argument :])
            del stack[len(stack) - argument :]
            stack.append(items)
        else:
            stack.append(_look_up(argument, frame))
    if len(stack) != 1:
        raise LookupError("more than one value")
    return stack[0]


def _look_up(name: str, frame: FrameType) -> Any:
    if name in frame.f_globals:
        return frame.f_globals[name]
    if hasattr(builtins, name):
        return getattr(builtins, name)
    return variables(frame)[name]
