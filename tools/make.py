"""What ``make test``, ``make demo`` and ``make lint`` do, with nothing but Python.

The wheel is built through the source distribution (which catches files missing
from it), installed into an environment for each interpreter, and tested from a
folder that holds the tests and not the sources, so that what is tested is what
people install.  Environments live in ``.venv/`` and are used again for as long
as their interpreter and their dependencies stay the same.
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
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venv"
OLDEST = (3, 11)
TESTED = ("3.11", "3.12", "3.13", "3.14", "3.15")
"""What ``PYTHONS=all`` means."""
UNPACKER = ROOT.parent / "shared" / "tools" / "cpython-from-debian"
"""Prints the path of a CPython that it unpacks; beside some checkouts, and nothing needs it."""
SOURCES = ("aioaudit", "exporters")
"""What the tested copy of the tree must not hold."""
EXPORTERS = [
    f"tests/{name}.py"
    for name in (
        "process/test_structlog_exporter",
        "process/test_logging_exporter",
        "unit/test_otel_spans",
        "process/test_otel_exporter",
        "process/test_otel_metrics",
        "unit/test_witness",
    )
]
"""What is tested with the oldest packages, too."""
NOTHING_CHOSEN = 5
"""pytest's exit status where ``PYTEST_ARGS`` leaves none of its tests."""
PYODIDE = "pyodide@314"
"""Of npm: CPython 3.14 for Node.js."""

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
    targets = {"test": test, "demo": demo, "lint": lint}
    if len(argv) != 1 or argv[0] not in targets:
        print(f"usage: python tools/make.py ({' | '.join(targets)})", file=sys.stderr)
        return 2
    try:
        return targets[argv[0]]()
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, cast("list[object]", error.cmd)))
        print(f"make {argv[0]}: status {error.returncode} from: {command}", file=sys.stderr)
        return 1


def test() -> int:
    """Check the sources, then test the wheel on every interpreter found."""
    interpreters = find_interpreters()
    if not interpreters:
        return 1
    wheel, sdist = build(interpreters[-1])
    clean = check_sources(interpreters[-1])
    copy = tested_copy(sdist)
    pyodide = find_pyodide()
    suites = find_suites()
    results: list[tuple[Interpreter, int, str]] = []
    for interpreter in interpreters:
        python = environment(f"test-{interpreter.short}", interpreter, ["all"], ["test"], wheel)
        say(f"pytest on CPython {interpreter.long}")
        environ = {
            "AIOAUDIT_TEST_WHEEL": str(wheel),
            "AIOAUDIT_TEST_SDIST": str(sdist),
            "AIOAUDIT_TEST_PYODIDE": str(pyodide),
            "AIOAUDIT_TEST_SUITES": str(suites),
            "AIOAUDIT_TEST_BACKENDS": str(VENVS / "backends"),  # made by the first who needs them
        }
        status, closing = pytest(python, copy, environ)
        results.append((interpreter, status, closing))
    say("summary")
    print("sources:", "clean" if clean else "FAILED, see above")
    for interpreter, _, closing in results:
        print(f"CPython {interpreter.long}: {closing.strip('= ')}")
    failed = [result for result in results if result[1] != 0]
    # Whoever reads only the end reads pytest's own words, and of a failure first.
    print((failed or results)[-1][2], flush=True)
    return 0 if clean and not failed else 1


def demo() -> int:
    """Run the examples with the wheel installed."""
    interpreters = find_interpreters(quiet=True)
    if not interpreters:
        return 1
    wheel, _ = build(interpreters[-1])
    python = environment("demo", interpreters[-1], ["cli"], ["demo"], wheel)
    done = subprocess.run([python, "examples/demo.py"], check=False, cwd=ROOT, env=clean_environ())
    return done.returncode


def lint() -> int:
    """Check the sources."""
    interpreters = find_interpreters(quiet=True)
    return 0 if interpreters and check_sources(interpreters[-1]) else 1


def say(headline: str) -> None:
    """Tell what comes next."""
    print(f"\n--- {headline}", flush=True)


def find_interpreters(*, quiet: bool = False) -> list[Interpreter]:
    """Every CPython that can be tested on, oldest first, one for each minor version."""
    named = os.environ.get("PYTHONS", "").split()
    search = _Search([*TESTED] if named == ["all"] else named)
    search.look_at(_candidates())
    search.look_at(_unpacked([each for each in search.wanted if each not in search.newest]))
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
        missing = [
            each
            for each in TESTED
            if each in (search.wanted or TESTED) and each not in search.newest
        ]
        if missing:
            how = "; PYTHONS=all unpacks them" if UNPACKER.exists() else ""
            print(f"without  CPython {', '.join(missing)}: not found here{how}")
        sys.stdout.flush()
    return interpreters


class _Search:
    """Looks at what may be a Python, and keeps the newest of each minor version of *wanted*."""

    def __init__(self, wanted: list[str]) -> None:
        self.wanted = wanted
        self.newest: dict[str, Interpreter] = {}
        self.skipped: list[str] = []
        self._seen: set[str] = set()

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


def run(*command: str | Path, quiet: bool = False) -> None:
    """Run *command* in the tree; with *quiet* its output is shown only if it fails."""
    done = subprocess.run(
        command,
        check=False,  # below, after its output was shown
        cwd=ROOT,
        env=clean_environ(),
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )
    if done.returncode and quiet:
        print(done.stdout, file=sys.stderr)
    done.check_returncode()


def build(interpreter: Interpreter) -> tuple[Path, Path]:
    """The wheel, built from the source distribution, and that."""
    say("build")
    python = environment("build", interpreter, [], [], None, more=["build>=1.2"])
    dist = VENVS / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    run(python, "-m", "build", "--outdir", dist, ROOT, quiet=True)
    [wheel] = dist.glob("*.whl")
    [sdist] = dist.glob("*.tar.gz")
    print(f"{wheel.name}, from {sdist.name}", flush=True)
    return wheel, sdist


def tested_copy(sdist: Path) -> Path:
    """What the source distribution holds beside the sources."""
    copy = VENVS / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.rmtree(VENVS / "unpacked", ignore_errors=True)
    with tarfile.open(sdist) as archive:
        # Ours, made a moment ago; 3.12 wants to be told, before 3.11.4 nobody could.
        archive.extraction_filter = getattr(tarfile, "data_filter", _as_it_is)
        archive.extractall(VENVS / "unpacked")  # noqa: S202 - no stranger's archive
    [top] = (VENVS / "unpacked").iterdir()
    top.rename(copy)
    (VENVS / "unpacked").rmdir()
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


def oldest_environment(interpreter: Interpreter, wheel: Path) -> Path:
    """The Python of an environment that holds the oldest packages which ours allows."""
    wanted = _requirements(["cli", "structlog", "otel", "otel-grpc"], [], with_own=True)
    pinned = [requirement.replace(">=", "==") for requirement in wanted]
    tools = [each for each in _requirements([], ["test"], with_own=False) if "pytest" in each]
    return environment("test-oldest", interpreter, [], [], wheel, more=[*pinned, *tools])


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


def check_sources(interpreter: Interpreter) -> bool:
    """Run the linter and both type checkers over the tree; whether all were content."""
    say("sources: ruff, mypy, pyright")
    own = _requirements([], [], with_own=True)
    python = environment("lint", interpreter, ["all"], ["dev"], None, more=own)
    commands: list[list[str]] = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["pyright", "--warnings", "--pythonpath", str(python)],
    ]
    clean = True
    for command in commands:
        print(f"$ {' '.join(command)}", flush=True)
        full = [str(python), "-m", *command]
        clean &= subprocess.run(full, check=False, cwd=ROOT, env=clean_environ()).returncode == 0
    return clean


def find_pyodide() -> Path:
    """The folder that holds Pyodide, put there by npm if it lacks and npm is there.

    Nothing but one smoke test needs it, which says that it was skipped where this fails.
    """
    folder = VENVS / "pyodide"
    npm, node = shutil.which("npm"), shutil.which("node")
    if (folder / "node_modules" / "pyodide").exists() or npm is None or node is None:
        return folder
    print(f"making .venv/pyodide with {PYODIDE}", flush=True)
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
        run(npm, "install", *options, PYODIDE, quiet=True)
    except subprocess.CalledProcessError as error:
        print(f"npm install {PYODIDE} ended with status {error.returncode}: goes without")
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


def pytest(
    python: Path, copy: Path, variables: dict[str, str], files: Sequence[str] = ()
) -> tuple[int, str]:
    """Run the tests in *copy*, or in some *files* of it; exit status and pytest's closing line."""
    command = [str(python.with_name("pytest")), *shlex.split(os.environ.get("PYTEST_ARGS", ""))]
    command += files
    if sys.stdout.isatty():
        command.append("--color=yes")
    environ = clean_environ(**variables)
    closing = ""
    with subprocess.Popen(
        command, cwd=copy, env=environ, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None  # it was asked for above
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            closing = line.rstrip("\n") if line.strip() else closing
    return process.returncode, closing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
