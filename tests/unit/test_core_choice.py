"""Which core runs: what is asked for, what can be had, and what is said where these differ."""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from aioaudit.core import choice
from aioaudit.core.choice import CORE, Choice, decide, unsuited
from aioaudit.doctor import interpreter

FITS = {"implementation": "cpython", "release": (3, 13), "free_threaded": False, "main": True}
GOES_ON = "this program runs with the core in Python"
ABSENT = "aioaudit is installed without the native core, which takes a C compiler"


def test_the_core_that_was_asked_for_is_the_one_that_runs() -> None:
    asked = os.environ.get("AIOAUDIT_CORE")
    if not asked:
        pytest.skip("none was asked for; make test asks for one")
    assert CORE.name == asked, CORE
    assert (choice.native() is None) == (asked == "python")


def test_what_runs_is_what_the_module_is_there_for() -> None:
    module = choice.native()
    assert (module is not None) == (CORE.name == "native")
    if module is not None:
        assert module.__name__ == "aioaudit.core._core"
        assert str(module.__file__).endswith(tuple(EXTENSION_SUFFIXES))


@pytest.mark.parametrize("minor", range(11, 16))
def test_the_native_core_is_for_the_cpython_that_is_tested(minor: int) -> None:
    assert unsuited("cpython", (3, minor), free_threaded=False, main=True) == ""
    assert interpreter.TESTED == choice.PYTHONS


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"release": (3, 10)},
            "the native core is for CPython 3.11 to 3.15, and this is CPython 3.10",
        ),
        (
            {"release": (3, 16)},
            "the native core is for CPython 3.11 to 3.15, and this is CPython 3.16",
        ),
        (
            {"implementation": "pypy", "release": (3, 11)},
            "the native core is for CPython 3.11 to 3.15, and this is pypy 3.11",
        ),
        (
            {"free_threaded": True},
            "the native core needs the GIL, and this is a free-threaded build",
        ),
        (
            {"main": False},
            "the native core is for the main interpreter, and this is another one",
        ),
    ],
)
def test_on_any_other_interpreter_one_reason_says_why_not(
    changed: dict[str, object], why: str
) -> None:
    found = unsuited(**(FITS | changed))  # type: ignore[arg-type]  # a table of all kinds
    assert found == why
    assert decide(None, found) == (Choice("python", why), None)
    assert str(Choice("python", why)) == f"python ({why})"
    complaint = f"AIOAUDIT_CORE='native': {why}; allowed: python; {GOES_ON}"
    assert decide("native", found) == (Choice("python", why, complaint), None)


def test_unset_and_empty_it_is_the_native_one_where_there_is_one() -> None:
    for value in (None, "", " ", "native", " Native "):
        # Any module will do for this; that of the core is loaded once in a process.
        found, module = decide(value, "", "tests.waiting")
        assert (found, module) == (Choice("native"), sys.modules["tests.waiting"])
        assert str(found) == "native"


def test_where_it_is_merely_not_installed_nothing_is_said_unless_it_was_asked_for() -> None:
    assert decide(None, "", "aioaudit.core._none") == (Choice("python", ABSENT), None)
    found, module = decide("native", "", "aioaudit.core._none")
    assert (found.name, found.why, module) == ("python", ABSENT, None)
    assert found.complaint == f"AIOAUDIT_CORE='native': {ABSENT}; allowed: python; {GOES_ON}"


@pytest.mark.parametrize("value", [None, "native"])
def test_one_that_is_there_and_is_broken_is_always_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fails.py").write_text("raise RuntimeError('no\\nsuch thing')")
    (tmp_path / f"broken{EXTENSION_SUFFIXES[0]}").write_text("no extension")
    (tmp_path / "lacks.py").write_text("import aioaudit.core._none")
    found, module = decide(value, "", "fails")
    why = "the native core does not load: no\\nsuch thing"
    assert (found.name, found.why, module) == ("python", why, None)
    asked = "" if value is None else "AIOAUDIT_CORE='native': "
    allowed = "" if value is None else "; allowed: python"
    assert found.complaint == f"{asked}{why}{allowed}; {GOES_ON}"
    for each in ("broken", "lacks"):
        assert decide(value, "", each)[0].why.startswith("the native core does not load: ")
        assert decide(value, "", each)[0].complaint


def test_one_that_refuses_has_its_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "refuses.py").write_text("raise ImportError('it is loaded once')")
    why = "the native core does not load: it is loaded once"
    assert decide(None, "", "refuses") == (Choice("python", why), None)
    assert decide("native", "", "refuses")[0].complaint


def test_python_is_there_for_whoever_asks_for_it() -> None:
    for value in ("python", " PYTHON"):
        found, module = decide(value, "", "tests.waiting")
        assert (found, module) == (Choice("python", "AIOAUDIT_CORE asks for it"), None)


def test_a_word_that_names_none_is_told_with_what_is_allowed() -> None:
    found, module = decide("natvie", "", "tests.waiting")
    assert (found.name, found.why, module) == ("python", "AIOAUDIT_CORE names no core", None)
    assert found.complaint == (
        "AIOAUDIT_CORE='natvie': 'natvie' is no core (did you mean 'native'?);"
        f" allowed: native, python; {GOES_ON}"
    )
    assert "rust" in decide("rust", "")[0].complaint


def test_the_doctor_has_a_line_for_it() -> None:
    for found, state in (
        (Choice("native"), "ok"),
        (Choice("python", "why"), "note"),
        (Choice("python", "why", "complaint"), "problem"),
    ):
        [said] = interpreter.core(found)
        assert (said.section, said.subject) == ("interpreter", "core")
        assert (said.state, said.text) == (state, str(found))
