"""Ends and forks of real processes: what was recorded is on disk, the program notices nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from aioaudit.cpython.behaviour import FORK_WARNS_OF_THREADS
from aioaudit.events import AnyEvent, Event, ProcessEnd, ProcessStart, name_of
from tests.waiting import PATIENCE, asleep, wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX signals and forks")

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

# A program that records: `put()` is an event of it, the rest is what aioaudit does.
PRELUDE = """
import os, signal, sys, threading, time
from aioaudit import lifecycle
from aioaudit.events import LoopStart
from aioaudit.exporters.jsonl import JsonlExporter
from aioaudit.identity import Run
from aioaudit.timestamps import timestamp
from aioaudit.delivery.pipeline import Pipeline

run = Run()
pipeline = Pipeline(
    JsonlExporter("log-{pid}.jsonl"), name="jsonl", run=run, start=run.start_event([])
)

def put(count=1):
    for _ in range(count):
        pipeline.put(
            LoopStart(
                ts=timestamp(time.time_ns()),
                seq=run.next_seq(),
                run=run.id,
                pid=run.pid,
                thread=threading.current_thread().name,
            )
        )

def begin_run():
    global run
    run = Run()
    pipeline.after_fork(run, run.start_event([]))

def ending(signal):
    pipeline.shutdown(signal=signal)

def install():
    lifecycle.install(
        begin_run,
        ending,
        before_fork=pipeline.before_fork,
        after_fork_in_parent=pipeline.after_fork_in_parent,
    )
"""


@pytest.fixture
def run_program(run_python: RunPython, tmp_path: Path) -> RunPython:
    def run(body: str, *options: str) -> subprocess.CompletedProcess[str]:
        program = tmp_path / "program.py"
        program.write_text(PRELUDE + textwrap.dedent(body))
        return run_python("-W", "error", *options, str(program))

    return run


def logs(folder: Path, *, killed: bool = False) -> list[list[Event]]:
    """The events of each file; every line of each is whole, where nobody was *killed* writing it."""
    found: list[list[Event]] = []
    for path in sorted(folder.glob("log-*.jsonl")):
        data = path.read_bytes()
        if killed:
            data = data[: data.rindex(b"\n") + 1]
        assert data.endswith(b"\n")
        events: list[Event] = [
            msgspec.json.decode(line, type=AnyEvent) for line in data.splitlines()
        ]
        assert {each.pid for each in events} == {int(path.stem.removeprefix("log-"))}
        assert len({each.run for each in events}) == 1
        assert [each.seq for each in events] == sorted({each.seq for each in events})
        found.append(events)
    return found


def names(events: list[Event]) -> list[str]:
    return [name_of(each) for each in events]


def end_of(events: list[Event]) -> ProcessEnd:
    end = events[-1]
    assert isinstance(end, ProcessEnd)
    return end


def whole(count: int) -> list[str]:
    return ["process.start", *["loop.start"] * count, "process.end"]


# -- ends ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("raise LookupError('oops')", 1, "LookupError: oops"),
        ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, "KeyboardInterrupt"),
        ("import atexit; atexit.register(put)", 0, ""),
        ("threading.Thread(target=lambda: (time.sleep(0.1), put())).start()", 0, ""),
    ],
)
def test_everything_is_on_disk_when_the_process_ends(
    run_program: RunPython, tmp_path: Path, body: str, status: int, said: str
) -> None:
    done = run_program(f"install()\nput(500)\n{body}")
    assert done.returncode == status
    assert done.stderr.strip().splitlines()[-1:] == ([said] if said else [])
    [events] = logs(tmp_path)
    puts = 501 if "put" in body else 500
    assert names(events) == whole(puts)
    assert (end_of(events).written, end_of(events).signal) == (puts + 1, None)


def test_a_process_that_records_nothing_makes_no_file(
    run_program: RunPython, tmp_path: Path
) -> None:
    done = run_program("install()\nsys.exit(4)")
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")
    assert logs(tmp_path) == []


def test_daemon_threads_that_go_on_recording_neither_hold_the_end_up_nor_spoil_a_line(
    run_program: RunPython, tmp_path: Path
) -> None:
    done = run_program("""
        def forever():
            while True:
                put()
                time.sleep(0)
        install()
        for _ in range(3):
            threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.2)
    """)
    assert (done.returncode, done.stderr) == (0, "")
    [events] = logs(tmp_path)
    assert isinstance(events[-1], ProcessEnd)


def test_at_os_exit_only_the_last_moment_is_lost(run_program: RunPython, tmp_path: Path) -> None:
    done = run_program("""
        install()
        put(3)
        while pipeline.written < 4:
            time.sleep(0.01)
        put(1000)
        os._exit(5)
    """)
    assert (done.returncode, done.stderr) == (5, "")
    [events] = logs(tmp_path, killed=True)
    assert names(events)[:4] == ["process.start", *["loop.start"] * 3]
    assert "process.end" not in names(events)


def test_uninstall_leaves_nothing_to_be_called(run_program: RunPython, tmp_path: Path) -> None:
    done = run_program("""
        install()
        lifecycle.uninstall()
        lifecycle.uninstall()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if os.fork() == 0:
            os._exit(int(run.pid == os.getpid()))
        assert os.wait()[1] == 0
        ending = None
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert logs(tmp_path) == []


# -- SIGTERM -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "waiting",
    [
        "time.sleep(60)",
        "signal.pause()",
        "threading.Event().wait()",
        "import select; select.select([], [], [])",
        "os.read(os.pipe()[0], 1)",
        "while True: put()",
        "while True: put(); pipeline.flush()",
    ],
)
def test_everything_is_on_disk_at_the_default_action_of_sigterm(
    audited_python: str, tmp_path: Path, waiting: str
) -> None:
    program = PRELUDE + f"install()\nput(500)\nprint('ready', flush=True)\n{waiting}\n"
    process = start(audited_python, program, tmp_path)
    if "while" not in waiting:
        # A signal that comes right before a long wait is handled after it, in any program.
        wait_until(asleep(process.pid))
    process.terminate()
    assert process.wait(PATIENCE) == -signal.SIGTERM
    assert read_and_close(process) == ""
    [events] = logs(tmp_path)
    assert end_of(events).signal == "SIGTERM"
    kept = names(events)
    if "while" in waiting:  # as many come as fit, where the exporter's thread is late
        kept = [name for name in kept if name != "process.dropped"]
    else:
        assert end_of(events).dropped == 0
    assert len(kept) >= 502
    assert kept == whole(len(kept) - 2)


def start(python: str, program: str, folder: Path) -> subprocess.Popen[str]:
    """A running program that has said that it is ready."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIOAUDIT")}
    process = subprocess.Popen(
        [python, "-W", "error", "-c", program],
        cwd=folder,
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def read_and_close(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with process.stdout:
        return process.stdout.read()


def test_a_handler_that_the_program_sets_later_is_the_only_one_that_runs(
    run_program: RunPython, tmp_path: Path
) -> None:
    done = run_program("""
        install()
        put()
        def handler(signum, frame):
            if callable(before):
                before(signum, frame)  # as those do who chain handlers
            print("the program's own")
        before = signal.signal(signal.SIGTERM, handler)
        os.kill(os.getpid(), signal.SIGTERM)
        put()
        print("still here")
        signal.signal(signal.SIGTERM, before)
        put()
        os.kill(os.getpid(), signal.SIGTERM)
    """)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    assert done.stdout == "the program's own\nstill here\n" or not done.stdout  # not flushed
    [events] = logs(tmp_path)
    assert names(events) == whole(3)
    assert end_of(events).signal == "SIGTERM"


@pytest.mark.parametrize("handler", ["lambda *_: print('mine', flush=True)", "signal.SIG_IGN"])
def test_a_handler_that_the_program_has_already_is_left_alone(
    run_program: RunPython, tmp_path: Path, handler: str
) -> None:
    done = run_program(f"""
        handler = {handler}
        signal.signal(signal.SIGTERM, handler)
        install()
        assert not lifecycle.watch_sigterm()
        assert signal.getsignal(signal.SIGTERM) is handler
        put()
        os.kill(os.getpid(), signal.SIGTERM)
        lifecycle.uninstall()
        assert signal.getsignal(signal.SIGTERM) is handler
        install()
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("mine\n" if "mine" in handler else "")
    [events] = logs(tmp_path)
    assert (names(events), end_of(events).signal) == (whole(1), None)


def test_uninstall_leaves_a_handler_that_came_later_alone(run_program: RunPython) -> None:
    done = run_program("""
        install()
        handler = lambda *_: None
        signal.signal(signal.SIGTERM, handler)
        lifecycle.uninstall()
        assert signal.getsignal(signal.SIGTERM) is handler
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_asyncio_may_set_and_remove_a_handler(run_program: RunPython, tmp_path: Path) -> None:
    done = run_program("""
        import asyncio
        install()
        put()

        async def main():
            loop = asyncio.get_running_loop()
            stopped = asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, stopped.set)
            os.kill(os.getpid(), signal.SIGTERM)
            await stopped.wait()
            loop.remove_signal_handler(signal.SIGTERM)
            put()

        asyncio.run(main())
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert lifecycle.watch_sigterm()
        asyncio.run(asyncio.sleep(0))
        os.kill(os.getpid(), signal.SIGTERM)
    """)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    [events] = logs(tmp_path)
    assert (names(events), end_of(events).signal) == (whole(2), "SIGTERM")


def test_sigterm_inside_a_running_loop_ends_the_process_as_ever(
    run_program: RunPython, tmp_path: Path
) -> None:
    done = run_program("""
        import asyncio
        install()

        async def main():
            put()
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)

        asyncio.run(main())
    """)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    [events] = logs(tmp_path)
    assert (names(events), end_of(events).signal) == (whole(1), "SIGTERM")


def test_installed_in_another_thread_sigterm_is_watched_once_the_main_thread_asks(
    run_program: RunPython, tmp_path: Path
) -> None:
    done = run_program("""
        def elsewhere():
            install()
            assert not lifecycle.watch_sigterm()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert lifecycle.watch_sigterm()
        put()
        os.kill(os.getpid(), signal.SIGTERM)
    """)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    [events] = logs(tmp_path)
    assert (names(events), end_of(events).signal) == (whole(1), "SIGTERM")


def test_a_handler_left_behind_in_another_thread_does_what_the_default_would(
    run_program: RunPython, tmp_path: Path
) -> None:
    done = run_program("""
        install()
        thread = threading.Thread(target=lifecycle.uninstall)
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGTERM)
    """)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    assert logs(tmp_path) == []


def test_programs_that_are_started_have_the_default_action(run_program: RunPython) -> None:
    done = run_program("""
        import subprocess
        install()
        show = "import signal; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
        subprocess.run([sys.executable, "-c", show], check=True)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_an_exporter_that_hangs_delays_sigterm_and_a_second_one_does_not_wait(
    audited_python: str, tmp_path: Path
) -> None:
    program = PRELUDE + textwrap.dedent("""
        def ending(signal):
            os.write(1, b"ending\\n")
            pipeline.shutdown(SECONDS, signal=signal)

        pipeline.exporter.export = lambda events: time.sleep(3600)
        install()
        put()
        print("ready", flush=True)
        # A signal that comes right before a long sleep is handled after it, in any program.
        while True:
            time.sleep(0.01)
    """)
    patient = start(audited_python, program.replace("SECONDS, ", ""), tmp_path)
    hasty = start(audited_python, program.replace("SECONDS", "3600"), tmp_path)
    began = time.monotonic()
    for process in (patient, hasty):
        process.terminate()
        assert process.stdout is not None
        assert process.stdout.readline() == "ending\n"
    assert hasty.poll() is None
    hasty.terminate()
    assert hasty.wait(PATIENCE) == -signal.SIGTERM
    assert read_and_close(hasty) == ""
    assert patient.wait(PATIENCE) == -signal.SIGTERM
    assert time.monotonic() - began > 2.9  # of the hour
    assert read_and_close(patient) == (
        "aioaudit: exporter 'jsonl' did not finish within 3 s; 2 events may be lost\n"
    )


UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


def may_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_unshare(), reason="needs a process namespace of its own")
def test_process_1_which_sigterm_does_not_kill_runs_on(audited_python: str, tmp_path: Path) -> None:
    program = PRELUDE + textwrap.dedent("""
        install()
        put()
        assert os.getpid() == 1
        os.kill(1, signal.SIGTERM)
        put()
        if os.fork() == 0:
            put()
            os.kill(os.getpid(), signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGTERM
    """)
    done = subprocess.run(
        [*UNSHARE, audited_python, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    child, parent = sorted(logs(tmp_path), key=len)
    assert (names(parent), end_of(parent).signal) == (whole(2), None)
    assert (names(child), end_of(child).signal) == (whole(1), "SIGTERM")


# -- forks ----------------------------------------------------------------------------


def test_each_forked_child_is_a_run_of_its_own(run_program: RunPython, tmp_path: Path) -> None:
    """As gunicorn does it: one parent, many children, new ones now and then."""
    body = """
        install()
        put(10)
        children = []
        for number in range(6):
            put()
            pid = os.fork()
            if pid == 0:
                put(number)
                sys.exit(number)
            children.append(pid)
            put()
        for number, pid in enumerate(children):
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == number
    """
    done = run_program(body, "-W", "always")
    assert (done.returncode, done.stderr) == (0, "")
    found = logs(tmp_path)
    assert len({events[0].run for events in found}) == 6
    parent = max(found, key=len)
    assert names(parent) == whole(22)
    children = sorted((each for each in found if each is not parent), key=len)
    # The one that recorded nothing has no file.
    assert [names(each) for each in children] == [whole(count) for count in range(1, 6)]
    starts = [each[0] for each in children]
    assert {each.ppid for each in starts if isinstance(each, ProcessStart)} == {parent[0].pid}


def test_a_hook_can_be_added_in_a_child_that_was_forked_while_another_thread_added_one(
    run_program: RunPython,
) -> None:
    done = run_program("""
        import aioaudit, warnings
        from aioaudit import bus

        aioaudit.enable()
        holding, over = threading.Event(), threading.Event()
        def add():
            with bus._lock:  # as `addaudithook` does
                holding.set()
                over.wait()
        thread = threading.Thread(target=add)
        thread.start()
        holding.wait()
        warnings.simplefilter("ignore")  # of a fork while there are threads, as is meant here
        child = os.fork()
        if not child:
            signal.alarm(200)
            aioaudit.addaudithook(lambda event, args: None)()
            os._exit(0)
        over.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_forking_brings_no_warning_of_threads(run_program: RunPython, tmp_path: Path) -> None:
    body = """
        install()
        for _ in range(100):
            put()
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
    """
    done = run_program(body, "-W", "always")
    assert (done.returncode, done.stderr) == (0, "")
    [events] = logs(tmp_path)
    assert names(events) == whole(100)


@pytest.mark.parametrize("others", [0, 1])
def test_a_fork_beside_an_exporter_that_is_busy_is_warned_of_for_threads_of_the_program_alone(
    run_program: RunPython, others: int
) -> None:
    done = run_program(
        f"""
        import aioaudit, asyncio, time, warnings
        from aioaudit import session

        working, over = threading.Event(), threading.Event()

        class Busy:
            def export(self, events):
                working.set()
                over.wait()
            def flush(self):
                pass
            def shutdown(self):
                pass

        with aioaudit.enable(Busy()):
            asyncio.run(asyncio.sleep(0))
            working.wait()
            for _ in range({others}):
                threading.Thread(target=over.wait).start()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if (pid := os.fork()) == 0:
                    os._exit(0)
            os.waitpid(pid, 0)
            print(*(each.category.__name__ for each in caught))
            over.set()
        """
    )
    warned = "DeprecationWarning" if others and FORK_WARNS_OF_THREADS else ""
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, warned, "")


def test_workers_that_their_parent_terminates_leave_whole_logs(
    run_program: RunPython, tmp_path: Path
) -> None:
    done = run_program("""
        install()
        ready, told = os.pipe()
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                put(100)
                os.write(told, b"x")
                time.sleep(60)
            children.append(pid)
        for _ in children:
            os.read(ready, 1)
        for pid in children:
            os.kill(pid, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    """)
    assert (done.returncode, done.stderr) == (0, "")
    found = logs(tmp_path)
    assert [names(each) for each in found] == [whole(100)] * 3
    assert {end_of(each).signal for each in found} == {"SIGTERM"}


def test_a_thread_of_ours_that_is_back_before_python_counts_is_none_of_the_program_s(
    run_python: RunPython,
) -> None:
    # A recorder's may be: it sleeps at its socket, whether anything happens or not.
    program = """
import os, threading
import aioaudit
from aioaudit.threads import Thread

over = threading.Event()
os.register_at_fork(after_in_parent=lambda: Thread(over.wait).start())  # before ours looks again
aioaudit.enable("recorder", recorder_socket=False)
child = os.fork()
if not child:
    os._exit(0)
os.waitpid(child, 0)
over.set()
"""
    done = run_python("-c", program)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_children_of_children_and_forks_in_other_threads_record_too(
    run_program: RunPython, tmp_path: Path
) -> None:
    done = run_program("""
        import warnings
        warnings.simplefilter("ignore")  # this program really is multi-threaded when it forks
        install()
        put()

        def fork_twice():
            if os.fork() == 0:
                put(2)
                if os.fork() == 0:
                    put(3)
                    raise SystemExit
                os.wait()
                raise SystemExit
            os.wait()

        thread = threading.Thread(target=fork_twice)
        thread.start()
        thread.join()
        put()
    """)
    assert (done.returncode, done.stderr) == (0, "")
    found = sorted(logs(tmp_path), key=len)
    assert len(found) == 3
    # A child that was forked in a thread ends with it: nothing runs at its end.
    assert [names(each) for each in found] == [whole(2)[:-1], whole(2), whole(3)[:-1]]


def test_forks_while_other_threads_record_lose_nothing_in_the_parent(
    run_program: RunPython, tmp_path: Path
) -> None:
    done = run_program("""
        import warnings
        warnings.simplefilter("ignore")  # this program really is multi-threaded when it forks
        install()
        def record():
            for _ in range(200):
                put(10)
                time.sleep(0.001)
        threads = [threading.Thread(target=record) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                put(5)
                pipeline.shutdown()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        for thread in threads:
            thread.join()
    """)
    assert (done.returncode, done.stderr) == (0, "")
    found = sorted(logs(tmp_path), key=len)
    assert [names(each) for each in found[:-1]] == [whole(5)] * 20
    parent = found[-1]
    assert names(parent).count("loop.start") + end_of(parent).dropped == 4000


MULTIPROCESSING = """
import multiprocessing

install()

def target(how):
    put(50)
    if how == "raises":
        raise LookupError("oops")
    if how == "exits":
        sys.exit(7)
    if how == "terminated":
        multiprocessing.parent_process()
        os.kill(os.getpid(), signal.SIGTERM)

if __name__ == "__main__":
    put()
    context = multiprocessing.get_context(sys.argv[1])
    hows = ["returns", "raises", "exits", "terminated"]
    children = [context.Process(target=target, args=(how,)) for how in hows]
    for child in children:
        child.start()
    for child in children:
        child.join()
    print([child.exitcode for child in children])
"""


LINECACHE = "ignore:Module globals is missing a __spec__.loader:DeprecationWarning"
"""So says Python 3.15 of the main module of such a child, once it fails."""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_leave_whole_logs_however_they_end(
    run_python: RunPython, tmp_path: Path, method: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PRELUDE + MULTIPROCESSING)
    done = run_python("-W", "error", "-W", LINECACHE, str(program), method)
    assert done.returncode == 0
    assert done.stdout == f"[0, 1, 7, {-signal.SIGTERM}]\n"
    assert "aioaudit" not in done.stderr
    assert "Warning" not in done.stderr
    found = sorted(logs(tmp_path), key=len)
    assert [names(each) for each in found] == [whole(1), *[whole(50)] * 4]
    assert sorted(str(end_of(each).signal) for each in found) == ["None"] * 4 + ["SIGTERM"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_auditing_that_begins_inside_a_multiprocessing_child_ends_with_it(
    run_python: RunPython, tmp_path: Path, method: str
) -> None:
    program = tmp_path / "program.py"
    body = MULTIPROCESSING.replace("\ninstall()\n", "").replace(
        "    put(50)", "    begin_run(); install(); put(50)"
    )
    program.write_text(PRELUDE + body.replace("    put()\n", ""))
    done = run_python("-W", "error", str(program), method)
    assert (done.returncode, done.stdout) == (0, f"[0, 1, 7, {-signal.SIGTERM}]\n")
    assert [names(each) for each in logs(tmp_path)] == [whole(50)] * 4


def test_a_pool_of_processes_leaves_whole_logs(run_python: RunPython, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        PRELUDE
        + textwrap.dedent("""
        from concurrent.futures import ProcessPoolExecutor
        install()
        def work(number):
            put(number)
            return os.getpid()
        if __name__ == "__main__":
            with ProcessPoolExecutor(2) as pool:
                print(len(set(pool.map(work, [10] * 20))))
        """)
    )
    done = run_python(str(program))
    assert (done.returncode, "aioaudit" in done.stderr) == (0, False)
    found = logs(tmp_path)
    assert len(found) == int(done.stdout)
    assert sum(each.count("loop.start") for each in map(names, found)) == 200
    assert {type(each[-1]) for each in found} == {ProcessEnd}


def test_install_twice_calls_the_later_functions_once(run_program: RunPython) -> None:
    done = run_program("""
        install()
        lifecycle.install(lambda: print("child"), lambda signal: print("end", signal))
        sys.stdout.flush()
        if os.fork() == 0:
            sys.exit()
        os.wait()
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "child\nend None\nend None\n"
