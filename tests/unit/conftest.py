"""What is in this folder starts no process: it can be waited for at each change."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

STARTS = {
    *("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.spawn"),
    *("os.system", "os.startfile"),
}
"""Events that the interpreter raises where a process begins (PEP 578)."""

_started: list[str] = []


def _hear(event: str, args: tuple[object, ...]) -> None:
    if event in STARTS:
        _started.append(f"{event} {args[0] if args else ''}".rstrip())


sys.addaudithook(_hear)


@pytest.fixture(autouse=True)
def _no_process_is_started() -> Iterator[None]:
    before = len(_started)
    yield
    if _started[before:]:
        what = ", ".join(_started[before:])
        said = f"the test started a process ({what}): it belongs in tests/process"
        pytest.fail(said, pytrace=False)
