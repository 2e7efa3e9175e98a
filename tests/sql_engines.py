"""SQL engines, each in a process of its own: they have threads and handlers of signals.

As a program it takes on standard input what to do, and prints what came of it, both in JSON.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.conftest import clean_environ
from tests.waiting import PATIENCE

MODULES = {"duckdb": "duckdb", "clickhouse": "chdb"}
"""By dialect, what runs it."""

Row = dict[str, Any]


def lacking(dialect: str) -> bool:
    """Whether there is nothing here that runs *dialect*."""
    return importlib.util.find_spec(MODULES[dialect]) is None


def statements(script: str) -> list[str]:
    """The statements of *script*, without comments."""
    bare = re.sub(r"^\s*--.*$", "", script, flags=re.MULTILINE)
    return [each.strip() for each in re.split(r";\s*\n", bare + "\n") if each.strip()]


def ask(dialect: str, script: str, queries: Sequence[str], folder: Path) -> list[list[Row]]:
    """The rows of each of *queries* after *script*, which runs in *folder*."""
    done = subprocess.run(
        [sys.executable, __file__, MODULES[dialect]],
        input=json.dumps({"statements": statements(script), "queries": queries}),
        cwd=folder,
        env=clean_environ(PYTHONPATH=str(Path(__file__).parent.parent)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    rows: list[list[Row]] = json.loads(done.stdout)
    return rows


def _duckdb() -> tuple[Callable[[str], object], Callable[[str], list[Row]]]:
    duckdb: Any = import_module("duckdb")

    database = duckdb.connect()

    def rows(query: str) -> list[Row]:
        found = database.execute(query)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    return database.execute, rows


def _chdb() -> tuple[Callable[[str], object], Callable[[str], list[Row]]]:
    session: Any = import_module("chdb.session")

    house = session.Session()
    # Only in such a one tables can be made anew by themselves.
    house.query("CREATE DATABASE logs ENGINE = Atomic")
    house.query("USE logs")

    def execute(statement: str) -> None:
        house.query(statement)
        view = re.search(r"MATERIALIZED VIEW (\w+)\s+REFRESH", statement)
        if view is not None:
            house.query(f"SYSTEM WAIT VIEW {view[1]}")

    def rows(query: str) -> list[Row]:
        told = str(
            house.query(
                f"{query} SETTINGS output_format_json_quote_64bit_integers = 0", "JSONEachRow"
            )
        )
        return [json.loads(line) for line in told.splitlines() if line.strip()]

    return execute, rows


def main() -> None:
    """Run the statements, ask the queries."""
    wanted = json.load(sys.stdin)
    execute, rows = {"duckdb": _duckdb, "chdb": _chdb}[sys.argv[1]]()
    for statement in wanted["statements"]:
        try:
            execute(statement)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises
            raise SystemExit(f"{error}\n{statement}") from None
    print(json.dumps([rows(query) for query in wanted["queries"]], default=str))


if __name__ == "__main__":
    main()
