"""Events as a log has them: read from one, or made for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from aioaudit.events import AnyEvent, Event, Finding
from aioaudit.log import Log
from aioaudit.log.incidents import housekeeping


def read(path: Path) -> list[Event]:
    """Every line of the file as a typed event; each must be a whole one."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [msgspec.json.decode(line, type=AnyEvent) for line in data.splitlines()]


def made(kind: str, seq: int = 1, **more: Any) -> Finding:
    """A finding as a log has it."""
    keys: dict[str, Any] = {
        "ts": f"2026-11-22T14:02:11.{seq:06d}Z",
        "seq": seq,
        "run": "r1",
        "pid": 1,
        "thread": "MainThread",
        "task": 7,
        "name": "worker",
        "coro": "app:work",
        "kind": kind,
        "severity": "finding",
    }
    return Finding(**keys | more)


def told(log: Log) -> object:
    """All that anybody is told of *log*."""
    cases = [
        (msgspec.to_builtins(case.answer()), housekeeping(case), case.run.id)
        for case in log.cases()
    ]
    findings = [each.seq for run in log.runs.values() for each in run.findings]
    return cases, findings, list(map(str, log.problems)), log.damaged, log.events
