"""Who calls ``uncancel()``, and for how many requests: blocks of asyncio and scopes of anyio."""

from __future__ import annotations

from typing import Any

from aioaudit.cpython.groups import GROUP_EXITS, TIMEOUT_EXIT, asked_before
from aioaudit.cpython.internals import Internal

OWN_ONLY = frozenset(
    {
        f"asyncio.timeouts:{TIMEOUT_EXIT}",
        *(f"asyncio.taskgroups:{each}" for each in GROUP_EXITS),
    }
)
"""What calls ``uncancel()`` for a request of its own, or to give back what it took at once."""

SCOPES = "anyio._backends._asyncio:CancelScope."
"""How ``module:qualname`` begins for what anyio's scopes do."""

CANCELLING_AT_ENTER = Internal(
    "_cancelling_at_enter",
    "anyio._backends._asyncio:CancelScope",
    "how many requests had reached the task when a scope was entered",
    "which request a scope took back, where it had not asked alone",
    since=(4, 16),
)


def asked_since(source: str, owner: Any, remaining: int) -> int | None:
    """How many requests had reached the task since *owner*, a block of *source*, was entered.

    *remaining* is what ``cancelling()`` says after one was taken back.  None where it is not
    known, as of anybody else.
    """
    if source in OWN_ONLY:
        before = asked_before(owner)
        return None if before is None else remaining - before
    if source.startswith(SCOPES):
        before = getattr(owner, CANCELLING_AT_ENTER.name, 0)  # older ones compare with none
        return remaining - before
    return None
