"""Private. What `aioaudit.enable` returns, and what several of its calls share.

Two parts of a program may both turn auditing on, and one of them may be done first.  So each
thing that a call enabled has a `Hold`, of which is known how many calls want it still; auditing
itself has one.  A count and no list: a call whose handle is thrown away wants it for as long as
the process runs, or until `aioaudit.disable`, and a million such calls take no more memory than
one.

All that is wanted is one value (`Wanted`), which is never changed but replaced: a call that is
interrupted, wherever that is, has replaced it or has not.

Rejected: a handle that ends what it enabled when it is collected (``aioaudit.enable()`` as a
statement, as it is mostly written, would then end at once); one session for each handle (there
is one set of methods to replace, and one log).
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from aioaudit.settings import Settings

Value = TypeVar("Value")


class Auditing:
    """What one call of `enable` turned on.

    `disable` ends that and nothing else: what another call of `enable`, the environment or a
    `recording` asked for goes on.  As a context manager, once, it does so at the end of the
    block::

        with aioaudit.enable("jsonl", jsonl_path="nightly.jsonl"):
            asyncio.run(main())

    It need not be kept: without it, auditing goes on until `aioaudit.disable`, which ends what all
    calls have turned on.  Nothing happens when it is collected.
    """

    __slots__ = ("__weakref__", "_asked", "_block_begun", "_is_on", "_release", "ended", "holds")

    def __init__(
        self,
        release: Callable[[Auditing], None],
        is_on: Callable[[Auditing], bool],
        asked: Iterable[str],
    ) -> None:
        """Private. *release* does nothing when it is called again; *asked* names the exporters."""
        self._release = release
        self._is_on = is_on
        self._asked = tuple(asked)
        self._block_begun = False
        self.ended = False
        """Private. Whether `disable` was called."""
        self.holds: tuple[Hold, ...] = ()
        """Private. What it turned on and has not ended; empty where it is about to."""

    def disable(self) -> None:
        """End what this call enabled: its exporters have written all, and are closed.

        Waits for them, 3 seconds at most.  The last handle to end puts everything back, as
        `aioaudit.disable` does.  Does nothing where it has ended before.  May be called from any
        thread; where a signal's handler calls it in the middle of another call that turns
        auditing on or off, it is done at the end of that one.
        """
        self._release(self)

    def __enter__(self) -> Self:
        before = self._block_begun
        try:
            self._enter()
            return self
        except BaseException:
            if not before:
                self._release(self)  # Ctrl-C: nobody will come to the end of the block
            raise

    def _enter(self) -> None:
        if self._block_begun:
            why = "it was entered before"
        elif not (self.holds or self.ended):
            why = (
                "a signal's handler, a hook or a finalizer has interrupted a call that turns"
                " auditing on or off, and what is asked for meanwhile is done at the end of that call"
            )
        elif not self._is_on(self):
            why = "it has ended"
        else:
            self._block_begun = True
            return
        raise RuntimeError(f"{self!r} cannot audit this block: {why}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.disable()
        except BaseException:  # Ctrl-C, perhaps before it had begun
            self.disable()
            raise

    def __repr__(self) -> str:
        state = "on" if self._is_on(self) else "off"
        return f"<aioaudit.Auditing, {', '.join((state, *self._asked))}>"


class Hold:
    """Stands for a thing that calls want; what it is, `Wanted` knows."""

    __slots__ = ()


class Held(Struct, frozen=True):
    """A thing that calls want."""

    what: Any
    """An exporter's journal, or another thing, of which there is one."""
    calls: int
    """How many want it."""
    events: frozenset[str] = frozenset()
    """Those that an exporter gets."""
    settings: Settings | None = None
    """What an exporter was made with that a name asked for."""


class Setting(Generic[Value]):
    """A setting of the whole process: what the last call gave that has not ended.

    Args:
        value: What holds where no call gave any.
        given: By whom what was given, the oldest first.
    """

    def __init__(
        self, value: Value, given: tuple[tuple[weakref.ref[Auditing], Value], ...] = ()
    ) -> None:
        self.otherwise = value
        self._given = given

    @property
    def value(self) -> Value:
        """What holds now."""
        return self._given[-1][1] if self._given else self.otherwise

    def without_any(self, value: Value) -> Setting[Value]:
        """The same, but *value* where no call gave any."""
        return Setting(value, self._given)

    def given(self, handle: Auditing, value: Value) -> Setting[Value]:
        """The same, but *value* until *handle* ends."""
        given = self._given
        # Nobody can end one whose handle is gone: what lies below it will never hold again.
        for index in range(len(given) - 1, 0, -1):
            if given[index][0]() is None:
                given = given[index:]
                break
        return Setting(self.otherwise, (*given, (weakref.ref(handle), value)))

    def taken_back(self, handle: Auditing) -> Setting[Value]:
        """The same, but *handle* has ended."""
        left = tuple(each for each in self._given if each[0]() is not handle)
        return Setting(self.otherwise, left)


class Wanted(Struct, frozen=True):
    """All that is wanted of auditing now."""

    holds: Mapping[Hold, Held]
    slow_cancel: Setting[float]
    """Seconds that a task may take to obey."""
    blocked: Setting[float]
    """Seconds that a loop may stay in one callback."""
    bus_events: Setting[frozenset[str]]
    """What hooks hear where there is no exporter."""
    notes: Setting[bool]
    """Whether errors carry notes."""
    redact: Setting[tuple[str, ...]]
    """What is replaced in what leaves the process."""

    def is_wanted(self, what: object) -> bool:
        """Whether a call wants *what*."""
        return any(each.what is what for each in self.holds.values())

    def with_one_more(self, things: Iterable[Held]) -> tuple[Wanted, tuple[Hold, ...]]:
        """The same, and one more call that wants each of these; and the holds that it has."""
        holds = dict(self.holds)
        known = {id(held.what): hold for hold, held in holds.items()}
        mine: list[Hold] = []
        for each in things:
            hold = known.setdefault(id(each.what), Hold())
            before = holds.get(hold, replace(each, calls=0))
            holds[hold] = replace(before, calls=before.calls + 1)
            mine.append(hold)
        return replace(self, holds=holds), tuple(mine)

    def without(self, handle: Auditing) -> Wanted:
        """The same, but *handle* has ended."""
        holds = dict(self.holds)
        for hold in handle.holds:
            held = holds.get(hold)
            if held is None:
                continue  # of a session that is over
            if held.calls > 1:
                holds[hold] = replace(held, calls=held.calls - 1)
            else:
                del holds[hold]
        return Wanted(
            holds,
            self.slow_cancel.taken_back(handle),
            self.blocked.taken_back(handle),
            self.bus_events.taken_back(handle),
            self.notes.taken_back(handle),
            self.redact.taken_back(handle),
        )
