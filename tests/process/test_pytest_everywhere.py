"""The mark of pytest: one test is run as often as it takes, with fixtures of its own each time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.conftest import ROOT, WHEEL, clean_environ
from tests.waiting import PATIENCE

PLUGIN = "aioaudit.testing.pytest_everywhere"

TESTS = """
import asyncio, contextlib, os
import anyio, pytest

made = []

@pytest.fixture(scope="module")
def once():
    made.append("once")
    yield
    made.append("the end")

@pytest.fixture
def each(once):
    made.append("each")
    yield
    made.append("down")

@pytest.fixture
def fails_later():
    yield
    if made and made[-1] == "cancelled":
        made.append("failed")
        raise LookupError("left open")

@pytest.fixture
def broken():
    raise LookupError("no server")

@pytest.mark.cancel_everywhere
async def test_good(each):
    await asyncio.sleep(0)
    await asyncio.sleep(0)

def test_rounds_of_good(once):
    # One that nobody cancels, one for each await, and one that tells.
    assert made == ["once", *["each", "down"] * 4]

@pytest.mark.cancel_everywhere(cleanup=False)
async def test_bad(each):
    try:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        pass

@pytest.mark.cancel_everywhere
async def test_teardown(fails_later):
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        made.append("cancelled")
        raise

@pytest.mark.cancel_everywhere(ignore="swallowed")
@pytest.mark.parametrize("text", ["a", "b"])
async def test_parameters(each, text):
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)

class TestClass:
    @pytest.mark.cancel_everywhere
    async def test_method(self, each):
        await asyncio.sleep(0)

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"] if os.environ.get("TRIO") else ["asyncio"])
@pytest.mark.cancel_everywhere
async def test_anyio(each, anyio_backend):
    with anyio.move_on_after(0.001):
        await anyio.sleep_forever()
    await anyio.sleep(0)

@pytest.mark.xfail(strict=True)
@pytest.mark.cancel_everywhere
async def test_expected(each):
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)

@pytest.mark.cancel_everywhere
async def test_skipped(each):
    pytest.skip("not today")

@pytest.mark.cancel_everywhere
async def test_fails(each):
    await asyncio.sleep(0)
    assert 1 == 2, "by itself"

@pytest.mark.cancel_everywhere
async def test_broken(broken):
    pass

@pytest.mark.cancel_everywhere
async def test_incomplete():
    pass

@pytest.mark.cancel_everywhere
def test_plain():
    pass

@pytest.mark.cancel_everywhere(patence=3)
async def test_wrong():
    pass

@pytest.mark.cancel_everywhere(5)
async def test_wrong_too():
    pass

@pytest.mark.cancel_everywhere(patience=-1)
async def test_wrong_value():
    pass

def test_module_stays(once):
    assert made.count("once") == 1 and "the end" not in made
"""

ASYNCIO = """
import asyncio
import pytest, pytest_asyncio

loops = []

@pytest_asyncio.fixture
async def helper():
    loops.append(asyncio.get_running_loop())
    task = asyncio.create_task(asyncio.sleep(100))
    yield
    task.cancel()

@pytest.mark.asyncio
@pytest.mark.cancel_everywhere
async def test_good(helper):
    assert asyncio.get_running_loop() is loops[-1]
    await asyncio.sleep(0)

def test_loops():
    assert len({id(loop) for loop in loops}) == len(loops) == 3

@pytest.mark.asyncio
@pytest.mark.cancel_everywhere(patience=1)
async def test_stubborn(helper):
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        while True:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                pass
"""

Outcome = tuple[str, str]


@pytest.fixture
def outcomes(tmp_path: Path) -> Callable[..., dict[str, Outcome]]:
    """Run pytest on a file of this text: what became of each test, and what is said of it."""

    def run(text: str, *options: str, **environ: str) -> dict[str, Outcome]:
        (tmp_path / "test_it.py").write_text(text)
        (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = strict\n")
        if not WHEEL:
            environ["PYTHONPATH"] = str(ROOT)
        environ["PYTEST_ADDOPTS"] = ""  # pytest-asyncio is wanted here
        command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider"]
        more = ["--strict-markers", "--junitxml=out.xml", "-ojunit_logging=all", *options]
        done = subprocess.run(
            [*command, *more, "test_it.py"],
            cwd=tmp_path,
            env=clean_environ(**environ),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        found: dict[str, Outcome] = {}
        for each in ET.parse(tmp_path / "out.xml").iter("testcase"):
            kinds = [part.tag for part in each if part.tag in ("failure", "error", "skipped")]
            said = "".join(
                f"{part.get('message') or ''}\n{part.text or ''}" for part in each.iter()
            )
            name = each.get("name") or ""
            assert name not in found, f"{name} was told twice"
            found[name] = kinds[0] if kinds else "passed", said
        return found

    return run


def test_a_test_that_has_the_mark_is_cancelled_wherever_it_waits(
    outcomes: Callable[..., dict[str, Outcome]],
) -> None:
    trio = {"TRIO": "1"} if find_spec("trio") else {}
    found = outcomes(TESTS, **trio)
    assert {name: outcome for name, (outcome, _) in found.items()} == {
        **dict.fromkeys(["test_good", "test_rounds_of_good", "test_method"], "passed"),
        **dict.fromkeys(["test_parameters[a]", "test_parameters[b]"], "passed"),
        **dict.fromkeys(["test_anyio[asyncio]", "test_module_stays"], "passed"),
        **({"test_anyio[trio]": "skipped"} if trio else {}),
        **dict.fromkeys(["test_expected", "test_skipped"], "skipped"),
        **dict.fromkeys(["test_bad", "test_teardown", "test_fails"], "failure"),
        **dict.fromkeys(["test_incomplete", "test_plain", "test_wrong"], "failure"),
        **dict.fromkeys(["test_wrong_too", "test_wrong_value"], "failure"),
        "test_broken": "error",
    }
    said = {name: text for name, (_, text) in found.items()}
    assert "cancel_everywhere(test_bad): 2 of 2 cases went wrong" in said["test_bad"]
    assert "swallowed: it kept the CancelledError at test_it.py:" in said["test_bad"]
    assert "pytest_everywhere.py" not in said["test_bad"]
    assert "a fixture's tear-down failed with LookupError('left open')" in said["test_teardown"]
    assert "by itself" in said["test_fails"]
    assert "it fails already where nobody cancels it" in said["test_fails"]
    assert "no server" in said["test_broken"]
    assert "not today" in said["test_skipped"]
    assert "coverage is incomplete" in said["test_incomplete"]
    assert "is for async tests: test_plain is none" in said["test_plain"]
    assert "has no patence: there are check, patience, limit" in said["test_wrong"]
    assert "takes keywords only, not 5" in said["test_wrong_too"]
    assert "patience is to be a number of seconds above 0, not -1" in said["test_wrong_value"]


def test_one_case_is_replayed_alone(outcomes: Callable[..., dict[str, Outcome]]) -> None:
    line = next(
        number for number, text in enumerate(TESTS.splitlines(), 1) if "async def test_bad" in text
    )
    case = f"test_bad:{line + 3}#1"
    found = outcomes(TESTS, "-k", "test_bad", f"--aioaudit-case={case}")
    [(outcome, said)] = found.values()
    assert outcome == "failure"
    assert "1 of 1 case went wrong" in said
    assert f"{case}: cancelled at test_it.py:{line + 3}" in said


def test_a_case_that_is_none_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "--aioaudit-case=fetch", str(tmp_path)],
        env=clean_environ(**({} if WHEEL else {"PYTHONPATH": str(ROOT)})),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--aioaudit-case: 'fetch' names no case" in done.stderr


@pytest.mark.skipif(not find_spec("pytest_asyncio"), reason="there is no pytest-asyncio here")
def test_pytest_asyncio_runs_each_round_in_a_loop_of_its_own(
    outcomes: Callable[..., dict[str, Outcome]],
) -> None:
    found = outcomes(ASYNCIO)
    assert [outcome for outcome, _ in found.values()] == ["passed", "passed", "failure"]
    assert "hangs: it did not end within 1 s" in found["test_stubborn"][1]
