"""Waiting for what is meant, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 250.0
"""Seconds until a test gives up what does not come: it judges no speed, pytest's limit is next."""


def wait_until(condition: Callable[[], object], what: str = "what the test waits for") -> None:
    """Wait until *condition* holds, which another thread or process sees to.

    Raises:
        AssertionError: *what* has not come.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} has not come"
        time.sleep(0.002)


def asleep(pid: int) -> Callable[[], bool]:
    """Whether the process's main thread waits for something that does not come at once.

    One that waits for the GIL looks again all the time.
    """
    task = Path(f"/proc/{pid}/task/{pid}/status")

    def look() -> str:
        lines = task.read_text().splitlines()
        return str([line for line in lines if line.startswith(("State", "vol", "nonvol"))])

    def slept() -> bool:
        before = look()
        time.sleep(0.1)
        return "sleeping" in before and look() == before

    return slept
