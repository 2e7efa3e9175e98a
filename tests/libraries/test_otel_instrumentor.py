"""Loaded by OpenTelemetry itself: ``opentelemetry-instrument``, and its switches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

pytest.importorskip("opentelemetry.distro")
pytest.importorskip("opentelemetry.instrumentation")

from tests.collectors import Receiver, tasks
from tests.conftest import WHEEL, clean_environ

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

PROGRAM = """
import asyncio, sys

async def handle():
    await asyncio.sleep(60)

async def main():
    victim = asyncio.create_task(handle(), name="victim")
    await asyncio.sleep(0)
    victim.cancel()
    await asyncio.wait([victim])

asyncio.run(main())
print("aioaudit" in sys.modules)
"""


@pytest.fixture
def instrument(audited_python: str, tmp_path: Path) -> Run:
    """Run the program with ``opentelemetry-instrument``; keywords are environment variables."""
    if not WHEEL and not entry_points(group="opentelemetry_instrumentor", name="aioaudit"):
        pytest.skip("installed before it had this entry point: pip install -e . again")

    def run(**environ: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "app.py").write_text(PROGRAM)
        return subprocess.run(
            [Path(sys.executable).with_name("opentelemetry-instrument"), audited_python, "app.py"],
            check=True,
            cwd=tmp_path,
            env=clean_environ(OTEL_SERVICE_NAME="shop", OTEL_LOGS_EXPORTER="none") | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return run


@pytest.mark.parametrize("both", [False, True], ids=["alone", "with AIOAUDIT=otel"])
def test_opentelemetry_instrument_loads_it_once(
    over_grpc: dict[str, str], receiver: Receiver, instrument: Run, both: bool
) -> None:
    done = instrument(**over_grpc, **({"AIOAUDIT": "otel"} if both else {}))
    assert (done.stdout, done.stderr) == ("True\n", "")
    told = tasks(receiver)  # each there once
    assert told["victim"].attributes["aioaudit.cancel.root.source"] == "__main__:main"
    # The application's own provider, which its distribution has set.
    resource = told["victim"].resource
    assert resource["service.name"] == "shop"
    assert "telemetry.auto.version" in resource
    [metrics] = receiver.metrics.values()
    assert metrics["aioaudit.task.created"].points == {frozenset(): 4}


@pytest.mark.parametrize(
    "switch",
    [
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "aioaudit,flask"},
        {"AIOAUDIT": "off"},
        {"AIOAUDIT": "0"},
    ],
)
def test_it_can_be_switched_off(
    over_grpc: dict[str, str], receiver: Receiver, instrument: Run, switch: dict[str, str]
) -> None:
    done = instrument(**over_grpc, **switch)
    assert (done.stderr, receiver.spans, receiver.metrics) == ("", [], {})


def test_a_bad_setting_is_one_line_and_the_program_runs_on(
    over_grpc: dict[str, str], receiver: Receiver, instrument: Run
) -> None:
    done = instrument(AIOAUDIT_OTEL_STATUS="red", **over_grpc)
    assert done.stderr == (
        "aioaudit: AIOAUDIT_OTEL_STATUS='red': 'red' is none; allowed: cause, unset, error; "
        "the program runs on without the instrumentation aioaudit\n"
    )
    assert receiver.spans == []


IN_CODE = """
import os, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))

import aioaudit
from aioaudit.exporters.otel.instrumentor import AioauditInstrumentor
from aioaudit.session import current

AioauditInstrumentor().instrument(tracer_provider=provider)
names = [pipeline.name for pipeline, _ in current().sinks]
PROGRAM
for pipeline, _ in current().sinks:
    assert pipeline.flush(30)
AioauditInstrumentor().uninstrument()
print(names, sorted(span.name for span in kept.get_finished_spans()))
print([pipeline.name for pipeline, _ in current().sinks] if current() else None)
"""


@pytest.mark.parametrize(
    ("wanted", "before", "after"),
    [
        ("", ["otel"], "None"),
        ("jsonl", ["jsonl", "otel"], "['jsonl']"),
        ("otel", ["otel"], "['otel']"),
    ],
)
def test_in_code_it_takes_a_provider_and_is_taken_out_again(
    run_python: RunPython, tmp_path: Path, wanted: str, before: list[str], after: str
) -> None:
    (tmp_path / "app.py").write_text(IN_CODE.replace("PROGRAM", PROGRAM))
    done = run_python(
        "app.py", AIOAUDIT=wanted, OTEL_METRICS_EXPORTER="none", OTEL_TRACES_EXPORTER="none"
    )
    assert done.stderr == ""
    spans = ["asyncio.cancel", "asyncio.task handle", "asyncio.task main"]
    assert done.stdout.splitlines() == ["True", f"{before} {spans}", after]
