"""A smoke test on CPython 3.14, 32 bits, compiled to WebAssembly: Pyodide under Node.js.

What is riskiest on an interpreter that nobody had seen when this was written: that the
methods of immutable C types can be replaced in place and put back exactly, and that
`sys.monitoring` tells the end of a task and hands over the very CancelledError.  The
package itself needs msgspec, which Pyodide's core does not hold, so the two modules
that do this are loaded by their paths.

``make test`` installs the npm package ``pyodide`` into ``.venv/pyodide`` where Node.js
and npm are there, and names the folder in ``AIOAUDIT_TEST_PYODIDE``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import aioaudit
from tests.conftest import ROOT, clean_environ
from tests.waiting import PATIENCE

pytestmark = pytest.mark.any_python

FOLDER = Path(os.environ.get("AIOAUDIT_TEST_PYODIDE") or ROOT / ".venv" / "pyodide")
NODE = shutil.which("node")

START = """
import { readFileSync } from "node:fs";
const { loadPyodide } = await import(process.argv[3]);
const python = await loadPyodide();
python.FS.mkdirTree("/source");
python.FS.mount(python.FS.filesystems.NODEFS, { root: process.argv[2] }, "/source");
console.log(python.runPython(readFileSync(0, "utf-8")));
"""

PROGRAM = '''
import asyncio, importlib, json, struct, sys, types

def load(name):
    """A module of the package, without what the package itself imports, which needs msgspec."""
    return importlib.import_module(f"aioaudit.cpython.{name}")

for package in ("aioaudit", "aioaudit.cpython"):
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = [package.replace("aioaudit", "/source").replace(".", "/")]

class Loop(asyncio.BaseEventLoop):
    """A loop without a selector: Pyodide's own runs in the browser's."""
    class Selector:
        def select(self, timeout): return []
        def close(self): pass
    _selector = Selector()
    def _process_events(self, events): pass
    def _write_to_self(self): pass

def attributes():
    return [(cls, dict(vars(cls)), cls.__flags__) for cls in (asyncio.Task, asyncio.Future)]

def refused():
    try:
        asyncio.Task.cancel = None
    except TypeError:
        return True

async def victim():
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError as error:
        caught.append(error)
        return "returned"

async def main():
    task = asyncio.Task(victim(), name="victim")
    await asyncio.sleep(0)
    task.cancel("why")
    return await task

inplace, monitoring = load("inplace"), load("monitoring")
before = attributes()
seen, told, thrown, caught = [], [], [], []
inplace.check(asyncio.Task, asyncio.Future)
patches = inplace.Patches()
originals = asyncio.Task.__init__, asyncio.Task.cancel, asyncio.Future.cancel

def init(self, coro, **options):
    seen.append(f"init {coro.__qualname__}")
    originals[0](self, coro, **options)

def cancel(self, msg=None):
    seen.append(f"cancel {self.get_name()} {msg}")
    return originals[1](self, msg)

def future_cancel(self, msg=None):
    seen.append(f"{type(self).__name__}.cancel {msg}")
    return originals[2](self, msg)

patches.replace(asyncio.Task, "__init__", init)
patches.replace(asyncio.Task, "cancel", cancel)
patches.replace(asyncio.Future, "cancel", future_cancel)
immutable_while_on = refused()
monitor = monitoring.Monitor("smoke")
monitor.open()
monitor.on("PY_THROW", lambda code, offset, error: (
    told.append(f"throw {code.co_qualname}"), thrown.append(error)))
monitor.on("PY_RETURN", lambda code, offset, value: told.append(f"return {code.co_qualname} {value}"))
monitor.switch(True, "PY_THROW")
monitor.watch_returns(victim.__code__)

outer = asyncio._get_running_loop()
asyncio._set_running_loop(None)
loop = Loop()
result = loop.run_until_complete(main())
patches.restore()
monitor.close()
count = len(seen), len(told)
after = loop.run_until_complete(main())
loop.close()
asyncio._set_running_loop(outer)

json.dumps({
    "version": sys.version_info[:2],
    "bits": struct.calcsize("P") * 8,
    "types": [asyncio.Task.__module__, asyncio.Future.__module__],
    "results": [result, after],
    "seen": seen,
    "told": told,
    "the same error": thrown == caught[:1],
    "immutable while on": immutable_while_on,
    "immutable after": refused(),
    "restored": attributes() == before,
    "silent after": (len(seen), len(told)) == count,
})
'''


def test_the_riskiest_claims_hold_on_cpython_3_14(tmp_path: Path) -> None:
    if NODE is None:
        pytest.skip("Node.js is not installed: nothing here can run Pyodide")
    pyodide = FOLDER / "node_modules" / "pyodide" / "pyodide.mjs"
    if not pyodide.exists():
        pytest.skip(f"Pyodide is not in {FOLDER}: make test puts it there with npm")
    script = tmp_path / "smoke.mjs"
    script.write_text(START)
    source = Path(str(aioaudit.__file__)).parent
    done = subprocess.run(
        [NODE, str(script), str(source), pyodide.resolve().as_uri()],
        cwd=tmp_path,
        env=clean_environ(),
        input=PROGRAM,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    version = tuple(found.pop("version"))
    assert version >= (3, 14)
    assert found == {
        "bits": 32,
        "types": ["_asyncio", "_asyncio"],
        "results": ["returned", "returned"],
        "seen": ["init main", "init victim", "cancel victim why", "Future.cancel why"],
        "told": ["throw victim", "return victim returned"],
        "the same error": True,
        "immutable while on": True,
        "immutable after": True,
        "restored": True,
        "silent after": True,
    }
