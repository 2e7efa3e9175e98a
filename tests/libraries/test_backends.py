"""Spans at backends that other people wrote: one that stores, and a collector that forwards.

They are installed from the package index into an environment of their own, once
for all runs of the tests that share ``AIOAUDIT_TEST_BACKENDS`` (or pytest's
cache): no backend's requirements meet ours.  Where that cannot be done, the
tests are skipped and say why.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.collectors import INCIDENT, Receiver, Request, tasks, walk
from tests.conftest import clean_environ
from tests.waiting import PATIENCE

pytestmark = [
    pytest.mark.backend,
    pytest.mark.any_python,
    # protobuf reads the agent's base64 by its URL-safe alphabet; 3.15 warns of the other's letters.
    pytest.mark.filterwarnings("ignore:invalid character .* in URL-safe Base64:FutureWarning"),
]

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]
Environment = Callable[[str], Path]

AGENT = "ddapm-test-agent>=1.69,<2"
"""Stores what it gets in memory and gives it back as JSON."""

ROTEL = "rotel==0.0.1a15"
"""A collector in Rust; its maker calls it alpha."""

SPANS = 13


@pytest.fixture(scope="session")
def environment(request: pytest.FixtureRequest) -> Environment:
    """Gives the Python of an environment that has a requirement, installed if it lacks."""
    named = os.environ.get("AIOAUDIT_TEST_BACKENDS")
    cache = request.config.cache
    assert named or cache is not None
    folder = Path(named) if named else cache.mkdir("backends")
    reasons: dict[str, str] = {}

    def having(requirement: str) -> Path:
        if requirement not in reasons:
            reasons[requirement] = _install(requirement, folder)
        if reasons[requirement]:
            pytest.skip(f"{requirement} cannot be installed: {reasons[requirement]}")
        return folder / "bin" / "python"

    return having


def _install(requirement: str, folder: Path) -> str:
    """Have *requirement* in the environment at *folder*; why that failed, if it did."""
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "installed.json"
    python = folder / "bin" / "python"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the tests may be at it
        installed: list[str] = json.loads(known.read_text()) if known.exists() else []
        if python.exists() and requirement in installed:
            return ""
        try:
            if not python.exists():  # or it is a link to an interpreter that is gone
                venv.create(folder, clear=False, symlinks=True, with_pip=True)
                installed = []
            done = subprocess.run(
                [python, "-m", "pip", "install", "--quiet", requirement],
                env=clean_environ(PIP_DISABLE_PIP_VERSION_CHECK="1"),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
        if done.returncode:
            return (done.stderr.strip() or "no reason given").splitlines()[-1]
        known.write_text(json.dumps([*installed, requirement]))
    return ""


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def _started(
    command: Callable[[list[int]], list[str | Path]], ports: int, log: Path, **environ: str
) -> Iterator[list[int]]:
    """Run what *command* gives for some ports, until it listens on all of them."""
    for _ in range(5):  # another process may take a port first
        chosen = _free_ports(ports)
        with (
            log.open("w") as out,
            subprocess.Popen(
                command(chosen),
                env=clean_environ(**environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            ) as process,
        ):
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and process.poll() is None:
                if all(map(_answers, chosen)):
                    try:
                        yield chosen
                    finally:
                        process.terminate()
                        try:
                            process.wait(PATIENCE)
                        except subprocess.TimeoutExpired:
                            process.kill()
                    return
                time.sleep(0.05)
            process.kill()
    pytest.fail(f"it does not start: {log.read_text()[-2000:]}")


class Agent:
    """The backend that stores; gives back what it has."""

    def __init__(self, http: int, grpc: int) -> None:
        self.http = http
        self.grpc = grpc
        self._parse = import_module("google.protobuf.json_format").ParseDict

    def _ask(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=30) as answer:
            found: bytes = answer.read()
            return found

    def clear(self) -> None:
        """Forget everything."""
        self._ask("/test/session/clear")

    def spans(self, count: int) -> Receiver:
        """What is stored, once it is *count* spans."""
        deadline = time.monotonic() + PATIENCE
        while True:
            read = Receiver()
            for request in json.loads(self._ask("/test/session/traces")):
                read.take(self._parse(request, Request()))
            if len(read.spans) >= count or time.monotonic() > deadline:
                assert len(read.spans) == count
                return read
            time.sleep(0.1)


@pytest.fixture(scope="module")
def running_agent(
    environment: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Agent]:
    python = environment(AGENT)

    def command(ports: list[int]) -> list[str | Path]:
        own, http, grpc = map(str, ports)
        program = python.with_name("ddapm-test-agent")
        listen: list[str | Path] = [program, "-p", own, "--host", "127.0.0.1"]
        return [*listen, "--otlp-http-port", http, "--otlp-grpc-port", grpc]

    log = tmp_path_factory.mktemp("agent") / "log"
    with _started(command, 3, log) as (_, http, grpc):
        yield Agent(http, grpc)


@pytest.fixture
def agent(running_agent: Agent) -> Agent:
    """The backend that stores, with nothing in it."""
    running_agent.clear()
    return running_agent


@pytest.fixture(scope="module")
def rotel(
    environment: Environment, running_agent: Agent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int]]:
    """The HTTP and the gRPC port of a collector that forwards to the backend that stores."""
    asked = "import rotel, sysconfig; print(rotel.__file__, sysconfig.get_config_var('LIBDIR'))"
    told = subprocess.run(
        [environment(ROTEL), "-c", asked], capture_output=True, text=True, check=True
    )
    module, libraries = told.stdout.split()

    def command(ports: list[int]) -> list[str | Path]:
        http, grpc = ports
        program = Path(module).with_name("rotel-agent")
        start: list[str | Path] = [program, "start"]
        start += ["--otlp-http-endpoint", f"127.0.0.1:{http}"]
        start += ["--otlp-grpc-endpoint", f"127.0.0.1:{grpc}"]
        start += ["--exporter", "otlp", "--otlp-exporter-protocol", "http"]
        start += ["--otlp-exporter-endpoint", f"http://127.0.0.1:{running_agent.http}"]
        return [*start, "--batch-timeout", "200ms"]

    log = tmp_path_factory.mktemp("rotel") / "log"
    with _started(command, 2, log, LD_LIBRARY_PATH=libraries) as (http, grpc):
        yield http, grpc


def _variables(protocol: str, http: int, grpc: int) -> dict[str, str]:
    """The variables that name a collector."""
    port = http if protocol == "http/protobuf" else grpc
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_SERVICE_NAME": "shop",
    }


def run_incident(run_python: RunPython, tmp_path: Path, **environ: str) -> None:
    """The incident, recorded in a log and as spans."""
    (tmp_path / "app.py").write_text(INCIDENT)
    done = run_python("app.py", AIOAUDIT="jsonl,otel", AIOAUDIT_JSONL_PATH="log.jsonl", **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def assert_it_tells_what_the_log_tells(read: Receiver, run_python: RunPython) -> None:
    """The chains rebuilt from the spans in *read* alone are those of the log."""
    lines = run_python("-m", "aioaudit", "why", "log.jsonl", "--json").stdout.splitlines()
    told: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert {answer["name"] for answer in told} == {
        "handler",
        "fetch-1",
        "slow",
        "Task-1",
        "sibling",
    }
    spans = {(span.trace, span.id): span for span in read.spans}
    by_number = {span.attributes["aioaudit.task.id"]: span for span in tasks(read).values()}
    for answer in told:
        span = by_number[answer["task"]]
        assert walk(span, spans) == answer["chain"]
        # Where a backend drops links, the victim's span alone tells as much.
        flat = [json.loads(each) for each in span.attributes["aioaudit.cancel.links"]]
        assert flat == answer["chain"][::-1]
        assert span.attributes["aioaudit.cancel.summary"] == answer["summary"]
        assert span.attributes["aioaudit.task.outcome"] == answer["outcome"]
    assert {span.resource["service.name"] for span in read.spans} == {"shop"}
    handler = tasks(read)["handler"]
    parents = {span.id: span.name for span in read.spans}
    assert (handler.name, parents[handler.parent]) == ("asyncio.task handle", "asyncio.task main")


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_backend_that_stores_gives_the_chains_back(
    agent: Agent, run_python: RunPython, tmp_path: Path, protocol: str
) -> None:
    run_incident(run_python, tmp_path, **_variables(protocol, agent.http, agent.grpc))
    assert_it_tells_what_the_log_tells(agent.spans(SPANS), run_python)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_in_between_loses_nothing(
    agent: Agent, rotel: tuple[int, int], run_python: RunPython, tmp_path: Path, protocol: str
) -> None:
    run_incident(run_python, tmp_path, **_variables(protocol, *rotel))
    assert_it_tells_what_the_log_tells(agent.spans(SPANS), run_python)


def test_a_log_sent_afterwards_gives_the_same_spans_as_the_run_itself(
    agent: Agent, rotel: tuple[int, int], run_python: RunPython, tmp_path: Path
) -> None:
    variables = _variables("http/protobuf", *rotel)
    run_incident(run_python, tmp_path, **variables)
    live = agent.spans(SPANS)
    agent.clear()
    done = run_python("-m", "aioaudit", "export", "log.jsonl", "--to", "otlp", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    sent = agent.spans(SPANS)
    assert_it_tells_what_the_log_tells(sent, run_python)
    assert {(span.trace, span.id, span.parent, span.name) for span in sent.spans} == {
        (span.trace, span.id, span.parent, span.name) for span in live.spans
    }
