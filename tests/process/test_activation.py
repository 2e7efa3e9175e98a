"""``AIOAUDIT=jsonl python app.py`` as its user sees it: which files, what in them, how soon.

Real processes with the start-up files installed, the real recorder and the real
exporter; what is asked of the logs is asked with ``aioaudit why``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from aioaudit.settings import EVENT_NAMES
from tests.conftest import clean_environ
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from tests.conftest import Runner

Line: TypeAlias = dict[str, Any]

APP = """\
import asyncio, os, sys

async def work():
    await asyncio.sleep(60)

def boss(task):
    task.cancel("go")  # LINE boss

async def main():
    task = asyncio.create_task(work(), name="victim")
    await asyncio.sleep(0)
    boss(task)
    await asyncio.wait([task])
    async with asyncio.timeout(60):
        await asyncio.gather(*[asyncio.sleep(0) for _ in range(3)])

asyncio.run(main())
print("pid", os.getpid())
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A program that makes a few tasks and cancels one."""
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def line_of(program: Path, label: str) -> str:
    """``path:line`` of a label as the log has it for a program started by its name."""
    [number] = [
        number
        for number, line in enumerate(program.read_text().splitlines(), 1)
        if line.endswith(f"# LINE {label}")
    ]
    return f"{program}:{number}"


def read(path: Path) -> list[Line]:
    """The lines of a log, each a whole one, each with a larger ``seq`` than the one before."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    lines: list[Line] = [json.loads(line) for line in data.split(b"\n")[:-1]]
    assert lines[0]["event"] == "process.start"
    last: dict[str, int] = {}
    for line in lines:
        assert line["seq"] > last.get(line["run"], 0), line
        last[line["run"]] = line["seq"]
    return lines


def names(lines: list[Line]) -> list[str]:
    return [line["event"] for line in lines]


def ended(lines: list[Line]) -> list[Line]:
    """The lines of a log of one run that ended in order, between its first and its last."""
    assert {(line["run"], line["pid"]) for line in lines} == {(lines[0]["run"], lines[0]["pid"])}
    assert names(lines).count("process.start") == 1
    assert lines[-1]["event"] == "process.end"
    assert lines[-1]["written"] == len(lines) - 1
    assert lines[-1]["dropped"] == 0
    return lines[1:-1]


Why: TypeAlias = Callable[..., list[Line]]


@pytest.fixture
def why(run_python: Runner) -> Why:
    """The answers of ``aioaudit why ... --json``, after the same for people was asked for."""

    def ask(*words: str | Path, said: str = "") -> list[Line]:
        command = ["-m", "aioaudit", "why", *map(str, words)]
        text = run_python(*command)
        assert (text.returncode, text.stderr) == (0, said)
        assert text.stdout.replace("\n", "").isprintable()
        done = run_python(*command, "--json")
        assert (done.returncode, done.stderr) == (0, said)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


def roots(answers: list[Line]) -> list[tuple[str, str, str]]:
    """Name, kind of root and line of the root for each task, in the order of names."""
    return sorted(
        (answer["name"], answer["root"]["what"], answer["root"].get("at", "")) for answer in answers
    )


# -- what turns it on ---------------------------------------------------------------------


@pytest.mark.parametrize("word", ["jsonl", "1", "on", "TRUE", " Yes "])
def test_the_variable_alone_gives_a_log_beside_the_program_and_an_answer(
    run_python: Runner, tmp_path: Path, app: Path, why: Why, word: str
) -> None:
    done = run_python("app.py", AIOAUDIT=word)
    assert (done.returncode, done.stderr) == (0, "")
    pid = int(done.stdout.removeprefix("pid "))
    assert {path.name for path in tmp_path.iterdir()} == {"app.py", f"aioaudit-{pid}.jsonl"}
    log = tmp_path / f"aioaudit-{pid}.jsonl"
    lines = read(log)
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    between = ended(lines)
    assert {line["pid"] for line in lines} == {pid}
    assert (lines[0]["ppid"], lines[0]["argv"]) == (os.getpid(), ["app.py"])
    assert names(between).count("task.create") == names(between).count("task.done")
    assert names(between)[-1] == "loop.close"
    [answer] = why(log)
    boss = line_of(app, "boss")
    assert (answer["name"], answer["outcome"], answer["cancel_outcome"]) == (
        *("victim", "cancelled", "obeyed"),
    )
    assert [(link["what"], link["at"]) for link in answer["chain"]] == [
        ("cancelled", boss),
        ("called", boss),
    ]


def test_run_logs_what_the_variable_logs(run_python: Runner, tmp_path: Path, app: Path) -> None:
    told: list[list[Line]] = []
    for words in (["app.py"], ["-m", "aioaudit", "run", "app.py"], ["-m", "app"]):
        environ = {"AIOAUDIT_JSONL_PATH": f"log-{len(told)}.jsonl"}
        if "aioaudit" not in words:
            environ["AIOAUDIT"] = "jsonl"
        done = run_python(*words, **environ)
        assert (done.returncode, done.stderr) == (0, "")
        told.append(read(tmp_path / f"log-{len(told)}.jsonl"))
    changing = {"ts", "run", "pid", "lifetime", "argv", "process", "ancestors"}
    first, second, third = (
        [
            # The name of a task is that which it has when the line of its making is written.
            {
                key: value
                for key, value in line.items()
                if key not in changing and (key != "name" or line["event"] != "task.create")
            }
            for line in lines
        ]
        for lines in told
    )
    assert first == second == third


def test_an_own_path_is_where_auditing_began_and_holds_the_pid_where_it_is_asked_for(
    run_python: Runner, tmp_path: Path, app: Path
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    app.write_text("import asyncio, os; os.chdir('elsewhere')\n" + APP)
    done = run_python("app.py", AIOAUDIT="1", AIOAUDIT_JSONL_PATH="logs/{pid}-of-{pid}.txt")
    pid = done.stdout.removeprefix("pid ").strip()
    assert [path.name for path in (tmp_path / "logs").iterdir()] == [f"{pid}-of-{pid}.txt"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    ended(read(tmp_path / "logs" / f"{pid}-of-{pid}.txt"))


def test_a_path_without_pid_is_one_file_for_all_runs(
    run_python: Runner, tmp_path: Path, app: Path, why: Why
) -> None:
    for _ in range(3):
        run_python("app.py", AIOAUDIT="1", AIOAUDIT_JSONL_PATH="all.jsonl")
    lines = read(tmp_path / "all.jsonl")
    assert len({line["run"] for line in lines}) == 3
    for run in {line["run"] for line in lines}:
        ended([line for line in lines if line["run"] == run])
    assert roots(why("all.jsonl")) == [("victim", "called", line_of(app, "boss"))] * 3


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [
        ("task.cancel,future.cancel", {"task.cancel"}),
        ("task.create", {"task.create"}),
        (" TASK.* ,", {"task.create", "task.cancel", "task.done"}),
        ("loop.*", {"loop.start", "loop.stop", "loop.close"}),
        ("*.cancel,task.done", {"task.cancel", "task.done"}),
        ("hook.add", set()),
    ],
)
def test_a_filter_leaves_only_what_it_names_and_what_frames_a_log(
    run_python: Runner, tmp_path: Path, app: Path, wanted: str, matching: set[str]
) -> None:
    done = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_EVENTS=wanted)
    assert (done.returncode, done.stderr) == (0, "")
    [log] = tmp_path.glob("*.jsonl")
    lines = read(log)
    assert set(names(ended(lines))) == matching
    # What is left out uses no numbers, and nothing points to it.
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    for line in lines:
        for pointer in (line.get("cause"), line.get("cancel")):
            assert pointer is None or lines[pointer - 1]["event"].endswith(".cancel")
    if "task.done" in matching and "task.cancel" not in matching:
        assert all("cancel" not in line for line in lines)


def test_a_small_log_gives_the_chains_of_a_full_one(
    run_python: Runner, tmp_path: Path, app: Path, why: Why
) -> None:
    app.write_text(NESTED)
    chains: list[list[Any]] = []
    for wanted in (",".join(EVENT_NAMES), "task.cancel,future.cancel"):
        file = f"log-{len(chains)}.jsonl"
        environ = {"AIOAUDIT": "1", "AIOAUDIT_EVENTS": wanted, "AIOAUDIT_JSONL_PATH": file}
        assert run_python("app.py", **environ).stderr == ""
        chains.append([(answer["name"], answer["chain"]) for answer in why(file)])
    for links in (link for answers in chains for _, chain in answers for link in chain):
        links.pop("task", None)
    assert chains[0] == chains[1]
    assert {name for name, _ in chains[0]} == {"outer", "middle", "inner"}


NESTED = """\
import asyncio

async def inner():
    await asyncio.sleep(60)

async def middle():
    async with asyncio.TaskGroup() as group:
        group.create_task(inner(), name="inner")

async def outer():
    await asyncio.create_task(middle(), name="middle")

async def main():
    task = asyncio.create_task(outer(), name="outer")
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])

asyncio.run(main())
"""


# -- other processes ------------------------------------------------------------------------

CHILDREN = """\
import asyncio, multiprocessing, os, subprocess, sys

async def work():
    await asyncio.sleep(60)

async def main(name):
    task = asyncio.create_task(work(), name=name)
    await asyncio.sleep(0)
    task.cancel()  # LINE child
    await asyncio.wait([task])

def child(name):
    asyncio.run(main(name))
    print(name, os.getpid(), os.getppid(), flush=True)

if __name__ == "__main__":
    how = sys.argv[1]
    if how == "inner":
        child(sys.argv[2])
    elif how == "subprocess":
        child("parent")
        for number in range(2):
            command = [sys.executable, __file__, "inner", f"child-{number}"]
            subprocess.run(command, check=True)
    else:
        child("parent")
        context = multiprocessing.get_context(how)
        processes = [context.Process(target=child, args=(f"child-{n}",)) for n in range(2)]
        for process in processes: process.start()
        for process in processes: process.join()
        assert [process.exitcode for process in processes] == [0, 0]
"""


@pytest.mark.parametrize("how", ["subprocess", "fork", "spawn", "forkserver"])
@pytest.mark.parametrize("path", ["log-{pid}.jsonl", "shared.jsonl"])
def test_each_child_is_a_run_of_its_own_tied_to_its_parent(
    run_python: Runner, tmp_path: Path, why: Why, how: str, path: str
) -> None:
    program = tmp_path / "app.py"
    program.write_text(CHILDREN)
    done = run_python("app.py", how, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    said = [line.split() for line in done.stdout.splitlines()]
    assert sorted(name for name, _, _ in said) == ["child-0", "child-1", "parent"]
    files = {file.name: read(file) for file in tmp_path.glob("*.jsonl")}
    if path == "shared.jsonl":
        assert list(files) == [path]
    else:
        assert set(files) == {f"log-{pid}.jsonl" for _, pid, _ in said}
    runs: set[str] = set()
    for name, pid, ppid in said:
        file = files[path.replace("{pid}", pid)]
        lines = [line for line in file if line["pid"] == int(pid)]
        assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
        between = ended(lines)
        assert lines[0]["ppid"] == int(ppid)
        assert [line["name"] for line in between if line["event"] == "task.cancel"] == [name]
        runs.add(lines[0]["run"])
    assert len(runs) == 3
    answers = roots(why(*files))
    assert answers == [(name, "called", line_of(program, "child")) for name, _, _ in sorted(said)]
    told = {str(answer["name"]): answer for answer in why(*files)}
    parent = told.pop("parent")
    assert "parent_run" not in parent
    for name, answer in told.items():
        assert (answer["parent_run"], answer["parent_pid"]) == (parent["run"], parent["pid"]), name
        # A forkserver heard of no task: its log is empty, and it is passed over.
        assert answer["parent_evidence"] == ("observed" if how == "fork" else "inferred")


def test_a_child_of_a_shell_is_tied_to_the_program_that_ran_the_shell(
    run_python: Runner, tmp_path: Path, why: Why
) -> None:
    (tmp_path / "child.py").write_text(APP)
    (tmp_path / "app.py").write_text(
        APP
        + "import subprocess\nsubprocess.run(['sh', '-c', f'{sys.executable} child.py; true'])\n"
    )
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    answers = why(*sorted(file.name for file in tmp_path.glob("*.jsonl")))
    by_pid = {answer["pid"]: answer for answer in answers}
    assert len(by_pid) == 2
    child, app = (by_pid[int(line.split()[1])] for line in reversed(done.stdout.splitlines()))
    if "parent_run" in app:
        child, app = app, child  # the child printed first
    assert (child["parent_run"], child["parent_pid"]) == (app["run"], app["pid"])
    assert child["parent_evidence"] == "inferred"
    assert "parent_run" not in app


FORKED = """\
import asyncio, os, signal

async def work():
    await asyncio.sleep(60)

async def child():
    born = asyncio.create_task(work(), name="born in the child")
    await asyncio.sleep(0)
    born.cancel()  # LINE born
    await asyncio.wait([born])

async def main():
    inherited = asyncio.create_task(work(), name="inherited")
    await asyncio.sleep(0)
    pid = os.fork()
    if pid == 0:
        inherited.cancel()  # LINE child
        asyncio.run(child())
        os.kill(os.getpid(), signal.SIGTERM)
    while not (known := os.waitpid(pid, os.WNOHANG))[0]:
        await asyncio.sleep(0.01)
    print(pid, os.waitstatus_to_exitcode(known[1]), inherited.cancelled(), inherited.cancelling())
    inherited.cancel()  # LINE parent
    await asyncio.wait([inherited])

asyncio.run(main())
"""


def test_a_fork_inside_a_running_loop_keeps_the_two_apart(
    run_python: Runner, tmp_path: Path, why: Why
) -> None:
    program = tmp_path / "app.py"
    program.write_text(FORKED)
    done = run_python("-W", "ignore::DeprecationWarning", "app.py", AIOAUDIT="jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    pid, *known = done.stdout.split()
    assert known == [str(-signal.SIGTERM), "False", "0"]
    logs = {file.stem.removeprefix("aioaudit-"): file for file in tmp_path.glob("*.jsonl")}
    assert len(logs) == 2
    child = read(logs.pop(pid))
    [parent] = map(read, logs.values())
    assert {line["reason"] for line in ended(child) if "reason" in line} == {"explicit"}
    assert {line["reason"] for line in ended(parent) if "reason" in line} == {"explicit"}
    assert child[0]["ppid"] == parent[0]["pid"]
    assert child[0]["run"] != parent[0]["run"]
    assert [line["seq"] for line in child] == list(range(1, len(child) + 1))
    for lines, expected in (
        (child, {"inherited": "child", "born in the child": "born"}),
        (parent, {"inherited": "parent"}),
    ):
        answers = roots(why(f"aioaudit-{lines[0]['pid']}.jsonl"))
        assert answers == sorted(
            (name, "called", line_of(program, label)) for name, label in expected.items()
        )


# -- how a process ends ------------------------------------------------------------------------

ENDING = """\
import asyncio, os, signal, sys, threading, time

async def work(number):
    await asyncio.sleep(0)

async def cancelled():
    await asyncio.sleep(60)

async def main():
    task = asyncio.create_task(cancelled(), name="victim")
    await asyncio.gather(*[work(n) for n in range(500)])
    task.cancel()  # LINE boss
    {inside}

asyncio.run(main())
{after}
"""

ENDINGS: dict[str, tuple[str, str, int]] = {
    "falls off its end": ("pass", "pass", 0),
    "sys.exit": ("pass", "sys.exit(3)", 3),
    "sys.exit inside the loop": ("sys.exit(4)", "", 4),
    "an error": ("pass", "raise LookupError('oops')", 1),
    "an error inside the loop": ("raise LookupError('oops')", "", 1),
    "KeyboardInterrupt": ("os.kill(os.getpid(), signal.SIGINT); await asyncio.sleep(9)", "", -2),
    "another thread goes on": (
        "pass",
        "threading.Thread(target=lambda: (time.sleep(0.1), asyncio.run(work(0)))).start()",
        0,
    ),
    "SIGTERM inside the loop": (
        *("os.kill(os.getpid(), signal.SIGTERM); await asyncio.sleep(9)", ""),
        -signal.SIGTERM,
    ),
    "SIGTERM while the loop is busy": (
        *("os.kill(os.getpid(), signal.SIGTERM)\n    while True: pass", ""),
        -signal.SIGTERM,
    ),
    "SIGTERM after the loop": ("pass", "os.kill(os.getpid(), 15); time.sleep(9)", -15),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_log_is_whole_however_the_process_ends(
    run_python: Runner, tmp_path: Path, why: Why, ending: str
) -> None:
    inside, after, status = ENDINGS[ending]
    program = tmp_path / "app.py"
    program.write_text(ENDING.format(inside=inside, after=after))
    plain = run_python("app.py")
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert (plain.returncode, done.returncode) == (status, status)
    assert (done.stdout, done.stderr) == (plain.stdout, plain.stderr)
    [log] = tmp_path.glob("*.jsonl")
    lines = read(log)
    between = ended(lines)
    created = {line["name"] for line in between if line["event"] == "task.create"}
    assert len([each for each in created if each.startswith("Task-")]) >= 500
    assert lines[-1].get("signal") == ("SIGTERM" if status == -signal.SIGTERM else None)
    victim, kind, at = next(answer for answer in roots(why(log)) if answer[0] == "victim")
    assert (victim, kind, at) == ("victim", "called", line_of(program, "boss"))


def has_ended(folder: Path, count: int) -> bool:
    """Whether the one log in *folder* tells in whole lines that so many tasks have ended."""
    data = b"".join(log.read_bytes() for log in folder.glob("*.jsonl"))
    return data.count(b'"task.done"') == count and data.endswith(b"\n")


def test_after_sigkill_what_was_written_is_readable_even_with_a_torn_last_line(
    audited_python: str, tmp_path: Path, why: Why
) -> None:
    program = tmp_path / "app.py"
    inside = "print('up', flush=True); await asyncio.sleep(600)"
    program.write_text(ENDING.format(inside=inside, after=""))
    process = subprocess.Popen(
        [audited_python, "app.py"],
        cwd=tmp_path,
        env=clean_environ(AIOAUDIT="jsonl"),
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        wait_until(lambda: has_ended(tmp_path, 501))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    [log] = tmp_path.glob("*.jsonl")
    lines = read(log)
    assert names(lines).count("task.create") >= 502
    assert "process.end" not in names(lines)
    truth = ("victim", "called", line_of(program, "boss"))
    assert truth in roots(why(log))
    data = log.read_bytes()
    log.write_bytes(data[:-20])
    said = f"aioaudit: {log}:{len(lines)}: "
    done = subprocess.run(
        [audited_python, "-m", "aioaudit", "why", str(log), "--json"],
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert truth in roots([json.loads(line) for line in done.stdout.splitlines()])
    # The next process with that log begins on a line of its own.
    again = subprocess.run(
        [audited_python, "-c", "import asyncio; asyncio.run(asyncio.sleep(0))"],
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log)),
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (again.returncode, again.stderr) == (0, b"")
    torn, *rest = log.read_bytes().splitlines()[len(lines) - 1 :]
    assert torn == data.splitlines()[-1][: -20 + 1]
    ended([json.loads(line) for line in rest])


# -- rotation ------------------------------------------------------------------------------------

ROTATED = """\
import asyncio, sys

async def work():
    await asyncio.sleep(60)

async def main():
    loop = asyncio.get_running_loop()
    for name in ("before", "after"):
        task = asyncio.create_task(work(), name=name)
        await asyncio.sleep(0)
        task.cancel()  # LINE boss
        await asyncio.wait([task])
        print(name, flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["rename", "rename and create", "copy and truncate"])
@pytest.mark.parametrize("path", ["log-{pid}.jsonl", "log.jsonl"])
def test_a_rotated_log_goes_on_in_a_new_file_that_begins_with_the_run(
    audited_python: str, tmp_path: Path, why: Why, how: str, path: str
) -> None:
    program = tmp_path / "app.py"
    program.write_text(ROTATED)
    process = subprocess.Popen(
        [audited_python, "app.py"],
        cwd=tmp_path,
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "before\n"
        wait_until(lambda: has_ended(tmp_path, 1))
        [log] = tmp_path.glob("log*.jsonl")
        old = tmp_path / "old.jsonl.1"
        if how == "copy and truncate":
            old.write_bytes(log.read_bytes())
            os.truncate(log, 0)
        else:
            log.rename(old)
            if how == "rename and create":
                log.touch()
        _, said = process.communicate("\n\n", timeout=PATIENCE)
    assert (process.returncode, said) == (0, "")
    first, second = read(old), read(log)
    assert first[0] == second[0]
    numbers = [line["seq"] for line in [*first, *second[1:]]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert second[-1]["event"] == "process.end"
    boss = line_of(program, "boss")
    assert roots(why(log)) == [("after", "called", boss)]
    assert roots(why(old, log)) == [("after", "called", boss), ("before", "called", boss)]


# -- how soon --------------------------------------------------------------------------------------

SOON = """\
import asyncio, glob, itertools, json, time

def on_disk():
    [log] = glob.glob("*.jsonl")
    with open(log, "rb") as file:  # its last line may be half written
        whole = [line for line in file if EVENT in line and line.endswith(b"\\n")]
    return {json.loads(line).get("name") for line in whole}

async def wait(seconds):
    if BUSY:  # pure Python that never lets go by itself
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
    else:
        await asyncio.sleep(seconds)

async def work():
    await asyncio.sleep(60 if CANCEL else 0)

async def rounds(names):
    for number in range(ROUNDS):
        task = asyncio.create_task(work(), name=f"victim-{next(names)}")
        await asyncio.sleep(0)
        if CANCEL:
            task.cancel()
        await wait(SECONDS)
        yield task.get_name() in on_disk()

async def main():
    while not glob.glob("*.jsonl"):
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.6)  # the thread is asleep
    names = itertools.count()
    for _ in range(20):
        found = [each async for each in rounds(names)]
        if found.count(True) >= ROUNDS * 3 / 4:
            print("soon")
            break

asyncio.run(main())
"""


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize(
    ("event", "seconds", "rounds"),
    [("task.cancel", 0.05, 20), ("task.create", 0.5, 4)],
    ids=["cancellations within 50 ms", "everything within half a second"],
)
def test_lines_are_on_disk_soon_whatever_the_loop_does(
    run_python: Runner, tmp_path: Path, event: str, seconds: float, rounds: int, *, busy: bool
) -> None:
    """Three rounds in four, of all that follow each other once: the machine has more to do."""
    settings = (
        f"EVENT = b'\"{event}\"'; BUSY = {busy}; CANCEL = {event == 'task.cancel'}\n"
        f"SECONDS = {seconds}; ROUNDS = {rounds}\n"
    )
    (tmp_path / "app.py").write_text(settings + SOON)
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert (done.returncode, done.stdout, done.stderr) == (0, "soon\n", "")


# -- bad input --------------------------------------------------------------------------------------

UNWRITABLE = {
    "a folder that is not there": (
        "absent/log.jsonl",
        "aioaudit: exporter 'jsonl' failed and is out of service: cannot open "
        "'{folder}/absent/log.jsonl' for writing: No such file or directory; "
        "AIOAUDIT_JSONL_PATH (here 'absent/log.jsonl') must name a file that can be written, "
        "in a folder that exists",
    ),
    "a folder instead of a file": (
        ".",
        "aioaudit: exporter 'jsonl' failed and is out of service: cannot open "
        "'{folder}' for writing: Is a directory; AIOAUDIT_JSONL_PATH (here '.') must name ",
    ),
    "a file instead of a folder": (
        "app.py/log.jsonl",
        "aioaudit: exporter 'jsonl' failed and is out of service: cannot open "
        "'{folder}/app.py/log.jsonl' for writing: Not a directory; AIOAUDIT_JSONL_PATH ",
    ),
    "a folder that may not be written": (
        "/proc/self/log-{pid}.jsonl",
        "aioaudit: exporter 'jsonl' failed and is out of service: cannot open '/proc/self/log-",
    ),
}


@pytest.mark.parametrize("bad", UNWRITABLE)
def test_a_log_that_cannot_be_opened_is_one_line_that_says_why_and_the_program_runs_on(
    run_python: Runner, tmp_path: Path, app: Path, bad: str
) -> None:
    path, expected = UNWRITABLE[bad]
    app.write_text(APP.replace('print("pid", os.getpid())', "print('ran'); sys.exit(3)"))
    done = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=path)
    assert (done.returncode, done.stdout) == (3, "ran\n")
    assert done.stderr.startswith(expected.replace("{folder}", str(tmp_path)))
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    assert done.stderr[:-1].isprintable()
    assert list(tmp_path.iterdir()) == [app]


UNTIL_FULL = """\
import time
from aioaudit.session import current
[(pipeline, _)] = current().sinks
while not pipeline._retry_at:  # set once it has said so
    time.sleep(0.01)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("before", [False, True])
def test_a_full_disk_is_one_line_and_the_program_runs_on(
    run_python: Runner, tmp_path: Path, app: Path, before: bool
) -> None:
    # At its end the program finds the disk full, or has known it before.
    end = f"{UNTIL_FULL if before else ''}\nprint('ran'); sys.exit(3)"
    app.write_text(APP.replace('print("pid", os.getpid())', end))
    done = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="/dev/full")
    assert (done.returncode, done.stdout) == (3, "ran\n")
    [line] = done.stderr.splitlines()
    assert line.startswith(
        "aioaudit: exporter 'jsonl' takes no events for now: "
        "cannot write to '/dev/full': No space left on device "
        "(make room, or name another place in AIOAUDIT_JSONL_PATH); "
    )
    if before:
        assert line.endswith(
            "up to 100,000 wait until it does, or are lost with the end of the program"
        )


def test_a_bad_setting_is_said_once_by_each_process_and_by_no_child_that_is_forked(
    run_python: Runner, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(CHILDREN)
    done = run_python("app.py", "fork", AIOAUDIT="nosuch")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1


# -- what tasks are called ------------------------------------------------------------------------

NASTY = [
    "plain",
    "quotes \" ' ` and \\ backslashes",
    "new\nlines\r\nand\x85other\u2028separators\x0b\x0c\x1c",
    "\x1b[31mescapes\x1b]0;title\x07\x00\x7f\x9b",
    "ümläut 日本 😀 \u202eback to front",
    "lone \udc80 surrogates \ud800",
    '{"event":"task.done"}',
    "[bold]markup[/bold] %s {pid}",
    "",
    "x" * 10_000,
]

NAMED = """\
import asyncio
NASTY = {nasty}

class Odd(Exception):
    def __init__(self, text): self.text = text
    def __str__(self): return self.text
    __repr__ = __str__

async def work():
    await asyncio.sleep(60)

async def failing(text):
    raise Odd(text)

async def main():
    for number, text in enumerate(NASTY):
        task = asyncio.create_task(work(), name=text)
        await asyncio.sleep(0)
        task.cancel(text)
        await asyncio.wait([task])
        assert task.get_name() == text
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(work(), name=f"sibling-{{number}}")
                group.create_task(failing(text), name=text)
        except* Odd:
            pass
        task = asyncio.create_task(work(), name=f"odd-message-{{number}}")
        await asyncio.sleep(0)
        task.cancel(Odd(text))
        await asyncio.wait([task])

asyncio.run(main())
print("ran")
"""


@pytest.mark.parametrize("path", ["log-{pid}.jsonl", "log.jsonl"])
def test_no_text_breaks_a_line_or_an_answer(
    run_python: Runner, tmp_path: Path, why: Why, path: str
) -> None:
    (tmp_path / "app.py").write_text(NAMED.format(nasty=ascii(NASTY)))
    done = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")
    [log] = tmp_path.glob("*.jsonl")
    lines = ended(read(log))
    messages = [line for line in lines if line["event"] == "task.cancel" and "message" in line]
    assert len(messages) == 2 * len(NASTY)
    for text, line in zip(NASTY, messages[::2], strict=True):
        assert shown(line["name"], text), line
        assert shown(line["message"], text), line
    failed = [line for line in lines if line.get("error", "").startswith("Odd")]
    assert len(failed) == len(NASTY)
    answers = why(log)
    assert len(answers) == 3 * len(NASTY) + 1  # and `main`, which the groups cancelled
    assert all(answer["summary"].isprintable() for answer in answers)
    for number, text in enumerate(NASTY):
        [sibling] = [answer for answer in answers if answer["name"] == f"sibling-{number}"]
        assert shown(sibling["root"]["name"], text)
        assert sibling["root"]["error"].startswith("Odd")
    # A name can be asked for as `why --json` shows it.
    for text in (NASTY[2], NASTY[4], NASTY[7]):
        named = [answer for answer in answers if answer["name"] == text]
        assert named
        assert why(log, "--task", text) == named


def shown(said: str, text: str) -> bool:
    """Whether *said* is *text* as a log has it: escaped where it must be, cut where it is long."""
    expected = text.encode("utf-8", "backslashreplace").decode()
    if len(expected) <= 200:
        return said == expected
    return said == expected[:200] + "\N{HORIZONTAL ELLIPSIS}"


def test_time_in_the_log_is_the_time_of_day(run_python: Runner, tmp_path: Path, app: Path) -> None:
    before = time.time()
    run_python("app.py", AIOAUDIT="jsonl")
    after = time.time()
    [log] = tmp_path.glob("*.jsonl")
    stamps = [datetime.fromisoformat(line["ts"]).timestamp() for line in read(log)]
    assert stamps == sorted(stamps)
    assert before <= stamps[0] <= stamps[-1] <= after
    assert all(len(line["ts"]) == len("2026-01-01T00:00:00.000000Z") for line in read(log))
