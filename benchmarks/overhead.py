"""What auditing costs a program, as ratios to the same program without it.

    python benchmarks/overhead.py [--rounds N] [--history FILE] [CASE...]

Each way of being audited has a process of its own (`benchmarks/worker.py`), and they
take turns, a short round each, in an order that changes.  A ratio is formed within
each turn, so that a machine that is slow for a while is slow for both, and the
median of all turns is shown.  CPU time counts, that of the exporter's thread
included.  Absolute times are not shown, they say more of the machine.

Every case has its zero beside it, the package installed and off; some have more: a Python
that does not see the package ("nothing installed"), on with nobody listening.  What is audited
has the core in Python, and where it says so the one in C, if this Python has it.  "At most",
or for requests at least, is what is aimed at with that core.

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
import time
import venv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import IO, cast

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("worker.py")

NOTHING = "nothing installed"
OFF = "off"
LIBRARIES = ", libraries imported"
EXPORTERS = ("memory", "logging", "structlog", "otel")
FEW: dict[str, float | None] = {"no listener": None, "only cancel lines": None}
"""The ways of writing little, for comparison."""

NATIVE = ", native core"
"""What the name of a way ends in that has the core in C."""

HAS_NATIVE = find_spec("aioaudit.core._core") is not None

RATIOS: dict[str, dict[str, float]] = {}
"""Every ratio that was shown: by case, then by way."""


class Worker:
    """One process, one way."""

    def __init__(self, name: str, way: str, size: int | str) -> None:
        self.way = way
        # Isolated and without site-packages: nothing of what is installed can be seen.
        flags = ["-I", "-S"] if way == NOTHING else []
        environ = {key: value for key, value in os.environ.items() if "AIOAUDIT" not in key}
        environ.setdefault("OTEL_METRICS_EXPORTER", "none")  # no collector listens here
        environ["AIOAUDIT_CORE"] = "native" if NATIVE in way else "python"
        self.process = subprocess.Popen(
            [sys.executable, *flags, str(WORKER), name, way.replace(NATIVE, ""), str(size)],
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


def both(way: str, python: float | None, native: float | None) -> dict[str, float | None]:
    """*way* with either core, and what is aimed at."""
    return {way: python} | ({way + NATIVE: native} if HAS_NATIVE else {})


def show(case: str, way: str, figure: str, target: str = "", *, met: bool | None = None) -> None:
    """One line of the table."""
    verdict = {True: "ok", False: "MISSED", None: ""}[met]
    print(f"{case:<60} {way:<26} {figure:>10} {target:>10} {verdict}", flush=True)


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
            "null exporter": None,
        }
        | both("only cancel lines", 1.05, 1.02)
        | both("jsonl", 1.9, 1.25)
        | both("recorder", None, None)
        | both("otel", 1.9, 1.25),
    )


def gathers(rounds: int) -> None:
    """Tasks made by ``gather``."""
    compare("gather of 100", "gathers", 10_000, rounds // 2, FEW | both("jsonl", 2.4, 1.3))


def groups(rounds: int) -> None:
    """Tasks made in a task group."""
    compare("TaskGroup of 1,000", "groups", 10_000, rounds // 2, FEW | both("jsonl", 2.5, 1.4))


def exporters(rounds: int) -> None:
    """The same behind exporters that make more of an event than a line."""
    compare("a task made and awaited", "tasks", 3_000, rounds // 2, dict.fromkeys(EXPORTERS))


def cancels(rounds: int) -> None:
    """Many tasks cancelled by one culprit, each request explained; and without making them."""
    ways = FEW | {"null exporter": None}
    case = "10,000 tasks cancelled by one culprit"
    compare(case, "cancels", 10_000, rounds // 2, ways | both("jsonl", None, 1.4))
    case += ", made before"
    ways |= both("jsonl", 5.0, 2.0) | both("recorder", None, None)
    compare(case, "cancelled", 10_000, rounds // 2, ways)


def timeouts(rounds: int) -> None:
    """Many tasks that run into their timeouts."""
    compare(
        "5,000 tasks running into their timeouts",
        "timeouts",
        5_000,
        rounds // 2,
        FEW | {"null exporter": None} | both("jsonl", 4.0, 1.6),
    )


def quiet(rounds: int) -> None:
    """A timeout that does not expire."""
    ways = FEW | both("jsonl", 1.35, 1.1)
    compare("a timeout that does not expire", "quiet", 10_000, rounds // 2, ways)


def handlers(rounds: int) -> None:
    """An eager task under a timeout: what a server makes of each request."""
    if sys.version_info < (3, 12):
        return
    case = "an eager task under a timeout"
    compare(case, "handlers", 10_000, rounds // 2, FEW | both("jsonl", 3.0, 1.4))


def deep(rounds: int) -> None:
    """One ``cancel()`` with a deep stack above it."""
    ways = {"no listener": None} | both("jsonl", 12.0, 4.0)
    turns = take_turns("deep", [OFF, *ways], 1000, rounds)
    for way, target in ways.items():
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
    ways = both("jsonl", 1.22, 1.15)
    turns = take_turns("memory", [OFF, *ways], 20_000, 3)
    for way, target in ways.items():
        more = statistics.median(turn[way] - turn[OFF] for turn in turns)
        show("a living task", way, f"{more:+.0f} B", "+400 B", met=more <= 400)
        found = ratio(turns, way, OFF)
        case = "memory of a living task"
        show_ratio(case, way, found, f"{target:.2f}", met=round(found, 2) <= (target or 0))


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


def _load(port: int) -> float:
    """A round of requests, one after the other on each of some connections.

    Gives the 99th percentile of what an answer took, in seconds.
    """
    took: list[float] = []
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(_CONNECTIONS)]
    try:
        for _ in range(_REQUESTS):
            start = time.perf_counter()
            for connection in connections:
                connection.sendall(_REQUEST)
            for connection in connections:
                answer = b""
                while b"Hello, world" not in answer:
                    answer += connection.recv(65536)
                took.append(time.perf_counter() - start)
    finally:
        for connection in connections:
            connection.close()
    return statistics.quantiles(took, n=100)[-1]


def aiohttp(rounds: int) -> None:
    """Requests that a busy aiohttp server answers in a second of its CPU."""
    few, all_ = both("only cancel lines", 0.97, 0.99), both("jsonl", 0.8, 0.94)
    _http("aiohttp", "aiohttp", rounds, few | all_)


def uvicorn(rounds: int) -> None:
    """The same of uvicorn and starlette."""
    few, all_ = both("only cancel lines", 0.97, 0.98), both("jsonl", 0.85, 0.96)
    _http("uvicorn", "uvicorn and starlette", rounds, few | all_)


def _http(name: str, called: str, rounds: int, targets: dict[str, float | None]) -> None:
    missing = [each for each in called.split(" and ") if find_spec(each) is None]
    for flavour in ("asyncio", "uvloop"):
        case = f"{called}, {flavour}"
        if missing or (flavour == "uvloop" and find_spec(flavour) is None):
            print(f"{case:<60} left out: {', '.join(missing or [flavour])} is not installed")
            continue
        servers = [Worker(name, way, flavour) for way in (OFF, "no listener", *targets)]
        ports = {server.way: int(server.read()) for server in servers}
        turns: list[dict[str, float]] = []
        slowest: list[dict[str, float]] = []
        try:
            for turn in range(-2, rounds):
                random.shuffle(servers)
                rates: dict[str, float] = {}
                late: dict[str, float] = {}
                for server in servers:
                    before = server.round()
                    late[server.way] = _load(ports[server.way])
                    rates[server.way] = _CONNECTIONS * _REQUESTS / (server.round() - before)
                if turn >= 0:
                    turns.append(rates)
                    slowest.append(late)
        finally:
            for server in servers:
                server.end()
        for way, least in ({"no listener": None} | targets).items():
            found = ratio(turns, way, OFF)
            show_ratio(
                f"HTTP requests per second, {case}",
                way,
                found,
                "" if least is None else f"{least:.2f}",
                met=None if least is None else round(found, 2) >= least,
            )
        for way in both("jsonl", None, None):
            show_ratio(f"p99, {case}", way, ratio(slowest, way, OFF), "", met=None)


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
        # Compiled at the first turn, and not at every one.
        ours = ("AIOAUDIT", "PYTHON")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
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
        times: list[float] = []
        for turn in range(-3, rounds * 2):
            zero = _start(pythons["installed"], clean, "import asyncio")
            on = _start(pythons["installed"], jsonl, "import asyncio")
            again = _start(pythons["installed"], clean, "import asyncio")
            if turn >= 0:
                times.append(on / ((zero + again) / 2))
        found = statistics.median(times)
        case = "a start with import asyncio"
        show_ratio(case, "jsonl", found, "1.40", met=round(found, 2) <= 1.4)


CASES: dict[str, Callable[[int], None]] = {
    "start_up": start_up,
    "tasks": tasks,
    "gathers": gathers,
    "groups": groups,
    "cancels": cancels,
    "timeouts": timeouts,
    "quiet": quiet,
    "handlers": handlers,
    "deep": deep,
    "memory": memory,
    "aiohttp": aiohttp,
    "uvicorn": uvicorn,
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
