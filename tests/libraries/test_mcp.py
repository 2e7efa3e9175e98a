"""mcp cancels: a server that is talked to in plain messages, and a client whose tool takes too long."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from tests.conftest import clean_environ
from tests.recognising import about, links
from tests.waiting import PATIENCE, wait_until

pytest.importorskip("mcp")
VERSION = tuple(map(int, metadata.version("mcp").split(".")[:2]))

SERVER = """\
import asyncio

try:
    from mcp.server.mcpserver import MCPServer
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer

server = MCPServer("server")


@server.tool()
async def hang(name: str) -> str:
    asyncio.current_task().set_name(name)
    with open(name, "w"):
        pass
    await asyncio.sleep(60)


server.run()
"""

CLIENT = """\
import asyncio
import datetime
import importlib.metadata
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

SECONDS = 0.5
OLD = importlib.metadata.version("mcp") < "2"


async def client(streams):
    limit = datetime.timedelta(seconds=SECONDS) if OLD else SECONDS
    async with ClientSession(*streams) as session:  # LINE leaves
        await session.initialize()
        try:
            await session.call_tool("hang", {"name": "slow"}, limit)  # LINE asks
        except Exception:
            pass


async def main():
    parameters = StdioServerParameters(command=sys.executable, args=["server.py"])
    async with stdio_client(parameters) as streams:
        # A task of its own, for the end of the server has limits that run out on a busy machine.
        await asyncio.create_task(client(streams), name="client")


asyncio.run(main())
"""


def message(method: str, number: int | None = None, **params: Any) -> str:
    told = {"jsonrpc": "2.0", "method": method, "params": params}
    return json.dumps(told if number is None else told | {"id": number}) + "\n"


@pytest.fixture(scope="module")
def folder(audited_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a server and a client have run, side by side, and written their logs."""
    folder = tmp_path_factory.mktemp("mcp")
    (folder / "server.py").write_text(SERVER)
    (folder / "client.py").write_text(CLIENT)
    environ = clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="client.jsonl")
    client = subprocess.Popen(
        [audited_python, "client.py"], cwd=folder, env=environ, stderr=subprocess.DEVNULL
    )
    environ["AIOAUDIT_JSONL_PATH"] = "server.jsonl"
    server = subprocess.Popen(
        [audited_python, "server.py"],
        cwd=folder,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with client, server:
        try:
            talk(server, folder)
            assert client.wait(PATIENCE) == 0
        finally:
            client.kill()
            server.kill()
    return folder


def talk(server: subprocess.Popen[str], folder: Path) -> None:
    """Call two tools, cancel one of them, and close the stream while the other runs."""
    assert server.stdin is not None
    about = {"name": "test", "version": "1"}
    for line in (
        message("initialize", 1, protocolVersion="2024-11-05", capabilities={}, clientInfo=about),
        message("notifications/initialized"),
        message("tools/call", 2, name="hang", arguments={"name": "unwanted"}),
        message("tools/call", 3, name="hang", arguments={"name": "left"}),
    ):
        server.stdin.write(line)
    server.stdin.flush()
    wait_until((folder / "unwanted").exists)
    wait_until((folder / "left").exists)
    server.stdin.write(message("notifications/cancelled", requestId=2, reason="not wanted"))
    server.stdin.flush()
    log = folder / "server.jsonl"
    wait_until(lambda: requests(log, "unwanted"))
    server.stdin.close()
    wait_until(lambda: requests(log, "left"))


def requests(log: Path, name: str) -> list[dict[str, Any]]:
    """The requests to cancel the task called *name* that are written by now."""
    lines = log.read_text().rpartition("\n")[0].splitlines()  # the last may be half there
    events = [json.loads(line) for line in lines if '"event":"task.cancel"' in line]
    return [event for event in events if event["name"] == name]


def test_a_request_that_the_peer_cancels_says_so_in_the_peers_words(folder: Path) -> None:
    [request] = requests(folder / "server.jsonl", "unwanted")
    assert request["reason"] == "mcp.cancelled"
    assert request["detail"] == "the peer sent notifications/cancelled: not wanted"
    assert "at" not in request
    assert request["suspended_at"] == f"{folder / 'server.py'}:16"


@pytest.mark.skipif(VERSION < (1, 27), reason="what still runs is not cancelled by this mcp")
def test_what_still_runs_when_the_stream_ends_is_cancelled_by_that(folder: Path) -> None:
    [answer] = aioaudit.load(str(folder / "server.jsonl")).why("left")
    root = links(answer)[-1]
    assert (root["what"], root["reason"]) == ("called", "mcp.closed")
    assert root["detail"] == "the stream of messages has ended"


def test_the_end_of_a_session_is_told_at_the_line_that_left_it(folder: Path) -> None:
    log = aioaudit.load(str(folder / "client.jsonl"))
    [answer] = log.why("client")
    [_, root] = links(answer, folder / "client.py")
    assert (root["what"], root["reason"], root["at"]) == ("called", "mcp.closed", "leaves")


def test_the_limit_of_a_request_is_a_deadline_of_the_line_that_asks(folder: Path) -> None:
    [request] = [
        each
        for each in requests(folder / "client.jsonl", "client")
        if each.get("origin") == "deadline"
    ]
    assert request["origin_seconds"] == about(0.5)
    [line] = [
        number for number, text in enumerate(CLIENT.splitlines(), 1) if text.endswith("# LINE asks")
    ]
    assert request["at"] == f"{folder / 'client.py'}:{line}"
