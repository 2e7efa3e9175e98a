"""Metrics at real receivers: all tasks and cancellations are counted, whichever become spans."""

from __future__ import annotations

import os
import subprocess
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.collectors import Metric, Receiver, tasks
from tests.waiting import PATIENCE, wait_until

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

PROGRAM = """
import asyncio, contextlib

async def quiet():
    await asyncio.sleep(0)

async def stubborn():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        pass

async def fail():
    raise LookupError

async def main():
    for _ in range(100):
        await asyncio.create_task(quiet())
    victims = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
    other = asyncio.create_task(stubborn())
    failing = asyncio.create_task(fail())
    left = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    for task in [*victims, other]:
        task.cancel()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    await asyncio.wait([*victims, other, failing])
    failing.exception()
    REPORT

asyncio.run(main())
"""


@pytest.fixture
def run_program(run_python: RunPython, tmp_path: Path) -> RunPython:
    def run(body: str, **environ: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "app.py").write_text(textwrap.dedent(body))
        more = {"AIOAUDIT": "otel", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"} | environ
        return run_python("-W", "error::DeprecationWarning", "app.py", **more)

    return run


def only(receiver: Receiver) -> dict[str, Metric]:
    """The metrics of the only process."""
    [found] = receiver.metrics.values()
    return found


def points(metric: Metric) -> dict[Any, Any]:
    """Its values by the values of its attributes, or the only one."""
    return {tuple(sorted(value for _, value in key)): each for key, each in metric.points.items()}


def test_every_task_and_every_request_is_counted(
    collector: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    done = run_program(PROGRAM.replace("REPORT", ""), OTEL_SERVICE_NAME="shop", **collector)
    assert (done.returncode, done.stderr) == (0, "")
    metrics = only(receiver)
    assert {(each.name, each.unit, each.kind) for each in metrics.values()} == {
        ("aioaudit.task.created", "{task}", "counter"),
        ("aioaudit.task.ended", "{task}", "counter"),
        ("aioaudit.task.count", "{task}", "updowncounter"),
        ("aioaudit.cancel.requested", "{request}", "counter"),
        ("aioaudit.cancel.duration", "s", "histogram"),
        ("aioaudit.event.dropped", "{event}", "counter"),
    }
    # Task-1, 100 and 6 of the program's, and the two with which asyncio.run() ends.
    assert points(metrics["aioaudit.task.created"]) == {(): 109}
    ended = points(metrics["aioaudit.task.ended"])
    assert ended == {("returned",): 104, ("cancelled",): 4, ("raised",): 1}
    assert points(metrics["aioaudit.task.count"]) == {(): 0}
    assert points(metrics["aioaudit.event.dropped"]) == {(): 0}
    requested = points(metrics["aioaudit.cancel.requested"])
    assert requested == {("explicit",): 4, ("timeout",): 1, ("shutdown",): 1}
    durations = points(metrics["aioaudit.cancel.duration"])
    assert {key: count for key, (count, _) in durations.items()} == {
        ("explicit", "obeyed"): 3,
        ("explicit", "swallowed"): 1,
        ("absorbed", "timeout"): 1,
        ("obeyed", "shutdown"): 1,
    }
    assert all(0 < total < PATIENCE for _, total in durations.values())
    assert metrics["aioaudit.cancel.duration"].boundaries[:3] == (0.0001, 0.0005, 0.001)
    resource = metrics["aioaudit.task.created"].resource
    assert (resource["service.name"], receiver.metric_requests) == ("shop", 1)
    # Few of them are spans.
    assert len(tasks(receiver)) < 12


def test_they_are_sent_again_and_again_while_something_happens(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython, tmp_path: Path
) -> None:
    program = """
    import asyncio, os
    async def main():
        count = 3  # this one, and the two with which asyncio.run() ends
        while not os.path.exists("enough"):
            await asyncio.create_task(asyncio.sleep(0.01))
            count += 1
        print(count)
    asyncio.run(main())
    """

    def say_when_it_is_enough() -> None:
        wait_until(lambda: receiver.metric_requests >= 3)
        (tmp_path / "enough").touch()

    thread = threading.Thread(target=say_when_it_is_enough)
    thread.start()
    done = run_program(program, **over_http | {"OTEL_METRIC_EXPORT_INTERVAL": "100"})
    thread.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert points(only(receiver)["aioaudit.task.created"]) == {(): int(done.stdout)}


def test_what_is_alive_is_told(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    report = "import os, signal; await asyncio.sleep(0.05); os.kill(os.getpid(), signal.SIGTERM)"
    done = run_program(PROGRAM.replace("REPORT", report), **over_http)
    assert done.returncode == -15
    assert points(only(receiver)["aioaudit.task.count"]) == {(): 2}  # Task-1 and ``left``


@pytest.mark.parametrize(
    "switch", [{"OTEL_METRICS_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}]
)
def test_they_can_be_switched_off(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython, switch: dict[str, str]
) -> None:
    done = run_program(PROGRAM.replace("REPORT", ""), **switch, **over_http)
    assert (done.returncode, done.stderr, receiver.metric_requests) == (0, "", 0)
    assert bool(receiver.spans) == ("OTEL_SDK_DISABLED" not in switch)


def test_an_exporter_that_does_not_exist_is_one_line_on_stderr_and_spans_go_on(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    done = run_program(PROGRAM.replace("REPORT", ""), OTEL_METRICS_EXPORTER="smoke", **over_http)
    assert (done.returncode, done.stderr) == (
        0,
        "aioaudit: exporter 'otel': no metrics: OTEL_METRICS_EXPORTER='smoke': no such exporter; "
        "allowed: console, none, otlp, otlp_proto_grpc, otlp_proto_http\n",
    )
    assert receiver.spans


@pytest.mark.parametrize("fault", ["404", "silent"])
def test_a_collector_that_takes_no_metrics_costs_the_program_one_line_and_little_time(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython, fault: str
) -> None:
    receiver.fault = fault
    # Whoever waited for an answer, or for the end of all tries, would do so for an hour.
    done = run_program(
        PROGRAM.replace("REPORT", "await asyncio.sleep(0.5)"),
        OTEL_TRACES_EXPORTER="none",
        OTEL_EXPORTER_OTLP_TIMEOUT="3600",
        OTEL_METRIC_EXPORT_TIMEOUT="3600000",
        **over_http | {"OTEL_METRIC_EXPORT_INTERVAL": "100"},
    )
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if line.startswith("aioaudit: ")] == [
        "aioaudit: exporter 'otel': metrics did not arrive; "
        "OTEL_METRICS_EXPORTER=none turns them off"
    ]


APPLICATION = """
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

provider = MeterProvider(
    [PeriodicExportingMetricReader(OTLPMetricExporter())],
    resource=Resource.create({"service.name": "of the application"}),
)
metrics.set_meter_provider(provider)
"""


@pytest.mark.parametrize("given", [False, True], ids=["set", "given"])
def test_the_provider_of_the_application_collects_to_the_end(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython, given: bool
) -> None:
    program = APPLICATION + PROGRAM.replace("REPORT", "")
    environ = dict(over_http)
    if given:
        environ["AIOAUDIT"] = ""
        more = """
import aioaudit
from aioaudit.exporters.otel import OpenTelemetryExporter
aioaudit.enable(OpenTelemetryExporter(meter_provider=provider))
"""
        unset = APPLICATION.replace("metrics.set_meter_provider(provider)", "")
        program = unset + more + PROGRAM.replace("REPORT", "")
    done = run_program(program, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    found = only(receiver)
    assert found["aioaudit.task.created"].resource["service.name"] == "of the application"
    assert points(found["aioaudit.task.created"]) == {(): 109}
    assert points(found["aioaudit.cancel.duration"])["explicit", "obeyed"][0] == 3
    assert receiver.metric_requests == 1


def test_a_second_exporter_on_the_same_provider_goes_on_counting(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    again = """
import aioaudit
aioaudit.disable()
aioaudit.enable("otel")
asyncio.run(main())
"""
    program = APPLICATION + PROGRAM.replace("REPORT", "") + again
    done = run_program(program, **over_http)
    assert (done.returncode, done.stderr) == (0, "")
    assert points(only(receiver)["aioaudit.task.created"]) == {(): 218}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_counts_for_itself_and_no_thread_of_ours_disturbs_the_fork(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    program = """
    import asyncio, os, threading
    async def main(count):
        for _ in range(count):
            await asyncio.create_task(asyncio.sleep(0))
        victim = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        victim.cancel()
        await asyncio.sleep(0.1)
    asyncio.run(main(10))
    assert [each.name for each in threading.enumerate() if "otel-metric" in each.name] == []
    child = os.fork()
    asyncio.run(main(0 if child == 0 else 20))
    if child:
        print(os.getpid(), child)
        assert os.waitpid(child, 0)[1] == 0
    """
    done = run_program(program, **over_http)
    assert (done.returncode, done.stderr) == (0, "")
    parent, child = map(int, done.stdout.split())
    counted = {
        pid: points(found["aioaudit.task.created"])[()] for pid, found in receiver.metrics.items()
    }
    assert counted == {parent: 38, child: 4}
