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
"""

from __future__ import annotations

import ctypes
import inspect
import sys
from importlib import import_module
from types import FunctionType
from typing import Any, Final

IMMUTABLE: Final = 1 << 8
"""``Py_TPFLAGS_IMMUTABLETYPE``, Include/object.h."""

_FLAGS_OFFSET: Final = (
    object.__basicsize__ + ctypes.sizeof(ctypes.c_ssize_t) + 18 * ctypes.sizeof(ctypes.c_void_p)
)
"""Of ``tp_flags`` in a type: PyVarObject head, then 18 words (Include/cpython/object.h)."""

_MISSING: Final = object()


class UnsupportedError(RuntimeError):
    """This interpreter is not one whose types can be changed safely."""


def _flags_of(cls: type) -> ctypes.c_ulong:
    return ctypes.c_ulong.from_address(id(cls) + _FLAGS_OFFSET)


def check(*classes: type) -> None:
    """Raise `UnsupportedError` unless every one of *classes* can be changed safely.

    The test is exact and touches nothing: the flags read through the address
    must be what the type says of itself.
    """
    if sys.implementation.name != "cpython":
        if any(_is_builtin(cls) for cls in classes):
            raise UnsupportedError(
                f"aioaudit knows how to instrument asyncio on CPython, "
                f"this is {sys.implementation.name} {sys.version.split()[0]}"
            )
        return
    for cls in classes:
        if _is_builtin(cls) and _flags_of(cls).value != cls.__flags__:
            raise UnsupportedError(
                f"the layout of {cls.__module__}.{cls.__qualname__} in this build of "
                f"CPython {sys.version.split()[0]} is not the one that aioaudit knows; "
                f"nothing was patched"
            )


def _is_builtin(cls: type) -> bool:
    return bool(cls.__flags__ & IMMUTABLE)


def assign(cls: type, name: str, value: object) -> None:
    """Set ``cls.name``, or delete it where *value* is the mark for "was not there"."""
    builtin = _is_builtin(cls)
    flags = _flags_of(cls) if builtin else None
    if flags is not None:
        flags.value &= ~IMMUTABLE
    try:
        if value is _MISSING:
            delattr(cls, name)
        else:
            setattr(cls, name, value)
    finally:
        if flags is not None:
            flags.value |= IMMUTABLE
            ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))


class Patches:
    """What was replaced where, so that it can be put back exactly."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, object, object]] = []

    def replace(self, owner: Any, name: str, value: object) -> None:
        """Set ``owner.name`` (a class's or a module's) and remember what stood there."""
        before = vars(owner).get(name, _MISSING)
        if isinstance(owner, type):
            assign(owner, name, value)
        else:
            setattr(owner, name, value)
        self._done.append((owner, name, before, value))

    def restore(self) -> None:
        """Put everything back, last first.

        What somebody else replaced after us stays theirs: taking it away
        would undo their work, and ours is inert by then.
        """
        while self._done:
            owner, name, before, ours = self._done.pop()
            if vars(owner).get(name, _MISSING) is not ours:
                continue
            if isinstance(owner, type):
                assign(owner, name, before)
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
    elif sys.version_info >= (3, 14):
        new.__annotate__ = original.__annotate__
    else:
        new.__annotations__ = original.__annotations__
    new.__signature__ = _signature_of(original)
    return new


def _signature_of(function: Any) -> inspect.Signature:
    """The signature of *function*; names in its annotations that mean nothing (yet) stay names."""
    if sys.version_info < (3, 14):
        return inspect.signature(function)
    forward = import_module("annotationlib").Format.FORWARDREF
    return inspect.signature(function, annotation_format=forward)
