"""``python -m aioaudit run``: what a program finds and leaves is what it would without us.

Most tests run the same program twice, plainly and under ``run``, and compare.
"""

from __future__ import annotations

import json
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import Runner

RUN = ("-m", "aioaudit", "run")
USAGE = "usage: python -m aioaudit run [--to NAME[,NAME...]] (SCRIPT | -m MODULE) [ARG...]\n"

SELF_PORTRAIT = """\
import __main__, os, sys
print(__main__ is sys.modules["__main__"], vars(__main__) is globals(), type(__main__).__name__)
for name, value in list(globals().items()):
    if name in ("__spec__", "__loader__"):
        value = type(value).__name__, getattr(value, "name", ""), getattr(value, "path", "")
    if name not in ("__main__", "os", "sys"):
        print(name, repr(value))
print(sys.argv, sys.path, sys.flags, os.getcwd(), sys._getframe().f_code.co_filename)
print(sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__)
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The same program as a file, a linked file, a folder, a zip file, a module, a package."""
    (tmp_path / "app.py").write_text(SELF_PORTRAIT)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "app.py").write_text(SELF_PORTRAIT)
    (tmp_path / "link.py").symlink_to("deep/app.py")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(SELF_PORTRAIT)
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", SELF_PORTRAIT)
    (tmp_path / "package" / "inner").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").write_text("import sys; print('above', sys.argv)\n")
    (tmp_path / "package" / "__main__.py").write_text(SELF_PORTRAIT)
    (tmp_path / "package" / "inner" / "mod.py").write_text(SELF_PORTRAIT)
    (tmp_path / "package" / "broken.py").write_text("import absent_module\n")
    (tmp_path / "wrong.py").write_text("x = (\n")
    (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\nprint(ascii('\xe9'))\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


def told(done: subprocess.CompletedProcess[str]) -> tuple[int, str, list[str]]:
    """Status, output and errors, without the frames of `runpy`, which plain ``-m`` shows."""
    errors = [line for line in done.stderr.splitlines() if "<frozen runpy>" not in line]
    return done.returncode, done.stdout, errors


@pytest.mark.parametrize(
    "call",
    [
        "app.py",
        "app.py --to x -m y -- -h ''",
        "./deep/../deep/app.py a",
        "link.py",
        "folder x",
        "app.zip x",
        "-m app x",
        "-m package -h",
        "-m package.inner.mod --to",
        "latin.py",
        # what cannot be run
        "wrong.py",
        "absent.py",
        "folder/absent.py",
        "empty",
        "-m absent",
        "-m package.absent",
        "-m package.inner.mod.absent",
        "-m empty",
        "-m package.broken",
    ],
)
def test_a_program_finds_itself_as_without_us(
    run_python: Runner, programs: Path, call: str
) -> None:
    words = call.split()
    plain = run_python(*words)
    audited = run_python(*RUN, *words)
    status, output, errors = told(plain)
    if words[:1] == ["-m"] and errors and errors[-1].startswith(("/", "Error while")):
        # Python's own words vary from one release to the next: ours say the same in one line.
        assert told(audited)[:2] == (status, output)
        [line] = told(audited)[2]
        assert ": No module named " in line
    else:
        assert told(audited) == (status, output, errors)
    assert list(programs.glob("*.jsonl")) == []


@pytest.mark.parametrize("flags", [["-P"], ["-O", "-u"], ["-X", "dev"], ["-W", "error"]])
@pytest.mark.parametrize("call", ["app.py", "folder", "app.zip", "-m json.tool --help"])
def test_options_of_python_hold_under_run(
    run_python: Runner, programs: Path, flags: list[str], call: str
) -> None:
    assert told(run_python(*flags, *RUN, *call.split())) == told(run_python(*flags, *call.split()))


def test_an_isolated_python_runs_audited_if_asked_to(run_python: Runner, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import asyncio; asyncio.run(asyncio.sleep(0))")
    done = run_python("-I", *RUN, "app.py", AIOAUDIT_JSONL_PATH="log.jsonl")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert first_line(tmp_path / "log.jsonl")["argv"] == ["app.py"]


ENDINGS = {
    "last line": "print('end')",
    "exit 0": "raise SystemExit",
    "exit 7": "import sys; sys.exit(7)",
    "exit text": "import sys; sys.exit('a text')",
    "exit None": "import sys; sys.exit(None)",
    "at once": "import os, sys; print('x', flush=True); os._exit(9)",
    "error": "def f(): raise ValueError('x')\ntry: 1 / 0\nexcept ZeroDivisionError: f()",
    "group": "raise ExceptionGroup('g', [ValueError(1), OSError(2, 'no')])",
    "interrupt": "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)",
    "killed": "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)",
    "own hook": "import sys\ndef hook(kind, error, tb):\n  print(kind, tb.tb_next,"
    " error.__traceback__ is tb, sys.excepthook is hook)\nsys.excepthook = hook\n1 / 0",
    "warning": "import warnings; warnings.warn('here')",
    "thread": "import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
    "recursion": "import sys; sys.setrecursionlimit(60)\ndef f(): f()\ntry: f()\n"
    "except RecursionError: print('deep')",
    "atexit": "import atexit\nword = 'still there'\natexit.register(lambda: print(word, __name__))",
    "atexit hook": "import atexit, sys\natexit.register(lambda: print(sys.excepthook is"
    " sys.__excepthook__))\nsys.exit(3)",
    "pickle": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    "typing": "import typing\nclass A:\n  x: 'B'\nclass B: pass\n"
    "print(typing.get_type_hints(A)['x'] is B)",
    "annotations": "def f(x: int): pass\nprint(f.__annotations__)",
    "asyncio error": "import asyncio\nasync def f(): raise KeyError('k')\nasyncio.run(f())",
    "asyncio interrupt": "import asyncio, os, signal\nasync def f():\n"
    "  os.kill(os.getpid(), signal.SIGINT)\n  await asyncio.sleep(9)\nasyncio.run(f())",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_as_without_us(run_python: Runner, tmp_path: Path, ending: str) -> None:
    (tmp_path / "app.py").write_text(ENDINGS[ending] + "\n")
    plain, audited = run_python("app.py"), run_python(*RUN, "app.py")
    assert told(audited) == told(plain)


def test_a_signal_from_outside_ends_the_program_as_without_us(
    audited_python: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("import time; print('up', flush=True); time.sleep(3600)")
    process = subprocess.Popen(
        [audited_python, *RUN, "app.py"],
        cwd=tmp_path,
        env=environ_for(audited_python),
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM


def environ_for(python: str) -> dict[str, str]:
    """An environment with nothing in it that matters."""
    return {"PATH": str(Path(python).parent)}


def first_line(path: Path) -> dict[str, Any]:
    """The header of a log."""
    with path.open() as file:
        line: dict[str, Any] = json.loads(file.readline())
    assert line["event"] == "process.start"
    return line


ASYNC = """
import asyncio, os, sys
asyncio.run(asyncio.sleep(0))
print(os.environ["AIOAUDIT"])
print([finder for finder in sys.meta_path if type(finder).__module__ == "aioaudit.startup"])
"""


@pytest.mark.parametrize(
    ("options", "environ", "value", "logged"),
    [
        ([], {}, "jsonl", True),
        ([], {"AIOAUDIT": "0"}, "jsonl", True),
        ([], {"AIOAUDIT": "1"}, "jsonl", True),
        ([], {"AIOAUDIT": "sys"}, "sys", False),
        (["--to", "jsonl"], {"AIOAUDIT": "sys"}, "jsonl", True),
        (["--to=sys, jsonl"], {}, "sys,jsonl", True),
        (["--to", "sys"], {"AIOAUDIT": "jsonl"}, "sys", False),
    ],
)
def test_the_exporters_are_those_asked_for_here_and_in_child_processes(
    run_python: Runner,
    tmp_path: Path,
    options: list[str],
    environ: dict[str, str],
    value: str,
    logged: bool,
) -> None:
    (tmp_path / "app.py").write_text(ASYNC)
    done = run_python(*RUN, *options, "app.py", AIOAUDIT_JSONL_PATH="log-{pid}.jsonl", **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{value}\n[]\n", "")
    found = list(tmp_path.glob("log-*.jsonl"))
    assert len(found) == logged
    for path in found:
        assert first_line(path)["argv"] == ["app.py"]


@pytest.mark.parametrize("how", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("call", [["app.py"], ["-m", "app"], ["folder"], ["app.zip"]])
def test_multiprocessing_finds_the_main_module(
    run_python: Runner, tmp_path: Path, how: str, call: list[str]
) -> None:
    program = (
        "import multiprocessing, worker\n"
        "class Thing:\n"
        "    pass\n"
        "def make(): return Thing()\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context('{how}').Pool(1) as pool:\n"
        "        print(pool.apply(worker.double, (21,)))\n"
        + (
            "        print(type(pool.apply(make)) is Thing)\n"
            if call[0].endswith(".py") or call[0] == "-m" or how == "fork"
            else ""
        )
    )
    worker = "def double(x): return 2 * x\n"
    (tmp_path / "app.py").write_text(program)
    (tmp_path / "worker.py").write_text(worker)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(program)
    (tmp_path / "folder" / "worker.py").write_text(worker)
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", program)
        archive.writestr("worker.py", worker)
    plain, audited = run_python(*call), run_python(*RUN, *call)
    assert plain.stdout.startswith("42\n")
    assert told(audited) == told(plain)


def test_nothing_of_the_command_line_is_imported_into_the_program(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        "import sys\n"
        "print(sorted({'rich', 'click', 'asyncio', 'msgspec', 'argparse'} & set(sys.modules)))"
    )
    assert run_python(*RUN, "app.py").stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no program is named"),
        (["--to", "jsonl"], "no program is named"),
        (["--to"], "--to needs a value"),
        (["-m"], "-m needs a value"),
        (["-x", "app.py"], "no option '-x'; options of the program come after its name"),
        (["--to=", "app.py"], "--to='': no exporter is named; allowed: names separated by commas"),
    ],
)
def test_a_bad_call_is_refused_with_the_usage(
    run_python: Runner, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "app.py").write_text("print('ran')")
    done = run_python(*RUN, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"aioaudit run: {message}\n{USAGE}"


def test_an_unknown_exporter_on_the_command_line_is_a_bad_call(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("print('ran')")
    done = run_python(*RUN, "--to", "jsnol", "app.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("aioaudit run: --to='jsnol': 'jsnol' is no exporter (did you")
    assert done.stderr.count("\n") == 2


def test_a_bad_variable_is_said_once_and_the_program_runs_unaudited(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("import asyncio; print('ran')")
    for words in ([], ["--to", "jsonl"]):
        done = run_python(*RUN, *words, "app.py", AIOAUDIT="1", AIOAUDIT_EVENTS="nonsense")
        assert (done.returncode, done.stdout) == (0, "ran\n")
        assert done.stderr.startswith("aioaudit: AIOAUDIT_EVENTS='nonsense': 'nonsense' is no ev")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.glob("*.jsonl")) == []


def test_help_is_printed(run_python: Runner) -> None:
    for flag in ("-h", "--help"):
        done = run_python(*RUN, flag)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(USAGE)
