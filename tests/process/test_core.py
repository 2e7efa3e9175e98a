"""The core of a whole process: what was asked for runs, and the log and the doctor say which."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioaudit.core.choice import CORE

if TYPE_CHECKING:
    from tests.conftest import Runner

USE = "import asyncio; asyncio.run(asyncio.sleep(0))"


def coverage(folder: Path) -> list[str]:
    """The lines about the core in `coverage` of the one log in *folder*."""
    [log] = folder.glob("*.jsonl")
    with log.open() as file:
        start = json.loads(file.readline())
    assert start["event"] == "process.start"
    return [each for each in start["coverage"] if each.startswith("core: ")]


def test_programs_that_tests_start_have_the_core_that_was_asked_for(
    run_python: Runner, tmp_path: Path
) -> None:
    done = run_python("-c", USE, AIOAUDIT="jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    [said] = coverage(tmp_path)
    assert said == f"core: {CORE}"
    asked = os.environ.get("AIOAUDIT_CORE")
    assert not asked or said.split()[1] == asked


def test_python_can_be_forced(run_python: Runner, tmp_path: Path) -> None:
    done = run_python("-c", USE, AIOAUDIT="jsonl", AIOAUDIT_CORE="python")
    assert (done.returncode, done.stderr) == (0, "")
    assert coverage(tmp_path) == ["core: python (AIOAUDIT_CORE asks for it)"]


def test_what_cannot_be_had_is_one_line_and_the_program_is_audited(
    run_python: Runner, tmp_path: Path
) -> None:
    done = run_python("-c", USE, AIOAUDIT="jsonl", AIOAUDIT_CORE="rust")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "aioaudit: AIOAUDIT_CORE='rust': 'rust' is no core; allowed: native, python;"
        " this program runs with the core in Python\n"
    )
    assert coverage(tmp_path) == ["core: python (AIOAUDIT_CORE names no core)"]


def test_without_auditing_nothing_is_said_of_it(run_python: Runner) -> None:
    done = run_python("-c", f"import aioaudit; {USE}", AIOAUDIT_CORE="rust")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_doctor_says_which_it_is_and_what_is_wrong_with_the_variable(
    run_python: Runner,
) -> None:
    def about(**environ: str) -> dict[str, tuple[str, str]]:
        done = run_python("-m", "aioaudit", "doctor", "--json", **environ)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return {
            each["subject"]: (each["state"], each["text"])
            for each in found
            if each["subject"] in ("core", "AIOAUDIT_CORE", "AIOAUDIT_COER")
        }

    asked = about(AIOAUDIT_CORE="python", AIOAUDIT_COER="python")
    assert asked["core"] == ("note", "python (AIOAUDIT_CORE asks for it)")
    assert asked["AIOAUDIT_CORE"] == ("ok", "'python'")
    assert asked["AIOAUDIT_COER"][1].startswith("no setting (did you mean 'AIOAUDIT_CORE'?)")
    wrong = about(AIOAUDIT_CORE="rust")
    assert wrong["core"] == ("problem", "python (AIOAUDIT_CORE names no core)")
    assert wrong["AIOAUDIT_CORE"] == (
        "problem",
        "'rust': 'rust' is no core; allowed: native, python",
    )


@pytest.mark.skipif(CORE.name != "native", reason="there is no native core here")
def test_an_asyncio_that_is_imported_anew_has_the_core_of_before(
    run_python: Runner, tmp_path: Path
) -> None:
    program = (
        f"import sys; {USE}\n"
        "for name in [n for n in sys.modules if n.partition('.')[0] in ('asyncio', '_asyncio')]:\n"
        f"    del sys.modules[name]\n{USE}\n"
    )
    done = run_python("-c", program, AIOAUDIT="jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    [log] = tmp_path.glob("*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    starts = [each for each in lines if each["event"] == "process.start"]
    assert [("core: native" in each["coverage"]) for each in starts] == [True, True]


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import sys, aioaudit
CODE = '''
import sys, types
package = types.ModuleType("aioaudit.core")  # without msgspec, which refuses to be there
package.__path__ = [{folder!r}]
sys.modules["aioaudit.core"] = package
sys.path[:] = {path!r}
from aioaudit.core.choice import CORE, native
print(CORE, native())
'''
made = interpreters.create()
run = getattr(interpreters, "exec", None) or interpreters.run_string
error = run(made, CODE.format(path=sys.path, folder=f"{aioaudit.__path__[0]}/core"))
assert error is None, error
interpreters.destroy(made)
"""


def test_another_interpreter_of_the_process_runs_the_one_in_python(run_python: Runner) -> None:
    done = run_python("-W", "ignore", "-c", SUBINTERPRETER, AIOAUDIT_CORE="")
    assert done.stderr == ""
    why = "the native core is for the main interpreter, and this is another one"
    assert done.stdout == f"python ({why}) None\n"
