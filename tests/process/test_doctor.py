"""``aioaudit doctor``: real environments, and what is wrong with each of them."""

from __future__ import annotations

import importlib.machinery
import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from aioaudit import settings
from aioaudit.core.choice import CORE
from aioaudit.recognisers import registry
from tests.conftest import ROOT, WHEEL, Runner, clean_environ, site_packages
from tests.waiting import PATIENCE

Finding = dict[str, Any]
HANDLERS = "def explained(frame, call):\n    return None\n\n\n"


class World:
    """An environment of its own, in which a test installs what it needs."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python = python
        self.packages = site_packages(python)
        self.folder = folder
        if not WHEEL:
            (self.packages / "aaa_tree.pth").write_text(f"{ROOT}\n")

    def install(self, name: str, version: str, entry_points: str = "", **modules: str) -> None:
        """Put a distribution with *modules* there."""
        for module, source in modules.items():
            file = self.packages / f"{module}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(source)
        info = self.packages / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        tops = sorted({module.partition("/")[0] for module in modules})
        (info / "top_level.txt").write_text("\n".join(tops) + "\n")
        (info / "entry_points.txt").write_text(entry_points)

    def recogniser(self, source: str, value: str = "pool_audit:CALL_SITES") -> None:
        self.install(
            "pool-audit",
            "7",
            f"[aioaudit.recognisers]\npool = {value}\n",
            pool_audit=HANDLERS + source,
        )

    def doctor(self, *options: str, **environ: str) -> tuple[int, list[Finding], str]:
        """The status, every finding, and what stands on stderr."""
        done = subprocess.run(
            [str(self.python), *options, "-m", "aioaudit", "doctor", "--json"],
            env=clean_environ(**environ),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert found, done.stderr
        wrong = any(each["state"] in ("warning", "problem") for each in found)
        assert done.returncode == int(wrong)
        return done.returncode, found, done.stderr

    def about(self, subject: str, *options: str, **environ: str) -> tuple[str, str]:
        """State and text of the one finding about *subject*."""
        return said(self.doctor(*options, **environ)[1], subject)


def said(found: list[Finding], subject: str, section: str = "") -> tuple[str, str]:
    [each] = [
        each
        for each in found
        if subject in (each["subject"], each["subject"].split()[0])
        and section in ("", each["section"])
    ]
    return each["state"], each["text"]


@pytest.fixture
def world(tmp_path: Path, bare_environment: Callable[[Path], Path]) -> World:
    folder = tmp_path / "work"
    folder.mkdir()
    return World(bare_environment(tmp_path / "venv"), folder)


@pytest.fixture
def sparse(tmp_path: Path, bare_environment: Callable[[Path], Path]) -> World:
    """An environment without structlog, OpenTelemetry and our start-up file."""
    world = World(bare_environment(tmp_path / "sparse"), tmp_path)
    dependencies = world.packages / "zz_dependencies.pth"
    for folder in map(Path, dependencies.read_text().split()):
        for each in folder.iterdir():
            link = world.packages / each.name
            if not re.match(r"structlog|opentelemetry|_?aioaudit_|__pycache__", each.name) and not (
                link.exists() or each.suffix == ".pth"
            ):
                link.symlink_to(each)
    dependencies.unlink()
    return world


# -- a healthy environment -----------------------------------------------------------------


def test_where_all_is_well_it_says_so_and_every_known_call_site_is_there(
    run_python: Runner, tmp_path: Path
) -> None:
    for needed in ("structlog", "opentelemetry.sdk", "uvloop", "aiohttp", "anyio"):
        pytest.importorskip(needed)
    done = run_python("-m", "aioaudit", "doctor", "--json", AIOAUDIT="jsonl,structlog,otel")
    said_all = [json.loads(line) for line in done.stdout.splitlines()]
    # arq does not go with the redis-py that is tested on newer Pythons, PySide6 and what langgraph
    # needs are very large, what daphne needs has no wheels for the newest.
    optional = ("arq", "daphne", "langgraph", "PySide6")
    absent = {name for name in optional if find_spec(name) is None}
    found = [each for each in said_all if each["subject"] not in absent]
    wrong = [each for each in found if each["state"] not in ("ok", "note")]
    assert (done.returncode, done.stderr, wrong) == (0, "", [])
    notes = [each for each in found if each["state"] == "note" and "call_sites" not in each]
    assert [each["subject"] for each in notes] == [
        *(["core"] if CORE.name == "python" else []),
        *(["sys.monitoring"] if sys.version_info < (3, 12) else []),
    ]
    libraries = {
        each["subject"].split()[0]: each for each in found if each["section"] == "recognisers"
    }
    assert libraries.keys() == {"asyncio", *registry.OWN} - absent
    for each in libraries.values():
        assert each["version"]
        assert "gone" not in each["call_sites"].values()
    sites = libraries["aiohttp"]["call_sites"]
    assert sites["aiohttp.web_protocol:RequestHandler.connection_lost"] == "there"
    assert libraries["anyio"]["call_sites"]["anyio._backends._asyncio:CancelScope.cancel"]
    assert libraries["asyncio"]["call_sites"]["asyncio.events:Handle._run"] == "there"
    assert set(libraries["anyio"]["names"].values()) == {"there"}
    [python] = [each for each in found if each["subject"] == "private names"]
    assert set(python["names"].values()) == {"there"}
    assert {each["section"] for each in found} == {
        "interpreter",
        "loops",
        "start-up",
        "settings",
        "exporters",
        "log",
        "recognisers",
    }
    assert said(found, "jsonl", "log") == ("ok", f"{tmp_path}/aioaudit-{{pid}}.jsonl")
    assert list(tmp_path.iterdir()) == []  # it is not audited itself, and tries no log


def test_people_get_columns_and_a_verdict(run_python: Runner) -> None:
    pytest.importorskip("aiohttp")
    done = run_python("-m", "aioaudit", "doctor")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "interpreter"
    assert lines[-1] == "All is well."
    assert re.search(r"^  ok +asyncio +tried: a task was cancelled", done.stdout, re.MULTILINE)
    assert re.search(r"^  - +AIOAUDIT +not set: programs run unaudited$", done.stdout, re.MULTILINE)
    assert re.search(r"^  ok +aiohttp [\d.]+ +(\d+) of \1 call sites", done.stdout, re.MULTILINE)
    again = run_python("-m", "aioaudit", "doctor", AIOAUDIT_EVENTS="task.kancel", AIOAUDIT_X="1")
    assert again.returncode == 1
    assert again.stdout.splitlines()[-1] == "1 problem, 1 warning"


def test_a_bad_call_is_status_two(run_python: Runner) -> None:
    for wrong in ("--loud", "everything"):
        done = run_python("-m", "aioaudit", "doctor", wrong)
        assert (done.returncode, done.stdout, wrong in done.stderr) == (2, "", True)


# -- recognisers ---------------------------------------------------------------------------


def test_a_call_site_that_an_update_removed_is_a_warning(world: World) -> None:
    # The library must not be imported: this one could not be.
    library = (
        "class Pool:\n"
        "    def start(self):\n"
        "        def done(job):\n"
        "            job.cancel()\n"
        "        return done\n"
        "    def reap(self, job):\n"
        "        job.cancel()\n"
        "raise SystemExit('imported')\n"
    )
    world.install("pool", "2.1", pool=library)
    world.recogniser(
        "CALL_SITES = {\n"
        "    ('pool', 'Pool.start.<locals>.done'): explained,\n"
        "    ('pool', 'Pool._reap'): explained,\n"
        "    ('pool', 'Pool.drain'): explained,\n"
        "    ('pool.inner', 'close'): explained,\n"
        "}\n"
        "VERSIONS = {('pool', 'Pool.drain'): '>=3', ('pool', 'Pool._reap'): '>=1'}\n"
        "PROBES = (('pool', 'Pool.start'), ('pool', 'Pool.stop'))\n"
    )
    status, found, stderr = world.doctor()
    assert (status, stderr) == (1, "")
    [each] = [each for each in found if each["subject"] == "pool 2.1"]
    assert each["call_sites"] == {
        "pool:Pool.start.<locals>.done": "there",
        "pool:Pool._reap": "gone",
        "pool:Pool.drain": "not in this version",
        "pool.inner:close": "gone",
        "pool:Pool.start": "there",
        "pool:Pool.stop": "gone",
    }
    assert (each["state"], each["text"]) == (
        "warning",
        "2 of 5 call sites there; gone, and told unexplained: pool:Pool._reap, pool.inner:close,"
        " pool:Pool.stop; pool_audit:CALL_SITES of pool-audit 7",
    )


def test_a_private_name_that_a_library_has_no_more_is_a_warning_that_says_what_is_lost(
    world: World,
) -> None:
    library = (
        "class Pool:\n"
        "    __slots__ = ('_limit',)\n"
        "    def __init__(self, size):\n"
        "        self._size = size\n"
        "    def close(self, job):\n"
        "        grace = self._limit\n"
    )
    world.install("pool", "2.1", pool=library)
    world.recogniser(
        "from aioaudit.recognisers import Internal\n"
        "CALL_SITES = {('pool', 'Pool.close'): explained}\n"
        "INTERNALS = (\n"
        "    Internal('_size', 'pool:Pool', 'how many', 'how many there were'),\n"
        "    Internal('_limit', 'pool:Pool', 'how long', 'how long they had'),\n"
        "    Internal('_old', 'pool:Pool', 'whether', 'whether it was'),\n"
        "    Internal('_new', 'pool:Pool', 'whether', 'whether it is', since=(3,)),\n"
        "    Internal('grace', 'pool:Pool.close', '', '', sort='variable'),\n"
        "    Internal('hours', 'pool:Pool.close', '', 'how late it was', sort='variable'),\n"
        "    'no such thing',\n"
        ")\n"
    )
    status, found, stderr = world.doctor()
    assert (status, stderr) == (1, "")
    [each] = [each for each in found if each["subject"] == "pool 2.1"]
    assert each["names"] == {
        "pool.Pool._size": "there",
        "pool.Pool._limit": "there",
        "pool.Pool._old": "gone",
        "pool.Pool._new": "not in this version",
        "grace of pool.Pool.close": "there",
        "hours of pool.Pool.close": "gone",
    }
    assert each["text"].startswith("1 of 1 call sites there, 3 of 5 private names; ")
    text = "missing in pool 2.1; lost: whether it was"
    assert said(found, "pool.Pool._old") == ("warning", text)
    text = "missing in pool 2.1; lost: how late it was"
    assert said(found, "hours of pool.Pool.close") == ("warning", text)


def test_a_private_name_that_python_has_no_more_is_a_warning_that_says_what_is_lost(
    world: World,
) -> None:
    (world.packages / "sitecustomize.py").write_text(
        "import asyncio.base_futures, asyncio.tasks\n"
        "del asyncio.tasks._PyTask, asyncio.base_futures._future_repr_info\n"
    )
    _, found, _ = world.doctor()
    state, text = said(found, "private names")
    there, total = map(int, re.findall(r"\d+", text))
    assert (state, there) == ("warning", total - 3)  # its method is gone with the class
    version = sys.version.split()[0]
    text = f"missing in CPython {version}; lost: tasks of the Python class"
    assert said(found, "asyncio.tasks._PyTask") == ("warning", text)
    state, text = said(found, "asyncio.base_futures._future_repr_info")
    assert (state, "lost: nothing; " in text) == ("note", True)


def test_what_is_compiled_cannot_be_checked_and_is_no_warning(world: World) -> None:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    world.install("pool", "2.1", **{"pool/__init__": "def close(): ...\n"})
    (world.packages / "pool" / f"fast{suffix}").write_bytes(b"not even a library")
    world.recogniser(
        "CALL_SITES = {('pool', 'close'): explained, ('pool.fast', 'close'): explained}\n"
    )
    assert world.about("pool") == (
        "note",
        "1 of 2 call sites there; compiled, cannot be checked: pool.fast;"
        " pool_audit:CALL_SITES of pool-audit 7",
    )


def test_a_library_that_is_not_installed_is_no_warning(world: World) -> None:
    world.recogniser("CALL_SITES = {('pool', 'close'): explained}\n")
    text = "not installed; pool_audit:CALL_SITES of pool-audit 7"
    assert world.about("pool") == ("none", text)


def test_a_library_outside_of_site_packages_is_not_asked_about(world: World) -> None:
    (world.folder / "pool.py").write_text("def close(): ...\n")
    world.recogniser("CALL_SITES = {('pool', 'close'): explained}\n")
    state, text = world.about("pool")
    assert (state, text.startswith(f"not used: {world.folder}/pool.py is in no")) == (
        "warning",
        True,
    )


@pytest.mark.parametrize(
    ("source", "value", "error"),
    [
        ("raise RuntimeError('too old')\n", "pool_audit:CALL_SITES", "RuntimeError: too old"),
        ("", "pool_audit:CALL_SITES", "AttributeError: module 'pool_audit' has no attribute"),
        ("", "pool_audits:CALL_SITES", "ModuleNotFoundError: No module named 'pool_audits'"),
        ("CALL_SITES = ['pool']\n", "pool_audit:CALL_SITES", "TypeError: it is a list, not a"),
    ],
)
def test_a_recogniser_that_cannot_be_loaded_is_named(
    world: World, source: str, value: str, error: str
) -> None:
    world.recogniser(source, value)
    state, text = world.about("pool")
    assert (state, text.startswith(f"{value} of pool-audit 7 cannot be loaded: {error}")) == (
        "warning",
        True,
    ), text


# -- the start-up file ---------------------------------------------------------------------


def test_options_that_switch_the_start_up_file_off_are_named(run_python: Runner) -> None:
    for option in ("-I", "-E"):
        done = run_python(option, "-m", "aioaudit", "doctor", "--json", AIOAUDIT="1")
        found = [json.loads(line) for line in done.stdout.splitlines()]
        state, text = said(found, "aioaudit_autostart.pth")
        assert (done.returncode, state) == (1, "warning")
        assert text.startswith(f"does nothing: Python was started with {option};")


@pytest.mark.sources  # a wheel has no copy to compare the start-up file with
def test_a_start_up_file_that_is_not_installed_or_elsewhere(sparse: World) -> None:
    world = sparse
    state, text = world.about("aioaudit_autostart.pth")
    assert (state, text.startswith("not installed: aioaudit itself comes from ")) == (
        "warning",
        True,
    )
    elsewhere = world.folder / "vendored"
    elsewhere.mkdir()
    files = ROOT / "aioaudit" / "_startup"
    for file in files.glob("*aioaudit_autostart.*"):
        (elsewhere / file.name).write_bytes(file.read_bytes())
    state, text = world.about("aioaudit_autostart.pth", PYTHONPATH=str(elsewhere))
    assert (state, f"{elsewhere}, which is not a folder" in text) == ("warning", True)
    for file in elsewhere.iterdir():
        file.rename(world.packages / file.name)
    assert world.about("aioaudit_autostart.pth") == ("ok", f"in {world.packages}")
    (world.packages / "_aioaudit_autostart.py").write_text("def main(): ...\n")
    state, text = world.about("aioaudit_autostart.pth")
    assert (state, "is an older copy" in text) == ("warning", True)
    (world.packages / "_aioaudit_autostart.py").unlink()
    state, text = world.about("aioaudit_autostart.pth")
    assert (state, "holds no _aioaudit_autostart.py" in text) == ("problem", True)


@pytest.mark.sources  # the files are taken from it
@pytest.mark.parametrize("how", ["no line", "suppressed"])
def test_a_start_up_file_whose_line_python_does_not_run(sparse: World, how: str) -> None:
    """As of all such files from Python 3.18 on."""
    for file in (ROOT / "aioaudit" / "_startup").glob("*aioaudit_autostart.*"):
        (sparse.packages / file.name).write_bytes(file.read_bytes())
    if how == "no line":
        (sparse.packages / "aioaudit_autostart.pth").write_text("# taken out by somebody\n")
    elif sys.version_info < (3, 15):
        pytest.skip("before 3.15 nothing else decides whether the line is run")
    else:  # PEP 829: beside such a file import lines are not run
        (sparse.packages / "aioaudit_autostart.start").touch()
    for environ in ({}, {"AIOAUDIT": "jsonl"}):
        state, text = sparse.about("aioaudit_autostart.pth", **environ)
        assert state == "warning"
        assert text.startswith(f"in {sparse.packages}, but this Python does not run its line")
        assert text.endswith("; python -m aioaudit run does without it")


# -- settings, exporters, the log ----------------------------------------------------------


def test_every_wrong_setting_is_named_as_it_was_written(world: World) -> None:
    _, found, _ = world.doctor(
        AIOAUDIT=" JSONL, nope ",
        AIOAUDIT_EVENTS="task.kancel",
        AIOAUDIT_EVENT="task.*",
        AIOAUDIT_OTEL_STATUS="cause",
        AIOAUDIT_JSONL_PATH="{host}.jsonl",
    )
    wrong = {each["subject"]: (each["state"], each["text"]) for each in found}
    state, text = wrong["AIOAUDIT"]
    assert (state, text.startswith("' JSONL, nope ': 'JSONL' is no exporter")) == ("problem", True)
    state, text = wrong["AIOAUDIT_EVENTS"]
    assert state == "problem"
    assert text.startswith("'task.kancel': 'task.kancel' is no event (did you mean 'task.cancel'?)")
    assert wrong["AIOAUDIT_OTEL_STATUS"] == ("ok", "'cause'")
    state, text = wrong["AIOAUDIT_JSONL_PATH"]
    assert (state, "{host} stands for nothing" in text) == ("problem", True)
    state, text = wrong["AIOAUDIT_EVENT"]
    assert (state, "did you mean 'AIOAUDIT_EVENTS'?" in text) == ("warning", True)
    assert world.about("AIOAUDIT", AIOAUDIT="Off") == ("none", "'Off': off")


def test_every_setting_that_there_is_is_known(world: World) -> None:
    there = {each.name: each.default for each in settings.TABLE}
    there[settings.CORE_VARIABLE] = "python"
    _, found, _ = world.doctor(AIOAUDIT="1", **there)
    states = {each["subject"]: each["state"] for each in found if each["section"] == "settings"}
    assert states == {"AIOAUDIT": "ok"} | dict.fromkeys(there, "ok")


def test_a_variable_of_a_foreign_exporter_is_left_to_it(world: World) -> None:
    world.install(
        "audit-statsd",
        "1",
        "[aioaudit.exporters]\nstatsd = audit_statsd:make\n",
        audit_statsd="def make():\n    return None\n",
    )
    _, found, _ = world.doctor(
        AIOAUDIT_STATSD="host:1",
        AIOAUDIT_STATSD_PREFIX="a",
        AIOAUDIT_STAT="",
        AIOAUDIT_CORE="python",
    )
    states = {each["subject"]: each["state"] for each in found if each["section"] == "settings"}
    assert states == {
        "AIOAUDIT": "none",
        "AIOAUDIT_CORE": "ok",
        "AIOAUDIT_SLOW_CANCEL": "ok",  # of `clean_environ`
        "AIOAUDIT_STATSD": "none",
        "AIOAUDIT_STATSD_PREFIX": "none",
        "AIOAUDIT_STAT": "warning",
    }


def test_an_exporter_whose_packages_are_missing_names_its_extra(sparse: World) -> None:
    lacks = "needs structlog, not installed: pip install 'aioaudit[structlog]'"
    _, found, _ = sparse.doctor()
    assert said(found, "structlog") == ("none", lacks)
    assert said(found, "otel")[0] == "none"
    assert said(found, "logging") == ("ok", "needs nothing more")
    assert sparse.about("structlog", AIOAUDIT="structlog") == ("problem", lacks)


def test_otel_is_asked_where_it_would_send(world: World) -> None:
    pytest.importorskip("opentelemetry.sdk")
    environ = {"AIOAUDIT": "otel", "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"}
    state, text = world.about("otel", **environ)
    assert (state, "OTEL_EXPORTER_OTLP_PROTOCOL='pigeon'" in text) == ("problem", True)


def test_exporters_of_other_packages_are_loaded_and_named(world: World) -> None:
    world.install(
        "carrier",
        "0.3",
        "[aioaudit.exporters]\n"
        "pigeon = carrier:Pigeon\n"
        "lost = carrier:Lost\n"
        "word = carrier:WORD\n"
        "otel = carrier:Pigeon\n",
        carrier="class Pigeon: ...\nWORD = 'coo'\n",
    )
    _, found, _ = world.doctor(AIOAUDIT="jsonl,lost")
    of = "of carrier 0.3"
    assert said(found, "pigeon") == ("ok", f"carrier:Pigeon {of}")
    assert said(found, "word") == ("warning", f"carrier:WORD {of} cannot be called")
    state, text = said(found, "lost")
    assert state == "problem"  # it is asked for
    assert text.startswith(f"carrier:Lost {of} cannot be loaded: AttributeError: ")
    ours, theirs = [each for each in found if each["subject"] == "otel"]
    assert (ours["state"], theirs["state"]) == ("ok", "warning")
    assert theirs["text"] == f"carrier:Pigeon {of} is never used: the name is one of aioaudit's own"


def test_a_log_that_could_not_be_written_is_a_problem_where_it_is_wanted(world: World) -> None:
    def about(path: str, wanted: str = "jsonl") -> tuple[str, str]:
        return said(world.doctor(AIOAUDIT=wanted, AIOAUDIT_JSONL_PATH=path)[1], "jsonl", "log")

    missing = f"{world.folder}/logs/{{pid}}.jsonl"
    text = f"{missing}: the folder does not exist, and none is made"
    assert about(missing) == ("problem", text)
    assert about(missing, "logging") == ("warning", text)
    (world.folder / "logs").write_text("")
    assert about(missing) == ("problem", f"{missing}: the folder is no folder, and none is made")
    (world.folder / "logs").unlink()
    (world.folder / "logs").mkdir()
    assert about("logs/x-{pid}.jsonl") == ("ok", f"{world.folder}/logs/x-{{pid}}.jsonl")
    assert about("logs")[0] == "problem"
    # Root may write everywhere, but not what a file system does not take.
    assert about("/proc/{pid}.jsonl") == (
        "problem",
        "/proc/{pid}.jsonl: it cannot be written: No such file or directory",
    )
    assert about("/dev/null") == ("ok", "/dev/null")
    assert [each.name for each in (world.folder / "logs").iterdir()] == []


# -- the interpreter and its loops ---------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is there since 3.12")
def test_who_holds_the_tool_ids_of_monitoring_is_said(world: World) -> None:
    take = "import sys\nfor tool in {}: sys.monitoring.use_tool_id(tool, 'greedy')\n"
    (world.packages / "sitecustomize.py").write_text(take.format("(3, 5)"))
    assert world.about("sys.monitoring") == (
        "ok",
        "free tool ids: 0, 1, 2, 4; taken: 3 is 'greedy', 5 is 'greedy'",
    )
    (world.packages / "sitecustomize.py").write_text(take.format("range(6)"))
    state, text = world.about("sys.monitoring")
    assert (state, text.startswith("no tool id is free; taken: 0 is 'greedy',")) == (
        "problem",
        True,
    )


def test_a_loop_on_which_nothing_can_be_seen_is_a_problem(world: World) -> None:
    (world.folder / "uvloop.py").write_text(
        "def new_event_loop():\n    raise RuntimeError('no loop today')\n"
    )
    _, found, _ = world.doctor()
    state, text = said(found, "uvloop")
    assert (state, text) == ("problem", "not supported: RuntimeError: no loop today")
    assert said(found, "asyncio", "loops")[0] == "ok"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="auditing takes a tool id since 3.12")
@pytest.mark.parametrize("first", ["", "import asyncio\n"], ids=["", "asyncio is imported before"])
def test_the_doctor_itself_is_not_audited(world: World, first: str) -> None:
    files = Path(sysconfig.get_path("purelib")) if WHEEL else ROOT / "aioaudit" / "_startup"
    for file in files.glob("*aioaudit_autostart.*"):
        (world.packages / file.name).write_bytes(file.read_bytes())
    (world.packages / "zzz.pth").write_text(first)
    for environ in ({"AIOAUDIT": "jsonl"}, {}):
        assert world.about("sys.monitoring", **environ) == (
            "ok",
            "free tool ids: 0, 1, 2, 3, 4, 5",
        )
    assert list(world.folder.iterdir()) == []
