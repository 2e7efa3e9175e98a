"""What `docs/fleet.md` and the files that it names promise, asked of the engines and tools themselves."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("click")

import aioaudit
from aioaudit.sql import columns, script
from tests.conftest import ROOT, clean_environ
from tests.report_logs import shop, write
from tests.sql_engines import Engine, Row
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.any_python

FLEET = ROOT / "examples" / "fleet"
PAGE = (ROOT / "docs" / "fleet.md").read_text()
DASHBOARD = json.loads((ROOT / "examples" / "grafana" / "aioaudit.json").read_text())


only_clickhouse = pytest.mark.parametrize("engine", ["clickhouse"], indirect=True)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Six cancelled tasks of three causes, and a finding."""
    return write(tmp_path / "aioaudit-1.jsonl", *shop())


# -- SQL of the page -------------------------------------------------------------------


def test_what_the_page_asks_is_answered(engine: Engine, log: Path) -> None:
    queries = re.findall(r"```sql\n(SELECT.*?)```", PAGE, re.DOTALL)
    minutes, swallowed, also = engine.ask(script(engine.dialect, [str(log)]), queries)
    assert sum(int(row["tasks"]) for row in minutes) == 6
    assert [(row["coro"], row["swallowed_at"], row["times"]) for row in swallowed] == [
        ("shop:stubborn", "shop.py:31", 1)
    ]
    assert also == []  # the price failed and was not cancelled
    named = set(re.findall(r"^\| `(aioaudit_\w+)` \|", PAGE, re.MULTILINE))
    made = set(re.findall(r" (aioaudit_\w+) AS\n", script("duckdb")))
    assert named == (made | {"aioaudit_events"}) - {"aioaudit_damaged"}


@only_clickhouse
def test_old_lines_go_as_the_page_says(engine: Engine, log: Path) -> None:
    [ttl] = re.findall(r"```sql\n(ALTER.*?)```", PAGE, re.DOTALL)
    table, _ = tables()
    old, new = ("toDateTime64('2020-01-01 00:00:00', 6, 'UTC')", "now64(6, 'UTC')")
    rows = ", ".join(f"('task.done', {ts}, 'r', {seq}, 1)" for seq, ts in enumerate((old, new)))
    insert = f"INSERT INTO aioaudit_events (event, ts, run, seq, pid) VALUES {rows};\n"
    text = f"{table}\n{insert}{ttl};\nOPTIMIZE TABLE aioaudit_events FINAL;\n"
    [left] = engine.ask(text, ["SELECT seq FROM aioaudit_events"])
    assert left == [{"seq": 1}]


# -- Shippers --------------------------------------------------------------------------


def yaml() -> Any:
    """What reads YAML, where it is there."""
    return pytest.importorskip("yaml")


def test_vector_is_told_to_ship_each_line_as_it_is() -> None:
    told = tomllib.loads((FLEET / "vector.toml").read_text())
    names = {*told["sources"], *told["transforms"]}
    for kind in ("transforms", "sinks"):
        for step in told[kind].values():
            assert {each.partition(".")[0] for each in step["inputs"]} <= names
    house = told["sinks"]["clickhouse"]
    assert house["table"] == "aioaudit_events"
    assert house["date_time_best_effort"]
    assert house["skip_unknown_fields"]


def test_the_program_for_vector_makes_each_line_what_it_says(log: Path) -> None:
    vector = pytest.importorskip("vector_vrl")
    program = tomllib.loads((FLEET / "vector.toml").read_text())["transforms"]["events"]["source"]
    lines = log.read_text().splitlines()
    damaged = ['{"event":"task.ca', "[1]", "no JSON"]
    read = [json.dumps({"message": line}) for line in [*lines, *damaged]]
    # Vector itself makes JSON of it, as for a sink: to Python the package gives lists as text.
    made = vector.execute_vrl(f'{program}\n. = {{"line": encode_json(.)}}', read)
    for line, event in zip(lines, made, strict=False):
        assert json.loads(event["line"]) == json.loads(line)
    assert ["error" in each for each in made] == [False] * len(lines) + [True] * len(damaged)


def test_fluent_bit_is_told_the_format_of_a_time() -> None:
    told = yaml().safe_load((FLEET / "fluent-bit.yaml").read_text())
    [parser] = told["parsers"]
    [source] = told["pipeline"]["inputs"]
    assert source["parser"] == parser["name"]
    [filtered] = told["pipeline"]["filters"]
    key, _, damaged, keep = filtered["rule"].split()
    assert filtered["match"] == source["tag"]
    assert keep == "false"
    assert key.removeprefix("$") not in columns("clickhouse")
    console, *others = told["pipeline"]["outputs"]
    assert (console["name"], console["match"]) == ("stdout", damaged)
    assert {each["match"] for each in others} == {source["tag"]}
    assert parser["time_format"].replace("%L", "%f") == "%Y-%m-%dT%H:%M:%S.%fZ"


def test_the_collector_is_told_a_pipeline_that_is_whole() -> None:
    told = yaml().safe_load((FLEET / "otel-collector.yaml").read_text())
    [pipeline] = told["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) == set(told[kind])
    assert told["service"]["extensions"] == list(told["extensions"])
    [parser] = told["receivers"]["filelog"]["operators"]
    assert parser["timestamp"]["parse_from"] == "attributes.ts"


def test_each_shipper_reads_what_was_rotated_and_tells_it_from_the_new_file() -> None:
    """By more than the first line: that of a new file is that of the old one again."""
    vector = tomllib.loads((FLEET / "vector.toml").read_text())["sources"]["files"]
    fluent = yaml().safe_load((FLEET / "fluent-bit.yaml").read_text())["pipeline"]["inputs"][0]
    collector = yaml().safe_load((FLEET / "otel-collector.yaml").read_text())["receivers"][
        "filelog"
    ]
    log = "/var/log/shop/aioaudit-*.jsonl"
    for read in (vector["include"], fluent["path"].split(","), collector["include"]):
        assert read == [log, f"{log}.1"]
    assert vector["fingerprint"]["lines"] == 2
    assert collector["fingerprint_size"] == "16KiB"  # of itself it takes 1,000 bytes
    assert "db" in fluent  # it goes by inodes


def ship(statement: str, log: Path) -> str:
    """*statement* with the lines of *log* behind it."""
    return f"{statement}\n{log.read_text()}"


def tables() -> tuple[str, str]:
    """The statement that makes the table of lines, and those behind it."""
    text = script("clickhouse")
    end = text.index(";\n") + 2
    return text[:end], text[end:]


COUNTED = "SELECT count() AS n FROM aioaudit_cancelled"


@only_clickhouse
def test_what_fluent_bit_sends_is_what_the_table_takes(engine: Engine, log: Path) -> None:
    told = yaml().safe_load((FLEET / "fluent-bit.yaml").read_text())
    [uri] = [each["uri"] for each in told["pipeline"]["outputs"] if each["name"] == "http"]
    said = {key: value[0] for key, value in parse_qs(urlsplit(uri).query).items()}
    head, words = said.pop("query").removesuffix(" FORMAT JSONEachRow"), said
    settings = ", ".join(f"{key} = '{value}'" for key, value in words.items() if "wait" not in key)
    insert = f"{head} SETTINGS {settings} FORMAT JSONEachRow"
    table, views = tables()
    extra = '{"event":"later","ts":"2026-11-22T14:00:00.000001Z","run":"r","seq":9,"unknown":[1]}'
    text = f"{table}\n{ship(insert, log)}{extra};\n{views}"
    [[row]] = engine.ask(text, [COUNTED])
    assert row == {"n": 6}


@only_clickhouse
def test_lines_come_out_of_the_collectors_table_as_they_were(engine: Engine, log: Path) -> None:
    moved = (FLEET / "otel_logs.sql").read_text()
    own = {
        "event": "JSONExtractString(Body, 'event') AS event",
        "ts": "parseDateTime64BestEffortOrZero(JSONExtractString(Body, 'ts'), 6, 'UTC') AS ts",
    }
    keys = [
        own.get(name) or f"JSONExtract(Body, '{name}', '{kind}') AS \"{name}\""
        for name, kind in columns("clickhouse").items()
    ]
    assert re.findall(r"^    (.*?),?$", moved, re.MULTILINE) == keys, "a key was added"
    table, _ = tables()
    theirs = table.replace("aioaudit_events", "other")
    others = ["no JSON", '{"event":"task.ca', '{"event":"paid","run":1,"seq":1,"ts":"noon"}', "[1]"]
    text = f"""{table}
CREATE TABLE otel_logs (Timestamp DateTime64(9), Body String) ENGINE = MergeTree ORDER BY Timestamp;
{moved}
{moved}
INSERT INTO otel_logs SELECT now64(9), line FROM file('{log}', LineAsString);
INSERT INTO otel_logs SELECT now64(9), arrayJoin({others});
{theirs}
INSERT INTO other SELECT * FROM file('{log}', JSONEachRow)
SETTINGS date_time_input_format = 'best_effort';
"""
    queries = [f"SELECT * FROM {name} ORDER BY seq" for name in ("aioaudit_events", "other")]
    moved_rows, rows = engine.ask(text, queries)
    assert moved_rows == rows
    assert len(rows) == len(shop())


# -- Rotation --------------------------------------------------------------------------


def test_the_page_shows_the_file_for_logrotate() -> None:
    [shown] = re.findall(r"```ini\n# logrotate.conf\n(.*?)```", PAGE, re.DOTALL)
    told = (FLEET / "logrotate.conf").read_text()
    assert shown == "".join(re.findall(r"^[^#].*\n", told, re.MULTILINE))


LIVES = """
import asyncio, sys

async def wait():
    await asyncio.sleep(60)

async def one(name):
    task = asyncio.create_task(wait(), name=name)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

async def main():
    for name in "before", "between", "after":
        await one(name)
        print(name, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="logrotate is Linux's")
def test_logrotate_takes_files_away_while_the_program_writes(tmp_path: Path) -> None:
    """Twice: the first of them is compressed then.  Every line is there, and none of them twice."""
    logrotate = shutil.which("logrotate", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if logrotate is None:
        pytest.skip("there is no logrotate")
    folder = tmp_path / "shop"
    folder.mkdir(mode=0o755)
    config = tmp_path / "logrotate.conf"
    config.write_text((FLEET / "logrotate.conf").read_text().replace("/var/log/shop", str(folder)))
    config.chmod(0o644)
    (tmp_path / "app.py").write_text(LIVES)
    log = folder / "aioaudit-1.jsonl"
    environ = {"PYTHONPATH": str(ROOT), "AIOAUDIT_JSONL_PATH": str(log)}
    with subprocess.Popen(
        [sys.executable, "-m", "aioaudit", "run", "app.py"],
        cwd=tmp_path,
        env=clean_environ(**environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for name in ("before", "between"):
            assert program.stdout.readline() == f"{name}\n"
            wait_until(lambda done=name: is_told(log, done), name)  # type: ignore[misc]
            state = ["--state", str(tmp_path / "state")]
            subprocess.run([logrotate, "--force", *state, config], check=True, timeout=PATIENCE)
            assert not log.exists()
            program.stdin.write("\n")
            program.stdin.flush()
        program.communicate("\n", timeout=PATIENCE)
    assert program.returncode == 0
    names = sorted(each.name for each in folder.iterdir())
    assert names == [log.name, f"{log.name}.1", f"{log.name}.2.gz"]
    oldest = tmp_path / "2.jsonl"
    oldest.write_bytes(gzip.decompress((folder / names[2]).read_bytes()))
    told = aioaudit.load([oldest, folder / names[1], log])
    assert [answer.name for answer in told.answers()] == ["before", "between", "after"]
    seqs = [
        event["seq"]
        for file in (oldest, folder / names[1], log)
        for line in file.read_text().splitlines()
        if (event := json.loads(line))["event"] != "process.start"
    ]
    assert seqs == list(range(2, len(seqs) + 2))


def is_told(log: Path, name: str) -> bool:
    """Whether the end of the task *name* is in *log*."""
    lines = log.read_text().splitlines() if log.exists() else []
    return any('"task.done"' in line and f'"name":"{name}"' in line for line in lines)


# -- The dashboard ---------------------------------------------------------------------


def targets(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The title of each panel that asks a data source of *kind*, and what it asks."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            if target["datasource"]["uid"] == f"${{{kind}}}":
                yield panel["title"], target


SPAN = (
    "toDateTime64('2026-11-22 14:00:00', 6, 'UTC')",
    "toDateTime64('2026-11-22 15:00:00', 6, 'UTC')",
)


def asked(sql: str) -> str:
    """*sql* as Grafana's plugin for ClickHouse sends it."""
    sql = re.sub(r"\$__timeFilter\((\w+)\)", rf"(\1 >= {SPAN[0]} AND \1 <= {SPAN[1]})", sql)
    sql = re.sub(r"\$__timeInterval\((\w+)\)", r"toStartOfInterval(\1, INTERVAL 60 second)", sql)
    sql = sql.replace("$__fromTime", SPAN[0]).replace("$__toTime", SPAN[1])
    sql = sql.replace("${task}", "5575bbe88415:5")
    assert "$" not in sql, sql
    return sql


@only_clickhouse
def test_each_panel_of_the_dashboard_has_its_answer(engine: Engine, log: Path) -> None:
    panels = dict(targets("clickhouse"))
    table, views = tables()
    insert = (
        f"INSERT INTO aioaudit_events SELECT * FROM file('{log}', JSONEachRow)"
        " SETTINGS date_time_input_format = 'best_effort';"
    )
    queries = [asked(target["rawSql"]) for target in panels.values()]
    answers = engine.ask(f"{table}\n{insert}\n{views}", queries)
    told: dict[str, list[Row]] = dict(zip(panels, answers, strict=True))
    assert told["Incidents"] == [{"incidents": 3}]
    assert told["Tasks cancelled"] == [{"tasks": 6}]
    assert told["Of unknown cause"] == [{"tasks": 1}]
    assert told["Findings"] == [{"findings": 1}]
    [found] = told["What was found"]
    assert (found["kind"], found["findings"], found["at"]) == ("swallowed", 1, "shop.py:24")
    assert sum(row["tasks"] for row in told["Tasks cancelled, by root cause"]) == 6
    causes = told["Root causes"]
    assert (causes[0]["tasks"], causes[0]["ask_for"]) == (4, "5575bbe88415:1")
    chain = told["Chain of $task"]
    assert [row["what"] for row in chain] == ["cancelled", "cancelled", "cancelled", "failed"]
    assert max(row["seconds"] for row in told["Slow cancellations"]) == pytest.approx(0.017)
    assert told["Slowest to end"] == [{"seconds": pytest.approx(0.017)}]
    assert told["Runs that lack events"] == [{"runs": 0}]


def test_the_metrics_of_the_dashboard_are_those_that_are_sent() -> None:
    """Named as Prometheus names those of OpenTelemetry."""
    page = (ROOT / "docs" / "opentelemetry-reference.md").read_text()
    rows = re.findall(r"^\| `(aioaudit\.[\w.]+)` \| ([\w-]+)[^|]*\|(.*)\|$", page, re.MULTILINE)
    sent: dict[str, set[str]] = {}
    for name, kind, attributes in rows:
        plain = name.replace(".", "_")
        labels = {each.replace(".", "_") for each in re.findall(r"`([\w.]+)`", attributes)}
        if kind == "counter":
            sent[f"{plain}_total"] = labels
        elif kind == "histogram":
            sent[f"{plain}_seconds_bucket"] = labels | {"le"}
            sent[f"{plain}_seconds_count"] = labels
        else:
            sent[plain] = labels
    assert len(sent) == 7
    used: set[str] = set()
    for title, target in targets("prometheus"):
        names = set(re.findall(r"\baioaudit_\w+(?=[\[{)])", target["expr"])) & set(sent)
        labels = set(re.findall(r"\b(?:aioaudit_\w+|le)\b", target["expr"])) - set(sent)
        assert names, title
        assert labels <= set().union(*(sent[name] for name in names)), title
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels
        used |= names
    assert used == set(sent)


def test_the_questions_to_prometheus_are_promql() -> None:
    parser = pytest.importorskip("promql_parser")
    for _, target in targets("prometheus"):
        parser.parse(target["expr"].replace("$__rate_interval", "1m"))
    with pytest.raises(ValueError, match=r"."):
        parser.parse("sum by (")


def test_the_panels_of_the_dashboard_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_variables_of_the_dashboard_are_those_that_its_panels_use() -> None:
    text = json.dumps(DASHBOARD["panels"])
    used = set(re.findall(r"\$\{?([a-z]\w*)\}?", text))
    assert used == {each["name"] for each in DASHBOARD["templating"]["list"]}
