"""Private. Entries of tables that go with the objects that they are about.

The callbacks of these weak references are C code throughout.  One in Python
could be where a signal's handler runs, and the KeyboardInterrupt that this
raises would be lost: what a weakref callback raises reaches nobody.

CPython calls them while the object still has its address (``subtype_dealloc``
in Objects/typeobject.c, ``code_dealloc`` in Objects/codeobject.c).  One exception:
what a finalizer refers to of the garbage that is just being collected goes without
a call (gh-91636, Python/gc.c of late 3.13 and of 3.14), and the tasks and the loop that
somebody dropped are such.  So an `id` alone tells only codes, which the collector
does not see; else the reference is asked, too, and `swept` takes out what was left.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar, overload

T = TypeVar("T")
V = TypeVar("V")
E = TypeVar("E")


class _Table(Protocol):
    """What something can be taken out of."""

    def pop(self, key: Any, default: Any, /) -> Any: ...


_first = itemgetter(0)


def dropping(target: T, table: _Table, key: object) -> weakref.ref[T]:
    """A reference to *target*: as long as it is kept, ``table[key]`` goes when *target* does.

    Raises:
        TypeError: *target* takes no weak references.
    """
    # The callback is given the reference, which ``pop`` takes for its default.
    return weakref.ref(target, partial(table.pop, key))


_FEWEST = 100


def swept(entries: dict[int, E], ref_of: Callable[[E], weakref.ref[Any]]) -> int:
    """Take out of *entries* what is about objects that are gone; how many it may have till the next time."""
    for key in list(entries):
        entry = entries.get(key)
        if entry is not None and ref_of(entry)() is None:
            entries.pop(key, None)
    return 2 * max(len(entries), _FEWEST)


class WeakIdMap(Generic[V]):
    """Values by the objects that they are about, which are told apart by identity.

    Nothing of an object's own is asked: no ``__hash__``, no ``__eq__``.  A value that
    refers to its object keeps both for good.
    """

    __slots__ = ("_pop", "_room", "entries")

    def __init__(self) -> None:
        self.entries: dict[int, tuple[weakref.ref[Any], V]] = {}
        """By `id`.  Only for the hottest paths, which ask the reference themselves, as `get` does."""
        self._pop = self.entries.pop
        self._room = _FEWEST

    def __setitem__(self, target: object, value: V) -> None:
        """Set the value of *target*; TypeError where it takes no weak references."""
        key, entries = id(target), self.entries
        if len(entries) >= self._room:
            self._room = swept(entries, _first)
        # `dropping`, written out: every timeout of a program comes by here.
        entries[key] = weakref.ref(target, partial(self._pop, key)), value

    @overload
    def get(self, target: object) -> V | None: ...
    @overload
    def get(self, target: object, default: V) -> V: ...
    def get(self, target: object, default: V | None = None) -> V | None:
        """The value of *target*, *default* where it has none."""
        entry = self.entries.get(id(target))
        return default if entry is None or entry[0]() is not target else entry[1]

    def __contains__(self, target: object) -> bool:
        entry = self.entries.get(id(target))
        return entry is not None and entry[0]() is target

    def pop(self, target: object) -> V | None:
        """Take the value of *target* out, None where it has none."""
        entry = self.entries.pop(id(target), None)
        return None if entry is None or entry[0]() is not target else entry[1]

    def items(self) -> Iterator[tuple[Any, V]]:
        """The objects that are alive, and their values."""
        for ref, value in list(self.entries.values()):
            target = ref()
            if target is not None:
                yield target, value

    def clear(self) -> None:
        """Take everything out."""
        self.entries.clear()

    def __len__(self) -> int:
        return len(self.entries)
