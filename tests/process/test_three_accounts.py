"""One service, one run, three accounts of its incidents: the log, structlog's lines, the spans.

The service is the one of the examples, with OpenTelemetry's own instrumentation
of aiohttp on top.  Whatever two accounts both tell, they tell the same.
"""

from __future__ import annotations

import http.client
import json
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.waiting import PATIENCE, wait_until

pytest.importorskip("opentelemetry.instrumentation.aiohttp_server")
pytest.importorskip("structlog")

from aioaudit.chain.links import Link
from aioaudit.chain.recent_requests import brief
from tests.collectors import Received, Receiver, over_http, walk
from tests.conftest import ROOT, clean_environ
from tests.recognising import about

EXAMPLES = ROOT / "examples"


@contextmanager
def started(
    python: str, folder: Path, script: str, *args: str, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """An example as a running process, and its port; its stderr is in *folder*."""
    with (
        (folder / f"{script}.txt").open("w") as said,
        subprocess.Popen(
            [python, str(EXAMPLES / script), *args],
            cwd=folder,
            env=clean_environ(**environ),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first.startswith("listening on "), (folder / f"{script}.txt").read_text()
            yield process, int(first.rpartition(":")[2])
        finally:
            process.kill()


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """The status and the body that a request is answered with."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Accounts(NamedTuple):
    """What each of the three says."""

    answers: list[dict[str, Any]]
    events: dict[int, dict[str, Any]]
    lines: list[dict[str, Any]]
    spans: list[Received]


def wait_until_logged(log: Path, text: str) -> None:
    wait_until(lambda: log.exists() and text in log.read_text(), text)


@pytest.fixture(scope="module")
def accounts(audited_python: str, tmp_path_factory: pytest.TempPathFactory) -> Accounts:
    """A request that times out, one whose client leaves, then SIGTERM while a worker works."""
    folder = tmp_path_factory.mktemp("accounts")
    log = folder / "log.jsonl"
    receiver = Receiver()
    with (
        over_http(receiver) as collector,
        started(audited_python, folder, "upstream.py", "--hang", "reviews", "--hang", "ship") as (
            _,
            upstream,
        ),
        started(
            audited_python,
            folder,
            "traced_service.py",
            f"http://127.0.0.1:{upstream}",
            AIOAUDIT="jsonl,structlog,otel",
            AIOAUDIT_JSONL_PATH=str(log),
            OTEL_SERVICE_NAME="shop",
            **collector,
        ) as (process, port),
    ):
        assert ask(port, "GET", "/page/teapot", **{"X-Request-Id": "req-teapot"})[0] == 504
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as leaving:
            leaving.sendall(
                b"GET /page/kettle HTTP/1.1\r\nHost: shop\r\nX-Request-Id: req-kettle\r\n\r\n"
            )
            wait_until_logged(log, '"name":"reviews of kettle"')
        wait_until_logged(log, '"reason":"disconnect"')
        assert ask(port, "POST", "/orders?kind=ship")[0] == 202
        wait_until(lambda: json.loads(ask(port, "GET", "/status")[1]).get("taken"))
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE)
    text = (folder / "traced_service.py.txt").read_text()
    assert status == 128 + signal.SIGTERM, text
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert "aioaudit:" not in text, text
    events = [json.loads(line) for line in log.read_text().splitlines()]
    why = subprocess.run(
        [audited_python, "-m", "aioaudit", "why", str(log), "--json"],
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    answers = [json.loads(line) for line in why.stdout.splitlines()]
    return Accounts(answers, {each["seq"]: each for each in events}, lines, receiver.spans)


def named(answers: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [found] = [each for each in answers if each["name"] == name]
    return found


def of_task(accounts: Accounts) -> dict[int, Received]:
    """The spans of tasks by the task's number, each there once."""
    found = [span for span in accounts.spans if "aioaudit.task.id" in span.attributes]
    by_number = {span.attributes["aioaudit.task.id"]: span for span in found}
    assert len(by_number) == len(found)
    return by_number


def of_request(accounts: Accounts) -> dict[int, Received]:
    """The spans of requests by the number of their event, each there once."""
    found = [span for span in accounts.spans if span.name == "asyncio.cancel"]
    by_number = {span.attributes["aioaudit.cancel.seq"]: span for span in found}
    assert len(by_number) == len(found)
    return by_number


def branch(told: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The keys of *told* that begin with *prefix*, without it."""
    return {
        key.removeprefix(prefix): value for key, value in told.items() if key.startswith(prefix)
    }


def test_the_incidents_are_those_that_were_staged(accounts: Accounts) -> None:
    timed_out = named(accounts.answers, "reviews of teapot")
    assert [link.get("name") for link in timed_out["chain"]] == [
        "reviews of teapot",
        "page of teapot",
        None,
    ]
    assert (timed_out["root"]["what"], timed_out["root"]["seconds"]) == ("deadline", about(0.8))
    left = named(accounts.answers, "reviews of kettle")
    assert (left["root"]["what"], left["root"]["reason"]) == ("called", "disconnect")
    killed = named(accounts.answers, "worker-1")
    assert (killed["root"]["what"], killed["root"]["signal"]) == ("signal", "SIGTERM")


def test_the_end_of_every_cancelled_task_is_told_three_times_alike(accounts: Accounts) -> None:
    spans = of_task(accounts)
    by_place = {(span.trace, span.id): span for span in accounts.spans}
    ends = {each["task"]: each for each in accounts.lines if each["event"] == "task.done"}
    assert len(accounts.answers) >= 6
    for answer in accounts.answers:
        line, span = ends[answer["task"]], spans[answer["task"]]
        told = span.attributes
        event = accounts.events[line["seq"]]
        # The line is the event, and what it adds is the answer.
        for key in event.keys() - {"event", "cause"}:
            assert line[key] == event[key], key
        for key in ("task", "name", "coro", "outcome", "summary"):
            assert line[key] == answer[key], key
        assert line.get("cancel_outcome") == answer.get("cancel_outcome")
        assert branch(line, "root_") == answer["root"]
        assert line["chain"] == [brief(Link(**link)) for link in answer["chain"]]
        # And so is the span.
        assert told["aioaudit.run"] == event["run"]
        assert told["aioaudit.task.name"] == answer["name"]
        assert told["code.function.name"] == answer["coro"].replace(":", ".", 1)
        assert told["aioaudit.task.outcome"] == answer["outcome"]
        assert told.get("aioaudit.task.cancel_outcome") == answer.get("cancel_outcome")
        assert told["aioaudit.cancel.summary"] == answer["summary"]
        assert told["aioaudit.cancel.chain"] == line["chain"][::-1]
        assert [json.loads(link) for link in told["aioaudit.cancel.links"]] == (
            answer["chain"][::-1]
        )
        assert branch(told, "aioaudit.cancel.root.") == answer["root"]
        assert told.get("aioaudit.cancel.seq") == event.get("cancel")
        assert walk(span, by_place) == answer["chain"]
        assert told["thread.name"] == line["thread"]


def test_every_request_is_told_three_times_alike(accounts: Accounts) -> None:
    spans = of_request(accounts)
    names = {
        "by": "by.task.id",
        "by_name": "by.name",
        "task": "target.task.id",
        "name": "target.task.name",
        "coro": "target.coro",
        "waiters": "target.task.ids",
        "waiter_names": "target.task.names",
        "origin": "origin.what",
    }
    lines = {each["seq"]: each for each in accounts.lines}
    requests = {
        seq: event
        for seq, event in accounts.events.items()
        if event["event"] in ("task.cancel", "future.cancel")
    }
    assert len(requests) >= 6
    assert requests.keys() == spans.keys()
    for seq, event in requests.items():
        line, span = lines[seq], spans[seq]
        told = branch(span.attributes, "aioaudit.cancel.")
        for key in event:
            assert line[key] == event[key], key
            if key in ("event", "ts", "seq", "run", "pid", "thread", "loop"):
                continue
            name = names.get(key) or key.replace("origin_", "origin.", 1)
            assert told[name] == event[key], key
        assert branch(line, "root_") == branch(told, "root.")
        assert line["summary"] == told["summary"]


def test_one_line_says_who_cancelled_the_request_whose_id_the_application_bound(
    accounts: Accounts,
) -> None:
    for request, name, root in (
        ("req-teapot", "reviews of teapot", "deadline"),
        ("req-kettle", "reviews of kettle", "called"),
    ):
        [line] = [
            each
            for each in accounts.lines
            if each.get("request_id") == request
            and each["event"] == "task.done"
            and each["name"] == name
        ]
        assert line["root_what"] == root
        assert line["level"] == "info"


def test_the_trace_of_a_cancelled_request_shows_who_cancelled_it(accounts: Accounts) -> None:
    server = {
        span.attributes.get("http.target") or span.attributes.get("url.path"): span
        for span in accounts.spans
        if span.scope == "opentelemetry.instrumentation.aiohttp_server"
    }
    spans = of_task(accounts)
    for page, part in (
        ("/page/teapot", "reviews of teapot"),
        ("/page/kettle", "reviews of kettle"),
    ):
        answer = named(accounts.answers, part)
        span = spans[answer["task"]]
        assert (span.trace, span.parent) == (server[page].trace, server[page].id)
        [request] = [link for link in span.links if link[0] == "cancelled_by"]
        assert request[1] == span.trace
    assert {span.resource["service.name"] for span in accounts.spans} == {"shop"}


def searches() -> list[tuple[dict[str, str], dict[str, str]]]:
    """The searches on the page about OpenTelemetry: what Jaeger's and what Tempo's ask for."""
    page = (ROOT / "docs" / "opentelemetry.md").read_text()
    rows = re.findall(r"^\| [\w ]+ \| `([^`]+=[^`]+)` \| `\{ ([^`]+) \}` \|$", page, re.MULTILINE)
    found: list[tuple[dict[str, str], dict[str, str]]] = []
    for tags, query in rows:
        pairs = [word.partition("=") for word in shlex.split(tags)]
        conditions = [re.fullmatch(r'span\.([\w.]+) = "([^"]*)"', c) for c in query.split(" && ")]
        assert all(conditions), query
        found.append(
            ({key: value for key, _, value in pairs}, {c[1]: c[2] for c in conditions if c})
        )
    return found


def test_the_searches_that_the_docs_give_find_the_request(accounts: Accounts) -> None:
    server = next(span for span in accounts.spans if "/page/teapot" in span.attributes.values())
    found = searches()
    assert len(found) == 3
    # While the one whose client left cleans up, on a slow machine its own timeout runs out as well.
    ran_out = {seq for seq, e in accounts.events.items() if e.get("origin") == "deadline"}
    for tags, conditions in found:
        assert tags == conditions
        # A tag is compared as text, in Jaeger as well.
        matching = [
            span
            for span in accounts.spans
            if all(str(span.attributes.get(key)) == value for key, value in tags.items())
        ]
        # What was cancelled for another reason, or by somebody else, is not among them.
        others = [span for span in matching if "kettle" in str(span.attributes)]
        assert {span.attributes["aioaudit.cancel.seq"] for span in others} <= ran_out
        assert server.trace in {span.trace for span in matching}


def test_the_picture_is_that_of_a_trace(audited_python: str, tmp_path: Path) -> None:
    """Drawn anew it says the same, but for numbers and line breaks."""
    done = subprocess.run(
        [audited_python, str(ROOT / "tools" / "trace_picture.py"), "new.svg"],
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert told_in(tmp_path / "new.svg") == told_in(ROOT / "docs" / "trace.svg")
    assert (ROOT / "docs" / "trace.svg").stat().st_size < 200_000


def told_in(picture: Path) -> str:
    """The words of a picture, without what differs from run to run."""
    words = " ".join(re.findall(r"<text [^>]*>([^<]*)</text>", picture.read_text()))
    words = re.sub(r"\([\d.]+ s late\)|\b[0-9a-f]{16}\b|\b\d+ ms\b|task \d+", "", words)
    return " ".join(words.split()).replace(" ,", ",")
