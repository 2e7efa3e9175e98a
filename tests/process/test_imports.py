"""Waiting for imports: whoever finds a module, however often, and whatever else imports meanwhile."""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import aioaudit
from aioaudit.cpython.imports import AfterImport
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import Runner

USE = """
async def victim(): await asyncio.sleep(60)
async def main():
    task = asyncio.create_task(victim(), name="victim")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
asyncio.run(main())
"""


def told(folder: Path) -> list[str]:
    """The events of all logs there that are about the victim."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    events = [json.loads(line) for line in lines]
    return [event["event"] for event in events if event.get("name") == "victim"]


AUDITED = ["task.create", "task.cancel", "task.done"]

ANEW = {
    "asyncio alone": "for m in [m for m in sys.modules if m.split('.')[0] in ('asyncio', '_asyncio')]: del sys.modules[m]",
    "all that came with it, ours as well": "for m in [m for m in sys.modules if m not in before]: del sys.modules[m]",
}


@pytest.mark.parametrize("how", ANEW.values(), ids=ANEW)
@pytest.mark.parametrize("first", ["", USE], ids=["unused", "used"])
def test_an_asyncio_that_is_imported_anew_is_audited(
    run_python: Runner, tmp_path: Path, how: str, first: str
) -> None:
    (tmp_path / "app.py").write_text(
        f"import sys; before = set(sys.modules)\nimport asyncio\n{first}\n{how}\nimport asyncio\n{USE}"
    )
    plain = run_python("app.py")
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr, done.returncode) == ("", plain.stderr, 0)
    assert told(tmp_path) == (AUDITED * 2 if first else AUDITED)
    answer = run_python("-m", "aioaudit", "why", ".", "--json")
    assert answer.stdout.count('"source":"__main__:main"') >= (2 if first else 1)


def test_errors_and_handles_are_the_same_after_asyncio_was_imported_anew(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        "import sys, asyncio, aioaudit\nheld = aioaudit.AioauditError\nhandle = aioaudit.enable()\n"
        f"{ANEW['asyncio alone']}\nimport asyncio\n"
        "for base in (held, aioaudit.AioauditError, aioaudit.SettingsError):\n"
        "    try: aioaudit.enable('nosuchexporter')\n"
        "    except base: print('caught')\n"
        "handle.disable()\n"  # what it turned on ended with the old one
        "assert isinstance(handle, aioaudit.Auditing)\n"
        "print(hasattr(asyncio.CancelledError, 'source'))\n"
    )
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr) == ("caught\n" * 3 + "True\n", "")


def test_a_module_that_is_only_run_again_is_the_same(run_python: Runner, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        f"import asyncio, importlib\nimportlib.reload(asyncio)\nimport wave\n{USE}"
    )
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert (done.stderr, told(tmp_path)) == ("", AUDITED)


def test_auditing_that_was_turned_on_from_code_says_that_it_misses_the_new_one(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        "import sys, asyncio, aioaudit\naioaudit.enable('jsonl')\n"
        f"{ANEW['asyncio alone']}\nimport asyncio\n{USE}"
    )
    done = run_python("app.py")
    assert done.stderr == (
        "aioaudit: asyncio was dropped from sys.modules and imported anew;"
        " what the new one does is not audited\n"
    )


BEFORE_OURS = """
import sys
from importlib.machinery import PathFinder
class First:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, path) if name.partition(".")[0] in {names} else None
sys.meta_path.insert(0, First)
import asyncio
"""


def test_an_asyncio_that_another_finder_found_is_audited(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(BEFORE_OURS.format(names=["asyncio"]) + "import wave\n" + USE)
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert (done.stderr, told(tmp_path)) == ("", AUDITED)


def test_where_nothing_is_imported_after_it_one_line_says_so(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(BEFORE_OURS.format(names=["asyncio"]) + USE)
    done = run_python("app.py", AIOAUDIT="jsonl")
    said = done.stderr.splitlines()
    if told(tmp_path):
        assert (told(tmp_path), said) == (AUDITED, [])
    else:
        assert said == [
            "aioaudit: asyncio was imported by a finder that stands before the one of aioaudit on"
            " sys.meta_path, and was not seen; call aioaudit.enable() instead; this program runs"
            " unaudited"
        ]


def test_pytest_that_takes_asyncio_for_a_plugin_is_audited(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(
        f"import asyncio\ndef test_it():\n    exec({USE!r}, globals())\n"
    )
    done = run_python(
        *("-m", "pytest", "-q", "-p", "asyncio", "test_it.py"), AIOAUDIT="jsonl", PYTEST_ADDOPTS=""
    )
    assert "1 passed" in done.stdout, done.stdout
    assert told(tmp_path) == AUDITED


class Slow:
    """A finder that finds nothing, and takes its time."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "only_the_last_one_finds_it":
            self.asked.set()
            assert self.go_on.wait(PATIENCE)


class Last:
    """A finder that finds one module."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name != "only_the_last_one_finds_it":
            return None
        return importlib.machinery.ModuleSpec(name, self)  # type: ignore[arg-type]  # it has what is asked for

    def create_module(self, spec: Any) -> None:
        """The usual one will do."""

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def leave_by_removing() -> Any:
    waiting = AfterImport({"never_there": lambda _: None})
    waiting.begin()
    return waiting.remove


def leave_by_finding() -> Any:
    """The module comes, and the finder goes by itself."""
    waiting = AfterImport({"there_in_a_moment": lambda _: None})
    waiting.begin()

    def leave() -> None:
        sys.modules["there_in_a_moment"] = module = ModuleType("there_in_a_moment")
        module.__spec__ = importlib.machinery.ModuleSpec("there_in_a_moment", None)
        waiting.look()
        del sys.modules["there_in_a_moment"]

    return leave


def leave_by_disabling() -> Any:
    aioaudit.enable()
    return aioaudit.disable


@pytest.mark.parametrize("begin", [leave_by_removing, leave_by_finding, leave_by_disabling])
def test_an_import_in_another_thread_misses_no_finder_when_ours_goes(begin: Any) -> None:
    before = sys.meta_path
    finders = list(before)
    slow, last = Slow(), Last()
    leave = begin()
    sys.meta_path += [slow, last]
    found: list[object] = []

    def load() -> None:
        try:
            found.append(importlib.import_module("only_the_last_one_finds_it"))
        except ImportError as error:
            found.append(error)

    thread = threading.Thread(target=load)
    try:
        thread.start()
        assert slow.asked.wait(PATIENCE)
        leave()
        slow.go_on.set()
        thread.join()
        assert isinstance(found[0], ModuleType)
        # The list is what it was, itself included, and others' finders are in it.
        assert sys.meta_path is before
        assert sys.meta_path == [*finders, slow, last]
    finally:
        before[:] = finders
        sys.meta_path = before
        sys.modules.pop("only_the_last_one_finds_it", None)
