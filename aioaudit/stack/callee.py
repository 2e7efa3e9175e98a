"""What an instruction calls: whether the frame below another one on the stack called it.

The stack does not say so.  A finalizer, a weak reference's callback, a signal's handler and a
tracer run in whichever frame is there when the collector starts, a last reference goes or a
signal comes, and look as if that frame had called them.  Since 3.12 all of it happens at
certain instructions only (``_Py_HandlePending`` in Python/ceval_gil.c: at the end of a call,
at a jump backwards, at the start of a function); before, also where memory is allocated.
"""

from __future__ import annotations

import dis
from types import CodeType

from aioaudit.cpython.behaviour import CODE_OF_NAMES_IS_SHIFTED

SOMETHING = ""
"""The instruction calls something, or may do so, whose name does not stand there."""

AWAITED = "await"
"""The instruction drives a coroutine or a generator; no function has that name."""

_IDLE = frozenset(
    {
        "BUILD_LIST",
        "BUILD_STRING",
        "BUILD_TUPLE",
        "COPY",
        "COPY_FREE_VARS",
        "DELETE_DEREF",
        "DELETE_FAST",
        "IS_OP",
        "JUMP_BACKWARD",
        "JUMP_BACKWARD_NO_INTERRUPT",
        "JUMP_FORWARD",
        "LIST_APPEND",
        "LOAD_CLOSURE",
        "LOAD_CONST",
        "LOAD_DEREF",
        "LOAD_FAST",
        "LOAD_FAST_AND_CLEAR",
        "LOAD_FAST_BORROW",
        "LOAD_FAST_BORROW_LOAD_FAST_BORROW",
        "LOAD_FAST_CHECK",
        "LOAD_FAST_LOAD_FAST",
        "LOAD_SMALL_INT",
        "MAKE_CELL",
        "MAKE_FUNCTION",
        "NOP",
        "POP_EXCEPT",
        "POP_ITER",
        "POP_TOP",
        "PUSH_NULL",
        "RETURN_CONST",
        "RETURN_GENERATOR",
        "RETURN_VALUE",
        "SET_FUNCTION_ATTRIBUTE",
        "STORE_DEREF",
        "STORE_FAST",
        "STORE_FAST_LOAD_FAST",
        "STORE_FAST_STORE_FAST",
        "SWAP",
    }
)
"""What calls nothing: it moves objects about, or lets the last reference to one go."""

_AWAITING = frozenset(
    {
        "END_ASYNC_FOR",
        "FOR_ITER",
        "GET_ANEXT",
        "GET_AWAITABLE",
        "SEND",
        # A coroutine that waits in another stands here while an exception is thrown into that one.
        "YIELD_VALUE",
    }
)
_CALLS = frozenset({"CALL", "CALL_KW", "PRECALL"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_SHIFT = 1 if CODE_OF_NAMES_IS_SHIFTED else 0
"""In the argument of ``LOAD_ATTR`` the name's index is shifted by so many bits."""

_CACHE = dis.opmap["CACHE"]
_EXTENDED = dis.opmap["EXTENDED_ARG"]
_MOST_STEPS = 200


def callee_of(code: CodeType, offset: int) -> str | None:
    """The name of what the instruction at *offset* calls, None where it can call nothing.

    *offset* is a frame's ``f_lasti``; the name is that of the variable or attribute.
    """
    text = code.co_code  # as the compiler made it: what CPython has put in for speed is undone
    while offset > 0 and text[offset] == _CACHE:
        offset -= 2  # of a call that goes on in Python code, 3.11 and 3.12 tell the last of these
    if offset < 0:
        return None  # it has not begun
    name = dis.opname[text[offset]]
    if name == "RESUME":  # its argument says after what: the start, a yield, `yield from`, `await`
        return AWAITED if text[offset + 1] & 3 >= 2 else None
    if name in _AWAITING:
        return AWAITED
    if name in _IDLE:
        return None
    return _called(code, text, offset) if name in _CALLS else SOMETHING


def _called(code: CodeType, text: bytes, offset: int) -> str:
    """The name of what the call at *offset* calls.

    Going backwards, what loads it is the first instruction outside of its arguments.
    """
    left = _argument(text, offset)
    if dis.opname[text[offset]] == "CALL_KW":
        left += 1  # the tuple of names
    within = False
    for at in range(offset - 2, max(-2, offset - _MOST_STEPS), -2):
        name = dis.opname[text[at]]
        if name in ("CACHE", "EXTENDED_ARG") or (name == "PRECALL" and not within):
            continue
        within = True
        argument = _argument(text, at)
        if left == 0:
            if name == "PUSH_NULL":  # since 3.13 it comes behind what is called
                continue
            return _loaded(code, name, argument)
        if "JUMP" in name or name in _AWAITING:
            break  # the arguments branch, or wait
        left -= dis.stack_effect(text[at], argument if text[at] >= dis.HAVE_ARGUMENT else None)
        if left < 0:
            break
    return SOMETHING


def _argument(text: bytes, offset: int) -> int:
    """The argument of the instruction at *offset*."""
    value, shift = text[offset + 1], 8
    while offset >= 2 and text[offset - 2] == _EXTENDED:
        offset -= 2
        value |= text[offset + 1] << shift
        shift += 8
    return value


def _loaded(code: CodeType, name: str, argument: int) -> str:
    """The name of what the instruction *name* loads."""
    if name in _ATTRIBUTES:
        return code.co_names[argument >> _SHIFT]
    if name == "LOAD_GLOBAL":
        return code.co_names[argument >> 1]
    if name == "LOAD_NAME":
        return code.co_names[argument]
    if name.startswith("LOAD_SUPER_ATTR"):
        return code.co_names[argument >> 2]
    if name in ("LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK") and argument < code.co_nlocals:
        return code.co_varnames[argument]
    if name == "LOAD_DEREF":  # of a function around it: those of its own that others see come first
        own = [each for each in code.co_cellvars if each not in code.co_varnames]
        names = (*code.co_varnames, *own, *code.co_freevars)
        return names[argument] if argument < len(names) else SOMETHING
    return SOMETHING
