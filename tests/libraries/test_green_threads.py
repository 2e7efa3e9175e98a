"""Programs of gevent and eventlet, which put green threads and locks in the place of the system's.

They run plainly and audited, and must end alike.  The libraries are real; each program patches
before or after it imports asyncio, and runs a loop in the main thread, in a green one, or not.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

Runner = Callable[..., "subprocess.CompletedProcess[str]"]

GEVENT = "from gevent import monkey; monkey.patch_all()"
EVENTLET = "import eventlet; eventlet.monkey_patch()"
ON_ASYNCIO = 'import eventlet.hubs; eventlet.hubs.use_hub("eventlet.hubs.asyncio")'

CANCELS = """
async def victim():
    await asyncio.sleep(60)

async def main():
    for _ in range(5):
        task = asyncio.create_task(victim())
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return "done"
"""

BEFORE = "PATCH\nimport asyncio\n" + CANCELS + "print(asyncio.run(main()))"
AFTER = "import asyncio\nPATCH\n" + CANCELS + "print(asyncio.run(main()))"
BETWEEN = "import asyncio\n" + CANCELS + "asyncio.run(main())\nPATCH\nprint(asyncio.run(main()))"
ONLY = "import asyncio\nPATCH\nimport time; time.sleep(0.01); print('done')"

IN_GEVENT = """
import gevent
job = gevent.spawn(lambda: asyncio.run(main()))
job.join()
print(job.value)
"""
IN_EVENTLET = "print(eventlet.spawn(lambda: asyncio.run(main())).wait())"
ON_HUB = (
    "from eventlet.asyncio import spawn_for_awaitable\nprint(spawn_for_awaitable(main()).wait())"
)

PROGRAMS = {
    ("gevent", "patched before"): BEFORE.replace("PATCH", GEVENT),
    ("gevent", "patched after"): AFTER.replace("PATCH", GEVENT),
    ("gevent", "patched between"): BETWEEN.replace("PATCH", GEVENT),
    ("gevent", "a loop in a green thread"): f"{GEVENT}\nimport asyncio\n{CANCELS}{IN_GEVENT}",
    (
        "gevent",
        "in a green thread, patched after",
    ): f"import asyncio\n{GEVENT}\n{CANCELS}{IN_GEVENT}",
    ("gevent", "asyncio only imported"): ONLY.replace("PATCH", GEVENT),
    ("eventlet", "patched before"): BEFORE.replace("PATCH", EVENTLET),
    ("eventlet", "patched after"): AFTER.replace("PATCH", EVENTLET),
    ("eventlet", "patched between"): BETWEEN.replace("PATCH", EVENTLET),
    ("eventlet", "a loop in a green thread"): f"{EVENTLET}\nimport asyncio\n{CANCELS}{IN_EVENTLET}",
    (
        "eventlet",
        "in a green thread, patched after",
    ): f"import asyncio\n{EVENTLET}\n{CANCELS}{IN_EVENTLET}",
    ("eventlet", "asyncio's hub"): f"{ON_ASYNCIO}\n{EVENTLET}\nimport asyncio\n{CANCELS}{ON_HUB}",
    ("eventlet", "asyncio's hub, patched after"): (
        f"import asyncio\n{ON_ASYNCIO}\n{EVENTLET}\n{CANCELS}{ON_HUB}"
    ),
    ("eventlet", "asyncio only imported"): ONLY.replace("PATCH", EVENTLET),
}


@pytest.mark.parametrize(("library", "how"), PROGRAMS)
def test_a_program_with_green_threads_ends_as_ever_and_its_log_is_whole(
    run_python: Runner, tmp_path: Path, library: str, how: str
) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    program = PROGRAMS[library, how]
    # With dnspython it would import trio half patched, where mcp's HTTP client is installed, and fail.
    own = {"EVENTLET_NO_GREENDNS": "yes"}
    plain = run_python("-W", "ignore", "-c", program, **own)
    assert (plain.returncode, plain.stdout) == (0, "done\n")
    path = tmp_path / "log.jsonl"
    audited = run_python(
        "-W", "ignore", "-c", program, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(path), **own
    )
    # On 3.14 eventlet 0.41.3 itself says that it left a lock of the interpreter's as it was.
    assert (audited.returncode, audited.stdout) == (0, "done\n")
    assert audited.stderr == plain.stderr
    if "run(" not in program and "spawn" not in program:
        assert not path.exists()
        return
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each["seq"] for each in events] == list(range(1, len(events) + 1))
    assert (events[-1]["event"], events[-1]["dropped"]) == ("process.end", 0)
    cancels = [each for each in events if each["event"] == "task.cancel"]
    assert len(cancels) == 5 * program.count("(main()")
    assert {each["source"] for each in cancels} == {"__main__:main"}
    assert {each["thread"] for each in cancels} == {"MainThread"}
