"""What `why` costs on a log of a million events: seconds and peak memory.

The log is made up: 450,000 tasks are made and end, 100,000 of them cancelled by
a chain of three requests (a timeout, the task group it ends, the child).  Each
way of asking runs in a process of its own, whose own clock and peak memory are
printed.  Limits: 10 s and 500 MB.

Usage: python benchmarks/why_million.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioaudit.events import Event, ProcessStart, TaskCancel, TaskCreate, TaskDone
from aioaudit.timestamps import timestamp

TASKS = 450_000
CANCELLED = 100_000
LIMIT_SECONDS = 10.0
LIMIT_MB = 500.0


def lines() -> Iterator[bytes]:
    """The log, line by line."""
    encode = msgspec.json.Encoder().encode
    seq = 0

    def base() -> dict[str, object]:
        nonlocal seq
        seq += 1
        return {
            "ts": timestamp(1_800_000_000_000_000_000 + seq * 10_000),
            "seq": seq,
            "run": "0123456789ab",
            "pid": 4211,
            "thread": "MainThread",
            "loop": 1,
        }

    def line(kind: type[Event], **fields: object) -> bytes:
        return encode(kind(**base(), **fields)) + b"\n"  # type: ignore[arg-type]  # made up

    yield line(
        ProcessStart, schema=1, version="0", python="cpython", ppid=1, argv=["app.py"], coverage=[]
    )
    for first in range(0, TASKS, 9):
        tasks = [
            {"task": task, "name": f"Task-{task}", "coro": f"app.jobs:work_{task % 50}"}
            for task in range(first + 1, first + 10)
        ]
        for about in tasks:
            yield line(
                TaskCreate, **about, parent=1, at="/srv/app/app/api.py:41", source="app.api:handle"
            )
        requests: list[int] = []
        for about in tasks[: CANCELLED * 9 // TASKS]:
            origin = (
                {"cause": requests[-1]}
                if requests
                else {
                    "origin": "deadline",
                    "origin_at": f"/srv/app/app/api.py:{first % 97}",
                    "origin_source": "app.api:handle",
                    "origin_seconds": 2.0,
                }
            )
            yield line(
                TaskCancel,
                **about,
                accepted=True,
                reason="awaiter" if requests else "timeout",
                at="/srv/app/app/api.py:43",
                source="app.api:handle",
                by=first,
                by_name=f"Task-{first}",
                suspended_at="/srv/app/app/jobs.py:88",
                **origin,
            )
            requests.append(seq)
        for index, about in enumerate(tasks):
            end = (
                {"outcome": "cancelled", "cancel": requests[index], "cancel_outcome": "obeyed"}
                if index < len(requests)
                else {"outcome": "returned"}
            )
            yield line(TaskDone, **about, lifetime=1.25, **end)


MEASURED = """
import resource, sys, time
begin = time.perf_counter()
sys.argv[0] = "aioaudit"
from aioaudit.__main__ import main
status = 0
try:
    main()
except SystemExit as stop:
    status = stop.code or 0
taken = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{status} {taken:.2f} {peak:.0f}", file=sys.stderr)
"""


def main() -> int:
    """Print a line for each way of asking; 1 if one of them is over a limit."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "million.jsonl"
        with log.open("wb") as file:
            file.writelines(lines())
        size = log.stat().st_size / 1e6
        print(f"{size:.0f} MB of log, limits {LIMIT_SECONDS:g} s, {LIMIT_MB:g} MB")
        over = False
        for extra in ([], ["--json"], ["--task", "Task-2"], ["--task", "2", "--json"]):
            begin = time.perf_counter()
            result = subprocess.run(
                [sys.executable, "-c", MEASURED, "why", str(log), *extra],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            )
            status, seconds, megabytes = result.stderr.split()[-3:]
            whole = time.perf_counter() - begin
            print(
                f"why {' '.join(extra) or '(table)':20} {seconds:>6} s  {megabytes:>4} MB"
                f"  (with start-up {whole:.2f} s, status {status})"
            )
            over |= float(seconds) > LIMIT_SECONDS or float(megabytes) > LIMIT_MB
            over |= status != "0"
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
