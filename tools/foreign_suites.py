"""Run the tests that others wrote for their libraries, plainly and audited, and compare.

    python tools/foreign_suites.py anyio aiohttp --python 3.13 --python 3.12
    python tools/foreign_suites.py --list

For each suite: its source distribution is fetched with ``pip download``, a virtual
environment is made with the library itself from its wheel, what its tests need and this
tree, the tests run ``--rounds`` times plainly (to know which of them waver) and once under
``AIOAUDIT=jsonl``.  A test that is worse with us runs again with its whole file, both
ways, before it counts.  Then ``aioaudit why`` reads what was logged.  It ends with a table,
and with status 1 if a test fails with us that passes without.

All of it is in ``--folder``: sources, environments, and for each run what it printed, the
result of each test and the log.  It needs the network, once for each suite and interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "tools" / "suite_results.py"

RUN_LIMIT = 3600
"""Seconds for one run of a suite."""

TEST_LIMIT = 120
"""Seconds for one test, many times what the suites themselves give: the machine may be busy."""

BETTER = ("passed", "skipped", "xfailed")


@dataclass(frozen=True)
class Suite:
    """The tests of a library, and what it takes to run them.

    Attributes:
        name: The distribution.
        needs: What is installed beside it.
        version: The one whose tests are known to run; empty for the newest.
        args: For pytest, in place of the ``addopts`` of the suite's own settings.
        tests: Where the tests are.
        drop: What of the sources is taken away, so that the installed library is tested.
        without: Why parts of it are left out.
    """

    name: str
    needs: tuple[str, ...] = ()
    version: str = ""
    args: tuple[str, ...] = ()
    tests: tuple[str, ...] = ("tests",)
    drop: tuple[str, ...] = ()
    without: str = ""

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.name}=={self.version}" if self.version else self.name


_PYTEST = ("pytest", "pytest-timeout>=2.4")

SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "anyio",
            needs=(
                "blockbuster>=1.5.29",
                "hypothesis>=6",
                "psutil>=5.9",
                "pytest-mock>=3.14",
                "trustme>=1",
                "truststore>=0.9.1",
                "uvloop>=0.22.1",
            ),
            args=("-p", "anyio", "-p", "pytest_mock", "-m", "not network"),
            without="the network, and trio",
        ),
        Suite(
            "aiohttp",
            needs=(
                "aiodns",
                "aiofastnet",
                "blockbuster",
                "Brotli",
                "freezegun",
                "isal",
                "pkgconfig",
                "proxy.py>=2.4.4rc5",
                "pytest-codspeed",
                "pytest-cov",
                "pytest-mock",
                "pytest-xdist",
                "re-assert",
                "trustme",
                "uvloop",
                "zlib_ng",
            ),
            args=("-m", "not dev_mode and not autobahn and not internal"),
            drop=("aiohttp",),
            without="as its own settings: dev_mode, autobahn, internal",
        ),
        Suite(
            "aiojobs",
            needs=("pytest<9", "pytest-aiohttp", "pytest-asyncio", "aiohttp"),
            args=("-o", "asyncio_mode=auto"),
            drop=("aiojobs",),
        ),
        Suite("aiotools", needs=("pytest-asyncio", "typing-extensions")),
        Suite("async_timeout", needs=("pytest-asyncio",), drop=("async_timeout",)),
        Suite(
            "starlette",
            needs=(
                "blockbuster",
                "httpx",
                "httpx2",
                "importlib-metadata",
                "itsdangerous",
                "jinja2",
                "opentelemetry-sdk",
                "python-multipart",
                "pyyaml",
                "trio",
            ),
            drop=("starlette",),
        ),
        Suite(
            "uvicorn",
            needs=(
                "a2wsgi",
                "cryptography",
                "httptools",
                "httpx2",
                "pytest-codspeed",
                "pytest-mock",
                "python-dotenv",
                "pyyaml",
                "trustme",
                "uvloop",
                "watchfiles",
                "websockets",
                "wsproto",
                "pytest-xdist[psutil]",
            ),
            drop=("uvicorn",),
        ),
        Suite("asgiref", needs=("pytest-asyncio",), drop=("asgiref",)),
        Suite("janus", needs=("pytest-asyncio", "pytest-codspeed"), drop=("janus",)),
        Suite("hypercorn", needs=("httpx", "pytest-asyncio", "pytest-trio", "trio", "h2")),
        Suite("tenacity", needs=("tornado", "typeguard", "pytest-asyncio", "trio")),
    )
}


@dataclass
class Results:
    """What one run of pytest told."""

    folder: Path
    ended: str
    seconds: float
    tests: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def bad(self) -> set[str]:
        """The tests that failed."""
        return {test for test, outcome in self.tests.items() if outcome not in BETTER}

    @property
    def logs(self) -> list[Path]:
        """The audit logs."""
        return sorted(self.folder.glob("log-*.jsonl"))


@dataclass
class Place:
    """One suite on one interpreter: where it is and how it is started."""

    suite: Suite
    version: str
    python: Path
    long: str
    source: Path
    folder: Path

    def run(self, name: str, *tests: str, audited: bool) -> Results:
        """Run *tests* (all without any); what there was under *name* goes."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        environ = clean_environ(SUITE_RESULTS=f"{folder}/results.txt", CI="true")
        if audited:
            environ["AIOAUDIT"] = "jsonl"
            environ["AIOAUDIT_JSONL_PATH"] = f"{folder}/log-{{pid}}.jsonl"
        options = ["-p", "suite_results", "-p", "no:cacheprovider", "-o", "addopts="]
        scratch = folder / "scratch"
        options += ["-o", f"timeout={TEST_LIMIT}", "-q", f"--basetemp={scratch}"]
        command = [str(self.python), "-m", "pytest", *options, *self.suite.args]
        before = cpu_seconds()
        with (folder / "output.txt").open("w") as output:
            process = subprocess.Popen(
                [*command, *(tests or self.suite.tests)],
                cwd=self.source,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                ended = str(process.wait(RUN_LIMIT))
            except subprocess.TimeoutExpired:
                ended = f"killed after {RUN_LIMIT} s"
            finally:
                process.kill()
                process.wait()
        shutil.rmtree(scratch, ignore_errors=True)
        results = Results(folder, ended, cpu_seconds() - before)
        if (folder / "results.txt").exists():
            for line in (folder / "results.txt").read_text().splitlines():
                entry = json.loads(line)
                results.tests[entry["test"]] = entry["outcome"]
        return results


def cpu_seconds() -> float:
    """The processor's time of all children that have ended; unlike the clock it bears company."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def clean_environ(**more: str) -> dict[str, str]:
    """The environment without what would change a run."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "AIOAUDIT", "PYTEST_", "OTEL_", "COVERAGE"))
        and key != "VIRTUAL_ENV"
    }
    return kept | more


def main(argv: list[str]) -> int:
    """Run what *argv* asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="NAME or NAME==VERSION")
    parser.add_argument("--python", action="append", default=[], help="3.13 or a path; repeatable")
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv" / "suites")
    parser.add_argument("--rounds", type=int, default=2, help="plain runs, by default 2")
    parser.add_argument("--tests", nargs="+", default=[], help="these alone, in place of all")
    parser.add_argument("--list", action="store_true", help="the suites that are known")
    options = parser.parse_args(argv)
    if options.list:
        for suite in SUITES.values():
            print(suite.name, f"(without {suite.without})" if suite.without else "")
        return 0
    unknown = [name for name in options.suites if name.partition("==")[0] not in SUITES]
    if unknown:
        print(f"no suite {', '.join(unknown)}; known: {', '.join(SUITES)}", file=sys.stderr)
        return 2
    folder: Path = options.folder.resolve()
    rows: list[list[str]] = []
    ours: list[str] = []
    for name in options.suites or list(SUITES):
        for python in options.python or [sys.executable]:
            row, worse = one(wanted(name), python, folder, options.rounds, options.tests)
            rows.append(row)
            ours += [f"{row[0]} on {row[2]}: {test}" for test in worse]
    print()
    print(table(rows))
    print()
    print("\n".join(ours) if ours else "nothing fails audited that passes without")
    return 1 if ours else 0


def wanted(name: str) -> Suite:
    """The suite that is written NAME or NAME==VERSION."""
    name, _, version = name.partition("==")
    known = SUITES[name]
    return replace(known, version=version) if version else known


HEADINGS = [
    *("suite", "version", "Python", "tests", "failed plainly", "failed audited"),
    *("difference", "CPU seconds plainly/audited", "log", "remarks"),
]


def table(rows: list[list[str]]) -> str:
    """The comparison, in Markdown."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def one(
    suite: Suite, python: str, folder: Path, rounds: int, tests: list[str]
) -> tuple[list[str], list[str]]:
    """Run one suite on one interpreter; its row of the table, and the tests that we break."""
    blank = [""] * len(HEADINGS)
    try:
        place = prepare(suite, interpreter(python), folder)
    except subprocess.CalledProcessError as error:
        said = (error.stdout or "").strip().splitlines()[-1:] or ["?"]
        remark = f"not run: {Path(str(error.cmd[0])).name} said: {said[0]}"
        return [suite.name, suite.version, python, *blank[3:-1], remark], []
    except FileNotFoundError as error:
        return [suite.name, suite.version, python, *blank[3:-1], f"not run: {error}"], []
    plain: list[Results] = []
    for number in range(1, rounds + 1):
        plain.append(place.run(f"plain-{number}", *tests, audited=False))
        say(place, f"plainly: {summary(plain[-1])}")
    audited = place.run("audited", *tests, audited=True)
    say(place, f"audited: {summary(audited)}")
    suspects = worse(plain, audited)
    remarks: list[str] = []
    ends = [run.ended for run in (*plain, audited)]
    if len(set(ends)) > 1 or not ends[0].isdecimal():
        remarks.append(f"exit status {', '.join(ends[:-1])} plainly, {ends[-1]} audited")
    ours = list(confirmed(place, suspects))
    if len(suspects) > len(ours):
        once = sorted(set(suspects) - set(ours))
        shown = ", ".join(once[:5]) + (", ..." if len(once) > 5 else "")
        remarks.append(f"{len(once)} worse audited once, not again: {shown}")
    wavering = {
        test for run in plain for test in run.tests if len({r.tests.get(test) for r in plain}) > 1
    }
    if wavering:
        remarks.append(f"{len(wavering)} waver without us")
    remarks += said_by_us(audited)
    if not audited.tests:
        ours.append("not one test ran")
    if audited.logs:
        remarks += [asked_why(place, audited), checked_log(place, audited)]
    if suite.without:
        remarks.append(f"without {suite.without}")
    for remark in remarks:
        say(place, remark)
    row = [
        suite.name,
        place.version,
        place.long,
        str(len(audited.tests)),
        "/".join(str(len(run.bad)) for run in plain),
        str(len(audited.bad)),
        str(len(ours)),
        f"{min(run.seconds for run in plain):.0f}/{audited.seconds:.0f}",
        f"{sum(map(lines_of, audited.logs))} lines",
        "; ".join(remarks),
    ]
    return row, ours


def say(place: Place, text: str) -> None:
    """A line about the run that is under way."""
    print(f"{place.suite.name} {place.version} on {place.long}: {text}", flush=True)


def summary(run: Results) -> str:
    """How many tests ended how."""
    counts = Counter(run.tests.values())
    if not counts:
        return f"no test ran, exit status {run.ended}, see {run.folder}/output.txt"
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    return f"{told}, {run.seconds:.0f} s of processor time"


def lines_of(path: Path) -> int:
    """How many lines *path* has."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def worse(plain: list[Results], audited: Results) -> dict[str, str]:
    """The tests that were as good in every plain run and are not with us."""
    found: dict[str, str] = {}
    for test in {test for run in (*plain, audited) for test in run.tests}:
        before = {run.tests.get(test, "not run") for run in plain}
        after = audited.tests.get(test, "not run")
        new = before == {"not run"} and after not in BETTER
        if new or (before <= set(BETTER) and after not in before):
            found[test] = after
    return found


def confirmed(place: Place, suspects: dict[str, str]) -> Iterator[str]:
    """Those of *suspects* that are worse again when their file runs again, both ways, twice."""
    files = sorted({test.partition("::")[0] for test in suspects})
    for number, file in enumerate(files):
        here = {test for test in suspects if test.startswith(f"{file}::")}
        for attempt in ("again", "once-more"):
            plain = place.run(f"{attempt}-{number}-plain", file, audited=False)
            audited = place.run(f"{attempt}-{number}-audited", file, audited=True)
            here &= set(worse([plain], audited))
            if not here:
                break
        yield from sorted(here)


def said_by_us(run: Results) -> list[str]:
    """What we wrote to stderr, which is nothing as a rule."""
    text = (run.folder / "output.txt").read_text(errors="replace")
    said = sorted({line for line in text.splitlines() if line.startswith("aioaudit:")})
    return [f"{len(said)} lines of ours on stderr, the first: {said[0]}"] if said else []


def asked_why(place: Place, run: Results) -> str:
    """What ``aioaudit why`` makes of the logs, in short."""
    begun = time.monotonic()
    command = [str(place.python), "-m", "aioaudit", "why", str(run.folder), "--json"]
    done = subprocess.run(
        command, check=False, env=clean_environ(), capture_output=True, text=True, timeout=600
    )
    took = time.monotonic() - begun
    (run.folder / "why.json").write_text(done.stdout)
    if done.returncode == 1:
        return "why: no task was cancelled"
    if done.returncode or done.stderr:
        return f"why ended with {done.returncode} and said: {done.stderr.strip()[-300:]}"
    reasons: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        root = json.loads(line)["root"]
        reasons[root.get("reason") or root["what"]] += 1
    unknown = reasons["unknown"] + reasons["native"]
    return f"why: {reasons.total()} answers in {took:.1f} s, {unknown} of them unknown or native"


def checked_log(place: Place, run: Results) -> str:
    """What ``aioaudit check`` makes of the logs, in short."""
    command = [str(place.python), "-m", "aioaudit", "check", str(run.folder), "--json"]
    done = subprocess.run(
        command, check=False, env=clean_environ(), capture_output=True, text=True, timeout=600
    )
    (run.folder / "check.json").write_text(done.stdout)
    if done.returncode not in {0, 1} or done.stderr:
        return f"check ended with {done.returncode} and said: {done.stderr.strip()[-300:]}"
    kinds = Counter(json.loads(line)["kind"] for line in done.stdout.splitlines())
    return f"check: {', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items())) or 'nothing'}"


def interpreter(wish: str) -> Path:
    """The Python that is meant by a path or by ``3.13``."""
    if os.sep in wish:
        return Path(wish)
    found = shutil.which(f"python{wish}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    paths = sorted(pyenv.glob(f"versions/{wish}.*/bin/python"))
    if paths:
        return paths[-1]
    if found is None:
        raise FileNotFoundError(f"no Python {wish} here")
    return Path(found)


def prepare(suite: Suite, python: Path, folder: Path) -> Place:
    """Fetch the sources and make the environment, as far as they are not there."""
    ask = "import sys; print(*sys.version_info[:3], sep='.')"
    long = checked(str(python), "-c", ask).strip()
    source = sources(suite, python, folder)
    version = source.name.rpartition("-")[2]
    short = long.rpartition(".")[0]
    home = folder / "venvs" / f"{source.name}-{short}"
    own = home / "bin" / "python"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        needs = [f"{suite.name}=={version}", *_PYTEST, *suite.needs]
        uv = shutil.which("uv")
        if uv is None:
            checked(str(python), "-m", "venv", str(home))
            install = [str(own), "-m", "pip", "install", "--quiet"]
        else:
            checked(uv, "venv", "--quiet", "--python", str(python), str(home))
            install = [uv, "pip", "install", "--quiet", "--python", str(own)]
        checked(*install, *needs)
        checked(*install, "--editable", f"{ROOT}[cli]")
        (home / "complete").touch()
    [packages] = home.glob("lib/python3*/site-packages")
    shutil.copy(PLUGIN, packages)
    return Place(suite, version, own, long, source, folder / "logs" / f"{source.name}-{short}")


def sources(suite: Suite, python: Path, folder: Path) -> Path:
    """The unpacked source distribution, without what would stand before the installed library."""
    fetched = folder / "sdists" / suite.requirement
    if not list(fetched.glob("*.tar.gz")):
        fetched.mkdir(parents=True, exist_ok=True)
        options = ["--quiet", "--no-deps", f"--no-binary={suite.name}", "--dest", str(fetched)]
        checked(str(python), "-m", "pip", "download", *options, suite.requirement)
    [archive] = fetched.glob("*.tar.gz")
    source = folder / "sources" / archive.name.removesuffix(".tar.gz")
    if not source.exists():
        scratch = folder / "sources" / f".{source.name}"
        shutil.rmtree(scratch, ignore_errors=True)
        with tarfile.open(archive) as opened:
            opened.extractall(scratch, filter="data")
        [top] = scratch.iterdir()
        for name in suite.drop:
            shutil.rmtree(top / name)
        top.rename(source)
        scratch.rmdir()
    missing = [name for name in suite.tests if not (source / name).exists()]
    if missing:
        raise FileNotFoundError(f"{archive.name} carries no {', '.join(missing)}")
    return source


def checked(*command: str) -> str:
    """Run *command*, which is to succeed; what it printed."""
    return subprocess.run(
        command,
        check=True,
        env=clean_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
