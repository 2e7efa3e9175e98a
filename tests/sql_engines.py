"""SQL engines, each in a process of its own: they have threads and handlers of signals.

As a program it takes on standard input what to do, a line each time, and prints what came of it, both
in JSON.  One process answers many, each in a database of its own: it takes seconds to start.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from aioaudit.sql import Dialect
from tests.conftest import clean_environ

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


class Engine:
    """An engine that runs."""

    def __init__(self, dialect: Dialect, program: subprocess.Popen[str]) -> None:
        self.dialect: Dialect = dialect
        self._program = program

    def ask(self, script: str, queries: Sequence[str]) -> list[list[Row]]:
        """The rows of each of *queries* after *script*, in a database that is empty before."""
        program = self._program
        assert program.stdin is not None
        assert program.stdout is not None
        wanted = {"statements": statements(script), "queries": queries}
        program.stdin.write(json.dumps(wanted) + "\n")
        program.stdin.flush()
        told = json.loads(program.stdout.readline())
        assert "error" not in told, told["error"]
        rows: list[list[Row]] = told["rows"]
        return rows


@contextmanager
def started(dialect: Dialect) -> Generator[Engine]:
    """An engine of *dialect*; it is ended afterwards."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "errors").open("w+") as errors:
        program = subprocess.Popen(
            [sys.executable, __file__, MODULES[dialect]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=clean_environ(PYTHONPATH=str(Path(__file__).parent.parent)),
            text=True,
        )
        with program:
            try:
                yield Engine(dialect, program)
            finally:
                program.kill()  # there is nothing that it would have to put in order


def _duckdb() -> tuple[Callable[[], None], Callable[[str], object], Callable[[str], list[Row]]]:
    duckdb: Any = import_module("duckdb")

    database: Any = None

    def begin() -> None:
        nonlocal database
        database = duckdb.connect()

    def rows(query: str) -> list[Row]:
        found = database.execute(query)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def execute(statement: str) -> None:
        database.execute(statement)

    return begin, execute, rows


def _chdb() -> tuple[Callable[[], None], Callable[[str], object], Callable[[str], list[Row]]]:
    session: Any = import_module("chdb.session")

    house = session.Session()
    made = 0

    def begin() -> None:
        nonlocal made
        if made:
            house.query(f"DROP DATABASE logs{made} SYNC")
        made += 1
        # Only in such a one tables can be made anew by themselves.
        house.query(f"CREATE DATABASE logs{made} ENGINE = Atomic")
        house.query(f"USE logs{made}")

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

    return begin, execute, rows


def main() -> None:
    """Do what each line of standard input says: run the statements, ask the queries."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # an engine may print, too
    begin, execute, rows = {"duckdb": _duckdb, "chdb": _chdb}[sys.argv[1]]()
    for line in sys.stdin:
        wanted = json.loads(line)
        statement = ""
        told: dict[str, object]
        try:
            begin()
            for statement in wanted["statements"]:
                execute(statement)
            found = []
            for statement in wanted["queries"]:
                found.append(rows(statement))
            told = {"rows": found}
        except Exception as error:  # noqa: BLE001 - whatever an engine raises
            told = {"error": f"{error}\n{statement}"}
        print(json.dumps(told, default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()
