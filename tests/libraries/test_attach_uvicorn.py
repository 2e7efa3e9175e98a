"""``aioaudit attach`` to a uvicorn under load, and off again: the process is as it was."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from aioaudit.attach.client import ask
from aioaudit.attach.target import Target
from aioaudit.log import load
from tests.conftest import clean_environ
from tests.recognising import links
from tests.servers import free_port
from tests.waiting import PATIENCE, wait_until

if sys.version_info < (3, 14):
    pytest.skip("sys.remote_exec came with Python 3.14", allow_module_level=True)

APP = """
    import asyncio, json, os, signal, sys
    from concurrent.futures import ThreadPoolExecutor

    one = ThreadPoolExecutor(1)  # else it has a second thread where the first is not idle yet

    def snapshot():
        classes = (asyncio.Task, asyncio.Future, asyncio.Timeout, asyncio.TaskGroup,
                   asyncio.Event, asyncio.BaseEventLoop, type(asyncio.get_running_loop()))
        return {
            "classes": [sorted((name, id(value)) for name, value in vars(cls).items())
                        for cls in classes],
            "tools": [sys.monitoring.get_tool(each) for each in range(6)],
            "finders": [str(each) for each in sys.meta_path],
            "handlers": [str(signal.getsignal(each)) for each in signal.valid_signals()],
            "threads": len(os.listdir("/proc/self/task")),
        }

    async def in_thread(function, *args):
        return await asyncio.get_running_loop().run_in_executor(one, function, *args)

    async def upstream():
        await asyncio.sleep(3600)

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        body = b"ok"
        if scope["path"] == "/slow":
            try:
                async with asyncio.timeout(0.01):
                    await upstream()
            except TimeoutError:
                body = b"late"
        elif scope["path"] == "/snapshot":
            await in_thread(int)  # which has it begin
            body = json.dumps(snapshot()).encode()
        elif scope["path"] == "/dump":
            import aioaudit
            body = (await in_thread(aioaudit.dump, "dump.jsonl")).encode()
        else:
            await asyncio.create_task(asyncio.sleep(0), name="work")
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})
"""


async def get(streams: Any, path: str) -> bytes:
    reader, writer = streams
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    [length] = [
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    ]
    body: bytes = await reader.readexactly(length)
    return body


async def load_it(port: int, attach: Any) -> dict[str, Any]:
    """What clients see that never pause, while *attach* is called with each word in a thread."""
    over = False
    answered = 0

    async def client(number: int) -> None:
        nonlocal answered
        streams = await asyncio.open_connection("127.0.0.1", port)
        while not over:
            path = "/slow" if number == 0 else "/work"
            assert await get(streams, path) == (b"late" if number == 0 else b"ok")
            answered += 1
        streams[1].close()

    async def some() -> None:
        goal = answered + 200
        while answered < goal:  # noqa: ASYNC110 - eight clients count, and one looks
            await asyncio.sleep(0.005)

    async def ask_it(path: str) -> bytes:
        streams = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await get(streams, path)
        finally:
            streams[1].close()

    clients = [asyncio.create_task(client(number)) for number in range(8)]
    try:
        await some()
        await ask_it("/snapshot")
        before = json.loads(await ask_it("/snapshot"))
        told = await asyncio.to_thread(attach, "attach")
        await some()
        dump = (await ask_it("/dump")).decode()
        off = await asyncio.to_thread(attach, "detach")
        await some()
        until = time.monotonic() + PATIENCE
        while (after := json.loads(await ask_it("/snapshot"))) != before:
            if time.monotonic() > until:  # the system shows a thread that has ended for a moment
                break
            await asyncio.sleep(0.01)
    finally:
        over = True
        await asyncio.gather(*clients)
    return {"before": before, "after": after, "on": told, "off": off, "dump": dump}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_under_load_answers_all_the_while_and_is_as_before(
    audited_python: str, tmp_path: Path, loop: str
) -> None:
    (tmp_path / "shop.py").write_text(dedent(APP))
    port = free_port()
    command = [audited_python, "-m", "uvicorn", "shop:app", "--port", str(port), "--loop", loop]
    with subprocess.Popen(
        [*command, "--log-level", "warning"],
        cwd=tmp_path,
        env=clean_environ(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers(port), "uvicorn")
            target = Target(process.pid)

            def attach(word: str) -> Any:
                begin = time.monotonic()
                done, _ = ask(target, {"do": word}, PATIENCE, lambda: None)
                return done.how, time.monotonic() - begin

            found = asyncio.run(load_it(port, attach))
        finally:
            process.terminate()
            _, err = process.communicate(timeout=PATIENCE)
    assert err == ""
    assert (found["on"][0], found["off"][0]) == ("on", "off")
    assert found["after"] == found["before"]
    answer = load([found["dump"]]).answers()[-1]
    assert links(answer)[-1]["what"] == "deadline"


def answers(port: int) -> bool:
    async def connect() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    try:
        asyncio.run(connect())
    except OSError:
        return False
    return True
