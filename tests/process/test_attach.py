"""``aioaudit attach``: real processes that were started without anything, and are as before in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent
from typing import Any, Self

import pytest

from aioaudit.attach import client
from aioaudit.attach.client import SCRIPT, Answer, Letters, ask
from aioaudit.attach.target import AttachError, Target
from aioaudit.log import load
from tests.conftest import clean_environ
from tests.recognising import links
from tests.waiting import PATIENCE, asleep, wait_until

if sys.version_info < (3, 14):
    pytest.skip("sys.remote_exec came with Python 3.14", allow_module_level=True)

APP = """
    import asyncio, gc, json, os, signal, sys, threading
    import ctypes  # some builds keep the file of its library open

    MODE = sys.argv[1]
    scopes = {}
    told = []

    async def forever():
        await asyncio.get_running_loop().create_future()

    async def beat():
        while True:  # one that only waits would not come to run anything
            await asyncio.sleep(0.02)

    async def limited():
        async with asyncio.timeout(None) as scopes["limited"]:
            await forever()  # waits here

    async def waits():
        await asyncio.wait_for(forever(), 3600)  # waits with a limit

    async def child():
        await scopes["go"].wait()
        raise LookupError("child")

    async def group():
        async with asyncio.TaskGroup() as tasks:  # waits for its tasks
            tasks.create_task(child(), name="child")
            tasks.create_task(forever(), name="sibling")

    async def answers():
        async with asyncio.timeout(None) as scopes["inner"], asyncio.TaskGroup():
            await forever()  # in both

    def opened(number):
        try:
            return f"{number} {os.readlink(f'/proc/self/fd/{number}')}"
        except OSError:  # that of the list itself
            return None

    def snapshot():
        # Asked in the loop, while nothing of ours runs.
        import asyncio.events, asyncio.timeouts
        classes = (asyncio.Task, asyncio.Future, asyncio.tasks._PyTask, asyncio.futures._PyFuture,
                   asyncio.Timeout, asyncio.TaskGroup, asyncio.Event, asyncio.BaseEventLoop,
                   asyncio.AbstractEventLoop, asyncio.SelectorEventLoop, asyncio.CancelledError,
                   type(asyncio.get_running_loop()))
        return {
            "classes": [sorted((name, id(value)) for name, value in vars(cls).items()
                               if name not in ("__abstractmethods__", "_abc_impl"))
                        for cls in classes],
            "running": id(asyncio.events._set_running_loop),
            "tools": [sys.monitoring.get_tool(each) for each in range(6)],
            "finders": [str(each) for each in sys.meta_path],
            "handlers": [str(signal.getsignal(each)) for each in signal.valid_signals()],
            # Those of executors come as they are needed; ours are none that `threading` knows.
            "threads": len(os.listdir("/proc/self/task")) - threading.active_count(),
            "open": sorted(filter(None, map(opened, os.listdir("/proc/self/fd")))),
            "path": sys.path,
            "hooks": [str(sys.excepthook), str(sys.unraisablehook), str(threading.excepthook)],
            "tasks": sorted(map(str, (each.get_name() for each in asyncio.all_tasks()))),
        }

    async def obey(line):
        word, _, rest = line.strip().partition(" ")
        if word == "expire":
            now = asyncio.get_running_loop().time()
            for each in gc.get_objects():
                if isinstance(each, asyncio.Timeout) and not each.expired():
                    each.reschedule(now)
        elif word == "fail":
            scopes["go"].set()
        elif word == "fetched":
            scopes["cancel"]()
        elif word == "make":
            await asyncio.create_task(asyncio.sleep(0), name=rest)
        elif word == "kill":
            next(each for each in asyncio.all_tasks() if each.get_name() == rest).cancel()
        elif word == "dump":
            import aioaudit
            return await asyncio.to_thread(aioaudit.dump, rest)
        elif word == "snapshot":
            return snapshot()
        await asyncio.sleep(0.05)
        return None

    async def main():
        loop = asyncio.get_running_loop()
        if MODE == "eager":
            loop.set_task_factory(asyncio.eager_task_factory)
        scopes["go"] = asyncio.Event()
        tasks = [asyncio.create_task(forever(), name=f"idle-{each}") for each in range(300)]
        tasks += [asyncio.create_task(each(), name=each.__name__)
                  for each in (limited, waits, group, answers, beat)]
        fetched = asyncio.create_task(forever(), name="fetched")
        scopes["cancel"] = fetched.cancel
        loop.set_exception_handler(lambda loop, context: told.append(context))
        await asyncio.to_thread(int)
        if MODE == "settled":
            snapshot()
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await obey(line)), flush=True)
        os._exit(0)

    def run():
        if MODE == "uvloop":
            import uvloop
            uvloop.run(main())
        else:
            asyncio.run(main())

    if MODE == "thread":
        threading.Thread(target=run).start()
        while True:
            threading.Event().wait(0.05)
    run()
"""


class Program:
    """A program that does what it is told on its stdin."""

    def __init__(self, python: str, folder: Path, text: str, *words: str, **environ: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.lines = dedent(text).splitlines()
        (folder / "app.py").write_text(dedent(text))
        self.process = subprocess.Popen(
            [python, *(word for word in words if word.startswith("-")), "app.py"]
            + [word for word in words if not word.startswith("-")],
            cwd=folder,
            env=clean_environ(XDG_RUNTIME_DIR=str(folder), **environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.target = Target(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, words: str) -> Any:
        """What it answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()
        return json.loads(self.line())

    def at(self, words: str) -> str:
        """``app.py:LINE`` of the line that holds *words*."""
        [number] = [number for number, line in enumerate(self.lines, 1) if words in line]
        return f"app.py:{number}"

    def ask(self, do: str, timeout: float = PATIENCE, **more: str) -> tuple[Answer, Answer | None]:
        """What it answers to the client."""
        return ask(self.target, {"do": do, **more}, timeout, lambda: None)

    def end(self) -> str:
        """What it said on stderr, once it has ended by itself."""
        _, err = self.process.communicate(timeout=PATIENCE)
        return err


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the client makes its own."""
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def started(audited_python: str, tmp_path: Path, runtime: Path) -> Iterator[Any]:
    """Starts programs, each in a folder of its own."""
    with ExitStack() as stack:

        def start(name: str, *words: str, text: str = APP, **environ: str) -> Program:
            return stack.enter_context(
                Program(audited_python, tmp_path / name, text, *words, **environ)
            )

        yield start
    assert not list(runtime.iterdir())


MODES = ("plain", "eager", "uvloop", "thread")


def test_a_process_is_recorded_from_the_attaching_on_and_as_before_in_the_end(
    started: Any, tmp_path: Path
) -> None:
    for program in [started(mode, mode) for mode in MODES]:
        assert program.line() == "ready"
        program.tell("snapshot")  # the first one imports
        before = program.tell("snapshot")
        done, older = program.ask("attach", size="8MB")
        assert done.how == "on", done
        assert older is not None
        told = json.loads(older.text)
        assert told["size"] == 8_000_000
        assert told["tasks"] >= 307, told
        assert (told["timeouts"], told["groups"]) == (3, 2)
        for words in ("make newer", "fetched", "expire", "fail", "kill idle-7"):
            program.tell(words)
        path = program.tell(f"dump {program.folder}/log.jsonl")
        done, _ = program.ask("detach")
        assert done.how == "off"
        after = program.tell("snapshot")
        ended = {"limited", "waits", "group", "answers", "child", "sibling", "fetched", "idle-7"}
        before["tasks"] = sorted(set(before["tasks"]) - ended)
        assert after == before
        check_log(program, Path(path))
        program.process.stdin.close()
        assert program.end() == ""


def check_log(program: Program, path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {each["name"]: each for each in lines if each["event"] == "task.found"}
    made = {each["name"]: each for each in lines if each["event"] == "task.create"}
    names = {f"idle-{number}" for number in range(300)}
    names |= {"limited", "waits", "group", "answers", "child", "sibling", "fetched"}
    assert names <= set(found)
    assert not names & set(made)
    assert made["newer"]["at"].endswith(program.at("name=rest"))
    for name in names:
        each = found[name]
        assert each["preexisting"] is True
        assert not {"parent", "at", "source"} & set(each)
    inner = program.at("await asyncio.get_running_loop().create_future()")
    assert found["idle-1"]["suspended_at"].endswith(inner)
    assert [each.rpartition("/")[2] for each in found["limited"]["timeouts"]] == [
        program.at('as scopes["limited"]')
    ]
    assert [each.rpartition("/")[2] for each in found["group"]["groups"]] == [
        program.at("as tasks:")
    ]
    both = [*found["answers"]["timeouts"], *found["answers"]["groups"]]
    assert [each.rpartition("/")[2] for each in both] == [program.at('as scopes["inner"]')] * 2

    log = load([str(path)])

    def why(name: str) -> list[dict[str, Any]]:
        [answer] = log.answers(name)
        return links(answer)

    def root(name: str) -> tuple[Any, ...]:
        last = why(name)[-1]
        at = last.get("at")
        return last["what"], last.get("reason"), at and at.rpartition("/")[2], last.get("seconds")

    assert root("limited") == ("deadline", "timeout", program.at('as scopes["limited"]'), None)
    assert root("waits") == ("deadline", "timeout", program.at("# waits with a limit"), 3600)
    assert root("answers") == ("deadline", "timeout", program.at('as scopes["inner"]'), None)
    assert root("sibling")[0] == root("group")[0] == "failed"
    assert why("sibling")[-1]["name"] == "child"
    assert root("idle-7") == ("called", "explicit", program.at("== rest).cancel()"), None)
    # Its method was fetched before anybody looked: what that did to the future is seen.
    assert root("fetched") == ("called", "explicit", program.at('scopes["cancel"]()'), None)


WITHOUT = """
    import time
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""

WITH = """
    import asyncio, time
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""

ASLEEP = """
    import asyncio, signal, time
    signal.signal(signal.SIGUSR1, lambda *_: None)
    print("ready", flush=True)
    signal.pause()
    print("awake", flush=True)
"""


def test_what_stands_in_the_way_is_one_line_that_says_what_to_do(started: Any) -> None:
    programs = {
        "no asyncio": started("bare", text=WITHOUT),
        "missing": started("none", "-I", "-S", text=WITH),
        "environment": started("closed", text=WITH, PYTHON_DISABLE_REMOTE_DEBUG="1"),
        "option": started("shut", "-Xdisable-remote-debug", text=WITH),
        "there": started("there", text=WITH, AIOAUDIT="recorder"),
        "bad": started("bad", text=WITH, AIOAUDIT_RECORDER_SIZE="much"),
        "detached": started("never", text=WITH),
    }
    for program in programs.values():
        assert program.line() == "ready"

    done, older = programs["no asyncio"].ask("attach")
    assert (done.how, older) == ("no asyncio", None)
    done, _ = programs["missing"].ask("attach")
    assert done.how == "missing"
    assert "No module named" in done.text
    for name in ("environment", "option"):
        with pytest.raises(
            AttachError, match=r"disable-remote-debug|PYTHON_DISABLE_REMOTE_DEBUG set"
        ):
            programs[name].ask("attach")
    done, _ = programs["there"].ask("attach")
    assert done.how == "there"
    done, _ = programs["bad"].ask("attach")
    assert done.how == "refused"
    assert "AIOAUDIT_RECORDER_SIZE='much'" in done.text
    done, _ = programs["detached"].ask("detach")
    assert done.how == "not attached"
    done, _ = programs["detached"].ask("attach")
    assert done.how == "on"
    assert json.loads(done.text)["elsewhere"] is True  # its main thread runs no loop
    done, _ = programs["detached"].ask("attach")
    assert done.how == "attached"
    done, _ = programs["detached"].ask("detach")
    assert done.how == "off"
    for program in programs.values():
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == ""


def test_other_exporters_go_on_and_are_left_in_place(started: Any) -> None:
    program = started("beside", "plain", AIOAUDIT="jsonl")
    assert program.line() == "ready"
    done, older = program.ask("attach")
    assert done.how == "on"
    assert older is not None
    told = json.loads(older.text)
    assert told["beside"] == ["jsonl"]
    assert "tasks" not in told  # the making of all of them was seen
    done, _ = program.ask("detach")
    assert json.loads(done.text)["beside"] == ["jsonl"]
    program.tell("kill idle-3")
    program.process.stdin.close()
    assert program.end() == ""


@pytest.mark.parametrize("look", [0.01, 1.3], ids=["often", "late"])
def test_a_process_that_runs_nothing_is_given_up_and_takes_the_lines_away_itself(
    started: Any, runtime: Path, look: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_LOOK", look)
    program = started("asleep", text=ASLEEP)
    assert program.line() == "ready"
    wait_until(asleep(program.process.pid))
    said: list[str] = []
    with pytest.raises(
        AttachError, match=r"has not run a line of Python in its main thread for 1\.2 s"
    ):
        ask(program.target, {"do": "attach"}, 1.2, lambda: said.append("waits"))
    assert said == ["waits"]
    [folder] = runtime.iterdir()
    assert [each.name for each in folder.iterdir()] == [SCRIPT]
    assert folder.stat().st_mode & 0o777 == 0o700
    program.process.send_signal(signal.SIGUSR1)
    assert program.line() == "awake"
    assert program.end() == ""
    assert not list(runtime.iterdir())


OF_ANOTHER = """
    import asyncio, os, time
    import aioaudit.attach.inside as inside
    inside.prepare()  # that user may not read these files
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reaches into another user's process")
def test_root_attaches_to_a_process_of_another_user_and_believes_no_link(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = started("other", text=OF_ANOTHER)
    assert program.line() == "ready"
    assert program.target.owner == 65534
    done, _ = program.ask("attach")
    assert done.how == "on", done
    done, _ = program.ask("detach")
    assert done.how == "off"

    with Letters(program.target) as letters:
        letters.send({})
        assert (Path(letters.folder) / SCRIPT).stat().st_uid == 65534
        (Path(letters.folder) / "done").symlink_to("/etc/passwd")
        with pytest.raises(AttachError, match="is no answer"):
            letters.read("done")
        (Path(letters.folder) / "here").write_text("on\n{}")
        with pytest.raises(AttachError, match="is not that process's answer"):
            letters.read("here")
        letters.pending = False

    monkeypatch.setattr(os, "geteuid", lambda: 65533)
    with pytest.raises(AttachError, match="belongs to another user: run this as that user"):
        program.target.check()


def test_a_process_that_is_none_of_pythons_or_gone_is_told(runtime: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as other:
        try:
            with pytest.raises(AttachError, match="is no Python that can be attached to"):
                ask(Target(other.pid), {"do": "attach"}, PATIENCE, lambda: None)
        finally:
            other.kill()
    with pytest.raises(AttachError, match=f"there is no process {other.pid}"):
        ask(Target(other.pid), {"do": "attach"}, PATIENCE, lambda: None)


def test_the_command_says_what_it_has_done(
    started: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aioaudit.cli import main

    program = started("told", "plain")
    pid = str(program.process.pid)
    assert program.line() == "ready"
    assert main(["attach", pid, "--size", "8MB"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, second, third = out.splitlines()
    assert first.endswith(": the recorder is on, 8 MB at most")
    assert second.endswith(
        "older than this, in 3 timeouts and 2 task groups: who made them is not known"
    )
    assert third == f"Take it out again: aioaudit attach {pid} --detach"
    assert main(["attach", pid]) == 0
    assert capsys.readouterr().out.endswith(": the recorder is attached to already\n")
    assert main(["attach", pid, "--detach"]) == 0
    assert capsys.readouterr().out.endswith("what it kept is gone; modules stay imported\n")
    assert main(["attach", pid, "--detach"]) == 1
    assert capsys.readouterr().err.endswith(": no recorder was attached to it\n")
    assert main(["attach", pid, "--size", "much"]) == 2
    assert main(["attach", pid, "--detach", "--size", "8MB"]) == 2
