"""Who is writing: the run's id, the process's number, and the next ``seq``.

One authority stamps order and origin; everybody else only reads.  A forked
child is a new run with numbers of its own (`begin_run` is called in it).
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from aioaudit.events import SCHEMA, ProcessStart
from aioaudit.version import __version__

MILLISECOND = 1_000_000
"""In nanoseconds: all timestamps of one differ in their tails only."""

TAILS = [f"{number:03d}Z" for number in range(1000)]
"""The tails: formatting a number with leading zeros takes far longer than to look it up."""

_cached = (0, "")


def timestamp(ns: int) -> str:
    """RFC 3339 in UTC with microseconds for *ns*, nanoseconds since the epoch."""
    global _cached
    began, prefix = _cached  # one read: another thread may replace the pair meanwhile
    rest = ns - began
    if not 0 <= rest < MILLISECOND:
        second, rest = divmod(ns, 1_000_000_000)
        text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        thousandths, rest = divmod(rest, MILLISECOND)
        prefix = f"{text}{thousandths:03d}"
        _cached = (ns - rest, prefix)
    return prefix + TAILS[rest // 1000]


class Run:
    """One run of one process: the values that every event of it repeats."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(6)
        self.pid = os.getpid()
        self.next_seq: Callable[[], int] = itertools.count(1).__next__

    def start_event(self, coverage: list[str]) -> ProcessStart:
        """The event that opens this run's log; *coverage* says what is seen."""
        return ProcessStart(
            ts=timestamp(time.time_ns()),
            seq=self.next_seq(),
            run=self.id,
            pid=self.pid,
            thread=threading.current_thread().name,
            schema=SCHEMA,
            version=__version__,
            python=f"{sys.implementation.name} {sys.version.split()[0]}",
            ppid=os.getppid(),
            argv=list(sys.argv),
            coverage=coverage,
        )
