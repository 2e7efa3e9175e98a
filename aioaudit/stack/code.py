"""Code objects: whose they are, what they are called, which line an offset is.

Everything that is asked of a frame at the moment of a cancellation is answered
here once for each code object and then by one look into a dict.  The key is
the object's `id` (the entry goes when the object does, so it means it): hashing
a code object walks through all of its bytecode since 3.12.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any

from aioaudit.errors import AioauditError
from aioaudit.stack.callee import callee_of
from aioaudit.text import clean
from aioaudit.weak import dropping

APPLICATION = 0
THIRD_PARTY = 1
STDLIB = 2
OWN = 3

_STDLIB = os.__file__.rpartition(os.sep)[0] + os.sep
_FOLDER = _STDLIB.rsplit(os.sep, 2)[1]  # ``python3.13``
# What `sysconfig` says of ``stdlib`` and ``platstdlib``, and takes milliseconds to say; on Windows it is `_STDLIB`.
_PLATLIB = {
    f"{prefix}/{sys.platlibdir}/{_FOLDER}/" for prefix in (sys.base_prefix, sys.exec_prefix)
}
_OWN = __file__.rsplit(os.sep, 2)[0] + os.sep
_OWN_EXPORTERS = __file__.rsplit(os.sep, 3)[0] + f"{os.sep}exporters{os.sep}"
_LIMIT = 50_000
RESUMED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

Explain = Callable[[FrameType, Any], Any]


ACTS = 0
MAY_WRAP = 1
WRAPS = 2
_WAITS = ("cancell", *(f"cancel_{word}_" for word in ("after", "at", "if", "on", "until", "when")))
"""How the names of functions begin that do something before they cancel, or because of it."""


def wraps(name: str) -> int:
    """Whether a function *name* only does what its caller says: by its name it cancels.

    `MAY_WRAP` where it is called so that another of the library may have meant it, and a
    reader who sees the call would not think of ``cancel()``.
    """
    bare = name.lstrip("_")
    if name.endswith("_cancel") or (bare.startswith("cancel") and not bare.startswith(_WAITS)):
        return WRAPS
    return MAY_WRAP if bare.startswith(("abort", "kill", "set_exception", "throw")) else ACTS


def owner_of(path: str) -> int:
    """Whose code lives at *path*: the application's, a library's, Python's or ours."""
    if path.startswith(_OWN) or (path.startswith(_OWN_EXPORTERS) and not _is_in_packages(path)):
        return OWN
    if _is_in_packages(path) or _was_compiled_elsewhere(path):
        return THIRD_PARTY
    if path.startswith((_STDLIB, *_PLATLIB, "<frozen ")):
        return STDLIB
    return APPLICATION


def _is_in_packages(path: str) -> bool:
    path = path.replace("\\", "/")
    return "/site-packages/" in path or "/dist-packages/" in path


def _was_compiled_elsewhere(path: str) -> bool:
    """Whether it is one of Cython's, as it was where that ran: a library's, as a rule."""
    whole = path.startswith(("/", "\\")) or (path[:1].isalpha() and path[1:2] == ":")
    return path.endswith((".pyx", ".pxi", ".pxd")) and not whole


class NotNowError(AioauditError):
    """What explains a site cannot be looked for at the moment, but may be later."""


class CodeInfo:
    """What is known of one code object; ``source`` is ``module:qualname``.

    The code itself is not kept: programs that compile code as they run let it go.
    """

    __slots__ = (
        "_callees",
        "_lines",
        "_ref",
        "_site",
        "boundary",
        "callers",
        "calls",
        "doubtful",
        "explain",
        "finalizer",
        "given",
        "interrupted",
        "notable",
        "owner",
        "resumed",
        "source",
        "through",
        "timeouts",
        "wraps",
    )

    def __init__(self, code: CodeType, module: str, known: dict[int, CodeInfo]) -> None:
        """*known* has this entry as long as *code* lives."""
        self._ref = dropping(code, known, id(code))
        self._site = code.co_filename, code.co_firstlineno
        self.owner = owner_of(code.co_filename)
        self.source = clean(f"{module}:{code.co_qualname}")
        self.explain: Explain | None = None
        self.boundary = False
        self.finalizer = code.co_name == "__del__"
        self.notable = self.finalizer or self.owner == OWN
        """Whether a frame of it says something also further out than the caller."""
        self.given: tuple[str, ...] = code.co_varnames[: code.co_argcount]
        """The arguments that a call fills by their position; the last may be a tuple of the rest."""
        # A signal handler gets (signum, frame): the arguments that may be that frame.
        self.interrupted: tuple[str, ...] = self.given[1:]
        if code.co_flags & 0x04:
            rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
            self.given += (rest,)
            self.interrupted += (rest,)
        self.resumed = bool(code.co_flags & RESUMED)
        """Whether it is a generator's or a coroutine's, which is resumed and not called."""
        self.calls: dict[int, Any] = {}
        """By the offset of an instruction: what is said where that is all that called ``cancel()``."""
        self.through: dict[tuple[int, CodeInfo, int], Any] = {}
        """As `calls`, of what a library called for the instruction: whose code, and which offset."""
        self.wraps = ACTS if self.owner == APPLICATION else wraps(code.co_name)
        self.timeouts: dict[int, Any] = {}
        """By the offset of an instruction: what is known of the timeout that it entered last."""
        self._lines: dict[int, str] = {}
        self._callees: dict[int, str | None] = {}
        self.callers: dict[int, CodeInfo] = {}
        """By the offset of an instruction: what it surely called when it was asked last."""
        self.doubtful: dict[int, CodeInfo] = {}
        """The same where only the arguments can tell whether the interpreter called by itself."""

    def callee(self, frame: FrameType) -> str | None:
        """What *frame*, of this code, calls just now (`aioaudit.stack.callee.callee_of`)."""
        offset = frame.f_lasti
        try:
            return self._callees[offset]
        except KeyError:
            found = self._callees[offset] = callee_of(frame.f_code, offset)
            return found

    @property
    def code(self) -> CodeType | None:
        """The code, None once the program has let it go."""
        return self._ref()

    def at(self, offset: int) -> str:
        """``path:line`` of the instruction at *offset* (``f_lasti``, bytes)."""
        known = self._lines.get(offset)
        if known is None:
            path, line = self._site
            code = self._ref()
            if code is not None:
                line = line_of(code, offset)
            known = self._lines[offset] = clean(f"{path}:{line}", 1000)
        return known


Spot = tuple[CodeInfo, int]
"""A place in code: whose, and the offset of the instruction."""


def who_acts(inner: Spot | None, info: CodeInfo, offset: int) -> Spot | None:
    """Of a library's function and what it was called by, which does it for more than its caller.

    *inner* is what was found further in; the next one out is a library's, too, of *info*'s code.
    """
    if info.wraps == WRAPS or (inner is not None and inner[0].wraps <= info.wraps):
        return inner
    return info, offset


def line_of(code: CodeType, offset: int) -> int:
    """The line of the instruction at *offset*; the first line where there is none."""
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno


class Codes:
    """All code objects met so far that are still there."""

    def __init__(
        self,
        recognised: dict[tuple[str, str], Explain],
        boundaries: set[str],
        find: Callable[[str, str], Explain | None] = lambda _module, _qualname: None,
        fault: Callable[[BaseException], None] = lambda _error: None,
    ) -> None:
        """*recognised* has an explanation by module and qualname, *boundaries* sources.

        *find* gives that of a library's code (`aioaudit.recognisers.registry.find`), and
        *fault* is told where it fails.
        """
        self._recognised = recognised
        self._find = find
        self._fault = fault
        self._boundaries = boundaries
        self._marked: dict[int, CodeInfo] = {}
        self.known: dict[int, CodeInfo] = {}

    def of(self, frame: FrameType) -> CodeInfo:
        """The entry for *frame*'s code."""
        code = frame.f_code
        info = self.known.get(id(code))
        return info if info is not None else self.learn(code, frame.f_globals)

    def learn(self, code: CodeType, namespace: dict[str, Any]) -> CodeInfo:
        """Make the entry for *code*, which runs with *namespace* as its globals."""
        module = namespace.get("__name__")
        if not isinstance(module, str):
            module = "?"
        info = CodeInfo(code, module, self.known)
        if info.owner != APPLICATION:
            if module == "__main__":  # `python -m` of a module that has another name
                module = str(getattr(namespace.get("__spec__"), "name", module))
            info.explain = self._recognised.get((module, code.co_qualname))
        if info.source in self._boundaries:
            info.boundary = info.notable = True
        if info.owner == THIRD_PARTY:
            info.explain = functools.partial(self._look_up, info)
        if len(self.known) >= _LIMIT:
            # Programs that compile code as they run, and keep it, would fill the memory.
            self.known.clear()
            self.known.update(self._marked)
        self.known[id(code)] = info
        return info

    def mark_boundary(self, code: CodeType) -> None:
        """Frames of *code*, one of our own, are where the loop's own stack begins."""
        info = self.learn(code, {"__name__": "aioaudit"})
        info.boundary = info.notable = True
        self._marked[id(code)] = info

    def add_boundary(self, function: FunctionType) -> None:
        """Frames of *function*, which runs a loop, are nobody's caller from now on."""
        info = self.learn(function.__code__, function.__globals__)
        self._boundaries.add(info.source)
        info.boundary = info.notable = True

    def _look_up(self, info: CodeInfo, frame: FrameType, call: Any) -> Any:
        """Stand in for the explanation of a library's code until it is first asked for."""
        look_up, info.explain = info.explain, None
        try:
            info.explain = self._find(info.source.partition(":")[0], frame.f_code.co_qualname)
        except NotNowError:
            info.explain = look_up
            return None
        except Exception as error:  # noqa: BLE001 - without a table the request is still to be told
            self._fault(error)
        return None if info.explain is None else info.explain(frame, call)
