"""asgiref's calls of ``cancel()``: its own timeout, and the end of a loop (asgiref 3.8 to 3.13).

`sync_to_async` cancels what runs inside its thread while it handles its own
cancellation, which is told as such without any help.
"""

from __future__ import annotations

from types import FrameType

from aioaudit.cpython.internals import Internal
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.stdlib import shutdown
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause


def timed_out(frame: FrameType, call: Call) -> Cause:
    """``timeout._cancel_task``: the time is up; nothing says where it was entered."""
    return call.by_deadline(
        "timeout",
        local(frame, "self")._timeout,
        (None, None),
        taken_back=True,
        current_task_unrelated=True,
    )


_END = ("asgiref.sync", "AsyncToSync._run_event_loop")

CALL_SITES = {("asgiref.timeout", "timeout._cancel_task"): timed_out, _END: shutdown}
"""Call sites by module and qualified name; the second does what ``asyncio.run`` does at its end."""

VERSIONS = {_END: "<3.9"}
"""The versions that have a call site, where not all do: later ones call ``asyncio.run``."""

INTERNALS = (
    Internal(
        "_timeout",
        "asgiref.timeout:timeout",
        "the seconds of a timeout",
        "the seconds of asgiref's own timeout",
    ),
)
"""The attributes that are read here, which the library promises nobody."""
