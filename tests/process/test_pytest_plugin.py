"""The pytest plugin: real runs of pytest, in an environment where its entry point is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT, WHEEL, clean_environ, make_environment, site_packages
from tests.waiting import PATIENCE

STRICT = """
[pytest]
addopts = -p no:cacheprovider -p no:asyncio --strict-markers
filterwarnings =
    error
    ignore:aiohttp.pytest_plugin will be removed:DeprecationWarning
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python where pytest finds the plugin by itself, as where the wheel is installed."""
    if WHEEL:
        return sys.executable
    found = make_environment(tmp_path_factory.mktemp("environment") / "venv")
    packages = site_packages(found)
    (packages / "aaa_tree.pth").write_text(f"{ROOT}\n")
    for file in (ROOT / "aioaudit" / "_startup").glob("*aioaudit_autostart.*"):
        shutil.copy(file, packages)
    entry = re.search(r"pytest11\]\n(\w+) = \"(.*?)\"", (ROOT / "pyproject.toml").read_text())
    assert entry is not None
    installed = packages / "aioaudit-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: aioaudit\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{entry[1]} = {entry[2]}\n")
    # pytest marks what a distribution with a plugin holds as to be rewritten.
    files = ["aioaudit/__init__.py", "aioaudit/session.py", "_aioaudit_autostart.py"]
    (installed / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    return str(found)


class Run:
    """A run of pytest under way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._output: str | None = None

    @property
    def output(self) -> str:
        """All that it printed, once it has ended."""
        if self._output is None:
            self._output = self._process.communicate(timeout=PATIENCE)[0]
        return self._output

    @property
    def status(self) -> int:
        """Its exit status."""
        assert self.output is not None
        return self._process.returncode

    @property
    def outcomes(self) -> dict[str, str]:
        """The outcome of each test by its name (``-rA``)."""
        found = re.findall(
            r"^(PASSED|FAILED|ERROR|XFAIL|XPASS|SKIPPED) \S+?\.py::(\S+)", self.output, re.MULTILINE
        )
        assert found, self.output
        outcomes: dict[str, str] = {}
        for outcome, name in found:
            outcomes[name] = f"{outcomes[name]} {outcome}" if name in outcomes else outcome
        return outcomes

    @property
    def last_line(self) -> str:
        """What is told of all tests."""
        found = re.findall(r"^aioaudit: (?!on,)(.*)$", self.output, re.MULTILINE)
        assert len(found) == 1, self.output
        return str(found[0])

    def report(self, name: str) -> str:
        """What the report of the failed test *name* says."""
        found = re.search(
            rf"^_+ (?:ERROR at teardown of )?{name}(?:\[\w+\])? _+$(.*?)^(?:_{{3,}}|={{3,}}) ",
            self.output,
            re.MULTILINE | re.DOTALL,
        )
        assert found is not None, self.output
        return found[1]

    def section(self, name: str, title: str) -> list[str]:
        """The lines of the section *title* of ours, in that report."""
        found = re.search(
            rf"^-+ aioaudit: {title} -+$(.*?)(?:^-+ |\Z)",
            self.report(name),
            re.MULTILINE | re.DOTALL,
        )
        assert found is not None, self.report(name)
        return found[1].strip("\n").split("\n")


class Project:
    """A folder with tests, and pytest to run them."""

    def __init__(self, python: str, folder: Path) -> None:
        self._python = python
        self.folder = folder
        self._processes: list[subprocess.Popen[str]] = []
        self.write("pytest.ini", STRICT)

    def write(self, name: str, text: str) -> None:
        """Have the file *name* there."""
        (self.folder / name).write_text(text)

    def start(self, *arguments: str, **environ: str) -> Run:
        """Begin a run; keywords are variables of the environment."""
        process = subprocess.Popen(
            [self._python, "-m", "pytest", "-q", "-rA", *arguments],
            cwd=self.folder,
            env=clean_environ(**environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._processes.append(process)
        return Run(process)

    def end(self) -> None:
        """Leave no process behind where a test has failed."""
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def project(python: str, tmp_path: Path) -> Iterator[Project]:
    """An empty one, where each warning is an error."""
    project = Project(python, tmp_path)
    yield project
    project.end()


COMMON = """
import asyncio, time, unittest
import pytest

async def forever():
    await asyncio.sleep(60)

async def swallows():
    try:
        await forever()
    except asyncio.CancelledError:
        pass
    await asyncio.sleep(0)
    return 1

async def cancelled(coro, name=None):
    task = asyncio.create_task(coro, name=name)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
"""

CHAINS = (
    COMMON
    + """
def test_timeout():
    async def main():
        async with asyncio.timeout(0.01):
            await forever()
    asyncio.run(main())

def test_victim():
    async def main():
        task = asyncio.create_task(forever(), name="victim")
        await asyncio.sleep(0)
        task.cancel()
        await task
    asyncio.run(main())

def test_context():
    async def main():
        try:
            await asyncio.wait_for(forever(), 0.01)
        except TimeoutError as error:
            raise LookupError("gone")
    asyncio.run(main())

def test_group():
    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(forever())
            group.create_task(asyncio.wait_for(forever(), 0.01), name="child")
    asyncio.run(main())

def test_by_hand():
    raise asyncio.CancelledError

def test_other_timeout():
    raise TimeoutError

@pytest.mark.xfail
def test_expected():
    test_timeout()

@pytest.mark.xfail
def test_unexpected():
    pass

@pytest.mark.xfail(strict=True)
def test_strict():
    pass

def test_skips():
    pytest.skip("not here")

def test_passes():
    async def main():
        await cancelled(forever())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(forever(), 0.01)
    asyncio.run(main())

class TestCase(unittest.IsolatedAsyncioTestCase):
    async def test_unittest(self):
        async with asyncio.timeout(0.01):
            await forever()

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def slow():
    async with asyncio.timeout(0.01):
        await forever()

@pytest.mark.anyio
async def test_anyio():
    import anyio
    with anyio.fail_after(0.01):
        await forever()

@pytest.mark.anyio
async def test_anyio_fixture(slow):
    pass

async def test_aiohttp(loop):
    async with asyncio.timeout(0.01):
        await forever()

def test_trail(aioaudit_trail):
    async def main():
        await cancelled(forever(), "victim")
    asyncio.run(main())
    assert aioaudit_trail.why("victim").root.source == f"{__name__}:cancelled"
    assert {type(event).__name__ for event in aioaudit_trail.events} >= {"TaskCreate", "TaskDone"}
"""
)


def line_of(text: str, words: str, nth: int = 0) -> int:
    """The number of the line of *text* that holds *words*."""
    return [number for number, line in enumerate(text.split("\n"), 1) if words in line][nth]


def test_a_failed_test_says_who_cancelled_what(project: Project) -> None:
    project.write("test_chains.py", CHAINS)
    plugins = ["-p", "aiohttp.pytest_plugin"]
    on = project.start("--aioaudit", *plugins)
    off = project.start(*plugins)
    without = project.start(
        "-p", "no:aioaudit", *plugins, "--deselect", "test_chains.py::test_trail"
    )
    xdist = project.start("--aioaudit", *plugins, "-n", "2", "--dist", "load")

    assert on.section("test_timeout", "who cancelled it")[0].endswith(
        "was asked to cancel because the timeout of 0.01 s at"
    )
    said = " ".join(on.section("test_timeout", "who cancelled it")).split()
    at = f"test_chains.py:{line_of(CHAINS, 'async with asyncio.timeout(0.01)')}"
    assert at in said, said
    victim = on.section("test_victim", "who cancelled it")
    line = line_of(CHAINS, "        task.cancel()")
    caller = "test_chains:test_victim.<locals>.main"
    assert re.fullmatch(
        rf"main \((Task-\d+)\) was cancelled because {caller} called cancel\(\) at"
        rf" test_chains.py:{line} in task \1, by way of victim"
        rf" root cause: {caller} called cancel\(\) at test_chains.py:{line} in task \1"
        rf" └── victim was cancelled, reason explicit, at test_chains.py:{line} in {caller},"
        r" by task \1 └── \1 was cancelled",
        " ".join(" ".join(victim).split()),
    ), victim
    assert victim[-1].startswith("      └── ")
    for name in (
        "test_context",
        "test_group",
        "TestCase.test_unittest",
        "test_anyio",
        "test_aiohttp",
    ):
        text = " ".join(on.section(name, "who cancelled it"))
        assert "root cause: the timeout of 0.01 s" in re.sub(r"\s+", " ", text), (name, text)
    assert "the timeout of 0.01 s" in on.report("ERROR at setup of test_anyio_fixture")
    for name in ("test_by_hand", "test_other_timeout", r"test_strict"):
        assert "aioaudit: " not in on.report(name)
    assert max(map(len, victim)) <= 80

    plain = off.outcomes
    assert plain["test_trail"] == plain["test_passes"] == "PASSED"
    assert "aioaudit" not in re.sub(r"aioaudit_trail", "", off.output)
    assert on.outcomes == plain == xdist.outcomes
    assert {**without.outcomes, "test_trail": "PASSED"} == plain
    assert on.status == off.status == without.status == xdist.status == 1
    told = r"\d+ tasks cancelled in 11 tests, 0 findings"
    assert re.fullmatch(told, on.last_line), on.last_line
    assert xdist.last_line == on.last_line
    assert xdist.section("test_victim", "who cancelled it")[-1].startswith("      └── ")


FINDINGS = (
    COMMON
    + """
def test_swallows():
    asyncio.run(cancelled(swallows()))

def test_fails_and_swallows():
    asyncio.run(cancelled(swallows()))
    assert 0, "as it must"

@pytest.mark.xfail
def test_expected():
    asyncio.run(cancelled(swallows()))

@pytest.mark.aioaudit_ignore("swallowed", "lost", reason="known")
def test_accepts():
    asyncio.run(cancelled(swallows()))

@pytest.mark.aioaudit_ignore("pending")
class TestClass:
    def test_accepts_others(self):
        asyncio.run(cancelled(swallows()))

    @pytest.mark.aioaudit_ignore
    def test_accepts_all(self):
        asyncio.run(cancelled(swallows()))

@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()

def test_leaves_a_task(loop):
    async def main():
        asyncio.create_task(forever(), name="left")
        await asyncio.sleep(0)
    loop.run_until_complete(main())

def test_is_well():
    async def main():
        await cancelled(forever())
    asyncio.run(main())
"""
)

WELL = {
    "test_swallows": "PASSED",
    "test_fails_and_swallows": "FAILED",
    "test_expected": "XPASS",
    "test_accepts": "PASSED",
    "TestClass::test_accepts_others": "PASSED",
    "TestClass::test_accepts_all": "PASSED",
    "test_leaves_a_task": "PASSED",
    "test_is_well": "PASSED",
}
WRONG = {
    **WELL,
    "test_swallows": "FAILED",
    "test_expected": "XFAIL",
    "TestClass::test_accepts_others": "FAILED",
    "test_leaves_a_task": "PASSED ERROR",
}


def test_findings_fail_warn_or_are_counted(project: Project) -> None:
    project.write("test_findings.py", FINDINGS)
    error = project.start("--aioaudit-findings=error")
    warn = project.start("--aioaudit-findings=warn", "-W", "default")
    strict = project.start("--aioaudit-findings=warn")
    off = project.start("--aioaudit")
    log = project.folder / "log.jsonl"
    both = project.start(
        "--aioaudit-findings=error", "-n", "2", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log)
    )
    some = project.start("--aioaudit-findings=error", "--aioaudit-ignore", "swallowed")

    assert off.outcomes == WELL
    assert off.last_line.startswith(
        "7 tasks cancelled in 7 tests, 5 findings (4 swallowed, 1 pending),"
    ), off.last_line
    assert off.last_line.endswith(", 2 ignored")

    assert error.outcomes == WRONG
    said = error.report("test_swallows")
    assert "aioaudit found: swallowed" in said
    assert f"test_findings.py:{line_of(FINDINGS, 'task.cancel()')}" in said
    assert '@pytest.mark.aioaudit_ignore("swallowed")' in said
    assert "swallowed: swallows" in error.section("test_fails_and_swallows", "findings")[0]
    assert "pending: forever (left)" in error.report("test_leaves_a_task")
    assert max(map(len, said.split("\n"))) <= 80

    assert warn.outcomes == {**WELL}
    assert warn.output.count("FindingWarning: swallowed: swallows") == 3
    assert warn.output.count("FindingWarning: pending: forever") == 1
    assert strict.outcomes == WRONG  # each warning is an error here

    assert both.outcomes == WRONG
    assert both.last_line == error.last_line
    assert log.read_text().count('"event":"finding"') >= 5

    assert some.outcomes == {**WELL, "test_leaves_a_task": "PASSED ERROR"}
    assert some.last_line.endswith("1 finding (1 pending), 6 ignored")


SLOWLY = (
    COMMON
    + """
async def cleans_up():
    try:
        await forever()
    finally:
        await asyncio.sleep(0.05)

def test_is_slow():
    asyncio.run(cancelled(cleans_up()))

def test_swallows_slowly():
    async def swallows_slowly():
        try:
            await cleans_up()
        except asyncio.CancelledError:
            return 1
    asyncio.run(cancelled(swallows_slowly()))
"""
)


def test_what_a_busy_machine_makes_warns_where_findings_are_errors(project: Project) -> None:
    project.write("test_slowly.py", SLOWLY)
    limit = {"AIOAUDIT_SLOW_CANCEL": "0.01"}
    error = project.start("--aioaudit-findings=error", "-W", "default", **limit)
    strict = project.start("--aioaudit-findings=error", **limit)
    assert error.outcomes == {"test_is_slow": "PASSED", "test_swallows_slowly": "FAILED"}
    assert "aioaudit found: swallowed\n" in error.report("test_swallows_slowly")
    assert error.output.count("FindingWarning: slow: ") == 1
    assert strict.outcomes == dict.fromkeys(error.outcomes, "FAILED")  # each warning is an error


BASELINE = (
    COMMON
    + """
def test_swallows():
    asyncio.run(cancelled(swallows()))

def test_swallows_as_well():
    asyncio.run(cancelled(swallows()))

def test_of_its_own():
    async def alone():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return 1
    asyncio.run(cancelled(alone()))
"""
)


def test_a_baseline_accepts_what_is_known_and_says_what_is_gone(project: Project) -> None:
    project.write("test_old.py", BASELINE)
    given = ("--aioaudit-findings=error", "--aioaudit-baseline", "known.txt")
    written = project.start(*given, "--aioaudit-write-baseline")
    assert set(written.outcomes.values()) == {"PASSED"}
    assert "baseline written to known.txt" in written.last_line
    known = project.folder / "known.txt"
    lines = [line for line in known.read_text().splitlines() if not line.startswith("#")]
    assert lines == [
        "swallowed  test_old:swallows  test_old.py",
        "swallowed  test_old:test_of_its_own.<locals>.alone  test_old.py",
    ]

    project.write("test_old.py", "\n" * 7 + BASELINE.replace("test_swallows_as_well", "test_b"))
    moved = project.start(*given)
    assert set(moved.outcomes.values()) == {"PASSED"}
    assert moved.last_line.endswith("0 findings, 3 in the baseline")

    new = BASELINE.replace("async def alone", "async def other").replace("alone()", "other()")
    project.write("test_old.py", new)
    project.write(
        "pytest.ini",
        f"{STRICT}aioaudit = true\naioaudit_findings = error\naioaudit_baseline = known.txt\n",
    )
    changed = project.start("-n", "2")
    part = project.start("-k", "swallows")
    assert changed.outcomes["test_of_its_own"] == "FAILED"
    assert changed.last_line.endswith(
        "1 finding (1 swallowed), 2 in the baseline, 1 of the baseline not found any more"
    )
    assert f"\n  {lines[1]}\n" in changed.output
    assert part.last_line.endswith("0 findings, 2 in the baseline")  # not all have run


SHARED = (
    COMMON
    + """
@pytest.fixture(scope="session")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()

@pytest.fixture(scope="session")
def server(loop):
    async def main():
        return asyncio.create_task(forever(), name="server")
    task = loop.run_until_complete(main())
    yield task
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))

tasks = []

def test_makes(loop, server):
    async def main():
        tasks.append(asyncio.create_task(swallows(), name="shared"))
        tasks.append(asyncio.create_task(forever(), name="forgotten"))
        asyncio.create_task(forever(), name="ended").cancel()
    loop.run_until_complete(main())
    loop.run_until_complete(asyncio.sleep(0))

def test_is_well(loop):
    loop.run_until_complete(asyncio.sleep(0))

def test_cancels(loop):
    async def main():
        tasks[0].cancel()
        await asyncio.sleep(0.01)
    loop.run_until_complete(main())

def test_last(loop):
    assert not hasattr(asyncio.CancelledError(), "nothing")
"""
)


def test_a_finding_is_of_the_test_in_which_it_came_up(project: Project) -> None:
    project.write("test_shared.py", SHARED)
    done = project.start("--aioaudit-findings=error", "--aioaudit-ignore=never_started")
    assert done.outcomes == {
        "test_makes": "PASSED",
        "test_is_well": "PASSED",
        "test_cancels": "FAILED",
        "test_last": "PASSED",
    }
    assert "its task was made in test_shared.py::test_makes" in done.report("test_cancels")
    ends = done.output[done.output.index("= aioaudit: found of tasks that earlier tests made") :]
    assert (
        "\nof test_shared.py::test_makes\n  pending: forever (forgotten) was still pending" in ends
    )
    outlived = done.output[done.output.index("= aioaudit: tasks that outlived") :]
    made = line_of(SHARED, 'name="forgotten"')
    assert re.search(
        rf"  test_shared.py::test_makes: forever \(forgotten\), made at test_shared.py:{made},\n"
        rf"    waits at test_shared.py:{line_of(SHARED, 'asyncio.sleep(60)')}\n",
        outlived,
    ), outlived
    assert "server" not in done.output
    assert "forever (ended)" not in outlived
    assert done.status == 1


def test_a_stray_finding_alone_makes_the_run_fail(project: Project) -> None:
    only = SHARED.replace('tasks.append(asyncio.create_task(swallows(), name="shared"))', "")
    project.write("test_shared.py", only.replace("tasks[0].cancel()", "pass"))
    done = project.start("--aioaudit-findings=error", "--aioaudit-ignore=never_started", "-n", "1")
    off = project.start("--aioaudit")
    assert set(done.outcomes.values()) == {"PASSED"} == set(off.outcomes.values())
    assert (done.status, off.status) == (1, 0)
    assert "found of tasks that earlier tests made" in done.output
    assert "found of tasks that earlier tests made" not in off.output


ASYNCIO = (
    COMMON
    + """
pytestmark = pytest.mark.asyncio

async def test_timeout():
    async with asyncio.timeout(0.01):
        await forever()

async def test_swallows():
    await cancelled(swallows())

@pytest.mark.parametrize("number", range(3))
async def test_is_well(number):
    await cancelled(forever())
"""
)


@pytest.mark.skipif(find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed")
def test_pytest_asyncio_makes_a_loop_for_each_test(project: Project) -> None:
    project.write("pytest.ini", "[pytest]\naddopts = -p no:cacheprovider\n")
    project.write("test_asyncio.py", ASYNCIO)
    alone = project.start("--aioaudit-findings=error", PYTEST_ADDOPTS="")
    xdist = project.start("--aioaudit-findings=error", "-n", "2", PYTEST_ADDOPTS="")
    off = project.start(PYTEST_ADDOPTS="")
    for run in (alone, xdist):
        told = " ".join(" ".join(run.section("test_timeout", "who cancelled it")).split())
        line = line_of(ASYNCIO, "asyncio.timeout(0.01)")
        assert f"root cause: the timeout of 0.01 s at test_asyncio.py:{line}" in told, told
        assert "aioaudit found: swallowed" in run.report("test_swallows")
        assert run.last_line == "5 tasks cancelled in 5 tests, 1 finding (1 swallowed)"
        assert run.outcomes == {**off.outcomes, "test_swallows": "FAILED"}
    assert off.outcomes["test_swallows"] == "PASSED"


OVERTIME = (
    COMMON
    + """
def test_hangs():
    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="one")
            group.create_task(swallowing(), name="two").cancel()
    async def swallowing():
        await asyncio.shield(forever())
    asyncio.run(main())

def test_after():
    pass
"""
)


def test_when_the_time_is_out_it_is_told_what_tasks_waited_for(project: Project) -> None:
    project.write("test_overtime.py", OVERTIME)
    by_signal = project.start("--aioaudit", "--timeout=2", "--timeout-method=signal")
    by_thread = project.start("--aioaudit", "--timeout=2", "--timeout-method=thread")
    told = " ".join(by_signal.section("test_hangs", "what tasks waited for"))
    waits = f"waits at test_overtime.py:{line_of(OVERTIME, 'asyncio.sleep(60)')}"
    made = line_of(OVERTIME, 'name="one"')
    assert f"forever (one), made at test_overtime.py:{made}, {waits}" in re.sub(r"\s+", " ", told)
    assert by_signal.outcomes["test_after"] == "PASSED"
    assert by_thread.status == 1
    assert "~ aioaudit: what tasks waited for ~" in by_thread.output
    assert f"forever (one), made at test_overtime.py:{made}, {waits}" in re.sub(
        r"\s+", " ", by_thread.output
    )


BAD_USE = """
import contextlib, io, sys
import pytest

calls = {
    "no level": ["--aioaudit-findings=loud"],
    "no kind": ["--aioaudit", "--aioaudit-ignore=swalowed"],
    "no level in the configuration": ["--aioaudit", "-o", "aioaudit_findings=loud"],
    "no kind in the configuration": ["--aioaudit", "-o", "aioaudit_ignore=slow nothing"],
    "neither yes nor no": ["-o", "aioaudit=perhaps"],
    "no file to write": ["--aioaudit-write-baseline"],
    "no such baseline": ["--aioaudit", "--aioaudit-baseline=none.txt"],
    "a bad line": ["--aioaudit", "--aioaudit-baseline=bad.txt"],
    "a bad kind": ["--aioaudit", "--aioaudit-baseline=worse.txt"],
    "a bad mark": ["--aioaudit", "test_mark.py"],
    "a bad keyword": ["--aioaudit", "test_keyword.py"],
    "a bad variable": ["--aioaudit"],
    "all is well": ["--aioaudit", "test_well.py"],
}
import os
before = set(sys.modules)
for name, call in calls.items():
    if name == "a bad variable":
        os.environ["AIOAUDIT_SLOW_CANCEL"] = "soon"
    else:
        os.environ.pop("AIOAUDIT_SLOW_CANCEL", None)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = pytest.main(["-q", *call])
    print(f"== {name}: {int(status)}")
    print(out.getvalue())
import asyncio
print("source" in vars(asyncio.CancelledError), type(asyncio.Task.cancel).__name__)
"""


def test_wrong_use_is_one_clear_error(project: Project, python: str) -> None:
    project.write("bad.txt", "swallowed\n")
    project.write("worse.txt", "# a comment\n\nforgotten  a:b  a.py\n")
    mark = "import pytest\n@pytest.mark.aioaudit_ignore({})\ndef test_it(): pass\n"
    project.write("test_mark.py", mark.format('"swalowed"'))
    project.write("test_keyword.py", mark.format('because="so"'))
    project.write("test_well.py", mark.format('"slow", reason="so"'))
    project.write("bad_use.py", BAD_USE)
    done = subprocess.run(
        [python, "bad_use.py"],
        cwd=project.folder,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    parts = re.split(r"^== (.*): (\d)$", done.stdout, flags=re.MULTILINE)[1:]
    told = {
        name: (int(status), text)
        for name, status, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }
    kinds = "allowed: swallowed, lost, coalesced, slow,"
    wanted = {
        "no level": "--aioaudit-findings: 'loud' is no level; allowed: error, warn, off",
        "no kind": f"--aioaudit-ignore: 'swalowed' is no kind of finding (did you mean 'swallowed'?); {kinds}",
        "no level in the configuration": "aioaudit_findings: 'loud' is no level; allowed: error, warn, off",
        "no kind in the configuration": f"aioaudit_ignore: 'nothing' is no kind of finding; {kinds}",
        "neither yes nor no": "aioaudit in the configuration: ",
        "no file to write": "--aioaudit-write-baseline: --aioaudit-baseline FILE is missing",
        "no such baseline": "none.txt; --aioaudit-write-baseline writes it",
        "a bad line": "bad.txt:1: 'swallowed' is no finding; allowed: KIND FUNCTION FILE",
        "a bad kind": f"worse.txt:3: 'forgotten' is no kind of finding; {kinds}",
        "a bad mark": f"test_mark.py::test_it: @pytest.mark.aioaudit_ignore: 'swalowed' is no kind of finding (did you mean 'swallowed'?); {kinds}",
        "a bad keyword": "test_keyword.py::test_it: @pytest.mark.aioaudit_ignore: because= means nothing; allowed: kinds, reason=",
        "a bad variable": "AIOAUDIT_SLOW_CANCEL='soon': this is no length of time; allowed: seconds",
    }
    for name, text in wanted.items():
        status, output = told.pop(name)
        assert status == pytest.ExitCode.USAGE_ERROR, (name, output)
        assert "ERROR: " in output
        assert text in output, (name, output)
        assert "Traceback" not in output
    assert told.pop("all is well")[0] == 0
    assert not told
    assert done.stdout.endswith("False method_descriptor\n\n") or done.stdout.rstrip().endswith(
        "False method_descriptor"
    ), done.stdout[-200:]


LIGHT = """
import sys, pytest
before = set(sys.modules)
import aioaudit.testing.plugin
print(sorted(set(sys.modules) - before))
"""


def test_the_plugin_costs_nothing_while_it_is_off(python: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [python, "-c", LIGHT],
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    ours = {"aioaudit", "aioaudit.version"}
    ours |= {f"aioaudit.testing{name}" for name in ("", ".marks", ".plugin")}
    assert set(eval(done.stdout)) <= ours, done.stderr


AFTER = """
import asyncio, asyncio.events, gc, sys, threading
import pytest

CLASSES = (
    asyncio.Task, asyncio.Future, asyncio.tasks._PyTask, asyncio.futures._PyFuture, asyncio.Handle,
    asyncio.BaseEventLoop, asyncio.SelectorEventLoop, asyncio.AbstractEventLoop, asyncio.Timeout,
    asyncio.TaskGroup, asyncio.CancelledError,
)

def state():
    monitoring = getattr(sys, "monitoring", None)
    found = {cls.__qualname__: dict(vars(cls)) for cls in CLASSES}
    for module in (asyncio, asyncio.events, asyncio.tasks, asyncio.futures, asyncio.runners):
        found[module.__name__] = dict(vars(module))
    found["monitoring"] = [monitoring.get_tool(tool) for tool in range(6)] if monitoring else []
    found["hooks"] = sys.gettrace(), sys.getprofile(), list(gc.callbacks), list(sys.meta_path)
    found["threads"] = threading.enumerate()
    return found

call = ["-q", "-p", "no:cacheprovider", "test_it.py"]
pytest.main(call)  # what pytest and the interpreter leave behind themselves is there already
before = state()
status = pytest.main([*call, "--aioaudit-findings=error"])
after = state()
print("changed:", [name for name in before if before[name] != after[name]], int(status))
"""

OF_ALL_SORTS = """
import asyncio

async def main():
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(60)
    except TimeoutError:
        pass

def test_it():
    for _ in range(3):
        asyncio.run(main())
"""


def test_when_the_tests_are_over_nothing_is_left_that_costs_anything(
    python: str, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(OF_ALL_SORTS)
    done = subprocess.run(
        [python, "-c", AFTER],
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "aioaudit: 6 tasks cancelled in 1 test, 0 findings" in done.stdout, done.stdout
    assert done.stdout.splitlines()[-1] == "changed: [] 0", done.stdout + done.stderr


CRASHING = """
import asyncio
import pytest

def test_hangs():
    async def forever():
        await asyncio.sleep(60)
    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(), name="one")
    asyncio.run(main())

@pytest.mark.parametrize("number", range(3))
def test_is_well(number):
    pass
"""

BAD_MARK = """
import pytest

@pytest.mark.aioaudit_ignore("swalowed")
def test_it():
    pass

def test_well():
    pass
"""


def test_with_xdist_wrong_use_and_overtime_are_told_as_without(project: Project) -> None:
    project.write("test_crashing.py", CRASHING)
    project.write("test_mark.py", BAD_MARK)
    workers = ("-n", "2", "--aioaudit")
    overtime = {
        method: project.start(
            *workers, "--timeout=4", f"--timeout-method={method}", "test_crashing.py"
        )
        for method in ("signal", "thread")
    }
    mark = project.start(*workers, "test_mark.py")
    alone = project.start("--aioaudit", "test_mark.py")
    level = project.start(*workers, "--aioaudit-findings=loud", "test_mark.py")

    waits = f"forever (one), made at test_crashing.py:{line_of(CRASHING, 'name=')}, waits at"
    by_signal = " ".join(overtime["signal"].section("test_hangs", "what tasks waited for"))
    assert waits in re.sub(r"\s+", " ", by_signal)
    told = re.sub(r"\s+", " ", overtime["thread"].output)
    title = "aioaudit: what tasks waited for when the time of test_crashing.py::test_hangs ran out:"
    assert title in told, overtime["thread"].output
    assert waits in told.partition(title)[2]
    assert {run.outcomes["test_hangs"] for run in overtime.values()} == {"FAILED"}
    assert "crashed while running" in told

    wrong = (
        "test_mark.py::test_it: @pytest.mark.aioaudit_ignore: 'swalowed' is no kind of finding"
        " (did you mean 'swallowed'?); allowed: swallowed, "
    )
    for run in (mark, alone):
        assert run.output.count(f"ERROR: {wrong}") == 1, run.output
        assert "aioaudit: no task was cancelled" not in run.output
    assert level.output.startswith("ERROR: --aioaudit-findings: 'loud' is no level;")
    for run in (mark, alone, level):
        assert run.status == pytest.ExitCode.USAGE_ERROR, run.output
        assert "INTERNALERROR" not in run.output


UNDER_ANYIO = """
import asyncio
import anyio
import pytest

pytestmark = pytest.mark.anyio

@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend):
    yield

async def swallow():
    asyncio.current_task().cancel()
    try:
        await anyio.sleep(60)
    except asyncio.CancelledError:
        pass
    await anyio.sleep(0)
    asyncio.current_task().uncancel()

async def test_one():
    await swallow()

async def other():
    asyncio.current_task().cancel()
    try:
        await anyio.sleep(60)
    except asyncio.CancelledError:
        pass
    await anyio.sleep(0)
    asyncio.current_task().uncancel()

async def test_two():
    await other()

made = []

async def test_makes():
    async def stays():
        await anyio.sleep(60)
    made.append(asyncio.create_task(stays(), name="kept"))

async def test_last():
    await anyio.sleep(0)
"""


def test_in_one_long_loop_findings_of_the_task_that_runs_tests_are_told_apart(
    project: Project,
) -> None:
    project.write("test_under.py", UNDER_ANYIO)
    words = ("--aioaudit-findings=error", "--aioaudit-baseline=known.txt")
    project.start(*words, "--aioaudit-write-baseline", "-k", "test_one").output  # noqa: B018
    known = (project.folder / "known.txt").read_text()
    assert "self_cancel  test_under:swallow  test_under.py\n" in known
    found = project.start(*words)
    assert found.outcomes == {
        **dict.fromkeys(("test_one", "test_makes", "test_last"), "PASSED"),
        "test_two": "FAILED",
    }
    told = found.report("test_two")
    assert re.search(r"    Task-\d+ is the task in which anyio's plugin runs tests\n", told), told
    assert "site-packages" not in told
    assert str(project.folder) not in told
    assert "test_under.py::test_makes: stays (kept), made at test_under.py:" in found.output


PUT_BACK = """
import asyncio, sys, threading
import pytest

pytest_plugins = "pytester"

INNER = '''
import asyncio
def test_timeout():
    async def main():
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    asyncio.run(main())
'''

def test_inside(pytester):
    pytester.makepyfile(INNER)
    result = pytester.runpytest_inprocess("--aioaudit", "-p", "no:cacheprovider", "--timeout=60")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*root cause: the timeout of 0.01 s*"])

def test_after():
    async def main():
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    asyncio.run(main())
"""

IN_ONE_PROCESS = """
import asyncio, sys, threading
import pytest

def seen():
    monitoring = getattr(sys, "monitoring", None)
    names = [(owner, name, value) for owner in (asyncio.Task, asyncio.Future, asyncio.BaseEventLoop,
        asyncio.TaskGroup, asyncio.Timeout, asyncio.CancelledError, asyncio.tasks, asyncio.events,
        asyncio.runners, asyncio.timeouts, asyncio.taskgroups, threading.Thread)
        for name, value in vars(owner).items()
        if not name.startswith("__") and name not in ("_current_tasks", "_event_loop_policy")]
    tools = monitoring and [
        (monitoring.get_tool(each), monitoring.get_tool(each) and monitoring.get_events(each))
        for each in range(6)
    ]
    return {(id(owner), name): id(value) for owner, name, value in names}, tools, len(sys._current_frames())

before = seen()
statuses = [
    int(pytest.main(["-q", "-p", "no:cacheprovider", "--timeout=60", "test_put_back.py", *words]))
    for words in (["--aioaudit"], [], ["--aioaudit-findings=error"])
]
import time
until = time.monotonic() + 30
while len(sys._current_frames()) > before[2] and time.monotonic() < until:
    time.sleep(0.01)
after = seen()
print("statuses", statuses)
print("differ", [key[1] for key in before[0] if before[0][key] != after[0].get(key)], before[1:], after[1:])
print("the same", before == after)
"""


def test_after_runs_in_one_process_all_is_as_it_was(project: Project, python: str) -> None:
    project.write("test_put_back.py", PUT_BACK)
    project.write("one_process.py", IN_ONE_PROCESS)
    done = subprocess.run(
        [python, "one_process.py"],
        cwd=project.folder,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "statuses [1, 1, 1]" in done.stdout, done.stdout + done.stderr
    assert "the same True" in done.stdout, done.stdout[-2000:] + done.stderr
    assert done.stdout.count("1 failed, 1 passed") == 3
    # The outer run still tells after the one inside of it has ended.
    assert done.stdout.count("root cause: the timeout of 0.01 s at test_put_back.py") == 2


TRAILS = """
import asyncio, gc
import pytest

@pytest.mark.parametrize("number", range(200))
def test_it(aioaudit_trail, number):
    async def main():
        async with asyncio.timeout(None):
            task = asyncio.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
    asyncio.run(main())
    assert len(aioaudit_trail.events) > 5
    if number == 199:
        from aioaudit.exporters.memory import MemoryExporter
        from aioaudit.trail import Trail
        gc.collect()
        kept = [each for each in gc.get_objects() if type(each) in (MemoryExporter, Trail)]
        assert len(kept) < 50, len(kept)  # a few that have ended are known for a while
"""


def test_no_trail_outlives_its_test(project: Project) -> None:
    project.write("test_trails.py", TRAILS)
    runs = [project.start("-r", "N", *words, "test_trails.py") for words in ([], ["--aioaudit"])]
    for run in runs:
        assert re.search(r"^200 passed", run.output, re.MULTILINE), run.output[-2000:]
