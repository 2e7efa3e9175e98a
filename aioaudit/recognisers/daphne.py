"""daphne's calls of ``cancel()``: applications that outlive their connection, or the server (4.1 to 4.2)."""

from __future__ import annotations

from types import FrameType

from aioaudit.addresses import both
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause


def outlived(frame: FrameType, call: Call) -> Cause | None:
    """``Server.application_checker``, which a timer calls: the connection is closed, the time is over."""
    if call.victim is not local(frame, "application_instance"):
        return None
    seconds = local(frame, "self").application_close_timeout
    detail = f"the application had {seconds:g} s to end by itself"
    # Whether the response of a request was sent, or an error in its place; a websocket does not say.
    protocol = local(frame, "protocol")
    finished = getattr(protocol, "finished", None)
    reason = "disconnect" if finished == 0 else "daphne.disconnected"
    connection = both(
        getattr(protocol, "server_addr", None), getattr(protocol, "client_addr", None)
    )
    return call.by_caller(reason, frame, detail, current_task_unrelated=True, connection=connection)


def server_ended(frame: FrameType, call: Call) -> Cause:
    """``Server.kill_all_applications``: the reactor ends."""
    return call.by_caller("daphne.shutdown", frame, current_task_unrelated=True)


CALL_SITES = {
    ("daphne.server", "Server.application_checker"): outlived,
    ("daphne.server", "Server.kill_all_applications"): server_ended,
}
"""Call sites by module and qualified name."""
