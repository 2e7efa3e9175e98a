"""Private. What the hot paths run in: C where it can be had, and the same in Python beside it.

Which of the two a process uses is decided once, by `aioaudit.core.choice`; what there is, and
what it is for, `aioaudit.core.python` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioaudit.core.choice import CORE
from aioaudit.core.line import encode_event
from aioaudit.core.python import Arming, Ending, Making, Table

if TYPE_CHECKING or CORE.name == "python":
    from aioaudit.core.python import (
        Created,
        Passed,
        Queue,
        Returned,
        Site,
        in_order,
        lines,
        make_init,
        make_reschedule,
        make_returned,
        new_counter,
        new_notes,
        new_table,
    )
else:
    from aioaudit.core.native import (
        Created,
        Passed,
        Queue,
        Returned,
        Site,
        in_order,
        lines,
        make_init,
        make_reschedule,
        make_returned,
        new_counter,
        new_notes,
        new_table,
    )

__all__ = [
    "Arming",
    "Created",
    "Ending",
    "Making",
    "Passed",
    "Queue",
    "Returned",
    "Site",
    "Table",
    "encode_event",
    "in_order",
    "lines",
    "make_init",
    "make_reschedule",
    "make_returned",
    "new_counter",
    "new_notes",
    "new_table",
]
