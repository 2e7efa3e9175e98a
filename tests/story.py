"""Events of a run made by hand, for what is made of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from aioaudit.events import Event, TaskCancel, TaskCreate, TaskDone
from aioaudit.identity import Run

RUN = Run()
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Story:
    """Events one after the other, each *step* seconds after the one before."""

    def __init__(self, run: Run = RUN, *, pid: int = 1, step: float = 0.001) -> None:
        self.seq = 0
        self.second = 0.0
        self.step = step
        self.run = run
        self.pid = pid
        self.events: list[Event] = [run.start_event([])]

    def tell(self, kind: type[Event], /, **keys: Any) -> int:
        self.seq += 1
        self.second += self.step
        ts = (NOON + timedelta(seconds=self.second)).isoformat(timespec="microseconds")
        common: dict[str, Any] = {
            "ts": ts.replace("+00:00", "Z"),
            "seq": self.seq,
            "run": self.run.id,
            "pid": self.pid,
            "thread": "MainThread",
        }
        self.events.append(kind(**common, **keys))
        return self.seq

    def make(self, task: int, parent: int | None = None, coro: str = "app:work") -> int:
        return self.tell(TaskCreate, task=task, name=f"t{task}", coro=coro, parent=parent)

    def cancel(self, task: int, **keys: Any) -> int:
        told: dict[str, Any] = {"reason": "explicit", "origin": "called", "accepted": True}
        told |= {"coro": "app:work"} | keys
        return self.tell(TaskCancel, task=task, name=f"t{task}", **told)

    def end(self, task: int, outcome: str = "returned", **keys: Any) -> int:
        return self.tell(
            TaskDone, task=task, name=f"t{task}", coro="app:work", outcome=outcome, **keys
        )

    def obey(self, task: int, cancel: int) -> int:
        return self.end(task, "cancelled", cancel=cancel, cancel_outcome="obeyed")
