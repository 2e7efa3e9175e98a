"""What is told of processes and of their living tasks, to people and to programs."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from aioaudit.live.protocol import LivingTask, ProcessFacts
from aioaudit.log import Case
from aioaudit.log.runs import LoggedRun

MOST_LINKS = 10
"""A chain shows at most this many links to a program."""


class Listed(NamedTuple):
    """A process and what it says; None where it does not answer."""

    pid: int
    facts: ProcessFacts | None

    def as_object(self) -> dict[str, Any]:
        """For programs."""
        if self.facts is None:
            return {"pid": self.pid, "answers": False}
        told: dict[str, Any] = msgspec.to_builtins(self.facts)
        inside = told.pop("pid")
        found = {"pid": self.pid, "answers": True, **told}
        if inside != self.pid:
            found["pid_inside"] = inside
        return found


class Shown(NamedTuple):
    """A living task, and the request that it has not obeyed yet, as far as that is known."""

    task: LivingTask
    case: Case | None

    def as_object(self) -> dict[str, Any]:
        """For programs."""
        told: dict[str, Any] = msgspec.to_builtins(self.task)
        if self.case is not None:
            told["asked_ts"] = self.case.ts
            told["why"] = msgspec.to_builtins(self.case.answer(MOST_LINKS))
        return told


def shown_of(task: LivingTask, run: LoggedRun | None) -> Shown | None:
    """What is to be told of *task*, whose run's events are *run*; None where it has ended since."""
    if run is None or not task.task:
        return Shown(task, None)
    if task.task in run.ends:
        return None
    case = run.case(task.task)
    if case is None or case.outcome != "pending" or case.cancel_outcome == "absorbed":
        return Shown(task, None)
    return Shown(task, case)
