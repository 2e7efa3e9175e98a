"""What is in this folder starts no process: it can be waited for at each change."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

STARTS = (
    *("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.spawn"),
    *("os.system", "os.startfile"),
)
"""Events that the interpreter raises where a process begins (PEP 578)."""

_not_heard: dict[str, object] = dict.fromkeys(STARTS, ())

# A hook stays for good, and is called by each `id()`, wherever that stands.  One in Python would be
# a frame of the application there, and the tests that ask where a loop is would find it.
sys.addaudithook(_not_heard.pop)


@pytest.fixture(autouse=True)
def _no_process_is_started() -> Iterator[None]:
    _not_heard.update(dict.fromkeys(STARTS, ()))
    yield
    heard = [each for each in STARTS if each not in _not_heard]
    if heard:
        said = f"the test started a process ({', '.join(heard)}): it belongs in tests/process"
        pytest.fail(said, pytrace=False)
