"""Keeping pace with a busy loop: who puts events gives way to the thread that is behind.

A busy program may starve the thread of the GIL.  A thread that waits for it asks
for it when `sys.getswitchinterval` has passed without a change of hands; each time
that somebody lets it go for a moment, as a loop does at every ``epoll_wait``, the
waiting one is woken, finds it taken again, and waits anew (``take_gil`` in
CPython's Python/ceval_gil.c).  Measured: up to two seconds for one ``os.write``.
Who puts events therefore looks at the clock now and then, and where the thread is
behind sleeps for a moment (`_WAY`) without the GIL: that is the thread's chance.  What it does
with it is small portions, so nobody waits long; where it does not come forward, slow,
hanging, or robbed by other threads, there is ever longer before the next try.
"""

from __future__ import annotations

from collections.abc import Callable

from aioaudit.threads import monotonic, sleep

_LATE = 0.03  # seconds since the thread's last look after which it is behind...
_LATE_FOR_NEWS = 0.02  # ... and where somebody waits for the event: see `is_late_for_news`
_WAY = 50e-6  # seconds that giving way to the thread takes...
_MOST_WAY = 800e-6  # ... and where it did not help, as on a busy machine, twice as long up to this
_WAY_PAUSE = 1e-3  # the least time before it is done again...
_WAY_SHARE = 20  # ... and where it did not help, so many times as long as it took...
_MOST_PAUSE = 1.0  # ... but not longer than that


class Pace:
    """How far the thread is behind, and the giving way to it.

    Args:
        has_thread: Whether there is a thread to give way to.
    """

    def __init__(self, has_thread: Callable[[], bool]) -> None:
        self._has_thread = has_thread
        self.begin()

    def begin(self) -> None:
        """Know nothing: a new run, perhaps of a forked child."""
        self._looked = 0.0  # when the thread looked last
        self._due = 0.0  # ... or when it was woken for the first event
        self.steps = 0
        """How often it came forward."""
        self.next_try = 0.0
        """Giving way makes no sense before."""
        self._pause = _WAY_PAUSE
        self._way = _WAY

    def woken(self) -> None:
        """The thread is woken for the first event."""
        self._due = monotonic()

    def looked(self) -> None:
        """The thread looks at the queue now."""
        self._looked = self._due = monotonic()
        self.steps += 1

    def stepped(self) -> None:
        """The thread came forward by one portion."""
        self.steps += 1

    def keep(self, now: float) -> None:
        """Give way to the thread if it is behind at the time *now*."""
        if now - self._due > _LATE and now >= self.next_try:
            self.give_way(now)

    def is_late_for_news(self, now: float) -> bool:
        """Whether the thread is behind at the time *now*, for an event that somebody waits for."""
        return now - self._looked > _LATE_FOR_NEWS and now >= self.next_try

    def give_way(self, now: float) -> None:
        """Let the thread have the GIL."""
        if not self._has_thread():
            return
        steps = self.steps
        sleep(self._way)
        then = monotonic()
        took = then - now
        if self.steps != steps:
            self._way = _WAY
            self._pause = pause = max(_WAY_PAUSE, took)
        else:  # it did not wake up in time, is slow, or hangs; or other threads took the GIL
            self._way = min(2 * self._way, _MOST_WAY)
            pause = max(2 * self._pause, _WAY_SHARE * took)
            self._pause = pause = min(pause, _MOST_PAUSE)
        self.next_try = then + pause
