"""What blocked a loop lately: entered by who looks from another thread, read where a timer is late."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from aioaudit.chain.links import BLOCKED_BY, PROBABLY_BLOCKED_BY
from aioaudit.threads import monotonic
from aioaudit.weak import WeakIdMap

if TYPE_CHECKING:
    from aioaudit.events import Evidence

_MOST = 8
"""At most this many of a loop are kept: a late timer asks for those of its last moments."""


class Block(msgspec.Struct, eq=False):
    """A loop that stays, or stayed, in one callback.

    ``since`` and ``until`` are times of `monotonic`: it was seen there from the one on, and would
    have been looked at again by the other; ``over`` says that it was, and had gone on.  ``seconds``
    is for how long it was seen there.  The rest is as in `aioaudit.events.LoopBlocked`.
    """

    since: float
    until: float
    seconds: float = 0.0
    over: bool = False
    evidence: Evidence = "observed"
    source: str | None = None
    at: str | None = None
    library: str | None = None
    library_at: str | None = None
    task: int | None = None
    name: str | None = None
    coro: str | None = None


class Blocks:
    """The last blocks of each loop."""

    def __init__(self) -> None:
        self._by_loop: WeakIdMap[deque[Block]] = WeakIdMap()

    def add(self, loop: Any, block: Block) -> None:
        """Keep *block* of *loop*; what is seen of it later is put into it."""
        known = self._by_loop.get(loop)
        if known is None:
            self._by_loop[loop] = known = deque(maxlen=_MOST)
        known.append(block)

    def clear(self) -> None:
        """Forget them all."""
        self._by_loop.clear()

    def explain(self, loop: Any, late: float) -> str:
        """What to say of a timer of *loop* that runs now, *late* seconds after its time.

        Empty where nothing was seen that accounts for most of that.
        """
        known = self._by_loop.get(loop)
        if not known:
            return ""
        now = monotonic()
        best: Block | None = None
        most = late / 2
        sure = False
        for each in list(known):
            begun = max(now - late, each.since)
            # One that nobody has seen to be over may have lasted until just now.
            overlap = (min(now, each.until) if each.over else now) - begun
            if overlap >= most:
                best, most = each, overlap
                # In there it was all the while, but the process may have stood still for long.
                sure = min(now, each.until) - begun >= late / 2 and each.seconds >= overlap / 2
        if best is None:
            return ""
        if best.source is None:
            return ": the loop was blocked"
        words = BLOCKED_BY if sure and best.evidence == "observed" else PROBABLY_BLOCKED_BY
        return f": {words} {best.source}" + ("" if best.at is None else f" at {best.at}")
