"""What ``make test`` runs with which core."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from aioaudit.core import choice
from tests.conftest import ROOT
from tools import make

SHORT = [f"3.{minor}" for minor in range(11, 16)]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make none: any Python will do for who only looks at what would be run."""
    monkeypatch.setattr(make, "environment", lambda *_args, **_more: Path(sys.executable))


def runs(short: str, wheel: str, variables: Mapping[str, str] | None = None) -> list[make.Run]:
    """The run of all tests on the Python *short* with *wheel*, and that of the other core."""
    interpreter = make.Interpreter("python", (3, int(short.removeprefix("3.")), 7))
    whole = make.whole_run(interpreter, Path(wheel), variables or {})
    return [whole, make.other_core(whole)] if make.is_native(Path(wheel)) else [whole]


def test_what_is_tested_is_what_the_native_core_is_for() -> None:
    first, last = choice.PYTHONS
    versions = tuple(f"3.{minor}" for minor in range(first[1], last[1] + 1))
    assert versions == make.TESTED
    assert set(make.IN_PYTHON) < set(make.TESTED)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    released = [f"cp{each.replace('.', '')}-*" for each in versions]
    assert project["tool"]["cibuildwheel"]["build"] == released


@pytest.mark.parametrize("short", SHORT)
def test_with_a_native_wheel_each_python_is_tested_with_both_cores(short: str) -> None:
    wheel = f"aioaudit-1-cp{short.replace('.', '')}-cp{short.replace('.', '')}-linux_x86_64.whl"
    whole, part = runs(short, wheel, {"AIOAUDIT_TEST_SDIST": "sdist"})
    cores = [each.variables["AIOAUDIT_CORE"] for each in (whole, part)]
    assert cores == (["python", "native"] if short in make.IN_PYTHON else ["native", "python"])
    assert whole.title == f"CPython {short}.7, {cores[0]} core"
    assert part.title == f"CPython {short}.7, {cores[1]} core, what depends on it"
    assert len({whole.name, part.name}) == 2
    assert (whole.files, part.files) == ((), make.OTHER_CORE)
    for each in (whole, part):
        assert each.variables["AIOAUDIT_TEST_WHEEL"] == wheel
        assert each.variables["AIOAUDIT_TEST_SDIST"] == "sdist"


@pytest.mark.parametrize("short", SHORT)
def test_with_a_pure_wheel_there_is_one_core_to_test(short: str) -> None:
    [whole] = runs(short, "aioaudit-1-py3-none-any.whl")
    assert whole.title == f"CPython {short}.7, python core"
    assert whole.variables["AIOAUDIT_CORE"] == "python"


def test_the_oldest_packages_have_the_core_in_python() -> None:
    interpreter = make.Interpreter("python", (3, 11, 7))
    oldest = make.oldest_run(interpreter, Path("aioaudit-1-cp311-cp311-linux_x86_64.whl"), {})
    assert oldest.title == "CPython 3.11.7, python core, oldest packages"
    assert oldest.variables["AIOAUDIT_CORE"] == "python"


def test_what_depends_on_the_core_is_there() -> None:
    for each in make.OTHER_CORE:
        assert (ROOT / each).exists()
    assert "tests/unit" in make.OTHER_CORE  # which looks whether the core asked for is the one
    assert "tests/process/test_core.py" in make.OTHER_CORE  # and that of programs, too


@pytest.mark.parametrize(
    ("statuses", "may_be_empty", "passed"),
    [
        ([0, 0], False, True),
        ([0, make.NOTHING_CHOSEN], False, True),
        ([0, 1], True, False),
        ([make.NOTHING_CHOSEN] * 2, False, False),
        ([make.NOTHING_CHOSEN] * 2, True, True),
        ([4, make.NOTHING_CHOSEN], True, False),
    ],
)
def test_a_part_of_which_nothing_was_chosen_is_no_failure(
    statuses: list[int], may_be_empty: bool, passed: bool
) -> None:
    assert make.Result(statuses, may_be_empty=may_be_empty).passed == passed


def test_what_a_build_says_of_the_core_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    make.print_core("* Building wheel...\n\x1b[33maioaudit: no native core: why\nelse\n")
    assert capsys.readouterr().out == "aioaudit: no native core: why\n"
