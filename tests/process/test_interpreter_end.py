"""The end of the interpreter: nothing of ours on stderr, and nothing of the program's is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from aioaudit.events import AnyEvent, Event, ProcessEnd
from aioaudit.log import load

if TYPE_CHECKING:
    from tests.conftest import Runner

# In which order the last collection ends a loop and its task depends on whether there was one
# before, and that on how many objects were made: it is the last one here, with us and without.
WAITS = """
import gc; gc.disable()
import asyncio, sys
async def waits(): await asyncio.sleep(60)
async def main(): return asyncio.create_task(waits(), name="left")
"""

ENDS = {
    "a loop is left open": """
import asyncio
async def main(): await asyncio.sleep(0)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
""",
    "a loop and its tasks are left": f"""{WAITS}
loop = asyncio.new_event_loop()
task = loop.run_until_complete(main())
""",
    "a loop is closed and its tasks are left": f"""{WAITS}
loop = asyncio.new_event_loop()
task = loop.run_until_complete(main())
loop.run_until_complete(asyncio.sleep(0))
loop.close()
""",
    "uvloop is left open": f"""{WAITS}
import uvloop
loop = uvloop.new_event_loop()
task = loop.run_until_complete(main())
""",
    "a task of the Python class is left": f"""{WAITS}
loop = asyncio.new_event_loop()
async def start():
    task = asyncio.tasks._PyTask(waits(), loop=loop, name="left")
    await asyncio.sleep(0)
    return task
task = loop.run_until_complete(start())
""",
    "a loop runs on in a daemon thread": f"""{WAITS}
import threading
ready = threading.Event()
async def forever():
    ready.set()
    while True:
        await asyncio.create_task(asyncio.sleep(0))
threading.Thread(target=lambda: asyncio.run(forever()), daemon=True).start()
ready.wait()
""",
    "loops run in functions of atexit": f"""
import atexit
def late():
    import asyncio
    async def waits(): await asyncio.sleep(60)
    async def main():
        task = asyncio.create_task(waits(), name="victim")
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        print(task.cancelled())
    asyncio.run(main())
    global loop
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
atexit.register(late)
{WAITS}
atexit.register(late)
asyncio.run(main())
""",
    "asyncio is imported by a function of atexit": """
import atexit
def late():
    global loop, asyncio
    import asyncio
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
atexit.register(late)
""",
    "an asynchronous generator is left": f"""{WAITS}
async def numbers():
    try:
        while True: yield 1
    finally: print("finally")
async def first():
    global left
    left = numbers()
    return await anext(left)
loop = asyncio.new_event_loop()
print(loop.run_until_complete(first()))
""",
    "an error, with a loop left open": f"""{WAITS}
loop = asyncio.new_event_loop()
task = loop.run_until_complete(main())
raise ValueError("the program's own")
""",
    "exit inside a task": f"""{WAITS}
async def stop():
    asyncio.get_running_loop().create_task(waits())
    await asyncio.sleep(0)
    sys.exit(3)
loop = asyncio.new_event_loop()
loop.run_until_complete(stop())
""",
    "stderr is closed": f"""{WAITS}
loop = asyncio.new_event_loop()
task = loop.run_until_complete(main())
sys.stderr.close()
""",
    "stderr is something else": f"""{WAITS}
class Nothing:
    def write(self, text): raise RuntimeError("no")
loop = asyncio.new_event_loop()
task = loop.run_until_complete(main())
sys.stderr = Nothing()
""",
    "modules are gone": f"""{WAITS}
loop = asyncio.new_event_loop()
task = loop.run_until_complete(main())
sys.modules.clear()
""",
}


def scrubbed(text: str) -> str:
    """*text* without what differs from one process to the next."""
    return re.sub(r"0x[0-9a-f]+|Task-\d+", "...", text)


@pytest.mark.parametrize("exporters", ["jsonl", "sys"])
@pytest.mark.parametrize("program", ENDS.values(), ids=ENDS)
def test_the_interpreter_ends_as_without_us(
    run_python: Runner, tmp_path: Path, program: str, exporters: str
) -> None:
    (tmp_path / "app.py").write_text(program)
    plain = run_python("-X", "dev", "app.py")
    audited = run_python("-X", "dev", "app.py", AIOAUDIT=exporters, AIOAUDIT_JSONL_PATH="log")
    assert audited.returncode == plain.returncode
    assert scrubbed(audited.stdout) == scrubbed(plain.stdout)
    assert scrubbed(audited.stderr) == scrubbed(plain.stderr)
    if (tmp_path / "log").exists():
        assert load(tmp_path / "log").problems == []


LAST = """
class Last:
    def __init__(self, loop, task): self.loop, self.task = loop, task
    def __del__(self):
        print("cancelled", self.task.cancel())
        self.loop.close()
        self.loop.call_exception_handler({"message": "the last word"})
loop = asyncio.new_event_loop()
last = Last(loop, loop.run_until_complete(main()))
"""


def test_what_dies_last_meets_nothing_of_ours(run_python: Runner, tmp_path: Path) -> None:
    """In which order the program's objects die is chance; that they cancel and close is not."""
    (tmp_path / "app.py").write_text(WAITS + LAST)
    for exporter in ("jsonl", "sys"):
        done = run_python("-X", "dev", "app.py", AIOAUDIT=exporter)
        assert "aioaudit" not in done.stderr
        assert done.returncode == 0


@pytest.mark.parametrize(
    "hook",
    [
        "def hook(event, args): print(event, file=out)",
        "def hook(event, args): 1 / (not over)",
    ],
)
def test_a_hook_hears_nothing_while_the_interpreter_goes_down(
    run_python: Runner, tmp_path: Path, hook: str
) -> None:
    (tmp_path / "app.py").write_text(f"""{WAITS}
import aioaudit, atexit
over = []
{hook}
atexit.register(over.append, 1)
out = sys.stdout
aioaudit.addaudithook(hook)
if len(sys.argv) > 1:
    aioaudit.enable()
loop = asyncio.new_event_loop()
task = loop.run_until_complete(main())
""")
    plain = run_python("-X", "dev", "app.py")
    done = run_python("-X", "dev", "app.py", "audited")
    assert scrubbed(done.stderr) == scrubbed(plain.stderr)


def test_a_hook_of_python_itself_may_outlive_everything(run_python: Runner, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"""{WAITS}
sys.addaudithook(lambda event, args: None if event != "aioaudit.loop.close" else 1 / 0)
loop = asyncio.new_event_loop()
task = loop.run_until_complete(main())
""")
    plain = run_python("app.py")
    done = run_python("app.py", AIOAUDIT="sys")
    assert "ZeroDivisionError" not in done.stderr
    assert scrubbed(done.stderr) == scrubbed(plain.stderr)


def test_after_the_end_what_was_recorded_still_answers(run_python: Runner, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("""
import atexit
def late():
    print(error.source, aioaudit.why(task).root.source)
atexit.register(late)  # before ours, so it runs after it
import asyncio, aioaudit
error = None
async def waits():
    global error
    try: await asyncio.sleep(60)
    except asyncio.CancelledError as caught:
        error = caught
        error.source  # before 3.12 it is told where it is handled
        raise
async def main():
    task = asyncio.create_task(waits(), name="victim")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return task
task = asyncio.run(main())
""")
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert (done.stdout, done.stderr) == ("__main__:main __main__:main\n", "")


# -- faults of our own ----------------------------------------------------------------------------

FAULTY = """
import asyncio, sys
from aioaudit.session import current

async def waits(): await asyncio.sleep(60)

async def main():
    tasks = current().recorder.state.tasks
    def fails(*_): raise {error}("in a probe")
    tasks.name = fails
    for _ in range(3):
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel("with a message")  # else the native core asks for no name from the third on
        await asyncio.wait([task])
    del tasks.name
    last = asyncio.create_task(waits(), name="last")
    await asyncio.sleep(0)
    last.cancel()
    await asyncio.wait([last])
    print(last.cancelled())
    {more}

asyncio.run(main())
"""


def run_faulty(run_python: Runner, tmp_path: Path, error: str, more: str = "") -> tuple[str, str]:
    (tmp_path / "app.py").write_text(FAULTY.format(error=error, more=more))
    done = run_python("app.py", AIOAUDIT="jsonl")
    return done.stdout, done.stderr


def log_of(folder: Path) -> list[Event]:
    """The events of the one log there."""
    [path] = folder.glob("aioaudit-*.jsonl")
    return [msgspec.json.decode(line, type=AnyEvent) for line in path.read_bytes().splitlines()]


def test_a_fault_of_ours_is_counted_by_kind_said_once_and_told_in_the_log(
    run_python: Runner, tmp_path: Path
) -> None:
    out, said = run_faulty(run_python, tmp_path, "ZeroDivisionError")
    assert out == "True\n"
    lines = said.splitlines()
    assert lines
    assert all(
        re.fullmatch(
            r"aioaudit: internal error, please report it: ZeroDivisionError: in a probe at "
            r"aioaudit/[a-z/]+\.py:\d+; the program is not affected, the log may lack events",
            line,
        )
        for line in lines
    )
    assert len(set(lines)) == len(lines)
    events = log_of(tmp_path)
    end = events[-1]
    assert isinstance(end, ProcessEnd)
    assert len(end.faults) == len(lines)
    assert any(each.endswith("3 times") for each in end.faults)
    # Told live as well, for a process that does not end in order.
    told = [kind for event in events[:-1] for kind in getattr(event, "faults", [])]
    assert [each.partition(",")[0] for each in end.faults] == told


@pytest.mark.parametrize("error", ["RecursionError", "MemoryError"])
def test_a_program_at_its_limits_is_not_reported_as_a_fault_of_ours(
    run_python: Runner, tmp_path: Path, error: str
) -> None:
    out, said = run_faulty(run_python, tmp_path, error)
    assert out == "True\n"
    assert "please report" not in said
    assert re.match(rf"aioaudit: {error} at .*: the program is at its limits", said)


@pytest.mark.parametrize(
    "stderr",
    [
        "None",
        "object()",
        "type('Bad', (), {'write': lambda self, text: 1 / 0})()",
        "open(os.devnull)",
    ],
)
def test_a_fault_is_survived_whatever_stderr_is(
    run_python: Runner, tmp_path: Path, stderr: str
) -> None:
    program = FAULTY.format(error="ZeroDivisionError", more="").replace(
        "async def main():", f"import os\nsys.stderr = {stderr}\n\nasync def main():"
    )
    (tmp_path / "app.py").write_text(program)
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert done.stdout == "True\n"
    assert "aioaudit" not in done.stderr
    events = log_of(tmp_path)
    assert isinstance(events[-1], ProcessEnd)
    assert events[-1].faults


def test_a_fault_handler_imports_nothing(run_python: Runner, tmp_path: Path) -> None:
    program = FAULTY.format(error="ZeroDivisionError", more="").replace(
        "async def main():",
        "import builtins\n"
        "real = builtins.__import__\n"
        "def refuse(name, where=None, *more):\n"
        "    if str((where or {}).get('__name__')).startswith('aioaudit'):\n"
        "        raise SystemError(f'import of {name}')\n"
        "    return real(name, where, *more)\n"
        "builtins.__import__ = refuse\n\nasync def main():",
    )
    (tmp_path / "app.py").write_text(program)
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert "SystemError" not in done.stderr
    assert (done.stdout, done.returncode) == ("True\n", 0)


def test_why_and_check_say_that_a_log_with_faults_may_lack_events(
    run_python: Runner, tmp_path: Path
) -> None:
    run_faulty(run_python, tmp_path, "ZeroDivisionError")
    for command in ("why", "check"):
        for options in ((), ("--json",)):
            done = run_python("-m", "aioaudit", command, ".", *options)
            assert re.search(
                r"^aioaudit: run [0-9a-f]+ \(pid \d+\) may lack events: internal errors of aioaudit:"
                r" ZeroDivisionError at aioaudit/",
                done.stderr,
                re.MULTILINE,
            ), (command, options, done.stderr)
            assert "may lack events" not in done.stdout


def test_of_a_sound_log_nothing_is_said(run_python: Runner, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import asyncio\nasyncio.run(asyncio.sleep(0))\n")
    run_python("app.py", AIOAUDIT="jsonl")
    done = run_python("-m", "aioaudit", "check", ".")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


# -- Ctrl-C while something of the program's runs because we asked for it --------------------------

STRANGE_TEXT = """
import asyncio, os, signal, sys, time
{handler}
class Failed(Exception):
    def __str__(self):
        if not self.args:
            self.args = (1,)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(100): time.sleep(0.01)
        return "told"
class Message:
    def __repr__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100): time.sleep(0.01)
        return "told"
async def waits(): await asyncio.sleep(60)
async def fails(): raise Failed
async def main():
    {use}
loop = asyncio.new_event_loop()
try:
    loop.run_until_complete(main())
except BaseException as error:
    print(type(error).__name__)
else:
    print("went on")
loop.close()
"""

DEFAULT = "signal.signal(signal.SIGINT, signal.default_int_handler)"
EXITING = "signal.signal(signal.SIGINT, lambda *_: sys.exit(7))"


@pytest.mark.parametrize(
    ("handler", "raised"), [(DEFAULT, "KeyboardInterrupt"), (EXITING, "SystemExit")]
)
@pytest.mark.parametrize(
    "use",
    [
        "task = asyncio.create_task(waits()); await asyncio.sleep(0); task.cancel(Message())",
        "await asyncio.wait([asyncio.create_task(fails())])",
    ],
    ids=["the repr of a message", "the text of an error"],
)
def test_ctrl_c_inside_a_foreign_text_reaches_the_program(
    run_python: Runner, tmp_path: Path, handler: str, raised: str, use: str
) -> None:
    (tmp_path / "app.py").write_text(STRANGE_TEXT.format(handler=handler, use=use))
    done = run_python("app.py", AIOAUDIT="jsonl")
    assert done.stdout == f"{raised}\n"


@pytest.mark.parametrize(
    ("handler", "raised"), [(DEFAULT, "KeyboardInterrupt"), (EXITING, "SystemExit")]
)
@pytest.mark.parametrize("event", ["task.create", "task.done", "task.cancel", "loop.start"])
def test_ctrl_c_inside_a_hook_reaches_the_program(
    run_python: Runner, tmp_path: Path, handler: str, raised: str, event: str
) -> None:
    hook = f"""
import aioaudit
def hook(event, args):
    if event == {event!r}:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100): time.sleep(0.01)
aioaudit.addaudithook(hook)
aioaudit.enable("jsonl")
"""
    use = "task = asyncio.create_task(waits()); await asyncio.sleep(0); task.cancel(); await task"
    (tmp_path / "app.py").write_text(STRANGE_TEXT.format(handler=handler + hook, use=use))
    done = run_python("app.py")
    assert done.stdout == f"{raised}\n"


NOBODY = """\
import _thread, asyncio, atexit


async def main():
    loop = asyncio.get_running_loop()
    tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(2)]
    future = loop.create_future()
    heard = []
    await asyncio.sleep(0)
    _thread.start_new_thread(loop.call_soon_threadsafe, (tasks[0].cancel,))
    _thread.start_new_thread(loop.call_soon_threadsafe, (lambda: heard.append(1),))
    _thread.start_new_thread(future.add_done_callback, (heard.append,))
    while len(heard) < 1 or not tasks[0].done():
        await asyncio.sleep(0.01)
    _thread.start_new_thread(tasks[1].cancel, ())
    _thread.start_new_thread(future.cancel, ())
    while len(heard) < 2 or not tasks[1].done():
        await asyncio.sleep(0.01)
    print([task.cancelled() for task in tasks], heard == [1, future])
    return tasks


asyncio.run(main())
loop = asyncio.new_event_loop()
late = loop.create_task(asyncio.sleep(60))
loop.run_until_complete(asyncio.sleep(0))
atexit.register(lambda: (loop.run_until_complete(asyncio.wait([late])), print(late.cancelled())))
atexit.register(late.cancel)
"""


def test_where_no_python_code_calls_all_is_done_as_without_auditing(
    run_python: Runner, tmp_path: Path
) -> None:
    """As threads of C do it, of libraries in Rust or C++, and the interpreter at its end."""
    done = run_python("-c", NOBODY, AIOAUDIT="jsonl")
    assert (done.stdout.splitlines(), done.stderr) == (["[True, True] True", "True"], "")
    log = load(str(tmp_path))
    assert {case.root().what for case in log.cases()} == {"called"}
    assert not any(run.faults for run in log.runs.values())
