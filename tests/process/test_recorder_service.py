"""A service under load with the recorder on: dumped again and again, forked, killed.

``benchmarks/recorder_service.py`` is the same for longer, with what its loop feels of it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Runner

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and forks")

SERVICE = """
    import asyncio, json, os, signal, sys, threading, time, warnings
    from pathlib import Path
    import aioaudit
    from aioaudit.exporters.recorder import RecorderExporter
    from aioaudit.session import current

    SIZE = 1_000_000
    exporter = RecorderExporter(SIZE)
    sizes = []

    async def plain(): await asyncio.sleep(0)
    async def fails(): raise ValueError("x")
    async def late():
        try:
            async with asyncio.timeout(0): await asyncio.sleep(60)
        except TimeoutError: pass

    async def serve(until):
        while not until():
            waiting = [asyncio.create_task(asyncio.sleep(60)) for _ in range(2)]
            tasks = [asyncio.create_task(plain()) for _ in range(90)]
            tasks += [asyncio.create_task(fails()), asyncio.create_task(late())]
            await asyncio.sleep(0)
            for each in waiting: each.cancel()
            await asyncio.gather(*tasks, *waiting, return_exceptions=True)

    def dumps(name, count):
        # In a thread beside the loop that is busy.
        def ask():
            for number in range(count):
                aioaudit.dump(f"{name}-{number}.jsonl", timeout=60)
                sizes.append(exporter._ring.size)
        thread = threading.Thread(target=ask)
        thread.start()
        # However fast these come: until there was no room for much of what happened.
        asyncio.run(serve(lambda: not thread.is_alive() and exporter._ring.lost > 1000))
        thread.join()

    def account(name):
        # Nothing happens any more: what was exported is in the dump, or is counted.
        aioaudit.dump(f"{name}.jsonl", timeout=60)
        print(json.dumps({name: current().sinks[0][0].written}), flush=True)

    with aioaudit.enable(exporter):
        dumps("parent", 15)
        child = os.fork()
        if not child:
            dumps("child", 5)
            account("child")
            dumps("killed", 1_000_000)
        while not Path("killed-3.jsonl").exists(): time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        dumps("later", 5)
        account("parent")
        assert max(sizes) <= SIZE, max(sizes)
        assert exporter._ring.lost > 1000
"""


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("core", ["native", "python"])
def test_under_load_nothing_is_lost_uncounted_and_every_file_is_whole(
    run_python: Runner, tmp_path: Path, core: str
) -> None:
    (tmp_path / "app.py").write_text(dedent(SERVICE))
    done = run_python("app.py", AIOAUDIT_CORE=core)
    assert (done.returncode, done.stderr) == (0, "")
    written: dict[str, int] = {}
    for line in done.stdout.splitlines():
        written |= json.loads(line)
    dumps = {path.stem: events_of(path) for path in tmp_path.glob("*.jsonl")}
    assert len(dumps) >= 15 + 5 + 4 + 5 + 2
    for name, events in dumps.items():
        numbers = [event["seq"] for event in events if event["event"] != "process.dropped"]
        assert numbers == sorted(set(numbers)), name
        dropped = [event for event in events if event["event"] == "process.dropped"]
        lost = sum(event["count"] for event in dropped)
        # Each number up to the last one is here, or it is counted.
        assert len(numbers) + lost >= numbers[-1], name
        if name in written:
            assert len(numbers) + lost == written[name], name
        assert [event["dropped"] for event in events if "dropped" in event] == []
    assert written.keys() == {"parent", "child"}
    assert {events[0]["event"] for events in dumps.values()} == {"process.start"}
    runs = {name.partition("-")[0]: events[0]["run"] for name, events in dumps.items()}
    assert runs["parent"] == runs["later"] != runs["child"] == runs["killed"]
