"""How the native core is compiled: by whom, with what, and what is said where it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from aioaudit.core import choice
from tests.conftest import ROOT
from tools import build_core


@pytest.fixture
def headers(tmp_path: Path) -> list[str]:
    """A folder that has a Python.h."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    return [str(tmp_path / "include")]


@pytest.fixture
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "ARCHFLAGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: list[str], _no_variables: None
) -> Callable[[str], Path]:
    """Make a compiler of what a shell does, and let CC name it; gives a folder to build into."""
    if os.name != "posix":
        pytest.skip("a shell's script stands for a compiler")
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: headers[0])

    def make(script: str) -> Path:
        program = tmp_path / "a compiler"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("CC", f"'{program}' --first")
        out = tmp_path / "out"
        out.mkdir()
        return out

    return make


def refusal(folder: Path) -> str:
    with pytest.raises(build_core.NoCoreError) as caught:
        build_core.build(folder)
    assert list(folder.iterdir()) == []
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_it_is_built_for_the_pythons_on_which_it_is_loaded() -> None:
    assert build_core.PYTHONS == choice.PYTHONS


def test_what_the_compiler_makes_is_what_there_is(
    compiler: Callable[[str], Path], headers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFLAGS", "-O1 -DSOME='a b'")
    monkeypatch.setenv("LDFLAGS", "-Wl,-z,now")
    out = compiler('for last; do :; done; printf "%s\\n" "$PWD" "$@" > "$last"')
    made = build_core.build(out)
    assert list(out.iterdir()) == [made]
    assert made.name == f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    cwd, first, *words = made.read_text().splitlines()
    assert (Path(cwd), first) == (ROOT, "--first")
    assert {"-O2", "-Wall", "-Wextra", "-Werror", "-fPIC"} <= set(words)
    assert words[words.index("-isystem") + 1] == headers[0]
    # What the variables ask for stands behind ours, and so it is what counts.
    assert words.index("-O1") > words.index("-O2")
    assert "-DSOME=a b" in words
    assert words.index("-Wl,-z,now") > words.index(str(build_core.SOURCE))


def test_a_compiler_that_fails_is_one_line_with_what_it_said(
    compiler: Callable[[str], Path],
) -> None:
    text = refusal(compiler("echo warming up; echo '_core.c:1: error: no such thing' >&2; exit 4"))
    assert "a compiler' failed (status 4: _core.c:1: error: no such thing)" in text
    assert text.endswith("; let CC name one that compiles C11")


def test_of_all_that_a_compiler_said_the_error_is_told(compiler: Callable[[str], Path]) -> None:
    said = (
        "In file included from aioaudit/core/_core.c:36:",
        "aioaudit/core/c/asks_object.h: In function asks_of_error:",
        "aioaudit/core/c/asks_object.h:21:5: error: no such thing",
        "compilation terminated due to -Werror.",
    )
    text = refusal(compiler("\n".join(f"echo '{line}'" for line in said) + "\nexit 1"))
    assert "(status 1: aioaudit/core/c/asks_object.h:21:5: error: no such thing)" in text


def test_a_compiler_that_makes_nothing_has_failed(compiler: Callable[[str], Path]) -> None:
    assert "failed (status 0)" in refusal(compiler("exit 0"))


def test_a_compiler_that_is_not_there_is_named(
    compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = compiler("exit 0")
    monkeypatch.setenv("CC", "/nonexistent")
    assert refusal(out) == (
        "the C compiler '/nonexistent' does not start (No such file or directory);"
        " let CC name one that does"
    )


@pytest.mark.usefixtures("_no_variables")
def test_without_any_compiler_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, headers: list[str]
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: headers[0])
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setenv("PATH", str(out))
    assert refusal(out) == (
        "there is no C compiler; install gcc or clang, or let CC name one"
        if os.name == "posix"
        else "there is no C compiler cl; build in a developer prompt of Visual Studio,"
        " or let CC name one"
    )


@pytest.mark.usefixtures("_no_variables")
def test_a_python_that_names_a_compiler_of_elsewhere_is_content_with_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.name != "posix":
        pytest.skip("it is cl")
    usual = tmp_path / "cc"
    usual.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _name: "of-elsewhere -pthread")
    assert build_core._compiler() == ["cc"]


def test_without_headers_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    assert refusal(tmp_path) == (
        f"there is no Python.h in {tmp_path}; install the headers of this Python"
        " (python3-dev, python3-devel)"
    )


@pytest.mark.parametrize(("version", "word"), [((3, 10), "3.10"), ((3, 16), "3.16")])
def test_for_a_python_that_is_not_known_it_is_not_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: tuple[int, int], word: str
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    assert refusal(tmp_path) == (
        f"it is for CPython 3.11 to 3.15 with the GIL, and this is cpython {word}"
    )


def test_for_a_free_threaded_build_it_is_not_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = sysconfig.get_config_var
    monkeypatch.setattr(
        sysconfig, "get_config_var", lambda name: 1 if name == "Py_GIL_DISABLED" else real(name)
    )
    assert refusal(tmp_path) == (
        "it is for CPython 3.11 to 3.15 with the GIL, and this is a free-threaded build"
    )


@pytest.mark.usefixtures("_no_variables")
def test_on_windows_the_words_are_those_of_its_compiler(tmp_path: Path) -> None:
    made = tmp_path / "_core.cp313-win_amd64.pyd"
    words = build_core._for_windows(["cl"], ["C:/py/include"], made)
    assert words[0] == "cl"
    assert {"/W4", "/WX", "/LD", "/external:IC:/py/include", f"/OUT:{made}"} <= set(words)
    assert words.index("/link") < words.index(f"/OUT:{made}")


def test_the_program_says_in_one_line_why_it_built_nothing(tmp_path: Path) -> None:
    # With the headers away, too, it is one line and not two.
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "build_core.py"],
        env=os.environ | {"CC": "/nonexistent"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("aioaudit: no native core: ")
