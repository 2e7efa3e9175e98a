"""Replacing methods of classes in place, those of immutable C types too.

The wish: see every ``asyncio.Task`` that is made and every ``cancel()``,
whoever makes or calls it, in a program that is not changed.

The obstacle: ``_asyncio.Task`` and ``_asyncio.Future`` are C types with
``Py_TPFLAGS_IMMUTABLETYPE``; assigning to their attributes is a TypeError.

Rejected: a task factory (``asyncio.Task(...)`` called directly, as aiohttp
does, passes it by); a subclass bound to the name ``asyncio.Task`` (uvloop and
``eager_task_factory`` have bound the class before, and the class would show);
wrapping the coroutine (anyio and others count frames); monitoring every call
(twice the price of a task, and C calling C is not seen).

The way: take the flag away, assign the ordinary way (CPython then updates
slots and caches itself), set it again, tell the type that it changed.
``tp_flags`` is read through its address first and compared with
``type.__flags__``; where the two differ this is no layout that we know, and
nothing is touched.

The hole: another thread may, between two bytecodes, see the type mutable.
Code that fetched a method before keeps what it fetched.

The price of changing a class: CPython numbers each version of one, and caches by
that number.  A class has a thousand numbers from 3.13 on (``MAX_VERSIONS_PER_CLASS``
in Objects/typeobject.c), all immutable classes of a process together 131,071 from
3.12 on; what has none left is never cached again, and a loop or a task that was
audited in each of a thousand tests gets slower for good.  So the numbers that we
use up are not counted, where the counter can be found, and are taken from the
four thousand million that mutable classes have.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import sys
from importlib import import_module
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

from aioaudit.cpython.behaviour import (
    CLASSES_GET_VERSIONS,
    VERSION,
    VERSIONS_ARE_COUNTED,
)
from aioaudit.errors import AioauditError

IMMUTABLE: Final = 1 << 8
"""``Py_TPFLAGS_IMMUTABLETYPE``, Include/object.h."""

_FLAGS_OFFSET: Final = (
    object.__basicsize__ + ctypes.sizeof(ctypes.c_ssize_t) + 18 * ctypes.sizeof(ctypes.c_void_p)
)
"""Of ``tp_flags`` in a type: PyVarObject head, then 18 words (Include/cpython/object.h)."""

_VERSIONS_USED_OFFSET: Final = (
    _FLAGS_OFFSET
    + (1 + 26 + 1 + 2) * ctypes.sizeof(ctypes.c_void_p)
    + ctypes.sizeof(ctypes.c_int16)
)
"""Of ``tp_versions_used`` (3.13): behind the flags, 26 words, the version, two functions, a byte."""

_MISSING: Final = object()


class UnsupportedError(AioauditError, RuntimeError):
    """This interpreter is not one whose types can be changed safely."""


def _flags_of(cls: type) -> ctypes.c_ulong:
    return ctypes.c_ulong.from_address(id(cls) + _FLAGS_OFFSET)


def check(*classes: type, abiflags: str = getattr(sys, "abiflags", "")) -> None:
    """Raise `UnsupportedError` unless every one of *classes* can be changed safely.

    The test is exact and touches nothing: the flags read through the address
    must be what the type says of itself.  *abiflags* is `sys.abiflags`, where a ``t``
    stands for a build without the GIL: there two threads may be inside one probe at
    once, and nobody has tried that.
    """
    if "t" in abiflags:
        raise UnsupportedError(
            f"this is a free-threaded build of CPython {VERSION}, on which"
            " aioaudit was never tried; use the usual build"
        )
    if sys.implementation.name != "cpython":
        if any(_is_builtin(cls) for cls in classes):
            raise UnsupportedError(
                f"aioaudit knows how to instrument asyncio on CPython, "
                f"this is {sys.implementation.name} {VERSION}"
            )
        return
    for cls in classes:
        if _is_builtin(cls) and _flags_of(cls).value != cls.__flags__:
            raise UnsupportedError(
                f"the layout of {cls.__module__}.{cls.__qualname__} in this build of "
                f"CPython {VERSION} is not the one that aioaudit knows; "
                f"nothing was patched"
            )


def _is_builtin(cls: type) -> bool:
    return bool(cls.__flags__ & IMMUTABLE)


def assign(cls: type, name: str, value: object) -> None:
    """Set ``cls.name``, or delete it where *value* is the mark for "was not there"."""
    flags = _make_mutable(cls)
    try:
        if value is _MISSING:
            delattr(cls, name)
        else:
            setattr(cls, name, value)
    finally:
        if flags is not None:
            flags.value |= IMMUTABLE
            _mutable.pop(id(cls), None)
            ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))


_mutable: Final[dict[int, type]] = {}
"""Immutable types whose flag is away just now, by `id`."""


def _make_mutable(cls: type) -> ctypes.c_ulong | None:
    """Take the flag of *cls* away, where it has one; gives where it is to be set again."""
    if not _is_builtin(cls):
        return None
    flags = _flags_of(cls)
    _mutable[id(cls)] = cls  # first: what is interrupted from here on `close_types` makes good
    flags.value &= ~IMMUTABLE
    return flags


def close_types() -> None:
    """Set the flags again that an interrupted change left away."""
    for key, cls in list(_mutable.items()):
        _flags_of(cls).value |= IMMUTABLE
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))
        _mutable.pop(key, None)


# -- versions of classes ---------------------------------------------------------------


def _give_version(cls: type) -> None:
    """Let *cls* have a number for the version that it is now, as the next look into it would."""
    flags = _make_mutable(cls)  # else it is one of the few
    try:
        ctypes.pythonapi.PyUnstable_Type_AssignVersionTag(ctypes.py_object(cls))
    finally:
        if flags is not None:
            flags.value |= IMMUTABLE
            _mutable.pop(id(cls), None)


def _versions_used(cls: type) -> ctypes.c_uint16:
    return ctypes.c_uint16.from_address(id(cls) + _VERSIONS_USED_OFFSET)


@functools.cache
def _versions_are_counted() -> bool:
    """Whether this is a CPython that counts the versions of a class, where we know it to.

    A class of our own is changed, and what we take for its counter has to follow.
    """
    size: int = vars(type)["__basicsize__"].__get__(type)  # of `type` itself
    if not VERSIONS_ARE_COUNTED or size < _VERSIONS_USED_OFFSET + 2:
        return False
    scratch: Any = type("Scratch", (), {})
    seen: list[int] = []
    for number in range(4):
        scratch.number = number
        _give_version(scratch)
        seen.append(_versions_used(scratch).value)
    return seen == list(range(seen[0], seen[0] + 4)) and seen[0] < 10


_GIVES_VERSIONS: Final = CLASSES_GET_VERSIONS and hasattr(
    ctypes.pythonapi, "PyUnstable_Type_AssignVersionTag"
)


def _with_subclasses(cls: type[Any]) -> dict[int, type[Any]]:
    """*cls* and all below it, by `id`: a metaclass may have a ``__hash__`` of its own."""
    found: dict[int, type[Any]] = {}
    ahead = [cls]
    while ahead:
        each = ahead.pop()
        if id(each) not in found:
            found[id(each)] = each
            ahead.extend(type.__subclasses__(each))
    return found


class Versions:
    """How many versions the classes had that are being changed: ours are not to count."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[type[Any], int]] = {}

    def changing(self, cls: type[Any]) -> None:
        """*cls* is about to be changed, and with it the classes below it."""
        if id(cls) in self._before or not _GIVES_VERSIONS:
            return
        counted = _versions_are_counted()
        for key, each in _with_subclasses(cls).items():
            if key not in self._before:
                self._before[key] = each, _versions_used(each).value if counted else 0

    def settle(self) -> None:
        """All changes are made."""
        counted = bool(self._before) and _versions_are_counted()
        for key, (cls, used) in list(self._before.items()):
            _give_version(cls)
            if counted:
                now = _versions_used(cls)
                now.value = min(now.value, used)
            self._before.pop(key, None)  # last: who is interrupted does it again


class Patches:
    """What was replaced where, so that it can be put back exactly.

    Anything may be interrupted anywhere, by Ctrl-C or by what a signal's handler raises.  So a
    change is noted before it is made, and forgotten after it was undone: what was begun can
    always be put back, and that be done again.
    """

    def __init__(self, versions: Versions | None = None) -> None:
        """*versions* is to be settled after each row of changes."""
        self._done: list[tuple[Any, str, object, object]] = []
        self._versions = versions or Versions()

    def _change(self, cls: type[Any], name: str, value: object) -> None:
        self._versions.changing(cls)
        assign(cls, name, value)

    def replace(self, owner: Any, name: str, value: object) -> None:
        """Set ``owner.name`` (a class's or a module's) and remember what stood there."""
        self._done.append((owner, name, vars(owner).get(name, _MISSING), value))
        if isinstance(owner, type):
            self._change(owner, name, value)
        else:
            setattr(owner, name, value)

    def restore(self) -> None:
        """Put everything back, last first.

        What somebody else replaced after us stays theirs: taking it away
        would undo their work, and ours is inert by then.  Whatever is raised in the
        middle of it is raised when the others are done; doing it again does what is left.
        """
        failed: BaseException | None = None
        for index in range(len(self._done) - 1, -1, -1):
            try:
                self._put_back(*self._done[index])
                del self._done[index]
            except BaseException as error:  # noqa: BLE001 - raised below
                failed = failed or error
        if failed is not None:
            raise failed

    def _put_back(self, owner: Any, name: str, before: object, ours: object) -> None:
        if vars(owner).get(name, _MISSING) is not ours:
            return
        if isinstance(owner, type):
            self._change(owner, name, before)
        elif before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def disguise(new: Any, original: Any) -> Any:
    """Give the function *new* the name, doc and signature that *original* shows."""
    for attribute in ("__name__", "__qualname__", "__doc__"):
        value = getattr(original, attribute, _MISSING)
        if value is not _MISSING:
            setattr(new, attribute, value)
    new.__module__ = getattr(original, "__module__", None)  # methods of C types name none
    text = getattr(original, "__text_signature__", None)
    if text is not None:
        new.__text_signature__ = text
    if not isinstance(original, FunctionType):
        new.__annotations__ = {}
        if not (text or "").startswith("($module"):
            return new  # of a method the text is enough, and `inspect` takes long to read it
    elif sys.version_info >= (3, 14):  # PEP 649; mypy understands no flag here
        new.__annotate__ = original.__annotate__
    else:
        new.__annotations__ = original.__annotations__
    new.__signature__ = _signature_of(original)
    return new


class _Home:
    """The module that a function is from, as far as one looks; a module cannot be pickled."""

    __slots__ = ("module",)

    def __init__(self, module: str) -> None:
        self.module = module

    def __repr__(self) -> str:
        return repr(sys.modules[self.module])

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[self.module], name)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.module,)


def as_builtin(new: Any, original: Any) -> Any:
    """*new*, looking like the function *original* of `os`, and no method of a class that has it.

    A function in Python that is made an attribute of a class is a method there, and called with the
    object; one in C is not, nor is one that is bound already.  So *new* is bound, to what says where
    it is from, and is called with that before all other arguments.
    """
    disguise(new, original)
    signature = vars(new).get("__signature__")
    if signature is not None:
        home = inspect.Parameter("module", inspect.Parameter.POSITIONAL_ONLY)
        new.__signature__ = signature.replace(parameters=[home, *signature.parameters.values()])
    in_c = isinstance(original, BuiltinFunctionType)
    return MethodType(new, _Home(original.__module__ if in_c else "os"))


def _signature_of(function: Any) -> inspect.Signature:
    """The signature of *function*; names in its annotations that mean nothing (yet) stay names."""
    if sys.version_info < (3, 14):  # PEP 649; mypy understands no flag here
        return inspect.signature(function)
    forward = import_module("annotationlib").Format.FORWARDREF
    return inspect.signature(function, annotation_format=forward)
