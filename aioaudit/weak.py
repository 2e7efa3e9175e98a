"""Entries of tables that go with the objects that they are about.

The callbacks of these weak references are C code throughout.  One in Python
could be where a signal's handler runs, and the KeyboardInterrupt that this
raises would be lost: what a weakref callback raises reaches nobody.

CPython calls them while the object still has its address (``subtype_dealloc``
in Objects/typeobject.c, ``code_dealloc`` in Objects/codeobject.c), so an `id`
that is found in such a table is that of the object that was entered.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
V = TypeVar("V")


def dropping(target: T, table: dict[Any, Any], key: object) -> weakref.ref[T]:
    """A reference to *target*: as long as it is kept, ``table[key]`` goes when *target* does.

    Raises:
        TypeError: *target* takes no weak references.
    """
    # The callback is given the reference, which ``pop`` takes for its default.
    return weakref.ref(target, partial(table.pop, key))


class WeakIdMap(Generic[V]):
    """Values by the objects that they are about, which are told apart by identity.

    Nothing of an object's own is asked: no ``__hash__``, no ``__eq__``.  A value that
    refers to its object keeps both for good.
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Any], V]] = {}

    def __setitem__(self, target: object, value: V) -> None:
        """Set the value of *target*; TypeError where it takes no weak references."""
        key, entries = id(target), self._entries
        # `dropping`, written out: every timeout of a program comes by here.
        entries[key] = weakref.ref(target, partial(entries.pop, key)), value

    @overload
    def get(self, target: object) -> V | None: ...
    @overload
    def get(self, target: object, default: V) -> V: ...
    def get(self, target: object, default: V | None = None) -> V | None:
        """The value of *target*, *default* where it has none."""
        entry = self._entries.get(id(target))
        return default if entry is None else entry[1]

    def __contains__(self, target: object) -> bool:
        return id(target) in self._entries

    def pop(self, target: object) -> V | None:
        """Take the value of *target* out, None where it has none."""
        entry = self._entries.pop(id(target), None)
        return None if entry is None else entry[1]

    def items(self) -> Iterator[tuple[Any, V]]:
        """The objects that are alive, and their values."""
        for ref, value in list(self._entries.values()):
            target = ref()
            if target is not None:
                yield target, value

    def clear(self) -> None:
        """Take everything out."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
