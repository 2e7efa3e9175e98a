"""Which ``with`` blocks a suspended coroutine is in, and by which of its lines it entered them.

For what was entered before anybody looked: a timeout, a task group.  The interpreter keeps the
manager of each block on the frame's stack, behind the method that leaves it (``LOAD_SPECIAL`` in
Python/bytecodes.c, since 3.14), and shows both to the garbage collector.  Which line entered it,
the code's table of handlers says: the end of a ``with`` is one, and is at its line.

The two are matched by their order, and only where there are as many of one as of the other.
Nothing of the program runs because we look.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from dis import opmap
from types import (
    CodeType,
    FrameType,
    FunctionType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
from typing import TYPE_CHECKING, Any, NamedTuple

from aioaudit.stack.code import APPLICATION, STDLIB, THIRD_PARTY
from aioaudit.stack.frames import awaited_chain, local

if TYPE_CHECKING:
    from aioaudit.stack.code import Codes, Spot

_ENTERS_HANDLER = opmap.get("PUSH_EXC_INFO")
_LEAVES_WITH = opmap.get("WITH_EXCEPT_START")
_LEAVING = frozenset({"__aexit__", "__exit__"})
_PLAIN = (FunctionType, MethodDescriptorType, WrapperDescriptorType)
_MOST = 100  # blocks around one line


class Entered(NamedTuple):
    """A block that a coroutine is in."""

    manager: Any
    frame: FrameType
    """That entered it, or that leaves it."""
    spot: Spot | None
    """The line that entered it: the application's, else a library's; None where it is not shown."""


def entered(codes: Codes, coro: Any) -> list[Entered]:
    """The blocks that *coro*, which is suspended, is in, the outermost first.

    To be asked in the thread of its loop: in another it might go on meanwhile.
    """
    found: list[Entered] = []
    outward: Spot | None = None
    for each in awaited_chain(coro):
        frames = (getattr(each, name, None) for name in ("cr_frame", "gi_frame", "ag_frame"))
        frame = next(filter(None, frames), None)
        if frame is None:
            continue
        info, offset = codes.of(frame), frame.f_lasti
        managers = list(_managers(each))
        lines: list[int | None] = list(_lines(frame.f_code, offset)) if managers else []
        if len(lines) != len(managers):
            lines = [None] * len(managers)
        for manager, line in zip(managers, lines, strict=True):
            spot = outward
            if info.owner == APPLICATION or (outward is None and info.owner == THIRD_PARTY):
                spot = None if line is None else (info, line)
            found.append(Entered(manager, frame, spot))
        if info.owner == STDLIB and frame.f_code.co_name == "__aexit__":
            # It waits for what the block leaves behind, as a task group does for its tasks.
            found.append(Entered(local(frame, "self"), frame, outward))
        if info.owner == APPLICATION:
            outward = info, offset
    return found


def _managers(suspended: Any) -> Iterator[Any]:
    """The managers of the blocks that *suspended* is in, the outermost first."""
    for leave, manager in itertools.pairwise(gc.get_referents(suspended)):
        if isinstance(leave, _PLAIN) and leave.__name__ in _LEAVING:
            for cls in type(manager).__mro__:
                if leave.__name__ in vars(cls):
                    if vars(cls)[leave.__name__] is leave:
                        yield manager
                    break


def _lines(code: CodeType, offset: int) -> list[int]:
    """Instructions at the lines of the ``with`` blocks around *offset*, the outermost first."""
    table = list(_handlers(code.co_exceptiontable))
    does = code.co_code
    found: list[int] = []
    for _ in range(_MOST):
        # The handler of what is around a handler is the next one further out.
        target = next((end for first, last, end in table if first <= offset < last), None)
        if target is None:
            break
        if does[target] == _ENTERS_HANDLER and does[target + 2] == _LEAVES_WITH:
            found.append(target)
        offset = target
    return found[::-1]


def _handlers(table: bytes) -> Iterator[tuple[int, int, int]]:
    """From where to where a handler is for, and where it begins (``co_exceptiontable``).

    As Objects/exception_handling_notes.txt has it: numbers of six bits a byte, four an entry.
    """
    numbers: list[int] = []
    value = 0
    for byte in table:
        value = value << 6 | byte & 0x3F
        if not byte & 0x40:
            numbers.append(value)
            value = 0
    for start, length, target, _ in zip(*[iter(numbers)] * 4, strict=False):
        yield start * 2, (start + length) * 2, target * 2
