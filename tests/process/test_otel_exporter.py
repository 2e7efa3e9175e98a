"""Spans at real receivers: the official protobuf services, over HTTP and gRPC, with their faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.collectors import INCIDENT, Receiver, tasks, walk

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

# Long enough for a first try before the end.
LINGER = """
import time
time.sleep(1.2)
print("whole")
"""


@pytest.fixture
def run_program(run_python: RunPython, tmp_path: Path) -> RunPython:
    def run(body: str, **environ: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "app.py").write_text(textwrap.dedent(body))
        more = {"AIOAUDIT": "jsonl,otel", "AIOAUDIT_JSONL_PATH": "log.jsonl"}
        return run_python("-W", "error::ResourceWarning", "app.py", **more, **environ)

    return run


def answers(run_python: RunPython) -> list[dict[str, Any]]:
    """What the log of the same run says."""
    lines = run_python("-m", "aioaudit", "why", "log.jsonl", "--json").stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_the_chain_rebuilt_from_spans_alone_is_that_of_the_log(
    collector: dict[str, str], receiver: Receiver, run_program: RunPython, run_python: RunPython
) -> None:
    done = run_program(INCIDENT, OTEL_SERVICE_NAME="shop", **collector)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    spans = {(span.trace, span.id): span for span in receiver.spans}
    assert len(spans) == len(receiver.spans)
    assert {span.resource["service.name"] for span in receiver.spans} == {"shop"}
    assert {span.scope for span in receiver.spans} == {"aioaudit"}
    by_number = {span.attributes["aioaudit.task.id"]: span for span in tasks(receiver).values()}
    told = answers(run_python)
    assert {answer["name"] for answer in told} == {
        "handler",
        "fetch-1",
        "slow",
        "Task-1",
        "sibling",
    }
    for answer in told:
        span = by_number[answer["task"]]
        assert walk(span, spans) == answer["chain"]
        flat = [json.loads(each) for each in span.attributes["aioaudit.cancel.links"]]
        assert flat == answer["chain"][::-1]
        root = {
            key.removeprefix("aioaudit.cancel.root."): each
            for key, each in span.attributes.items()
            if key.startswith("aioaudit.cancel.root.")
        }
        assert root == answer["root"]
        assert span.attributes["aioaudit.cancel.summary"] == answer["summary"]
        outcome = "raised" if answer["outcome"] == "raised" else answer["outcome"]
        assert span.attributes["aioaudit.task.outcome"] == outcome
        assert len(span.attributes["aioaudit.cancel.chain"]) == len(answer["chain"])
        for link in span.links:
            assert spans[link[1], link[2]].name == "asyncio.cancel"


def test_only_tasks_that_a_cancellation_or_an_error_touched_their_creators_and_cancellers_are_told(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    done = run_program(INCIDENT, **over_http)
    assert (done.returncode, done.stderr) == (0, "")
    told = tasks(receiver)
    assert set(told) == {
        "Task-1",
        "handler",
        "fetch-1",
        "killer",
        "slow",
        "sibling",
        "failing",
    }
    main, handler = told["Task-1"], told["handler"]
    assert {span.trace for span in receiver.spans} == {main.trace}
    assert {span.parent for name, span in told.items() if name not in ("Task-1", "fetch-1")} == {
        main.id
    }
    assert (main.parent, told["fetch-1"].parent) == ("", handler.id)
    assert handler.name == "asyncio.task handle"
    assert handler.attributes["code.function.name"] == "__main__.handle"
    assert handler.attributes["code.line.number"] == 7
    [asked] = [
        span
        for span in receiver.spans
        if span.attributes.get("aioaudit.cancel.target.task.name") == "handler"
    ]
    assert (asked.parent, asked.end - asked.start) == (told["killer"].id, 0)
    assert asked.links == [("cancels", handler.trace, handler.id)]
    assert asked.attributes["code.function.name"] == "__main__.killer"
    assert asked.attributes["aioaudit.cancel.message"] == "too late"
    assert handler.attributes["aioaudit.cancel.root.message"] == "too late"
    assert asked.attributes["aioaudit.cancel.reason"] == "explicit"
    assert handler.start < asked.start <= handler.end


def test_a_cancellation_is_an_error_only_if_its_root_cause_failed(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    run_program(INCIDENT, **over_http)
    assert {
        name: (span.status, span.message, span.attributes.get("error.type"))
        for name, span in tasks(receiver).items()
        if span.status
    } == {
        "failing": (2, "LookupError: no such row", "LookupError"),
        "sibling": (
            2,
            tasks(receiver)["sibling"]
            .attributes["aioaudit.cancel.summary"]
            .partition("because ")[2],
            "LookupError",
        ),
    }


@pytest.mark.parametrize(
    ("status", "failed"),
    [
        ("unset", {"failing"}),
        ("ERROR", {"failing", "sibling", "handler", "fetch-1", "slow"}),
    ],
)
def test_what_is_an_error_can_be_set(
    over_http: dict[str, str],
    receiver: Receiver,
    run_program: RunPython,
    status: str,
    failed: set[str],
) -> None:
    run_program(INCIDENT, AIOAUDIT_OTEL_STATUS=status, **over_http)
    assert {name for name, span in tasks(receiver).items() if span.status == 2} == failed


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (
            "all",
            {"Task-1", "handler", "fetch-1", "killer", "slow", "sibling", "failing", "quiet"},
        ),
        ("__main__:fe*, *:quiet", {"fetch-1", "slow", "sibling", "quiet"}),
    ],
)
def test_which_tasks_are_told_can_be_set(
    over_http: dict[str, str],
    receiver: Receiver,
    run_program: RunPython,
    wanted: str,
    told: set[str],
) -> None:
    run_program(INCIDENT, AIOAUDIT_OTEL_TASKS=wanted, **over_http)
    assert told <= set(tasks(receiver))
    ours = {
        span.attributes["aioaudit.task.name"]
        for span in tasks(receiver).values()
        if span.attributes["code.function.name"].startswith("__main__.")
    }
    assert ours == told


def test_standard_variables_are_heeded(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    run_program(
        INCIDENT,
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test,service.name=other",
        OTEL_EXPORTER_OTLP_HEADERS="x-key=secret",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        **over_http,
    )
    resource = receiver.spans[0].resource
    assert resource["deployment.environment.name"] == "test"
    assert resource["service.name"] == "other"
    assert isinstance(resource["process.pid"], int)
    assert {headers["x-key"] for headers in receiver.headers} == {"secret"}


@pytest.mark.parametrize(
    "switch",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_SAMPLER": "always_off"},
    ],
)
def test_nothing_is_sent_where_the_variables_say_so(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython, switch: dict[str, str]
) -> None:
    done = run_program(INCIDENT, **switch, **over_http)
    assert (done.returncode, done.stderr, receiver.requests) == (0, "", 0)


def test_a_protocol_that_does_not_exist_is_one_line_on_stderr(run_program: RunPython) -> None:
    done = run_program(INCIDENT, OTEL_EXPORTER_OTLP_PROTOCOL="smoke")
    assert (done.returncode, done.stderr) == (
        0,
        "aioaudit: exporter 'otel' failed and is out of service: OTEL_EXPORTER_OTLP_PROTOCOL="
        "'smoke': no such protocol; allowed: http/protobuf, grpc\n",
    )


FOR_EVER = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3600", "OTEL_METRIC_EXPORT_TIMEOUT": "3600000"}
"""Whoever waits for an answer, or for the end of all tries, does so for an hour.

What the pipelines wait for at the end is less: they would say so if it took the 3 s they have.
"""


@pytest.mark.parametrize("fault", ["503", "partial", "silent"])
def test_a_collector_that_fails_costs_the_program_a_few_seconds_at_its_end_and_no_more(
    collector: dict[str, str], receiver: Receiver, run_program: RunPython, fault: str
) -> None:
    receiver.fault = fault
    done = run_program(INCIDENT + LINGER, **FOR_EVER, **collector)
    assert (done.returncode, done.stdout) == (0, "whole\n")
    assert receiver.requests >= 1
    said = done.stderr.splitlines()  # none of OpenTelemetry's own lines, one for each try
    assert all(line.startswith(("aioaudit: ", "    ")) for line in said)
    lost = [line for line in said if line.startswith("aioaudit: ")]
    if fault == "partial":
        assert said == [
            f"aioaudit: exporter 'otel': {receiver.requests} of 13 spans did not arrive",
            "    too many",
        ]
    else:
        assert lost == [
            "aioaudit: exporter 'otel': 13 of 13 spans did not arrive",
            "aioaudit: exporter 'otel': metrics did not arrive; "
            "OTEL_METRICS_EXPORTER=none turns them off",
        ]
    if fault == "503":
        assert any("unavailable" in line.lower() for line in said)


def test_a_collector_that_is_not_there_costs_no_more_either(run_program: RunPython) -> None:
    nobody = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = run_program(INCIDENT + LINGER, **FOR_EVER, **nobody)
    assert (done.returncode, done.stdout) == (0, "whole\n")
    assert "aioaudit: exporter 'otel': 13 of 13 spans did not arrive\n" in done.stderr
    said = done.stderr.splitlines()
    assert all(line.startswith(("aioaudit: ", "    ")) for line in said)
    assert any("refused" in line or "UNAVAILABLE" in line for line in said)


def test_what_the_exporter_of_the_application_logs_is_left_alone(run_program: RunPython) -> None:
    program = f"""
import logging, os
logging.basicConfig(format="of the program: %(message)s")
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["OTEL_EXPORTER_OTLP_TIMEOUT"] = "1"
{INCIDENT}
{LINGER}
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
with provider.get_tracer("app").start_as_current_span("one"):
    pass
"""
    done = run_program(program)
    assert done.returncode == 0
    assert "of the program: " in done.stderr
    head = done.stderr.partition("of the program: ")[0]
    assert all(line.startswith(("aioaudit: ", "    ")) for line in head.splitlines())


LIMITS = {
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "5",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "7",
    "OTEL_SPAN_LINK_COUNT_LIMIT": "1",
}


@pytest.mark.parametrize("whose", ["ours", "of the application", "of the application, in code"])
def test_the_limits_of_spans_are_heeded(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython, whose: str
) -> None:
    program, limits = INCIDENT, LIMITS
    if whose != "ours":
        program = APPLICATION + INCIDENT
    if whose == "of the application, in code":
        limits = {}
        program = program.replace(
            "provider = TracerProvider(",
            "from opentelemetry.sdk.trace import SpanLimits\n"
            "provider = TracerProvider(span_limits=SpanLimits("
            "max_span_attributes=5, max_attribute_length=7, max_links=1), ",
        )
    done = run_program(program, **limits, **over_http)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(receiver.spans) == 13
    assert {len(span.attributes) for span in receiver.spans} == {5}
    assert {len(span.links) for span in receiver.spans} <= {0, 1}
    texts = [each for span in receiver.spans for each in span.attributes.values()]
    assert max(len(each) for each in texts if isinstance(each, str)) == 7


PAIRING = """
from opentelemetry.sdk.trace import SpanProcessor

class Pairing(SpanProcessor):
    # As processors do that measure spans: what on_start began, on_end ends.
    def __init__(self):
        self.open = {}
    def on_start(self, span, parent_context=None):
        self.open[span.context.span_id] = span
        span.set_attribute("paired", True)
    def on_end(self, span):
        del self.open[span.context.span_id]

pairing = Pairing()
provider.add_span_processor(pairing)
"""


def test_a_processor_that_pairs_the_start_of_a_span_with_its_end_is_told_of_both(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    # Last among the processors, so that it sets its attribute before the span is sent.
    program = APPLICATION + PAIRING + INCIDENT + "provider.force_flush()\nprint(pairing.open)\n"
    done = run_program(program, **over_http)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}\n", "")
    assert len(receiver.spans) == 13
    assert all(span.attributes["paired"] for span in receiver.spans)


def test_a_processor_that_raises_loses_its_spans_and_nothing_else(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    raising = PAIRING.replace("del self.open[span.context.span_id]", "raise LookupError('no')")
    done = run_program(APPLICATION + raising + INCIDENT, **over_http)
    assert done.returncode == 0
    assert done.stderr == (
        "aioaudit: exporter 'otel': a span processor of the application raised LookupError: no; "
        "spans that it does not take are left out\n"
        "aioaudit: exporter 'otel': 13 spans were not taken by a span processor of the "
        "application\n"
    )
    assert len(receiver.spans) == 13  # of the processor before it


HUNG = """
import os, socket, sys, threading, time, warnings
server = socket.create_server(("127.0.0.1", 0))
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{server.getsockname()[1]}"
import asyncio

async def main():
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

asyncio.run(main())
hung = server.accept()  # it is asked, and does not answer
THREADS
for name in ("first", "second"):
    child = os.fork()
    if child == 0:
        warnings.warn(f"of the {name} child", DeprecationWarning)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    warnings.warn(f"of the parent of the {name}", DeprecationWarning)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("signal", ["TRACES", "METRICS"])
def test_a_fork_beside_a_sender_that_hangs_warns_of_the_programs_own_threads_only(
    run_python: RunPython, signal: str, threads: int
) -> None:
    more = "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()" * threads
    other = {"TRACES": "METRICS", "METRICS": "TRACES"}[signal]
    done = run_python(
        "-W",
        "always::DeprecationWarning",
        "-c",
        HUNG.replace("THREADS", more),
        AIOAUDIT="otel",
        OTEL_BSP_SCHEDULE_DELAY="10",
        OTEL_METRIC_EXPORT_INTERVAL="10",
        **{f"OTEL_{other}_EXPORTER": "none"},
    )
    assert done.returncode == 0
    warned = [line for line in done.stderr.splitlines() if "DeprecationWarning" in line]
    assert sum("multi-threaded" in line for line in warned) == (
        2 if threads and sys.version_info >= (3, 12) else 0
    )
    for name in ("first", "second"):
        assert sum(f"of the {name} child" in line for line in warned) == 1
        assert sum(f"of the parent of the {name}" in line for line in warned) == 1


APPLICATION = """
import os
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider(resource=Resource.create({"service.name": "of the application"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("app")
"""


def test_the_provider_of_the_application_is_used_to_the_end(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    done = run_program(APPLICATION + INCIDENT, **over_http)
    assert (done.returncode, done.stderr) == (0, "")
    assert {span.resource["service.name"] for span in receiver.spans} == {"of the application"}
    assert len(receiver.spans) == 13
    assert len(tasks(receiver)) == 7


LATE = """
import importlib.abc, sys, threading, time

over = threading.Event()

class Late(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "aioaudit.exporters.otel.tracer":
            over.wait(10)
            time.sleep(0.3)  # our thread had no turn yet when the program ends

sys.meta_path.insert(0, Late())
"""


def test_a_provider_that_our_thread_had_no_time_to_see_is_used_as_well(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    done = run_program(LATE + APPLICATION + INCIDENT + "\nover.set()\n", **over_http)
    assert (done.returncode, done.stderr) == (0, "")
    assert {span.resource["service.name"] for span in receiver.spans} == {"of the application"}
    assert len(receiver.spans) == 13
    assert len(tasks(receiver)) == 7


def test_a_task_of_the_program_s_own_end_is_sent_to_its_provider(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    program = """
import asyncio, atexit

async def late():
    task = asyncio.create_task(asyncio.sleep(10), name="late")
    await asyncio.sleep(0)
    task.cancel()

asyncio.run(asyncio.wait_for(asyncio.sleep(0), 5))
from aioaudit import session
for journal, _ in session.current().sinks:
    journal.flush(30)  # from here on our thread has seen the provider
atexit.register(lambda: asyncio.run(late()))
"""
    done = run_program(APPLICATION + program, **over_http)
    assert (done.returncode, done.stderr) == (0, "")
    assert {span.resource["service.name"] for span in receiver.spans} == {"of the application"}
    assert "late" in tasks(receiver)


def test_a_provider_that_cannot_be_loaded_keeps_no_thread_of_the_program_from_its_end(
    over_http: dict[str, str], run_program: RunPython
) -> None:
    program = """
import asyncio, threading, time
from opentelemetry import trace

def work():
    time.sleep(1)
    print("done")

asyncio.run(asyncio.wait_for(asyncio.sleep(0), 5))
threading.Thread(target=work).start()
over.set()
"""
    done = run_program(LATE + program, OTEL_PYTHON_TRACER_PROVIDER="no_such", **over_http)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "Exception ignored" not in done.stderr


def test_a_task_that_never_ends_is_told_as_abandoned(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    program = """
import asyncio
async def forever():
    await asyncio.sleep(3600)
async def main():
    return asyncio.create_task(forever(), name="left")
loop = asyncio.new_event_loop()
task = loop.run_until_complete(main())
import os, signal
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = run_program(program, **over_http)
    assert done.returncode == -15
    told = tasks(receiver)
    outcomes = {name: span.attributes["aioaudit.task.outcome"] for name, span in told.items()}
    assert outcomes == {"Task-1": "returned", "left": "abandoned"}
    assert told["left"].parent == told["Task-1"].id
    assert told["left"].end > told["left"].start


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_sends_its_own_spans(
    over_http: dict[str, str], receiver: Receiver, run_program: RunPython
) -> None:
    program = """
import asyncio, os, time
async def main():
    task = asyncio.create_task(asyncio.sleep(60), name=f"of {os.getpid()}")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0.05)
asyncio.run(main())
child = os.fork()
asyncio.run(main())
time.sleep(1.2)
if child:
    print(os.getpid(), child)
    assert os.waitpid(child, 0)[1] == 0
"""
    done = run_program(program, **over_http)
    assert done.returncode == 0
    parent, child = done.stdout.split()
    found = sorted(
        (span.attributes["aioaudit.task.name"], str(span.resource["process.pid"]))
        for span in receiver.spans
        if span.attributes.get("aioaudit.task.outcome") == "cancelled"
    )
    assert found == sorted([(f"of {parent}", parent)] * 2 + [(f"of {child}", child)])
    ids = [(span.trace, span.id) for span in receiver.spans]
    assert len(ids) == len(set(ids))
