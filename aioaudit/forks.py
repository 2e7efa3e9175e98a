"""Private. A fork beside a thread of ours: no warning of Python's where only that is the reason.

Our threads end before a fork, unless one is just busy with what cannot be interrupted: an
exporter that waits for a collector, or for its turn on a busy machine.  From 3.12 on Python
warns of each fork beside a thread (gh-100228).  Without auditing there would be no such
thread; so the warning is kept back for that one fork, unless the program has threads of its
own, of which it is to be told.

Such a thread holds no lock that a child could wait for: what it uses (queue, connection,
exporter) is made anew in a child.
"""

from __future__ import annotations

import os
import threading
import warnings
from typing import Any

from aioaudit.cpython.behaviour import FORK_WARNS_AT_THE_END, FORK_WARNS_OF_THREADS
from aioaudit.threads import count_living


class _OneWarning:
    """Stands among the filters of warnings in place of a pattern, and matches one warning.

    A filter that is taken out after the fork would be gone too early: Python warns
    before it calls ``after_in_parent`` in 3.12, and after it from 3.13 on.
    """

    armed = False

    def match(self, text: str) -> bool:
        """Whether *text* is what is kept back."""
        if self.armed and "multi-threaded" in text and "fork" in text:
            self.armed = False
            return True
        return False


# As it is now: who looks for calls that block a loop puts another in its place.
_listdir = os.listdir

_warning = _OneWarning()
_filter: Any = ("ignore", _warning, DeprecationWarning, None, 0)


def hush() -> None:
    """Keep back the warning of the fork that follows, if ours are its only threads beside one."""
    _warning.armed = False
    ours = count_living() if FORK_WARNS_OF_THREADS else 0
    if not ours:
        return
    while True:
        there = _threads()
        seen, ours = ours, count_living()
        if ours == seen:
            break  # none of ours went meanwhile: both are of one moment
    _warning.armed = ours > 0 and there - ours <= 1
    if _warning.armed and _filter not in warnings.filters:
        # Not by `filterwarnings`: that forgets which warnings were shown once already.
        filters: Any = warnings.filters
        filters.insert(0, _filter)


def hush_again() -> None:
    """The same after the fork, in the parent: a thread of ours may be back before Python counts."""
    if FORK_WARNS_AT_THE_END and not _warning.armed:
        hush()


def _threads() -> int:
    """How many threads there are, counted as Python counts them before it warns."""
    try:
        return len(_listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()
