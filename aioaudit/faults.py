"""Private. Faults of our own, counted by kind: where one arose, and the class of its error.

A fault handler runs where something has gone wrong already, perhaps while the interpreter
ends and modules are taken apart.  So nothing here imports, and whoever calls is ready for it
to fail.  Nothing of a traceback is kept.
"""

from __future__ import annotations

import os
import sys

from aioaudit.text import describe, say

_OWN = __file__.rpartition(os.sep)[0] + os.sep
_MOST_KINDS = 100
_OTHERS = "others"

AT_LIMITS = (RecursionError, MemoryError)
"""What a probe runs into because the program did: its stack or its memory is used up."""


def place_of(error: BaseException) -> str:
    """``path:line`` of the innermost line of ours that *error* passed, from the package on.

    The innermost line of all where none is ours.
    """
    step = error.__traceback__
    found = "?"
    own = False
    while step is not None:
        path = step.tb_frame.f_code.co_filename
        if path.startswith(_OWN):
            own = True
            found = f"aioaudit/{path[len(_OWN) :]}:{step.tb_lineno}"
        elif not own:
            found = f"{path}:{step.tb_lineno}"
        step = step.tb_next
    return found


class Faults:
    """The faults of one run."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, error: BaseException) -> str | None:
        """Count *error*; its kind where it is the first of its kind, None where it is not."""
        counts = self._counts
        kind = f"{type(error).__name__} at {place_of(error)}"
        if kind not in counts and len(counts) >= _MOST_KINDS:
            kind = _OTHERS
        known = counts.get(kind, 0)
        counts[kind] = known + 1
        return None if known else kind

    def report(self, error: BaseException) -> None:
        """Count *error* and, once a kind, say it on stderr; the program goes on.

        Whatever state the process is in, nothing is raised and nothing imported: the
        interpreter may be going down.  What ends the log tells the faults, too.
        """
        try:
            kind = self.add(error)
            if kind is None or finalizing():
                return
            if isinstance(error, AT_LIMITS):
                say(f"{kind}: the program is at its limits, the log may lack events")
            else:
                place = kind.partition(" at ")[2]
                say(
                    f"internal error, please report it: {describe(error)} at {place or kind}; "
                    f"the program is not affected, the log may lack events"
                )
        except Exception:  # noqa: BLE001, S110 - out of stack or of memory, or at the very end
            pass

    def since(self, known: int) -> list[str]:
        """The kinds after the first *known* ones."""
        return list(self._counts)[known:]

    def totals(self) -> list[str]:
        """All kinds, each with a count where it came more than once."""
        return [
            kind if count == 1 else f"{kind}, {count} times"
            for kind, count in list(self._counts.items())
        ]


def finalizing() -> bool:
    """Whether the interpreter is going down: whoever is told anything then has gone."""
    return sys is None or sys.is_finalizing()  # type: ignore[redundant-expr]  # modules are set to None then
