"""What ``make test``, ``make quick``, ``make demo`` and ``make lint`` do, with nothing but Python.

A wheel for each interpreter is built through the source distribution (which catches files
missing from it), installed into an environment of its own, and tested from a
folder that holds the tests and not the sources, so that what is tested is what
people install.  Environments live in ``.venv/`` and are used again for as long
as their interpreter and their dependencies stay the same.

Where there is a C compiler the wheels are native.  All tests then run with one of the two
cores on each interpreter, and with the other one those that would tell a difference.

The tests of one interpreter are spread over processes by pytest-xdist, and two
interpreters are tested side by side.  What they print goes to ``.venv/logs/`` and
is shown one interpreter after the other, the first of them while it runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venv"
OLDEST = (3, 11)
TESTED = ("3.11", "3.12", "3.13", "3.14", "3.15")
"""What is tested on where ``PYTHONS`` names nothing else."""
UNPACKER = ROOT.parent / "shared" / "tools" / "cpython-from-debian"
"""Prints the path of a CPython that it unpacks; beside some checkouts, and nothing needs it."""
SOURCES = ("aioaudit", "exporters")
"""What the tested copy of the tree must not hold."""
OF_SOURCES = ("tests/unit", "tests/process/test_doctor.py")
"""Where tests are that look at the sources; they are marked so."""
WITH_OLDEST = tuple(
    f"tests/{name}.py"
    for name in (
        "libraries/test_aiohttp",
        "libraries/test_aiotools",
        "libraries/test_anyio",
        "libraries/test_arq",
        "libraries/test_asgi",
        "libraries/test_asyncpg",
        "libraries/test_call_sites",
        "libraries/test_daphne",
        "libraries/test_django",
        "libraries/test_grpc",
        "libraries/test_gunicorn",
        "libraries/test_helpers",
        "libraries/test_litestar",
        "libraries/test_mcp",
        "libraries/test_notebook",
        "libraries/test_procrastinate",
        "libraries/test_pytest_asyncio",
        "libraries/test_redis",
        "libraries/test_sanic",
        "libraries/test_saq",
        "libraries/test_sse_starlette",
        "libraries/test_strawberry",
        "libraries/test_taskiq",
        "libraries/test_telegram",
        "libraries/test_textual",
        "libraries/test_tornado",
        "libraries/test_twisted",
        "process/test_log_lines",
        "process/test_logging_exporter",
        "process/test_otel_exporter",
        "process/test_otel_metrics",
        "process/test_structlog_exporter",
        "unit/test_otel_internals",
        "unit/test_otel_spans",
        "unit/test_witness",
    )
)
"""What is tested with the oldest packages, too: recognisers and exporters."""
IN_PYTHON = ("3.12", "3.14")
"""Where all tests run with the core in Python, and not with the native one, if there is that."""
OTHER_CORE = (
    "tests/judges/test_random_anyio.py",
    "tests/judges/test_random_collisions.py",
    "tests/judges/test_random_trees.py",
    "tests/judges/test_schema.py",
    "tests/process/test_core.py",
    "tests/process/test_jsonl_processes.py",
    "tests/process/test_log_lines.py",
    "tests/process/test_python_tasks.py",
    "tests/process/test_scenarios.py",
    "tests/process/test_without_monitoring.py",
    "tests/unit",
)
"""What runs with the other core, too: it sees how tasks begin, are cancelled and end."""
NOTHING_CHOSEN = 5
"""pytest's exit status where ``PYTEST_ARGS`` leaves none of its tests."""
SIDE_BY_SIDE = 2
"""So many interpreters are tested at a time: while one waits for its slowest test, another works."""
WORKERS = max(2, os.cpu_count() or 1)
"""Processes for the tests of one interpreter; many tests wait, more than they compute."""
PYODIDE = "pyodide@314"
"""Of npm: CPython 3.14 for Node.js."""
BROWSER = "playwright-core@1"
"""Of npm: what drives a browser, which is there already or not."""

PROBE = """
import json, sys, sysconfig
try:
    import venv, ensurepip
except ImportError as error:
    lacks = f"cannot make environments: {error}"
else:
    lacks = ""
print(json.dumps([
    sys.implementation.name,
    list(sys.version_info[:3]),
    sys.version_info.releaselevel,
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    getattr(sys, "_base_executable", None) or sys.executable,
    lacks,
]))
"""


@dataclass(frozen=True)
class Interpreter:
    """One CPython to test on."""

    path: str
    version: tuple[int, int, int]

    @property
    def short(self) -> str:
        """``3.13``."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def long(self) -> str:
        """``3.13.0``."""
        return ".".join(map(str, self.version))


def main(argv: list[str]) -> int:
    """Do what *argv* names; returns the exit status."""
    targets = {
        "test": test,
        "quick": quick,
        "demo": demo,
        "lint": lint,
        "docs": docs,
        "bench": bench,
    }
    if len(argv) != 1 or argv[0] not in targets:
        print(f"usage: python tools/make.py ({' | '.join(targets)})", file=sys.stderr)
        return 2
    try:
        return targets[argv[0]]()
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, cast("list[object]", error.cmd)))
        print(f"make {argv[0]}: status {error.returncode} from: {command}", file=sys.stderr)
        return 1


@dataclass(frozen=True)
class Run:
    """Tests in one environment."""

    title: str
    """What is said of it: ``CPython 3.13.0``."""
    python: Path
    """The Python of its environment."""
    variables: Mapping[str, str]
    """What the tests are told, as environment variables."""
    files: tuple[str, ...] = ()
    """The tests; empty for all."""

    @property
    def name(self) -> str:
        """What its log is called, without blanks."""
        return re.sub(r"[^\w.]+", "-", self.title)


@dataclass
class Result:
    """What became of a run."""

    statuses: list[int] = field(default_factory=list)
    """pytest's exit statuses, one for each of its parts."""
    closings: list[str] = field(default_factory=list)
    """pytest's closing lines."""
    may_be_empty: bool = False
    """Only a part of the tests was to run, and ``PYTEST_ARGS`` may choose none of it."""
    kept: Path | None = None
    """What the tests wrote, if one failed."""

    @property
    def passed(self) -> bool:
        """Whether tests were run, and none failed."""
        ran = 0 in self.statuses or self.may_be_empty
        return ran and set(self.statuses) <= {0, NOTHING_CHOSEN}

    @property
    def closing(self) -> str:
        """The closing line of all parts, as pytest would have written it for one."""
        counts: dict[str, int] = {}
        seconds = 0.0
        for line in self.closings:
            counted, _, took = line.strip("= ").rpartition(" in ")
            if not re.match(r"[\d.]+s", took):
                return line  # pytest came to no end; these are its last words
            seconds += float(took.partition("s")[0])
            for number, what in re.findall(r"(\d+) ([a-z]+)", counted):
                counts[what] = counts.get(what, 0) + int(number)
        counts.pop("deselected", None)  # each part leaves out the tests of the other
        failures = ("failed", "error", "errors")
        told = ", ".join(
            f"{counts[what]} {what}"
            for what in sorted(counts, key=lambda what: what not in failures)
        )
        minutes, rest = divmod(int(seconds), 60)
        clock = f" ({minutes // 60}:{minutes % 60:02}:{rest:02})" if minutes else ""
        return f" {told or 'no tests ran'} in {seconds:.2f}s{clock} ".center(80, "=")


def test() -> int:
    """Check the sources, then test the wheel on every interpreter found."""
    interpreters = find_interpreters()
    if not interpreters:
        return 1
    wheel, sdist = build(interpreters[-1])
    wheels = build_others(interpreters, wheel, sdist)
    variables = {
        "AIOAUDIT_TEST_SDIST": str(sdist),
        "AIOAUDIT_TEST_PYODIDE": str(find_in_npm("pyodide", PYODIDE)),
        "AIOAUDIT_TEST_SUITES": str(find_suites()),
        "AIOAUDIT_TEST_BACKENDS": str(VENVS / "backends"),  # made by the test that needs them
    }
    newest = {"AIOAUDIT_TEST_BROWSER": str(find_in_npm("browser", BROWSER))}
    between = interpreters[1:-1]
    copy = tested_copy(sdist)
    say("environments")
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        linters = pool.submit(lint_environment, interpreters[-1])
        begun = [
            pool.submit(
                whole_run,
                each,
                wheels[each.short],
                # The marker any_python of pyproject.toml says more.
                variables
                | ({"AIOAUDIT_TEST_BETWEEN": "1"} if each in between else {})
                | (newest if each is interpreters[-1] else {}),
            )
            for each in interpreters
        ]
        if interpreters[0].version[:2] == OLDEST:
            # Its tests are of packages; those of none have no more to say than on other Pythons.
            on_oldest = variables | {"AIOAUDIT_TEST_BETWEEN": "1"}
            begun.append(pool.submit(oldest_run, interpreters[0], wheels["3.11"], on_oldest))
        else:
            print(
                "without  the oldest packages: many of them are for CPython 3.11 and not for newer"
            )
        runs = [each.result() for each in begun]
    runs += [
        other_core(run)
        for run, each in zip(runs, interpreters, strict=False)
        if is_native(wheels[each.short])
    ]
    if between:
        ends = f"{interpreters[0].long} and {interpreters[-1].long}"
        print(f"what depends on no Python is tested on CPython {ends} alone")
    clean = finish_checks(begin_checks(linters.result()))
    results: dict[str, Result] = {}
    with side_by_side(runs, copy) as under_way:
        for run, log, to_be in under_way:
            say(f"pytest on {run.title}")
            show(log, to_be)
            results[run.title] = to_be.result()
    say("summary")
    print("sources:", "clean" if clean else "FAILED, see above")
    # Whoever reads only the end reads pytest's own words, and of a failure if there is one.
    for title, result in sorted(results.items(), key=lambda each: not each[1].passed):
        failed = f" FAILED, see above; what its tests wrote is in {result.kept}"
        print(f"{title}{'' if result.passed else failed}\n{result.closing}")
    sys.stdout.flush()
    return 0 if clean and all(result.passed for result in results.values()) else 1


def whole_run(interpreter: Interpreter, wheel: Path, variables: Mapping[str, str]) -> Run:
    """All tests on *interpreter*, with the newest packages."""
    python = environment(f"test-{interpreter.short}", interpreter, ["all"], ["test"], wheel)
    core = "native" if is_native(wheel) and interpreter.short not in IN_PYTHON else "python"
    return Run(
        f"CPython {interpreter.long}, {core} core",
        python,
        {**variables, "AIOAUDIT_TEST_WHEEL": str(wheel), "AIOAUDIT_CORE": core},
    )


def other_core(run: Run) -> Run:
    """What is sensitive to the core, with the one that *run* does not have."""
    core = "python" if run.variables["AIOAUDIT_CORE"] == "native" else "native"
    title = f"{run.title.partition(',')[0]}, {core} core, what depends on it"
    # The marker any_python of pyproject.toml says more.
    variables = {**run.variables, "AIOAUDIT_CORE": core, "AIOAUDIT_TEST_BETWEEN": "1"}
    return Run(title, run.python, variables, OTHER_CORE)


def oldest_run(interpreter: Interpreter, wheel: Path, variables: Mapping[str, str]) -> Run:
    """What uses other people's packages, on *interpreter*, with the oldest of each that we allow."""
    extras = ["cli", "top", "structlog", "otel", "otel-grpc", "otel-instrument"]
    allowed = _requirements(extras, ["libraries"], with_own=True)
    tools = _requirements([], ["tools"], with_own=False)
    python = environment(
        "test-oldest", interpreter, [], [], wheel, more=[*map(pinned, allowed), *tools]
    )
    # All of these run with the native one, too, where there is that: with the newest packages.
    variables = {**variables, "AIOAUDIT_TEST_WHEEL": str(wheel), "AIOAUDIT_CORE": "python"}
    title = f"CPython {interpreter.long}, python core, oldest packages"
    return Run(title, python, variables, WITH_OLDEST)


def pinned(requirement: str) -> str:
    """The lower bound of *requirement* alone; what follows ``;`` says where it holds and stays."""
    name, mark, where = requirement.partition(";")
    return name.replace(">=", "==") + mark + where


def demo() -> int:
    """Run the examples with the wheel installed."""
    interpreters = find_interpreters(quiet=True)
    if not interpreters:
        return 1
    wheel, _ = build(interpreters[-1])
    python = environment("demo", interpreters[-1], ["cli"], ["demo"], wheel)
    done = subprocess.run([python, "examples/demo.py"], check=False, cwd=ROOT, env=clean_environ())
    return done.returncode


def docs() -> int:
    """Build the documentation as a site; a link that leads nowhere is an error."""
    interpreters = find_interpreters(quiet=True)
    if not interpreters:
        return 1
    wheel, _ = build(interpreters[-1])
    python = environment("docs", interpreters[-1], [], ["docs"], wheel)
    say("mkdocs")
    # -P: the API is described as it is installed, not as it lies in the tree.
    words: list[str | Path] = [python, "-P", "-m", "mkdocs", "build", "--strict", "--quiet"]
    environ = clean_environ(NO_MKDOCS_2_WARNING="1")  # an advertisement of its theme
    status = subprocess.run(words, check=False, cwd=ROOT, env=environ).returncode
    if not status:
        print(VENVS / "site" / "index.html")
    return status


def bench() -> int:
    """Measure what auditing costs, and append the ratios to the history."""
    interpreters = find_interpreters(quiet=True)
    if not interpreters:
        return 1
    wheel, _ = build(interpreters[-1])
    python = whole_run(interpreters[-1], wheel, {}).python
    say("benchmarks/overhead.py")
    words: list[str | Path] = [
        python,
        "benchmarks/overhead.py",
        "--history",
        "benchmarks/history.jsonl",
        *shlex.split(os.environ.get("BENCH_ARGS", "")),
    ]
    return subprocess.run(words, check=False, cwd=ROOT, env=clean_environ()).returncode


def quick() -> int:
    """Run the tests that start no process, in the tree, and check the sources meanwhile."""
    interpreters = find_interpreters(quiet=True)
    if not interpreters:
        return 1
    python = lint_environment(interpreters[-1])
    checks = begin_checks(python, tests=False)  # most of those run below
    say(f"tests/unit on CPython {interpreters[-1].long}")
    chosen = shlex.split(os.environ.get("PYTEST_ARGS", ""))
    words: list[str | Path] = [
        python,
        "-m",
        "pytest",
        "-q",
        "-n",
        str(WORKERS),
        "tests/unit",
        *chosen,
    ]
    passed = subprocess.run(words, check=False, cwd=ROOT, env=clean_environ()).returncode == 0
    clean = finish_checks(checks)
    return 0 if passed and clean else 1


def lint() -> int:
    """Check the sources."""
    interpreters = find_interpreters(quiet=True)
    if not interpreters:
        return 1
    return 0 if finish_checks(begin_checks(lint_environment(interpreters[-1]))) else 1


def say(headline: str) -> None:
    """Tell what comes next."""
    print(f"\n--- {headline}", flush=True)


def find_interpreters(*, quiet: bool = False) -> list[Interpreter]:
    """Every CPython that can be tested on, oldest first, one for each minor version."""
    named = os.environ.get("PYTHONS", "").split()
    search = _Search([] if named == ["all"] else named)
    search.look_at(_candidates())
    if named or not quiet:  # where any will do, none need be unpacked
        missing = [each for each in search.wanted or TESTED if each not in search.found]
        search.look_at(_unpacked(missing))
    interpreters = sorted(search.newest.values(), key=lambda found: found.version)
    if not interpreters:
        print("no CPython >= 3.11 to work with; looked at:", file=sys.stderr)
        print("\n".join(f"  {line}" for line in search.skipped), file=sys.stderr)
    elif not quiet:
        say("interpreters")
        for found in interpreters:
            print(f"found    {found.path}: CPython {found.long}")
        for line in search.skipped:
            print(f"skipped  {line}")
        missing = [each for each in search.wanted or TESTED if each not in search.found]
        if missing:
            print(f"without  CPython {', '.join(missing)}: not found here")
        sys.stdout.flush()
    return interpreters


class _Search:
    """Looks at what may be a Python, and keeps the newest of each minor version.

    Of those that *wanted* names, if it names any.
    """

    def __init__(self, wanted: list[str]) -> None:
        self.wanted = wanted
        self.newest: dict[str, Interpreter] = {}
        self.skipped: list[str] = []
        self._seen: set[str] = set()

    @property
    def found(self) -> set[str]:
        """What was found, by both names that may have been asked for."""
        return {name for each in self.newest.values() for name in (each.short, each.long)}

    def look_at(self, candidates: list[str]) -> None:
        """Keep those of *candidates* that can be tested on, and say why the others cannot."""
        for candidate in candidates:
            found, reason = _ask(candidate)
            if found is None:
                self.skipped.append(f"{candidate}: {reason}")
                continue
            real = os.path.realpath(found.path)
            if real in self._seen:
                continue
            self._seen.add(real)
            if found.version[:2] < OLDEST:
                self.skipped.append(f"{found.path}: {found.long} is older than 3.11")
            elif reason:
                self.skipped.append(f"{found.path}: {found.long} {reason}")
            elif self.wanted and not {found.short, found.long} & set(self.wanted):
                only = " ".join(self.wanted)
                self.skipped.append(f"{found.path}: {found.long} is not among PYTHONS={only}")
            else:
                self._keep(found)

    def _keep(self, found: Interpreter) -> None:
        other = self.newest.get(found.short)
        if other is not None and other.version >= found.version:
            found, other = other, found
        if other is not None:
            self.skipped.append(
                f"{other.path}: {other.long}, {found.long} stands for {found.short}"
            )
        self.newest[found.short] = found


def _unpacked(versions: list[str]) -> list[str]:
    """Those Pythons of *versions* that can be had, where something is at hand that unpacks them."""
    found: list[str] = []
    for version in versions:
        if version in TESTED and UNPACKER.exists():
            print(f"unpacking CPython {version}", flush=True)
            done = subprocess.run([UNPACKER, version], check=False, capture_output=True, text=True)
            if done.returncode:
                print(f"that ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
            else:
                found.append(done.stdout.strip())
    return found


def _candidates() -> list[str]:
    """Whatever may be a Python: this one, those of pyenv, those on the path."""
    found = [sys.executable]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found += [str(path) for path in sorted(pyenv.glob("versions/*/bin/python"))]
    name = re.compile(r"python(3(\.\d+)?)?")
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = Path(folder)
        if path == pyenv / "shims" or not path.is_dir():
            continue  # a shim starts one of the versions above
        found += [str(file) for file in sorted(path.glob("python*")) if name.fullmatch(file.name)]
    return list(dict.fromkeys(found))


def _ask(candidate: str) -> tuple[Interpreter | None, str]:
    """What *candidate* is, and why it cannot be used (empty where it can)."""
    try:
        answer = subprocess.run(
            [candidate, "-I", "-c", PROBE], check=False, capture_output=True, text=True, timeout=60
        )
        name, version, level, free_threaded, path, lacks = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return None, f"does not start or is no Python 3 ({type(error).__name__})"
    found = Interpreter(path, (version[0], version[1], version[2]))
    if name != "cpython":
        return found, f"is {name}, not CPython"
    if level != "final":
        return found, f"is a pre-release ({level})"
    if free_threaded:
        return found, "is free-threaded, which is not supported"
    return found, lacks


def clean_environ(**more: str) -> dict[str, str]:
    """The environment without what would change which modules are imported."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "AIOAUDIT", "PYTEST_")) and key != "VIRTUAL_ENV"
    }
    return kept | more


def run(*command: str | Path, quiet: bool = False, cwd: Path = ROOT, **environ: str) -> str:
    """Run *command* in the tree; with *quiet* its output is given, and shown only if it fails."""
    done = subprocess.run(
        command,
        check=False,  # below, after its output was shown
        cwd=cwd,
        env=clean_environ(**environ),
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )
    if done.returncode and quiet:
        print(done.stdout, file=sys.stderr)
    done.check_returncode()
    return done.stdout or ""


def build(interpreter: Interpreter) -> tuple[Path, Path]:
    """The wheel for *interpreter*, built from the source distribution, and that."""
    say("build")
    dist = VENVS / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    said = run(builder(interpreter), "-m", "build", "--outdir", dist, ROOT, quiet=True)
    [wheel] = dist.glob("*.whl")
    [sdist] = dist.glob("*.tar.gz")
    print(f"{wheel.name}, from {sdist.name}", flush=True)
    print_core(said)
    return wheel, sdist


def builder(interpreter: Interpreter) -> Path:
    """The Python of the environment that builds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requires: list[str] = project["build-system"]["requires"]
    return environment("build", interpreter, [], [], None, more=["build>=1.2", *requires])


def build_others(interpreters: Sequence[Interpreter], wheel: Path, sdist: Path) -> dict[str, Path]:
    """A wheel for each of *interpreters*, the last of which has *wheel* already."""
    *others, last = interpreters
    wheels = {last.short: wheel}
    tree = unpack(sdist, VENVS / "sources")
    python = builder(last)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    # The backend is Python code, and does for all of them: an environment each costs more time
    # than all the rest, and that the build needs nothing else is what `build` has shown.
    backend = run(python, "-c", ask, quiet=True).strip()
    for each in others:
        folder = VENVS / "dist" / each.short
        options: list[str | Path] = ["-t", "wheel", "-d", folder]
        words = [each.path, "-m", "hatchling", "build", *options]
        said = run(*words, quiet=True, cwd=tree, PYTHONPATH=backend)
        [wheels[each.short]] = folder.glob("*.whl")
        print(f"{wheels[each.short].name} for CPython {each.long}", flush=True)
        print_core(said)
    return wheels


def print_core(output: str) -> None:
    """Show what a build's *output* says of the native core."""
    for line in output.splitlines():
        if "aioaudit: " in line:
            print(line[line.index("aioaudit: ") :], flush=True)


def is_native(wheel: Path) -> bool:
    """Whether *wheel* holds the native core."""
    return not wheel.name.endswith("-none-any.whl")


def unpack(sdist: Path, folder: Path) -> Path:
    """What *sdist* holds, in *folder* and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    unpacked = folder.with_name("unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        # Ours, made a moment ago; 3.12 wants to be told, before 3.11.4 nobody could.
        archive.extraction_filter = getattr(tarfile, "data_filter", _as_it_is)
        archive.extractall(unpacked)  # noqa: S202 - no stranger's archive
    [top] = unpacked.iterdir()
    top.rename(folder)
    unpacked.rmdir()
    return folder


def tested_copy(sdist: Path) -> Path:
    """What the source distribution holds beside the sources."""
    copy = unpack(sdist, VENVS / "checkout")
    for name in SOURCES:
        shutil.rmtree(copy / name)
    return copy


def _as_it_is(member: tarfile.TarInfo, _path: str) -> tarfile.TarInfo:
    return member


def environment(
    name: str,
    interpreter: Interpreter,
    extras: list[str],
    groups: list[str],
    wheel: Path | None,
    more: list[str] | None = None,
) -> Path:
    """The Python of the environment *name*, made or brought up to date.

    Args:
        name: Its folder in ``.venv/``.
        interpreter: What it is made with.
        extras: The extras of the package whose dependencies it holds.
        groups: The dependency groups that it holds.
        wheel: What to install; nothing if None.
        more: Further requirements.
    """
    folder = VENVS / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = [*_requirements(extras, groups, with_own=wheel is not None), *(more or [])]
    state = {"python": interpreter.path, "version": interpreter.long, "requirements": wanted}
    stamp = folder / "state.json"
    known = _read_json(stamp)
    if not python.exists() or {key: known.get(key) for key in state} != state:
        print(f"making .venv/{name} with CPython {interpreter.long}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        run(interpreter.path, "-m", "venv", folder, quiet=True)
        run(python, "-m", "pip", "install", "--quiet", *wanted, quiet=True)
        known = {}
    if wheel is not None:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if known.get("wheel") != digest:
            options = ["--quiet", "--force-reinstall", "--no-deps"]
            run(python, "-m", "pip", "install", *options, wheel, quiet=True)
        state["wheel"] = digest
    stamp.write_text(json.dumps(state, indent=1))
    return python


def _read_json(path: Path) -> dict[str, object]:
    try:
        return cast("dict[str, object]", json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _requirements(extras: list[str], groups: list[str], *, with_own: bool) -> list[str]:
    """Requirements as `pyproject.toml` states them; read here because old pips read no groups."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: list[str] = []

    def add_extra(name: str) -> None:
        for requirement in project["project"]["optional-dependencies"][name]:
            own = re.fullmatch(r"aioaudit\[(.+)\]", requirement)
            if own is None:
                found.append(requirement)
            else:
                for each in own[1].split(","):
                    add_extra(each)

    def add_group(name: str) -> None:
        for requirement in project["dependency-groups"][name]:
            if isinstance(requirement, str):
                found.append(requirement)
            else:
                add_group(requirement["include-group"])

    if with_own:
        found += project["project"]["dependencies"]
    for name in extras:
        add_extra(name)
    for name in groups:
        add_group(name)
    return found


def lint_environment(interpreter: Interpreter) -> Path:
    """The Python of the environment that holds the linters, and all that the tree imports."""
    own = _requirements([], [], with_own=True)
    return environment(f"lint-{interpreter.short}", interpreter, ["all"], ["dev"], None, more=own)


Checks = list[tuple[list[str], "subprocess.Popen[str]"]]


def begin_checks(python: Path, *, tests: bool = True) -> Checks:
    """Start the linter, both type checkers and, with *tests*, the tests of the sources."""
    commands: list[list[str]] = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["pyright", "--warnings", "--pythonpath", str(python)],
    ]
    if tests:  # where a wheel is tested there are no sources
        commands.append(["pytest", "-q", "-p", "no:cacheprovider", "-m", "sources", *OF_SOURCES])
    return [
        (
            command,
            subprocess.Popen(
                [python, "-m", *command],
                cwd=ROOT,
                env=clean_environ(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ),
        )
        for command in commands
    ]


def finish_checks(checks: Checks) -> bool:
    """Show what *checks* say; whether all were content."""
    say("sources")
    for command, process in checks:
        print(f"$ {' '.join(command)}\n{process.communicate()[0]}", end="", flush=True)
    return not any(process.returncode for _, process in checks)


def find_in_npm(name: str, package: str) -> Path:
    """The folder ``.venv/NAME`` that holds *package*, put there by npm if it lacks and npm is there.

    Only a test or two need it, which say that they were skipped where this fails.
    """
    folder = VENVS / name
    npm, node = shutil.which("npm"), shutil.which("node")
    there = folder / "node_modules" / package.partition("@")[0]
    if there.exists() or npm is None or node is None:
        return folder
    print(f"making .venv/{name} with {package}", flush=True)
    folder.mkdir(exist_ok=True)
    options: list[str | Path] = [
        "--prefix",
        folder,
        "--no-save",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]
    try:
        run(npm, "install", *options, package, quiet=True)
    except subprocess.CalledProcessError as error:
        print(f"npm install {package} ended with status {error.returncode}: goes without")
        shutil.rmtree(folder)
    return folder


def find_suites() -> Path:
    """The folder that holds anyio's source distribution, fetched if it lacks.

    Its tests are in it, and in no wheel.  Where it cannot be fetched, the test that runs them
    says that it was skipped.
    """
    folder = VENVS / "suites"
    fetched = folder / "sdists" / "anyio"
    if list(fetched.glob("*.tar.gz")):
        return folder
    print("fetching the source distribution of anyio", flush=True)
    fetched.mkdir(parents=True, exist_ok=True)
    python = VENVS / "build" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    options = ["--quiet", "--no-deps", "--no-binary=anyio", "--dest", str(fetched)]
    try:
        run(python, "-m", "pip", "download", *options, "anyio", quiet=True)
    except subprocess.CalledProcessError as error:
        print(f"pip download ended with status {error.returncode}: goes without")
    return folder


@contextmanager
def side_by_side(
    runs: Sequence[Run], copy: Path
) -> Generator[list[tuple[Run, Path, Future[Result]]]]:
    """Begin *runs*, a few at a time, in their order; each with its log and its result to be."""
    logs = VENVS / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    pool = ThreadPoolExecutor(SIDE_BY_SIDE)
    under_way: list[tuple[Run, Path, Future[Result]]] = []
    for run in runs:
        log = logs / f"{run.name}.txt"
        log.touch()
        under_way.append((run, log, pool.submit(pytest, run, copy, log)))
    try:
        yield under_way
    finally:
        pool.shutdown(cancel_futures=True)


def show(log: Path, to_be: Future[Result]) -> None:
    """Print what is written to *log* until the result is there."""
    with log.open(errors="replace") as file:
        over = False
        while not over:
            over = to_be.done()  # what was written until then is read once more
            text = file.read()
            sys.stdout.write(text)
            sys.stdout.flush()
            if not text and not over:
                time.sleep(0.5)


def pytest(run: Run, copy: Path, log: Path) -> Result:
    """Do *run* in *copy*, a folder that holds the tests; what is printed goes to *log*.

    What looks at the traces of all other tests is a part of its own, behind them.
    """
    chosen = shlex.split(os.environ.get("PYTEST_ARGS", ""))
    result = Result(may_be_empty=bool(run.files and chosen))
    base = Path(tempfile.mkdtemp(prefix="tests-"))
    # In no folder that another interpreter uses at the same time.
    cache = VENVS / "logs" / f"{run.name}.cache"
    # Unbuffered, so that who watches sees it as it comes.
    command = [str(run.python), "-u", "-m", "pytest", "-o", f"cache_dir={cache}"]
    if sys.stdout.isatty():
        command.append("--color=yes")
    chosen += run.files
    for part, options in (("first", ["-n", str(WORKERS)]), ("last", [])):
        environ = clean_environ(
            **run.variables,
            AIOAUDIT_TEST_PART=part,
            AIOAUDIT_TEST_LOGS=str(base / "first"),
            HYPOTHESIS_STORAGE_DIRECTORY=str(cache / "hypothesis"),
        )
        words = [*command, *options, f"--basetemp={base / part}", *chosen]
        begin = log.stat().st_size
        with log.open("ab") as output:
            done = subprocess.run(
                words, check=False, cwd=copy, env=environ, stdout=output, stderr=subprocess.STDOUT
            )
        said = log.read_bytes()[begin:].decode(errors="replace").split("\n")
        result.statuses.append(done.returncode)
        result.closings.append(next((line for line in reversed(said) if line.strip()), ""))
    if result.passed:
        shutil.rmtree(base, ignore_errors=True)
    else:
        result.kept = base
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
