"""Where OpenTelemetry keeps what is current, and who sent a request: no call of ``cancel()`` is explained.

The API has one context variable for all (``ContextVarsRuntimeContext`` in
opentelemetry/context/contextvars_context.py, 1.27 to 1.45), with which the context of any task tells
what is current in it.  ``get_current()`` tells it of who asks, and of nobody else.

What is current in a task that handles a request may be a span further in, which does not say
who sent the request.  The header ``traceparent`` does (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Any

from aioaudit.cpython.tasks import coro_of, fut_waiter
from aioaudit.stack.frames import awaited_chain, variables

MODULE = "opentelemetry.context"
"""The module that has it."""

_HEADER = "traceparent"
_FORM = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)
"""What the header holds; a later version than 00 may have more at its end."""

_REQUESTS = frozenset({"aiohttp.web_request", "sanic.request.types", "sanic.request"})
"""Modules of the requests whose headers are a mapping that regards no case."""

_MOST = 20
"""So many tasks, each awaited by the one before it, are looked at."""


def variable_of(module: Any) -> ContextVar[Any] | None:
    """The variable in which *module*, `MODULE`, keeps what is current.

    None where it keeps that in another way, as ``OTEL_PYTHON_CONTEXT`` may say.
    """
    runtime = getattr(module, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    own = type(runtime).__name__ == "ContextVarsRuntimeContext"
    return variable if own and type(variable) is ContextVar else None


def sent_by(task: Any) -> tuple[str, str] | None:
    """The trace and the span, of another process, that sent the request which *task* works for.

    As far as a frame of *task*, or of a task that it awaits, has the request: the scope of an ASGI
    server, or a request of aiohttp's or Sanic's server.
    """
    for _ in range(_MOST):
        for step in awaited_chain(coro_of(task)):
            frame = getattr(step, "cr_frame", None)
            found = None if frame is None else _sender(variables(frame))
            if found is not None:
                return found
        task = fut_waiter(task)
        if not hasattr(task, "get_coro"):
            return None
    return None


def _sender(values: Any) -> tuple[str, str] | None:
    scope, request = values.get("scope"), values.get("request")
    header: object = None
    if type(scope) is dict:
        header = _in_scope(scope.get("headers"))
    elif type(request).__module__ in _REQUESTS:
        header = request.headers.get(_HEADER)
    found = _FORM.fullmatch(header) if type(header) is str else None
    return None if found is None else (found[1], found[2])


def _in_scope(headers: object) -> str | None:
    if not isinstance(headers, list | tuple):
        return None
    for pair in headers:
        if isinstance(pair, list | tuple) and len(pair) == 2 and pair[0] == _HEADER.encode():
            return bytes(pair[1]).decode("latin-1")
    return None
