"""What the quick starts for Docker and Kubernetes say of a program that is process 1."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aioaudit import settings
from tests.conftest import ROOT, clean_environ
from tests.process.test_lifecycle import UNSHARE, may_unshare
from tests.waiting import wait_until

PAGES = ROOT / "docs" / "quick-starts"

needs_namespace = pytest.mark.skipif(
    not may_unshare(), reason="needs a process namespace of its own"
)

UNHANDLED = """
import asyncio, os


async def main():
    asyncio.create_task(asyncio.sleep(60), name="worker").cancel()
    await asyncio.sleep(60)


asyncio.run(main())
"""
INIT = 'trap "kill -TERM \\$child" TERM; "$@" & child=$!; wait $child; wait $child'
"""A process 1 that passes SIGTERM on, as `docker run --init` brings."""


def block(page: str, language: str) -> str:
    """The one block of *page* in that language."""
    text = (PAGES / f"{page}.md").read_text()
    [found] = re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return str(found)


def events(folder: Path) -> list[dict[str, Any]]:
    """What the one log in *folder* holds by now."""
    logs = list(folder.glob("*.jsonl"))
    if not logs:
        return []
    lines = logs[0].read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Contained:
    """A program in a process namespace of its own."""

    def __init__(self, python: str, folder: Path, program: str, *before: str) -> None:
        (folder / "app.py").write_text(program)
        self.folder = folder
        self.process = subprocess.Popen(
            [*UNSHARE, *before, python, "app.py"],
            cwd=folder,
            env=clean_environ(AIOAUDIT="jsonl"),
        )
        wait_until(lambda: any(each["event"] == "loop.start" for each in events(folder)))

    @property
    def inner(self) -> int:
        """Its process 1, as it is numbered outside."""
        pid = self.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(found[0])

    def terminate(self) -> None:
        """What ``docker stop`` does first."""
        subprocess.run(["kill", "-TERM", str(self.inner)], check=True)

    def kill(self) -> None:
        """What ``docker stop`` does at last."""
        self.process.kill()
        self.process.wait(60)


@needs_namespace
def test_process_1_without_a_handler_goes_on_and_what_it_recorded_is_there(
    audited_python: str, tmp_path: Path
) -> None:
    contained = Contained(audited_python, tmp_path, UNHANDLED)
    wait_until(lambda: any(each["event"] == "task.done" for each in events(tmp_path)))
    contained.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        contained.process.wait(0.5)
    contained.kill()
    names = [each["event"] for each in events(tmp_path)]
    assert "task.cancel" in names
    assert "process.end" not in names


@needs_namespace
def test_behind_a_small_process_1_sigterm_ends_the_program_and_the_log_is_whole(
    audited_python: str, tmp_path: Path
) -> None:
    contained = Contained(audited_python, tmp_path, UNHANDLED, "sh", "-c", INIT, "init")
    contained.terminate()
    assert contained.process.wait(60) != 0
    last = events(tmp_path)[-1]
    assert (last["event"], last["signal"]) == ("process.end", "SIGTERM")


@needs_namespace
def test_a_program_with_a_handler_may_be_process_1(audited_python: str, tmp_path: Path) -> None:
    text = "\n".join(line[2:] for line in block("docker", "python").splitlines())
    contained = Contained(audited_python, tmp_path, text)
    wait_until(lambda: any(each.get("name") == "worker" for each in events(tmp_path)))
    contained.terminate()
    assert contained.process.wait(60) == 0
    found = events(tmp_path)
    [cancel] = [each for each in found if each["event"] == "task.cancel"]
    assert (cancel["name"], cancel["origin_signal"]) == ("worker", "SIGTERM")
    assert found[-1]["event"] == "process.end"


def test_the_dockerfile_sets_what_there_is() -> None:
    lines = block("docker", "dockerfile").splitlines()
    [environ] = [line.removeprefix("ENV ") for line in lines if line.startswith("ENV ")]
    found = dict(pair.partition("=")[::2] for pair in shlex.split(environ))
    wanted = settings.from_environ(found)
    assert wanted is not None
    assert (wanted.exporters, wanted.jsonl_path) == (("jsonl",), "/logs/aioaudit-{pid}.jsonl")
    [command] = [line.removeprefix("CMD ") for line in lines if line.startswith("CMD ")]
    assert json.loads(command) == ["python", "app.py"]  # a shell would be process 1 otherwise


def test_the_manifest_sets_what_there_is() -> None:
    text = block("kubernetes", "yaml")
    pairs = re.findall(r'\{name: (AIOAUDIT\w*), value: (".*"|\w+)\}', text)
    found = {name: value.strip('"').replace("$(POD)", "shop-1") for name, value in pairs}
    wanted = settings.from_environ(found)
    assert wanted is not None
    assert wanted.jsonl_path == "/logs/shop-1-{pid}.jsonl"
    assert "finding" in wanted.events
    assert "mountPath: /logs" in text
