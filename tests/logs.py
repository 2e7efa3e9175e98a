"""Events as a log has them: read from one, or made for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from aioaudit.events import AnyEvent, Event, Finding
from aioaudit.log import Log
from aioaudit.log.incidents import housekeeping
from aioaudit.log.peers import clients_left, losses
from aioaudit.log.senders import Sent, sender_of


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
    return _answers(log), _across(log), list(map(str, log.problems)), log.damaged, log.events


def _answers(log: Log) -> object:
    cases = [
        (
            msgspec.to_builtins(case.answer()),
            housekeeping(case),
            case.run.id,
            [each.line.seq for each in case.further()],
            None if (sent := sender_of(log, case)) is None else _sent(sent),
        )
        for case in log.cases()
    ]
    return cases, [each.seq for run in log.runs.values() for each in run.findings]


def _sent(sent: Sent) -> object:
    return sent.run.id, sent.event, sent.relation, sent.because


def _across(log: Log) -> object:
    """What is told of each run, and what others are joined to it by."""
    runs = [
        (
            (run.id, run.pid, run.service, run.host, run.ended, run.dropped, run.faults),
            (parent.run.id, parent.evidence) if (parent := log.parent(run)) is not None else None,
            sorted(losses(run)),
            sorted(clients_left(run)),
            run.closes,
            run.living,
            sorted(run.all_makers(), key=lambda each: each[0]),
            [event for _, event in log.signals_to(run.pid)],
        )
        for run in log.runs.values()
    ]
    return runs, log.joined()
