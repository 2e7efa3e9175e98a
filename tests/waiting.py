"""Waiting for what is meant, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

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
