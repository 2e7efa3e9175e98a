"""Private. A log's answers in SQL: `script` gives the statements for an engine.

They stand in this folder, as files: `views.sql` for all engines, and what each needs before it.  What
the rules of `aioaudit why` are made of (lists of libraries, patterns, columns) is filled in from where
those rules are, so that nobody has to keep two of them alike.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Collection, Sequence
from importlib.resources import files
from typing import Literal

import msgspec

from aioaudit.chain.summary import RUN_OTHERS
from aioaudit.events import BY_NAME, NO_FINDINGS, NO_UNCANCELS, Finding
from aioaudit.log import incidents
from aioaudit.log.requests import GIVES_BACK
from aioaudit.recognisers.registry import OWN

Dialect = Literal["duckdb", "clickhouse"]

DIALECTS: tuple[Dialect, ...] = typing.get_args(Dialect)

MOST_STEPS = 1_000
"""Of longer chains the root is told as unknown: their tasks have a row for each step of each."""

EVERY = "1 MINUTE"
"""How often ClickHouse makes its tables anew."""

_TYPES: dict[Dialect, dict[object, str]] = {
    "duckdb": {
        str: "VARCHAR",
        int: "BIGINT",
        float: "DOUBLE",
        bool: "BOOLEAN",
        list[str]: "VARCHAR[]",
        list[int]: "BIGINT[]",
    },
    "clickhouse": {
        str: "Nullable(String)",
        int: "Nullable(Int64)",
        float: "Nullable(Float64)",
        bool: "Nullable(Bool)",
        list[str]: "Array(String)",
        list[int]: "Array(Int64)",
    },
}
"""What each engine calls the type of a key."""

_OWN_TYPES: dict[Dialect, dict[str, str]] = {
    "duckdb": {"ts": "TIMESTAMP"},
    "clickhouse": {
        "event": "LowCardinality(String)",
        "ts": "DateTime64(6, 'UTC')",
        "run": "String",
        "seq": "Int64",
        "pid": "Int64",
    },
}
"""Of the keys that every line has; ClickHouse sorts by some of them."""

_SETTINGS = "join_use_nulls = 1, prefer_column_name_to_alias = 1"
"""With which ClickHouse reads SQL as others do."""

_READING = (
    "date_time_input_format = 'best_effort', input_format_skip_unknown_fields = 1, "
    "input_format_allow_errors_ratio = 1"
)
"""With which ClickHouse reads lines: as ``aioaudit why`` does, it passes over damaged ones."""

_ADDED = "-- What a table of an older version lacks."

_TABLE = re.compile(r"CREATE OR REPLACE TABLE (\w+) AS")


def script(dialect: Dialect, logs: Sequence[str] = ()) -> str:
    """The statements that make all tables and views in an engine.

    Args:
        dialect: The engine.
        logs: Files of logs that the statements read, compressed ones as well; without any, the
            table of lines is made empty, for those who ship lines into it.
    """
    fill = _filling(dialect)
    lines = (_duckdb_lines if dialect == "duckdb" else _clickhouse_lines)(logs)
    views = fill(_part("views.sql"))
    if dialect == "clickhouse":
        views = _for_clickhouse(views, kept=not logs)
    return _filled(_part(f"{dialect}.sql"), {"lines": lines}) + "\n\n" + views


def columns(dialect: Dialect) -> dict[str, str]:
    """Every key that an event may have, in the order of `aioaudit.events`, and its type."""
    kinds: dict[str, object] = {"event": str}
    for event in BY_NAME.values():
        for field in msgspec.structs.fields(event):
            kinds.setdefault(field.encode_name, _plain(field.type))
    own = _OWN_TYPES[dialect]
    return {name: own.get(name) or _TYPES[dialect][kind] for name, kind in kinds.items()}


def _plain(kind: object) -> object:
    """*kind* without ``None``, and text in place of one of so many words."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        [kind] = [each for each in typing.get_args(kind) if each is not types.NoneType]
    return str if typing.get_origin(kind) is Literal else kind


def _part(name: str) -> str:
    """A file of this package."""
    return (files("aioaudit.sql") / name).read_text(encoding="utf-8")


def _filled(text: str, holes: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: holes[found[1]], text)


def quoted(dialect: Dialect, text: str) -> str:
    """*text* as a literal of *dialect*."""
    if dialect == "clickhouse":
        text = text.replace("\\", "\\\\")
    return "'" + text.replace("'", "''") + "'"


def _filling(dialect: Dialect) -> Callable[[str], str]:
    """What fills the holes of `views.sql`."""

    def literal(text: str) -> str:
        return quoted(dialect, text)

    def literals(texts: Collection[str]) -> str:
        return "(" + ", ".join(map(literal, sorted(texts))) + ")"

    kinds = _TYPES[dialect]
    errors = " ".join(
        f"WHEN {literal(error)} THEN {'NULL' if kind is None else literal(kind)}"
        for error, kind in incidents.ERRORS.items()
    )
    holes = {
        "text": kinds[str],
        "integer": kinds[int],
        "number": kinds[float],
        "most_steps": str(MOST_STEPS),
        "stride": str(math.isqrt(MOST_STEPS - 1) + 1),
        "no_uncancels": literal(NO_UNCANCELS),
        "no_findings": literal(NO_FINDINGS),
        "gives_back": literal("(" + "|".join(map(re.escape, GIVES_BACK)) + ")$"),
        "packages": literal(r"^.*[/\\](site|dist)-packages[/\\]"),
        "finding": ", ".join(f'"{field.encode_name}"' for field in msgspec.structs.fields(Finding)),
        "word": literal(f"^(?:{incidents.WORD.pattern})$"),
        "jobs": literals(incidents.JOBS),
        "library_path": literal(incidents.LIBRARY_PATH.pattern),
        "own_libraries": literals(OWN),
        "errors": f"CASE roots.error {errors} ELSE {literal(incidents.GROUP)} END",
        "idle_words": literals(incidents.IDLE_WORDS),
        "connections": literals(incidents.CONNECTIONS),
        "run_others": literals(RUN_OTHERS),
        "body": str(incidents.BODY),
        "ends_object": literals(incidents.CLOSE),
        "ends_object_or_stops": literals([*incidents.CLOSE, incidents.STOP]),
        "comprehension": literal(incidents.COMPREHENSION.pattern),
    }
    return lambda text: _filled(text, holes)


def _duckdb_lines(logs: Sequence[str]) -> str:
    kinds = columns("duckdb")
    if not logs:
        kinds["file"] = "VARCHAR"
        body = ",\n".join(f'    "{name}" {kind}' for name, kind in kinds.items())
        added = "\n".join(f"ALTER TABLE aioaudit_events {each};" for each in _added(kinds))
        return (
            "-- The lines; put them in here.\n"
            f"CREATE TABLE IF NOT EXISTS aioaudit_events\n(\n{body}\n);"
            f"\n\n{_ADDED}\n{added}"
        )
    names = ",\n    ".join(quoted("duckdb", _as_it_is(log)) for log in logs)
    types_ = ",\n    ".join(
        f"{quoted('duckdb', name)}: {quoted('duckdb', kind)}" for name, kind in kinds.items()
    )
    return f"""-- The lines. One that is none of an event is a row without an event.
CREATE OR REPLACE TABLE aioaudit_events AS
SELECT * RENAME (filename AS file)
FROM read_json([
    {names}
], format = 'newline_delimited', ignore_errors = true, filename = true, columns = {{
    {types_}
}});

-- How many lines of each file could not be read.
CREATE OR REPLACE VIEW aioaudit_damaged AS
SELECT file, count(*) AS lines
FROM aioaudit_events
WHERE event IS NULL OR run IS NULL OR seq IS NULL
GROUP BY file;"""  # noqa: S608 - the names of files are quoted


def _added(kinds: dict[str, str]) -> list[str]:
    """What brings a table that an older version made up to date."""
    return [f'ADD COLUMN IF NOT EXISTS "{name}" {kind}' for name, kind in kinds.items()]


def _as_it_is(path: str) -> str:
    """*path* for who takes ``*``, ``?`` and ``[`` for patterns."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _clickhouse_lines(logs: Sequence[str]) -> str:
    kinds = columns("clickhouse")
    body = ",\n".join(f'    "{name}" {kind}' for name, kind in kinds.items())
    create = "CREATE TABLE IF NOT EXISTS" if not logs else "CREATE OR REPLACE TABLE"
    told = [
        f"""-- The lines. The order lets a question about cancellations pass over all the rest.
{create} aioaudit_events
(
{body}
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (event, run, seq);"""
    ]
    if not logs:
        added = ",\n    ".join(_added(kinds))
        told.append(f"{_ADDED}\nALTER TABLE aioaudit_events\n    {added};")
    else:
        told.append(
            """-- How many lines of each file could not be read.
CREATE OR REPLACE TABLE aioaudit_damaged (file String, lines UInt64)
ENGINE = MergeTree ORDER BY file;"""
        )
    for log in logs:
        name = quoted("clickhouse", log)
        told.append(
            f"""INSERT INTO aioaudit_events SELECT * FROM file({name}, JSONEachRow)
SETTINGS {_READING};"""  # noqa: S608 - as above
        )
        told.append(
            f"""INSERT INTO aioaudit_damaged SELECT {name}, count() FROM file({name}, LineAsString)
WHERE trim(line) <> '' AND NOT (JSONHas(line, 'event') AND JSONHas(line, 'run') AND JSONHas(line, 'seq'))
HAVING count() > 0;"""  # noqa: S608 - as above
        )
    return "\n\n".join(told)


def _for_clickhouse(views: str, *, kept: bool) -> str:
    """*views* with the settings that they need; tables that are *kept* are made anew by and by."""
    names = _TABLE.findall(views)
    told: list[str] = []
    for plain in views.split(";\n"):
        statement = plain
        if not plain.strip():
            continue
        made = _TABLE.search(statement)
        if made is not None and kept:
            on = [
                name
                for name in names
                if name != made[1] and re.search(rf"\b{name}\b", statement) is not None
            ]
            after = f" DEPENDS ON {', '.join(on)}" if on else ""
            statement = statement.replace(
                made[0],
                f"CREATE OR REPLACE MATERIALIZED VIEW {made[1]}\n"
                f"REFRESH EVERY {EVERY}{after}\nENGINE = MergeTree ORDER BY tuple()\nAS",
            )
        told.append(f"{statement}\nSETTINGS {_SETTINGS};\n")
    return "".join(told)
