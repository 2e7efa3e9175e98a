"""Which tasks live: the narrow side of what probes note of every task that is made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from aioaudit.delivery.records import Created


class Lives(Protocol):
    """The tasks that live and whose making was seen, by their `id`.

    An entry is made when a task is, and goes when the task ends: whoever holds the
    task may ask by its `id`, nobody else.  It says which number the task has, when, where
    and by which task it was made, and what it runs.

    A `dict` is one, and is what there is: the hot paths (`aioaudit.probes.tasks`,
    `aioaudit.probes.ends`) read and write it as the dict that it is, as nothing else is as
    fast in Python.  All others keep to these methods, so that code in C may
    keep the entries instead, where it also sees tasks begin and end.
    """

    def __contains__(self, key: object, /) -> bool: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: int, /) -> Created: ...

    def __setitem__(self, key: int, made: Created, /) -> None: ...

    def __delitem__(self, key: int, /) -> None: ...

    def get(self, key: int, /) -> Created | None:
        """What is known of the task at *key*, None where its making was not seen."""
        ...

    def pop(self, key: int, default: None, /) -> Created | None:
        """The same, of a task that ends."""
        ...

    def items(self) -> Iterable[tuple[int, Created]]:
        """All of them, to look for those whose end was not seen."""
        ...

    def clear(self) -> None:
        """Nothing is known any more: auditing begins anew."""
        ...
