"""The interpreter, its loops, and `sys.monitoring`: can tasks be audited here at all?"""

from __future__ import annotations

import asyncio
import json
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterator

from aioaudit.core.choice import CORE, Choice
from aioaudit.cpython import inplace
from aioaudit.cpython.behaviour import RELEASE
from aioaudit.cpython.monitoring import AVAILABLE, CANDIDATES
from aioaudit.doctor.diagnosis import Diagnosis, State
from aioaudit.doctor.packages import find_spec, version_of_module

TESTED = ((3, 11), (3, 15))
"""The first and the last version of CPython that all tests are run on."""

_PATIENCE = 60
"""Seconds that a trial may take; it needs a fraction of one."""

_TRIAL = """
import sys, json
sys.path[:] = json.loads(sys.argv[1])
import asyncio, importlib, aioaudit

async def main():
    task = asyncio.get_running_loop().create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return task

with aioaudit.recording() as trail:
    loop = importlib.import_module(sys.argv[2]).new_event_loop()
    task = loop.run_until_complete(main())
    loop.close()
    answer = trail.why(task)
if answer is None or (answer.root.what, answer.root.source) != ("called", "__main__:main"):
    sys.exit(f"the root of a task cancelled by hand was {answer and answer.root}")
"""
"""A task is cancelled on a loop; was it seen, and by whom?"""


def interpreter() -> Iterator[Diagnosis]:
    """Version and build, and whether the types of asyncio can be changed."""
    version = platform.python_version()
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    debug = hasattr(sys, "gettotalrefcount")
    build = [
        "free-threaded build" if free_threaded else "build with the GIL",
        *(["debug build"] if debug else []),
        sys.executable,
    ]
    state: State = "ok"
    try:
        inplace.check(asyncio.tasks.Task, asyncio.futures.Future)
    except inplace.UnsupportedError as error:
        state = "problem"
        build.append(f"not supported: {error}")
    else:
        first, last = (".".join(map(str, each)) for each in TESTED)
        if not TESTED[0] <= RELEASE <= TESTED[1] or free_threaded or debug:
            state = "note"
            build.append(f"aioaudit is tested on CPython {first} to {last}, release builds")
    yield Diagnosis(
        section="interpreter",
        subject=f"{platform.python_implementation()} {version}",
        state=state,
        text=", ".join(build),
        version=version,
    )


def loops() -> Iterator[Diagnosis]:
    """Whether a cancellation on each loop is seen and explained: it is tried."""
    for module in ("asyncio", "uvloop"):
        if find_spec(module) is None:
            yield Diagnosis(section="loops", subject=module, state="none", text="not installed")
            continue
        version = None if module == "asyncio" else version_of_module(module)
        wrong = _try(module)
        yield Diagnosis(
            section="loops",
            subject=module if version is None else f"{module} {version}",
            state="ok" if wrong is None else "problem",
            text="tried: a task was cancelled, and who did it was seen"
            if wrong is None
            else f"not supported: {wrong}",
            version=version,
        )


def _try(module: str) -> str | None:
    """What went wrong when a task was cancelled on the loop of *module*; None if all went well.

    In a process of its own: types are changed for it, which an interpreter that is
    not the one it says it is might not survive.
    """
    try:
        done = subprocess.run(
            # With -I, so that no start-up file has changed anything before.
            [sys.executable, "-I", "-B", "-c", _TRIAL, json.dumps(sys.path), module],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it could not be tried: {error}"
    if done.returncode == 0:
        return None
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return said[-1] if said else f"the trial ended with status {done.returncode}"


def core(choice: Choice = CORE) -> Iterator[Diagnosis]:
    """Which core runs, and whether that is what was asked for."""
    state: State = "ok" if choice.name == "native" else "problem" if choice.complaint else "note"
    yield Diagnosis(section="interpreter", subject="core", state=state, text=str(choice))


def monitoring() -> Iterator[Diagnosis]:
    """How it is seen where a task ended, and whether a tool id is free for that."""
    subject = "sys.monitoring"
    if not AVAILABLE:
        yield Diagnosis(
            section="interpreter",
            subject=subject,
            state="note",
            text="Python 3.12 has it first: which line swallowed a cancellation is not seen here",
        )
        return
    get_tool = sys.monitoring.get_tool  # type: ignore[attr-defined,unused-ignore]  # 3.12+, typed away on 3.11
    holders = {tool: get_tool(tool) for tool in sorted(CANDIDATES)}
    taken = [f"{tool} is {holder!r}" for tool, holder in holders.items() if holder is not None]
    free = [str(tool) for tool, holder in holders.items() if holder is None]
    text = f"free tool ids: {', '.join(free)}" if free else "no tool id is free"
    if taken:
        text += f"; taken: {', '.join(taken)}"
    if not free:
        text += "; auditing needs one"
    yield Diagnosis(
        section="interpreter", subject=subject, state="ok" if free else "problem", text=text
    )
