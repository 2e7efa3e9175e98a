"""Ten thousand tasks a second for half a minute, with jsonl, structlog and otel on.

    python benchmarks/three_exporters.py [--rate N] [--seconds N] [--all]

A program of its own makes tasks at an even rate and cancels one in a hundred; its
log goes to a file, its structlog to another, its spans to a collector in this
process.  Afterwards everything is counted: what was told must be what happened,
or its loss must have been told.  Memory is looked at all the while.

``--all`` asks for the most there is: structlog logs debug lines, and every task
is a span.  That is more than one interpreter can do beside the program, so
here losses are what is looked at.

The exit status is 1 if anything was lost without being told.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import asyncio, logging, sys, time
import structlog
from aioaudit import session

rate, seconds, level = int(sys.argv[1]), float(sys.argv[2]), getattr(logging, sys.argv[3])
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.JSONRenderer(),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(level),
    logger_factory=structlog.WriteLoggerFactory(open("structlog.jsonl", "w")),
)

async def work():
    await asyncio.sleep(0)

async def victim():
    await asyncio.sleep(60)

async def main():
    made = asked = 0
    began = time.perf_counter()
    doomed = []
    while (passed := time.perf_counter() - began) < seconds:
        while made < passed * rate:
            made += 1
            if made % 100:
                asyncio.create_task(work())
            else:
                doomed.append(asyncio.create_task(victim()))
        await asyncio.sleep(0.005)
        for task in doomed:
            asked += task.cancel()
        doomed.clear()
    took = time.perf_counter() - began
    await asyncio.sleep(0.05)
    print("made", made)
    print("asked", asked)
    print("rate", round(made / took))

asyncio.run(main())
sinks = [pipeline for pipeline, _ in session.current().sinks]
type(sinks[0]).flush_all(sinks, 60)
for pipeline in sinks:
    print(f"{pipeline.name}-written", pipeline.written)
    print(f"{pipeline.name}-dropped", pipeline.dropped)
"""


class Collector:
    """Counts the spans that arrive."""

    def __init__(self) -> None:
        counts: Counter[str] = Counter()
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path.endswith("/v1/traces"):
                    with lock:
                        # Counted as bytes: to read them would cost as much as to write them.
                        counts["tasks"] += body.count(b"asyncio.task ")
                        counts["requests"] += body.count(b"\x0easyncio.cancel")
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.counts = counts
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def resident(pid: int) -> int:
    """The megabytes of memory that the process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return 0 if found is None else int(found[1]) // 1024


def run(folder: Path, args: argparse.Namespace, collector: Collector) -> tuple[Any, ...]:
    """Run the program; what it said, its memory second by second, its last words."""
    environ = {key: each for key, each in os.environ.items() if "AIOAUDIT" not in key}
    environ |= {
        "PYTHONPATH": str(ROOT),
        "AIOAUDIT": "jsonl,structlog,otel",
        "AIOAUDIT_JSONL_PATH": "log.jsonl",
        "AIOAUDIT_OTEL_TASKS": "all" if args.all else "touched",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    (folder / "program.py").write_text(PROGRAM)
    level = "DEBUG" if args.all else "INFO"
    command = [sys.executable, "-m", "aioaudit", "run", "program.py"]
    began = time.monotonic()
    memory: list[int] = []
    with subprocess.Popen(
        [*command, str(args.rate), str(args.seconds), level],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None:
            try:
                memory.append(resident(process.pid))
            except FileNotFoundError:
                break
            time.sleep(1)
        out, err = process.communicate()
    said = {key: int(value) for key, value in (line.split() for line in out.splitlines())}
    return said, memory, err, time.monotonic() - began


def main() -> int:
    """Run it, count, tell; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=10_000, help="tasks a second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--all", action="store_true", help="debug lines, and every task a span")
    args = parser.parse_args()
    collector = Collector()
    with tempfile.TemporaryDirectory() as folder:
        said, memory, err, took = run(Path(folder), args, collector)
        kinds: Counter[str] = Counter()
        with (Path(folder) / "log.jsonl").open() as log:
            for line in log:
                kinds[line[10 : line.index('"', 10)]] += 1
        lines: Counter[str] = Counter()
        with (Path(folder) / "structlog.jsonl").open() as log:
            for line in log:
                found = re.search(r'"event": "([\w.]+)"', line)
                lines[found[1] if found else "?"] += 1
    print(f"{said['made']:,} tasks, {said['rate']:,} a second; {said['asked']:,} of them cancelled")
    print(f"the process took {took:.1f} s in all")
    middle = memory[len(memory) // 3 : 2 * len(memory) // 3]
    print(
        f"memory: {min(middle)} to {max(middle)} MB in the middle third, {max(memory)} MB at most"
    )
    wrong = 0
    for name in ("jsonl", "structlog", "otel"):
        written, dropped = said[f"{name}-written"], said[f"{name}-dropped"]
        share = 100 * dropped / (written + dropped)
        print(f"{name:10} {written:9,} events taken, {dropped:9,} lost and counted ({share:.1f} %)")
    jsonl = kinds["task.create"] + kinds["task.done"] + kinds["task.cancel"]
    # Three tasks are not the program's own: main, and two that asyncio.run makes to clean up.
    wanted = 2 * (said["made"] + 3) + said["asked"]
    wrong += compare("lines of jsonl about tasks", jsonl, wanted, said["jsonl-dropped"])
    told = lines["task.cancel"]
    wrong += compare("structlog's task.cancel", told, said["asked"], said["structlog-dropped"])
    lost = re.search(r"([\d,]+) of [\d,]+ spans did not arrive", err)
    count = int(lost[1].replace(",", "")) if lost else 0
    dropped = said["otel-dropped"] + count
    arrived = collector.counts
    wrong += compare("spans of requests", arrived["requests"], said["asked"], dropped)
    tasks = said["made"] + 3 if args.all else said["asked"] + 1  # main made and cancelled them
    wrong += compare("spans of tasks", arrived["tasks"], tasks, dropped)
    print(f"stderr: {err.strip() or 'nothing'}")
    return 1 if wrong else 0


def compare(what: str, told: int, happened: int, counted: int) -> bool:
    """Say whether all of what *happened* was *told* or *counted* as lost; true if not."""
    missing = happened - told
    wrong = not 0 <= missing <= counted
    verdict = "WRONG" if wrong else "complete" if not missing else "losses counted"
    print(f"{what}: {told:,} of {happened:,}, {verdict}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
