"""Private. What the hot paths run in: C where it can be had, and the same in Python beside it.

Which of the two a process uses is decided once, by `aioaudit.core.choice`; what there is, and
what it is for, `aioaudit.core.python` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioaudit.core.choice import CORE
from aioaudit.core.line import encode_event
from aioaudit.core.python import Arming, Ending, Making, Table, Taking

if TYPE_CHECKING or CORE.name == "python":
    from aioaudit.core.python import (
        Asked,
        Asks,
        Created,
        Obeyed,
        Passed,
        Queue,
        Returned,
        Site,
        TakenBack,
        in_order,
        last_of,
        lines,
        make_callback,
        make_cancel,
        make_init,
        make_reschedule,
        make_returned,
        make_uncancel,
        new_counter,
        new_notes,
        new_table,
        odd_names,
        take_asks,
    )
else:
    from aioaudit.core.native import (
        Asked,
        Asks,
        Created,
        Obeyed,
        Passed,
        Queue,
        Returned,
        Site,
        TakenBack,
        in_order,
        last_of,
        lines,
        make_callback,
        make_cancel,
        make_init,
        make_reschedule,
        make_returned,
        make_uncancel,
        new_counter,
        new_notes,
        new_table,
        odd_names,
        take_asks,
    )

__all__ = [
    "Arming",
    "Asked",
    "Asks",
    "Created",
    "Ending",
    "Making",
    "Obeyed",
    "Passed",
    "Queue",
    "Returned",
    "Site",
    "Table",
    "TakenBack",
    "Taking",
    "encode_event",
    "in_order",
    "last_of",
    "lines",
    "make_callback",
    "make_cancel",
    "make_init",
    "make_reschedule",
    "make_returned",
    "make_uncancel",
    "new_counter",
    "new_notes",
    "new_table",
    "odd_names",
    "take_asks",
]
