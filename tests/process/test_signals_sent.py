"""A process that sends a signal tells it: to whom, from which line, through which functions."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Runner

SENDING = """\
import asyncio, os, signal, subprocess, sys
import aioaudit

before = os.kill, os.killpg


async def main():
    child = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        async with asyncio.timeout(0.01):
            await child.wait()
    except TimeoutError:
        child.terminate()  # in a handler
    await child.wait()
    for number in (0, signal.SIGTERM):
        try:
            os.kill(child.pid, number)
        except ProcessLookupError:
            pass
    group = subprocess.Popen(["sleep", "60"], start_new_session=True)
    os.kill(group.pid, 0)
    os.killpg(group.pid, signal.SIGKILL)
    group.wait()
    try:
        subprocess.run(["sleep", "60"], timeout=0.01)
    except subprocess.TimeoutExpired:
        pass
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGUSR2))
    signal.signal(signal.SIGUSR2, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    print(child.pid, group.pid, os.getpid())
    complaints.append(complain())


def complain():
    said = []
    for bad in ((), (1,), ("x", 15), (1, 2, 3)):
        try:
            os.kill(*bad)
        except TypeError as error:
            said.append(str(error))
    return said


complaints = []
with aioaudit.enable("jsonl", jsonl_path="sent.jsonl"):
    asyncio.run(main())
assert (os.kill, os.killpg) == before
assert complaints == [complain()], complaints
"""


@pytest.fixture
def told(run_python: Runner, tmp_path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The signals that the program above told of, and what it printed."""
    result = run_python("-c", SENDING)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    lines = [json.loads(line) for line in (tmp_path / "sent.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in lines] == sorted({line["seq"] for line in lines})
    assert lines[-1]["dropped"] == 0
    return [line for line in lines if line["event"] == "signal.sent"], result.stdout.splitlines()


def test_each_signal_that_was_sent_is_told_once_with_who_sent_it(
    told: tuple[list[dict[str, Any]], list[str]],
) -> None:
    sent, [numbers] = told
    child, group, own = map(int, numbers.split())
    assert [(each["to"], each["signal"]) for each in sent if each["to"] != sent[2]["to"]] == [
        (child, "SIGTERM"),
        (-group, "SIGKILL"),
        *((own, name) for name in [each["signal"] for each in sent[3:]]),
    ]
    assert {each["signal"] for each in sent[3:]} == {"SIGUSR1", "SIGUSR2"}
    assert {each["source"] for each in sent[:3]} == {"__main__:main"}
    assert [each["at"] for each in sent[:3]] == ["<string>:13", "<string>:22", "<string>:25"]
    first, _, third = sent[:3]
    assert first["by_name"] == "Task-1"
    assert "asyncio.base_subprocess:BaseSubprocessTransport.terminate" in first["callers"]
    assert first["callers"][-1] == "__main__:main"
    assert first["detail"] == "while handling TimeoutError"
    assert "subprocess:run" in third["callers"]
    [handled] = [each for each in sent if each["signal"] == "SIGUSR2"]
    assert handled["detail"] == "in the handler of SIGUSR1"
    assert handled["callers"] == ["__main__:main.<locals>.<lambda>", "__main__:main"]


RAISING = """\
import _thread, asyncio, atexit, copy, inspect, os, pickle, signal, subprocess, sys
import aioaudit

shown = inspect.signature(os.kill), os.kill.__qualname__, os.kill.__self__.__name__

def refuse(event, _):
    if event == "os.kill" and refusing:
        raise PermissionError("by the hook")


def give_up(*_):
    raise TimeoutError("too long")


def tried(number):
    try:
        os.kill(os.getpid(), number)
    except BaseException as error:
        return type(error).__name__


refusing = False
sys.addaudithook(refuse)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGUSR1, give_up)
aioaudit.enable("jsonl", jsonl_path="raising.jsonl")
atexit.register(os.kill, os.getpid(), signal.SIGCHLD)
asyncio.run(asyncio.sleep(0))
print(tried(signal.SIGINT), tried(signal.SIGUSR1))
refusing = True
print(tried(signal.SIGUSR2), tried(0))
refusing = False
assert pickle.loads(pickle.dumps(os.kill)) is os.kill
assert pickle.loads(pickle.dumps(os.killpg)) is os.killpg
assert copy.copy(os.kill) is os.kill
copy.deepcopy(os.kill)(os.getpid(), 0)
assert (inspect.signature(os.kill), os.kill.__qualname__, os.kill.__self__.__name__) == shown


class Sender:
    kill = os.kill


Sender().kill(os.getpid(), 0)
child = subprocess.Popen(["sleep", "60"])
_thread.start_new_thread(os.kill, (child.pid, signal.SIGTERM))
print(child.wait())
"""


def test_a_signal_that_was_sent_is_told_whoever_calls_and_whatever_its_handler_raises(
    run_python: Runner, tmp_path: Path
) -> None:
    result = run_python("-c", RAISING)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == [
        *("KeyboardInterrupt", "TimeoutError"),
        *("PermissionError", "PermissionError"),
        "-15",
    ]
    lines = [json.loads(line) for line in (tmp_path / "raising.jsonl").read_text().splitlines()]
    sent = [line["signal"] for line in lines if line["event"] == "signal.sent"]
    assert sent == ["SIGINT", "SIGUSR1", "SIGTERM", "SIGCHLD"]
    assert (lines[-1]["dropped"], lines[-1].get("faults")) == (0, None)


ITSELF = """\
import asyncio, os, signal, sys


def handler(*_):
    raise LookupError


async def main():
    signal.signal(signal.SIGUSR1, handler)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    except LookupError:
        pass
    try:
        os.kill(os.getpid(), 4711)
    except OSError:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)


asyncio.run(main())
"""


def test_what_a_process_sends_itself_is_told_before_it_ends_of_it(
    run_python: Runner, tmp_path: Path
) -> None:
    log = tmp_path / "sent.jsonl"
    result = run_python("-c", ITSELF, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log))
    assert (result.returncode, result.stderr) == (-signal.SIGTERM, "")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    sent = [line for line in lines if line["event"] == "signal.sent"]
    assert [each["signal"] for each in sent] == ["SIGUSR1", "SIGTERM"]
    assert (lines[-1]["signal"], lines[-1]["dropped"]) == ("SIGTERM", 0)
