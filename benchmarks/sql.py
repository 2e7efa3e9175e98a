"""How long SQL engines take for a large log: `aioaudit sql` on ten million events.

    python benchmarks/sql.py --engine duckdb --events 10000000 --check

The log is that of a service whose requests make three tasks each.  One in ten goes wrong: its timeout
runs out, one of its tasks fails, or its client leaves.  Of one process it is made, and the others
are copies with another run, so what `aioaudit why` says of the first, so many times, is the right answer;
--check compares.  It needs `duckdb` or `chdb-core`, and three gigabytes of disk.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from aioaudit.cli.why_words import by_cause, cause_in_words
from aioaudit.events import (
    Event,
    Finding,
    ProcessEnd,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.log import load
from aioaudit.log.incidents import housekeeping
from aioaudit.sql import Dialect, script

A_PROCESS = 200_000
"""Events of one process."""

FIRST = datetime(2026, 11, 22, tzinfo=UTC)

QUESTIONS = (
    "SELECT count(*) AS cancelled FROM aioaudit_cancelled",
    "SELECT tasks, runs, cause FROM aioaudit_root_causes ORDER BY tasks DESC LIMIT 5",
    "SELECT date_trunc('minute', ts) AS minute, cause, sum(tasks) AS tasks FROM aioaudit_incidents"
    " GROUP BY minute, cause ORDER BY tasks DESC LIMIT 5",
    "SELECT count(*) AS links FROM aioaudit_chain",
    "SELECT count(*) AS slow, max(seconds) AS most FROM aioaudit_slow_cancels WHERE found",
)


class Service:
    """The events of one process, request by request."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._chance = random.Random(14)
        self._now = FIRST
        self._task = 1

    def say(self, event: type[Event], **keys: Any) -> int:
        """One more line; its number."""
        self._now += timedelta(microseconds=self._chance.randrange(20, 400))
        seq = len(self.events) + 1
        self.events.append(
            event(
                ts=f"{self._now:%Y-%m-%dT%H:%M:%S.%fZ}",
                seq=seq,
                run="0" * 12,
                pid=1000,
                thread="MainThread",
                loop=1,
                **keys,
            )
        )
        return seq

    def request(self, way: str) -> None:
        """A request that ends in this *way*: well, or by a timeout, a failure or a client that left."""
        first = self._task = self._task + 4
        page = {"task": first, "name": f"GET /orders/{first}", "coro": "shop.web:handle"}
        parts = [
            {"task": first + number, "name": name, "coro": f"shop.{name}:fetch"}
            for number, name in enumerate(("price", "stock", "reviews"), 1)
        ]
        self.say(TaskCreate, **page, parent=1, at="/srv/shop/web.py:61", source="shop.web:accept")
        for part in parts:
            self.say(TaskCreate, **part, parent=first, at="/srv/shop/web.py:72")
        getattr(self, f"_{way}")(page, parts)

    def _well(self, page: dict[str, Any], parts: list[dict[str, Any]]) -> None:
        for each in (*parts, page):
            self.say(TaskDone, **each, outcome="returned", lifetime=0.012)

    def _asked(self, task: dict[str, Any], at: str = "/srv/shop/web.py:75", **keys: Any) -> int:
        return self.say(TaskCancel, **task, accepted=True, suspended_at=at, **keys)

    def _obeyed(self, task: dict[str, Any], cancel: int) -> None:
        end = {"outcome": "cancelled", "cancel_outcome": "obeyed"}
        self.say(TaskDone, **task, **end, cancel=cancel, lifetime=0.5)

    def _timeout(self, page: dict[str, Any], parts: list[dict[str, Any]]) -> None:
        line = {"source": "shop.web:handle", "at": "/srv/shop/web.py:70"}
        origin = {f"origin_{key}": value for key, value in line.items()}
        cause = self._asked(
            page,
            reason="timeout",
            taken_back=True,
            origin="deadline",
            origin_reason="timeout",
            origin_seconds=0.5,
            **line,
            **origin,
        )
        asked = [self._asked(part, reason="task_group", cause=cause, **line) for part in parts]
        for part, cancel in zip(parts, asked, strict=True):
            self._obeyed(part, cancel)
        self.say(TaskUncancel, **page, remaining=0, cancel=cause, **line)
        end = {"outcome": "raised", "error": "TimeoutError", "cancel_outcome": "absorbed"}
        self.say(TaskDone, **page, **end, cancel=cause, lifetime=0.5)
        if self._chance.random() < 0.1:
            found = {"kind": "slow", "severity": "finding", "seconds": 2.5, "waited": 2.4}
            self.say(
                Finding, **parts[0], **found, cancel=asked[0], waits_at="/srv/shop/price.py:19"
            )

    def _failure(self, page: dict[str, Any], parts: list[dict[str, Any]]) -> None:
        error = "ConnectionResetError: upstream hung up"
        self.say(TaskDone, **parts[0], outcome="raised", error=error, lifetime=0.2)
        origin = {
            "origin": "failed",
            "origin_task": parts[0]["task"],
            "origin_name": "price",
            "origin_at": "/srv/shop/price.py:14",
            "origin_error": error,
        }
        for part in parts[1:]:
            self._obeyed(part, self._asked(part, reason="task_group", **origin))
        self.say(
            TaskDone, **page, outcome="raised", error="ExceptionGroup: unhandled", lifetime=0.2
        )

    def _left(self, page: dict[str, Any], parts: list[dict[str, Any]]) -> None:
        line = {
            "source": "aiohttp.web_protocol:RequestHandler.connection_lost",
            "at": "/venv/lib/python3.13/site-packages/aiohttp/web_protocol.py:400",
        }
        cause = self._asked(page, reason="disconnect", origin="called", **line)
        asked = [self._asked(part, reason="gather", cause=cause) for part in parts]
        for part, cancel in zip(parts, asked, strict=True):
            self._obeyed(part, cancel)
        self._obeyed(page, cause)


def one_process(events: int) -> bytes:
    """The log of a process, of at least so many *events*."""
    service = Service()
    start = {"schema": 1, "version": "0.1.0", "python": "cpython 3.13.1", "ppid": 1}
    service.say(ProcessStart, **start, argv=["python", "-m", "shop"], coverage=[])
    ways = ["well"] * 9
    chance = random.Random(15)
    while len(service.events) < events:
        service.request(chance.choice([*ways, chance.choice(["timeout", "failure", "left"])]))
    service.say(ProcessEnd, written=len(service.events) + 1, dropped=0)
    return b"".join(msgspec.json.encode(event) + b"\n" for event in service.events)


def write(folder: Path, events: int) -> tuple[list[str], int]:
    """Logs of so many *events* together; their names, and how many lines they have."""
    log = one_process(min(events, A_PROCESS))
    files: list[str] = []
    for number in range(max(events // A_PROCESS, 1)):
        file = folder / f"aioaudit-{1000 + number}.jsonl"
        run = b'"run":"%012x","pid":%d' % (number, 1000 + number)
        file.write_bytes(log.replace(b'"run":"000000000000","pid":1000', run))
        files.append(str(file))
    return files, log.count(b"\n") * len(files)


def statements(text: str) -> list[str]:
    """Those of *text*, without comments."""
    bare = re.sub(r"^\s*--.*$", "", text, flags=re.MULTILINE)
    return [each for each in re.split(r";\s*\n", bare + "\n") if each.strip()]


def engine(name: Dialect) -> Callable[[str], list[list[Any]]]:
    """What runs a statement, and gives rows."""
    if name == "duckdb":
        duckdb: Any = import_module("duckdb")

        database = duckdb.connect()
        return lambda statement: [list(row) for row in database.execute(statement).fetchall()]
    session: Any = import_module("chdb.session")

    house = session.Session()
    house.query("SET output_format_json_quote_64bit_integers = 0")

    def rows(statement: str) -> list[list[Any]]:
        return [
            json.loads(row)
            for row in str(house.query(statement, "JSONCompactEachRow")).splitlines()
        ]

    return rows


def check(ask: Callable[[str], list[list[Any]]], files: list[str]) -> None:
    """Compare row by row with what ``aioaudit why`` says of the first of *files*: all others are its copies."""
    copies = len(files)
    told = [(case, case.answer(), housekeeping(case)) for case in load(files[0]).cases()]
    causes = by_cause([case for case, _, kind in told if kind is None])
    compare(
        ask,
        "aioaudit_root_causes",
        "tasks, runs, cause",
        [(each.tasks * copies, copies, cause_in_words(each.root, str)) for each in causes],
    )
    keys = "name, coro, outcome, cancel_outcome"
    compare(
        ask,
        "aioaudit_cancelled",
        f"task, housekeeping, cause, {keys}",
        [
            (case.task, kind, cause_in_words(answer.root, str), *values(answer, keys))
            for case, answer, kind in told
        ],
        copies,
    )
    keys = "what, task, name, reason, source, at, error"
    compare(
        ask,
        "aioaudit_chain",
        f"of_task, position, {keys}",
        [
            (case.task, position, *values(link, keys))
            for case, answer, _ in told
            for position, link in enumerate(answer.chain, 1)
        ],
        copies,
    )


def values(of: object, keys: str) -> list[Any]:
    """What *of* has of each of *keys*."""
    return [getattr(of, key) for key in keys.split(", ")]


def compare(
    ask: Callable[[str], list[list[Any]]],
    view: str,
    keys: str,
    wanted: list[tuple[Any, ...]],
    copies: int = 1,
) -> None:
    """Say whether the rows of *view* are those that are *wanted*, each so many times."""
    columns = ", ".join(f'"{key}"' for key in keys.split(", "))  # "at" is a word of SQL, too
    found = Counter({
        tuple(row[:-1]): row[-1]
        for row in ask(f"SELECT {columns}, count(*) FROM {view} GROUP BY {columns}")
    })  # fmt: skip
    found.subtract({row: times * copies for row, times in Counter(wanted).items()})
    wrong = [row for row, times in found.items() if times]
    said = f"NOT the same as why: {wrong[:4]}" if wrong else "the same as why"
    print(f"{len(wanted) * copies:,} rows of {view}: {said}")


def timed(what: str, do: Callable[[], object]) -> object:
    """What *do* gives; a line says how long it took."""
    begun, busy = time.perf_counter(), time.process_time()
    result = do()
    wall, cpu = time.perf_counter() - begun, time.process_time() - busy
    print(f"{wall:8.2f} s, {cpu:8.2f} s of CPU  {what}", flush=True)
    return result


def main() -> None:
    """Write the log, ask the engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", choices=["duckdb", "clickhouse"], default="duckdb")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--check", action="store_true", help="compare with aioaudit why")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files, lines = write(Path(folder), wanted.events)
        size = sum(Path(file).stat().st_size for file in files)
        print(f"{lines:,} events in {len(files)} files, {size / 1e9:.2f} GB", flush=True)
        ask = engine(wanted.engine)

        def prepare() -> None:
            for statement in statements(script(wanted.engine, files)):
                made = re.search(r"(?:TABLE|VIEW|INTO) (?:IF NOT EXISTS )?(\w+)", statement)
                timed(made[1] if made else statement[:40], lambda each=statement: ask(each))  # type: ignore[misc]

        timed("everything above", prepare)
        for question in QUESTIONS:
            for row in timed(question, lambda each=question: ask(each)):  # type: ignore[misc,attr-defined]
                print(f"{'':24}{row}")
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if wanted.check:
            check(ask, files)
    print(f"{most:8.0f} MiB of memory at most")


if __name__ == "__main__":
    main()
