"""Workers of real servers are audited through the environment alone."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import clean_environ
from tests.servers import free_port
from tests.waiting import PATIENCE

ASGI = """
import os

async def app(scope, receive, send):
    if scope["type"] == "http":
        body = str(os.getpid()).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""

AIOHTTP = """
import os
from aiohttp import web

async def answer(request):
    return web.Response(text=str(os.getpid()))

app = web.Application()
app.add_routes([web.get("/", answer)])
"""

GUNICORN = ["gunicorn", "app:app", "--workers", "2", "--bind", "127.0.0.1:{port}", "-k"]

SERVERS = {
    "uvicorn": (ASGI, ["uvicorn", "app:app", "--workers", "2", "--port", "{port}"]),
    "gunicorn": (AIOHTTP, [*GUNICORN, "aiohttp.GunicornWebWorker"]),
    "gunicorn --preload, uvloop": (
        AIOHTTP,
        [*GUNICORN, "aiohttp.GunicornUVLoopWebWorker", "--preload"],
    ),
}


def ask(port: int) -> int | None:
    """The process that answers, None while nobody does."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Connection": "close"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.read())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def workers(port: int, process: subprocess.Popen[bytes]) -> set[int]:
    """The processes that answer on *port*, once there are two of them."""
    pids: set[int] = set()
    until = time.monotonic() + PATIENCE
    while len(pids) < 2 and time.monotonic() < until and process.poll() is None:
        pid = ask(port)
        if pid is None:
            time.sleep(0.05)
        else:
            pids.add(pid)
    return pids


@pytest.mark.parametrize("server", SERVERS)
def test_each_worker_writes_a_whole_log_of_its_own(
    audited_python: str, tmp_path: Path, server: str
) -> None:
    program, command = SERVERS[server]
    (tmp_path / "app.py").write_text(program)
    port = free_port()
    process = subprocess.Popen(
        [audited_python, "-m", *(word.format(port=port) for word in command)],
        cwd=tmp_path,
        env=clean_environ(AIOAUDIT="jsonl"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        pids = workers(port, process)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE)
    assert len(pids) == 2, said.decode()
    assert b"aioaudit" not in said
    starts = []
    for pid in pids:
        lines = (tmp_path / f"aioaudit-{pid}.jsonl").read_text().splitlines()
        log = [json.loads(line) for line in lines]
        assert {line["pid"] for line in log} == {pid}
        assert len({line["run"] for line in log}) == 1
        assert [line["event"] for line in log].count("process.start") == 1
        assert (log[0]["event"], log[-1]["event"]) == ("process.start", "process.end")
        assert log[-1]["dropped"] == 0
        assert "task.create" in {line["event"] for line in log}
        starts.append(log[0])
    # Who started them runs no loop, and is known.
    assert {start["ancestors"][0] for start in starts} == {
        each for start in starts for each in start["ancestors"] if f"-{process.pid}-" in each
    }
    forked = server.startswith("gunicorn")
    assert len({start.get("parent_run") for start in starts} - {None}) == forked
