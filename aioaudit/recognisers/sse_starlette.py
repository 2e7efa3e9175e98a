"""sse-starlette's calls of ``cancel()``: streams of events, and what ends them (2.1 to 3.7).

What is sent runs beside what waits for the client to leave, and for the server to end, in a
task group of anyio, and its scope is cancelled when the first of them is done.
"""

from __future__ import annotations

import functools
from types import FrameType
from typing import Any, cast

from aioaudit.addresses import Connection
from aioaudit.recognisers.call import Call
from aioaudit.recognisers.common import asked_by, has_ended
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

_METHODS = frozenset({"_stream_response", "_ping", "_listen_for_disconnect"})


def _given(function: Any) -> tuple[str, Any]:
    """Which method *function* calls, without its underscore, and of which response.

    It is a bound method or a lambda around one, until 2.1 a partial or a function of the class.
    """
    if isinstance(function, functools.partial):
        function = function.func
    name = str(function.__name__)
    response = getattr(function, "__self__", None)
    if name == "<lambda>":
        code = function.__code__
        name = next(each for each in code.co_names if each in _METHODS)
        response = function.__closure__[code.co_freevars.index("self")].cell_contents
    return name.lstrip("_"), response


def _connection(function: Any) -> Connection | None:
    """That of the client which *function*, a lambda, watches."""
    code = getattr(function, "__code__", None)
    if code is None or "receive" not in code.co_freevars:
        return None
    return asked_by(function.__closure__[code.co_freevars.index("receive")].cell_contents)


def first_done(frame: FrameType, call: Call) -> Cause | None:
    """``cancel_on_finish``, until 2.1 ``wrap``: the first of those that run beside each other returned."""
    if call.victim is not local(frame, "task_group").cancel_scope:
        return None  # what it awaits cancels something else
    function = local(frame, "coro") or local(frame, "func")
    name, response = _given(function)
    sent = name in ("stream_response", "ping")  # which ends after the stream
    if name == "listen_for_disconnect":
        if response is None:
            response = local(cast(FrameType, frame.f_back), "self")  # which awaits it
        sent = has_ended(response.body_iterator)
    if sent:
        reason, detail = "sse_starlette.done", "the stream was sent, its client need not be watched"
    elif name == "listen_for_disconnect":
        reason, detail = "disconnect", "before the whole stream was sent"
    elif name.startswith("listen_for_exit_signal"):
        reason, detail = "sse_starlette.shutdown", "the server ends"
    else:
        return None
    cause = call.by_caller(reason, frame, detail, current_task_unrelated=True)
    if reason == "disconnect":
        cause.connection = _connection(function)
    return cause


_SINCE = ("sse_starlette.sse", "EventSourceResponse.__call__.<locals>.cancel_on_finish")
_UNTIL = ("sse_starlette.sse", "EventSourceResponse.__call__.<locals>.wrap")

CALL_SITES = {_SINCE: first_done, _UNTIL: first_done}
"""Call sites by module and qualified name."""

VERSIONS = {_SINCE: ">=2.2", _UNTIL: "<2.2"}
"""The versions that have a call site."""
