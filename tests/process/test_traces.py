"""In which trace of OpenTelemetry a task was: told in the lines about requests, ends and findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aioaudit.core.choice import CORE
from aioaudit.cpython.behaviour import HAS_MONITORING

if TYPE_CHECKING:
    from tests.conftest import Runner

pytest.importorskip("opentelemetry.sdk")

PROGRAM = Path(__file__).parents[1] / "traced_requests.py"
TOLD = ("task.cancel", "future.cancel", "task.done", "finding")
OF_THE_RUN = {"ts", "run", "pid", "lifetime", "seconds", "origin_detail"}


def told(run_python: Runner, log: Path, *names: str, **env: str) -> list[dict[str, Any]]:
    """The lines in which ids may stand, of those of the programs that *names* names."""
    done = run_python(
        str(PROGRAM),
        *names,
        AIOAUDIT="jsonl",
        AIOAUDIT_JSONL_PATH=str(log),
        AIOAUDIT_SLOW_CANCEL="1000",  # whatever else the machine does
        **env,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = map(json.loads, log.read_text().splitlines())
    return [each for each in lines if each["event"] in TOLD]


def ids(lines: list[dict[str, Any]], event: str) -> dict[str, tuple[int | None, ...]]:
    """Trace, span and parent in the lines of the *event*, by the name of the task; each has 32 or 16 digits."""
    found: dict[str, tuple[int | None, ...]] = {}
    for line in lines:
        if line["event"] != event:
            continue
        keys = ("trace_id", "span_id", "parent_span_id")
        texts = [line.get(key) for key in keys]
        for text, digits in zip(texts, (32, 16, 16), strict=True):
            assert text is None or (len(text) == digits and text == text.lower())
        found[line.get("name") or line["waiter_names"][0]] = tuple(
            None if text is None else int(text, 16) for text in texts
        )
    return found


def test_a_request_tells_the_span_that_is_current_in_the_task(
    run_python: Runner, tmp_path: Path
) -> None:
    lines = told(run_python, tmp_path / "log.jsonl", "one", "timed")
    asked, ended = ids(lines, "task.cancel"), ids(lines, "task.done")
    for number in range(3):
        assert asked[f"outside {number}"] == ended[f"outside {number}"] == (None, None, None)
        of_one = (0xB1 + number, 0xA1 + number, None)
        assert asked[f"inside {number}"] == ended[f"inside {number}"] == of_one
        of_timed = (0xB4 + number, 0xA4 + number, None)
        assert asked[f"timed {number}"] == ended[f"timed {number}"] == of_timed


def test_else_it_tells_that_of_what_the_task_awaits(run_python: Runner, tmp_path: Path) -> None:
    lines = told(run_python, tmp_path / "log.jsonl", "server")
    for event in ("task.cancel", "task.done"):
        assert ids(lines, event)["awaits"] == ids(lines, event)["awaited"] == (0xB1, 0xA1, None)


def test_the_parent_is_told_where_it_is_another_process(run_python: Runner, tmp_path: Path) -> None:
    asked = ids(told(run_python, tmp_path / "log.jsonl", "far"), "task.cancel")
    assert asked == {
        "child of another": (0xC1, 0xA1, 0xD1),
        "grandchild of another": (0xC1, 0xA2, None),
        "nothing but another": (0xC1, 0xD1, 0xD1),
    }


def test_a_span_that_has_ended_sends_nothing_any_more(run_python: Runner, tmp_path: Path) -> None:
    lines = told(run_python, tmp_path / "log.jsonl", "sends")
    asked = {each["name"]: each for each in lines if each["event"] == "task.cancel"}
    assert asked["while it is sent"]["span_kind"] == "client"
    assert "span_kind" not in asked["after it was sent"]
    assert asked["after it was sent"]["span_id"] == asked["while it is sent"]["span_id"]


def test_futures_findings_and_other_ends_tell_it_too(run_python: Runner, tmp_path: Path) -> None:
    lines = told(run_python, tmp_path / "log.jsonl", "future", "otherwise", "itself")
    future, otherwise, itself = ((0xB1 + each, 0xA1 + each, None) for each in range(3))
    assert ids(lines, "future.cancel")["first"] == future
    ended = ids(lines, "task.done")
    assert ended["first"] == ended["second"] == future
    assert ended["keeps"] == ids(lines, "finding")["keeps"] == otherwise
    # Before 3.12 it is heard of when it is over.
    assert ended["fails"] == (otherwise if HAS_MONITORING else (None, None, None))
    assert ids(lines, "task.cancel")["asks itself"] == itself


def test_a_program_that_traces_nothing_imports_nothing_for_it(run_python: Runner) -> None:
    code = """
import asyncio, sys

async def main():
    task = asyncio.create_task(asyncio.sleep(100))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = run_python("-c", code, AIOAUDIT="jsonl")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_context_that_is_kept_otherwise_is_left_alone(run_python: Runner, tmp_path: Path) -> None:
    """A span that is kept by thread is whoever's who asks, and not the task's."""
    log = tmp_path / "log.jsonl"
    code = f"""
import asyncio
import opentelemetry.context as context
from opentelemetry import trace

class Elsewhere:
    current = context.Context()
    def get_current(self): return self.current
    def attach(self, new): self.current = new
    def detach(self, token): pass

context._RUNTIME_CONTEXT = Elsewhere()
import aioaudit
from aioaudit.exporters.jsonl import JsonlExporter
aioaudit.enable(JsonlExporter({str(log)!r}))

async def main():
    span = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))
    context.attach(trace.set_span_in_context(span))
    task = asyncio.create_task(asyncio.sleep(100), name="task")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

asyncio.run(main())
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(each) for each in log.read_text().splitlines()]
    assert ids(lines, "task.cancel") == {"task": (None, None, None)}


@pytest.mark.skipif(CORE.name != "native", reason="this Python has but one core")
@pytest.mark.parametrize("exporter", ["jsonl", "recorder"])
def test_both_cores_tell_the_same(run_python: Runner, tmp_path: Path, exporter: str) -> None:
    logs: list[list[list[tuple[str, Any]]]] = []
    for core in ("python", "native"):
        if exporter == "jsonl":
            lines = told(run_python, tmp_path / f"{core}.jsonl", AIOAUDIT_CORE=core)
        else:
            lines = dumped(run_python, tmp_path / core, AIOAUDIT_CORE=core)
        assert len(ids(lines, "task.cancel")) > 10
        logs.append([[(k, v) for k, v in each.items() if k not in OF_THE_RUN] for each in lines])
    assert logs[0] == logs[1]


def dumped(run_python: Runner, folder: Path, **env: str) -> list[dict[str, Any]]:
    """The same as `told`, from the memory of a recorder."""
    folder.mkdir()
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(PROGRAM.parents[1])!r})
import aioaudit
from tests import traced_requests
asyncio.run(traced_requests.main())
aioaudit.dump({str(folder / "dump.jsonl")!r})
"""
    done = run_python("-c", code, AIOAUDIT="recorder", AIOAUDIT_SLOW_CANCEL="1000", **env)
    assert (done.returncode, done.stderr) == (0, "")
    lines = map(json.loads, (folder / "dump.jsonl").read_text().splitlines())
    return [each for each in lines if each["event"] in TOLD]
