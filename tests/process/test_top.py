"""`aioaudit top` in a real terminal: tmux is asked what its screen shows, and types keys."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

import aioaudit.log
from aioaudit.events import Event, ProcessStart, TaskCancel, TaskDone
from tests.conftest import clean_environ
from tests.waiting import wait_until

TOP = shlex.join([sys.executable, "-m", "aioaudit", "top"])

PACKAGES = str(Path(aioaudit.log.__file__).parents[2])

ALTERNATE = "#{alternate_on}"
"""What tmux is asked for to know whether a program has a screen of its own."""


class Terminal:
    """A terminal with a shell in it that runs one command."""

    def __init__(self, server: Path, cwd: Path, name: str) -> None:
        self._tmux = ["tmux", "-S", str(server), "-f", "/dev/null"]
        self._cwd = cwd
        self._name = name

    def run(self, command: str, width: int = 80, height: int = 24) -> None:
        """Run *command*; its exit status and what it left of the terminal follow."""
        after = 'echo "STATUS $? $(stty -a | grep -ow -e "-*icanon" -e "-*echo" | tr "\\n" " ")"'
        script = self._cwd / f"{self._name}.sh"
        script.write_text(f"echo BEFORE\n{command}\n{after}\nexec cat\n")
        known = clean_environ(LANG="C.UTF-8", PYTHONPATH=PACKAGES)
        env = [f"{key}={value}" for key, value in known.items() if key not in ("TERM", "TMUX")]
        shell = ["env", *env, "sh", str(script)]
        self._ask(
            *("new-session", "-d", "-s", self._name, "-x", str(width), "-y", str(height)),
            *("-c", str(self._cwd), shlex.join(shell), ";", "set", "-g", "status", "off"),
        )

    def _ask(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words],
            capture_output=True,
            text=True,
            check=True,
            env=clean_environ(LANG="C.UTF-8"),
        )
        return done.stdout

    def keys(self, *keys: str) -> None:
        """Type *keys*."""
        self._ask("send-keys", "-t", self._name, *keys)

    def resize(self, width: int, height: int) -> None:
        """Make it so large."""
        self._ask("resize-window", "-t", self._name, "-x", str(width), "-y", str(height))

    def screen(self, *how: str) -> str:
        """What it shows."""
        time.sleep(0.05)  # who waits asks often, and each time a process is started
        return self._ask("capture-pane", "-p", *how, "-t", self._name)

    def told(self, what: str) -> str:
        """What tmux knows of it."""
        return self._ask("display-message", "-p", "-t", self._name, what).strip()

    def shows(self, *texts: str) -> str:
        """Its screen, once it has all of *texts* on it."""
        wait_until(lambda: all(each in self.screen() for each in texts), f"{texts} on the screen")
        return self.screen()

    def shows_no(self, text: str) -> str:
        """Its screen, once *text* is gone."""
        wait_until(lambda: text not in self.screen(), f"a screen without {text}")
        return self.screen()

    def pid(self) -> int:
        """The number of the command that runs in it."""
        shell = self.told("#{pane_pid}")
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        for child in children:
            if b"top" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        raise AssertionError(children)

    def is_as_before(self, status: int) -> None:
        """The command has ended so, and left the terminal as it was."""
        screen = self.shows("STATUS")
        assert f"STATUS {status} icanon echo" in screen
        assert "BEFORE" in screen
        assert "Traceback" not in screen
        assert self.told(ALTERNATE) == "0"

    def close(self) -> None:
        """Take it away from the command."""
        self._ask("kill-session", "-t", self._name)


@pytest.fixture(scope="module")
def _server() -> Iterator[Path]:
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux (Debian: apt-get install tmux)")
    pytest.importorskip("prompt_toolkit")
    with tempfile.TemporaryDirectory(prefix="tmux") as folder:  # a short path: it is a socket's
        server = Path(folder) / "s"
        yield server
        subprocess.run(["tmux", "-S", server, "kill-server"], capture_output=True)


@pytest.fixture
def terminal(_server: Path, tmp_path: Path) -> Callable[[str], Terminal]:
    return lambda name: Terminal(_server, tmp_path, f"{tmp_path.name}-{name}".replace(".", "_"))


def base(seq: int, run: str) -> dict[str, object]:
    ts = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
    return {"ts": ts, "seq": seq, "run": run, "pid": 4211, "thread": "MainThread"}


def incident(name: str, number: int = 2, run: str = "r1", *, ends: bool = True) -> bytes:
    """A task that plain code cancelled just now, as lines of a log."""
    task: dict[str, object] = {"task": number, "name": name, "coro": "shop.api:fetch"}
    known: dict[str, object] = {
        "version": "0",
        "python": "cpython 3.13",
        "ppid": 1,
        "argv": ["app.py"],
    }
    events: list[Event] = [
        msgspec.convert(
            {**base(0, run), **known, "event": "process.start", "schema": 1, "coverage": []},
            ProcessStart,
        ),
        msgspec.convert(
            {
                **base(10 * number, run),
                **task,
                "event": "task.cancel",
                "accepted": True,
                "reason": "explicit",
                "origin": "called",
                "source": "shop.api:stop",
                "at": f"/srv/shop/api.py:{number}",
                "suspended_at": "/srv/shop/db.py:88",
            },
            TaskCancel,
        ),
    ]
    if ends:
        end = {"event": "task.done", "outcome": "cancelled", "cancel_outcome": "obeyed"}
        ended: dict[str, object] = {**end, "cancel": 10 * number}
        events.append(msgspec.convert({**base(10 * number + 1, run), **task, **ended}, TaskDone))
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.jsonl"
    path.write_bytes(incident("req-91"))
    return path


def test_a_log_is_watched_while_it_grows(
    terminal: Callable[[str], Terminal], log: Path, tmp_path: Path
) -> None:
    at = terminal("grows")
    at.run(f"{TOP} app.jsonl")
    screen = at.shows("req-91", "LAST INCIDENTS", "live")
    assert "q quit" in screen
    with log.open("ab") as file:
        file.write(incident("req-92", 3) + incident("stuck", 4, ends=False)[:-9])
    at.shows("req-92")
    with log.open("ab") as file:
        file.write(incident("stuck", 4, ends=False)[-9:])
    at.shows("DO NOT END", "stuck")
    at.keys("/", "req-91")
    at.shows_no("req-92")
    at.keys("Enter", "Enter")
    at.shows("fetch (req-91) was cancelled because shop.api:stop called cancel() at", "root cause")
    at.keys("q")
    at.shows("LAST INCIDENTS")
    at.keys("Escape")
    at.shows("req-92")
    at.keys("p")
    at.shows("PAUSED")
    with log.open("ab") as file:
        file.write(incident("req-93", 5))
    assert "req-93" not in at.shows("3 events since")
    at.keys("p")
    at.shows("req-93")
    at.resize(50, 12)
    at.shows("LAST INCIDENTS")
    wait_until(lambda: max(map(len, at.screen().splitlines())) <= 50)
    at.resize(120, 30)
    at.shows("at shop/db.py:88; shop.api:stop called cancel() at shop/api.py:4")
    at.keys("?")
    at.shows("32 MiB in all")
    at.keys("q", "q")
    at.is_as_before(0)


def test_keys_come_from_the_terminal_while_the_log_comes_through_a_pipe(
    terminal: Callable[[str], Terminal], log: Path
) -> None:
    at = terminal("pipe")
    at.run(f"tail -n +1 -f app.jsonl | {TOP} -")
    at.shows("req-91", "standard input")
    with log.open("ab") as file:
        file.write(incident("req-92", 3))
    at.shows("req-92")
    at.keys("Enter")
    at.shows("fetch (req-92) was cancelled")
    at.keys("q", "q")
    with log.open("ab") as file:  # tail hears only now that nobody reads
        file.write(incident("req-93", 4))
    at.is_as_before(0)


PROGRAM = """
import asyncio

async def stay():
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        await asyncio.sleep(600)

async def main():
    task = asyncio.create_task(stay(), name="stubborn")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

asyncio.run(main())
"""


def test_a_running_process_is_watched(terminal: Callable[[str], Terminal], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    at = terminal("process")
    run = f"{shlex.quote(sys.executable)} -m aioaudit run --to recorder app.py"
    at.run(f"{run} & app=$!\nuntil {TOP} $app 2> said; do :; done\nkill $app")
    at.shows("live", "stay (stubborn)", "DO NOT END", "1 min 1 ")
    at.keys("Enter")
    at.shows("stay (stubborn) was asked to cancel because __main__:main called cancel()")
    at.keys("q", "q")
    at.is_as_before(0)


def test_the_terminal_is_as_before_whatever_ends_it(
    terminal: Callable[[str], Terminal], log: Path
) -> None:
    ends = {"TERM": 143, "HUP": 129, "INT": 130, "C-c": 130}
    ways = {each: terminal(each) for each in ends}
    for at in ways.values():
        at.run(f"{TOP} app.jsonl")
    for way, at in ways.items():
        at.shows("req-91")
        assert at.told(ALTERNATE) == "1"
        if way == "C-c":
            at.keys(way)
        else:
            os.kill(at.pid(), signal.Signals[f"SIG{way}"])
    for way, at in ways.items():
        at.is_as_before(ends[way])


def test_a_terminal_that_goes_away_ends_it_silently(
    terminal: Callable[[str], Terminal], log: Path, tmp_path: Path
) -> None:
    at = terminal("closed")
    at.run(f"{TOP} app.jsonl 2> said")
    at.shows("req-91")
    pid = at.pid()
    at.close()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the command")
    assert (tmp_path / "said").read_text() == ""


def test_without_colour_nothing_is_coloured(
    terminal: Callable[[str], Terminal], tmp_path: Path
) -> None:
    (tmp_path / "app.jsonl").write_bytes(incident("stuck", ends=False))
    ways = {"NO_COLOR=1 TERM=xterm-256color": False, "TERM=vt100": False, "TERM=linux": True}
    terminals = [terminal(f"c{at}") for at in range(len(ways))]
    for at, way in zip(terminals, ways, strict=True):
        at.run(f"{way} {TOP} app.jsonl")
    for at, coloured in zip(terminals, ways.values(), strict=True):
        at.shows("DO NOT END", "stuck")
        assert ("\x1b[31m" in at.screen("-e").replace("\x1b[1;31m", "\x1b[31m")) == coloured
        at.keys("q")
        at.is_as_before(0)


def test_a_hostile_name_does_nothing_to_the_terminal(
    terminal: Callable[[str], Terminal], tmp_path: Path
) -> None:
    name = "\x1b]0;owned\x07\x1b[2J\u202e<b>[red]\r\nwide\u6f22\u5b57"
    (tmp_path / "app.jsonl").write_bytes(incident(name))
    at = terminal("hostile")
    at.run(f"{TOP} app.jsonl", 120)
    at.shows("\\x1b]0;owned\\x07", "LAST INCIDENTS")
    at.keys("Enter")
    at.shows("\\x1b[2J\\u202e<b>[red]\\r\\nwide\u6f22\u5b57) was cancelled because")
    assert at.told("#{pane_title}") != "owned"
    at.keys("q", "q")
    at.is_as_before(0)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("TERM=dumb %s app.jsonl", "top needs a terminal with a screen, and TERM is dumb;"),
        ("%s app.jsonl | cat", "top needs a terminal to show its screen on;"),
        ("%s -", "top - reads a log from standard input, which is the keyboard here;"),
        ("%s nothing.jsonl", "cannot read nothing.jsonl: No such file or directory"),
    ],
)
def test_where_it_cannot_be_one_line_says_why(
    terminal: Callable[[str], Terminal], log: Path, how: str, said: str
) -> None:
    at = terminal("cannot")
    at.run(how % TOP, 200)
    screen = at.shows("STATUS")
    assert f"aioaudit: {said}" in screen
    assert len(screen.strip().splitlines()) == 3


@pytest.mark.parametrize("package", ["prompt_toolkit", "rich"])
def test_what_is_missing_is_named_with_what_installs_it(tmp_path: Path, package: str) -> None:
    code = (
        "import sys, importlib.util as u; find = u.find_spec;"
        f"u.find_spec = lambda name, *a: None if name == {package!r} else find(name, *a);"
        "from aioaudit.cli import main; sys.exit(main(['top', 'x.jsonl']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean_environ(PYTHONPATH=PACKAGES),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"aioaudit: this command needs {package}, which is not installed: "
        "pip install 'aioaudit[top]'\n"
    )
