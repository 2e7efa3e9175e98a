"""What all tests share: where the package comes from, and an interpreter with start-up files.

At the desk (plain `pytest` in the tree) the tree itself is tested.  `make test`
sets ``AIOAUDIT_TEST_WHEEL`` (and ``AIOAUDIT_TEST_SDIST``) to what it built and
installed, and runs a copy of the tests that has no sources beside it.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests import leftovers
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.collectors import Receiver
    from tests.sql_engines import Engine

pytest.register_assert_rewrite("tests.random_trees")  # whose asserts are those of the judges

ROOT = Path(__file__).resolve().parent.parent
WHEEL = os.environ.get("AIOAUDIT_TEST_WHEEL", "")

Runner = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure() -> None:
    """Let no test depend on the machine's speed, and Ctrl-C reach the programs of the tests.

    A shell's background jobs are deaf to it.
    """
    patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("patient", settings.default, **patient)
    settings.load_profile("patient")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    leftovers.watch()


def pytest_sessionstart() -> None:
    """Refuse to test the tree where the wheel was to be tested."""
    if not WHEEL:
        return
    import aioaudit

    where = Path(str(aioaudit.__file__))
    if "site-packages" not in where.parts or (ROOT / "aioaudit").exists():
        pytest.exit(f"AIOAUDIT_TEST_WHEEL is set, but aioaudit comes from {where.parent}", 3)


def is_last(item: pytest.Item) -> bool:
    """Whether *item* looks at the traces of the others."""
    return item.get_closest_marker("last") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what looks at the traces of the others behind them.

    Among several processes nothing is behind all others, so there it is left out;
    ``make test`` runs it afterwards, as a part of its own.  Between the oldest and the
    newest Python ``make test`` leaves out what does not depend on it.
    """
    items.sort(key=is_last)
    if WHEEL:
        elsewhere = pytest.mark.skip(reason="it looks at the tree, where make lint runs it")
        for item in items:
            if item.get_closest_marker("sources"):
                item.add_marker(elsewhere)
    part = os.environ.get("AIOAUDIT_TEST_PART")
    left_out: list[pytest.Item] = []
    if part == "last":
        left_out += [item for item in items if not is_last(item)]
    elif part == "first" or "PYTEST_XDIST_WORKER" in os.environ:
        left_out += [item for item in items if is_last(item)]
    if os.environ.get("AIOAUDIT_TEST_BETWEEN"):
        left_out += [item for item in items if item.get_closest_marker("any_python")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Give tests that share what takes long to make to one process."""
    from tests.spreading import Scheduling

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _nothing_of_ours_is_left() -> Iterator[None]:
    """Blame a test for what it left itself, and not another one that this disturbs."""
    before = leftovers.Before()
    yield
    before.restore_signals()
    left = before.left()
    if left:
        pytest.fail(f"the test left running {', '.join(left)}", pytrace=False)


@pytest.fixture(autouse=True, scope="module")
def _what_is_left_to_the_collector() -> Iterator[None]:
    """Let it look at what the tests of a file make, and not at what was there before.

    Hundreds of tests call it, some of them hundreds of times, and each time it walked through
    all modules and all that pytest has.  What a file leaves to it goes here, and not in the
    middle of a test of something else, which would be blamed.
    """
    gc.freeze()
    yield
    gc.collect()


def clean_environ(**more: str) -> dict[str, str]:
    """The environment of a child process: nothing of ours but *more*, and the core under test.

    Nor what makes programs print other things than in a terminal: pytest, for one, does not
    shorten its lines where *CI* or *BUILD_NUMBER* is set (``_pytest.compat.running_on_ci``).
    pytest-asyncio, which loads itself into every pytest, is here for a test of its own.
    And unless *more* says so, no clean-up is slow, whatever else the machine does.
    """
    ours = ("AIOAUDIT", "PYTHON", "PYTEST_", "COVERAGE", "OTEL_")
    printing = {"CI", "BUILD_NUMBER", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "PY_COLORS"}
    kept = {
        key: value
        for key, value in os.environ.items()
        if key == "AIOAUDIT_CORE" or (not key.startswith(ours) and key not in printing)
    }
    return kept | {"PYTEST_ADDOPTS": "-p no:asyncio", "AIOAUDIT_SLOW_CANCEL": "1000"} | more


def make_environment(folder: Path) -> Path:
    """The Python of a new virtual environment that sees the packages of this one.

    It takes a tenth of a second, because nothing is installed in it: a path
    line names the packages.  Path lines are not start-up files, so those of
    this environment are not run in it.
    """
    venv.create(folder, symlinks=os.name != "nt", with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    lines = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site_packages(python) / "zz_dependencies.pth").write_text("\n".join(lines) + "\n")
    return python


def site_packages(python: Path) -> Path:
    """The folder where the environment of *python* keeps its packages."""
    [found] = python.parent.parent.glob("lib/python3*/site-packages")
    return found


@pytest.fixture
def bare_environment() -> Callable[[Path], Path]:
    """`make_environment`, for tests that install something themselves."""
    return make_environment


@pytest.fixture(scope="session")
def audited_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python in a virtual environment where ``AIOAUDIT=...`` works, for real processes."""
    if WHEEL:
        return sys.executable
    python = make_environment(tmp_path_factory.mktemp("environment") / "venv")
    packages = site_packages(python)
    (packages / "aaa_tree.pth").write_text(f"{ROOT}\n")
    for file in (ROOT / "aioaudit" / "_startup").glob("*aioaudit_autostart.*"):
        shutil.copy(file, packages)
    return str(python)


@pytest.fixture
def run_python(audited_python: str, tmp_path: Path) -> Runner:
    """Run Python with arguments in an empty folder; keywords are environment variables."""

    def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [audited_python, *args],
            cwd=tmp_path,
            env=clean_environ(**environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return run


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """What a collector of the fixtures below received, and how it is to fail."""
    from tests.collectors import Receiver

    made = Receiver()
    yield made
    made.over.set()


@pytest.fixture
def over_http(receiver: Receiver) -> Iterator[dict[str, str]]:
    """Variables that name a collector which speaks HTTP."""
    from tests.collectors import over_http

    with over_http(receiver) as variables:
        yield variables


@pytest.fixture
def over_grpc(receiver: Receiver) -> Iterator[dict[str, str]]:
    """Variables that name a collector which speaks gRPC."""
    from tests.collectors import over_grpc

    with over_grpc(receiver) as variables:
        yield variables


@pytest.fixture(params=["http", "grpc"])
def collector(request: pytest.FixtureRequest) -> dict[str, str]:
    """Variables that name a collector, once for each protocol."""
    found: dict[str, str] = request.getfixturevalue(f"over_{request.param}")
    return found


@pytest.fixture(scope="module", params=["duckdb", "clickhouse"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An SQL engine that is there."""
    from tests import sql_engines

    if sql_engines.lacking(request.param):
        pytest.skip(f"there is no {sql_engines.MODULES[request.param]}")
    with sql_engines.started(request.param) as there:
        yield there
