"""The ends of pytest-asyncio's loops: which test's, or which module's, it was (pytest-asyncio 1.1 to 1.5).

Each test, class, module or session has a loop of its own, which a fixture runs and ends.
"""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.recognisers.stdlib import loop_ended
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_FINISHES = "FixtureDef.finish"
_FAR = 20
"""So many frames further out pytest ends the fixture."""


def loop_of_test(frame: FrameType, call: Call) -> Cause:
    """``_scoped_runner``, the fixture: what it was made for is over."""
    return loop_ended(frame, call, _scope_of(frame.f_back))


def _scope_of(frame: FrameType | None) -> str:
    """What pytest ends the fixture for, in words; *frame* is the one that ends the fixture."""
    for _ in range(_FAR):
        if frame is None:
            break
        if frame.f_code.co_qualname == _FINISHES:
            request = local(frame, "request")
            name = request.node.nodeid or "all tests"
            return f"the loop that pytest-asyncio had for {name}"
        frame = frame.f_back
    return "a loop of pytest-asyncio"


CALL_SITES: dict[tuple[str, str], object] = {}
"""It calls no ``cancel()`` itself."""

LOOP_ENDS = {
    ("pytest_asyncio.plugin", "_create_scoped_runner_fixture.<locals>._scoped_runner"): loop_of_test
}
"""The function that ends a loop, by module and qualified name."""

PROBES = (("_pytest.fixtures", _FINISHES),)
"""What is read besides, of pytest."""
