"""`aioaudit export`: a log in a trace view, sent to real receivers or written as OTLP JSON."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE

pytest.importorskip("click")

from tests.collectors import INCIDENT, Receiver, Request, tasks, walk

pytestmark = pytest.mark.any_python

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

SPANS = 13


@pytest.fixture
def log(run_python: RunPython, tmp_path: Path) -> Path:
    """The log of the incident."""
    (tmp_path / "app.py").write_text(INCIDENT)
    done = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    return tmp_path / "log.jsonl"


@pytest.fixture
def export(run_python: RunPython) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``aioaudit export``; keywords are environment variables."""

    def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return run_python("-m", "aioaudit", "export", *args, **environ)

    return run


Export = Callable[..., "subprocess.CompletedProcess[str]"]


def answers(run_python: RunPython, log: str = "log.jsonl") -> list[dict[str, Any]]:
    lines = run_python("-m", "aioaudit", "why", log, "--json").stdout.splitlines()
    return [json.loads(line) for line in lines]


def ids(receiver: Receiver) -> list[tuple[str, str, str]]:
    return [(span.trace, span.id, span.parent) for span in receiver.spans]


def test_the_chain_rebuilt_from_what_was_sent_is_that_of_the_log(
    collector: dict[str, str],
    receiver: Receiver,
    log: Path,
    export: Export,
    run_python: RunPython,
) -> None:
    done = export("log.jsonl", "--to", "otlp", OTEL_SERVICE_NAME="shop", **collector)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{SPANS} spans sent\n", "")
    spans = {(span.trace, span.id): span for span in receiver.spans}
    assert len(spans) == len(receiver.spans) == SPANS
    named = tasks(receiver)
    assert set(named) == {
        "Task-1",
        "handler",
        "fetch-1",
        "killer",
        "slow",
        "sibling",
        "failing",
    }
    told = answers(run_python)
    assert len(told) == 5
    for answer in told:
        assert walk(named[answer["name"]], spans) == answer["chain"]
    assert {span.resource["service.name"] for span in receiver.spans} == {"shop"}
    pid = json.loads(log.read_text().partition("\n")[0])["pid"]
    assert {span.resource["process.pid"] for span in receiver.spans} == {pid}


def test_sent_twice_it_has_the_same_ids_and_they_are_those_of_the_live_exporter(
    over_http: dict[str, str], receiver: Receiver, export: Export, run_python: RunPython,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "app.py").write_text(INCIDENT)
    done = run_python("app.py", AIOAUDIT="jsonl,otel", AIOAUDIT_JSONL_PATH="log.jsonl", **over_http)
    assert (done.returncode, done.stderr) == (0, "")
    live = ids(receiver)
    for _ in range(2):
        receiver.spans.clear()
        done = export("log.jsonl", "--to", "otlp", **over_http)
        assert (done.returncode, done.stderr) == (0, "")
        assert ids(receiver) == live
    assert len(set(live)) == len(live) == SPANS


def test_an_endpoint_may_be_the_collectors_or_the_whole_url(
    over_http: dict[str, str], receiver: Receiver, log: Path, export: Export
) -> None:
    url = over_http["OTEL_EXPORTER_OTLP_ENDPOINT"]
    # Named by the call, so what the variables say of it does not count.
    other = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}
    for endpoint in (url, f"{url}/", f"{url}/v1/traces"):
        done = export("log.jsonl", "--to", "otlp", "--endpoint", endpoint, **other)
        assert (done.returncode, done.stderr) == (0, "")
    assert (receiver.requests, len(receiver.spans)) == (3, 3 * SPANS)


def test_an_endpoint_over_grpc(
    over_grpc: dict[str, str], receiver: Receiver, log: Path, export: Export
) -> None:
    url = over_grpc.pop("OTEL_EXPORTER_OTLP_ENDPOINT")
    done = export("log.jsonl", "--to", "otlp", "--endpoint", url, **over_grpc)
    assert (done.returncode, done.stderr, len(receiver.spans)) == (0, "", SPANS)


def test_what_a_collector_refuses_is_counted_and_told(
    collector: dict[str, str], receiver: Receiver, log: Path, export: Export
) -> None:
    receiver.fault = "partial"
    done = export("log.jsonl", "--to", "otlp", **collector)
    assert (done.returncode, done.stdout, done.stderr) == (
        3,
        "",
        f"aioaudit: 1 of {SPANS} spans did not arrive: too many\n",
    )


@pytest.mark.parametrize("fault", ["503", "silent"])
def test_a_collector_that_fails_is_told_with_what_it_said(
    collector: dict[str, str], receiver: Receiver, log: Path, export: Export, fault: str
) -> None:
    receiver.fault = fault
    done = export("log.jsonl", "--to", "otlp", OTEL_EXPORTER_OTLP_TIMEOUT="3", **collector)
    assert (done.returncode, done.stdout) == (3, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"aioaudit: {SPANS} of {SPANS} spans did not arrive: ")
    if fault == "503":
        assert "UNAVAILABLE" in line or "Service Unavailable" in line


def test_a_collector_that_is_not_there_is_named(log: Path, export: Export) -> None:
    done = export(
        "log.jsonl", "--to", "otlp", "--endpoint", "http://127.0.0.1:9",
        OTEL_EXPORTER_OTLP_TIMEOUT="3",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    [line] = done.stderr.splitlines()
    assert "127.0.0.1" in line
    assert "refused" in line


def test_after_a_request_that_failed_nothing_more_is_sent(
    over_http: dict[str, str], receiver: Receiver, run_python: RunPython, export: Export,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "many.py").write_text(
        "import asyncio\n"
        "async def main():\n"
        "    made = [asyncio.create_task(asyncio.sleep(9)) for _ in range(600)]\n"
        "    await asyncio.sleep(0)\n"
        "    for each in made: each.cancel()\n"
        "    await asyncio.wait(made)\n"
        "asyncio.run(main())\n"
    )
    run_python("many.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    done = export("log.jsonl", "--to", "otlp", **over_http)
    assert (done.returncode, done.stdout, receiver.requests) == (0, "1,201 spans sent\n", 3)
    receiver.fault, receiver.requests = "400", 0
    done = export("log.jsonl", "--to", "otlp", **over_http)
    assert (done.returncode, receiver.requests) == (3, 1)
    assert "1,201 of 1,201 spans did not arrive: " in done.stderr


# -- the file -----------------------------------------------------------------------


def parsed(text: str) -> Any:
    """*text* read by protobuf's own reader of JSON, which takes ids for base64."""
    json_format = import_module("google.protobuf.json_format")

    def base64_ids(value: Any) -> Any:
        if isinstance(value, list):
            return [base64_ids(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {
            key: base64.urlsafe_b64encode(bytes.fromhex(each)).decode()
            if key in ("traceId", "spanId", "parentSpanId")
            else base64_ids(each)
            for key, each in value.items()
        }

    # TracesData and a request for the collector have the same fields.
    return json_format.ParseDict(base64_ids(json.loads(text)), Request())


def test_the_file_holds_what_would_be_sent(
    over_http: dict[str, str], receiver: Receiver, log: Path, export: Export, tmp_path: Path
) -> None:
    named = {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "region=n%20e,team=x"}
    done = export("log.jsonl", "--to", "otlp-json", "trace.json", **named)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"{SPANS} spans written to trace.json\n",
        "",
    )
    text = (tmp_path / "trace.json").read_text()
    read = Receiver()
    read.take(parsed(text))
    export("log.jsonl", "--to", "otlp", **named, **over_http)
    written, sent = read.spans[0].resource, receiver.spans[0].resource
    assert written == {key: sent[key] for key in written}
    assert written["region"] == "n e"
    assert [span._replace(resource={}) for span in read.spans] == [
        span._replace(resource={}) for span in receiver.spans
    ]


def test_the_file_is_json_as_the_specification_wants_it(
    log: Path, export: Export, tmp_path: Path
) -> None:
    export("log.jsonl", "--to", "otlp-json", "trace.json")
    whole = json.loads((tmp_path / "trace.json").read_text())
    assert list(whole) == ["resourceSpans"]
    for resource in whole["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            assert scope["scope"]["name"] == "aioaudit"
            for span in scope["spans"]:
                for each in (span, *span.get("links", [])):
                    assert len(bytes.fromhex(each["traceId"])) == 16
                    assert len(bytes.fromhex(each["spanId"])) == 8
                assert span["kind"] == 1
                assert span["startTimeUnixNano"].isdigit()
                assert span["endTimeUnixNano"].isdigit()
                assert span["status"].get("code") in (None, 2)
    attributes = whole["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"]
    told = {pair["key"]: pair["value"] for pair in attributes}
    assert told["aioaudit.cancel.accepted"] == {"boolValue": True}
    assert told["aioaudit.cancel.seq"]["intValue"].isdigit()
    assert set(told["aioaudit.cancel.chain"]) == {"arrayValue"}


def test_lines_in_disorder_and_lines_twice_give_the_same_spans(
    log: Path, export: Export, tmp_path: Path
) -> None:
    export("log.jsonl", "--to", "otlp-json", "trace.json")
    lines = log.read_text().splitlines(keepends=True)
    mixed = [*lines, *lines[:5]]
    random.Random(4).shuffle(mixed)
    folder = tmp_path / "rotated"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(mixed[: len(mixed) // 2]))
    (folder / "b.jsonl").write_text("".join(mixed[len(mixed) // 2 :]))
    done = export("rotated", "--to", "otlp-json", "mixed.json")
    run = json.loads(lines[0])["run"]
    assert (done.returncode, done.stderr) == (
        0,  # the first of them is the process.start, which each file may repeat
        f"aioaudit: 4 events of run {run} came more than once: each is counted once\n",
    )
    assert (tmp_path / "mixed.json").read_text() == (tmp_path / "trace.json").read_text()


def test_what_was_written_before_a_line_came_late_is_taken_back(
    log: Path, export: Export, tmp_path: Path
) -> None:
    head = {"ts": "2026-11-22T14:02:11.000000Z", "run": "r", "pid": 1, "thread": ""}
    task = {"task": 7, "name": "T", "coro": "m:f"}
    lines = [
        {"event": "task.create", "seq": 1, **head, **task},
        {"event": "process.end", "seq": 3, **head, "written": 3, "dropped": 0},
        {"event": "task.done", "seq": 2, **head, **task, "outcome": "returned"},
    ]
    made, end, ended = (f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "a.jsonl").write_text(made + end)  # as far as here, the task was abandoned
    (tmp_path / "b.jsonl").write_text(ended)
    done = export("a.jsonl", "b.jsonl", "--to", "otlp-json", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads((tmp_path / "x").read_text()) == {"resourceSpans": []}
    done = export("a.jsonl", "b.jsonl", log.name, "--to", "otlp-json", "x")
    assert (done.returncode, done.stdout) == (0, f"{SPANS} spans written to x\n")
    export(log.name, "--to", "otlp-json", "y")
    assert (tmp_path / "x").read_text() == (tmp_path / "y").read_text()


def test_standard_input_and_output(log: Path, export: Export, tmp_path: Path) -> None:
    export("log.jsonl", "--to", "otlp-json", "trace.json")
    done = subprocess.run(
        [sys.executable, "-m", "aioaudit", "export", "-", "--to=otlp-json", "-"],
        input=log.read_bytes(),
        capture_output=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("OTEL_")},
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (tmp_path / "trace.json").read_bytes()


def test_what_a_run_that_was_killed_left_open_is_abandoned(
    log: Path, export: Export, tmp_path: Path
) -> None:
    lines = log.read_text().splitlines(keepends=True)
    cut = next(at for at, line in enumerate(lines) if '"task.cancel"' in line)
    (tmp_path / "cut.jsonl").write_text("".join(lines[1 : cut + 1]))  # without its head, too
    done = export("cut.jsonl", "--to", "otlp-json", "cut.json")
    assert (done.returncode, done.stderr) == (0, "")
    read = Receiver()
    read.take(parsed((tmp_path / "cut.json").read_text()))
    outcomes = {
        name: span.attributes["aioaudit.task.outcome"] for name, span in tasks(read).items()
    }
    assert outcomes == {
        "Task-1": "abandoned",
        "handler": "abandoned",
        "fetch-1": "abandoned",
        "killer": "abandoned",
    }
    run = json.loads(lines[0])["run"]
    assert {span.attributes["aioaudit.run"] for span in read.spans} == {run}


def test_which_tasks_are_written_can_be_set(log: Path, export: Export, tmp_path: Path) -> None:
    export("log.jsonl", "--to", "otlp-json", "all.json", AIOAUDIT_OTEL_TASKS="all")
    read = Receiver()
    read.take(parsed((tmp_path / "all.json").read_text()))
    assert "quiet" in tasks(read)


# -- calls that are wrong --------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["log.jsonl"], "Missing option '--to'"),
        (["--to", "otlp"], "Missing argument 'LOG...'"),
        (["log.jsonl", "--to", "jaeger"], "'jaeger' is not one of 'otlp', 'otlp-json'"),
        (["log.jsonl", "--to", "otlp-json"], "--to otlp-json needs the FILE to write"),
        (["log.jsonl", "--to=otlp-json"], "--to otlp-json needs the FILE to write"),
        (["log.jsonl", "--to", "otlp-json", "log.jsonl"], "log.jsonl is one of the logs"),
        ([".", "--to", "otlp-json", "log.jsonl"], "log.jsonl is one of the logs"),
        (["log.jsonl", "--to", "otlp-json", "no/x"], "cannot write no/x: No such file"),
        (["no.jsonl", "--to", "otlp-json", "x"], "cannot read no.jsonl: No such file"),
        (["log.jsonl", "no.jsonl", "--to", "otlp-json", "x"], "cannot read no.jsonl: No such"),
        (["app.py", "--to", "otlp-json", "x"], "no event of aioaudit in app.py"),
        (
            ["log.jsonl", "--to", "otlp-json", "x", "--endpoint", "http://x"],
            "--endpoint is for --to otlp",
        ),
        (
            ["log.jsonl", "--to", "otlp", "--endpoint", "localhost:4318"],
            "--endpoint 'localhost:4318' is no URL of a collector; allowed: http://HOST:PORT",
        ),
    ],
)
def test_a_bad_call_is_status_2_and_says_what_is_wrong(
    log: Path, export: Export, tmp_path: Path, args: list[str], said: str
) -> None:
    before = log.read_bytes()
    done = export(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert log.read_bytes() == before
    assert not (tmp_path / "x").exists()


def test_a_log_without_incident_is_status_1(
    run_python: RunPython, export: Export, tmp_path: Path
) -> None:
    (tmp_path / "calm.py").write_text("import asyncio\nasyncio.run(asyncio.sleep(0))\n")
    run_python("calm.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="calm.jsonl")
    done = export("calm.jsonl", "--to", "otlp-json", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "AIOAUDIT_OTEL_TASKS=all shows the others too" in done.stderr
    assert not (tmp_path / "x").exists()


def test_damaged_lines_are_named_and_the_rest_is_used(
    log: Path, export: Export, tmp_path: Path
) -> None:
    log.write_text(log.read_text() + "rubbish\n")
    done = export("log.jsonl", "--to", "otlp-json", "x")
    assert (done.returncode, done.stdout) == (0, f"{SPANS} spans written to x\n")
    assert done.stderr.count("log.jsonl:") == 1
    assert "not a line of JSON" in done.stderr


def test_without_opentelemetry_the_extra_is_named_and_a_file_can_be_written(
    log: Path, tmp_path: Path
) -> None:
    hiding = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] == 'opentelemetry':\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import importlib.util\n"
        "find_spec = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: "
        "None if name.startswith('opentelemetry') else find_spec(name)\n"
        "from aioaudit.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", hiding, "export", str(log), *args],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    done = run("--to", "otlp")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'aioaudit[otel]'" in done.stderr
    done = run("--to", "otlp-json", str(tmp_path / "x.json"))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "x.json").read_text())["resourceSpans"]
