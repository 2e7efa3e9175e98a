"""Private. What `aioaudit.enable` returns, and what several of its calls share.

Two parts of a program may both turn auditing on, and one of them may be done first.  So each
thing that a call enabled has a `Hold`, which counts how many calls want it still; auditing
itself has one.  A count and no list: a call whose handle is thrown away wants it for as long as
the process runs, or until `aioaudit.disable`, and a million such calls take no more memory than
one.

Rejected: a handle that ends what it enabled when it is collected (``aioaudit.enable()`` as a
statement, as it is mostly written, would then end at once); one session for each handle (there
is one set of methods to replace, and one log).
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

Value = TypeVar("Value")


class Auditing:
    """What one call of `enable` turned on.

    `disable` ends that and nothing else: what another call of `enable`, the environment or a
    `recording` asked for goes on.  As a context manager it does so at the end of the block::

        with aioaudit.enable("jsonl", jsonl_path="nightly.jsonl"):
            asyncio.run(main())

    It need not be kept: without it, auditing goes on until `aioaudit.disable`, which ends what all
    calls have turned on.  Nothing happens when it is collected.
    """

    __slots__ = ("__weakref__", "_release")

    def __init__(self, release: Callable[[Auditing], None]) -> None:
        """Private. *release* does nothing when it is called again."""
        self._release = release

    def disable(self) -> None:
        """End what this call enabled: its exporters have written all, and are closed.

        The last one to end puts everything back, as `aioaudit.disable` does.  Does nothing where
        it has ended before.  May be called from any thread.

        Raises:
            BaseException: what an exporter's own ``shutdown`` lets out.
        """
        self._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disable()


class Hold:
    """How many calls want a thing still; what it is, the session knows."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Setting(Generic[Value]):
    """A setting of the whole process: what the last call gave that has not ended.

    Args:
        value: What holds where no call gave any.
    """

    def __init__(self, value: Value) -> None:
        self.otherwise = value
        self._given: list[tuple[weakref.ref[Auditing], Value]] = []

    @property
    def value(self) -> Value:
        """What holds now."""
        return self._given[-1][1] if self._given else self.otherwise

    def give(self, handle: Auditing, value: Value) -> None:
        """From now on *value*, until *handle* ends."""
        # Nobody can end one whose handle is gone: what lies below it will never hold again.
        for index in range(len(self._given) - 1, 0, -1):
            if self._given[index][0]() is None:
                del self._given[:index]
                break
        self._given.append((weakref.ref(handle), value))

    def take_back(self, handle: Auditing) -> None:
        """*handle* ends."""
        self._given = [each for each in self._given if each[0]() is not handle]
