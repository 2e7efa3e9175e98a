"""Supervisors that end their workers: real ones, whose own log says what they did."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

import aioaudit
from aioaudit.log.senders import sender_of
from tests.conftest import clean_environ
from tests.servers import free_port
from tests.waiting import PATIENCE

pytest.importorskip("uvicorn")

APP = """\
import asyncio


async def app(scope, receive, send):
    if scope["type"] == "http":
        asyncio.current_task().set_name("hanging")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"so far", "more_body": True})
        await asyncio.sleep(600)
"""


def hang(port: int) -> socket.socket:
    """A client that has the beginning of an answer."""
    until = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            client = socket.create_connection(("127.0.0.1", port), 5)
            client.settimeout(PATIENCE)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            read = b""
            while b"so far" not in read:
                more = client.recv(1000)
                assert more, read
                read += more
            return client
        assert time.monotonic() < until, "the server does not begin"
        time.sleep(0.05)


def test_what_uvicorn_did_to_its_worker_is_told_from_its_own_log(
    audited_python: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    server = subprocess.Popen(
        [
            *(audited_python, "-m", "uvicorn", "app:app", "--workers", "2"),
            *("--port", str(port), "--timeout-graceful-shutdown", "1"),
        ],
        cwd=tmp_path,
        env=clean_environ(AIOAUDIT="jsonl"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        with hang(port):
            server.send_signal(signal.SIGTERM)
            said, _ = server.communicate(timeout=PATIENCE)
    finally:
        server.kill()
        server.wait()
    assert b"aioaudit" not in said
    log = aioaudit.load(str(tmp_path))
    [case] = [each for each in log.cases("hanging") if each.root().reason == "uvicorn.shutdown"]
    who = sender_of(log, case)
    assert who is not None
    assert (who.run.pid, who.event.to) == (server.pid, case.run.pid)
    assert (who.relation, who.event.signal, who.because) == ("parent", "SIGTERM", "uvicorn ended")
