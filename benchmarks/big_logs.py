"""What `why`, `check`, `export` and `report` cost on logs that are big or many.

The logs are those of `tests/busy_logs.py`: a web service of whose requests three in a hundred end
badly.  Each command runs in a process of its own; printed are the seconds, the processor's seconds
of it and of the processes that help it, and its peak memory.  Limits: 60 s and 1000 MB for ten
million events, 10 s for 10,000 files.

Usage: python benchmarks/big_logs.py [--events N] [--files N] [--folder FOLDER]

The logs are kept in FOLDER, and used again from there; without it they are written anew each time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.busy_logs import busy

ROOT = Path(__file__).parents[1]

EVENTS = 10_000_000
FILES = 10_000
IN_A_FILE = 100
SECONDS, MEGABYTES = 60.0, 1000.0
MANY_SECONDS = 10.0

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
def used(who):
    found = resource.getrusage(who)
    return found.ru_utime + found.ru_stime
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(
    f"{status} {taken:.2f} {used(resource.RUSAGE_SELF):.2f} {used(resource.RUSAGE_CHILDREN):.2f}"
    f" {own:.0f}",
    file=sys.stderr,
)
"""


def measure(log: Path, *call: str, seconds: float) -> bool:
    """Run a command on *log*, and print what it cost; whether that is within the limits."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, call[0], str(log), *call[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    status, taken, own, others, megabytes = result.stderr.splitlines()[-1].split()
    print(
        f"{' '.join(call):36} {taken:>7} s  cpu {own:>7} s + {others:>7} s  {megabytes:>5} MB"
        f"  (status {status})",
        flush=True,
    )
    return float(taken) <= seconds and float(megabytes) <= MEGABYTES


def big(folder: Path, events: int) -> bool:
    """One log of so many *events*."""
    log = folder / f"busy-{events}.jsonl"
    if not log.exists():
        with log.open("wb", 1 << 20) as file:
            file.writelines(busy(events))
    spans = folder / "spans.json"
    seconds = SECONDS * max(events / EVENTS, 1)
    print(f"{events:,} events, {log.stat().st_size / 1e6:,.0f} MB; limit {seconds:g} s")
    within = [
        measure(log, *call, seconds=seconds)
        for call in (
            ("why",),
            ("why", "--json"),
            ("why", "--task", "Task-200"),
            ("check",),
            ("report", "-o", "-"),
            ("export", "--to", "otlp-json", "-"),
            ("export", "--to", "otlp-json", str(spans)),
        )
    ]
    spans.unlink()
    return all(within)


def many(folder: Path, files: int) -> bool:
    """So many files of a run each."""
    logs = folder / f"many-{files}"
    if not logs.exists():
        logs.mkdir()
        for number in range(files):
            (logs / f"{number:05d}.jsonl").write_bytes(b"".join(busy(IN_A_FILE, number)))
    print(f"{files:,} files of {IN_A_FILE} events each; limit {MANY_SECONDS:g} s")
    within = [
        measure(logs, *call, seconds=MANY_SECONDS)
        for call in (("why",), ("why", "--json"), ("check",), ("report", "-o", "-"))
    ]
    return all(within)


def main() -> int:
    """Print a line for each command; 1 if one of them is over a limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if args.folder is None else args.folder
        folder.mkdir(parents=True, exist_ok=True)
        within = [big(folder, args.events) if args.events else True]
        within.append(many(folder, args.files) if args.files else True)
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
