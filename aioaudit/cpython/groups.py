"""Timeouts and task groups of asyncio: whose they are, and how they were left."""

from __future__ import annotations

import asyncio
import asyncio.timeouts
from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

from aioaudit.cpython import internals
from aioaudit.cpython.internals import UNKNOWN, reader

GROUP_EXITS = frozenset({f"TaskGroup.{internals.GROUP_AEXIT.name}", "TaskGroup.__aexit__"})
"""The qualified names of the functions that end a task group."""

GROUP_HANDS_ON = (internals.GROUP_PROPAGATES.name, internals.GROUP_PENDING.name)
"""Variables of theirs: the CancelledError that they will raise."""

TIMEOUT_EXIT = "Timeout.__aexit__"
"""The qualified name of the function that ends a timeout."""

TIMEOUT_ERROR_TYPE = "exc_type"
"""A variable of its: the class of the error that ends the block, None without one."""

TIMEOUT_ERROR = "exc_val"
"""A variable of its: the error that ends the block."""

TIMEOUT_MAKER = cast(FunctionType, asyncio.timeouts.timeout)
"""The function that makes a timeout of so many seconds..."""

TIMEOUT_DELAY = "delay"
"""... and a variable of its: the seconds, None for never."""

parent_of: Callable[[Any], Any] = reader(internals.PARENT_TASK, asyncio.TaskGroup)
"""The task that a group belongs to, None before it is entered, or `UNKNOWN`."""


def has_failed(group: Any) -> bool:
    """Whether an error ended *group*; yes where that is not known: nobody is to be blamed then."""
    errors = getattr(group, internals.GROUP_ERRORS.name, UNKNOWN)
    return errors is UNKNOWN or bool(errors)


def is_untouched(group: Any) -> bool:
    """Whether *group* was neither entered nor cancelled yet; no where that is not known."""
    entered = getattr(group, internals.GROUP_ENTERED.name, True)
    return not (entered or getattr(group, internals.CANCEL_ON_ENTER.name, True))


def asked_before(owner: Any) -> int | None:
    """How many requests had reached the task when the timeout *owner* was entered.

    None where that is not known; 0 of a task group, which compares with that.
    """
    if isinstance(owner, asyncio.TaskGroup):
        return 0
    before = getattr(owner, internals.CANCELLING.name, None)
    return before if isinstance(before, int) else None
