"""Logs in which any key holds anything that its type allows: no command raises, or lets it through."""

from __future__ import annotations

import io
import json
import os
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.waiting import PATIENCE

pytest.importorskip("click")
pytest.importorskip("rich")

from aioaudit.cli import main
from aioaudit.log import load
from tests.collectors import INCIDENT, Receiver
from tests.conftest import Runner

pytestmark = pytest.mark.any_python

PROGRAM = f"""
import asyncio, os
{INCIDENT}

async def keep():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        pass
    with __import__("contextlib").suppress(asyncio.CancelledError):
        await asyncio.get_running_loop().create_future()

async def wait_for(future):
    await future

async def more():
    task = asyncio.create_task(keep(), name="keeper")
    await asyncio.sleep(0)
    task.cancel("first")
    task.cancel("second")
    await asyncio.sleep(0)
    task.cancel("third")
    await asyncio.wait([task])
    future = asyncio.get_running_loop().create_future()
    waiter = asyncio.create_task(wait_for(future), name="waiter")
    await asyncio.sleep(0)
    future.cancel()
    await asyncio.wait([waiter])
    task.cancel()

asyncio.run(more())
if os.fork() == 0:
    asyncio.run(more())
else:
    os.wait()
"""

Line = dict[str, Any]

INTEGERS = st.one_of(
    st.integers(0, 40),
    st.sampled_from([-1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**4000]),
)
FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 5e-324, 1.7e308, -1.7e308, 1e16, 2**63]),
)
TIMES = [
    "",
    "yesterday",
    "2026-11-28",
    "2026-11-28T10:00:00",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "1969-12-31T23:59:59.999999Z",
    "2554-07-21T23:34:34Z",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999-14:00",
    "2026-W48-6T10:00:00Z",
    "2026-11-28T10:00:00.123456789+05:30",
]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(
        [
            "",
            ":",
            "a:b:c:7",
            "\x1b]0;title\x07\x1b[2Jgone",
            "\x9b31mred",
            "line\nbreak\r\x00",
            "\u202eright to left\u2066",
            "[bold]markup[/bold]",
            "x" * 100_000,
            "\x1b[31m" * 20_000,
            "e\u0301\u200d" * 100,
            "\U000e0041\ufeff",
            "/srv/app.py:0",
            "/srv/app.py:" + "9" * 5000,
            "-1",
            "--help",
            "0" * 100,
            *TIMES,
        ]
    ),
)
TIMES_OR_TEXTS = st.one_of(st.sampled_from(TIMES), TEXTS)


class Change(NamedTuple):
    """Which of all places in a log is changed, and to what, whatever its type is."""

    place: int
    integer: int
    number: float
    text: str
    time: str
    yes: bool
    texts: list[str]
    integers: list[int]


CHANGES = st.lists(
    st.builds(
        Change,
        st.integers(0, 2**20),
        INTEGERS,
        FLOATS,
        TEXTS,
        TIMES_OR_TEXTS,
        st.booleans(),
        st.lists(TEXTS, max_size=4),
        st.lists(INTEGERS, max_size=4),
    ),
    min_size=1,
    max_size=25,
)
RUNS = st.none() | TEXTS
"""What the first run is called everywhere, if anything else."""
ORDERS = st.none() | st.integers(0, 2**16)
"""How the lines are mixed, if they are."""

CLOSED = {"event", "outcome", "cancel_outcome", "evidence", "severity", "origin", "schema"}
"""Keys with few values: another one is a damaged line, which is skipped."""


def another(key: str, value: Any, change: Change) -> Any:
    """What *change* has of the type that *value*, which stands under *key*, has."""
    if key == "ts":
        return change.time
    if isinstance(value, list):
        return change.texts if all(isinstance(each, str) for each in value) else change.integers
    told = {bool: change.yes, int: change.integer, float: change.number, str: change.text}
    return told[type(value)]


def mutated(
    lines: list[Line], changes: list[Change], run: str | None, order: int | None
) -> list[Line]:
    """*lines* with all that done to them."""
    changed = [dict(line) for line in lines]
    places = [(n, key) for n, line in enumerate(lines) for key in line if key not in CLOSED]
    for change in changes:
        n, key = places[change.place % len(places)]
        changed[n][key] = another(key, lines[n][key], change)
    for line in changed:
        if run is not None and line["run"] == lines[0]["run"]:
            line["run"] = run
    if order is not None:
        random.Random(order).shuffle(changed)
    return changed


class Screen(io.TextIOWrapper):
    """Standard output, on a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="utf-8", write_through=True)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        raise OSError("not a file")


def command(*argv: str, terminal: bool = False) -> tuple[int, str]:
    """The exit status of a command, and what it wrote to both streams."""
    before = sys.stdout, sys.stderr
    out, err = Screen(terminal), Screen(False)
    sys.stdout, sys.stderr = out, err
    try:
        status = main(list(argv))
    finally:
        sys.stdout, sys.stderr = before
    return status, out.bytes.getvalue().decode() + err.bytes.getvalue().decode()


def escape_unprintable(text: str) -> bool:
    """Whether *text* is whole lines of visible characters, colours of ours apart."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return all(line.isprintable() for line in plain.split("\n"))


@pytest.fixture(scope="module")
def real(audited_python: str, tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """What a real program wrote, and its child."""
    import subprocess

    from tests.conftest import clean_environ

    folder = tmp_path_factory.mktemp("real")
    path = folder / "log.jsonl"
    done = subprocess.run(
        [audited_python, "-c", PROGRAM],
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(path)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"finding", "future.cancel", "task.done"} <= {line["event"] for line in lines}
    return lines


def write(path: Path, lines: list[Line]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def tasks_of(path: Path) -> list[str]:
    """What can be asked for in the log."""
    return [case.key for case in load(path).cases()][:4]


# What a failing example prints may be as long as the log, which hypothesis warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

MANY = settings(
    max_examples=int(os.environ.get("HOSTILE_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # To make such a log shorter takes minutes; the error that it raises says enough.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@MANY
@given(CHANGES, RUNS, ORDERS)
def test_every_command_answers_and_lets_nothing_through(
    real: list[Line],
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[Change],
    run: str | None,
    order: int | None,
) -> None:
    path = tmp_path_factory.mktemp("hostile") / "log.jsonl"
    write(path, mutated(real, changes, run, order))
    log = str(path)
    calls = [
        ("why", log),
        ("why", log, "--json"),
        ("why", log, "--task", "keeper"),
        *(("why", log, "--task", key) for key in tasks_of(path)),
        ("why", log, "--task", "nobody at all"),
        ("check", log, "--notes"),
        ("check", log, "--notes", "--json"),
    ]
    for call in calls:
        for terminal in (False, True):
            status, said = command(*call, terminal=terminal)
            assert status in (0, 1, 2), call
            assert escape_unprintable(said), call
    for wanted in ("touched", "all"):
        os.environ["AIOAUDIT_OTEL_TASKS"] = wanted
        try:
            status, said = command("export", log, "--to", "otlp-json", f"{log}.json")
        finally:
            del os.environ["AIOAUDIT_OTEL_TASKS"]
        assert status in (0, 1, 2)
        assert escape_unprintable(said)
        if status == 0:
            check_otlp(json.loads(Path(f"{log}.json").read_bytes(), parse_constant=pytest.fail))


def check_otlp(told: Any) -> None:
    """Numbers and times are such as OTLP can hold."""
    if isinstance(told, list):
        for each in told:
            check_otlp(each)
    elif isinstance(told, dict):
        for key, value in told.items():
            if key == "intValue":
                assert -(2**63) <= int(value) < 2**63
            elif key.endswith("TimeUnixNano"):
                assert 0 <= int(value) < 2**64
            else:
                check_otlp(value)
        if "startTimeUnixNano" in told:
            assert int(told["startTimeUnixNano"]) <= int(told["endTimeUnixNano"])


@settings(MANY, max_examples=15)
@given(CHANGES, RUNS, ORDERS)
def test_a_collector_gets_every_span(
    real: list[Line],
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[Change],
    run: str | None,
    order: int | None,
) -> None:
    from tests.collectors import over_http

    path = tmp_path_factory.mktemp("hostile") / "log.jsonl"
    write(path, mutated(real, changes, run, order))
    receiver = Receiver()
    with over_http(receiver) as variables:
        endpoint = variables["OTEL_EXPORTER_OTLP_ENDPOINT"]
        status, said = command("export", str(path), "--to", "otlp", "--endpoint", endpoint)
        os.environ.pop("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", None)
    assert status in (0, 1, 2), said
    assert escape_unprintable(said)
    if status == 0:
        assert f"{len(receiver.spans):,} span" in said


def one(real: list[Line], event: str, **changed: Any) -> list[Line]:
    """*real* with all events of a name changed so."""
    return [line | changed if line["event"] == event else line for line in real]


Alter = Callable[[list[Line]], list[Line]]


@pytest.mark.parametrize(
    "alter",
    [
        pytest.param(lambda real: one(real, "task.done", ts="soon"), id="no date"),
        pytest.param(lambda real: one(real, "task.done", ts="2026-01-01T00:00:00"), id="no zone"),
        pytest.param(lambda real: one(real, "task.create", ts="0001-01-01T00:00:00Z"), id="year 1"),
        pytest.param(lambda real: one(real, "task.done", ts="9999-12-31T00:00:00Z"), id="9999"),
        pytest.param(lambda real: one(real, "task.done", lifetime=1.7e308), id="lifetime"),
        pytest.param(lambda real: one(real, "task.cancel", by=2**64), id="integer"),
        pytest.param(lambda real: [line | {"pid": 2**70} for line in real], id="pid"),
        pytest.param(
            lambda real: [line | {"run": "\x1b[2J\x1b]0;x\x07"} for line in real], id="run"
        ),
        pytest.param(lambda real: one(real, "process.end", written=10**4000), id="written"),
        pytest.param(lambda real: one(real, "task.cancel", at="a.py:" + "9" * 5000), id="line"),
        pytest.param(
            lambda real: one(real, "future.cancel", at="a.py:\u00b2"), id="no digit of ours"
        ),
    ],
)
def test_what_was_found_to_raise_or_to_get_through(
    real: list[Line], tmp_path: Path, alter: Alter, run_python: Runner
) -> None:
    # In processes of their own, with a terminal's eyes.
    path = tmp_path / "log.jsonl"
    write(path, alter(real))
    for call in (
        ("why", "log.jsonl"),
        ("why", "log.jsonl", "--task", "keeper"),
        ("check", "log.jsonl", "--notes"),
        ("export", "log.jsonl", "--to", "otlp-json", "trace.json"),
    ):
        done = run_python("-m", "aioaudit", *call, NO_COLOR="1")
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        assert escape_unprintable(done.stdout + done.stderr)
    check_otlp(json.loads((tmp_path / "trace.json").read_bytes(), parse_constant=pytest.fail))


def test_a_line_of_sixteen_megabytes_is_answered(real: list[Line], tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    long = "\x1b" + "x" * 15_000_000
    write(path, [*real, *_named(real, long)])
    for call in (("why", str(path)), ("why", str(path), "--json"), ("check", str(path))):
        status, said = command(*call)
        assert status in (0, 1)
        assert escape_unprintable(said)


def _named(real: list[Line], name: str) -> list[Line]:
    """A cancelled task of that name, in a run of its own."""
    found = [line for line in real if line["event"] == "task.cancel"][:1]
    return [line | {"name": name, "run": "long"} for line in found]


def test_many_requests_and_deep_chains_take_no_time_that_grows_with_their_square(
    tmp_path: Path,
) -> None:
    count = 20_000
    common = {"ts": "2026-01-01T00:00:00Z", "run": "r", "pid": 1, "thread": "t", "coro": "a:b"}
    request = common | {"event": "task.cancel", "accepted": True, "reason": "explicit"}

    def taken_back_one_by_one() -> list[Line]:
        asked = [request | {"seq": n, "task": 1, "name": "x"} for n in range(1, count)]
        back = [
            common | {"event": "task.uncancel", "task": 1, "name": "x", "remaining": count - n}
            for n in range(1, count)
        ]
        return [*asked, *(line | {"seq": count + n} for n, line in enumerate(back))]

    def each_because_of_the_one_before() -> list[Line]:
        return [
            request | {"seq": n, "task": n, "name": f"x{n}", "cause": n - 1 or None, "at": "a.py:1"}
            for n in range(1, count)
        ]

    for make in (taken_back_one_by_one, each_because_of_the_one_before):
        path = tmp_path / f"{make.__name__}.jsonl"
        write(path, make())
        name = "x" if make is taken_back_one_by_one else f"x{count - 1}"
        for call in (("why", str(path)), ("why", str(path), "--task", name), ("check", str(path))):
            # With the square it is minutes: the limit of the whole test.
            assert command(*call)[0] in (0, 1)
        status, _ = command("export", str(path), "--to", "otlp-json", f"{path}.json")
        assert status == 0
