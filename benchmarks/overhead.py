"""What auditing costs a program, as ratios to the same program without it.

    python benchmarks/overhead.py [--rounds N] [--history FILE] [CASE...]

Each way of being audited has a process of its own (`benchmarks/worker.py`), and they
take turns, a short round each, in an order that changes.  A ratio is formed within
each turn, so that a machine that is slow for a while is slow for both, and the
median of all turns is shown.  CPU time counts, that of the exporter's thread
included.  Absolute times are not shown, they say more of the machine.

Every case has its zeros beside it: a Python that does not see the package
("nothing installed"), the package installed and off, on with nobody listening.

``--history`` appends the ratios to a file, one line of JSON for each run of this
program: `make bench` does, to `benchmarks/history.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("worker.py")

NOTHING = "nothing installed"
OFF = "off"
LIBRARIES = ", libraries imported"
EXPORTERS = ("memory", "logging", "structlog", "otel")

RATIOS: dict[str, dict[str, float]] = {}
"""Every ratio that was shown: by case, then by way."""


class Worker:
    """One process, one way."""

    def __init__(self, name: str, way: str, size: int | str) -> None:
        self.way = way
        # Isolated and without site-packages: nothing of what is installed can be seen.
        flags = ["-I", "-S"] if way == NOTHING else []
        environ = {key: value for key, value in os.environ.items() if "AIOAUDIT" not in key}
        self.process = subprocess.Popen(
            [sys.executable, *flags, str(WORKER), name, way, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )

    def end(self) -> None:
        """Let it end."""
        cast(IO[str], self.process.stdin).close()
        self.process.wait(60)

    def read(self) -> float:
        """The next number that it says."""
        line = cast(IO[str], self.process.stdout).readline()
        if not line:
            raise SystemExit(f"the process for {self.way!r} ended")
        return float(line)

    def round(self) -> float:
        """One round, and what it cost."""
        stdin = cast(IO[str], self.process.stdin)
        stdin.write("go\n")
        stdin.flush()
        return self.read()


def take_turns(
    name: str, ways: Sequence[str], size: int | str, rounds: int
) -> list[dict[str, float]]:
    """What each way cost in each of the turns, the first ones (everything is cold) left out."""
    workers = [Worker(name, way, size) for way in ways]
    turns: list[dict[str, float]] = []
    try:
        for turn in range(-2, rounds):
            random.shuffle(workers)
            costs = {worker.way: worker.round() for worker in workers}
            if turn >= 0:
                turns.append(costs)
    finally:
        for worker in workers:
            worker.end()
    return turns


def show(case: str, way: str, figure: str, target: str = "", *, met: bool | None = None) -> None:
    """One line of the table."""
    verdict = {True: "ok", False: "MISSED", None: ""}[met]
    print(f"{case:<42} {way:<26} {figure:>10} {target:>10} {verdict}", flush=True)


def ratio(turns: list[dict[str, float]], way: str, zero: str) -> float:
    """The median of the ratios of *way* to *zero*."""
    return statistics.median(turn[way] / turn[zero] for turn in turns)


def show_ratio(case: str, way: str, found: float, target: str, *, met: bool | None) -> None:
    """Show a ratio, and keep it for the history."""
    RATIOS.setdefault(case, {})[way] = round(found, 3)
    show(case, way, f"{found:.2f}", target, met=met)


def append_history(path: Path, rounds: int) -> None:
    """Append what this run has found to the file at *path*.

    Differences in microseconds, bytes and milliseconds are left out: they say more of
    the machine than of the version.
    """
    from aioaudit.version import __version__  # of the one that is measured

    line = {
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "python": f"{sys.implementation.name} {sys.version.split()[0]}",
        "rounds": rounds,
        "ratios": RATIOS,
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def compare(
    case: str, name: str, size: int, rounds: int, targets: dict[str, float | None], zero: str = OFF
) -> None:
    """Show the ratio of every way in *targets* to *zero*, and whether it is low enough."""
    turns = take_turns(name, [zero, *targets], size, rounds)
    for way, target in targets.items():
        found = ratio(turns, way, zero)
        # To the precision that is printed: a zero is met by one that is as good as it.
        met = None if target is None else round(found, 2) <= target
        show_ratio(case, way, found, "" if target is None else f"{target:.2f}", met=met)


def tasks(rounds: int) -> None:
    """A task made and awaited."""
    case = "a task made and awaited"
    compare(
        case,
        "tasks",
        10_000,
        rounds,
        {
            NOTHING: None,
            "no listener": None,
            "only cancel lines": 1.25,
            "null exporter": 1.45,
            "jsonl": 1.7,
        },
    )


def exporters(rounds: int) -> None:
    """The same behind exporters that make more of an event than a line."""
    compare("a task made and awaited", "tasks", 3_000, rounds // 2, dict.fromkeys(EXPORTERS))


def cancels(rounds: int) -> None:
    """Many tasks cancelled by one culprit."""
    compare(
        "10,000 tasks cancelled by one culprit",
        "cancels",
        10_000,
        rounds // 2,
        {
            NOTHING: None,
            "no listener": None,
            "only cancel lines": None,
            "null exporter": None,
            "jsonl": 4.0,
        },
    )


def timeouts(rounds: int) -> None:
    """Many tasks that run into their timeouts."""
    compare(
        "5,000 tasks running into their timeouts",
        "timeouts",
        5_000,
        rounds // 2,
        {
            NOTHING: None,
            "no listener": None,
            "only cancel lines": None,
            "null exporter": None,
            "jsonl": 2.5,
        },
    )


def deep(rounds: int) -> None:
    """One ``cancel()`` with a deep stack above it."""
    turns = take_turns("deep", [OFF, "no listener", "jsonl"], 1000, rounds)
    for way, target in (("no listener", None), ("jsonl", 8.0)):
        more = statistics.median(turn[way] - turn[OFF] for turn in turns)
        show(
            "one cancel() twelve frames deep",
            way,
            f"{more:+.1f} us",
            "" if target is None else f"{target:+.0f} us",
            met=None if target is None else more <= target,
        )


def memory(_rounds: int) -> None:
    """Bytes of a living task."""
    turns = take_turns("memory", [OFF, "jsonl"], 20_000, 3)
    more = statistics.median(turn["jsonl"] - turn[OFF] for turn in turns)
    show("a living task", "jsonl", f"{more:+.0f} B", "+400 B", met=more <= 400)


def recognisers(rounds: int) -> None:
    """What recognisers cost whose library is imported and cancels nothing."""
    for name, size in (("tasks", 10_000), ("cancels", 5_000)):
        ways = [each + more for each in (OFF, "jsonl") for more in ("", LIBRARIES)]
        turns = take_turns(name, ways, size, rounds)
        # Libraries make any program a little slower: what counts is how much auditing adds.
        quotient = statistics.median(
            (turn["jsonl" + LIBRARIES] / turn[OFF + LIBRARIES]) / (turn["jsonl"] / turn[OFF])
            for turn in turns
        )
        case = f"recognisers not needed: {name}"
        show_ratio(case, "jsonl", quotient, "1.02", met=quotient < 1.025)


# -- HTTP ---------------------------------------------------------------------------------------

_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_CONNECTIONS = 8
_REQUESTS = 150
"""For each connection in a round."""


def _load(port: int) -> None:
    """A round of requests, one after the other on each of some connections."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(_CONNECTIONS)]
    try:
        for _ in range(_REQUESTS):
            for connection in connections:
                connection.sendall(_REQUEST)
            for connection in connections:
                answer = b""
                while b"Hello, world" not in answer:
                    answer += connection.recv(65536)
    finally:
        for connection in connections:
            connection.close()


def http(rounds: int) -> None:
    """Requests that a busy aiohttp server answers in a second of its CPU."""
    for flavour in ("asyncio", "uvloop"):
        ways = (OFF, "no listener", "jsonl")
        servers = [Worker("http", way, flavour) for way in ways]
        ports = {server.way: int(server.read()) for server in servers}
        turns: list[dict[str, float]] = []
        try:
            for turn in range(-2, rounds):
                random.shuffle(servers)
                rates: dict[str, float] = {}
                for server in servers:
                    before = server.round()
                    _load(ports[server.way])
                    rates[server.way] = _CONNECTIONS * _REQUESTS / (server.round() - before)
                if turn >= 0:
                    turns.append(rates)
        finally:
            for server in servers:
                server.end()
        for way, target in (("no listener", None), ("jsonl", 0.95)):
            found = ratio(turns, way, OFF)
            show_ratio(
                f"HTTP requests per second, aiohttp, {flavour}",
                way,
                found,
                "" if target is None else f"{target:.2f}",
                met=None if target is None else round(found, 2) >= target,
            )


# -- start-up -----------------------------------------------------------------------------------


def _start(python: Path, environ: dict[str, str], code: str) -> float:
    """Milliseconds of CPU time that a process takes that runs *code*."""
    process = subprocess.Popen([python, "-c", code], env=environ)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{python} ended with {process.returncode}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def start_up(rounds: int) -> None:
    """What a process pays at its start, in virtual environments without and with the package."""
    import msgspec

    with tempfile.TemporaryDirectory() as folder:
        pythons: dict[str, Path] = {}
        for name in ("empty", "installed"):
            place = Path(folder, name)
            venv.create(place, symlinks=True)
            pythons[name] = place / "bin" / "python"
        packages = next(Path(folder, "installed").glob("lib*/python*/site-packages"))
        # As the wheel lays it out.
        shutil.copytree(ROOT / "aioaudit", packages / "aioaudit")
        shutil.copytree(ROOT / "exporters", packages / "aioaudit" / "exporters", dirs_exist_ok=True)
        for file in (ROOT / "aioaudit" / "_startup").iterdir():
            if file.is_file():
                shutil.copy(file, packages)
        shutil.copytree(Path(msgspec.__file__).parent, packages / "msgspec")
        clean = {key: value for key, value in os.environ.items() if "AIOAUDIT" not in key}
        jsonl = {**clean, "AIOAUDIT": "jsonl", "AIOAUDIT_JSONL_PATH": str(Path(folder, "log"))}
        cases: list[tuple[str, str, str, dict[str, str], float | None]] = [
            ("start of Python, variable unset", "pass", "installed", clean, 1.0),
            ("the same, AIOAUDIT=jsonl", "pass", "installed", jsonl, None),
            ("import asyncio, variable unset", "import asyncio", "installed", clean, 1.0),
            ("the same, AIOAUDIT=jsonl", "import asyncio", "installed", jsonl, None),
        ]
        for case, code, name, environ, target in cases:
            more: list[float] = []
            for turn in range(-3, rounds * 2):
                empty = _start(pythons["empty"], clean, code)
                other = _start(pythons[name], environ, code)
                again = _start(pythons["empty"], clean, code)
                if turn >= 0:
                    more.append(other - (empty + again) / 2)
            found = statistics.median(more)
            show(
                case,
                "installed",
                f"{found:+.1f} ms",
                "" if target is None else f"{target:+.0f} ms",
                met=None if target is None else found <= target,
            )


CASES: dict[str, Callable[[int], None]] = {
    "start_up": start_up,
    "tasks": tasks,
    "cancels": cancels,
    "timeouts": timeouts,
    "deep": deep,
    "memory": memory,
    "http": http,
    "recognisers": recognisers,
    "exporters": exporters,
}


def main() -> None:
    """Run the cases that are asked for, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=40, help="turns of each way (default: 40)")
    parser.add_argument("--history", type=Path, metavar="FILE", help="append the ratios to FILE")
    given = parser.parse_args()
    for case in given.cases:
        if case not in CASES:
            parser.error(f"{case!r} is no case: {', '.join(CASES)}")
    print(
        f"{sys.implementation.name} {sys.version.split()[0]}; 1.00 is the same program, not audited"
    )
    show("case", "way", "measured", "at most")
    for case in given.cases or CASES:
        CASES[case](given.rounds)
    if given.history is not None:
        append_history(given.history, given.rounds)


if __name__ == "__main__":
    main()
