"""Private. Who is writing: the run's id, the process's number, and the next ``seq``.

One authority stamps order and origin; everybody else only reads.  A forked
child is a new run with numbers of its own (`Run` takes the one that it comes from).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from aioaudit.core import last_of, new_counter
from aioaudit.events import SCHEMA, ProcessStart
from aioaudit.faults import Faults
from aioaudit.text import clean
from aioaudit.timestamps import timestamp
from aioaudit.version import __version__

MOST_ANCESTORS = 8
"""At most this many processes above this one are told."""


def _boot() -> str:
    """Which boot of the system this is, in eight digits.

    Raises:
        OSError: the system does not say.
    """
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:  # noqa: PTH123 - pathlib takes its time to import
        return file.read(8).decode()


def processes() -> list[str]:
    """This process and those above it, the nearest first; empty where the system does not say.

    Each is told as ``BOOT-NAMESPACE-PID-START``, from Linux's /proc: the number of a
    process is used again, but not in the same boot, namespace and tick of the clock.
    """
    found: list[str] = []
    try:
        boot = _boot()
        namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - as in `_boot`
        pid = os.getpid()
        while pid and len(found) <= MOST_ANCESTORS:
            with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - as in `_boot`
                fields = stat.read().rpartition(b")")[2].split()
            found.append(f"{boot}-{namespace}-{pid}-{int(fields[19])}")
            pid = int(fields[1])
    except (OSError, ValueError, IndexError):
        pass  # no Linux, or a process that has just ended or may not be seen
    return found


def network() -> str | None:
    """In which network this process is, as ``BOOT-NAMESPACE``; None where the system does not say.

    Only within one does an address such as 127.0.0.1 mean the same to everybody.
    """
    try:
        return f"{_boot()}-{os.stat('/proc/self/ns/net').st_ino}"  # noqa: PTH116 - as in `_boot`
    except (OSError, ValueError):
        return None


def service() -> str | None:
    """What the process is called by OpenTelemetry's variables, None where they do not say."""
    name = os.environ.get("OTEL_SERVICE_NAME", "").strip()
    if name:
        return clean(name)
    for each in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = each.partition("=")
        if key.strip() == "service.name" and value.strip():
            return clean(value.strip())
    return None


class Log(Protocol):
    """Takes down events by their numbers: a `aioaudit.delivery.journal.Journal`."""

    def skip(self, seq: int) -> None:
        """No event with the number *seq* will come."""
        ...


class Run:
    """One run of one process: the values that every event of it repeats."""

    def __init__(self, forked_from: Run | None = None) -> None:
        """*forked_from* is the run of the process that this one was forked from."""
        self.parent: str | None = None if forked_from is None else forked_from.id
        self.id: str = os.urandom(6).hex()
        self.pid = os.getpid()
        self.next_seq: Callable[[], int] = new_counter()
        self.faults = Faults()
        self.logs: tuple[Log, ...] = ()
        """Those in which every number of this run is an event, or is accounted for."""

    def drawn(self) -> int:
        """The number that was drawn last."""
        return last_of(self.next_seq)

    def own_seq(self, log: Log) -> int:
        """The number of an event that *log* makes for itself: the others need not wait for it."""
        before = self.logs  # one that goes meanwhile may have to know, and one that comes as well
        seq = self.next_seq()
        for each in {*before, *self.logs}:
            if each is not log:
                each.skip(seq)
        return seq

    def start_event(self, coverage: list[str]) -> ProcessStart:
        """The event that opens this run's log; *coverage* says what is seen."""
        known = processes()
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
            parent_run=self.parent,
            process=known[0] if known else None,
            ancestors=known[1:] or None,
            network=network(),
            service=service(),
            argv=list(sys.argv),
            coverage=coverage,
        )
