"""``AIOAUDIT=...`` in the environment: when auditing starts, and when nothing happens at all.

Everything here is a real process with the start-up files in its site-packages.
"""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import clean_environ, site_packages
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Runner

OURS = "print(sorted(m for m in sys.modules if m.split('.')[0] in {names}))"
SHOW_OURS = "import sys; " + OURS.format(names="('aioaudit', '_aioaudit_autostart')")
SHOW_HEAVY = "import sys; " + OURS.format(names="('asyncio', 'msgspec', 'rich', 'click', 'ctypes')")


USE = "asyncio.run(asyncio.sleep(0))"
"""A log is opened with the first event, so something must happen."""


def logs(folder: Path) -> list[list[dict[str, Any]]]:
    """The lines of every log in *folder*."""
    return [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    ]


def starts(folder: Path) -> list[dict[str, Any]]:
    """Every ``process.start`` line in *folder*."""
    return [line for log in logs(folder) for line in log if line["event"] == "process.start"]


@pytest.mark.parametrize("environ", [{}, {"AIOAUDIT": "", "AIOAUDIT_EVENTS": "bad"}])
def test_nothing_is_imported_while_the_variable_is_unset_or_empty(
    run_python: Runner, environ: dict[str, str]
) -> None:
    done = run_python("-c", f"import asyncio; {SHOW_OURS}", **environ)
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)


def test_this_python_runs_import_lines_of_pth_files(
    tmp_path: Path, bare_environment: Callable[[Path], Path]
) -> None:
    """PEP 829 takes them away, in 3.18 by its plan.

    The first Python on which this fails is the first on which ``AIOAUDIT=...`` alone does
    nothing: the README, `aioaudit doctor` and ``requires-python`` are to say so, and what a
    ``.start`` file costs at each start is to be measured again.
    """
    python = bare_environment(tmp_path / "venv")
    (site_packages(python) / "line.pth").write_text("import sys; sys.ran = True\n")
    program = "import sys; print(getattr(sys, 'ran', False))"
    done = subprocess.run(
        [python, "-W", "error", "-c", program],
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("value", ["0", "off", " OFF ", "false", "no", " "])
def test_the_words_for_off_import_nothing_of_the_package(
    run_python: Runner, tmp_path: Path, value: str
) -> None:
    bad = {"AIOAUDIT_EVENTS": "bad", "AIOAUDIT_JSONL_PATH": "{bad}"}  # and not looked at
    program = f"import asyncio; print(asyncio.Task.cancel); {SHOW_OURS}"
    done = run_python("-c", program, AIOAUDIT=value, **bad)
    untouched = "<method 'cancel' of '_asyncio.Task' objects>"
    assert (done.stdout, done.stderr) == (f"{untouched}\n['_aioaudit_autostart']\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "imported"),
    [("-I", ["_aioaudit_autostart"]), ("-E", ["_aioaudit_autostart"]), ("-S", [])],
)
def test_isolated_python_is_not_audited(
    run_python: Runner, tmp_path: Path, flag: str, imported: list[str]
) -> None:
    done = run_python(flag, "-c", f"import asyncio; {SHOW_OURS}", AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr) == (f"{imported}\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_program_without_asyncio_gets_no_log_and_nothing_heavy(
    run_python: Runner, tmp_path: Path
) -> None:
    done = run_python("-c", SHOW_HEAVY, AIOAUDIT="jsonl,sys", AIOAUDIT_EVENTS="task.*")
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "program",
    [
        "import asyncio",
        "import asyncio.events",
        "from asyncio import run",
        "import importlib; importlib.import_module('asyncio.tasks')",
        "import concurrent.futures, asyncio",
    ],
)
def test_auditing_starts_with_the_first_import_of_asyncio(
    run_python: Runner, tmp_path: Path, program: str
) -> None:
    done = run_python("-c", f"{program}\nimport asyncio; {USE}", AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    [log] = logs(tmp_path)
    assert log[0]["event"] == "process.start"
    assert log[0]["argv"] == ["-c"]
    assert [line["event"] for line in log].count("process.start") == 1


@pytest.mark.parametrize(
    "program",
    [
        "import aioaudit.recognisers",
        "import aioaudit.recognisers.anyio",
        "import aioaudit.session",
        "import aioaudit.trail",
        "import aioaudit.state.places",
        "import aioaudit; aioaudit.enable('jsonl')",
        "import aioaudit\nwith aioaudit.recording(): pass",
        "try: import aioaudit.nothing\nexcept ImportError: pass",
    ],
)
def test_it_starts_where_the_program_imports_what_is_ours_first(
    run_python: Runner, tmp_path: Path, program: str
) -> None:
    # Some of that imports asyncio, in the middle of what auditing needs whole.
    done = run_python("-c", f"{program}\nimport asyncio; {USE}", AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    [log] = logs(tmp_path)
    names = [line["event"] for line in log]
    assert names.count("process.start") == 1
    assert names.count("task.create") >= 1


def test_auditing_starts_at_once_where_asyncio_is_there_already(
    run_python: Runner, tmp_path: Path
) -> None:
    program = (
        "import asyncio, sys, aioaudit.startup as s, aioaudit.settings as t;"
        "before = list(sys.meta_path); s.start(t.build(jsonl_path='now.jsonl'));"
        "print([f for f in sys.meta_path if type(f).__name__ != 'AfterImport'] == before);"
        f"{USE}"
    )
    assert run_python("-c", program).stdout == "True\n"
    assert len(starts(tmp_path)) == 1


def test_a_relative_path_starts_where_the_program_was_started(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "app.py").write_text(f"import os\nos.chdir('elsewhere')\nimport asyncio\n{USE}")
    for start in (["app.py"], ["-I", "-m", "aioaudit", "run", "app.py"]):
        done = run_python(*start, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="logs-{pid}.jsonl")
        assert (done.returncode, done.stderr) == (0, "")
    assert sorted(each.name.partition("-")[0] for each in tmp_path.iterdir()) == [
        "app.py",
        "elsewhere",
        "logs",
        "logs",
    ]


IMPORT_STATE = """
import asyncio, importlib.util, sys
def tell(spec):
    print(type(spec.loader), sorted(vars(spec.loader).items()), spec.origin, spec.cached,
          spec.submodule_search_locations, spec.has_location, spec.loader_state)
tell(asyncio.__spec__)
tell(importlib.util.find_spec("asyncio.events"))
print(asyncio.__loader__ is asyncio.__spec__.loader, asyncio.__file__,
      getattr(asyncio, '__cached__', None))  # until 3.14
# One finder stays while it waits for the libraries whose scopes are probed.
finders = [finder for finder in sys.meta_path if type(finder).__name__ != "AfterImport"]
print(sorted(vars(asyncio)), [type(finder) for finder in finders])
print([str(finder) for finder in finders if isinstance(finder, type)])
print(len(sys.path_hooks), sys.path)
import importlib
print(importlib.reload(asyncio) is asyncio)
asyncio.run(asyncio.sleep(0))
"""


def test_asyncio_and_the_import_system_look_as_without_us(
    run_python: Runner, tmp_path: Path
) -> None:
    plain = run_python("-c", IMPORT_STATE)
    audited = run_python("-c", IMPORT_STATE, AIOAUDIT="jsonl")
    assert audited.stdout == plain.stdout
    assert (plain.stderr, audited.stderr) == ("", "")
    assert len(starts(tmp_path)) == 1


def test_only_looking_for_asyncio_starts_nothing_and_shows_the_real_loader(
    run_python: Runner, tmp_path: Path
) -> None:
    program = (
        "import importlib.util as u; s = u.find_spec('asyncio');"
        "print(type(s.loader).__name__, type(u.find_spec('json').loader).__name__)"
    )
    done = run_python("-c", program, AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr) == ("SourceFileLoader SourceFileLoader\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_import_fails_as_ever_and_the_next_one_is_audited(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "asyncio").mkdir()
    (tmp_path / "asyncio" / "__init__.py").write_text("raise ImportError('not this one')")
    program = (
        "import sys, glob\n"
        "for _ in range(2):\n"
        "    try: import asyncio\n"
        "    except ImportError as error: print(error, 'asyncio' in sys.modules)\n"
        "print(glob.glob('*.jsonl'))\n"
        "sys.path.remove('')\n"
        "import asyncio\n"
        f"print(asyncio.__loader__.__dict__.keys()); {USE}\n"
    )
    done = run_python("-c", program, AIOAUDIT="jsonl")
    assert done.stdout == (
        "not this one False\nnot this one False\n[]\ndict_keys(['name', 'path'])\n"
    )
    assert done.stderr == ""
    assert len(starts(tmp_path)) == 1


def test_asyncio_from_a_zip_file_is_noticed_too(run_python: Runner, tmp_path: Path) -> None:
    source = Path(os.__file__).parent / "asyncio"
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
        for file in source.glob("*.py"):
            archive.write(file, f"asyncio/{file.name}")
        archive.writestr("neighbour.py", "here = True")
    program = (
        "import sys; sys.path.insert(0, 'lib.zip')\n"
        "import importlib.util as u\n"
        "u.find_spec('asyncio'); u.find_spec('asyncio')\n"
        "import neighbour; print('asyncio' in sys.modules)\n"
        "import asyncio\n"
        "print(asyncio.__file__, 'exec_module' in vars(asyncio.__loader__))\n"
        f"{USE}\n"
    )
    done = run_python("-c", program, AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr) == ("False\nlib.zip/asyncio/__init__.py False\n", "")
    assert len(starts(tmp_path)) == 1


def test_another_watcher_of_imports_keeps_its_place_on_the_loader(
    run_python: Runner, tmp_path: Path
) -> None:
    program = (
        "import sys, importlib.machinery as m\n"
        "def mine(module): print('mine'); original(module)\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        global original\n"
        "        if name == 'asyncio':\n"
        "            spec = m.PathFinder.find_spec(name)\n"
        "            original = spec.loader.exec_module\n"
        "            spec.loader.exec_module = mine\n"
        "            return spec\n"
        "sys.meta_path.append(Finder()); sys.meta_path.remove(m.PathFinder)\n"
        "sys.meta_path.append(m.PathFinder)\n"
        "import asyncio\n"
        f"print(asyncio.__loader__.exec_module is mine); {USE}\n"
    )
    done = run_python("-c", program, AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr) == ("mine\nTrue\n", "")
    assert len(starts(tmp_path)) == 1


def test_a_loader_that_cannot_be_watched_is_said_once_and_the_import_works(
    run_python: Runner, tmp_path: Path
) -> None:
    program = (
        "import sys, importlib.machinery as m\n"
        "class Loader:\n"
        "    __slots__ = ('real',)\n"
        "    def __init__(self, real): self.real = real\n"
        "    def create_module(self, spec): return None\n"
        "    def exec_module(self, module): self.real.exec_module(module)\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'asyncio':\n"
        "            spec = m.PathFinder.find_spec(name)\n"
        "            spec.loader = Loader(spec.loader)\n"
        "            return spec\n"
        "sys.meta_path.remove(m.PathFinder); sys.meta_path += [Finder(), m.PathFinder]\n"
        "import importlib.util; importlib.util.find_spec('asyncio')\n"
        "import asyncio; print(asyncio.run)\n"
    )
    done = run_python("-c", program, AIOAUDIT="jsonl")
    assert done.stdout.startswith("<function run at ")
    assert done.stderr == (
        "aioaudit: asyncio comes from a Loader, which cannot be watched (TypeError: vars() argument"
        " must have __dict__ attribute); call aioaudit.enable() instead;"
        " this program runs unaudited\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_start_up_file_runs_twice_and_starts_once(run_python: Runner, tmp_path: Path) -> None:
    program = (
        "import _aioaudit_autostart as a, sys\n"
        "a.main(); a.main()\n"
        "print([type(f).__name__ for f in sys.meta_path].count('_Watch'))\n"
        f"import asyncio; {USE}\n"
        "import aioaudit; aioaudit.disable()\n"
        "a.main()\n"
        "from aioaudit.session import current; print(current())\n"
    )
    done = run_python("-c", program, AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr) == ("1\nNone\n", "")
    assert len(starts(tmp_path)) == 1


@pytest.mark.parametrize(
    ("environ", "start"),
    [
        (
            {"AIOAUDIT": "1", "AIOAUDIT_EVENTS": "tsak.done"},
            "aioaudit: AIOAUDIT_EVENTS='tsak.done': 'tsak.done' is no event "
            "(did you mean 'task.done'?); allowed: patterns like task.* and process.start, ",
        ),
        (
            {"AIOAUDIT": "a\nb\x1b[31m"},
            "aioaudit: AIOAUDIT='a\\nb\\x1b[31m': 'a\\nb\\x1b[31m' is no exporter; allowed: jsonl, ",
        ),
    ],
    ids=["what is read", "what is looked up"],  # what else is bad is in unit/test_settings.py
)
@pytest.mark.parametrize("program", ["pass", "import asyncio; asyncio.run(asyncio.sleep(0))"])
def test_a_bad_setting_is_one_line_and_the_program_runs_on_unaudited(
    run_python: Runner, tmp_path: Path, environ: dict[str, str], start: str, program: str
) -> None:
    done = run_python("-c", f"{program}\nprint('ran'); raise SystemExit(3)", **environ)
    assert (done.stdout, done.returncode) == ("ran\n", 3)
    assert done.stderr.startswith(start)
    assert done.stderr.endswith("; this program runs unaudited\n")
    assert done.stderr[:-1].isprintable()
    assert list(tmp_path.iterdir()) == []


def test_an_exporter_that_fails_to_load_is_one_line_and_the_program_runs_on(
    run_python: Runner, tmp_path: Path
) -> None:
    metadata = tmp_path / "plugins" / "somebodys-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[aioaudit.exporters]\nmine = nowhere:Mine\n")
    done = run_python(
        "-c",
        "import asyncio; asyncio.run(asyncio.sleep(0)); print('ran')",
        AIOAUDIT="mine",
        PYTHONPATH=str(metadata.parent),
    )
    assert done.stdout == "ran\n"
    assert done.stderr.startswith(
        "aioaudit: exporter 'mine' (nowhere:Mine) cannot be loaded: ModuleNotFoundError:"
        " No module named 'nowhere'; "
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("value", ["jsonl", "bad"])
def test_a_program_without_standard_streams_runs(
    audited_python: str, tmp_path: Path, value: str
) -> None:
    command = (
        f"exec '{audited_python}' -c 'import asyncio; {USE}; raise SystemExit(5)' <&- >&- 2>&-"
    )
    done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, env={"AIOAUDIT": value})
    assert done.returncode == 5
    assert len(starts(tmp_path)) == (value == "jsonl")


def test_another_interpreter_in_the_process_is_left_alone(
    run_python: Runner, tmp_path: Path
) -> None:
    program = (
        "import sys\n"
        "try: import _interpreters as i\n"
        "except ImportError: import _xxsubinterpreters as i\n"
        "inner = i.create()\n"
        "i.run_string(inner, \"import sys; print('aioaudit.startup' in sys.modules, "
        "sum(type(f).__name__ == '_Watch' for f in sys.meta_path), flush=True)\")\n"
        f"import asyncio; {USE}; print('main', flush=True)\n"
    )
    done = run_python("-c", program, AIOAUDIT="jsonl")
    assert done.returncode == 0
    assert done.stdout == "True 0\nmain\n"
    assert len(starts(tmp_path)) == 1


CHILDREN = """
import asyncio, multiprocessing, os, subprocess, sys

def child(number):
    asyncio.run(asyncio.sleep(0))
    print("child", os.getpid(), flush=True)

if __name__ == "__main__":
    asyncio.run(asyncio.sleep(0))
    print("parent", os.getpid(), flush=True)
    if sys.argv[1] == "subprocess":
        for _ in range(2):
            subprocess.run([sys.executable, __file__, "inner"], check=True)
    elif sys.argv[1] != "inner":
        context = multiprocessing.get_context(sys.argv[1])
        processes = [context.Process(target=child, args=(n,)) for n in range(2)]
        for process in processes: process.start()
        for process in processes: process.join()
        assert [process.exitcode for process in processes] == [0, 0]
"""


@pytest.mark.parametrize("how", ["subprocess", "spawn", "forkserver", "fork"])
def test_each_process_that_uses_asyncio_has_a_log_of_its_own_and_no_other_has(
    run_python: Runner, tmp_path: Path, how: str
) -> None:
    (tmp_path / "app.py").write_text(CHILDREN)
    done = run_python("app.py", how, AIOAUDIT="jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    said = [line.split() for line in done.stdout.splitlines()]
    pids = {int(pid) for _, pid in said}
    assert len(pids) == 3
    found = starts(tmp_path)
    # A forkserver imports asyncio with the main module, and so is one of us.
    extra = {line["pid"] for line in found} - pids
    assert len(extra) <= (1 if how == "forkserver" else 0)
    assert {line["pid"] for line in found} - extra == pids
    assert len({line["run"] for line in found}) == len(found) == len(pids) + len(extra)
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {
        f"aioaudit-{pid}.jsonl" for pid in pids | extra
    }
    parent = next(int(pid) for who, pid in said if who == "parent")
    if how != "forkserver":
        assert {line["ppid"] for line in found if line["pid"] != parent} == {parent}


def test_the_words_for_off_are_the_same_in_both_places(run_python: Runner) -> None:
    program = (
        "import _aioaudit_autostart as a, aioaudit.settings as s\n"
        "print(a._OFF == ('', *s.OFF_WORDS))"
    )
    assert run_python("-c", program).stdout == "True\n"


def test_reading_settings_imports_nothing_heavy(run_python: Runner) -> None:
    done = run_python("-c", f"import aioaudit.settings, aioaudit.startup; {SHOW_HEAVY}")
    assert (done.stdout, done.stderr) == ("[]\n", "")


DEAR = ("dataclasses", "json", "pathlib", "secrets", "sysconfig")


def test_auditing_brings_no_module_that_takes_long_to_import_and_is_not_needed(
    run_python: Runner, tmp_path: Path
) -> None:
    program = (
        "import asyncio, ctypes, sys, msgspec\n"  # that of 3.14 brings sysconfig
        "before = set(sys.modules)\n"
        "import aioaudit\n"
        f"aioaudit.enable('jsonl', jsonl_path={str(tmp_path / 'log')!r})\n"
        f"print(sorted((set(sys.modules) - before) & {set(DEAR)}))"
    )
    done = run_python("-c", program)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_what_tells_of_events_brings_nothing_that_reads_logs(run_python: Runner) -> None:
    program = (
        "import sys\n"
        "import aioaudit.exporters.jsonl, aioaudit.exporters.recorder.exporter\n"
        "import aioaudit.exporters.otel.spans\n"
        "print(sorted(each for each in sys.modules if each.startswith('aioaudit.log')))"
    )
    done = run_python("-c", program)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("collecting", ["enable", "disable"])
def test_the_collector_stays_as_the_program_has_it(run_python: Runner, collecting: str) -> None:
    program = f"import gc; gc.{collecting}(); import asyncio; print(gc.isenabled())"
    done = run_python("-c", program, AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr) == (f"{collecting == 'enable'}\n", "")


def test_importing_the_package_brings_nothing_but_its_version(run_python: Runner) -> None:
    # What is public can be asked of it at the top, and comes when it is: it costs as little as ever.
    done = run_python("-c", f"import aioaudit; {SHOW_OURS}; {SHOW_HEAVY}")
    assert done.stdout == "['aioaudit', 'aioaudit.version']\n[]\n"
    done = run_python("-c", f"from aioaudit import AioauditError, SettingsError; {SHOW_HEAVY}")
    assert done.stdout == "[]\n"
