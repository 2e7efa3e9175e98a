"""asyncio's own console, `python -m asyncio`."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

import aioaudit
from tests.conftest import clean_environ
from tests.recognising import links
from tests.waiting import PATIENCE

TYPED = """\
import asyncio
def say(): asyncio.get_running_loop().call_later(0.1, lambda: print("ready", flush=True))

def tick(): asyncio.get_running_loop().call_later(0.05, tick)

tick(); say(); await asyncio.sleep(60)
"""
"""It ticks, for Python runs no handler while its loop sleeps: not even that of a signal which came
between the last look at signals and the begin of that sleep."""


def test_ctrl_c_in_the_console_of_asyncio_is_a_signal(audited_python: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with subprocess.Popen(
        [audited_python, "-m", "asyncio"],
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as console:
        assert console.stdin is not None
        assert console.stdout is not None
        watchdog = threading.Timer(60, console.kill)
        watchdog.start()
        console.stdin.write(TYPED)
        console.stdin.flush()
        while "ready" not in (line := console.stdout.readline()):
            assert line, "the console has ended"
        console.send_signal(signal.SIGINT)
        console.communicate(timeout=PATIENCE)
        watchdog.cancel()
    [answer] = aioaudit.load(log).why()
    assert [link["what"] for link in links(answer)] == ["cancelled", "signal"]
    assert (answer.root.signal, answer.outcome) == ("SIGINT", "cancelled")
