"""A process that is asked while it runs: what it tells, who may ask, and that nobody costs it anything."""

from __future__ import annotations

import array
import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from aioaudit.cli import main
from aioaudit.live import folder
from aioaudit.live.client import LiveError, Living, Process, connect, connected, processes
from aioaudit.live.protocol import MOST_ASKED, VERSION
from tests.conftest import clean_environ
from tests.process.test_lifecycle import UNSHARE, may_unshare
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Unix domain sockets")

Start = Callable[..., "Service"]


class Service:
    """A program with the recorder on, that says when it is ready and ends when its stdin does."""

    def __init__(
        self, python: str, home: Path, text: str, before: tuple[str, ...], **environ: str
    ) -> None:
        home.mkdir()
        self.home = home
        (home / "app.py").write_text(dedent(text))
        (home / "waiting.py").write_text(UNTIL_TOLD)
        self.process = subprocess.Popen(
            [*before, python, "app.py"],
            cwd=home,
            env=clean_environ(**{"AIOAUDIT": "recorder", **environ}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ready(self) -> None:
        """It has begun, and can be asked."""
        assert self.line() == "ready"
        wait_until(lambda: _answers(self.pid), "an answer")

    def end(self) -> tuple[str, str, int]:
        """What it printed, what it said, and its status."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return out, err, self.process.returncode

    def living(self) -> Living:
        return connect(self.pid).tasks()


@pytest.fixture
def start(audited_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a program; its sockets are where no other test's are."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    started: list[Service] = []

    def begin(text: str, *before: str, **environ: str) -> Service:
        home = tmp_path / f"home-{len(started)}"
        service = Service(audited_python, home, text, before, **environ)
        started.append(service)
        return service

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


Call = Callable[..., tuple[str, str, int]]


@pytest.fixture
def in_process(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command line, called here: what it prints, what it says, and its status."""

    def call_it(cwd: Path, *arguments: str) -> tuple[str, str, int]:
        monkeypatch.chdir(cwd)
        status = main(list(arguments))
        printed = capfd.readouterr()
        return printed.out, printed.err, status

    return call_it


UNTIL_TOLD = """
import asyncio, sys
async def until_told():
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
"""

SERVES = """
    import asyncio, sys
    from waiting import until_told
    async def main():
        task = asyncio.create_task(asyncio.sleep(600), name="living")
        gone = asyncio.create_task(asyncio.sleep(600), name="gone")
        await asyncio.sleep(0)
        gone.cancel("enough")
        await asyncio.wait([gone])
        await until_told()
        task.cancel()
    asyncio.run(main())
"""

TREE = """
    import asyncio, sys
    from waiting import until_told
    async def leaf(): await asyncio.Event().wait()  # leaf
    async def stubborn():
        while True:
            try: await asyncio.sleep(600)  # stubborn
            except asyncio.CancelledError: pass
            if over: break
    async def grouped():
        async with asyncio.TaskGroup() as group:  # grouped
            group.create_task(leaf(), name="in group")
            group.create_task(leaf(), name="in group, too")
    async def gathers(): await asyncio.gather(leaf(), return_exceptions=True)  # gathers
    async def shields(): await asyncio.shield(asyncio.create_task(leaf(), name="shielded"))
    async def waits(): await asyncio.wait([asyncio.create_task(leaf(), name="waited for")])
    async def awaits(): await asyncio.create_task(leaf(), name="awaited")
    over = False
    async def main():
        global over
        made = [
            asyncio.create_task(each(), name=each.__name__)
            for each in (grouped, gathers, shields, waits, awaits, stubborn)
        ]
        made += [asyncio.create_task(leaf(), name=f"alike-{n}") for n in range(9)]
        await asyncio.sleep(0.05)
        made[5].cancel("be gone")
        await asyncio.sleep(0)
        await until_told()
        over = True
        for each in made: each.cancel()
    asyncio.run(main())
"""


def test_living_tasks_are_told_with_makers_waiters_and_places(
    start: Start, in_process: Call
) -> None:
    service = start(TREE)
    service.ready()
    living = service.living()
    assert (living.facts.argv, living.facts.on) == (["app.py"], ["recorder"])
    assert living.facts.tasks == len(living.tasks) + living.left_out
    tasks = {each.name: each for each in living.tasks}
    source = (service.home / "app.py").read_text().splitlines()

    def text_at(name: str) -> str:
        path, _, line = (tasks[name].at or "").rpartition(":")
        assert path.endswith("app.py")
        return source[int(line) - 1]

    main = tasks["Task-1"].task
    for name in ("grouped", "gathers", "stubborn"):
        assert tasks[name].parent == main
        assert tasks[name].does == "waits"
        assert text_at(name).endswith(f"# {name}")
    assert "async with" not in text_at("in group")
    assert text_at("in group").endswith("# leaf")
    assert tasks["in group"].source == "__main__:leaf"
    awaited = {
        name: [each.name for each in living.tasks if each.task in tasks[name].awaited_by]
        for name in ("in group", "in group, too", "shielded", "waited for", "awaited", "grouped")
    }
    assert awaited == {
        "in group": ["grouped"],
        "in group, too": ["grouped"],
        "shielded": ["shields"],
        "waited for": ["waits"],
        "awaited": ["awaits"],
        "grouped": [],
    }
    [child] = [each for each in living.tasks if each.parent == tasks["gathers"].task]
    assert child.awaited_by == [tasks["gathers"].task]
    assert (tasks["stubborn"].asked, tasks["grouped"].asked) == (1, 0)
    assert connect(service.pid).tasks(most=3).left_out == len(living.tasks) - 3

    shown, err, status = in_process(service.home, "ps", str(service.pid))
    assert (err, status) == ("", 0)
    lines = shown.splitlines()
    assert lines[0].startswith(
        f"pid {service.pid}, app.py: {len(living.tasks)} tasks, audited for "
    )
    [at] = [n for n, line in enumerate(lines) if "stubborn" in line and "waits" in line]
    assert "── stubborn  " in lines[at]
    assert "asked to cancel " in lines[at + 1]
    assert "because __main__:main called cancel() at app.py:" in lines[at + 1]
    [folded] = [line for line in lines if "alike" in line]
    assert "leaf (alike-0) and 8 more like it  " in folded

    in_json, _, _ = in_process(service.home, "ps", str(service.pid), "--awaits", "--json")
    told = {each["name"]: each for each in map(json.loads, in_json.splitlines())}
    assert told.keys() == tasks.keys()
    assert told["stubborn"]["why"]["root"]["what"] == "called"
    assert told["stubborn"]["why"]["outcome"] == "pending"
    assert "why" not in told["grouped"]
    assert service.end() == ("", "", 0)


def stands_still(pid: int) -> bool:
    """Whether no thread of *pid* runs: a signal reaches one after the other."""
    states = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(each.rpartition(")")[2].split()[0] == "T" for each in states)


def on_a_terminal(command: list[str], cwd: Path) -> list[str]:
    """What *command* shows on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = clean_environ(
        XDG_RUNTIME_DIR=os.environ["XDG_RUNTIME_DIR"], TERM="xterm", NO_COLOR="1"
    )
    with subprocess.Popen(command, cwd=cwd, env=environ, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # how Linux says that nobody writes any more
            pass
    os.close(ours)
    return shown.decode().splitlines()


def test_processes_are_listed_and_all_fits_into_80_columns(
    start: Start, audited_python: str, in_process: Call
) -> None:
    python = [audited_python, "-m", "aioaudit"]
    out, err, status = in_process(Path.cwd(), "ps")
    if status:  # nobody else is audited on this machine just now
        assert (out, status) == ("", 1)
        assert err.endswith("can be asked; start one with AIOAUDIT=recorder\n")
    first, second = start(TREE), start(SERVES, AIOAUDIT="recorder,jsonl")
    first.ready()
    second.ready()
    assert {each.pid for each in ours()} == {first.pid, second.pid}
    listed = on_a_terminal([*python, "ps"], first.home)
    assert listed[0].split() == ["PID", "AGE", "TASKS", "ON", "COMMAND"]
    rows = {int(line[:10].split()[0]): line for line in listed[1:] if line[:1].isdigit()}
    assert rows.keys() >= {first.pid, second.pid}
    assert "recorder, jsonl" in rows[second.pid]
    os.kill(second.pid, signal.SIGSTOP)
    wait_until(lambda: stands_still(second.pid), "each of its threads is stopped")
    in_json, _, _ = in_process(first.home, "ps", "--json")
    told = {each["pid"]: each for each in map(json.loads, in_json.splitlines())}
    assert told[second.pid] == {"pid": second.pid, "answers": False}
    assert (told[first.pid]["answers"], told[first.pid]["on"]) == (True, ["recorder"])
    os.kill(second.pid, signal.SIGCONT)
    tree = on_a_terminal([*python, "ps", str(first.pid)], Path("/"))
    assert len(tree) > 10
    assert max(map(len, [*listed, *tree])) <= 80


INCIDENTS = """
    import asyncio, sys
    from waiting import until_told
    async def fail(): raise OSError("upstream hung up")
    async def swallows():
        try: await asyncio.sleep(600)
        except asyncio.CancelledError: pass
        await asyncio.sleep(0.01)
    async def main():
        for _ in range(50): await asyncio.create_task(asyncio.sleep(0))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(600), name="sibling")
                group.create_task(fail(), name="failing")
        except* OSError: pass
        try:
            async with asyncio.timeout(0.01): await asyncio.sleep(600)
        except TimeoutError: pass
        task = asyncio.create_task(swallows(), name="swallower")
        await asyncio.sleep(0)
        task.cancel("stop it")
        await asyncio.wait([task])
        await until_told()
    asyncio.run(main())
"""


def test_what_a_process_answers_is_what_its_log_answers(start: Start, in_process: Call) -> None:
    service = start(INCIDENTS, AIOAUDIT="recorder,jsonl")
    service.ready()
    home, pid, log = service.home, str(service.pid), f"aioaudit-{service.pid}.jsonl"
    told = connect(service.pid).events()
    last = f'"seq":{told.facts.seq},'.encode()
    wait_until(lambda: last in (home / log).read_bytes(), "the log, written meanwhile")
    whole = (home / log).read_bytes()
    with told.log as kept:
        assert kept.read() == whole
    for command in (
        ("why", "{}"),
        ("why", "{}", "--json"),
        ("why", "{}", "--task", "sibling"),
        ("check", "{}"),
        ("check", "{}", "--json"),
        ("export", "{}", "--to", "otlp-json", "-"),
    ):
        live, logged = (
            in_process(home, *(each.format(what) for each in command)) for what in (pid, log)
        )
        # Only the offer to ask further says what was asked.
        assert live == (logged[0].replace(log, pid), *logged[1:]), command
        assert live[0] or command[0] == "check"  # on 3.11 nothing is found

    if find_spec("perfetto"):
        for what in (pid, log):
            drawn = in_process(home, "export", what, "--to", "perfetto", f"{what}.trace")
            assert drawn[1:] == ("", 0)
        traces = [(home / f"{what}.trace").read_bytes() for what in (pid, log)]
        assert traces[0] == traces[1]

    if find_spec("jinja2"):
        for what in (pid, log):
            drawn = in_process(home, "report", what, "-o", f"{what}.html")
            assert drawn[1:] == ("", 0)
        pages = [(home / f"{what}.html").read_bytes() for what in (pid, log)]
        assert pages[0] == pages[1].replace(log.encode(), pid.encode())

    out, err, status = in_process(home, "dump", pid)
    path = home / out.strip()
    assert (err, status, path.name.endswith(f"-{pid}.jsonl")) == ("", 0, True)
    assert path.read_bytes() == whole
    assert path.stat().st_mode & 0o777 == 0o600
    assert in_process(home, "dump", pid, "-o", "-") == (whole.decode(), "", 0)
    assert in_process(home, "dump", pid, "-o", "none/x") == (
        "",
        "aioaudit: cannot write none/x: No such file or directory\n",
        2,
    )
    (home / pid).write_bytes(whole.splitlines()[0])  # a file of that name is a file
    out, err, status = in_process(home, "why", pid)
    assert (out, status) == ("", 1)
    assert "no task was cancelled in this log (1 event of 1 run)" in err
    for words in ("why", "check", "report", "export --to otlp-json -"):
        out, err, status = in_process(home, *words.split(), str(2**31 - 1))
        assert (out, status) == ("", 2)
        assert err.startswith(f"aioaudit: there is no process {2**31 - 1}; aioaudit ps lists ")
        assert err.count("\n") == 1
    assert service.end() == ("", "", 0)


def test_only_what_is_new_is_told_where_that_is_asked(start: Start) -> None:
    service = start(INCIDENTS)
    service.ready()
    process = connect(service.pid)

    def told(**asked: Any) -> list[dict[str, Any]]:
        with process.events(**asked).log as log:
            return [json.loads(line) for line in log]

    facts = process.facts()
    everything = told()
    makings = [each for each in everything if each["event"] == "task.create"]
    assert len(makings) == facts.made > 50
    assert told(since=facts.seq, run=facts.run) == everything[:1]
    assert told(since=facts.seq, run="another") == everything
    half = facts.seq // 2
    assert told(since=half, run=facts.run)[1:] == everything[half:]
    assert told(since=facts.seq, run=facts.run, lives=False) == everything[:1]
    ended = [each for each in everything if each["event"] == "task.done"]
    lives = [each for each in ended if each["outcome"] == "returned" and "cancel" not in each]
    lives = [each for each in lives if "cancel_outcome" not in each]
    assert 50 <= len(lives) < len(ended)
    assert told(lives=False) == [each for each in everything if each not in makings + lives]
    assert (facts.lost, facts.limit) == (0, 16_000_000)
    assert 0 < facts.size < facts.limit


def ours() -> list[Process]:
    """The processes of this test; others may be audited on this machine."""
    runtime = os.environ["XDG_RUNTIME_DIR"]
    return [each for each in processes() if each._place.startswith(runtime)]


# -- who costs nothing -----------------------------------------------------------------------


def sockets() -> tuple[Path, list[str]]:
    """The folder of sockets, and the names in it."""
    place = Path(os.environ["XDG_RUNTIME_DIR"]) / "aioaudit"
    return place, sorted(each.name for each in place.iterdir())


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_clients_that_hang_flood_or_babble_cost_nothing_and_others_are_answered(
    start: Start,
) -> None:
    service = start(SERVES)
    service.ready()
    process = connect(service.pid)
    process.facts()
    before = descriptors(service.pid)
    place, [name] = sockets()
    later = time.monotonic() + PATIENCE
    hanging: list[Any] = []
    for _ in range(50):
        hanging.append(connected(str(place), name, later))
        hanging[-1].__enter__()
        if len(hanging) % 5 == 0:
            assert process.facts().pid == service.pid
    with connected(str(place), name, later) as line:
        line.sendall(b'{"ask":"facts","ver')  # and nothing more
        assert process.facts().pid == service.pid
    read, write = os.pipe()
    with connected(str(place), name, later) as line:  # as many descriptors as fit
        fds = array.array("i", [write] * 200)
        line.sendmsg(
            [b'{"ask":"events","version":1}\n'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        )
        assert b"is no regular one" in line.recv(4096)
    os.close(write)
    os.close(read)
    for said, answered in (
        (b"\0\xff\n", b"this is no question to aioaudit"),
        (b'{"ask":"secrets","version":1}\n', b"this is no question to aioaudit"),
        (b'{"ask":"facts","version":2}\n', b"speaks version 1 and not 2"),
        (b'{"ask":"events","version":1}\n', b"no file came with the question"),
        (b"x" * (MOST_ASKED + 1), b""),
        (b"GET / HTTP/1.1\r\n\r\n", b"this is no question to aioaudit"),
    ):
        with connected(str(place), name, later) as line:
            line.sendall(said)
            answer = line.recv(4096)
            assert (answered in answer) if answered else not answer
    assert VERSION == 1
    for each in hanging[::2]:
        each.__exit__(None, None, None)
    for _ in range(30):
        process.facts()
    # Those that hang are sent away by and by, without anybody having to come.
    wait_until(lambda: descriptors(service.pid) <= before, "descriptors are given back")
    for each in hanging[1::2]:
        each.__exit__(None, None, None)
    assert service.end() == ("", "", 0)
    assert sockets()[1] == []


def test_a_program_that_has_no_descriptor_left_is_asked_again_when_it_has(start: Start) -> None:
    service = start(
        """
        import asyncio, os, resource, sys
        from waiting import until_told
        async def main():
            await asyncio.create_task(asyncio.sleep(0))
            await asyncio.to_thread(sys.stdin.readline)
            taken = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
            try:
                while True: taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError: print("none left", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            for each in taken: os.close(each)
            await until_told()
        asyncio.run(main())
        """
    )
    stdin = service.process.stdin
    assert stdin is not None
    wait_until(lambda: sockets_there(1))
    process = connect(service.pid)
    print(file=stdin, flush=True)
    assert service.line() == "none left"
    place, [name] = sockets()
    with connected(str(place), name, time.monotonic() + PATIENCE):
        print(file=stdin, flush=True)
        service.ready()
        assert process.facts().pid == service.pid
    assert service.end() == ("", "", 0)


def sockets_there(count: int) -> bool:
    place = Path(os.environ["XDG_RUNTIME_DIR"]) / "aioaudit"
    return place.exists() and len(list(place.glob("[!.]*.sock"))) == count


def test_descriptors_that_became_the_programs_own_are_left_alone(start: Start) -> None:
    service = start(
        """
        import asyncio, os, socket, sys, aioaudit
        from waiting import until_told
        asyncio.run(asyncio.sleep(0))
        aioaudit.dump("before.jsonl")
        os.closerange(3, 100)  # as who becomes a daemon does
        own = socket.socket()
        own.bind(("127.0.0.1", 0)); own.listen()
        more = [socket.socket() for _ in range(5)]
        client = socket.create_connection(own.getsockname())
        async def main():
            await until_told()
            served, _ = own.accept()  # nobody has taken it
            served.sendall(b"served")
            print(client.recv(10), [each.fileno() > 0 for each in more])
        asyncio.run(main())
        """
    )
    service.ready()
    wait_until(lambda: _answers(service.pid))
    assert service.end() == (f"{b'served'!r} {[True] * 5}\n", "", 0)
    assert sockets()[1] == []


def test_descriptors_that_are_closed_while_the_socket_is_made(start: Start) -> None:
    service = start(
        """
        import asyncio, os, signal, sys, time, aioaudit
        from waiting import until_told
        closed = []
        def close_all(event, _):
            if event == "socket.bind" and not closed:
                closed.append(True)
                os.closerange(3, 100)
        sys.addaudithook(close_all)
        async def main():
            await until_told()
            print(closed)
        with aioaudit.enable("recorder"):
            os.kill(os.getpid(), signal.SIGCONT)  # something to tell, and no descriptor
            while not closed:
                time.sleep(0.01)
            asyncio.run(main())
        """,
        AIOAUDIT="off",
    )
    service.ready()
    assert service.end() == ("[True]\n", "", 0)
    assert sockets()[1] == []


def _answers(pid: int) -> bool:
    try:
        return connect(pid).facts(1.0).pid == pid
    except LiveError:
        return False


BECOMES_NOBODY = """
    import asyncio
    import os
    import sys
    from pathlib import Path


    def a_socket() -> bool:
        return any((Path(os.environ["XDG_RUNTIME_DIR"]) / "aioaudit").glob(f"{os.getpid()}-*"))


    async def main() -> None:
        while not a_socket():
            await asyncio.sleep(0.01)
        os.setuid(65534)
        print("ready", flush=True)
        sys.stdin.read()  # no import any more: this user may not read where Python is


    asyncio.run(main())
"""


# -- where it is, and who may ask ------------------------------------------------------------


def test_who_cannot_be_asked_is_told_in_one_line_that_says_what_to_do(start: Start) -> None:
    off = start(SERVES, AIOAUDIT_RECORDER_SOCKET="off")
    plain = start(SERVES, AIOAUDIT="")
    logged = start(SERVES, AIOAUDIT="jsonl")
    sync = start("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    assert {each.line() for each in (off, plain, logged, sync)} == {"ready"}

    def why_not(pid: int) -> str:
        with pytest.raises(LiveError) as caught:
            connect(pid)
        return str(caught.value).replace(str(pid), "PID")

    assert why_not(off.pid) == "process PID cannot be asked: AIOAUDIT_RECORDER_SOCKET is off there"
    assert why_not(plain.pid) == "process PID is not audited: start it with AIOAUDIT=recorder"
    assert why_not(logged.pid) == (
        "process PID is audited without a recorder: start it with AIOAUDIT=recorder,jsonl"
    )
    assert why_not(sync.pid).startswith("process PID cannot be asked: no loop has run in it yet")
    assert why_not(2**31 - 1).startswith("there is no process PID; aioaudit ps lists")
    if os.geteuid() == 0:
        other = subprocess.Popen(["sleep", "600"], user=65534)
        assert why_not(other.pid) == "process PID is another user's (65534): ask as that user"
        other.kill()
        other.wait()
    assert not (Path(os.environ["XDG_RUNTIME_DIR"]) / "aioaudit").exists()


OTHER_USER = """
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as line:
    line.connect(sys.argv[1])
    try:
        line.sendall(b'{"ask":"facts","version":1}\\n')
        print(line.recv(4096))
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_of_a_process_that_has_become_another_users_it_is_said_that_it_has(start: Start) -> None:
    service = start(BECOMES_NOBODY)
    assert service.line() == "ready"
    with pytest.raises(LiveError) as caught:
        connect(service.pid).facts()
    assert str(caught.value) == f"process {service.pid} is another user's (65534): ask as that user"


def test_a_socket_that_somebody_has_removed_is_among_the_reasons(start: Start) -> None:
    service = start(SERVES)
    service.ready()
    wait_until(lambda: _answers(service.pid))
    shutil.rmtree(Path(os.environ["XDG_RUNTIME_DIR"]) / "aioaudit")
    with pytest.raises(LiveError, match=r"or somebody has removed that$"):
        connect(service.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_another_user_is_not_heard_even_where_the_folder_lets_him_in(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No one else's, as /dev/shm itself may be: that is where tests of another Python are.
    shared = Path(tempfile.mkdtemp(dir="/dev/shm"))
    shared.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", f"{shared}/")
    service = start(SERVES, XDG_RUNTIME_DIR="", TMPDIR=f"{shared}/")
    service.ready()
    process = connect(service.pid)
    place = Path(process._place)
    path = place / process._name
    place.chmod(0o755)
    path.chmod(0o777)
    try:
        asked = subprocess.run(
            [sys.executable, "-c", OTHER_USER, str(path)],
            env=clean_environ(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (asked.stderr, asked.returncode) == ("", 0)
        assert asked.stdout in {"b''\n", "ConnectionResetError\n", "BrokenPipeError\n"}
        # And a folder that others may look into is not believed.
        with pytest.raises(LiveError):
            connect(service.pid)
    finally:
        place.chmod(0o700)
    assert connect(service.pid).facts().pid == service.pid
    assert service.end() == ("", "", 0)
    shutil.rmtree(shared)


def test_what_dead_processes_left_is_removed(start: Start) -> None:
    for again in ("asked", "started"):
        service = start(SERVES)
        service.ready()
        assert sockets_there(1)
        service.process.kill()
        service.process.wait()
        assert sockets_there(1)
        if again == "asked":
            assert ours() == []
            assert sockets_there(0)
    service = start(SERVES)
    service.ready()
    wait_until(lambda: [folder.pid_in(each) for each in sockets()[1]] == [service.pid])
    assert [each.pid for each in ours()] == [service.pid]


def test_a_forked_child_has_a_socket_of_its_own_and_the_parent_keeps_his(start: Start) -> None:
    service = start(
        """
        import asyncio, os, sys
        from waiting import until_told
        async def main(name):
            task = asyncio.create_task(asyncio.sleep(600), name=name)
            await until_told()
            task.cancel()
        asyncio.run(asyncio.sleep(0))
        child = os.fork()
        asyncio.run(main("parent" if child else "child"))
        if child: os.waitpid(child, 0)
        """
    )
    assert service.line() == service.line() == "ready"
    wait_until(lambda: len(ours()) == 2)
    found = {each.pid: each for each in ours()}
    parent = found.pop(service.pid)
    [child] = found.values()
    for process, name in ((parent, "parent"), (child, "child")):
        assert name in [each.name for each in process.tasks().tasks]
        assert process.facts().pid == process.pid
    assert parent.facts().run != child.facts().run
    assert service.end() == ("", "", 0)
    assert sockets()[1] == []


def test_where_the_socket_is_and_where_it_is_not(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120) / ("y" * 120)
    long.mkdir(parents=True)
    long.chmod(0o700)
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    there = start(SERVES, XDG_RUNTIME_DIR=str(long))
    public = start(SERVES, XDG_RUNTIME_DIR=str(shared), TMPDIR=str(tmp_path))
    missing = start(SERVES, XDG_RUNTIME_DIR="/nonexistent", TMPDIR=str(tmp_path))
    assert {each.line() for each in (there, public, missing)} == {"ready"}
    own = tmp_path / f"aioaudit-{os.geteuid()}"
    wait_until(lambda: len(list(own.glob("[!.]*.sock"))) == 2)
    assert own.stat().st_mode & 0o777 == 0o700
    assert not list(shared.iterdir())
    for service in (there, public, missing):  # each is found, though its environment is another
        wait_until(lambda pid=service.pid: _answers(pid))  # type: ignore[misc]
    [path] = (long / "aioaudit").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert there.pid in [each.pid for each in ours()]
    for service in (there, public, missing):
        assert service.end() == ("", "", 0)


def test_where_no_socket_can_be_made_one_line_says_so_and_the_program_runs(start: Start) -> None:
    service = start(
        """
        import asyncio, os, resource, aioaudit
        aioaudit.enable("recorder").disable()  # all that it needs is imported
        async def main():
            resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
            taken = []
            try:
                while True: taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError: pass
            aioaudit.enable("recorder")
            for _ in range(3):
                await asyncio.create_task(asyncio.sleep(0.05))
            for each in taken: os.close(each)
            aioaudit.dump("kept.jsonl")
            print("ran")
        asyncio.run(main())
        """,
        AIOAUDIT="",
    )
    out, err, status = service.end()
    assert (out, status) == ("ran\n", 0), err
    [line] = err.splitlines()
    assert line.startswith("aioaudit: recorder: nobody can ask this process, no socket could be")
    assert line.endswith("; AIOAUDIT_RECORDER_SOCKET=off does without")


@pytest.mark.skipif(not may_unshare(), reason="needs a process namespace of its own")
def test_process_1_of_a_container_is_asked_from_inside_and_by_its_number_from_outside(
    start: Start,
) -> None:
    service = start(SERVES, *UNSHARE)
    assert service.line() == "ready"
    wait_until(lambda: len(ours()) == 1)
    [process] = ours()
    assert process.pid not in (1, service.pid)
    facts = process.facts()
    assert facts.pid == 1
    assert connect(process.pid).facts().run == facts.run
    ask = "from aioaudit.live.client import *; print(connect(1).facts().run)"
    enter = ["nsenter", "-t", str(process.pid), "-p", "-m", "--"]
    inside = subprocess.run(
        [*enter, sys.executable, "-c", ask],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=PATIENCE,
    )
    assert (inside.stdout, inside.stderr) == (f"{facts.run}\n", "")


# -- while it works ----------------------------------------------------------------------------


def test_a_loop_that_is_stuck_is_looked_into_all_the_same(start: Start) -> None:
    service = start(
        """
        import asyncio, sys, threading, time
        from waiting import until_told
        def compute():
            while not over: time.sleep(0.001)  # stuck
        async def works():
            compute()
        over = False
        def end():
            global over
            sys.stdin.read()
            over = True
        async def main():
            threading.Thread(target=end).start()
            task = asyncio.create_task(works(), name="works")
            other = asyncio.create_task(asyncio.sleep(0), name="begun by nobody")
            print("ready", flush=True)
            await task
        asyncio.run(main())
        """
    )
    service.ready()
    wait_until(lambda: service.living().tasks[1].does == "runs")
    main, works, other = service.living().tasks
    assert (main.does, main.name) == ("waits", "Task-1")
    assert works.awaited_by == [main.task]
    source = (service.home / "app.py").read_text().splitlines()
    assert source[int((works.at or "").rpartition(":")[2]) - 1].endswith("# stuck")
    assert works.source == "__main__:compute"
    assert (other.does, other.at) == ("new", None)
    assert service.end() == ("", "", 0)


def test_tasks_that_hurry_are_never_said_to_wait_where_they_do_not(start: Start) -> None:
    service = start(
        """
        import asyncio, sys
        from waiting import until_told
        async def short(): await asyncio.sleep(0.0005)  # waits
        async def long(): await asyncio.sleep(0.001)  # waits
        async def hurries():
            while True:
                await short()  # between
                await long()  # between
        async def main():
            made = [asyncio.create_task(hurries(), name="hurries") for _ in range(20)]
            made += [asyncio.create_task(until_told(), name="told")]
            await made[-1]
            for each in made: each.cancel()
        asyncio.run(main())
        """
    )
    service.ready()
    source = (service.home / "app.py").read_text().splitlines()
    seen = 0
    for _ in range(40):
        for each in service.living().tasks:
            if each.name == "hurries" and each.does == "waits":
                line = source[int((each.at or "").rpartition(":")[2]) - 1]
                assert line.endswith("# waits")
                seen += 1
    assert seen > 100
    assert service.end() == ("", "", 0)
