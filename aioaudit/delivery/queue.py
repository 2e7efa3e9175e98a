"""The queue that the program puts events into: no lock, no waiting, bounded.

`Queue.put` is called from inside every task that the program makes, so it is a
closure that compares a length, appends, and looks at one flag.  It takes no
lock: the interpreter makes the append atomic, and a signal handler may run
between any two steps of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat, starmap

from aioaudit.delivery.records import Record
from aioaudit.threads import monotonic

_MOST_UNSEEN = 64  # so many events may be put between two looks at the clock...
_OFTEN = 1e-3  # ... where they come more often than that, in seconds; else each is a look


class Queue:
    """A bounded queue.

    Args:
        capacity: How many items may wait.
        wake_up: Called after an item was put while the queue is idle.
        lose: Called with an item that finds the queue full, or closed.
        look: Called with the time now and then, after an item was put.
    """

    put: Callable[[Record], None]
    """Queue an item.  Never blocks and never raises."""

    set_idle: Callable[[bool], None]
    """Whether the next item is to call *wake_up*."""

    set_open: Callable[[bool], None]
    """Whether items are taken at all."""

    _look_again: Callable[[], None]

    def __init__(
        self,
        capacity: int,
        *,
        wake_up: Callable[[], None],
        lose: Callable[[Record], None],
        look: Callable[[float], None],
    ) -> None:
        self._items: deque[Record] = deque()
        self._make_put(capacity, wake_up, lose, look)

    def __len__(self) -> int:
        return len(self._items)

    def take(self, count: int) -> Iterator[Record]:
        """The oldest *count* items, taken out one by one as somebody looks at them."""
        return starmap(self._items.popleft, repeat((), count))

    def took(self) -> None:
        """Items were taken out: there may be room again."""
        self._look_again()

    def clear(self) -> None:
        """Forget all items."""
        self._items.clear()

    def _make_put(
        self,
        capacity: int,
        wake_up: Callable[[], None],
        lose: Callable[[Record], None],
        keep_pace: Callable[[float], None],
    ) -> None:
        queue = self._items
        append = queue.append
        room = 0  # `put` only appends where less waits than that, else it looks around
        closed = idle = True
        step = 1  # so many are put before the next look...
        before = 0.0  # ... and this was the last one

        def put(item: Record) -> None:
            if len(queue) < room:
                append(item)
                if idle:
                    wake_up()
            else:
                look(item)

        def look(item: Record) -> None:
            nonlocal room, step, before
            if closed or len(queue) >= capacity:
                lose(item)
                if not closed:  # now of all times the thread has to come forward
                    keep_pace(monotonic())
                return
            append(item)
            if idle:
                wake_up()
            now = monotonic()
            step = min(2 * step, _MOST_UNSEEN) if now - before < _OFTEN * step else 1
            before = now
            room = min(len(queue) + step, capacity)
            if closed:  # by another thread, meanwhile
                room = 0
            keep_pace(now)

        def look_again() -> None:
            nonlocal room
            room = 0

        def set_idle(value: bool) -> None:
            nonlocal idle
            idle = value

        def set_open(value: bool) -> None:
            nonlocal closed, room
            closed = not value
            room = 0

        self.put = put
        self._look_again = look_again
        self.set_idle = set_idle
        self.set_open = set_open
        set_open(True)
