"""daphne cancels: applications that outlive their connection, in a server of its own process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from pathlib import Path

import pytest

import aioaudit
from aioaudit.log import Log
from tests.conftest import clean_environ
from tests.recognising import ask, links
from tests.servers import free_port
from tests.waiting import PATIENCE, wait_until

pytest.importorskip("daphne.server", reason="daphne is not installed")

APP = """\
import asyncio


async def app(scope, receive, send):
    name = scope["path"].strip("/")
    asyncio.current_task().set_name(name)
    headers = [(b"content-length", b"3" if name == "finished" else b"99")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    more = name != "finished"
    await send({"type": "http.response.body", "body": b"end", "more_body": more})
    await asyncio.sleep(60)
"""


async def talk(port: int, log: Path) -> None:
    """Two clients leave, before and after the whole response was sent, and one stays."""
    until = time.monotonic() + PATIENCE
    for path in ("/left", "/finished", "/stays"):
        while True:
            try:
                reader, writer = await ask(port, path)
                break
            except OSError:
                assert time.monotonic() < until, "the server does not begin"
                await asyncio.sleep(0.05)
        await reader.readuntil(b"end")
        if path != "/stays":
            writer.close()
    await asyncio.to_thread(wait_until, lambda: log.read_text().count('"task.cancel"') >= 2)
    writer.close()


@pytest.fixture(scope="module")
def log(audited_python: str, tmp_path_factory: pytest.TempPathFactory) -> Log:
    """What a server wrote of a few clients, and of its end."""
    folder = tmp_path_factory.mktemp("daphne")
    (folder / "app.py").write_text(APP)
    port = free_port()
    log = folder / "log.jsonl"
    words = ["-m", "daphne", "--port", str(port), "--application-close-timeout", "1", "app:app"]
    server = subprocess.Popen(
        [audited_python, *words],
        cwd=folder,
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with server:
        try:
            asyncio.run(talk(port, log))
            server.send_signal(signal.SIGINT)
            _, said = server.communicate(timeout=PATIENCE)
        finally:
            server.kill()
    assert b"aioaudit" not in said
    return aioaudit.load(str(log))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("left", "disconnect"), ("finished", "daphne.disconnected"), ("stays", "daphne.shutdown")],
)
def test_an_application_that_daphne_cancels_says_why(log: Log, name: str, reason: str) -> None:
    [answer] = log.why(name)
    root = links(answer)[-1]
    assert (root["what"], root["reason"], root["at"]) == ("called", reason, "daphne/server.py")
